"""A table of text cells, and how it looks in a terminal, in Markdown and in LaTeX."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

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
    "as_texts",
    "count",
    "deciding",
    "letter",
    "markdown_text",
    "percent",
    "pipe_table",
    "plain",
    "sentence_text",
    "signed",
    "superscript",
    "three_digits",
]

ABSENT = "–"
LEAST_WORD = 9
"""How narrow a column of words may become before the table grows wider than its terminal."""

GAP = 2
"""Spaces between columns."""


@dataclass(frozen=True)
class Grid:
    """A table before it has a format. Cells are text as it comes, from anywhere: the formats escape it.

    words: how many leading columns hold words; the others hold numbers and stand to the right
    names: of models or runs, in order; where they make the table too wide, letters stand for them, with a key below
    best, second: cells (row, column) to set off; LaTeX underlines the second
    marks: of each row the numbers of the `marked` notes that hold for it, which stand as ¹ ² behind its first cell
    marked: sentences below that marks lead to, number 1 first; notes: sentences below these, of the whole table
    spare: columns that are left out, the first first, where words would have to be folded; a note names them
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: int = 1
    title: str = ""
    notes: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    best: frozenset[tuple[int, int]] = frozenset()
    second: frozenset[tuple[int, int]] = frozenset()
    spare: tuple[str, ...] = ()
    marks: tuple[tuple[int, ...], ...] = ()
    marked: tuple[str, ...] = ()

    def mark(self, row: int) -> str:
        """The marks of a row in superscript; "" for none."""
        return ",".join(map(superscript, self.marks[row])) if self.marks else ""

    @property
    def below(self) -> tuple[str, ...]:
        """All sentences below the table, those that marks lead to with their mark in front."""
        marked = (f"{superscript(number)} {sentence}" for number, sentence in enumerate(self.marked, start=1))
        return (*marked, *self.notes)

    @property
    def shown(self) -> tuple[tuple[str, ...], ...]:
        """The rows as text, marks included."""
        return tuple((cells[0] + self.mark(row), *cells[1:]) for row, cells in enumerate(self.rows))


def as_text(grid: Grid) -> RenderableType:
    """For a terminal: words are folded to fit; columns of numbers that do not fit go into a further table below.

    Where `names` make the table too wide, letters stand for them. Folded is at spaces, and behind / _ - of a path or
    a name; inside of a word only where it alone is wider than its column can be.
    """
    return _Text(grid, set())


def as_texts(grids: Sequence[Grid]) -> list[RenderableType]:
    """Like `as_text`, for tables shown together: each letter is explained once."""
    explained: set[tuple[str, ...]] = set()
    return [_Text(grid, explained) for grid in grids]


def sentence_text(sentence: str) -> RenderableType:
    """A sentence for a terminal, with its lines broken between words and never inside of one."""
    return _Sentence(sentence)


@dataclass(frozen=True)
class _Sentence:
    sentence: str
    style: str = ""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = [""]
        for word in plain(self.sentence).split(" "):
            if lines[-1] and cell_len(f"{lines[-1]} {word}") > options.max_width:
                lines.append(word)
            else:
                lines[-1] = f"{lines[-1]} {word}" if lines[-1] else word
        yield Text("\n".join(lines), style=self.style, no_wrap=True, overflow="ignore")


