"""The sections of a report: what each of them says of the findings, as markup."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from dapt.runs.trees import dump, flatten
from dapt.view.evidence import BINS, Evidence, embedding
from dapt.view.findings import COUNTED_BATCH, Findings
from dapt.view.page import text
from dapt.view.records import Group
from dapt.view.svg import Axis, Chart, Dot, Line, bars, heatmap, percent, plain_number, scatter
from dapt.view.tables import Column, Table

MIB = 2**20
MOST_NAMED = 40  # classes, in a confusion matrix


@dataclass(frozen=True)
class Section:
    """A heading, what stands under it, and the tables that papers and READMEs take from it.

    Args:
        key: its place on the page.
        title: the heading.
        body: HTML under it.
        tables: those that the Markdown and LaTeX files take.
    """

    key: str
    title: str
    body: str
    tables: Sequence[Table] = ()


def all_sections(findings: Findings) -> list[Section]:
    """The sections that have something to say.

    Args:
        findings: of the runs.
    """
    writers: Sequence[Callable[[Findings], Section | None]] = (
        _summary,
        _learning,
        _trade_off,
        _costs,
        _classes,
        _confusion,
        _corrupted,
        _calibration,
        _scales,
        _density,
        _features,
        _gallery,
        _settings,
    )
    return [section for write in writers if (section := write(findings)) is not None]


def _figure(drawing: str, caption: str, kind: str = "") -> str:
    """A drawing with a caption below it."""
    return f'<figure class="{kind}">{drawing}<figcaption>{text(caption)}</figcaption></figure>'


def _titled(drawing: str, title: str) -> str:
    """A drawing below its title."""
    return f"<figure><figcaption><b>{text(title)}</b></figcaption>{drawing}</figure>"


def words(metric: str) -> str:
    """A metric's name in words.

    Args:
        metric: "mean_class_accuracy", say.
    """
    return metric.replace("_", " ").replace("miou", "mIoU")


def _summary(findings: Findings) -> Section:
    """The methods in one table."""
    table = summary_table(findings)
    kept = "Best values are bold. "
    if any(len(group.complete) > 1 for group in findings.groups):
        kept += "Behind ± stands the standard deviation over seeds. "
    kept += "Memory kept and peak are those of a training step; time is that of the fastest run."
    unfinished = [g.name for g in findings.groups if len(g.complete) < len(g.records)]
    if unfinished:
        kept += f" Not all runs are complete: {', '.join(unfinished)}."
    notes = "".join(f'<p class="note">{text(note)}</p>' for note in findings.notes)
    return Section("summary", "Summary", f"{table.html()}<p>{text(kept)}</p>{notes}", [table])


def summary_table(findings: Findings) -> Table:
    """One row per method: scores and costs.

    Args:
        findings: of the runs.
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
    return Table("summary", _caption(findings), [columns[i] for i in keep], shown)


def _caption(findings: Findings) -> str:
    first = findings.groups[0].first
    data = first.settings.data
    variant = f" ({data.get('variant')})" if data.get("variant") else ""
    split = (first.result or {}).get("split", findings.split)
    return (
        f"{first.settings.backbone.name} on the {split} split of {data.name}{variant}, "
        f"{first.settings.training.epochs} epochs"
    )


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
            chart = Chart(title, Axis("epoch"), Axis(format=write), lines=lines)
            figures.append(_titled(chart.svg(), title))
    if not figures:
        return None
    several = any(len(group.records) > 1 for group in findings.groups)
    said = "Lines are means over seeds, bands reach from the least to the most." if several else ""
    return Section("learning", "Learning curves", _grid(figures) + _paragraph(said))


def _trade_off(findings: Findings) -> Section | None:
    """Score against trained parameters, of several methods."""
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
    return Section("trade-off", "Score and size", _figure(chart.svg(), caption, "wide"))


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
            figures.append(_titled(bars(title, rows, unit), title))
    if findings.memory:
        names = {group.name: findings.series(group) for group in findings.groups}
        rows = [
            (name, size / MIB, names.get(name, 9), "" if trained else "not trained here")
            for name, size, trained in sorted(findings.memory, key=lambda row: -row[1])
        ]
        title = f"Kept for the backward of one batch of {COUNTED_BATCH} clouds"
        figures.append(_titled(bars(title, rows, "MiB"), f"{title}, side by side"))
    return Section("costs", "Memory and time", _grid(figures)) if figures else None


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
    caption = f"{title} by class: {_caption(findings)}"
    table = Table("classes", caption, columns, rows, compare_rows=True)
    drawn = range(len(columns) - len(scored), len(columns)) if len(scored) <= 4 else ()
    body = f"<p>{text(title.capitalize() if title == 'accuracy' else title)} of each class. "
    body += f"A heading sorts by its column.</p>{table.html(drawn)}"
    return Section("classes", "Class by class", body, [table])


