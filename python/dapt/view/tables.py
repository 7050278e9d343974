"""Tables that can be written for a page, for a README and for a paper."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from dapt.errors import shown
from dapt.view.page import text


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Args:
        title: Its heading.
        kind: The format of its cells: shares as percentages, counts in full, numbers rounded.
        better: Which end is marked as the best.
        unit: The unit after the heading.
        digits: The number of decimals.
    """

    title: str
    kind: Literal["text", "percent", "count", "number"] = "text"
    better: Literal["high", "low"] | None = None
    unit: str = ""
    digits: int = 1

    @property
    def heading(self) -> str:
        """The title with its unit."""
        unit = "%" if self.kind == "percent" else self.unit
        return f"{self.title}, {unit}" if unit else self.title

    def write(self, value: object, spread: float | None, plus_minus: str = " ± ") -> str:
        """Format a cell.

        Args:
            value: The value; None if it is unknown.
            spread: The standard deviation, if there is one.
            plus_minus: The sign between the two.
        """
        if value is None:
            return "–"
        if self.kind == "text":
            return str(value)
        if self.kind == "count":
            return f"{value:,.0f}"
        factor = 100 if self.kind == "percent" else 1
        written = f"{factor * value:,.{self.digits}f}"
        if spread is not None:
            written += f"{plus_minus}{factor * spread:,.{self.digits}f}"
        return written


Cell = object  # a text, a number, None, or (number, spread)


@dataclass(frozen=True)
class Table:
    """Rows of cells: texts, numbers, pairs of a number and its spread, or None.

    Args:
        name: The name for links and labels.
        caption: A line that describes the table.
        columns: The columns.
        rows: The cells of each row.
        compare_rows: Whether the best value is marked in each row, among the columns that have a
            better end, rather than in each of these columns.
    """

    name: str
    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    compare_rows: bool = False

    def best(self) -> set[tuple[int, int]]:
        """(row, column) of the cells marked as best, including all that look the same."""
        scored = [j for j, column in enumerate(self.columns) if column.better]
        lines = [[(i, j) for i in range(len(self.rows))] for j in scored]
        if self.compare_rows:
            lines = [[(i, j) for j in scored] for i in range(len(self.rows))]
        marked = set()
        for line in lines:
            values = {(i, j): _value(self.rows[i][j]) for i, j in line}
            known = {place: v for place, v in values.items() if isinstance(v, int | float)}
            if len(known) < 2:
                continue
            column = self.columns[line[0][1]]
            best = (max if column.better == "high" else min)(known.values())
            written = column.write(best, None)
            marked |= {place for place, v in known.items() if column.write(v, None) == written}
        return marked

    def written(self, plus_minus: str = " ± ") -> list[list[str]]:
        """All cells as text.

        Args:
            plus_minus: The sign between a value and its spread.
        """
        return [
            [
                column.write(_value(cell), _spread(cell), plus_minus)
                for column, cell in zip(self.columns, row, strict=True)
            ]
            for row in self.rows
        ]

    def html(self, bars: Sequence[int] = ()) -> str:
        """The table as HTML.

        Args:
            bars: The indices of columns of shares that are also drawn as bars.
        """
        heads = "".join(
            f'<th scope="col" class="{"" if column.kind == "text" else "number"}">'
            f'<button type="button">{text(column.heading)}</button></th>'
            for column in self.columns
        )
        best = self.best()
        body = []
        for i, (row, words) in enumerate(zip(self.rows, self.written(), strict=True)):
            cells = []
            for j, (cell, written) in enumerate(zip(row, words, strict=True)):
                value = _value(cell)
                kind = self.columns[j].kind
                tag = 'th scope="row"' if j == 0 else "td"
                kinds = " ".join(["number"] * (kind != "text") + ["best"] * ((i, j) in best))
                sort = "" if kind == "text" or value is None else f' data-value="{value!r}"'
                drawn = _bar(value) if j in bars and value is not None else ""
                shown = text(written)
                cells.append(
                    f'<{tag} class="{kinds}"{sort}>{drawn}<span>{shown}</span></{tag[:2]}>'
                )
            body.append(f"<tr>{''.join(cells)}</tr>")
        return (
            f'<div class="scroll" tabindex="0" role="region" aria-label="{text(self.caption)}">'
            f'<table class="sortable" id="table-{text(self.name)}">'
            f'<caption class="unseen">{text(self.caption)}</caption>'
            f"<thead><tr>{heads}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
        )

    def markdown(self) -> str:
        """The table as Markdown, with the best values in bold."""
        marks = ["---" if column.kind == "text" else "---:" for column in self.columns]
        best = self.best()
        lines = [[_for_markdown(column.heading) for column in self.columns], marks]
        for i, words in enumerate(self.written()):
            escaped = map(_for_markdown, words)
            lines.append([f"**{w}**" if (i, j) in best else w for j, w in enumerate(escaped)])
        table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
        return f"{_for_markdown(self.caption)}\n\n{table}"

    def latex(self) -> str:
        """The table as LaTeX, which needs the packages booktabs and inputenc with utf8."""
        shape = "".join("l" if column.kind == "text" else "r" for column in self.columns)
        best = self.best()
        heads = " & ".join(_for_latex(column.heading) for column in self.columns)
        lines = []
        for i, words in enumerate(self.written(plus_minus=" \\pm ")):
            cells = []
            for j, word in enumerate(words):
                if self.columns[j].kind == "text":
                    cells.append(_for_latex(word))
                    continue
                number = word.replace(",", "{,}").replace("–", "\\text{--}")
                bold = (i, j) in best
                cells.append(f"$\\mathbf{{{number}}}$" if bold else f"${number}$")
            lines.append(" & ".join(cells) + r" \\")
        return "\n".join(
            [
                r"\begin{table}",
                r"  \centering",
                f"  \\caption{{{_for_latex(self.caption)}}}",
                f"  \\label{{tab:{_label(self.name)}}}",
                f"  \\begin{{tabular}}{{{shape}}}",
                r"    \toprule",
                f"    {heads} \\\\",
                r"    \midrule",
                *(f"    {line}" for line in lines),
                r"    \bottomrule",
                r"  \end{tabular}",
                r"\end{table}",
                "",
            ]
        )


def _value(cell: Cell) -> object:
    return cell[0] if isinstance(cell, tuple) else cell


def _spread(cell: Cell) -> float | None:
    return cell[1] if isinstance(cell, tuple) else None


def _bar(share: float) -> str:
    width = 60 * min(max(float(share), 0), 1)
    return (
        '<svg class="share" viewBox="0 0 60 8" width="60" height="8" aria-hidden="true">'
        '<rect class="groove" width="60" height="8" rx="4"/>'
        f'<rect class="filled" width="{width:.1f}" height="8" rx="4"/></svg>'
    )


def _for_markdown(words: str) -> str:
    escaped = shown(words).replace("\\", "\\\\")
    for mark in "|*_`[]<>":
        escaped = escaped.replace(mark, f"\\{mark}")
    return escaped


_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "±": r"$\pm$", "–": "--",
}  # fmt: skip


def _for_latex(words: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in shown(words))


def _label(name: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in name)
