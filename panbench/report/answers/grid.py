"""A table of text cells and its rendering for a terminal, Markdown and LaTeX."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

ABSENT = "–"
LEAST_WORD = 9
"""Minimum width of a column of words; below it the table grows wider than its terminal."""

GAP = 2
"""Spaces between columns."""


@dataclass(frozen=True)
class Grid:
    """A table before formatting. Cells are raw text from any source: the formats escape it.

    words: how many leading columns hold words; the others hold numbers and are aligned right
    names: of models or runs, in order; if they make the table too wide, letters replace them, with a key below
    best, second: cells (row, column) to highlight; LaTeX underlines the second
    marks: for each row the numbers of the `marked` notes that apply to it, printed as ¹ ² behind its first cell
    lead: sentences above the table, below its title
    marked: sentences below the table that marks refer to, from 1 on; notes: sentences below these
    spare: columns that are dropped, in this order, before words would have to be wrapped; a note names them
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: int = 1
    title: str = ""
    lead: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    best: frozenset[tuple[int, int]] = frozenset()
    second: frozenset[tuple[int, int]] = frozenset()
    spare: tuple[str, ...] = ()
    marks: tuple[tuple[int, ...], ...] = ()
    marked: tuple[str, ...] = ()

    def mark(self, row: int) -> str:
        """Returns the superscript marks of a row's notes; "" for none."""
        return ",".join(map(superscript, self.marks[row])) if self.marks else ""

    @property
    def below(self) -> tuple[str, ...]:
        """Returns all sentences below the table; a note that rows refer to begins with its superscript mark."""
        marked = (f"{superscript(number)} {message}" for number, message in enumerate(self.marked, start=1))
        return (*marked, *self.notes)

    @property
    def shown(self) -> tuple[tuple[str, ...], ...]:
        """Returns the rows as text, with the superscript marks of their notes."""
        return tuple((cells[0] + self.mark(row), *cells[1:]) for row, cells in enumerate(self.rows))


def as_text(grid: Grid) -> RenderableType:
    """Formats a table for a terminal: words are wrapped to fit; numeric columns that do not fit go into another table.

    If `names` make the table too wide, letters replace them. Lines break at spaces, and behind / _ - of a path or a
    name; inside a word only if it alone is wider than its column can be.
    """
    return _TextTable(grid, set())


def as_texts(grids: Sequence[Grid]) -> list[RenderableType]:
    """Formats tables that are printed together, so that letters in place of names are explained only once."""
    explained: set[tuple[str, ...]] = set()
    return [_TextTable(grid, explained) for grid in grids]


def sentence_text(message: str) -> RenderableType:
    """Formats a sentence for a terminal, with line breaks only between words."""
    return _Sentence(message)


@dataclass(frozen=True)
class _Sentence:
    """A sentence that Rich prints with line breaks only between words."""

    message: str
    style: str = ""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = [""]
        for word in plain(self.message).split(" "):
            if lines[-1] and cell_len(f"{lines[-1]} {word}") > options.max_width:
                lines.append(word)
            else:
                lines[-1] = f"{lines[-1]} {word}" if lines[-1] else word
        yield Text("\n".join(lines), style=self.style, no_wrap=True, overflow="ignore")


