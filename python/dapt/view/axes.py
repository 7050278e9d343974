"""The axes of charts: how numbers are formatted, and where ticks are."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Format = Callable[[float], str]


def plain_number(value: float) -> str:
    """Format a number in few characters: 1234567 -> 1.23 M.

    Args:
        value: Any number.
    """
    for size, suffix in ((1e9, " G"), (1e6, " M"), (1e4, " k")):
        if abs(value) >= size:
            return f"{value / (1e3 if suffix == ' k' else size):.3g}{suffix}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def percent(value: float) -> str:
    """Format a share as a percentage.

    Args:
        value: The share, from 0 to 1.
    """
    return f"{100 * value:.3g} %"


@dataclass(frozen=True)
class Axis:
    """One direction of a chart.

    Args:
        title: What it measures, with the unit.
        low: Its low end; by default that of the data.
        high: Its high end; by default that of the data.
        log: Whether it is logarithmic.
        format: Formats the label of a tick.
        ticks: The positions of ticks; by default round numbers.
    """

    title: str = ""
    low: float | None = None
    high: float | None = None
    log: bool = False
    format: Format = plain_number
    ticks: Sequence[float] | None = None

    def over(self, values: Sequence[float], margin: float) -> "Scale":
        """Create a scale that contains some values, with a margin at both ends.

        Args:
            values: The values to show.
            margin: The margin at each end, as a share of their range.
        """
        known = [value for value in values if math.isfinite(value)]
        low = min(known, default=0.0) if self.low is None else self.low
        high = max(known, default=1.0) if self.high is None else self.high
        if self.log:
            low, high = max(low, 1e-12), max(high, 1e-12)
            factor = (high / low) ** margin if high > low else 2.0
            low = low / factor if self.low is None else low
            high = high * factor if self.high is None else high
        else:
            space = margin * (high - low)
            if margin and not space:
                space = abs(high) * 0.1 or 1.0
            low = low - space if self.low is None else low
            high = high + space if self.high is None else high
        if not high > low:
            high = low + 1.0
        return Scale(low, high, self.log)


@dataclass(frozen=True)
class Scale:
    """Maps values to positions along an axis.

    Args:
        low: Its low end.
        high: Its high end.
        log: Whether it is logarithmic.
    """

    low: float
    high: float
    log: bool

    def share(self, value: float) -> float:
        """The position of a value: 0 at the low end, 1 at the high end.

        Args:
            value: The value.
        """
        if self.log:
            value = max(value, 1e-12)
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def ticks(self, most: int) -> list[float]:
        """Round numbers along the scale.

        Args:
            most: The approximate number of ticks.
        """
        if not self.log:
            step = _round_step((self.high - self.low) / most)
            first = math.ceil(self.low / step - 1e-9)
            return [i * step for i in range(first, math.floor(self.high / step + 1e-9) + 1)]
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for steps in ((1,), (1, 3), (1, 2, 5)):
            found = [s * 10.0**p for p in powers for s in steps]
            found = [tick for tick in found if self.low <= tick <= self.high]
            if len(found) >= 3:
                break
        return found[:: -(-len(found) // most)] if len(found) > most else found


def _round_step(rough: float) -> float:
    size = 10.0 ** math.floor(math.log10(rough))
    return next(step * size for step in (1, 2, 2.5, 5, 10) if step * size >= rough * (1 - 1e-9))
