"""Inside a model: how confident it is, what its adapters do, what its head reads."""

from dapt.view.axes import Axis, percent
from dapt.view.drawings import scatter
from dapt.view.evidence import BINS, Evidence, embedding
from dapt.view.findings import Findings
from dapt.view.page import text
from dapt.view.records import Group
from dapt.view.sections.parts import (
    Section,
    curves,
    figure,
    grid,
    paragraph,
    titled,
    with_evidence,
)
from dapt.view.svg import Chart, Line


def _calibration(findings: Findings) -> Section | None:
    """How often predictions are right, by their confidence."""
    if not findings.evidence:
        return None
    figures = []
    for group in with_evidence(findings):
        evidence = findings.evidence[group.name]
        figures.append(figure(_reliability(group.name, evidence), _calibrated(group, evidence)))
    said = "On the diagonal, the model is right as often as its confidence says. "
    said += (
        f"{BINS} bins of equal width; bars show how often predictions of that confidence are right."
    )
    return Section("calibration", "Calibration", paragraph(said) + grid(figures))


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
    dynamic = [g for g in with_evidence(findings) if findings.evidence[g.name].scale_mean.size]
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
        figures.append(curves(title, x, axis, lines))
    said = "A token whose scale is 0 passes a block's adapter untouched. "
    said += f"Means over the patches of {findings.samples:,} samples."
    return Section("scales", "Dynamic scales", paragraph(said) + grid(figures))


def _density(findings: Findings) -> Section | None:
    """The share of active units in each block, if a method counts it."""
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
    caption = "Share of hidden units with a magnitude above 0.001, by block."
    return Section("density", "Density", figure(chart.svg(), caption))


def _features(findings: Findings) -> Section | None:
    """What the heads read, in two dimensions, by method."""
    if findings.is_of_points:
        return None
    figures, how = [], ""
    for group in with_evidence(findings):
        evidence = findings.evidence[group.name]
        if evidence.features.shape[1] < 2 or len(evidence.features) < 5:
            continue
        how, points = embedding(evidence.features)
        truth = evidence.truth[: len(points)]
        drawn = scatter(f"Features of {group.name}", points.tolist(), truth.tolist())
        figures.append(titled(drawn, group.name))
    if not figures:
        return None
    present = sorted(set(truth.tolist()))
    key = "".join(
        f'<li><i class="swatch" data-class="{number}"></i>{text(findings.class_names[number])}</li>'
        for number in present
        if number < len(findings.class_names)
    )
    said = f"What the head reads of {len(points)} clouds, in two dimensions by {how}. "
    said += "Clouds of a class cluster if the network separates it."
    body = paragraph(said) + grid(figures, "small") + f'<ul class="key">{key}</ul>'
    return Section("features", "Features", body)


def _gallery(findings: Findings) -> Section | None:
    """Samples in 3D, with the model's predictions."""
    if not findings.gallery:
        return None
    said = f"What {findings.shown} says of samples of the {findings.split} split: "
    said += (
        "from the worst to the best. "
        if findings.is_of_points
        else "wrong answers of which it is sure, and right ones. "
    )
    said += "Move over a cloud to turn it; open it to see more."
    return Section("gallery", "Gallery", paragraph(said) + '<div id="cards"></div>')


WRITERS = (_calibration, _scales, _density, _features, _gallery)