@dataclass(frozen=True)
class _Text:
    """explained: keys of letters that a table before this one has shown."""

    grid: Grid
    explained: set[tuple[str, ...]]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        grid, room = _spared(self.grid, options.max_width), options.max_width
        key: tuple[str, ...] = ()
        if grid.names and _total(_widths(grid)) > room:
            key = _key(grid.names)
            grid = _lettered(grid)
        if grid.title:
            yield _Sentence(grid.title, "bold")
        for number, block in enumerate(_blocks(grid, room)):
            if number:
                yield Text("")
            yield from self._table(block, room)
        if key and key not in self.explained:
            self.explained.add(key)
            yield from map(_Sentence, key)
        yield from map(_Sentence, grid.below)

    def _table(self, grid: Grid, room: int) -> RenderResult:
        widths = _fitted(grid, room)
        # The gap between columns is part of their width: versions of Rich differ in what they add to padded columns.
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=0, header_style="bold")
        for index, (name, width) in enumerate(zip(grid.columns, widths, strict=True)):
            is_words = index < grid.words
            gap = index < len(widths) - 1 if is_words else index > grid.words
            justify: Literal["left", "right"] = "left" if is_words else "right"
            head = Text(_folded(plain(name), width))
            table.add_column(head, min_width=width + GAP // 2 * gap, justify=justify, no_wrap=True)
        for row, cells in enumerate(grid.shown):
            shown = (
                Text(
                    _folded(plain(cell), widths[column]) if column < grid.words else plain(cell),
                    style="bold" if (row, column) in grid.best else "",
                )
                for column, cell in enumerate(cells)
            )
            table.add_row(*shown)
        table.width = max(1, _total(widths))
        yield table


def _total(widths: Sequence[int]) -> int:
    """How wide a table with columns of these widths is."""
    return sum(widths) + GAP * (len(widths) - 1)


def _spared(grid: Grid, room: int) -> Grid:
    """The table without as many of its spare columns as do not fit, and a note that names them."""
    left_out: list[str] = []
    for name in grid.spare:
        if _total(_widths(grid)) <= room:
            break
        grid = _without(grid, grid.columns.index(name))
        left_out.append(name)
    if not left_out:
        return grid
    note = f"Left out on this narrow screen: {', '.join(left_out)}; --json has them."
    return replace(grid, notes=(*grid.notes, note), spare=())


def _without(grid: Grid, place: int) -> Grid:
    return _chosen(grid, [index for index in range(len(grid.columns)) if index != place])


def _chosen(grid: Grid, places: Sequence[int]) -> Grid:
    """The table of some columns."""
    moved = {old: new for new, old in enumerate(places)}

    def cells(marked: frozenset[tuple[int, int]]) -> frozenset[tuple[int, int]]:
        return frozenset((row, moved[column]) for row, column in marked if column in moved)

    return replace(
        grid,
        columns=tuple(grid.columns[place] for place in places),
        marks=grid.marks if 0 in places else (),
        rows=tuple(tuple(row[place] for place in places) for row in grid.rows),
        words=sum(place < grid.words for place in places),
        best=cells(grid.best),
        second=cells(grid.second),
    )


def _blocks(grid: Grid, room: int) -> list[Grid]:
    """The table in one or several that fit, each with the columns of words and some of those of numbers."""
    words, numbers = list(range(grid.words)), list(range(grid.words, len(grid.columns)))
    blocks: list[list[int]] = [[]]
    for place in numbers:
        tried = _chosen(grid, [*words, *blocks[-1], place])
        if blocks[-1] and _total(_fitted(tried, room, cut=False)) > room:
            blocks.append([])
        blocks[-1].append(place)
    return [_chosen(grid, [*words, *block]) for block in blocks]


def _widths(grid: Grid) -> list[int]:
    """How wide each column is when nothing is folded."""
    return [
        max(cell_len(plain(row[index])) for row in (grid.columns, *grid.shown)) for index in range(len(grid.columns))
    ]


def _fitted(grid: Grid, room: int, *, cut: bool = True) -> list[int]:
    """The widths of the columns in a line of `room`: headings over numbers give way, then the widest words.

    cut: whether words may be cut where folding between them is not enough
    """
    widths = _widths(grid)
    for index in range(grid.words, len(widths)):
        if _total(widths) > room:
            heading = max(map(cell_len, (piece.rstrip() for piece in _pieces(plain(grid.columns[index])))), default=0)
            widths[index] = max([heading, *(cell_len(plain(row[index])) for row in grid.rows)])
    words = range(min(grid.words, len(widths)))
    pieces = [
        max(cell_len(piece) for row in (grid.columns, *grid.shown) for piece in _pieces(plain(row[index])) or [""])
        for index in words
    ]
    between = [max(LEAST_WORD, piece) for piece in pieces]
    for floors in (between, [LEAST_WORD for _ in words]) if cut else (between,):
        while _total(widths) > room:
            yielding = [index for index in words if widths[index] > floors[index]]
            if not yielding:
                break
            widths[max(yielding, key=lambda index: widths[index])] -= 1
    return widths


def _pieces(text: str) -> list[str]:
    """`text` cut where a line may end: behind spaces and behind the / _ - of paths and names."""
    return re.findall(r"[^\s/_-]*[\s/_-]+|[^\s/_-]+", text)


def _folded(text: str, width: int) -> str:
    """`text` in lines of at most `width`."""
    lines = [""]
    for piece in _pieces(text):
        while cell_len(lines[-1] + piece.rstrip()) > width:
            if lines[-1]:
                lines.append("")
            else:
                *_, cut = (
                    place for place in range(1, len(piece) + 1) if place == 1 or cell_len(piece[:place]) <= width
                )
                lines[-1], piece = piece[:cut], piece[cut:]
                lines.append("")
        lines[-1] += piece
    return "\n".join(line.rstrip() for line in lines)


def _lettered(grid: Grid) -> Grid:
    """The table with letters for its names."""
    letters = {name: letter(index) for index, name in reversed(list(enumerate(grid.names)))}

    def short(cell: str) -> str:
        return letters.get(cell, cell)

    rows = tuple((*map(short, cells[: grid.words]), *cells[grid.words :]) for cells in grid.rows)
    return replace(grid, columns=tuple(map(short, grid.columns)), rows=rows, names=())


def _key(names: Sequence[str]) -> tuple[str, ...]:
    """A sentence for each letter: what it stands for."""
    return tuple(f"{letter(index)}: {name}" for index, name in enumerate(names) if names.index(name) == index)


def letter(index: int) -> str:
    """A, B, … Z, AA, AB, …"""
    return chr(ord("A") + index) if index < 26 else f"{letter(index // 26 - 1)}{letter(index % 26)}"


def as_markdown(grid: Grid) -> str:
    """A GitHub table, also aligned in the source."""
    rows = []
    for row, cells in enumerate(grid.shown):
        shown = [markdown_text(cell) if column < grid.words else _number(cell) for column, cell in enumerate(cells)]
        rows.append([f"**{text}**" if (row, column) in grid.best else text for column, text in enumerate(shown)])
    lines = pipe_table([markdown_text(name) for name in grid.columns], rows, grid.words, ruler=":")
    if grid.title:
        lines = [f"**{markdown_text(grid.title)}**", "", *lines]
    if grid.below:
        # Two spaces at the end of a line break it.
        lines += ["", *(f"{markdown_text(note)}  " for note in grid.below)]
    return "\n".join(lines) + "\n"


def as_latex(grid: Grid) -> str:
    """A booktabs tabular: the best of a column bold, the second underlined; a number's ± or [interval] is small."""
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
            text, how_sure = _parted(cell) if column >= grid.words else (cell, "")
            text = _latex_number(text) if column >= grid.words else _latex(text)
            if column == 0 and grid.marks:
                text += _latex_marks(*grid.marks[row])
            if (row, column) in grid.best:
                text = rf"\textbf{{{text}}}"
            elif (row, column) in grid.second:
                text = rf"\underline{{{text}}}"
            shown.append(rf"{text} {{\scriptsize {how_sure}}}" if how_sure else text)
        lines.append(" & ".join(shown) + r" \\")
    lines.append("\\bottomrule")
    marked = (f"{_latex_marks(number)} {_latex(note)}" for number, note in enumerate(grid.marked, start=1))
    below = (*marked, *map(_latex, grid.notes))
    lines.extend(rf"\multicolumn{{{len(grid.columns)}}}{{l}}{{\footnotesize {note}}} \\" for note in below)
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


def deciding(p: float, digits: int, chance: float = 0.05, rounding: Callable[[float], int] = round) -> str:
    """A p-value with as many digits as tell it from `chance`: 0.0496 is not 0.05."""
    for more in range(digits, 8):
        shown = rounding(round(p * 10**more, 6)) / 10**more
        if (shown < chance) == (p < chance) and (shown > chance) == (p > chance):
            break
    return f"{shown:.{more}f}"


def adding_up(values: Sequence[float | None], total: float, digits: int = 1) -> list[str]:
    """Fractions in percent, rounded so that what is printed adds up to `total` percent; ABSENT for None."""
    unit = 10**digits
    exact = [0.0 if value is None else 100 * value * unit for value in values]
    whole = [math.floor(value) for value in exact]
    order = sorted(range(len(exact)), key=lambda place: whole[place] - exact[place])
    for place in order[: max(0, round(total * unit) - sum(whole))]:
        whole[place] += 1
    return [
        ABSENT if value is None else f"{number / unit:.{digits}f}" for value, number in zip(values, whole, strict=True)
    ]


def signed(fraction: float | None, digits: int = 2) -> str:
    """Like `percent`, with + or -; 0 has no sign."""
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
    return "".join(_LATEX_SIGNS.get(sign, sign) for sign in plain(text))


def _latex_marks(*numbers: int) -> str:
    return f"$^{{{','.join(map(str, numbers))}}}$" if numbers else ""


def _parted(cell: str) -> tuple[str, str]:
    """A number and, as LaTeX, its uncertainty: ± and half a width, or both ends."""
    number, sign, half = cell.partition(" ± ")
    if sign:
        return number, rf"$\pm$ {_latex(half)}"
    number, bracket, ends = cell.partition(" [")
    return number, f"[{_latex(ends)}" if bracket else ""


def _latex_number(text: str) -> str:
    return f"${text}$" if re.fullmatch(r"[+-][\d.]+", text) else _latex(text)


def count(number: int | None) -> str:
    """A number of parameters, short: 958k, 1.05M, 44.0M, 216M."""
    if number is None:
        return ABSENT
    if number < 1_000_000:
        return f"{number / 1000:.0f}k"
    return f"{three_digits(number / 1e6)}M"


def three_digits(value: float) -> str:
    """A positive number below 1000 with its first three digits: 9.99, 99.9, 999."""
    return f"{value:.0f}" if value >= 99.95 else f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"