def _confusion(findings: Findings) -> Section | None:
    """Which classes are taken for which."""
    names = findings.class_names
    if not findings.evidence or not 2 <= len(names) <= MOST_NAMED:
        return None
    what = "points" if findings.is_of_points else "clouds"
    panels = []
    for group in _with_evidence(findings):
        counts = findings.evidence[group.name].confusion.tolist()
        if len(counts) != len(names):
            continue
        drawn = heatmap(f"Confusion matrix of {group.name}", names, counts)
        panels.append((group.name, _figure(drawn, _confused(names, counts), "wide")))
    body = (
        f"<p>{text(_looked_at(findings))} Rows are the truth; cells count {what}, and are shaded "
    )
    body += f"by their share of the row.</p>{_tabs('confusion', panels)}"
    return Section("confusion", "Confusion", body)


def _corrupted(findings: Findings) -> Section | None:
    """Curves of the score over the severity of what happens to the clouds."""
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
    figures = []
    for kind, drawn in lines.items():
        title = f"{words(findings.metric)}, {kind}"
        chart = Chart(title, Axis("severity"), Axis(format=percent), lines=drawn)
        figures.append(_titled(chart.svg(), title))
    said = _paragraph("Severity 0 is the clouds as they are; bands reach over the seeds.")
    return Section("corrupted", "Corrupted clouds", _grid(figures) + said)


def _confused(names: Sequence[str], counts: Sequence[Sequence[int]]) -> str:
    """The pairs that are confused most, in words."""
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
    return f"Taken most often: {', '.join(told)}."


def _calibration(findings: Findings) -> Section | None:
    """How often predictions are right, by how sure they are."""
    if not findings.evidence:
        return None
    figures = []
    for group in _with_evidence(findings):
        evidence = findings.evidence[group.name]
        figures.append(_figure(_reliability(group.name, evidence), _calibrated(group, evidence)))
    said = "On the diagonal the model is as often right as it says. "
    said += f"{BINS} bins of equal width; bars are how often answers of that confidence are right."
    return Section("calibration", "Calibration", f"<p>{text(said)}</p>{_grid(figures)}")


def _reliability(name: str, evidence: Evidence) -> str:
    columns = [
        (i / BINS, (i + 1) / BINS, right / count)
        for i, (count, right, _) in enumerate(evidence.calibration)
        if count
    ]
    chart = Chart(
        f"Reliability of {name}",
        Axis("confidence", 0.0, 1.0, format=percent, ticks=(0, 0.25, 0.5, 0.75, 1)),
        Axis("right", 0.0, 1.0, format=percent, ticks=(0, 0.25, 0.5, 0.75, 1)),
        width=340,
        height=300,
        diagonal=True,
        bars=columns,
    )
    return chart.svg()


def _calibrated(group: Group, evidence: Evidence) -> str:
    count, right, confident = evidence.calibration.sum(0)
    return (
        f"{group.name}: expected calibration error {percent(evidence.calibration_error())}; right "
        f"{percent(right / max(count, 1))}, confidence {percent(confident / max(count, 1))} on "
        "average."
    )


def _scales(findings: Findings) -> Section | None:
    """The dynamic scale by block: figure 4 of the paper."""
    dynamic = [g for g in _with_evidence(findings) if findings.evidence[g.name].scale_mean.size]
    if not dynamic:
        return None
    figures = []
    for key, title, axis in (
        ("scale_mean", "Mean scale of the dynamic adapter", Axis(low=0.0)),
        ("scale_share", "Share of tokens adjusted", Axis("", 0.0, 1.0, format=percent)),
    ):
        lines = []
        for group in dynamic:
            values = getattr(findings.evidence[group.name], key)
            points = [(block + 1, float(value)) for block, value in enumerate(values)]
            lines.append(Line(group.name, points, findings.series(group), marks=True))
        blocks = max(len(line.points) for line in lines)
        x = Axis("block", ticks=range(1, blocks + 1)) if blocks <= 24 else Axis("block")
        chart = Chart(title, x, axis, lines=lines)
        figures.append(_titled(chart.svg(), title))
    said = "A token whose scale is 0 passes a block's adapter untouched. "
    said += f"Means over the patches of {findings.samples:,} samples."
    return Section("scales", "Dynamic scales", f"<p>{text(said)}</p>{_grid(figures)}")


def _density(findings: Findings) -> Section | None:
    """The share of active units in each block, where a method counts it."""
    lines = []
    for group in findings.groups:
        for record in group.complete[:1]:
            points = [
                (int(key.rpartition("_")[2]) + 1, value)
                for key, value in record.result.items()
                if key.startswith("density_above_0.001_block_")
            ]
            if points:
                series = findings.series(group)
                lines.append(Line(group.name, sorted(points), series, marks=True))
    if not lines:
        return None
    title = "Active units in the MLP"
    axis = Axis(title, low=0.0, format=percent)
    ticks = [x for x, _ in max(lines, key=lambda line: len(line.points)).points]
    chart = Chart(title, Axis("block", ticks=ticks), axis, lines=lines)
    caption = "Share of hidden units whose size is above 0.001, by block."
    return Section("density", "Density", _figure(chart.svg(), caption))


