"""An option that would do nothing beside the others is refused, and what was typed is used or refused."""

import pytest
import typer
from little_runs import scored
from support import panbench, ran, refused

from panbench.cli.app import app

GT = dict.fromkeys(range(1, 13), "ppppqqqqssss")

ALWAYS = {
    "compare": {
        "--by", "--common-images", "--format", "--intervals", "--json", "--metrics", "--mixed", "--out",
        "--per-category", "--pixels", "--published", "--slices", "--tradeoffs", "--tradeoff-plot",
    },
    "metrics": {"--by", "--slices", "--per-category", "--per-image", "--json"},
    "errors": {"--most", "--slices", "--per-category", "--json"},
    "gate": {
        "--baseline", "--by", "--common-images", "--json", "--junit", "--max-drop", "--metrics", "--slices", "--strict",
        "--summary",
    },
    "relabel": {
        "--runs", "--gt-dir-a", "--gt-dir-b", "--category-map", "--common-images", "--suspects", "--out", "--json",
    },
}  # fmt: skip
"""Options that have an effect in any line of their command."""

IDLE = {
    "compare": {
        "--raw": ("compare", "RUN", "OTHER", "--raw", "--json"),
        "--digits": ("compare", "RUN", "OTHER", "--digits", "3", "--format", "csv"),
        "--baseline": ("compare", "RUN", "OTHER", "--baseline", "RUN", "--no-intervals"),
        "--detect": ("compare", "RUN", "OTHER", "--detect", "0.3"),
    },
    "metrics": {},
    "errors": {},
    "gate": {},
    "relabel": {
        "--pictured": ("relabel", "GT", "GT", "RUN", "--pictured", "3"),
        "--images": ("relabel", "GT", "GT", "RUN", "--images", "RUN"),
    },
}
"""Options that have none in some lines, each with such a line."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for name, marks in (("good", "ppppqqqqssss"), ("worse", "pppp....ssss")):
        scored(folder, name, GT, [marks for _ in GT])
    return folder


@pytest.mark.parametrize("command", sorted(ALWAYS))
def test_each_option_has_an_effect_or_a_line_in_which_it_is_refused(command):
    parameters = typer.main.get_command(app).commands[command].params
    options = {option for one in parameters for option in one.opts if option.startswith("--")} - {"--help"}
    assert options == ALWAYS[command] | set(IDLE[command])


@pytest.mark.parametrize("line", [line for lines in IDLE.values() for line in lines.values()], ids=" ".join)
def test_an_option_without_effect_is_refused_by_its_name(folder, line):
    named = {"RUN": folder / "good", "OTHER": folder / "worse", "GT": folder / "gt.json"}
    (option,) = (name for name in IDLE[line[0]] if IDLE[line[0]][name] == line)
    assert option in refused(*(named.get(word, word) for word in line))


def test_a_file_among_runs_that_were_typed_is_refused(folder, tmp_path):
    (tmp_path / "pred.json").write_text("{}")
    for command in (("compare", "--no-intervals"), ("runs", "verify")):
        said = refused(*command, folder / "good", tmp_path / "pred.json")
        assert "pred.json" in said


def test_files_that_a_shell_names_beside_runs_are_left_out_with_a_notice(folder):
    (folder / "table.csv").write_text("x")
    done = ran("compare", "--no-intervals", folder / "good", folder / "worse", folder / "table.csv")
    assert "Left out, as they are not runs" in " ".join(done.stderr.split())


def test_a_name_alone_is_looked_up_in_results(folder, tmp_path, monkeypatch):
    (tmp_path / "results").symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    assert "good" in ran("compare", "good", "worse", "--no-intervals").output
    assert panbench("gate", "good", "--baseline", "good").exit_code == 0
    assert "absent" in refused("metrics", "absent")
