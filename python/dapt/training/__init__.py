"""The training loop and what it trains; evaluation of runs, and comparisons of several runs."""
