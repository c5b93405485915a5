"""`compare 'a@seed*' 'b@seed*'`: which runs a pattern takes, what is said, and what is refused."""

import io
import json
import math
import shutil
from pathlib import Path

import pandas as pd
import pytest
from little_runs import scored
from support import edited, panbench, ran, refused

from panbench.report.answers.patterns import is_pattern
from panbench.studies.seeds.answer import expand_seed_patterns

N = 30
GT = dict.fromkeys(range(N), "ppppddddssss")
MISSED = "pppp....ssss"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three seeds of m2f, which miss 2, 3, 4 dogs; three of pfpn, which miss 12, 13, 14; one of detr."""
    folder = tmp_path_factory.mktemp("seeds")
    for name, missed in (
        *((f"m2f@seed{seed}", 2 + seed) for seed in range(3)),
        *((f"pfpn@seed{seed}", 12 + seed) for seed in range(3)),
        ("detr@seed0", 8),
    ):
        # Other images for each seed: what a seed misses is its own.
        start = sum(map(ord, name)) % N
        chosen = {(start + step) % N for step in range(missed)}
        scored(folder, name, GT, [MISSED if image in chosen else GT[image] for image in GT])
    return folder


def test_a_pattern_names_a_model_by_the_part_before_the_seed(folder):
    found = expand_seed_patterns([folder / "m2f@seed*", folder / "pfpn@*", folder / "detr@seed0"]).models
    assert {name: len(runs) for name, runs in found.items()} == {"m2f": 3, "pfpn": 3, "detr@seed0": 1}
    assert [run.name for run in found["m2f"]] == ["m2f@seed0", "m2f@seed1", "m2f@seed2"]
    assert is_pattern(Path("a@seed*"))
    assert not is_pattern(folder / "m2f@seed0")


def test_a_pattern_without_a_folder_is_searched_in_results(folder, tmp_path, monkeypatch):
    (tmp_path / "results").symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    assert set(expand_seed_patterns([Path("m2f@seed*")]).models) == {"m2f"}


def test_patterns_expanded_by_the_shell_are_reported_with_their_quoted_form(folder):
    runs = sorted(folder.glob("m2f@seed?")) + sorted(folder.glob("pfpn@seed?"))
    said = panbench("compare", *runs, "--no-intervals").stderr
    assert "These 6 runs look like seeds of 2 models and are compared one by one" in " ".join(said.split())
    assert f"'{folder}/m2f@seed*' '{folder}/pfpn@seed*'" in " ".join(said.split())
    alone = panbench("compare", *runs[:3], "--no-intervals").stderr
    assert "look like seeds" not in alone


def test_the_option_detect_needs_models_by_seeds(folder):
    said = refused("compare", folder / "m2f@seed0", folder / "pfpn@seed0", "--detect", "0.5")
    assert "--detect counts the seeds that a difference needs" in said


def evaluated(folder, name, seed=0, **model):
    """A copy of a scored run that says which model it is of."""
    shutil.copytree(folder / f"m2f@seed{seed}", folder / name)
    with edited(folder / name / "run.json") as content:
        content["kind"] = "eval"
        content["model"] = {
            "name": "m2f",
            "title": name,
            "family": "mask2former",
            "config_sha256": "c0",
            "weights_sha256": f"{seed}" * 64,
            **model,
        }


def test_runs_that_differ_in_weights_alone_are_seeds_whatever_their_names(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "all")
    for seed, name in enumerate(("monday", "tuesday", "friday")):
        evaluated(tmp_path / "all", f"days-{name}", seed)
    found = expand_seed_patterns([tmp_path / "all" / "days-*"])
    assert {name: len(runs) for name, runs in found.models.items()} == {"days": 3}
    assert found.reasons == ()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"family": "maskformer"}, "differ in family, and seeds differ in weights alone"),
        ({"config_sha256": "c1"}, "differ in config"),
        ({"weights_sha256": "0" * 64}, "some have the same weights"),
    ],
)
def test_a_pattern_that_fits_different_models_compares_single_runs(folder, tmp_path, changes, reason):
    shutil.copytree(folder, tmp_path / "all")
    evaluated(tmp_path / "all", "demo-a")
    evaluated(tmp_path / "all", "demo-b", 1)
    evaluated(tmp_path / "all", "demo-c", 2, **changes)
    pattern = tmp_path / "all" / "demo-*"
    told = ran("compare", pattern, columns=160)
    assert "names 3 runs, each compared by itself" in told.stderr
    assert reason in " ".join(told.stderr.split())
    by_name = [tmp_path / "all" / f"demo-{letter}" for letter in "abc"]
    assert told.stdout == panbench("compare", *by_name, columns=160).stdout
    assert "seeds" not in told.stdout
    # What single runs can be asked can be asked of them.
    assert panbench("compare", pattern, "--by", "size").exit_code == 0


def test_scored_folders_are_seeds_only_if_their_names_count_seeds(folder, tmp_path):
    for name, source in (("one", "m2f@seed0"), ("two", "pfpn@seed0")):
        shutil.copytree(folder / source, tmp_path / name)
    found = expand_seed_patterns([tmp_path / "*"])
    assert found.models == {}
    assert sorted(path.name for path in found.folders) == ["one", "two"]
    assert "do not count seeds" in found.reasons[0]
    # m2f@seed0 … pfpn@seed2: six runs, two models.
    assert expand_seed_patterns([folder / "*@seed*"]).models == {}


def test_patterns_of_one_run_each_compare_runs(folder):
    found = expand_seed_patterns([folder / "m2f@seed0*", folder / "pfpn@seed0*"])
    assert found.models == {}
    assert [path.name for path in found.folders] == ["m2f@seed0", "pfpn@seed0"]


def test_a_pattern_of_folders_names_the_runs_in_them(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "first")
    told = ran("compare", tmp_path / "fir*", "-f", "csv")
    assert len(told.stdout.splitlines()) == 1 + 7


def test_models_are_compared_with_the_seeds_needed_for_half_a_point(folder):
    told = ran("compare", folder / "m2f@seed*", folder / "pfpn@seed*", columns=160)
    for words in ("m2f is better than pfpn by", "difference of 0.5 points between them", "seeds for 0.5"):
        assert words in told.stdout
    wide = panbench("compare", folder / "m2f@seed*", folder / "pfpn@seed*", "--detect", "30", columns=160)
    assert "A difference of 30 points between them would need 2 seeds of each" in wide.stdout


def test_a_model_with_one_seed_has_no_p_and_a_message_says_so(folder):
    told = ran("compare", folder / "m2f@seed*", folder / "detr@seed*", columns=160)
    assert "detr has one seed: what another training would give is not known" in told.stdout
    record = json.loads(panbench("compare", folder / "m2f@seed*", folder / "detr@seed*", "-f", "json").stdout)
    (pair,) = (row for row in record["differences"] if row["group"] == "All")
    assert pair["p"] is None
    assert pair["needed"] is None
    assert pair["low"] is not None


def test_every_format_holds_the_same_models(folder, tmp_path):
    words = ["compare", folder / "m2f@seed*", folder / "pfpn@seed*"]
    record = json.loads(panbench(*words, "-f", "json").stdout)
    of_all = {row["model"]: row["PQ"] for row in record["models"] if row["group"] == "All"}
    table = pd.read_csv(io.StringIO(panbench(*words, "-f", "csv").stdout)).query("group == 'All'")
    assert dict(zip(table["model"], table["PQ"], strict=True)) == pytest.approx(of_all)
    panbench(*words, "--out", tmp_path / "x.parquet")
    stored = pd.read_parquet(tmp_path / "x.parquet").query("group == 'All'")
    assert dict(zip(stored["model"], stored["PQ"], strict=True)) == pytest.approx(of_all)
    for form in ("md", "latex", "text"):
        shown = panbench(*words, "-f", form).stdout
        assert all(f"{100 * pq:.1f}"[:3] in shown for pq in of_all.values())
    assert not any(isinstance(value, float) and math.isnan(value) for row in record["models"] for value in row.values())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["none@seed*"], "No run fits the pattern"),
        (["m2f@seed*", "m2f@*"], "Two of the patterns name the model 'm2f'"),
        (["m2f@seed*", "m2*"], "fits both"),
        (["m2f@seed*", "pfpn@seed*", "--by", "size"], "leave out --by, or name single runs"),
        (["m2f@seed*", "pfpn@seed*", "--mixed", "--metrics", "ap"], "leave out --mixed and --metrics, or name"),
        (["m2f@seed*", "pfpn@seed*", "--detect", "0"], "must be above 0"),
    ],
)
def test_bad_patterns_are_refused_with_exit_2_and_one_sentence(folder, words, message):
    said = refused("compare", *(folder / word if "*" in word else word for word in words))
    assert message in said
    assert said.count("Error:") == 1


def test_seeds_on_other_images_are_refused(folder, tmp_path):
    for name in ("m2f@seed0", "m2f@seed1"):
        (tmp_path / name).symlink_to(folder / name)
    few = {image: GT[image] for image in range(12)}
    scored(tmp_path / "other", "x@seed0", few, few)
    said = refused("compare", tmp_path / "m2f@seed*", tmp_path / "other" / "x@seed*")
    assert "PQ on different images cannot be compared" in said
    assert "--mixed" not in said
