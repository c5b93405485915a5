"""Models of a hub on the command line: fetched with consent, run under their own name, each fault in a sentence."""

import hashlib
import itertools
import json
import os
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import pytest
import support
from support import panbench, ran

import panbench as panbench_package
from panbench.base import hub as of_the_hub
from panbench.base.extras import install_line
from panbench.datasets import shapes
from panbench.runs import load_run
from tests.base.test_hub import COMMIT, Hub, _send

ADDRESS = "hf:owner/name"


class Repository(Hub):
    """A hub with one repository, `owner/name`, whose files are those of a folder."""

    def __init__(self, folder: Path) -> None:
        self.content = {path.name: path.read_bytes() for path in folder.iterdir()}
        self.cut = 0
        super().__init__()
        self.state()

    def state(self) -> None:
        """States sizes and hashes of the content as it is now."""
        self.files = {name: self._stated(content) for name, content in self.content.items()}

    def configure(self, **changes: Any) -> None:
        """Changes config.json; what is None is left out."""
        settings = {**json.loads(self.content["config.json"]), **changes}
        self.content["config.json"] = json.dumps(
            {key: settings[key] for key in settings if settings[key] is not None}
        ).encode()
        self.state()

    @staticmethod
    def _stated(content: bytes) -> dict[str, Any]:
        blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        return {
            "size": len(content),
            "blobId": blob,
            "lfs": {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134},
        }

    def _answer_file(self, request: Any) -> None:
        name = request.path.rpartition("/")[2]
        about = {"X-Repo-Commit": COMMIT, "ETag": f'"{self.files[name]["lfs"]["sha256"]}"'}
        content = self.content[name]
        _send(request, 200, content[: len(content) - self.cut], about)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Repository]:
    from tests.models.transformers.test_adapter import BUILDERS, saved

    server = Repository(saved(BUILDERS["eomt"](), tmp_path / "saved"))
    monkeypatch.setenv("HF_ENDPOINT", server.address)
    monkeypatch.setenv("PANBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache" / "of the hub"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.chdir(tmp_path)
    assert cv2.imwrite("photo.png", shapes.make_scene(0, size=(56, 64)).image)
    yield server
    server.close()


def predicted(*arguments: str) -> Any:
    return panbench("predict", "photo.png", "--overwrite", *arguments)


def refused(*arguments: str) -> str:
    said = support.refused("predict", "photo.png", "--overwrite", *arguments)
    (message,) = [line for line in said.splitlines() if line.startswith("Error: ")]
    return message


KINDS: dict[str, Any] = {"id2label": {str(label): f"kind {label}" for label in range(9)}, "label2id": None}
"""Changes to a config: labels that no dataset has."""


def test_a_repository_runs_after_its_files_may_be_fetched(hub: Repository) -> None:
    hub.card = {"license": "cc-by-nc-4.0"}
    assert "licence: see" in refused("--model", ADDRESS)
    assert not Path("cache").exists()
    result = predicted("--model", ADDRESS, "--download")
    assert result.exit_code == 0, result.stderr
    assert "Weights of owner/name: at the hub CC-BY-NC-4.0, not for commercial use" in result.stderr
    hub.close()
    assert predicted("--model", ADDRESS).exit_code == 0
    assert predicted("--model", "owner--name").exit_code == 0
    assert predicted("--model", f"./{Path('saved')}").exit_code == 0


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("hf:owner/unknown", "There is no repository owner/unknown"),
        ("hf:owner/name@nowhere", "owner/name has no revision 'nowhere'"),
        ("hf:owner/gated", "is gated: accept its terms"),
        ("hf:owner", "Write hf:owner/name"),
        ("./nothing-here", "There is no folder"),
        ("hf:tue-mps/coco_panoptic_eomt_large_640_dinov3", "only differences to the gated weights of DINOv3"),
    ],
)
def test_a_missing_repository_is_named(hub: Repository, address: str, message: str) -> None:
    assert message in refused("--model", address, "--download")


def test_without_a_network_the_hint_is_a_local_folder(hub: Repository) -> None:
    hub.close()
    said = refused("--model", ADDRESS, "--download")
    assert "pass --model FOLDER" in said
    assert said.endswith("or run a model that needs no download: --model mask2former-tiny.")


def test_truncated_or_exchanged_weights_are_refused(hub: Repository) -> None:
    hub.content["model.safetensors"] = hub.content["model.safetensors"][:-1] + b"\1"
    assert "SHA-256" in refused("--model", ADDRESS, "--download")
    hub.cut = 1000
    hub.state()
    result = predicted("--model", ADDRESS, "--download")
    assert result.exit_code == 2
    assert "Traceback" not in result.stderr
    assert not list(Path("cache").rglob("model.safetensors"))


def test_a_pickle_that_would_run_code_is_refused_and_runs_nothing(hub: Repository) -> None:
    import torch

    class Malice:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(Path("harmed").resolve()),)

    torch.save({"query.weight": Malice()}, "evil.bin")
    assert pickle.dumps(Malice())
    del hub.content["model.safetensors"]
    hub.content["pytorch_model.bin"] = Path("evil.bin").read_bytes()
    hub.state()
    assert "mkdir" in refused("--model", ADDRESS, "--download")
    assert not Path("harmed").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "segformer"}, "is a segformer"),
        ({"architectures": ["EomtForImageClassification"]}, "gives no panoptic masks"),
        (KINDS, "as --labels FILE"),
        (KINDS | {"id2label": dict.fromkeys(KINDS["id2label"], "N/A")}, "names none of its 9 labels"),
        ({"hidden_size": 48}, "Use the config that it was trained with"),
    ],
)
def test_checkpoints_of_another_kind_are_refused(hub: Repository, changes: dict[str, Any], message: str) -> None:
    hub.configure(**changes)
    assert message in refused("--model", ADDRESS, "--download")


