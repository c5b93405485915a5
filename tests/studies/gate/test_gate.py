"""The gate: worse, not worse, or cannot tell; each with its exit code, sentence, Markdown and JUnit XML."""

import json
import shutil
from xml.etree import ElementTree

import pytest
from little_runs import scored, store
from support import edit, one_sentence, panbench, ran, refusal, refused

from panbench.base.errors import BadArgument, BadRun
from panbench.report.answers.own_slices import read_slices_file, slices_for
from panbench.runs import Run, load_run
from panbench.studies.gate.answer import gate

N = 40
GT = dict.fromkeys(range(1, N + 1), "ppppqqqqssss")
GOOD = "ppppqqqqssss"
MISSED = "pppp....ssss"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Runs on 40 images: the baseline finds all but one person; others miss many, few, or others."""
    folder = tmp_path_factory.mktemp("gate")
    missed = {"base": {1}, "same": {1}, "worse": set(range(1, 21)), "unclear": {2, 3}, "better": set()}
    for name, images in missed.items():
        scored(folder, name, GT, [MISSED if image in images else GOOD for image in GT])
    return folder


@pytest.fixture(scope="module")
def made(folder):
    return {name: load_run(folder / name) for name in ("base", "same", "worse", "unclear", "better")}


@pytest.fixture
def site(tmp_path):
    """A file of two slices: what is worse in `worse` lies in the first."""
    (tmp_path / "site.json").write_text(json.dumps({"harbour": list(range(1, 21)), "road": list(range(21, 41))}))
    return tmp_path / "site.json"


def test_a_clear_drop_is_worse(made):
    result = gate(made["worse"], made["base"])
    (check,) = result.checks
    assert result.outcome == "worse"
    assert check.difference < check.high < 0
    assert result.exit_code(strict=False) == 3
    assert result.message.endswith("Worse.")


def test_equal_and_better_runs_are_not_worse(made):
    for name in ("same", "better", "base"):
        assert gate(made[name], made["base"]).outcome == "not worse"
    assert gate(made["same"], made["base"]).exit_code(strict=True) == 0


def test_an_uncertain_drop_cannot_tell_and_states_the_detectable_drop(made):
    result = gate(made["unclear"], made["base"])
    (check,) = result.checks
    assert result.outcome == "cannot tell"
    assert check.low < check.difference < 0 <= check.high
    assert check.detectable == pytest.approx(check.high - check.difference)
    assert f"only a drop of {check.detectable:.2f} points or more" in result.message
    assert (result.exit_code(strict=False), result.exit_code(strict=True)) == (0, 4)


def test_renamed_categories_do_not_change_the_iou_of_matches(tmp_path):
    """The sky is called a dog: SQ loses a category and gains one without a match, no mask has changed."""
    base = scored(tmp_path, "base", GT, [GOOD for _ in GT])
    renamed = scored(tmp_path, "renamed", GT, ["ppppqqqqdddd" for _ in GT])
    assert gate(renamed, base).outcome == "worse"
    result = gate(renamed, base, metric="IoU")
    (check,) = result.checks
    assert (check.difference, check.outcome) == (0, "not worse")
    assert (check.value, check.baseline) == (100, 100)
    # Of 40 images no interval of SQ holds, so that it cannot be called worse.
    assert gate(renamed, base, metric="SQ").outcome == "cannot tell"


def test_sq_of_slices_is_refused_with_the_metric_to_use(made):
    assert "--metrics IoU" in refusal(BadArgument, gate, made["worse"], made["base"], metric="SQ", by="size")
    small = gate(made["worse"], made["base"], metric="IoU", by="size").checks[1]
    assert (small.difference, small.outcome) == (0, "not worse")


def test_a_drop_within_chance_of_swaps_is_not_worse(tmp_path):
    """Five of 40 images lose their stuff and none gains: its interval is clear, but 2 of 32 swaps differ as much."""
    base = scored(tmp_path, "base", GT, [GOOD for _ in GT])
    five = scored(tmp_path, "five", GT, [MISSED if image <= 5 else GOOD for image in GT])
    seven = scored(tmp_path, "seven", GT, [MISSED if image <= 7 else GOOD for image in GT])
    result = gate(five, base)
    (check,) = result.checks
    assert check.difference < check.high < 0
    assert check.p == pytest.approx(2 / 2**5, abs=0.01)
    assert (result.outcome, check.may_be_chance) == ("cannot tell", True)
    assert "of data sets would differ as much if the two runs' answers were interchangeable" in result.message
    assert result.message.endswith("and at most 5% may.")
    assert result.record()["checks"][0]["p"] == check.p
    (check,) = gate(seven, base).checks
    assert (check.outcome, check.p) == ("worse", pytest.approx(2 / 2**7, abs=0.005))


def test_a_drop_within_the_allowed_one_passes_and_a_larger_one_fails(made):
    drop = -gate(made["worse"], made["base"]).checks[0].difference
    assert gate(made["worse"], made["base"], max_drop=drop - 0.5).outcome == "worse"
    assert gate(made["worse"], made["base"], max_drop=100).outcome == "not worse"
    # A drop that is allowed, but might be a larger one.
    assert gate(made["worse"], made["base"], max_drop=drop + 0.1).outcome == "cannot tell"


def test_the_gate_uses_the_chosen_metric_and_slices(made):
    assert gate(made["worse"], made["base"], metric="PQ_st").outcome == "not worse"
    assert gate(made["worse"], made["base"], metric="PQ_th").outcome == "worse"
    assert gate(made["worse"], made["base"], metric="SQ").outcome == "not worse"
    by_size = gate(made["worse"], made["base"], by="segments")
    assert [check.where for check in by_size.checks] == ["all images", "0–5", "6–10", "11–20", "> 20"]
    assert [check.outcome for check in by_size.checks] == ["worse", "worse", *["cannot tell"] * 3]


def test_user_slices_detect_a_drop_that_all_images_hide(made, site):
    result = gate(made["worse"], made["base"], slices=slices_for(site, list(made.values())))
    assert {check.where: check.outcome for check in result.checks} == {
        "all images": "worse",
        "site harbour": "worse",
        "site road": "not worse",
    }


def test_the_gate_sets_its_exit_code_and_writes_junit_and_summary(folder, tmp_path):
    summary, junit = tmp_path / "summary.md", tmp_path / "gate.xml"
    summary.write_text("before\n")
    words = ["gate", folder / "worse", "--baseline", folder / "base", "--junit", junit]
    failed = panbench(*words, GITHUB_STEP_SUMMARY=str(summary))
    assert failed.exit_code == 3, failed.output
    assert "Worse." in failed.stdout
    text = summary.read_text("utf-8")
    assert text.startswith("before\n### ❌ PQ: worse")
    assert "| all images |" in text
    suite = ElementTree.parse(junit).getroot()
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == ("1", "1", "0")
    assert suite.find("testcase/failure").get("message").endswith("Worse.")

    unclear = ["gate", folder / "unclear", "--baseline", folder / "base", "--junit", junit]
    told = ran(*unclear)
    assert "These images are too few to decide" in told.stderr
    suite = ElementTree.parse(junit).getroot()
    assert (suite.get("failures"), suite.get("skipped")) == ("0", "1")
    assert panbench(*unclear, "--strict").exit_code == 4
    assert ElementTree.parse(junit).getroot().get("failures") == "1"
    passed = ran("gate", folder / "better", "--baseline", folder / "base", "--json")
    record = json.loads(passed.stdout)
    assert (record["outcome"], record["checks"][0]["difference"] > 0) == ("not worse", True)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--max-drop", "-1"], "--max-drop is -1"),
        (["--by", "colour"], "There is no slicing 'colour'"),
        (["--by", "size", "--metrics", "PQ_th"], "Give --metrics PQ."),
        (["--slices", "none.json"], "none.json cannot be read"),
    ],
)
def test_bad_input_exits_with_2_and_one_sentence(folder, more, message):
    assert message in one_sentence("gate", folder / "worse", "--baseline", folder / "base", *more)


def test_runs_of_other_data_or_images_are_refused(made, tmp_path):
    other = scored(tmp_path, "other", {1: "pppp", 2: "ssss"}, ["pppp", "ssss"])
    with pytest.raises(BadRun):
        gate(other, made["base"])


class TestSliceFiles:
    def test_each_column_of_a_csv_is_a_slicing(self, tmp_path):
        (tmp_path / "meta.csv").write_text("image_id,camera,night\n1,front,yes\n2,rear,no\n3,front,\n")
        camera, night = read_slices_file(tmp_path / "meta.csv")
        assert (camera.name, dict(camera.images)) == ("camera", {"front": {1, 3}, "rear": {2}})
        assert dict(night.images) == {"no": {2}, "yes": {1}}

    def test_a_json_may_have_several_slicings(self, tmp_path):
        (tmp_path / "own.json").write_text('{"site": {"a": [1], "b": [2]}, "night": {"yes": [1, 2]}}')
        assert [slices.name for slices in read_slices_file(tmp_path / "own.json")] == ["site", "night"]

    @pytest.mark.parametrize(
        ("name", "text", "message"),
        [
            ("a.json", "{", "is not JSON"),
            ("a.json", "[1]", "must be an object of slices"),
            ("a.json", '{"night": [1.5]}', "the slice 'night' of a must be a list of image ids"),
            ("a.csv", "id,camera\n1,x\n", "must have a column image_id"),
            ("a.csv", "image_id,camera\n,front\n", "line 2 has no image id"),
            ("a.csv", "image_id,name\n" + "".join(f"{n},n{n}\n" for n in range(101)), "too many for slices"),
            ("a.txt", "", "is neither .json nor .csv"),
        ],
    )
    def test_a_file_of_another_kind_is_refused(self, tmp_path, name, text, message):
        (tmp_path / name).write_text(text)
        with pytest.raises(BadArgument, match=message):
            read_slices_file(tmp_path / name)

    @pytest.mark.parametrize(
        ("slices", "message"),
        [
            ({"night": [1, 99]}, "The slice 'night' of own names images that were not scored: 99"),
            ({"night": []}, "own has slices without images: night"),
        ],
    )
    def test_unknown_images_and_empty_slices_are_refused(self, made, tmp_path, slices, message):
        (tmp_path / "own.json").write_text(json.dumps(slices))
        assert message in refusal(BadArgument, slices_for, tmp_path / "own.json", [made["base"]])


def test_reading_large_runs_in_chunks_does_not_change_the_gate(folder, made, monkeypatch, site):
    slices = slices_for(site, list(made.values()))
    whole = gate(made["worse"], made["base"], by="size", slices=slices)
    monkeypatch.setattr("panbench.runs.folder.ROWS_AT_ONCE", 10)
    large = [load_run(folder / name) for name in ("worse", "base")]
    monkeypatch.setattr(Run, "table", property(lambda run: pytest.fail("the whole run was read")))
    monkeypatch.setattr(Run, "matched", property(lambda run: pytest.fail("the whole run was matched")))
    assert gate(*large, by="size", slices=slices).checks == whole.checks


def test_runs_without_images_are_refused(tmp_path):
    runs = [store(tmp_path / name, {"dataset": {"fingerprint": "x"}}, []) for name in ("a", "b")]
    assert "hold no scored image" in refusal(BadRun, gate, *runs)


def test_an_error_on_different_images_suggests_only_options_of_the_gate(folder, tmp_path):
    few = {image: GT[image] for image in range(1, 5)}
    scored(tmp_path, "few", few, few)
    for words in ([], ["--common-images"]):
        said = refused("gate", tmp_path / "few", "--baseline", folder / "base", *words)
        assert "cannot be compared" in said
        assert "--mixed" not in said


def test_names_that_xml_cannot_contain_are_escaped(folder, tmp_path):
    name = "worse\x1b[2J\x01\uffff"
    shutil.copytree(folder / "worse", tmp_path / "named")
    edit((tmp_path / "named" / "run.json"), name=name)
    file, junit, summary = tmp_path / "site.json", tmp_path / "gate.xml", tmp_path / "summary.md"
    file.write_text(json.dumps({"\x02harbour": list(range(1, 41))}))
    words = ["gate", tmp_path / "named", "--baseline", folder / "base", "--slices", file, "--junit", junit]
    done = panbench(*words, "--summary", summary)
    assert done.exit_code == 3, done.output
    suite = ElementTree.parse(junit).getroot()
    spelled = r"worse\x1b[2J\x01\uffff"
    assert suite.get("name") == f"panbench gate: {spelled} against base"
    assert [case.get("name") for case in suite] == ["PQ, all images", r"PQ, site \x02harbour"]
    assert suite.find("testcase/failure").get("message").startswith(f"PQ of {spelled}")
    assert r"worse\x1b[2J\x01" in summary.read_text("utf-8")


@pytest.fixture
def in_parts(tmp_path, monkeypatch):
    """Two runs of equal predictions on 40 images, each in two parts of 20."""
    monkeypatch.setattr("panbench.scoring.counting.PART_IMAGES", 20)
    for name in ("good", "new"):
        scored(tmp_path, name, GT, [GOOD] * N)
    return tmp_path


def flip_a_bit(part):
    content = bytearray(part.read_bytes())
    content[len(content) // 3] ^= 1
    part.write_bytes(content)
    return part


@pytest.mark.parametrize("common", [(), ("--common-images",)])
@pytest.mark.parametrize("damaged", ["new", "good"])
def test_a_damaged_run_is_refused_first_and_its_part_named(in_parts, damaged, common):
    part = flip_a_bit(in_parts / damaged / "parts" / "0000-000000.parquet")
    line = ("gate", in_parts / "new", "--baseline", in_parts / "good", "--slices", in_parts / "none.csv", "--strict")
    said = " ".join(refused(*line, *common).split())
    assert f"{damaged} is damaged, so the gate does not judge it. {part} is not what the run wrote" in said


def test_an_incomplete_run_is_compared_on_common_images_only_and_reported(in_parts):
    record = in_parts / "new" / "run.json"
    content = json.loads(record.read_text())
    gone = content["parts"].pop(0)
    record.write_text(json.dumps({**content, "status": "interrupted"}))
    (in_parts / "new" / "parts" / gone["name"]).unlink()
    words = ("gate", in_parts / "new", "--baseline", in_parts / "good", "--strict")
    assert "new was interrupted: it holds 20 of 40 images." in " ".join(refused(*words).split())
    judged = ran(*words, "--common-images", "--json", "--summary", in_parts / "summary.md")
    notes = ["new was interrupted: it holds 20 of 40 images.", "20 of the 40 images of good are left out."]
    assert json.loads(judged.stdout)["notes"] == notes
    assert all(note in " ".join(judged.stderr.split()) for note in notes)
    assert all(note in (in_parts / "summary.md").read_text() for note in notes)


@pytest.mark.parametrize(
    "line",
    [
        "metrics new --json",
        "errors new --json",
        "export parquet new --out out",
        "report new --out page.html --examples 0",
        "site new --out site --examples 0",
    ],
)
def test_outputs_from_a_damaged_run_name_the_lost_part(in_parts, line):
    part = flip_a_bit(in_parts / "new" / "parts" / "0000-000000.parquet").relative_to(in_parts)
    result = ran(*line.split(), cwd=in_parts)
    assert f"new is damaged: {part} is not what the run wrote" in " ".join(result.stderr.split())
    if "--json" in line:
        record = json.loads(result.stdout)
        assert not record["complete"]
        assert str(part) in record["damage"][0]
    elif "report" in line:
        assert str(part) in (in_parts / "page.html").read_text()


def test_a_number_as_baseline_is_refused_with_an_explanation(tmp_path):
    said = refused("gate", tmp_path, "--baseline", "82.0")
    assert "--baseline 82.0 is a number. A gate compares image by image, so it takes the folder of a run" in said
