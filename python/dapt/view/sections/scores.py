"""The scores of the methods and what they cost."""

from dapt.view.axes import Axis, percent, plain_number
from dapt.view.drawings import bars
from dapt.view.findings import COUNTED_BATCH, Findings
from dapt.view.page import text
from dapt.view.sections.parts import (
    Section,
    conditions,
    curves,
    figure,
    grid,
    paragraph,
    titled,
    words,
)
from dapt.view.svg import Chart, Dot, Line
from dapt.view.tables import Column, Table

MIB = 2**20


def _summary(findings: Findings) -> Section:
    """The methods in one table."""
    table = summary_table(findings)
    kept = "Best values are bold. "
    if any(len(group.complete) > 1 for group in findings.groups):
        kept += "The value after ± is the standard deviation over seeds. "
    kept += (
        "Kept and peak memory are those of a training step; the time is that of the fastest run."
    )
    unfinished = [g.name for g in findings.groups if len(g.complete) < len(g.records)]
    if unfinished:
        kept += f" Not all runs are complete: {', '.join(unfinished)}."
    notes = "".join(f'<p class="note">{text(note)}</p>' for note in findings.notes)
    return Section("summary", "Summary", table.html() + paragraph(kept) + notes, [table])


def summary_table(findings: Findings) -> Table:
    """One row per method: scores and costs.

    Args:
        findings: The findings of the runs.
    """
    metric, validation = findings.metric, f"validation_{findings.metric}"
    columns = [
        Column("method"),
        Column(words(metric), "percent", "high"),
        Column("validation", "percent", "high"),
        Column("trained", "count", "low"),
        Column("share of all", "percent", "low", digits=2),
        Column("kept for backward", "number", "low", "MiB"),
        Column("peak memory", "number", "low", "MiB", 0),
        Column("a step", "number", "low", "ms", 0),
        Column("best epoch", "text"),
        Column("runs", "count"),
    ]
    rows = []
    for group in findings.groups:
        trained, total = group.cost("trainable_parameters"), group.cost("total_parameters")
        best = [r.result["best_epoch"] + 1 for r in group.complete if "best_epoch" in r.result]
        rows.append(
            [
                group.name,
                _with_spread(group.mean(metric), group.spread(metric)),
                _with_spread(group.mean(validation), group.spread(validation)),
                trained,
                trained / total if trained and total else None,
                _scaled(group.cost("saved_activation_bytes"), 1 / MIB),
                _scaled(group.cost("peak_memory_bytes"), 1 / MIB),
                _scaled(group.cost("seconds_per_step"), 1e3),
                "–" if not best else ", ".join(map(str, best)),
                len(group.complete),
            ]
        )
    keep = [
        i for i in range(len(columns)) if i == 0 or any(row[i] not in (None, "–") for row in rows)
    ]
    shown = [[row[i] for i in keep] for row in rows]
    return Table("summary", conditions(findings), [columns[i] for i in keep], shown)


def _with_spread(value: float | None, spread: float | None):
    return value if value is None or spread is None else (value, spread)


def _scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def _learning(findings: Findings) -> Section | None:
    """Curves of the loss and of the scores, epoch by epoch."""
    metric = findings.metric
    kinds = [
        ("train_loss", "Training loss", plain_number),
        (f"validation_{metric}", f"Validation {words(metric)}", percent),
        (f"test_{metric}", f"Test {words(metric)}", percent),
        ("validation_loss", "Validation loss", plain_number),
        ("probe_accuracy", "Linear probe's accuracy", percent),
        ("learning_rate", "Learning rate", plain_number),
    ]
    figures = []
    for key, title, write in kinds:
        lines = []
        for group in findings.groups:
            curve = group.curve(key)
            if curve:
                band = [(e, low, high) for e, _, low, high in curve if high > low]
                points = [(e, mean) for e, mean, _, _ in curve]
                lines.append(Line(group.name, points, findings.series(group), band=band))
        if lines:
            figures.append(curves(title, Axis("epoch"), Axis(format=write), lines))
    if not figures:
        return None
    several = any(len(group.records) > 1 for group in findings.groups)
    said = "Lines are means over seeds; bands show the range." if several else ""
    return Section("learning", "Learning curves", grid(figures) + paragraph(said))


def _trade_off(findings: Findings) -> Section | None:
    """Scores of several methods against trained parameters."""
    dots = []
    for group in findings.groups:
        score, trained = group.mean(findings.metric), group.cost("trainable_parameters")
        if score is not None and trained:
            note = f"{group.name}: {percent(score)}, {trained:,} trained"
            spread = group.spread(findings.metric) or 0.0
            dots.append(Dot(group.name, trained, score, spread, findings.series(group), note))
    if len(dots) < 2:
        return None
    chart = Chart(
        f"{words(findings.metric)} against trained parameters",
        Axis("trained parameters", log=True),
        Axis(words(findings.metric), format=percent),
        width=720,
        height=380,
        dots=dots,
    )
    caption = "Up and to the left is better: a higher score from fewer trained parameters."
    return Section("trade-off", "Score and size", figure(chart.svg(), caption, "wide"))


def _costs(findings: Findings) -> Section | None:
    """Memory and time, and the paper's comparison of memory."""
    figures = []
    for key, factor, unit, title in (
        ("saved_activation_bytes", 1 / MIB, "MiB", "Kept for the backward of a training step"),
        ("peak_memory_bytes", 1 / MIB, "MiB", "Peak memory of the process that trained"),
        ("seconds_per_step", 1e3, "ms", "A training step"),
    ):
        rows = [
            (group.name, group.cost(key) * factor, findings.series(group), "")
            for group in findings.groups
            if group.cost(key) is not None
        ]
        if rows:
            figures.append(titled(bars(title, rows, unit), title))
    if findings.memory:
        names = {group.name: findings.series(group) for group in findings.groups}
        rows = [
            (name, size / MIB, names.get(name, 9), "" if trained else "not trained here")
            for name, size, trained in sorted(findings.memory, key=lambda row: -row[1])
        ]
        title = f"Kept for the backward of one batch of {COUNTED_BATCH} clouds"
        figures.append(titled(bars(title, rows, "MiB"), f"{title}, side by side"))
    return Section("costs", "Memory and time", grid(figures)) if figures else None


WRITERS = (_summary, _learning, _trade_off, _costs)