def test_labels_are_read_from_a_file_of_categories(hub: Repository) -> None:
    hub.configure(**KINDS | {"id2label": {str(label): f"LABEL_{label}" for label in range(9)}})
    Path("mine.json").write_text(
        json.dumps({"categories": [{"id": i, "name": f"kind {i}", "isthing": int(i in (0, 3))} for i in range(9)]})
    )
    own = ("--model", ADDRESS, "--download", "--labels")
    assert predicted(*own, "mine.json").exit_code == 0
    listed = json.loads(next(Path().rglob("ids.json")).read_text())["categories"]
    assert [category["name"] for category in listed if category["isthing"]] == ["kind 0", "kind 3"]
    assert "9 classes (config.json), but coco has 133 categories" in refused(*own, "coco")
    assert "--labels absent.json: there is no such file or dataset" in refused(*own, "absent.json")
    tiny = ("--model", "mask2former-tiny", "--labels", "coco")
    assert "Mask2Former tiny declares what its labels mean. Leave --labels out." in refused(*tiny)


def test_eval_refuses_labels_before_anything_is_downloaded(hub: Repository) -> None:
    line = ("eval", "--model", ADDRESS, "--data", "shapes", "--download", "--device", "cpu", "--labels")
    assert "there is no such file or dataset" in support.refused(*line, "pets")
    assert not list(Path("cache").rglob("*.safetensors"))
    assert "133 in the model, of which the dataset lacks" in support.refused(*line, "coco")


def test_a_dataset_that_lists_isthing_says_which_labels_are_things(hub: Repository, tmp_path: Path) -> None:
    hub.configure(**KINDS)
    Path("saved/config.json").write_bytes(hub.content["config.json"])
    truth = shapes.generate(tmp_path / "mine", count=2)
    stated = json.loads(truth.read_text())
    for label, category in enumerate(stated["categories"]):
        category["name"] = f"kind {label}"
    truth.write_text(json.dumps(stated))
    assert "as --labels FILE" in refused("--model", "./saved")
    ran("eval", "--model", "./saved", "--data", "mine", "--out", "run", "--device", "cpu")
    assert [category.isthing for category in load_run("run").categories] == [
        bool(category["isthing"]) for category in stated["categories"]
    ]
    assert panbench_package.evaluate("./saved", "mine", "again").pq().equals(load_run("run").pq())


def in_shards(hub: Repository) -> tuple[dict[str, Any], list[str]]:
    """Shares the repository's weights out among two files; its whole state dict and their names."""
    from safetensors.torch import load_file, save

    state = load_file("saved/model.safetensors")
    del hub.content["model.safetensors"]
    files = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    of = {name: files[place % 2] for place, name in enumerate(state)}
    for file in files:
        hub.content[file] = save({name: value for name, value in state.items() if of[name] == file})
    hub.content["model.safetensors.index.json"] = json.dumps({"weight_map": of}).encode()
    hub.state()
    return state, files


def test_weights_in_shards_are_fetched_completely_and_a_lost_one_again(hub: Repository) -> None:
    import torch

    from panbench.models.checkpoints import load_checkpoint

    whole, files = in_shards(hub)
    seen: list[tuple[int, int | None]] = []
    folder = of_the_hub.fetch(
        of_the_hub.parse_repository(ADDRESS), progress=lambda done, total: seen.append((done, total))
    )
    sizes = [len(hub.content[name]) for name in (*files, "model.safetensors.index.json")]
    assert seen[-1] == (sum(sizes), sum(sizes))
    assert all(done <= then for (done, _), (then, _) in itertools.pairwise(seen))
    index = of_the_hub.find_weights(folder)
    assert index is not None
    found = load_checkpoint(index).state_dict
    assert set(found) == set(whole)
    assert all(torch.equal(found[name], value) for name, value in whole.items())
    assert predicted("--model", ADDRESS).exit_code == 0
    (folder / files[0]).unlink()
    assert of_the_hub.cached_folder(of_the_hub.parse_repository(ADDRESS)) is None
    assert "--download" in refused("--model", ADDRESS)


def test_labels_unlike_the_datasets_are_refused_with_both_lists(hub: Repository) -> None:
    hub.configure(**KINDS)
    Path("saved/config.json").write_bytes(hub.content["config.json"])
    shapes.generate(Path("scenes"), count=2)
    said = support.refused("eval", "--model", "./saved", "--data", "scenes", "--device", "cpu")
    assert "9 in the model, of which the dataset lacks kind 0, kind 1" in said
    assert "9 in the dataset, of which the model lacks ball, box" in said
    assert "--category-map" in said


def test_the_command_models_stars_models_without_their_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "*" not in panbench("models").stdout
    monkeypatch.setitem(sys.modules, "transformers", None)
    listed = panbench("models", columns=80).stdout
    (row,) = [line for line in listed.splitlines() if line.startswith("detr-r50 ")]
    assert row.endswith("no*")
    (row,) = [line for line in listed.splitlines() if line.startswith("mask2former-r50 ")]
    assert row.endswith("no")
    assert f"needs the extra transformers, which is not installed: `{install_line('transformers')}`" in " ".join(
        listed.split()
    )
    lacks = {each["name"]: each["extra_missing"] for each in json.loads(panbench("models", "--json").stdout)}
    assert (lacks["detr-r50"], lacks["mask2former-r50"]) == ("transformers", None)


def test_without_the_extra_the_command_is_named_before_anything_is_fetched(
    hub: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert install_line("transformers") in refused("--model", ADDRESS)
    assert not Path("cache").exists()