def _features(findings: Findings) -> Section | None:
    """What the heads read, in two dimensions, by method."""
    if findings.is_of_points:
        return None
    figures, how = [], ""
    for group in _with_evidence(findings):
        evidence = findings.evidence[group.name]
        if evidence.features.shape[1] < 2 or len(evidence.features) < 5:
            continue
        how, points = embedding(evidence.features)
        truth = evidence.truth[: len(points)]
        drawn = scatter(f"Features of {group.name}", points.tolist(), truth.tolist())
        figures.append(_titled(drawn, group.name))
    if not figures:
        return None
    present = sorted(set(truth.tolist()))
    key = "".join(
        f'<li><i class="swatch" data-class="{number}"></i>{text(findings.class_names[number])}</li>'
        for number in present
        if number < len(findings.class_names)
    )
    said = f"What the head reads of {len(points)} clouds, in two dimensions by {how}. "
    said += "Clouds of a class lie together where the network tells it apart."
    body = f'<p>{text(said)}</p>{_grid(figures, "small")}<ul class="key">{key}</ul>'
    return Section("features", "Features", body)


def _gallery(findings: Findings) -> Section | None:
    """Samples in 3D, with what the model says of them."""
    if not findings.gallery:
        return None
    said = f"What {findings.shown} says of samples of the {findings.split} split: "
    said += (
        "from the worst to the best. "
        if findings.is_of_points
        else "wrong answers of which it is sure, and right ones. "
    )
    said += "Move over a cloud to turn it; open it to see more."
    return Section("gallery", "Gallery", f'<p>{text(said)}</p><div id="cards"></div>')


def _settings(findings: Findings) -> Section:
    """What was run: what differs, the rest, versions, and the command to repeat it."""
    flat = {
        group.name: flatten(group.first.settings.tree()) | {"runs": len(group.records)}
        for group in findings.groups
    }
    keys = list(dict.fromkeys(key for values in flat.values() for key in values))
    absent = object()
    differing = [
        key
        for key in keys
        if key != "out"
        and any(
            v.get(key, absent) != flat[findings.groups[0].name].get(key, absent)
            for v in flat.values()
        )
    ]
    parts = []
    if differing:
        columns = [Column("setting"), *(Column(group.name) for group in findings.groups)]
        rows = [
            [key, *(_shown(flat[group.name].get(key, "–")) for group in findings.groups)]
            for key in differing
        ]
        table = Table("differences", "Settings that differ", columns, rows)
        parts.append(f"<h3>What differs</h3>{table.html()}")
    versions = {
        f"{name} {version}"
        for group in findings.groups
        for record in group.complete
        for name, version in record.result.get("versions", {}).items()
    }
    if versions:
        parts.append(f"<h3>Versions</h3><p>{text(', '.join(sorted(versions)))}</p>")
    parts.append("<h3>To repeat a run</h3>" + "".join(map(_repeated, findings.groups)))
    return Section("settings", "Settings", "".join(parts))


def _repeated(group: Group) -> str:
    record = group.first
    command = "pretrain" if record.settings.method is None else "train"
    path = record.folder.config
    yaml = text(dump(record.settings.tree())).replace("\\n", "\n")
    return (
        f"<details><summary>{text(group.name)}</summary><pre>dapt {command} "
        f"--config {text(path)} --out NEW_FOLDER</pre><pre>{yaml}</pre></details>"
    )


def _shown(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _with_evidence(findings: Findings) -> Iterator[Group]:
    return (group for group in findings.groups if group.name in findings.evidence)


def _looked_at(findings: Findings) -> str:
    """How much of the split was looked at."""
    some = f"{findings.samples:,}"
    if findings.samples < findings.of_samples:
        some += f" of {findings.of_samples:,}"
    return f"{some} samples of the {findings.split} split."


def _grid(figures: Sequence[str], kind: str = "") -> str:
    return f'<div class="figures {kind}">{"".join(figures)}</div>'


def _paragraph(words: str) -> str:
    return f"<p>{text(words)}</p>" if words else ""


def _tabs(key: str, panels: Sequence[tuple[str, str]]) -> str:
    """Panels of which the page shows one at a time; on paper all of them."""
    if len(panels) < 2:
        return "".join(body for _, body in panels)
    inner = "".join(
        f'<section data-tab="{text(name)}"><h3>{text(name)}</h3>{body}</section>'
        for name, body in panels
    )
    return f'<div class="tabs" id="tabs-{key}">{inner}</div>'
