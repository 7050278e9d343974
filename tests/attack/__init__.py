"""Attacks on `dapt`, for as long as one likes: `python tests/attack.py --minutes 10`."""
