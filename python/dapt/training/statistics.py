"""Test whether one method is better than another: paired bootstrap over seeds and clouds, Holm's
correction for several methods, and Friedman's and Nemenyi's tests of ranks over several datasets.

Vocabulary: R seeds, S test clouds, M methods, D datasets.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

DRAWS = 10_000
LEVEL = 0.05  # significance level
_PART = 500  # draws per chunk

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Difference:
    """The difference between a method and the reference.

    Args:
        mean: The mean over the same seeds and clouds; above 0 if the method is better.
        low: The lower end of the 95 % confidence interval.
        high: The upper end.
        p: The p value of no difference, from the same bootstrap, two-sided.
        p_holm: The p value, corrected for the number of methods.
    """

    mean: float
    low: float
    high: float
    p: float
    p_holm: float

    @property
    def is_significant(self) -> bool:
        """Whether it is significant at 5 %, corrected for the number of methods in the table."""
        return self.p_holm < LEVEL

    @property
    def in_words(self) -> str:
        """The difference in percentage points, with its interval; an asterisk if significant."""
        mark = " *" if self.is_significant else ""
        mean, low, high = (100 * value for value in (self.mean, self.low, self.high))
        return f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]{mark}"


def bootstrap_means(differences: Floats, draws: int = DRAWS, seed: int = 0) -> Floats:
    """Means of `draws` samples of a table, drawn with replacement from its rows and columns.

    All seeds in a draw share the same clouds, because every seed is tested on the same clouds.

    Args:
        differences: [..., R, S].
        draws: The number of draws.
        seed: The seed of the draws, which are the same for all tables.
    """
    rows, columns = differences.shape[-2:]
    rng = np.random.default_rng(seed)
    means = []
    for start in range(0, draws, _PART):
        count = min(_PART, draws - start)
        of_rows = rng.multinomial(rows, np.full(rows, 1 / rows), count) / rows  # [count, R]
        of_columns = rng.multinomial(columns, np.full(columns, 1 / columns), count) / columns
        means.append(((of_rows @ differences) * of_columns).sum(-1))
    return np.concatenate(means, -1)  # [..., draws]


def differences(
    scores: Mapping[str, Floats], reference: str, draws: int = DRAWS, seed: int = 0
) -> dict[str, Difference]:
    """Compare each method with one of them, on the same seeds and test clouds.

    Args:
        scores: By method, [R, S] each: one number per seed and cloud, 1 if correct.
        reference: The method that the others are compared with.
        draws: The number of draws of the bootstrap.
        seed: The seed of the draws.
    """
    others = [method for method in scores if method != reference]
    if not others:
        return {}
    base = np.asarray(scores[reference], float)
    pairs = np.stack([np.asarray(scores[method], float) - base for method in others])  # [M, R, S]
    means = bootstrap_means(pairs, draws, seed)  # [M, draws]
    low, high = np.quantile(means, [LEVEL / 2, 1 - LEVEL / 2], axis=1)
    # count one extra draw without an effect, so that no p value is 0
    sides = [(1 + side.sum(1)) / (1 + draws) for side in (means <= 0, means >= 0)]
    p = np.minimum(2 * np.minimum(*sides), 1.0).tolist()
    columns = pairs.mean((1, 2)).tolist(), low.tolist(), high.tolist(), p, holm(p)
    return dict(zip(others, map(Difference, *columns), strict=True))


def holm(values: Sequence[float]) -> list[float]:
    """Correct p values for their number with Holm's method.

    Args:
        values: The p values, in any order; the result has the same order.
    """
    corrected, largest = [0.0] * len(values), 0.0
    for rank, i in enumerate(np.argsort(values, kind="stable").tolist()):
        largest = max(largest, min(1.0, (len(values) - rank) * values[i]))
        corrected[i] = float(largest)
    return corrected


@dataclass(frozen=True)
class Ranks:
    """Methods ranked by their mean rank over several datasets.

    Args:
        mean: The mean rank of each method, best first; 1 is the best rank.
        statistic: Friedman's statistic, distributed as chi square.
        p: The p value of no difference between the methods.
        critical: Nemenyi's critical difference of mean ranks, at 5 %.
        datasets: D.
    """

    mean: dict[str, float]
    statistic: float
    p: float
    critical: float
    datasets: int


def ranks(scores: Mapping[str, Sequence[float]]) -> Ranks:
    """Friedman's test of methods on the same datasets, and Nemenyi's critical difference.

    Args:
        scores: By method, one score per dataset, in the same order; higher is better.
    """
    table = np.array([list(values) for values in scores.values()], float).T  # [D, M]
    sets, methods = table.shape
    better = (table[:, :, None] < table[:, None]).sum(2)
    ties = (table[:, :, None] == table[:, None]).sum(2)
    places = better + (ties + 1) / 2  # [D, M]: ties share the mean of their places
    mean = places.mean(0)
    # corrected for ties; if all ranks are equal there is no evidence
    spread = ((places - (methods + 1) / 2) ** 2).sum() / (methods - 1)
    squares = ((mean - (methods + 1) / 2) ** 2).sum() * sets**2
    statistic = float(squares / spread) if spread else 0.0
    half = torch.tensor([(methods - 1) / 2, statistic / 2], dtype=torch.float64)
    critical = studentized_range(methods) * np.sqrt(methods * (methods + 1) / (12 * sets))
    order = np.argsort(mean, kind="stable")
    names = list(scores)
    return Ranks(
        mean={names[i]: float(mean[i]) for i in order},
        statistic=statistic,
        p=float(torch.special.gammaincc(*half)),
        critical=float(critical),
        datasets=sets,
    )


def studentized_range(methods: int, level: float = LEVEL) -> float:
    """The value that the range of M standard normal numbers exceeds with probability `level`.

    Args:
        methods: M.
        level: The probability.
    """
    z = torch.linspace(-9, 9, 20_001, dtype=torch.float64)
    density = torch.exp(-z.square() / 2) / (2 * torch.pi) ** 0.5
    below = torch.special.ndtr(z)
    low, high = 0.0, 20.0
    while high - low > 1e-9:
        middle = (low + high) / 2
        inside = (below - torch.special.ndtr(z - middle)) ** (methods - 1)
        chance = methods * torch.trapezoid(density * inside, z)
        low, high = (middle, high) if chance < 1 - level else (low, middle)
    return low
