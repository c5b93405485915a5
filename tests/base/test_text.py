"""Text of unknown origin is made safe to show; sentences list a few of many."""

import csv
import io

import pandas as pd
import pytest

from panbench.base.text import capitalised, for_spreadsheet, listed, plain


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]0;title\x07\x1b[31mred", r"\x1b]0;title\x07\x1b[31mred"),
        ("\x9b2J", r"\x9b2J"),
        ("back\rover", r"back\rover"),
        ("abc\u202egnp.exe", r"abc\u202egnp.exe"),
        ("bytes \udcff", r"bytes \udcff"),
    ],
)
def test_terminal_control_characters_are_escaped(text, shown):
    assert plain(text) == shown


def test_ordinary_text_is_not_changed():
    text = "Zürich – 图像.png\n\tИ × ≤ 😀"
    assert plain(text) == text


@pytest.mark.parametrize("text", ["=HYPERLINK(1)", "+1", "-x", "@SUM(A1)", "\t=1", "\r=1"])
def test_formulas_are_quoted_for_spreadsheets(text):
    assert for_spreadsheet(text) == f"'{plain(text)}"


def test_control_characters_of_a_cell_are_escaped():
    assert for_spreadsheet("a\x1b[2J\x9b=1") == r"a\x1b[2J\x9b=1"


@pytest.mark.parametrize("value", [-0.5, -3, None, True, "mask2former-r50", "", "a=b"])
def test_numbers_and_other_text_are_not_quoted(value):
    assert for_spreadsheet(value) is value


def test_numbers_round_trip_through_csv():
    handle = io.StringIO()
    writer = csv.writer(handle)
    writer.writerow(["name", "difference"])
    writer.writerow([for_spreadsheet("-evil"), for_spreadsheet(-0.1234567890123456)])
    handle.seek(0)
    assert pd.read_csv(handle)["difference"].tolist() == [-0.1234567890123456]


def test_long_lists_are_shortened():
    assert listed(range(3)) == "0, 1, 2"
    assert listed(range(13)) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 3 more"


@pytest.mark.parametrize(
    "name", ["results/a is incomplete.", "mask2former-r50 failed.", "--limit was given.", "a.json: no"]
)
def test_paths_and_names_are_not_capitalised(name):
    assert capitalised(name) == name


def test_sentences_are_capitalised():
    assert capitalised("some images are missing") == "Some images are missing"
    assert capitalised("") == ""
