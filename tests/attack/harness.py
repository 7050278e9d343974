"""What every attack has: a name, a budget, and a tally of its outcomes."""

import importlib
import pkgutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np


@dataclass
class Budget:
    """How long an attack runs: for a number of cases at least, and until its time is over.

    Args:
        cases: The minimum number of cases.
        seconds: The time after which no case beyond that number is started.
        seed: The seed of the attack's random numbers.
    """

    cases: int
    seconds: float = 0.0
    seed: int = 0
    begun: float = field(default_factory=time.monotonic)

    def numbers(self) -> Iterator[tuple[int, np.random.Generator]]:
        """Yields (number of the case, its random generator) for as long as the budget lasts."""
        case = 0
        while case < self.cases or time.monotonic() - self.begun < self.seconds:
            yield case, np.random.default_rng([self.seed, case])
            case += 1


@dataclass
class Tally:
    """The outcomes of an attack's cases.

    Args:
        outcomes: The number of cases for each outcome: "read", "refused", "resumed" and so on.
        failures: One sentence per broken promise, with how to reproduce it.
    """

    outcomes: Counter = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    def add(self, outcome: str) -> None:
        self.outcomes[outcome] += 1

    def fail(self, sentence: str) -> None:
        self.outcomes["broken"] += 1
        self.failures.append(sentence)

    @property
    def cases(self) -> int:
        return self.outcomes.total()


Attack = Callable[[Budget], Tally]
ATTACKS: dict[str, tuple[Attack, int]] = {}


def attack(name: str, small: int) -> Callable[[Attack], Attack]:
    """Registers an attack.

    Args:
        name: The name in the table of results.
        small: The number of cases in `make test`, which take a second or two.
    """

    def add(run: Attack) -> Attack:
        assert name not in ATTACKS, name
        ATTACKS[name] = run, small
        return run

    return add


def gather() -> dict[str, tuple[Attack, int]]:
    """All attacks by name; importing the files of the folder registers them."""
    package = importlib.import_module("attack")
    for module in sorted(module.name for module in pkgutil.iter_modules(package.__path__)):
        if not module.startswith("test_"):
            importlib.import_module(f"attack.{module}")
    return ATTACKS
