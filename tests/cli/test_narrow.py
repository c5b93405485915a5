"""What a terminal of 80 columns shows: tables that fit, names that are whole, nothing twice."""

import io
import re
from itertools import combinations

import pytest
from little_runs import balls
from rich.console import Console
from support import panbench, ran

from panbench.base.text import with_sign
from panbench.datasets import shapes
from panbench.report.answers.grid import Grid, as_text, as_texts, sentence_text

LONG = [f"coco-mask2former-swin-large-{number:02d}-of-the-night" for number in range(5)]


def shown(*contents, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(*contents, sep="\n", crop=False)
    return console.file.getvalue()


def fits(text: str) -> bool:
    return max(map(len, text.splitlines())) <= 80


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return [balls(folder / name, images=40, hits=hits) for name, hits in zip(LONG, (20, 10, 40, 5, 30), strict=True)]


def test_gate_by_size_fits_a_narrow_terminal_and_names_both_runs(runs):
    result = panbench("gate", runs[0], "--baseline", runs[2], "--by", "size", columns=80)
    assert fits(result.stdout), result.stdout
    assert f"PQ of {LONG[0]} against" in result.stdout
    assert "detectable" in result.stdout, "what does not fit stands in a further table"


def test_the_list_of_runs_has_one_line_per_run(runs):
    folder = runs[0].parent
    text = panbench("runs", ".", columns=80, cwd=folder).stdout
    assert fits(text)
    for name in LONG:
        assert len([line for line in text.splitlines() if line.startswith(name)]) == 1
    assert "Left out on this narrow screen: model" in text
    assert "2026" not in text or "begun" in text
    wide = panbench("runs", folder, columns=160).stdout
    assert "model" in wide
    assert "Left out" not in wide


def test_letters_follow_the_ranks_and_are_explained_once(runs):
    text = panbench("compare", *runs, columns=80).stdout
    assert fits(text)
    pairs = [line.split()[:2] for line in re.findall(r"^[A-E] .* PQ .*", text, re.MULTILINE)]
    assert pairs == [list(pair) for pair in combinations("ABCDE", 2)]
    assert re.search(rf"^A: .*{LONG[2][5:]}", text, re.MULTILINE | re.IGNORECASE), "the best run is A"
    assert len(re.findall(r"^A: ", text, re.MULTILINE)) == 1


@pytest.fixture
def seeds(tmp_path):
    names = ("mask2former-swin-large-of-the-night", "panoptic-fpn-r101-of-the-night-3x")
    for name, hits in zip(names, (30, 12), strict=True):
        for seed in range(3):
            balls(tmp_path / f"{name}@seed{seed}", images=40, hits=hits + 2 * seed)
    return [tmp_path / f"{name}@seed*" for name in names]


def test_tables_of_seeds_fit_without_cutting_numbers_or_names(seeds):
    text = panbench("compare", *seeds, columns=80).stdout
    assert fits(text), text
    for heading in ("Model", "seeds", "spread", "95 % interval", "PQ_th", "Better", "of seeds", "seeds for 0.5"):
        assert heading in text
    for letter, pattern in zip("AB", seeds, strict=True):
        assert f"{letter}: {pattern.name.partition('@')[0]}\n" in text
    wide = panbench("compare", *seeds, columns=200).stdout
    numbers = re.compile(r"[-+]?\d+\.\d+")
    assert len(numbers.findall(wide)) > 20
    assert sorted(numbers.findall(text)) == sorted(numbers.findall(wide)), "no number is cut or left out"


@pytest.mark.parametrize(("parts", "message"), [(1, "1 part is unchanged."), (2, "2 parts are unchanged.")])
def test_a_run_of_one_part_is_reported_as_one_part(tmp_path, parts, message):
    run = balls(tmp_path / "run", images=parts, hits=1, parts=parts)
    assert len(list((run / "parts").iterdir())) == parts
    text = ran("runs", "verify", run, columns=80).stdout
    assert fits(text)
    assert f"  {message}\n" in text
    assert "1 parts" not in text


def test_a_dataset_without_a_split_is_shown_by_its_name(tmp_path):
    folder = tmp_path / "pan"
    shapes.generate(folder, count=2)
    truth = (folder / "annotations" / "panoptic_val.json").rename(folder / "annotations" / "pan.json")
    (folder / "annotations" / "panoptic_val").rename(folder / "annotations" / "pan")
    words = ("eval", "--model", "panoptic-fpn-tiny", "--checkpoint", "random", "--device", "cpu", "--gt", truth)
    result = ran(*words, "--images", folder / "val", "--out", tmp_path / "run", columns=80)
    said = " ".join(result.stderr.split())
    assert " on 2 images of pan: " in said
    assert " :" not in said


def test_rows_of_several_rules_have_model_and_rule():
    from panbench.report.answers.tables import ComparisonRow, labels

    rows = [
        ComparisonRow(run=rule, title="mask2former", rule=rule) for rule in ("mask2former", "transformers:score=0.5")
    ]
    assert labels(rows) == ["mask2former [mask2former]", "mask2former [transformers]"]


def test_words_in_notes_are_not_cut():
    path = "results/" + "a-folder-with-a-name-that-is-longer-than-any-terminal-is-wide/" * 2 + "run.json"
    note = f"Problem: {path} holds no JSON, so nothing of it is shown here, whatever it was about."
    for content in (as_text(Grid(("a",), (("b",),), notes=(note,))), sentence_text(note)):
        lines = shown(content).splitlines()
        assert path in lines
        assert all(len(line) <= 80 for line in lines if line != path)


def test_columns_that_do_not_fit_go_into_another_table():
    numbers = tuple(f"column{index:02d}" for index in range(12))
    grid = Grid(("Model", *numbers), (("mask2former", *numbers),))
    text = shown(as_text(grid))
    assert fits(text)
    assert text.count("mask2former") > 1
    assert [name for name in numbers if name not in text] == []
    assert shown(as_text(grid), width=200).count("mask2former") == 1


def test_optional_columns_are_dropped_in_order_and_named():
    grid = Grid(("run", "model", "size"), (("r" * 40, "m" * 30, "s" * 20),), words=3, spare=("size", "model"))
    text = shown(as_text(grid))
    assert "m" * 30 in text
    assert "s" * 20 not in text
    assert "Left out on this narrow screen: size; --json has them." in text


def test_a_changed_key_of_names_is_printed_again():
    def grid(names):
        return Grid(("row", *names), tuple((name, *["1"] * len(names)) for name in names), names=tuple(names))

    first, same, other = as_texts([grid(LONG), grid(LONG), grid(LONG[:4])])
    assert "A: " in shown(first)
    assert "A: " not in shown(same)
    assert "A: " in shown(other)


def test_no_number_is_printed_as_minus_zero():
    shown = {-0.001: "0.00", 0.0: "0.00", 0.004: "0.00", -0.25: "-0.25", 1.5: "+1.50"}
    assert {number: with_sign(number) for number in shown} == shown
