"""Ground truth and predictions in tar files, Parquet and zips: the run is that of the plain folder, to the last bit."""

import json
import shutil
from pathlib import Path

import pytest
from sharded import KINDS, write_shards, zip_of
from support import panbench, ran

from panbench.runs import load_run
from panbench.scoring.folder import score_folder

SCENES = Path(__file__).resolve().parents[1] / "reference" / "pq_scenes"


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("PANBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    out = tmp_path_factory.mktemp("plain") / "run"
    return score_folder(SCENES / "gt.json", SCENES / "pred.json", out=out, boundary=True)


def assert_same(run, plain) -> None:
    assert run.table.to_arrow().equals(plain.table.to_arrow())
    assert json.dumps(run.summary()) == json.dumps(plain.summary()), "all seventeen digits"
    assert (run.info.dataset.rows, run.info.predictions.rows) == (
        plain.info.dataset.rows,
        plain.info.predictions.rows,
    )


def sides(kind: str, folder: Path, shards: int = 2) -> tuple[str, str]:
    for side in ("gt", "pred"):
        write_shards(kind, SCENES / f"{side}.json", folder / side, shards=shards, sized=kind != "tar")
    ending = "tar" if kind == "tar" else "parquet"
    return f"{folder}/gt/val-*.{ending}", f"{folder}/pred/val-*.{ending}"


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_shards_give_the_run_of_the_plain_folder(kind, shards, plain, tmp_path):
    gt, pred = sides(kind, tmp_path, shards)
    run = score_folder(gt, pred, out=tmp_path / "run", boundary=True)
    assert_same(load_run(tmp_path / "run"), plain)
    assert run.info.dataset.gt == (
        gt if shards > 1 else gt.replace("*", "000" if kind != "huggingface" else "00000-of-00001")
    )
    assert run.info.dataset.gt_dir == str(tmp_path / "gt")


@pytest.mark.parametrize("inner", ["stored", "deflated", "folder"])
def test_zips_give_the_run_of_the_plain_folder(inner, plain, tmp_path):
    for side in ("gt", "pred"):
        pngs = {f"{side}/{path.name}": path.read_bytes() for path in sorted((SCENES / side).glob("*.png"))}
        members = {f"sets/{side}.json": (SCENES / f"{side}.json").read_bytes()}
        if inner == "folder":
            members |= {f"sets/{name}": content for name, content in pngs.items()}
        else:
            zip_of(tmp_path / "inner.zip", pngs)
            members[f"sets/{side}.zip"] = (tmp_path / "inner.zip").read_bytes()
        zip_of(tmp_path / f"{side}.zip", members, 0 if inner == "stored" else 8)
    dirs = [
        f"{tmp_path}/{side}.zip/sets/{side}{'' if inner == 'folder' else f'.zip/{side}'}" for side in ("gt", "pred")
    ]
    jsons = [f"{tmp_path}/{side}.zip/sets/{side}.json" for side in ("gt", "pred")]
    run = score_folder(*jsons, *dirs, out=tmp_path / "run", boundary=True)
    assert_same(load_run(tmp_path / "run"), plain)
    assert run.info.dataset.gt == jsons[0]
    assert run.info.dataset.gt_dir == dirs[0]
    verified = ran("runs", "verify", tmp_path / "run")
    assert "The files of 16 images are unchanged" in verified.output


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_of_shards_is_verified_from_there(kind, tmp_path):
    gt, pred = sides(kind, tmp_path)
    score_folder(gt, pred, out=tmp_path / "run")
    verified = ran("runs", "verify", tmp_path / "run")
    assert "The files of 16 images are unchanged" in verified.output
    # Another id map under the same names: the shard is written anew with two keys swapped.
    other = tmp_path / "other"
    shutil.copytree(SCENES, other)
    names = sorted(path.name for path in (other / "gt").glob("*.png"))
    (other / "gt" / names[0]).write_bytes((SCENES / "gt" / names[2]).read_bytes())
    write_shards(kind, other / "gt.json", tmp_path / "gt", sized=kind != "tar")
    changed = panbench("runs", "verify", tmp_path / "run")
    assert changed.exit_code == 1
    assert "val-000" in changed.output


def test_shards_and_plain_files_stand_beside_each_other_and_merge_by_shard(plain, tmp_path):
    gt, pred = sides("tar", tmp_path)
    for number in (1, 2):
        score_folder(gt, pred, out=tmp_path / f"s{number}", shard=(number, 2), boundary=True)
    ran("runs", "merge", tmp_path / "s1", tmp_path / "s2", "--out", tmp_path / "all")
    assert_same(load_run(tmp_path / "all"), plain)
    ran("compare", tmp_path / "all", plain.path)


def test_a_shard_a_side_is_scored_by_itself_and_halves_merge(plain, tmp_path):
    sides("png", tmp_path)
    for number in range(2):
        pair = (tmp_path / side / f"val-00{number}.parquet" for side in ("gt", "pred"))
        score_folder(*pair, out=tmp_path / f"h{number}", boundary=True)
    ran("runs", "merge", tmp_path / "h0", tmp_path / "h1", "--out", tmp_path / "all")
    assert_same(load_run(tmp_path / "all"), plain)
