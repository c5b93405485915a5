import io

import pytest
from rich.console import Console

from panbench.report.answers.grid import Grid, as_latex, as_markdown, as_text, percent, signed, superscript


def text_of(renderable, width: int = 80) -> str:
    console = Console(width=width, file=io.StringIO(), highlight=False)
    console.print(renderable, crop=False)
    return console.file.getvalue()


GRID = Grid(
    columns=("Model", "PQ", "diff"),
    rows=(("first model", "51.87", "-0.13"), ("second", "–", "+1.00")),
    marks=((1,), ()),
    marked=("Why",),
    best=frozenset({(0, 1)}),
    second=frozenset({(1, 2)}),
)


def test_numbers_are_right_aligned_and_words_left_aligned():
    lines = text_of(as_text(GRID)).splitlines()
    assert [line.rstrip() for line in lines] == [
        "Model            PQ   diff",
        "──────────────────────────",
        "first model¹  51.87  -0.13",
        "second            –  +1.00",
        "¹ Why",
    ]


@pytest.mark.parametrize("width", [10, 20, 26, 80])
def test_a_narrow_terminal_never_cuts_a_number(width):
    shown = text_of(as_text(GRID), width)
    assert "51.87" in shown
    assert "-0.13" in shown
    assert "…" not in shown


LONG = ("my_mask2former_swin_large_seed3", "my_panoptic_fpn_resnext_seed4")
NAMED = Grid(
    columns=("Better", "than", "by"),
    rows=((LONG[1], LONG[0], "+1.00"), (LONG[0], LONG[1], "+2.00")),
    words=2,
    marks=((1, 2), ()),
    marked=("Why", "How"),
    names=LONG,
)


def test_letters_replace_names_that_make_a_table_too_wide():
    assert [line.rstrip() for line in text_of(as_text(NAMED), 60).splitlines()] == [
        "Better  than     by",
        "───────────────────",
        "B¹,²    A     +1.00",
        "A       B     +2.00",
        f"A: {LONG[0]}",
        f"B: {LONG[1]}",
        "¹ Why",
        "² How",
    ]
    assert LONG[0] in text_of(as_text(NAMED), 90).splitlines()[2]
    assert "A:" not in text_of(as_text(NAMED), 90)


@pytest.mark.parametrize("width", [30, 40, 60])
def test_words_wrap_at_spaces_and_after_path_separators(width):
    grid = Grid(
        ("run", "what it is", "PQ"), (("results/two/mask2former-tiny", "a model of some words", "1.00"),), words=2
    )
    lines = text_of(as_text(grid), width).splitlines()
    assert max(map(len, lines)) <= width
    pieces = {"results/two/mask2former-tiny".find(line.split("  ")[0].strip()) for line in lines[2:] if line[0] != " "}
    assert pieces <= {0, *(place + 1 for place, sign in enumerate("results/two/mask2former-tiny") if sign in "/-")}


def test_markdown_is_aligned_and_bold():
    assert as_markdown(GRID).splitlines() == [
        "| Model        |        PQ |  diff |",
        "| :----------- | --------: | ----: |",
        "| first model¹ | **51.87** | -0.13 |",
        "| second       |         – | +1.00 |",
        "",
        "¹ Why  ",
    ]


def test_latex_is_booktabs_with_marks_bold_and_underline():
    assert as_latex(GRID).splitlines()[1:] == [
        r"\begin{tabular}{lrr}",
        r"\toprule",
        r"Model & PQ & $\Delta$ \\",
        r"\midrule",
        r"first model$^{1}$ & \textbf{51.87} & $-0.13$ \\",
        r"second & -- & \underline{$+1.00$} \\",
        r"\bottomrule",
        r"\multicolumn{3}{l}{\footnotesize $^{1}$ Why} \\",
        r"\end{tabular}",
    ]


def test_a_title_is_printed_above_the_table():
    titled = Grid(("Model",), (("a",),), title="PQ by <size>")
    assert text_of(as_text(titled)).startswith("PQ by <size>\n")
    assert as_markdown(titled).startswith(r"**PQ by \<size\>**")


def test_absent_numbers_are_dashes_and_zero_has_no_sign():
    assert percent(None) == percent(float("nan")) == signed(None) == "–"
    assert signed(0.0) == signed(-0.00001) == "0.00"
    assert (signed(0.5), signed(-0.5, 1)) == ("+50.00", "-50.0")


def test_marks_are_superscripts():
    assert superscript(12) == "¹²"
