"""An unknown word or option is answered in a sentence that says what was probably meant."""

import pytest
from support import panbench

from panbench.cli.export import FORMATS
from panbench.report.answers import export


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
        ("--nonsense", "`panbench --help` shows what it takes."),
        ("export word RUN --out x", "There is no format 'word' to export to."),
        ("export parquet RUN --out x --testset val2017", "--testset: only for coco-server."),
    ],
)
def test_what_there_is_not_is_answered_in_a_sentence(line, answer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = panbench(*line.split())
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("Error: ")
    assert answer in result.stderr
    assert result.stderr.count("\n") == 1, "one line and no box"


def test_a_folder_of_runs_may_be_called_as_people_call_commands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rm").mkdir()
    assert "There are no runs in rm." in panbench("runs", "rm").stderr


def test_help_of_a_command_is_shown_by_its_name():
    assert panbench("help", "eval").stdout == panbench("eval", "--help").stdout
    assert panbench("help").stdout.rstrip() == panbench("--help").stdout.rstrip()


def test_export_names_the_formats_that_it_writes():
    assert list(FORMATS) == list(export.FORMATS)
