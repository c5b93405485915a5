"""An unknown word or option is answered in a sentence that says what was probably meant."""

import shutil

import pytest
import typer
from little_runs import write_side
from PIL import Image
from support import commands, one_sentence, panbench, ran

from panbench.base.shards import Shard
from panbench.cli.app import app
from panbench.cli.export import FORMATS
from panbench.cli.words import shortest_usage
from panbench.report.answers import export
from panbench.scoring.folder import score_folder

COMMANDS = dict(commands(typer.main.get_command(app)))


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("verify results/a", "Did you mean `panbench runs verify`?"),
        ("list", "`panbench runs` lists stored runs, `panbench models` the models."),
        ("download", "`panbench models --download NAME` fetches weights"),
        ("plot causes", "Did you mean `panbench show plot`?"),
        ("overlay", "Did you mean `panbench show overlay`?"),
        ("evl", "Did you mean `panbench eval`?"),
        ("mask2former-tiny", "Did you mean `panbench eval --model mask2former-tiny`?"),
        ("xyzzy", "`panbench --help` lists the commands."),
        ("runs rm results/a", "Did you mean `panbench runs delete`?"),
        ("runs delte results/a", "Did you mean `panbench runs delete`?"),
        ("data download", "Did you mean `panbench data coco`?"),
        ("show picture", "`panbench show --help` lists the commands."),
        ("eval mask2former-tiny", "Did you mean --model mask2former-tiny?"),
        ("eval mask2fromer-tiny", "Did you mean --model mask2former-tiny?"),
        ("eval mine.py", "Did you mean --config mine.py?"),
        ("eval shapes", "Did you mean --data shapes?"),
        ("eval --modell x", "Did you mean --model?"),
        ("eval --fp16", "No such option: --fp16. `panbench eval --help` shows what it takes."),
        ("validate data/coco", "Did you mean `panbench data check` for a dataset"),
        ("eval -m mask2former-tiny --limit 0", "--limit is '0'; give a number of images"),
        ("score --pred p.json", "The shortest form is `panbench score --gt FILE --pred FILE`."),
        ("gate new old", "The shortest form is `panbench gate RUN --baseline RUN`."),
        ("show diff a", "The shortest form is `panbench show diff A B --image ID`."),
        ("data coco --split test", "Invalid value for '--split': 'test' is not one of"),
        ("--nonsense", "`panbench --help` shows what it takes."),
        ("export word RUN --out x", "There is no format 'word' to export to."),
        ("export parquet RUN --out x --testset val2017", "--testset: only for coco-server."),
    ],
)
def test_unknown_names_are_answered_in_one_sentence(line, answer, tmp_path):
    assert answer in one_sentence(*line.split(), cwd=tmp_path)


def test_a_folder_of_runs_may_have_the_name_of_a_command(tmp_path):
    (tmp_path / "rm").mkdir()
    assert "There are no runs in rm." in panbench("runs", "rm", cwd=tmp_path).stderr


def test_help_of_a_command_is_shown_by_its_name():
    assert panbench("help", "eval").stdout == panbench("eval", "--help").stdout
    assert panbench("help").stdout.rstrip() == panbench("--help").stdout.rstrip()


def test_export_names_the_formats_that_it_writes():
    assert list(FORMATS) == list(export.FORMATS)


SMALL = {
    **{"FILE": "gt.json", "GT_A": "gt.json", "GT_B": "gt.json", "PATH": "gt.json", "IMAGE...": "val/1.jpg"},
    **{"RUN": "worse", "RUN...": "worse good", "SHARD...": "first second", "A": "good", "B": "worse"},
    **{"DIR": "new", "DIR|FILE": "new", "ID": "1", "ID|worst:N": "worst:1", "KIND": "causes"},
    "NAME": "mask2former-tiny",
}
"""What stands for a word of the help among the small files of `folder`."""

OF_COMMAND = {
    "export": {"FORMAT": "csv"},
    "data convert": {"FORMAT": "panoptic", "SOURCE...": "gt.json", "PATH": "new"},
}

ASK_FOR_MORE = {
    *("eval", "bench", "fuse", "reproduce", "show attention"),  # one of several, which they name
    *(
        "data coco",
        "data cityscapes",
        "data ade20k",
        "data mapillary",
        "data kitti-step",
        "data coconut",
    ),  # owners' files
    *("models", "doctor", "serve", "runs list", "runs delete", "robustness"),
}
"""Commands that need nothing, a terminal, or files that are not small."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    rows = dict.fromkeys(range(1, 13), "ppppqqqqssss")
    truth = write_side(folder, "gt", rows)
    (folder / "val").mkdir()
    for image_id in rows:
        Image.new("RGB", (12, 1)).save(folder / "val" / f"{image_id}.jpg")
    for name, marks in (("good", "ppppqqqqssss"), ("worse", "pppp....ssss")):
        pred = write_side(folder, f"{name}-pred", dict.fromkeys(rows, marks), dict.fromkeys("pqs", 0.9))
        score_folder(truth, pred, out=folder / name, images=folder / "val")
    for number, name in enumerate(("first", "second"), 1):
        score_folder(truth, folder / "good-pred.json", out=folder / name, shard=Shard(number, 2))
    return folder


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, id=" ".join(path), marks=[pytest.mark.slow] if path == ("predict",) else [])
        for path in COMMANDS
        if " ".join(path) not in ASK_FOR_MORE
    ],
)
def test_the_shortest_form_that_help_names_runs_as_it_is_typed(path, folder, tmp_path, monkeypatch):
    shutil.copytree(folder, tmp_path / "small")
    monkeypatch.chdir(tmp_path / "small")
    name = " ".join(path)
    context = COMMANDS[path].context_class(COMMANDS[path], info_name=f"panbench {name}")
    words = shortest_usage(context).split()[1 + len(path) :]
    small = {**SMALL, **OF_COMMAND.get(name, {})}
    line = " ".join(word if word.startswith("--") else small[word] for word in words)
    ran(*path, *line.split())
