"""The learning rate of each method in a comparison, chosen from one grid on the validation split.

Search runs have separate seeds, so that no table contains runs that were selected by their score.
Their scores on a test split are not read.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from dapt.errors import UsageError
from dapt.tasks import task_class
from dapt.training.launching import Run

FIRST_SEED = 1000  # of a search; tables use smaller seeds


@dataclass(frozen=True)
class Search:
    """A search for learning rates.

    Args:
        rates: The grid, the same for every method.
        seeds: Runs per method and rate.
    """

    rates: tuple[float, ...]
    seeds: int = 1

    def __post_init__(self):
        if len(set(self.rates)) < len(self.rates) or len(self.rates) < 2:
            grid = ",".join(f"{rate:g}" for rate in self.rates)
            raise UsageError(f"search must name two or more learning rates, each once, got {grid}")
        for rate in self.rates:
            if not 0 < rate < float("inf"):
                raise UsageError(f"search: a learning rate must be above 0, got {rate:g}")

    @classmethod
    def of(cls, text: str, seeds: int = 1) -> "Search":
        """Parse a search from the command line.

        Args:
            text: Rates, separated by commas.
            seeds: Runs per method and rate.
        """
        try:
            return cls(tuple(map(float, text.split(","))), seeds)
        except ValueError:
            raise UsageError(f"search must be numbers separated by commas, got {text!r}") from None


@dataclass(frozen=True)
class Choice:
    """The rates of one method with their scores, and the chosen rate.

    Args:
        scores: The mean validation score of each rate, in the order of the grid.
        rate: The best rate; among equal ones the smallest.
    """

    scores: dict[float, float]
    rate: float

    @property
    def is_at_edge(self) -> bool:
        """Whether a wider grid might contain a better rate."""
        return self.rate in (min(self.scores), max(self.scores))


def check(runs: Sequence[Run]) -> None:
    """Check that each of the runs has a validation split.

    Args:
        runs: The runs of the search.
    """
    for run in runs:
        if not run.settings.training.validation or run.settings.task.name == "few_shot":
            raise UsageError(
                f"search chooses by the validation split, and the runs of {run.method} have none: "
                "set validation to a share of the training data"
            )


def choose(runs: Sequence[Run], rates: Sequence[float]) -> dict[str, Choice]:
    """Choose the best rate of each method.

    Args:
        runs: The runs of the search, all complete.
        rates: The grid.
    """
    scores: dict[str, dict[float, list[float]]] = {}
    for run in runs:
        metric = f"validation_{task_class(run.settings.task.name).metric}"
        of_method = scores.setdefault(run.method, {rate: [] for rate in rates})
        of_method[run.settings.training.learning_rate].append(run.result()[metric])
    choices = {}
    for method, by_rate in scores.items():
        means = {rate: fmean(values) for rate, values in by_rate.items()}
        choices[method] = Choice(means, min(means, key=lambda rate: (-means[rate], rate)))
    return choices


def markdown(choices: dict[str, Choice], seeds: int) -> str:
    """The grid, the score of each rate, and the choice.

    Args:
        choices: The choices, by method.
        seeds: Runs per rate.
    """
    rates = list(next(iter(choices.values())).scores)
    lines = [("method", *(f"{rate:g}" for rate in rates), "chosen")]
    lines.append(("---", *["---:"] * (len(rates) + 1)))
    for method, choice in choices.items():
        chosen = f"{choice.rate:g}" + (", the edge" if choice.is_at_edge else "")
        lines.append((method, *(f"{choice.scores[rate]:.4f}" for rate in rates), chosen))
    table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    runs = "one run" if seeds == 1 else f"mean of {seeds} runs"
    return (
        f"Learning rates by validation score ({runs} each, with seeds from {FIRST_SEED} on, "
        f"which are not in the table above)\n\n{table}"
    )
