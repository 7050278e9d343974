"""Labels in user files: integers or names, some of which may be ignored."""

from collections.abc import Sequence

import numpy as np

from dapt.errors import DataError, listed

IGNORED = -100  # marks points excluded from losses and scores, as in torch
SPARE_LABELS = 100  # number of classes without a sample that is still taken as intended


def as_numbers(labels: np.ndarray, what: str) -> np.ndarray:
    """Convert integers, possibly saved as floats, to int64.

    Args:
        labels: Labels of any shape.
        what: Their name in errors, such as "labels of a.npz".
    """
    if labels.dtype.kind in "iub":
        if labels.dtype.kind == "u" and labels.max(initial=0) > np.iinfo(np.int64).max:
            raise DataError(f"{what} must be at most 2^63 - 1, got {labels.max()}")
        return labels.astype(np.int64)
    if labels.dtype.kind == "f":
        whole = np.isfinite(labels) & (labels == np.rint(labels)) & (np.abs(labels) < 2**53)
        if whole.all():
            return labels.astype(np.int64)
        bad = labels[~whole].flat[0]
        raise DataError(f"{what} must be whole numbers, got {bad}")
    raise DataError(f"{what} must be whole numbers or names, got {labels.dtype}")


def as_names(names: np.ndarray) -> list[str]:
    """Convert names to strings.

    Args:
        names: An array of strings or bytes.
    """
    return [
        name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)
        for name in np.ravel(names)
    ]


def check_distinct(what: str, names: Sequence[str]) -> None:
    """Check that all names differ, because predictions are reported by name.

    Args:
        what: Their name in errors, such as "class_names".
        names: The names.
    """
    seen = set()
    for name in names:
        if name in seen:
            raise DataError(f"{what} must differ, but {name!r:.60} occurs twice")
        seen.add(name)


def is_named(labels: np.ndarray) -> bool:
    """Whether labels are names instead of numbers.

    Args:
        labels: [N].
    """
    return labels.dtype.kind in "US"


def numbered(labels: np.ndarray, class_names: Sequence[str], what: str) -> np.ndarray:
    """Find the index of each label among the class names.

    Args:
        labels: Names [S].
        class_names: All names that may occur.
        what: The name of the labels in errors.
    """
    place = {name: number for number, name in enumerate(class_names)}
    names = as_names(labels)
    for name in names:
        if name not in place:
            raise DataError(f"{what} hold {name!r}, and the classes are {listed(class_names)}")
    return np.array([place[name] for name in names], np.int64)


def count_labels(labels: np.ndarray, what: str) -> int:
    """Count the classes of labels that are numbered from 0.

    Args:
        labels: The labels, without ignored ones.
        what: The name of the labels in errors.
    """
    count, distinct = int(labels.max(initial=-1)) + 1, len(np.unique(labels))
    if count > SPARE_LABELS + 10 * distinct:
        raise DataError(
            f"{what} go up to {count - 1}, though only {distinct} different ones occur: number "
            f"them from 0 on, or set ignore_label={count - 1} if that one means none"
        )
    return count
