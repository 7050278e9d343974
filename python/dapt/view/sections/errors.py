"""The errors of the methods: by class, between classes, and on corrupted clouds."""

from collections.abc import Sequence
from statistics import fmean

import numpy as np

from dapt.view.axes import Axis, percent, plain_number
from dapt.view.drawings import heatmap
from dapt.view.findings import Findings
from dapt.view.page import text
from dapt.view.sections.parts import (
    Section,
    conditions,
    curves,
    figure,
    grid,
    paragraph,
    with_evidence,
    words,
)
from dapt.view.svg import Line
from dapt.view.tables import Column, Table

MOST_NAMED = 40  # largest number of classes in a confusion matrix


def _classes(findings: Findings) -> Section | None:
    """The score of each class, by method."""
    scored = [g for g in findings.groups if g.complete and g.complete[0].result.get("per_class")]
    if not scored:
        return None
    first = scored[0].complete[0].result["per_class"]
    key = next((k for k in ("iou", "miou", "accuracy") if k in first[0]), None)
    count = next((k for k in ("samples", "points") if k in first[0]), None)
    if key is None:
        return None
    columns = [Column("class")] + ([Column(count, "count")] if count else [])
    columns += [Column(group.name, "percent", "high") for group in scored]
    rows = []
    for i, row in enumerate(first):
        cells = [row["class"]] + ([row[count]] if count else [])
        for group in scored:
            values = [
                record.result["per_class"][i][key]
                for record in group.complete
                if len(record.result.get("per_class", ())) == len(first)
                and record.result["per_class"][i].get(key) is not None
            ]
            cells.append(float(np.mean(values)) if values else None)
        rows.append(cells)
    title = {"iou": "IoU", "miou": "mIoU"}.get(key, "accuracy")
    caption = f"{title} by class: {conditions(findings)}"
    table = Table("classes", caption, columns, rows, compare_rows=True)
    drawn = range(len(columns) - len(scored), len(columns)) if len(scored) <= 4 else ()
    body = f"<p>{text(title.capitalize() if title == 'accuracy' else title)} of each class. "
    body += f"A heading sorts by its column.</p>{table.html(drawn)}"
    return Section("classes", "Class by class", body, [table])


def _confusion(findings: Findings) -> Section | None:
    """Which classes are confused."""
    names = findings.class_names
    if not findings.evidence or not 2 <= len(names) <= MOST_NAMED:
        return None
    what = "points" if findings.is_of_points else "clouds"
    panels = []
    for group in with_evidence(findings):
        counts = findings.evidence[group.name].confusion.tolist()
        if len(counts) != len(names):
            continue
        drawn = heatmap(f"Confusion matrix of {group.name}", names, counts)
        panels.append((group.name, figure(drawn, _confused(names, counts), "wide")))
    body = (
        f"<p>{text(_looked_at(findings))} Rows are the truth; cells count {what}, and are shaded "
    )
    body += f"by their share of the row.</p>{_tabs('confusion', panels)}"
    return Section("confusion", "Confusion", body)


def _looked_at(findings: Findings) -> str:
    """How much of the split was evaluated, in words."""
    some = f"{findings.samples:,}"
    if findings.samples < findings.of_samples:
        some += f" of {findings.of_samples:,}"
    return f"{some} samples of the {findings.split} split."


def _tabs(key: str, panels: Sequence[tuple[str, str]]) -> str:
    """Panels of which the page shows one at a time, and print shows all."""
    if len(panels) < 2:
        return "".join(body for _, body in panels)
    inner = "".join(
        f'<section data-tab="{text(name)}"><h3>{text(name)}</h3>{body}</section>'
        for name, body in panels
    )
    return f'<div class="tabs" id="tabs-{key}">{inner}</div>'


def _confused(names: Sequence[str], counts: Sequence[Sequence[int]]) -> str:
    """The most frequent confusions, in words."""
    pairs = [
        (count, names[i], names[j])
        for i, row in enumerate(counts)
        for j, count in enumerate(row)
        if i != j and count
    ]
    worst = sorted(pairs, key=lambda pair: -pair[0])[:3]
    if not worst:
        return "Nothing is confused."
    told = [f"{a} for {b} ({plain_number(count)})" for count, a, b in worst]
    return f"Most frequent confusions: {', '.join(told)}."


def _corrupted(findings: Findings) -> Section | None:
    """Curves of the score over the severity of corruptions."""
    lines: dict[str, list[Line]] = {}
    for group in findings.groups:
        runs = [record.folder.read_corruptions() for record in group.records]
        runs = [curves for curves in runs if curves]
        for kind in runs[0] if runs else ():
            values = list(zip(*(curves[kind] for curves in runs if kind in curves), strict=True))
            points = [(severity, fmean(each)) for severity, each in enumerate(values)]
            band = [(i, min(v), max(v)) for i, v in enumerate(values) if max(v) > min(v)]
            line = Line(group.name, points, findings.series(group), band=band)
            lines.setdefault(kind, []).append(line)
    if not lines:
        return None
    axes, metric = (Axis("severity"), Axis(format=percent)), words(findings.metric)
    figures = [curves(f"{metric}, {kind}", *axes, drawn) for kind, drawn in lines.items()]
    said = paragraph("Severity 0 is the clean clouds; bands show the range over seeds.")
    return Section("corrupted", "Corrupted clouds", grid(figures) + said)


WRITERS = (_classes, _confusion, _corrupted)
