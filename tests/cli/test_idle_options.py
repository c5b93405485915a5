"""An option that would do nothing beside the others is refused, and what was typed is used or refused."""

from collections.abc import Iterable, Iterator
from typing import Any

import pytest
import typer
from little_runs import scored
from support import commands, panbench, ran, refused

from panbench.cli.app import app

COMMANDS = dict(commands(typer.main.get_command(app)))

GT = dict.fromkeys(range(1, 13), "ppppqqqqssss")

ALWAYS = """
eval: --model --config --checkpoint --images --gt --limit --exif --download --device --batch-size --precision --rule
    --gpus --out --overwrite --resume --skip-bad-images --save-predictions --json --metrics --keep-candidates --corrupt
    --tta --layers --size --engine --category-map
score: --semantic --gt-dir --out --shard --json --allow-missing --workers --max-pixels --metrics --engine
    --category-map
predict: --model --config --checkpoint --out --download --device --rule --view --exif --format --names --opacity --width
    --dpi --overwrite
bench: --model --config --checkpoint --download --plant --count --images --device --rule --precision --batch-size
    --warm-up --out --json
fuse: --arrays --instances --rule --sweep --oracle --out --json
ensemble: --out --way --shares --tune --name --overwrite --resume --workers --json
compare: --format --out --by --slices --per-category --published --intervals --common-images --mixed --json --metrics
    --pixels --tradeoffs
metrics: --by --slices --per-category --per-image --json
errors: --most --slices --per-category --json
calibration: --target --per-category --json
robustness: --plot --out --json
relabel: --runs --gt-dir-a --gt-dir-b --category-map --common-images --suspects --out --json
gate: --baseline --max-drop --metrics --by --slices --strict --common-images --summary --junit --json
reproduce: --run --page
report: --out --title --examples --image --common-images --slices --published --open --images --gt --gt-dir
show overlay: --image --out --truth --view --names --opacity --width --dpi --images --gt --gt-dir
show side-by-side: --image --out --columns --view --colors --names --opacity --width --dpi --images --gt --gt-dir
show diff: --image --out --view --names --width --dpi --images --gt --gt-dir
show errors: --out --against --cause --category --size --most --columns --width --dpi --images --gt --gt-dir
show plot: --out --csv --width --dpi --font --font-size --common-images
show attention: --model --photo --run --query --category --layer --out
serve: --port --open --token --images --gt --gt-dir
site: --out --title --examples
data coco: --split --limit --root --keep-archives --from
data check: --images --gt-dir --limit --json
data cityscapes: --root --split --place --overwrite
data ade20k: --root --split --place --overwrite
data mapillary: --release --root --split --place --overwrite
data kitti-step: --root --split --place --overwrite
data coconut: --gt-dir --root --split --place --overwrite
data convert: --out --overwrite
runs list: --json
runs delete: --yes
runs verify: --json
runs finish:
runs merge: --out --allow-missing --overwrite --json
export: --out --overwrite
models: --download
doctor: --json
"""
"""Options that have an effect in any line of their command, or only allow what a line may come to need."""

IDLE = {
    "eval --labels": "eval --model mask2former-tiny --labels FILE",
    "eval --shard": "eval --model mask2former-tiny --images FOLDER --shard 1/2",
    "predict --labels": "predict FILE --model mask2former-tiny --labels FILE",
    "bench --labels": "bench --model mask2former-tiny --labels FILE",
    "score --resume": "score --gt GT --pred GT --resume",
    "ensemble --rule": "ensemble RUN OTHER --out NEW --way votes --rule argmax",
    "ensemble --keep-candidates": "ensemble RUN OTHER --out NEW --way votes --keep-candidates",
    "compare --raw": "compare RUN OTHER --raw --json",
    "compare --digits": "compare RUN OTHER --digits 3 --format csv",
    "compare --baseline": "compare RUN OTHER --baseline RUN --no-intervals",
    "compare --tradeoff-plot": "compare RUN OTHER --tradeoff-plot p.png",
    "compare --detect": "compare RUN OTHER --detect 0.3",
    "show errors --slice": "show errors RUN --slice night",
    "show errors --slices": "show errors RUN --slices FILE",
    "show plot --published": "show plot causes RUN --published all",
    "show attention --image": "show attention --model mask2former-tiny --photo FILE --image 3",
    "data coco --instances": "data coco --split test-dev --instances --root NEW",
    "data check --split": "data check GT --split train",
    "export --testset": "export csv RUN --out NEW --testset val2017",
    "export --algorithm": "export csv RUN --out NEW --algorithm mine",
    "export --image-list": "export csv RUN --out NEW --image-list FILE",
}
"""Options that have none in some lines, each with such a line; beside those whose commands declare it."""


