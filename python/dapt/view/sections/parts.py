"""Building blocks of sections: the markup around drawings, and phrases that several need."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dapt.view.axes import Axis
from dapt.view.findings import Findings
from dapt.view.page import text
from dapt.view.records import Group
from dapt.view.svg import Chart, Line
from dapt.view.tables import Table


@dataclass(frozen=True)
class Section:
    """A section of a report: a heading, its body, and its tables for papers and READMEs.

    Args:
        key: The HTML id of the section.
        title: The heading.
        body: The HTML under it.
        tables: The tables to include in the Markdown and LaTeX files.
    """

    key: str
    title: str
    body: str
    tables: Sequence[Table] = ()


def words(metric: str) -> str:
    """A metric's name in words.

    Args:
        metric: The metric, such as "mean_class_accuracy".
    """
    return metric.replace("_", " ").replace("miou", "mIoU")


def figure(drawing: str, caption: str, kind: str = "") -> str:
    """Put a caption under a drawing.

    Args:
        drawing: The SVG markup.
        caption: How to read the drawing.
        kind: Its CSS class.
    """
    return f'<figure class="{kind}">{drawing}<figcaption>{text(caption)}</figcaption></figure>'


def titled(drawing: str, title: str) -> str:
    """Put a title above a drawing.

    Args:
        drawing: The SVG markup.
        title: What it shows.
    """
    return f"<figure><figcaption><b>{text(title)}</b></figcaption>{drawing}</figure>"


def curves(title: str, x: Axis, y: Axis, lines: Sequence[Line]) -> str:
    """Draw a titled chart of curves.

    Args:
        title: What it shows.
        x: The horizontal axis.
        y: The vertical axis.
        lines: The curves, one per method.
    """
    return titled(Chart(title, x, y, lines=list(lines)).svg(), title)


def grid(figures: Sequence[str], kind: str = "") -> str:
    """Arrange figures side by side, as many as fit.

    Args:
        figures: The HTML of each figure.
        kind: The CSS class of the grid.
    """
    return f'<div class="figures {kind}">{"".join(figures)}</div>'


def paragraph(said: str) -> str:
    """Make a paragraph; empty for an empty text.

    Args:
        said: Plain text.
    """
    return f"<p>{text(said)}</p>" if said else ""


def conditions(findings: Findings) -> str:
    """Describe what was trained, on which data and for how long.

    Args:
        findings: The findings of the runs.
    """
    first = findings.groups[0].first
    data = first.settings.data
    variant = f" ({data.get('variant')})" if data.get("variant") else ""
    split = (first.result or {}).get("split", findings.split)
    return (
        f"{first.settings.backbone.name} on the {split} split of {data.name}{variant}, "
        f"{first.settings.training.epochs} epochs"
    )


def with_evidence(findings: Findings) -> Iterator[Group]:
    """Yield the groups whose models were evaluated.

    Args:
        findings: The findings of the runs.
    """
    return (group for group in findings.groups if group.name in findings.evidence)
