"""A report on runs: one page, and its tables for papers and READMEs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from dapt.files import write_atomically
from dapt.inference.labeling import palette
from dapt.view.axes import percent, plain_number
from dapt.view.findings import Findings, find
from dapt.view.page import VIEWER, self_contained, text
from dapt.view.sections import Section, all_sections, words
from dapt.view.style import hex_of
from dapt.view.viewer import content_of

SCRIPTS = (*VIEWER, "gallery.js", "report.js")
STYLES = ("base.css", "viewer.css", "report.css")


@dataclass(frozen=True)
class Report:
    """A report that has not been written yet.

    Args:
        findings: The findings of the runs.
        sections: The sections of the page.
    """

    findings: Findings
    sections: Sequence[Section]

    @classmethod
    def of(
        cls,
        paths: Sequence[Path],
        limit: int | None = None,
        look: bool = True,
        say: Callable[[str], None] = lambda what: None,
    ) -> "Report":
        """Create a report on runs.

        Args:
            paths: Run folders, or folders that contain runs.
            limit: The largest number of samples per model; all by default.
            look: Whether models are run on their data at all.
            say: Called with a description of each step that takes time.
        """
        findings = find(paths, limit, look, say)
        return cls(findings, all_sections(findings))

    @property
    def title(self) -> str:
        """The title of the page."""
        first = self.findings.groups[0].first.settings
        names = [group.name for group in self.findings.groups]
        what = names[0] if len(names) == 1 else f"{len(names)} ways to adapt it"
        return f"{first.backbone.name} on {first.data.name}: {what}"

    def page(self) -> str:
        """The page as text."""
        findings = self.findings
        content, blocks = content_of(findings.gallery, findings.names)
        count = max(len(findings.class_names), 1)
        content["classColors"] = [hex_of(color) for color in palette(count)]
        links = "".join(
            f'<a href="#{section.key}">{text(section.title)}</a>' for section in self.sections
        )
        body = "".join(
            f'<section class="block" id="{section.key}"><h2>{text(section.title)}</h2>'
            f"{section.body}</section>"
            for section in self.sections
        )
        made = datetime.now().strftime("%Y-%m-%d %H:%M")
        markup = f"""<body class="report">
<a class="skip" href="#summary">To the summary</a>
<header><div><p class="made">dapt report, {made}</p><h1>{text(self.title)}</h1></div>
<button type="button" id="theme">Light or dark</button></header>
<div class="tiles">{self._tiles()}</div>
<nav aria-label="Sections">{links}</nav>
<main>{body}</main>
<dialog id="closer" aria-label="A cloud, closer"></dialog>"""
        return self_contained(self.title, markup, STYLES, SCRIPTS, content, blocks)

    def _tiles(self) -> str:
        """The most important numbers."""
        group, metric = self.findings.groups[0], self.findings.metric
        score, trained = group.mean(metric), group.cost("trainable_parameters")
        total, kept = group.cost("total_parameters"), group.cost("saved_activation_bytes")
        several = len(self.findings.groups) > 1
        tiles = []
        if score is not None:
            of = f"{words(metric)}, {group.name}" if several else words(metric)
            tiles.append((percent(round(score, 3)), of))
        if trained and total:
            tiles.append(
                (f"{percent(trained / total)}", f"of {plain_number(total)} weights trained")
            )
        if kept is not None:
            tiles.append((f"{kept / 2**20:.0f} MiB", "kept for the backward of a step"))
        seconds = sum(line.get("seconds", 0) for record in group.records for line in record.lines)
        if seconds:
            runs = f", {len(group.records)} runs" if len(group.records) > 1 else ""
            tiles.append((_duration(seconds), f"of training{runs}"))
        return "".join(
            f'<div class="tile"><b>{text(value)}</b><span>{text(what)}</span></div>'
            for value, what in tiles
        )

    def markdown(self) -> str:
        """The tables as Markdown, for a README."""
        return "\n".join(table.markdown() for section in self.sections for table in section.tables)

    def latex(self) -> str:
        """The tables as LaTeX, for a paper."""
        return "\n".join(table.latex() for section in self.sections for table in section.tables)

    def write(self, out: Path, markdown: bool = False, latex: bool = False) -> list[Path]:
        """Write the page, and optionally its tables beside it, and return the paths.

        Args:
            out: The path of the page.
            markdown: Whether to write the tables as Markdown, too.
            latex: Whether to write the tables as LaTeX, too.
        """
        written = {out: self.page()}
        if markdown:
            written[out.with_suffix(".md")] = self.markdown()
        if latex:
            written[out.with_suffix(".tex")] = self.latex()
        for path, content in written.items():
            write_atomically(path, content.encode())
        return list(written)


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