def of_options(names: Iterable[str]) -> list[str]:
    return [name for name in names if name.startswith("--")]


def always() -> dict[str, set[str]]:
    lines = ALWAYS.replace("\n    ", " ").strip().splitlines()
    return {command: set(options.split()) for command, _, options in (line.partition(":") for line in lines)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for name, marks in (("good", "ppppqqqqssss"), ("worse", "pppp....ssss")):
        scored(folder, name, GT, [marks for _ in GT])
    return folder


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_each_option_has_an_effect_or_is_refused(path):
    command, name = COMMANDS[path], " ".join(path)
    options = {one.opts[0] for one in command.params if one.param_type_name == "option"} - {"--help"}
    idle = {option.rpartition(" ")[2] for option in IDLE if option.rpartition(" ")[0] == name}
    assert options == always()[name] | idle | {*of_options(command.needs), *command.idle_beside}


@pytest.mark.parametrize("option", IDLE)
def test_an_option_without_effect_is_refused_by_its_name(folder, option, monkeypatch):
    monkeypatch.chdir(folder)
    (folder / "file").write_text("x")
    named = {"RUN": "good", "OTHER": "worse", "GT": "gt.json", "FILE": "file", "NEW": "new", "FOLDER": "."}
    said = refused(*(named.get(word, word) for word in IDLE[option].split()))
    assert option.rpartition(" ")[2] in said
    assert not (folder / "new").exists()


def declared(path: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Each option that a command declares to do nothing in some lines, with what follows it in such a line."""
    command = COMMANDS[path]
    yield from ((name, "") for name in of_options(command.needs))
    yield from ((name, word) for name, words in command.idle_beside.items() for word in words)


@pytest.mark.parametrize("path", [path for path in COMMANDS if any(declared(path))], ids=" ".join)
def test_options_that_a_command_declares_idle_are_refused(path):
    command = COMMANDS[path]
    by_name = {name: one for one in command.params for name in (*one.opts, *one.secondary_opts)}

    def typed(name: str) -> list[str]:
        param = by_name[name]
        return [name] if param.is_flag else [name, sample(param)]

    for option, beside in declared(path):
        of_argument = bool(beside) and not beside.startswith("--")
        line = [
            word
            for param in command.params
            if param.required and param.opts[0] != option
            for word in ([sample(param)] if param.param_type_name == "argument" else typed(param.opts[0]))
        ]
        if of_argument:
            line[0] = beside
        for name, words in command.needs.items():
            if name in line and beside not in words:
                line += typed(words[0])
        more = beside.split() if " " in beside else typed(beside) if beside and not of_argument else []
        said = refused(*path, *line, *more, *typed(option))
        assert f"{option} has no effect {'with ' + beside if beside else 'without'}" in said


def sample(param: Any) -> str:
    """A value that an option or argument takes: of choices the first."""
    words = str(param.metavar or "")
    return "arrays" if param.name == "format" else words.split("|")[0] if words.islower() else "1"


def test_a_file_among_runs_that_were_typed_is_refused(folder, tmp_path):
    (tmp_path / "pred.json").write_text("{}")
    for command in (("compare", "--no-intervals"), ("runs", "verify")):
        said = refused(*command, folder / "good", tmp_path / "pred.json")
        assert "pred.json" in said


def test_files_that_a_shell_names_beside_runs_are_left_out_with_a_notice(folder):
    (folder / "table.csv").write_text("x")
    done = ran("compare", "--no-intervals", folder / "good", folder / "worse", folder / "table.csv")
    assert "Left out, as they are not runs" in " ".join(done.stderr.split())


@pytest.mark.parametrize(
    "line",
    [
        ("robustness", "good"),
        ("compare", "good", "worse", "--tradeoffs"),
        ("compare", "good", "worse", "--metrics", "AP"),
        ("show", "attention", "--run", "good", "--image", "1"),
    ],
    ids=" ".join,
)
def test_commands_that_need_a_model_refuse_scored_predictions(folder, line, monkeypatch):
    monkeypatch.chdir(folder)
    assert "good holds scored predictions: there is no model to" in refused(*line)


def test_the_error_command_of_a_scored_run_has_the_missing_folders(folder):
    assert f"`panbench show errors {folder / 'worse'} --images DIR`" in ran("errors", folder / "worse").output


def test_a_bare_name_is_searched_in_results(folder, tmp_path, monkeypatch):
    (tmp_path / "results").symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    assert "good" in ran("compare", "good", "worse", "--no-intervals").output
    assert panbench("gate", "good", "--baseline", "good").exit_code == 0
    assert "absent" in refused("metrics", "absent")
