"""A table of text cells, and how it looks in a terminal, in Markdown and in LaTeX."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

__all__ = [
    "ABSENT",
    "Grid",
    "as_latex",
    "as_markdown",
    "as_text",
    "markdown_text",
    "percent",
    "pipe_table",
    "plain",
    "signed",
    "superscript",
]

ABSENT = "–"
LEAST_WORD = 9
"""How narrow a column of words may become before the table grows wider than its terminal."""


@dataclass(frozen=True)
class Grid:
    """A table before it has a format. Cells are text as it comes, from anywhere: the formats escape it.

    words: how many leading columns hold words; the others hold numbers and stand to the right
    best, second: cells (row, column) to set off; LaTeX underlines the second
    notes: sentences below; one that begins with a superscript digit explains that mark
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: int = 1
    title: str = ""
    notes: tuple[str, ...] = ()
    best: frozenset[tuple[int, int]] = frozenset()
    second: frozenset[tuple[int, int]] = frozenset()


def as_text(grid: Grid) -> RenderableType:
    """For a terminal: columns of words are folded to fit, numbers are never cut, even where a line grows too long."""
    return _Text(grid)


@dataclass(frozen=True)
class _Text:
    grid: Grid

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        grid = self.grid
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True, header_style="bold")
        needed = 2 * (len(grid.columns) - 1)
        for index, name in enumerate(grid.columns):
            width = max(cell_len(plain(cells[index])) for cells in (grid.columns, *grid.rows))
            if index < grid.words:
                table.add_column(Text(plain(name)), overflow="fold", min_width=min(LEAST_WORD, width))
                needed += min(LEAST_WORD, width)
            else:
                table.add_column(Text(plain(name)), justify="right", no_wrap=True)
                needed += width
        for row, cells in enumerate(grid.rows):
            shown = (
                Text(plain(cell), style="bold" if (row, column) in grid.best else "")
                for column, cell in enumerate(cells)
            )
            table.add_row(*shown)
        if needed > options.max_width:
            table.width = needed
        if grid.title:
            yield Text(plain(grid.title), style="bold")
        yield table
        yield from (Text(plain(note)) for note in grid.notes)


def as_markdown(grid: Grid) -> str:
    """As GitHub renders it, aligned for those who read the source."""
    rows = []
    for row, cells in enumerate(grid.rows):
        shown = [markdown_text(cell) if column < grid.words else _number(cell) for column, cell in enumerate(cells)]
        rows.append([f"**{text}**" if (row, column) in grid.best else text for column, text in enumerate(shown)])
    lines = pipe_table([markdown_text(name) for name in grid.columns], rows, grid.words, ruler=":")
    if grid.title:
        lines = [f"**{markdown_text(grid.title)}**", "", *lines]
    if grid.notes:
        # Two spaces at the end of a line break it.
        lines += ["", *(f"{markdown_text(note)}  " for note in grid.notes)]
    return "\n".join(lines) + "\n"


def as_latex(grid: Grid) -> str:
    """A booktabs tabular: the best of a column bold, the second underlined; what follows a number's ± is small."""
    lines = [
        "% Needs \\usepackage{booktabs}. Bold: best; underlined: second.",
        *([f"% {plain(grid.title)}"] if grid.title else []),
        f"\\begin{{tabular}}{{{'l' * grid.words}{'r' * (len(grid.columns) - grid.words)}}}",
        "\\toprule",
        " & ".join(_LATEX_HEADS.get(name, _latex(name)) for name in grid.columns) + r" \\",
        "\\midrule",
    ]
    for row, cells in enumerate(grid.rows):
        shown = []
        for column, cell in enumerate(cells):
            text, sign, half = cell.partition(" ± ") if column >= grid.words else (cell, "", "")
            text = _latex_number(text) if column >= grid.words else _latex(text)
            if (row, column) in grid.best:
                text = rf"\textbf{{{text}}}"
            elif (row, column) in grid.second:
                text = rf"\underline{{{text}}}"
            shown.append(rf"{text} {{\scriptsize $\pm$ {_latex(half)}}}" if sign else text)
        lines.append(" & ".join(shown) + r" \\")
    lines.append("\\bottomrule")
    lines.extend(rf"\multicolumn{{{len(grid.columns)}}}{{l}}{{\footnotesize {_latex(note)}}} \\" for note in grid.notes)
    lines.append("\\end{tabular}")
    return "\n".join(lines) + "\n"


def pipe_table(head: Sequence[str], body: Sequence[Sequence[str]], words: int = 1, ruler: str = "-") -> list[str]:
    """The lines of a table with `|` between cells: words to the left, numbers to the right.

    ruler: "-", or ":" for the colons by which Markdown aligns columns.
    """
    widths = [max(3, *(len(row[index]) for row in (head, *body))) for index in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        aligned = [
            cell.ljust(width) if index < words else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return "| " + " | ".join(aligned) + " |"

    dashes = ["-" * (width - 1) for width in widths]
    rules = [ruler + dash if index < words else dash + ruler for index, dash in enumerate(dashes)]
    return [line(head), line(rules), *map(line, body)]


def percent(fraction: float | None, digits: int = 2) -> str:
    """A fraction as percent without the sign, a dash for None and NaN."""
    return ABSENT if fraction is None or fraction != fraction else f"{100 * fraction:.{digits}f}"


def signed(fraction: float | None, digits: int = 2) -> str:
    """As `percent`, with + or -; 0 has no sign."""
    if fraction is None or fraction != fraction:
        return ABSENT
    text = f"{100 * fraction:+.{digits}f}"
    return text if float(text) else text.lstrip("+-")


def superscript(number: int) -> str:
    """A number in superscript digits, as marks of notes are written."""
    return str(number).translate(str.maketrans("0123456789", _SUPERSCRIPTS))


def plain(text: str) -> str:
    """`text` on one line, without control characters that could steer a terminal: names come from anywhere."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f]+", " ", text)


_SUPERSCRIPTS = "⁰¹²³⁴⁵⁶⁷⁸⁹"
_LATEX_HEADS = {
    "PQ_th": r"PQ$^{\mathrm{th}}$",
    "PQ_st": r"PQ$^{\mathrm{st}}$",
    "params": "Params",
    "img/s": "Images/s",
    "publ.": "Published",
    "diff": r"$\Delta$",
}
_LATEX_SIGNS = {sign: f"\\{sign}" for sign in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": "$<$",
    ">": "$>$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "×": r"$\times$",
    "±": r"$\pm$",
    "−": "$-$",
    "Δ": r"$\Delta$",
    "†": r"$\dagger$",
    "–": "--",
}


def markdown_text(text: str) -> str:
    """`text` as Markdown shows it, on one line: nothing in it is markup."""
    return re.sub(r"([\\`*_\[\]<>|])", r"\\\1", plain(text))


def _number(text: str) -> str:
    return re.sub(r"([\\*<|])", r"\\\1", plain(text))


def _latex(text: str) -> str:
    escaped = "".join(_LATEX_SIGNS.get(sign, sign) for sign in plain(text))
    digits = str.maketrans(_SUPERSCRIPTS, "0123456789")
    return re.sub(
        f"[{_SUPERSCRIPTS}]+(,[{_SUPERSCRIPTS}]+)*", lambda marks: f"$^{{{marks[0].translate(digits)}}}$", escaped
    )


def _latex_number(text: str) -> str:
    return f"${text}$" if re.fullmatch(r"[+-][\d.]+", text) else _latex(text)
