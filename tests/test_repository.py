"""What holds of the repository's files as a whole."""

import csv
import functools
import re
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from scripts.bench import child
from scripts.bench.harness import compared
from scripts.check import simulate_intervals
from scripts.make.benchmark_tables import MARKED, RESULTS, documented, pages
from scripts.make.report_docs import _picture_of_whole_page

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a checkout")


@functools.cache
def contents() -> dict[str, bytes]:
    """The content of each tracked file, by its path."""
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return {name: (ROOT / name).read_bytes() for name in tracked.split("\0") if name and (ROOT / name).is_file()}


def test_no_file_holds_a_placeholder_for_an_address():
    placeholder = re.compile(rb"(?:github\.com|/github)/OWNE" rb"R\b|OWNE" rb"R/\w")
    assert [name for name, content in contents().items() if placeholder.search(content)] == []


def test_documents_install_from_the_clone_or_an_address_as_long_as_no_index_has_panbench():
    files = [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("notebooks/*.ipynb"),
        *ROOT.glob(".github/**/*.yml"),
    ]
    from_an_index = re.compile(
        r"""pip install (?:-\S+ )*['"]?panbench(?:\[[a-z0-9,]+\])?(?! @)(?:['"`\s]|$)""", re.MULTILINE
    )
    assert from_an_index.search("pip install 'panbench[cloud]'")
    assert from_an_index.search("pip install panbench\n")
    assert not from_an_index.search("pip install 'panbench @ git+https://host/panbench'")
    found = {f"{file.name}: {line}" for file in files for line in from_an_index.findall(file.read_text("utf-8"))}
    assert not found


def test_the_readme_of_scripts_has_a_line_for_each_program():
    scripts = ROOT / "scripts"
    programs = {path for path in scripts.rglob("*.*") if path.suffix in (".py", ".sh") and path.name != "__init__.py"}
    folder, listed = scripts, set()
    for line in (scripts / "README.md").read_text("utf-8").splitlines():
        if heading := re.match(r"## (\w+)/", line):
            folder = scripts / heading[1]
        elif line.startswith("|"):
            listed.update(folder / name for name in re.findall(r"`(\w+\.(?:py|sh))`", line.split("|")[1]))
        elif line.startswith("`"):
            listed.add(scripts / line.split("`")[1])
    assert {str(path.relative_to(ROOT)) for path in listed} == {str(path.relative_to(ROOT)) for path in programs}


def test_every_script_that_a_file_names_exists():
    named = re.compile(rb"\bscripts/[\w/]+\.(?:py|sh)\b")
    pairs = {(file, name.decode()) for file, content in contents().items() for name in named.findall(content)}
    assert not [f"{file} names {name}" for file, name in pairs if not (ROOT / name).is_file()]


BENCH = ROOT / "scripts" / "bench"
# One drives a browser, the others are what all share.
APART = {"report_questions", "harness", "child", "__init__"}
MADE = re.search(r"^BENCHMARKS := ((?:.*\\\n)*.*)$", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)[1]


def csvs_of(program: str) -> set[str]:
    """The tables that a benchmark writes."""
    source = (BENCH / f"{program}.py").read_text("utf-8")
    return {name for name, write in re.findall(r'finish\("([^"]+)", .*?, ([\w=.]+)', source) if write != "write=False"}


def test_tables_of_benchmarks_equal_the_recorded_files():
    marked = [name for text in pages().values() for _, name, _ in MARKED.findall(text)]
    assert sorted(marked) == sorted(path.stem for path in RESULTS.glob("*.csv"))
    for path, text in pages().items():
        assert documented(text) == text, f"{path.name}: run scripts/make/benchmark_tables.py"


def test_each_benchmark_of_make_has_its_table_in_the_documents():
    programs = MADE.replace("\\\n", " ").split()
    marked = {name for text in pages().values() for _, name, _ in MARKED.findall(text)}
    assert len(programs) >= 10
    assert {program: csvs_of(program) - marked for program in programs} == {program: set() for program in programs}
    assert all(csvs_of(program) for program in programs)


def test_every_benchmark_uses_the_harness():
    shared = re.compile(r"^from scripts.bench.harness import .*\barguments\b.*\bfinish\b", re.MULTILINE)
    assert {path.stem for path in BENCH.glob("*.py") if not shared.search(path.read_text())} <= APART


def test_a_number_typed_into_a_benchmark_table_is_restored():
    (page,) = (text for text in pages().values() if "<!-- benchmark: rules -->" in text)
    typed = page.replace("| mask2former |", "| mask2former | 1")
    assert typed != page
    assert documented(typed) == page


def test_a_page_too_tall_for_webp_is_cut_off_below():
    taken = {}
    page = SimpleNamespace(
        evaluate=lambda words: [400, 20_000], screenshot=lambda **settings: taken.update(settings) or b"PNG"
    )
    assert _picture_of_whole_page(page) == b"PNG"
    assert taken == {"full_page": True, "clip": {"x": 0, "y": 0, "width": 400, "height": 16_383}}


def test_ratios_of_rounds_are_reported_by_median_and_range():
    assert compared([2.0, 9.0, 8.0], [1.0, 3.0, 2.0]) == {"ratio": "3.00", "from–to": "2.00–4.00"}


def test_work_in_its_own_process_is_measured_without_preparation():
    spent = child.in_child(child.panbench, "--version")
    assert (spent.cpu > 0, spent.clock > 0, spent.megabytes > 10, spent.answer) == (True, True, True, None)


def test_a_failing_command_ends_its_benchmark_with_its_message():
    with pytest.raises(SystemExit, match="There is no command"):
        child.in_child(child.panbench, "no-such-command")


def test_the_readmes_numbers_are_those_of_tests_and_recorded_tables():
    text = " ".join((ROOT / "README.md").read_text("utf-8").split())
    source = (ROOT / "tests" / "metrics" / "test_pq.py").read_text("utf-8")
    examples, each = re.search(
        r"max_examples=(\d+).*\n@given\(st.lists\(scene\(\), min_size=(\d+).*\ndef test_random_scenes_score_as", source
    ).groups()
    assert f"on {int(examples) * int(each):,} random scenes" in text
    rows = {row["500 images"]: row for row in table("score")}
    assert f"a {float(rows['panbench, cold']['× by the clock']):.1f}th of panopticapi's time" in text
    three = {"Panoptic FPN R50", "MaskFormer R50", "Mask2Former R50"}
    ratios = [float(row["ratio"]) for row in table("families") if row["model"] in three]
    assert len(ratios) == 3
    assert f"{min(ratios):.1f} to {max(ratios):.1f} times as fast as in mmdet's own loop" in text


def table(name: str) -> list[dict[str, str]]:
    with (RESULTS / f"{name}.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_tables_of_simulations_equal_the_recorded_files():
    page = (ROOT / "docs" / "simulations.md").read_text("utf-8")
    assert set(simulate_intervals.PARTS) == {path.stem for path in simulate_intervals.TABLES.glob("*.csv")}
    assert [
        name for name in simulate_intervals.PARTS if f"\n{simulate_intervals.markdown_table(name)}\n\n" not in page
    ] == []