@dataclass(frozen=True)
class _TextTable:
    """A table that Rich prints within the width of the terminal.

    explained: keys of letters that an earlier table has printed
    """

    grid: Grid
    explained: set[tuple[str, ...]]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        grid, room = _drop_spare_columns(self.grid, options.max_width), options.max_width
        key: tuple[str, ...] = ()
        if grid.names and _table_width(_unwrapped_column_widths(grid)) > room:
            key = _letter_legend(grid.names)
            grid = _with_letters(grid)
        if grid.title:
            yield _Sentence(grid.title, "bold")
        yield from map(_Sentence, grid.lead)
        for number, block in enumerate(_split_columns(grid, room)):
            if number:
                yield Text("")
            yield from self._rich_table(block, room)
        if key and key not in self.explained:
            self.explained.add(key)
            yield from map(_Sentence, key)
        yield from map(_Sentence, grid.below)

    def _rich_table(self, grid: Grid, room: int) -> RenderResult:
        """Yields Rich's table of a grid that fits the terminal's width."""
        widths = _fitting_widths(grid, room)
        # The gap between columns is part of their width, because versions of Rich pad columns differently.
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=0, header_style="bold")
        for index, (name, width) in enumerate(zip(grid.columns, widths, strict=True)):
            is_words = index < grid.words
            gap = index < len(widths) - 1 if is_words else index > grid.words
            justify: Literal["left", "right"] = "left" if is_words else "right"
            head = Text(_wrapped_cell(plain(name), width))
            table.add_column(head, min_width=width + GAP // 2 * gap, justify=justify, no_wrap=True)
        for row, cells in enumerate(grid.shown):
            shown = (
                Text(
                    _wrapped_cell(plain(cell), widths[column]) if column < grid.words else plain(cell),
                    style="bold" if (row, column) in grid.best else "",
                )
                for column, cell in enumerate(cells)
            )
            table.add_row(*shown)
        table.width = max(1, _table_width(widths))
        yield table


def _table_width(widths: Sequence[int]) -> int:
    """Returns the width of a table with columns of these widths."""
    return sum(widths) + GAP * (len(widths) - 1)


def _drop_spare_columns(grid: Grid, room: int) -> Grid:
    """Drops as many of the spare columns as do not fit, and adds a note that names them."""
    left_out: list[str] = []
    for name in grid.spare:
        if _table_width(_unwrapped_column_widths(grid)) <= room:
            break
        grid = _without_column(grid, grid.columns.index(name))
        left_out.append(name)
    if not left_out:
        return grid
    note = f"Left out on this narrow screen: {', '.join(left_out)}; --json has them."
    return replace(grid, notes=(*grid.notes, note), spare=())


def _without_column(grid: Grid, position: int) -> Grid:
    """Returns the table without the column at a position."""
    return _select_columns(grid, [index for index in range(len(grid.columns)) if index != position])


def _select_columns(grid: Grid, indices: Sequence[int]) -> Grid:
    """Returns the table with only the columns of these indices."""
    moved = {old: new for new, old in enumerate(indices)}

    def kept_highlights(marked: frozenset[tuple[int, int]]) -> frozenset[tuple[int, int]]:
        """Returns (row, new column) for each highlighted cell whose column is still in the table."""
        return frozenset((row, moved[column]) for row, column in marked if column in moved)

    return replace(
        grid,
        columns=tuple(grid.columns[index] for index in indices),
        marks=grid.marks if 0 in indices else (),
        rows=tuple(tuple(row[index] for index in indices) for row in grid.rows),
        words=sum(index < grid.words for index in indices),
        best=kept_highlights(grid.best),
        second=kept_highlights(grid.second),
    )


def _split_columns(grid: Grid, room: int) -> list[Grid]:
    """Splits a wide table into ones that fit, each with all columns of words and some of those of numbers."""
    words, numbers = list(range(grid.words)), list(range(grid.words, len(grid.columns)))
    blocks: list[list[int]] = [[]]
    for index in numbers:
        tried = _select_columns(grid, [*words, *blocks[-1], index])
        if blocks[-1] and _table_width(_fitting_widths(tried, room, cut=False)) > room:
            blocks.append([])
        blocks[-1].append(index)
    return [_select_columns(grid, [*words, *block]) for block in blocks]


def _unwrapped_column_widths(grid: Grid) -> list[int]:
    """Returns the width of each column of a table when nothing is wrapped."""
    return [
        max(cell_len(plain(row[index])) for row in (grid.columns, *grid.shown)) for index in range(len(grid.columns))
    ]


def _fitting_widths(grid: Grid, room: int, *, cut: bool = True) -> list[int]:
    """Returns the widths of columns that fit into `room`: headings of numbers shrink first, then the widest words.

    cut: allow breaks inside words if wrapping between them is not enough
    """
    widths = _unwrapped_column_widths(grid)
    for index in range(grid.words, len(widths)):
        if _table_width(widths) > room:
            heading = max(
                map(cell_len, (piece.rstrip() for piece in _breakable_pieces(plain(grid.columns[index])))), default=0
            )
            widths[index] = max([heading, *(cell_len(plain(row[index])) for row in grid.rows)])
    words = range(min(grid.words, len(widths)))
    pieces = [
        max(
            cell_len(piece)
            for row in (grid.columns, *grid.shown)
            for piece in _breakable_pieces(plain(row[index])) or [""]
        )
        for index in words
    ]
    between = [max(LEAST_WORD, piece) for piece in pieces]
    for floors in (between, [LEAST_WORD for _ in words]) if cut else (between,):
        while _table_width(widths) > room:
            yielding = [index for index in words if widths[index] > floors[index]]
            if not yielding:
                break
            widths[max(yielding, key=lambda index: widths[index])] -= 1
    return widths


def _breakable_pieces(text: str) -> list[str]:
    """Splits `text` where a line may end: behind spaces and behind the / _ - of paths and names."""
    return re.findall(r"[^\s/_-]*[\s/_-]+|[^\s/_-]+", text)


def _wrapped_cell(text: str, width: int) -> str:
    """Wraps `text` into lines of at most `width`."""
    lines = [""]
    for piece in _breakable_pieces(text):
        while cell_len(lines[-1] + piece.rstrip()) > width:
            if lines[-1]:
                lines.append("")
            else:
                *_, cut = (
                    index for index in range(1, len(piece) + 1) if index == 1 or cell_len(piece[:index]) <= width
                )
                lines[-1], piece = piece[:cut], piece[cut:]
                lines.append("")
        lines[-1] += piece
    return "\n".join(line.rstrip() for line in lines)


def _with_letters(grid: Grid) -> Grid:
    """Returns the table with letters in place of the names of models or runs."""
    letters = {name: letter(index) for index, name in reversed(list(enumerate(grid.names)))}

    def name_or_letter(cell: str) -> str:
        """Returns the letter that stands for a cell's text if that is the name of a model or run; else the text."""
        return letters.get(cell, cell)

    rows = tuple((*map(name_or_letter, cells[: grid.words]), *cells[grid.words :]) for cells in grid.rows)
    return replace(grid, columns=tuple(map(name_or_letter, grid.columns)), rows=rows, names=())


def _letter_legend(names: Sequence[str]) -> tuple[str, ...]:
    """Returns for each letter the line "A: name" with the name that it replaces."""
    return tuple(f"{letter(index)}: {name}" for index, name in enumerate(names) if names.index(name) == index)


def letter(index: int) -> str:
    """Returns an index written in letters: A, B, … Z, AA, AB, …"""
    return chr(ord("A") + index) if index < 26 else f"{letter(index // 26 - 1)}{letter(index % 26)}"


def as_markdown(grid: Grid) -> str:
    """Formats a table as a GitHub table, also aligned in the source."""
    rows = []
    for row, cells in enumerate(grid.shown):
        shown = [markdown_text(cell) if column < grid.words else _number_md(cell) for column, cell in enumerate(cells)]
        rows.append([f"**{text}**" if (row, column) in grid.best else text for column, text in enumerate(shown)])
    lines = pipe_table([markdown_text(name) for name in grid.columns], rows, grid.words, ruler=":")
    if grid.lead:
        lines = [*(f"{markdown_text(message)}  " for message in grid.lead), "", *lines]
    if grid.title:
        lines = [f"**{markdown_text(grid.title)}**", "", *lines]
    if grid.below:
        # Two trailing spaces are a line break in Markdown.
        lines += ["", *(f"{markdown_text(note)}  " for note in grid.below)]
    return "\n".join(lines) + "\n"


def as_latex(grid: Grid) -> str:
    """Formats a table as a booktabs tabular: best bold, second underlined, and uncertainties in small type."""
    lines = [
        "% Needs \\usepackage{booktabs}. Bold: best; underlined: second.",
        *(f"% {plain(text)}" for text in (grid.title, *grid.lead) if text),
        f"\\begin{{tabular}}{{{'l' * grid.words}{'r' * (len(grid.columns) - grid.words)}}}",
        "\\toprule",
        " & ".join(_LATEX_HEADS.get(name, _latex_text(name)) for name in grid.columns) + r" \\",
        "\\midrule",
    ]
    for row, cells in enumerate(grid.rows):
        shown = []
        for column, cell in enumerate(cells):
            text, how_sure = _number_and_uncertainty(cell) if column >= grid.words else (cell, "")
            text = _latex_number(text) if column >= grid.words else _latex_text(text)
            if column == 0 and grid.marks:
                text += _latex_marks(*grid.marks[row])
            if (row, column) in grid.best:
                text = rf"\textbf{{{text}}}"
            elif (row, column) in grid.second:
                text = rf"\underline{{{text}}}"
            shown.append(rf"{text} {{\scriptsize {how_sure}}}" if how_sure else text)
        lines.append(" & ".join(shown) + r" \\")
    lines.append("\\bottomrule")
    marked = (f"{_latex_marks(number)} {_latex_text(note)}" for number, note in enumerate(grid.marked, start=1))
    below = (*marked, *map(_latex_text, grid.notes))
    lines.extend(rf"\multicolumn{{{len(grid.columns)}}}{{l}}{{\footnotesize {note}}} \\" for note in below)
    lines.append("\\end{tabular}")
    return "\n".join(lines) + "\n"


def pipe_table(head: Sequence[str], body: Sequence[Sequence[str]], words: int = 1, ruler: str = "-") -> list[str]:
    """Returns the lines of a table with `|` between cells: words to the left, numbers to the right.

    ruler: "-", or ":" for the colons by which Markdown aligns columns.
    """
    widths = [max(3, *(len(row[index]) for row in (head, *body))) for index in range(len(head))]

    def table_line(cells: Sequence[str]) -> str:
        """Returns a line of the table, its cells padded to the widths of the columns."""
        aligned = [
            cell.ljust(width) if index < words else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return "| " + " | ".join(aligned) + " |"

    dashes = ["-" * (width - 1) for width in widths]
    rules = [ruler + dash if index < words else dash + ruler for index, dash in enumerate(dashes)]
    return [table_line(head), table_line(rules), *map(table_line, body)]


def percent(fraction: float | None, digits: int = 2) -> str:
    """Returns a fraction as percent without the sign, a dash for None and NaN; 0 has no minus."""
    if fraction is None or fraction != fraction:
        return ABSENT
    text = f"{100 * fraction:.{digits}f}"
    return text if float(text) else text.lstrip("-")


def format_p(p: float, digits: int, chance: float = 0.05, rounding: Callable[[float], int] = round) -> str:
    """Formats a p-value with enough digits to tell it from the level of significance: 0.0496, not 0.05.

    chance: the level of significance
    """
    for more in range(digits, 8):
        shown = rounding(round(p * 10**more, 6)) / 10**more
        if (shown < chance) == (p < chance) and (shown > chance) == (p > chance):
            break
    return f"{shown:.{more}f}"


def adding_up(values: Sequence[float | None], total: float, digits: int = 1) -> list[str]:
    """Formats fractions as percents that add up to `total` percent as printed; ABSENT for None."""
    unit = 10**digits
    exact = [0.0 if value is None else 100 * value * unit for value in values]
    floors = [math.floor(value) for value in exact]
    order = sorted(range(len(exact)), key=lambda index: floors[index] - exact[index])
    for index in order[: max(0, round(total * unit) - sum(floors))]:
        floors[index] += 1
    return [
        ABSENT if value is None else f"{number / unit:.{digits}f}" for value, number in zip(values, floors, strict=True)
    ]


def signed(fraction: float | None, digits: int = 2) -> str:
    """Formats a fraction like `percent`, with + or -; 0 has no sign."""
    if fraction is None or fraction != fraction:
        return ABSENT
    text = f"{100 * fraction:+.{digits}f}"
    return text if float(text) else text.lstrip("+-")


def interval_text(low: float | None, high: float | None, digits: int = 2, *, with_sign: bool = False) -> str:
    """Formats an interval of fractions as `[71.20, 73.95]` in percent; a dash if an end is None or NaN."""
    if known(low) is None or known(high) is None:
        return ABSENT
    show = signed if with_sign else percent
    return f"[{show(low, digits)}, {show(high, digits)}]"


def known(value: Any) -> float | None:
    """Returns a number as a float; None if it is NaN or None."""
    return None if value is None or value != value else float(value)


def superscript(number: int) -> str:
    """Returns a number in superscript digits, as printed for marks of notes."""
    return str(number).translate(str.maketrans("0123456789", _SUPERSCRIPTS))


def plain(text: str) -> str:
    """Returns `text` on one line, without control characters that could steer a terminal: names are untrusted."""
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
    """Escapes `text` for Markdown, on one line, so that nothing in it is markup."""
    return re.sub(r"([\\`*_\[\]<>|])", r"\\\1", plain(text))


def _number_md(text: str) -> str:
    """Escapes a number for Markdown, leaving its minus, brackets and underscores as they are."""
    return re.sub(r"([\\*<|])", r"\\\1", plain(text))


def _latex_text(text: str) -> str:
    """Escapes text for LaTeX, on one line."""
    return "".join(_LATEX_SIGNS.get(sign, sign) for sign in plain(text))


def _latex_marks(*numbers: int) -> str:
    """Formats the numbers of notes as a superscript in LaTeX."""
    return f"$^{{{','.join(map(str, numbers))}}}$" if numbers else ""


def _number_and_uncertainty(cell: str) -> tuple[str, str]:
    """Splits a cell into its number and, as LaTeX, its uncertainty: ± half a width, or [both ends]."""
    number, sign, half = cell.partition(" ± ")
    if sign:
        return number, rf"$\pm$ {_latex_text(half)}"
    number, bracket, ends = cell.partition(" [")
    return number, f"[{_latex_text(ends)}" if bracket else ""


def _latex_number(text: str) -> str:
    """Formats a number for LaTeX, in math mode if it has a sign."""
    return f"${text}$" if re.fullmatch(r"[+-][\d.]+", text) else _latex_text(text)


def count(number: int | None) -> str:
    """Formats a number of parameters, short: 958k, 1.05M, 44.0M, 216M."""
    if number is None:
        return ABSENT
    if number < 1_000_000:
        return f"{number / 1000:.0f}k"
    return f"{three_digits(number / 1e6)}M"


def three_digits(value: float) -> str:
    """Formats a positive number below 1000 with its first three digits: 9.99, 99.9, 999."""
    return f"{value:.0f}" if value >= 99.95 else f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"
