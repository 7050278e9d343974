"""What sections are made of: the markup around their drawings, and words that several need."""

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
    """A heading, what stands under it, and the tables that papers and READMEs take from it.

    Args:
        key: Its place on the page.
        title: The heading.
        body: HTML under it.
        tables: Those that the Markdown and LaTeX files take.
    """

    key: str
    title: str
    body: str
    tables: Sequence[Table] = ()


def words(metric: str) -> str:
    """A metric's name in words.

    Args:
        metric: "mean_class_accuracy", say.
    """
    return metric.replace("_", " ").replace("miou", "mIoU")


def figure(drawing: str, caption: str, kind: str = "") -> str:
    """A drawing above its caption.

    Args:
        drawing: SVG.
        caption: What to read from it.
        kind: Its class on the page.
    """
    return f'<figure class="{kind}">{drawing}<figcaption>{text(caption)}</figcaption></figure>'


def titled(drawing: str, title: str) -> str:
    """A drawing below its title.

    Args:
        drawing: SVG.
        title: What it shows.
    """
    return f"<figure><figcaption><b>{text(title)}</b></figcaption>{drawing}</figure>"


def curves(title: str, x: Axis, y: Axis, lines: Sequence[Line]) -> str:
    """A chart of lines below its title.

    Args:
        title: What it shows.
        x: The horizontal axis.
        y: The vertical axis.
        lines: One for each method.
    """
    return titled(Chart(title, x, y, lines=list(lines)).svg(), title)


def grid(figures: Sequence[str], kind: str = "") -> str:
    """Figures side by side, as many as there is room for.

    Args:
        figures: HTML of each.
        kind: Its class on the page.
    """
    return f'<div class="figures {kind}">{"".join(figures)}</div>'


def paragraph(said: str) -> str:
    """A paragraph; nothing where nothing is said.

    Args:
        said: Plain text.
    """
    return f"<p>{text(said)}</p>" if said else ""


def conditions(findings: Findings) -> str:
    """What was trained, on what and for how long.

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
    """The methods whose predictions were looked at.

    Args:
        findings: The findings of the runs.
    """
    return (group for group in findings.groups if group.name in findings.evidence)
