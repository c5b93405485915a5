"""What `--engine` and `--tasks` refuse, in one sentence and before anything is written."""

import sys
from pathlib import Path

import pytest
from support import panbench

from panbench.base.engines import spread_of
from panbench.base.errors import BadArgument

SCENES = Path(__file__).resolve().parents[2] / "reference" / "pq_scenes"


def test_an_engine_with_an_empty_address_is_refused():
    with pytest.raises(BadArgument, match="the address is missing"):
        spread_of("ray=", None)


def test_without_the_extra_the_line_that_installs_it_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "panbench.studies.on_ray.engine", raising=False)
    files = ["--gt", SCENES / "gt.json", "--pred", SCENES / "pred.json", "--out", tmp_path / "run"]
    refused = panbench("score", *files, "--engine", "ray")
    assert refused.exit_code == 2
    assert "This needs the extra ray (ray is not installed). Install with: pip install" in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--engine", "ray", "--tasks", "0"], "--tasks"),
        (["--engine", "ray", "--shard", "1/2"], "--engine shares the images out itself. Leave --shard out."),
        (["--tasks", "3"], "--tasks goes with --engine"),
        (["--engine", "dask"], "there is no engine 'dask'"),
    ],
)
def test_options_that_make_no_sense_are_refused_in_one_sentence(options, sentence, tmp_path):
    if options[0] == "--engine" and options[1] == "ray":
        pytest.importorskip("ray")
    out = tmp_path / "run"
    files = ["--gt", SCENES / "gt.json", "--pred", SCENES / "pred.json", "--out", out]
    refused = panbench("score", *files, *options)
    assert refused.exit_code == 2
    assert sentence in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1
    assert not out.exists()
