"""Turn subjects and a model's view of them into the clouds of a page."""

from collections.abc import Mapping, Sequence

import numpy as np

from dapt.inference.labeling import palette
from dapt.view.clouds import Channel, Classes, Cloud, Colors, Facts, Normals, Tokens, Values
from dapt.view.insight import Insight
from dapt.view.style import RIGHT, UNLABELED, WRONG, hex_of
from dapt.view.subjects import Subject

PROBABLE = 5  # number of classes listed with their probability
Names = dict[str, list[tuple[str, str]]]
OUTCOME = [("right", RIGHT), ("wrong", WRONG), ("no label", UNLABELED)]


class Portrayal:
    """Turns subjects and insights into the clouds of one page, and collects its tables of names.

    Args:
        label_names: The names of the model's labels, in order.
        max_points: Larger clouds are reduced at random to this number of points.
    """

    def __init__(self, label_names: Sequence[str] = (), max_points: int = 500_000):
        self.max_points = max_points
        self._labels = list(label_names)
        self._extra: dict[str, int] = {}  # labels that occur only in files

    def names(self) -> Names:
        """The tables of names and colors that the channels refer to."""
        entries = [*self._labels, *self._extra]
        colors = [hex_of(color) for color in palette(len(entries))]
        table = list(zip(entries, colors, strict=True))
        return {"labels": [("unlabeled", UNLABELED), *table], "outcome": OUTCOME}

    def cloud(self, subject: Subject, insight: Insight | None = None) -> Cloud:
        """Turn a subject into a cloud of the page.

        Args:
            subject: The subject.
            insight: A model's view of it, if there is one.
        """
        keep = slice(None)
        if len(subject.points) > self.max_points:
            order = np.random.default_rng(0).permutation(len(subject.points))
            keep = np.sort(order[: self.max_points])
        channels = self._of_file(subject, keep)
        lines, verdict, probabilities = [], None, ()
        if insight is not None:
            channels = [*self._of_insight(subject, insight, keep), *channels]
            probabilities = self._probable(insight)
        if subject.truth is not None:
            lines.append(("class", subject.truth))
            if probabilities:
                verdict = "right" if probabilities[0][0] == subject.truth else "wrong"
        if len(subject.points) > self.max_points:
            lines.append(("in the file", f"{len(subject.points):,} points"))
        outcome = self._outcome(subject, insight)
        if outcome is not None:
            share = (outcome == 0).sum() / max((outcome < 2).sum(), 1)
            lines.append(("points right", f"{100 * share:.1f} %"))
        first = _first(channels)
        facts = Facts(lines, probabilities, verdict)
        return Cloud(subject.name, subject.points[keep], channels, subject.up, facts, first)

    def _probable(self, insight: Insight) -> list[tuple[str, float]]:
        if insight.probabilities is None:
            return []
        best = np.argsort(-insight.probabilities, kind="stable")[:PROBABLE]
        return [(self._labels[i], round(float(insight.probabilities[i]), 4)) for i in best]

    def _of_file(self, subject: Subject, keep) -> list[Channel]:
        told, channels = subject.attributes, []
        if told.colors is not None:
            channels.append(Colors("rgb", "Color", told.colors[keep], note="As in the file."))
        if told.labels is not None:
            numbers = self._numbered(told.labels[keep], told.label_names)
            channels.append(Classes("label", "Label", numbers, "labels"))
        if told.normals is not None:
            note = "Red, green and blue are right, up and toward you."
            channels.append(Normals("normals", "Normals", told.normals[keep], note=note))
        for i, (name, values) in enumerate(told.values.items()):
            channels.append(Values(f"value{i}", name.capitalize(), values[keep]))
        return channels

    def _of_insight(self, subject: Subject, insight: Insight, keep) -> list[Channel]:
        channels = []
        if insight.labels is not None:
            channels.append(Classes("predicted", "Predicted", 1 + insight.labels[keep], "labels"))
            confidence = Values(
                "confidence", "Confidence", insight.confidence[keep], "confidence", (0.0, 1.0), True
            )
            channels.append(confidence)
            outcome = self._outcome(subject, insight)
            if outcome is not None:
                channels.append(Classes("outcome", "Right or wrong", outcome[keep], "outcome"))
        if insight.scales is not None:
            note = "How much the dynamic adapter of a block adds at the patch around a point."
            scales = Tokens(
                "scale", "Adapter scale", insight.scales, insight.token[keep], note=note
            )
            channels.append(scales)
        if insight.attention is not None:
            note = "The share of its attention that the class token gives to the patch of a point."
            attention = insight.attention, insight.token[keep]
            channels.append(Tokens("attention", "Attention", *attention, "plain", note=note))
        return channels

    def _outcome(self, subject: Subject, insight: Insight | None) -> np.ndarray | None:
        """The index of each point in OUTCOME; None if the file has none of the model's labels."""
        labels = subject.attributes.labels
        if insight is None or insight.labels is None or labels is None:
            return None
        truth = self._numbered(labels, subject.attributes.label_names)
        known = (truth > 0) & (truth <= len(self._labels))
        wrong = (truth != 1 + insight.labels).astype(np.int64)
        return np.where(known, wrong, 2) if known.any() else None

    def _numbered(self, labels: np.ndarray, label_names: Mapping[int, str]) -> np.ndarray:
        """Indices in the table of labels; points without a label get the first one."""
        numbers = np.zeros(len(labels), np.int64)
        for label in np.unique(labels):
            if label >= 0:
                numbers[labels == label] = 1 + self._place(int(label), label_names)
        return numbers

    def _place(self, label: int, label_names: Mapping[int, str]) -> int:
        name = label_names.get(label)
        if name is None and label < len(self._labels):
            return label
        name = str(label) if name is None else name
        if name in self._labels:
            return self._labels.index(name)
        return len(self._labels) + self._extra.setdefault(name, len(self._extra))


def _first(channels: Sequence[Channel]) -> str | None:
    """The most informative of the available channels."""
    present = {channel.key for channel in channels}
    wanted = ("predicted", "scale", "rgb", "label")
    return next((key for key in wanted if key in present), None)
