"""The colors of pictures, charts and pages."""

import numpy as np

# Equally spaced stops. Each map runs from dark to light and is legible on both light and dark
# backgrounds; `scale` begins in gray, which means "unchanged".
MAPS = {
    "height": ["#2a3f7e", "#2d6a96", "#2f918f", "#58b27c", "#a5cd6a", "#f0dd6c"],
    "scale": ["#8d909b", "#7f6aa8", "#b0559c", "#dc5a78", "#f2844f", "#f9b53c", "#fbdf6b"],
    "confidence": ["#b4341c", "#dd7a4b", "#e2b77d", "#a9bfa0", "#5da597", "#0b7a74"],
    "plain": ["#35507f", "#4a7ba0", "#6fa5ab", "#a0c7ae", "#d8e3b4"],
}
SERIES = ("#0b6e69", "#c2410c", "#4f46b8", "#a21360", "#4d7c0f", "#0369a1", "#92600a", "#7e3aa8")
INK, SOFT, LINE = "#16181d", "#555861", "#e4e3de"
FONTS = {"font.family": "sans-serif"}
UNLABELED = "#9a9ca3"
RIGHT, WRONG = "#2a9d8f", "#d1495b"


def ramp(name: str, values: np.ndarray) -> np.ndarray:
    """Map values to colors, uint8 [..., 3].

    Args:
        name: A name in `MAPS`.
        values: Values from 0 to 1 [...].
    """
    stops = np.array([_rgb(stop) for stop in MAPS[name]], np.float64)  # [stops, 3]
    at = np.clip(np.nan_to_num(values), 0, 1) * (len(stops) - 1)
    left = np.minimum(at.astype(np.int64), len(stops) - 2)
    share = (at - left)[..., None]
    mixed = stops[left] * (1 - share) + stops[left + 1] * share
    return mixed.round().astype(np.uint8)


def hex_of(color: np.ndarray) -> str:
    """Format a color for CSS.

    Args:
        color: Red, green and blue from 0 to 255 [3].
    """
    return "#" + "".join(f"{int(channel):02x}" for channel in color)


def _rgb(text: str) -> list[int]:
    return [int(text[at : at + 2], 16) for at in (1, 3, 5)]
