import dataclasses
import functools
import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import transformers
from views import check_views

from panbench.base import hub
from panbench.base.errors import BadArgument, BadCheckpoint, BadModel
from panbench.base.extras import install_line
from panbench.catalog import ModelSpec, find_model
from panbench.datasets import shapes
from panbench.models.candidates import NO_LABEL, Candidates, Frame
from panbench.models.checkpoints import load_checkpoint
from panbench.models.host import HostedModel
from panbench.models.opening import open_model
from panbench.models.predict import predict, scene_of
from panbench.models.rules import fuse
from panbench.models.transformers.adapter import TransformersAdapter
from panbench.models.transformers.families import detr_size, fitted, shortest_edge
from scripts.make.tiny_networks import NAMES, NETWORKS

EOMT = Path(__file__).parents[2] / "reference" / "other_models" / "eomt"
THINGS = ["person", "car", "dog", "tree", "cup"]


def config_of(kind: str) -> Any:
    """The config of a tiny network of a family."""
    return transformers.AutoConfig.for_model(**NETWORKS[kind])


BUILDERS: dict[str, Callable[[], Any]] = {kind: functools.partial(config_of, kind) for kind in NETWORKS}


def saved(config: Any, folder: Path, names: list[str] | None = None) -> Path:
    """A folder as save_pretrained writes it, of random weights."""
    config.id2label = dict(enumerate(NAMES if names is None else names))
    config.label2id = {name: label for label, name in config.id2label.items()}
    torch.manual_seed(0)
    network = {
        "mask2former": "Mask2FormerForUniversalSegmentation",
        "maskformer": "MaskFormerForInstanceSegmentation",
        "oneformer": "OneFormerForUniversalSegmentation",
        "eomt": "EomtForUniversalSegmentation",
        "eomt_dinov3": "EomtDinov3ForUniversalSegmentation",
        "detr": "DetrForSegmentation",
    }[config.model_type]
    getattr(transformers, network)(config).eval().save_pretrained(folder)
    return folder


def settings_of(folder: Path, **changes: Any) -> Path:
    """Changes keys of a folder's config.json; None takes one away."""
    path = folder / "config.json"
    stated = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in stated.items() if value is not None}))
    return folder


def opened(folder: Path, **settings: Any) -> HostedModel:
    spec = find_model(str(folder))
    model = open_model(dataclasses.replace(spec, settings={**spec.settings, **settings}), device="cpu")
    assert isinstance(model, HostedModel)
    return model


def refusal(folder: Path | str, **settings: Any) -> str:
    spec = find_model(str(folder))
    with pytest.raises((BadModel, BadCheckpoint)) as caught:
        open_model(dataclasses.replace(spec, settings={**spec.settings, **settings}), device="cpu")
    return str(caught.value)


def spec_with(network: dict[str, Any]) -> ModelSpec:
    return dataclasses.replace(find_model("hf:a/b"), settings={"network": network})


@pytest.fixture
def eomt_folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(EOMT, tmp_path / "eomt"))


def test_logits_are_those_that_transformers_recorded(eomt_folder: Path) -> None:
    recorded = np.load(EOMT / "reference.npz")
    model = opened(eomt_folder, things=THINGS)
    with torch.inference_mode():
        outputs = model.module(pixel_values=torch.from_numpy(recorded["pixel_values"]))
    np.testing.assert_allclose(outputs.class_queries_logits.numpy(), recorded["class_logits"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(outputs.masks_queries_logits.numpy(), recorded["mask_logits"], rtol=0, atol=1e-4)


def test_maps_are_those_that_transformers_recorded(eomt_folder: Path) -> None:
    recorded = np.load(EOMT / "reference.npz")
    model = opened(eomt_folder, things=THINGS)
    height, width = (int(side) for side in recorded["target_size"])
    frame = Frame((128, 128), fitted((height, width), 128, 128), (height, width))
    with torch.inference_mode():
        outputs = model.adapter.candidates(model.module, torch.from_numpy(recorded["pixel_values"]), [frame])
    rule = dataclasses.replace(model.rule, score=0.5, overlap=0.25)  # type: ignore[call-arg]
    ids, segments = rule.settle(fuse(outputs, rule)[0])
    theirs = recorded["mid_segmentation_0"]
    labels_of_theirs = {int(segment): int(label) for segment, label, _ in recorded["mid_segments_0"]}
    ours = np.full(ids.shape, NO_LABEL)
    for segment in segments:
        ours[ids == segment.id] = segment.label
    expected = np.vectorize(lambda each: labels_of_theirs.get(each, NO_LABEL))(theirs)
    assert len(segments) == len(labels_of_theirs) > 1
    assert (ours == expected).all()


@pytest.mark.parametrize("name", BUILDERS)
def test_views_of_an_image_are_averaged(name: str, tmp_path: Path) -> None:
    square = name.startswith("eomt")
    model = opened(saved(BUILDERS[name](), tmp_path / "model"), sizes={"short": None if not square else 64})
    # For EoMT an image that does not fill its square, so that there is padding at its right.
    check_views(model, tmp_path, (64, 32) if square else (64, 96), scales=not square)
    if square:
        with pytest.raises(BadArgument, match="one size only"):
            model.adapter.scaled(0.5)


@pytest.mark.parametrize("name", BUILDERS)
def test_each_family_runs_from_a_folder_that_transformers_saved(name: str, tmp_path: Path) -> None:
    model = opened(saved(BUILDERS[name](), tmp_path / name), sizes={"short": None})
    drawn = shapes.make_scene(0, size=(56, 64))
    path = tmp_path / "scene.png"
    assert cv2.imwrite(str(path), drawn.image[..., ::-1])
    scene = scene_of(path, 1, 56, 64)
    loaded = model.load(scene)
    (alone,), (first, second) = model.candidates([loaded]), model.candidates([loaded, loaded])
    for found in alone, first, second:
        assert isinstance(found, Candidates)
        assert found.labels.tolist() == alone.labels.tolist()  # type: ignore[union-attr]
        assert set(found.labels.tolist()) <= {NO_LABEL, *range(9)}
        assert found.frame.original == (56, 64)
        # DETR alone predicts boxes.
        assert (found.boxes is not None) == (name == "detr")
        assert found.boxes is None or (found.boxes.shape == (len(found.labels), 4) and found.boxes.max() > 1)
    assert model.class_names == tuple(NAMES)
    assert model.isthing == (True,) * 5 + (False,) * 4
    assert predict(model, scene, range(9)).ids.shape == (56, 64)
    described = model.describe()
    assert described.weights_sha256 == load_checkpoint(tmp_path / name / "model.safetensors").sha256
    assert (described.name, described.family) == (name, name)


def test_a_pickle_of_weights_loads_as_data(eomt_folder: Path) -> None:
    state = load_checkpoint(eomt_folder / "model.safetensors").state_dict
    (eomt_folder / "model.safetensors").unlink()
    torch.save(dict(state), eomt_folder / "pytorch_model.bin")
    model = opened(eomt_folder, things=THINGS)
    assert torch.equal(model.module.state_dict()["query.weight"], state["query.weight"])


def test_parameters_under_the_names_of_an_earlier_version_are_renamed(tmp_path: Path) -> None:
    adapter = TransformersAdapter(find_model(str(saved(config_of("maskformer"), tmp_path / "model"))))
    now = adapter.build().state_dict()
    earlier = {name.replace(".mlp.fc", ".fc").replace("o_proj", "out_proj"): value for name, value in now.items()}
    assert set(earlier) != set(now)
    renamed = adapter.rename(earlier)
    assert set(renamed) == set(now)
    assert all(torch.equal(value, now[name]) for name, value in renamed.items())


def timm_names(name: str) -> str:
    """A parameter of DETR as its repository has it: timm's ResNet, and transformers' names of before version 5."""
    name = name.replace(".mlp.fc", ".fc").replace("detr.model.backbone.", "detr.model.backbone.conv_encoder.")
    name = name.replace("embedder.embedder.convolution", "conv1").replace("embedder.embedder.normalization", "bn1")
    name = re.sub(r"encoder\.stages\.(\d)\.layers\.", lambda found: f"layer{int(found[1]) + 1}.", name)
    name = name.replace("shortcut.convolution", "downsample.0").replace("shortcut.normalization", "downsample.1")
    name = re.sub(r"\.layer\.(\d)\.convolution", lambda found: f".conv{int(found[1]) + 1}", name)
    return re.sub(r"\.layer\.(\d)\.normalization", lambda found: f".bn{int(found[1]) + 1}", name)


@pytest.mark.parametrize("backbone", ["resnet50", "resnet101"])
def test_detr_loads_without_timm_what_was_saved_with_it(backbone: str) -> None:
    network = {
        "model_type": "detr",
        "use_timm_backbone": True,
        "backbone": backbone,
        "d_model": 32,
        "encoder_layers": 1,
    }
    sizes = {"encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "decoder_layers": 1, "num_queries": 7}
    names = dict.fromkeys(range(250), "N/A") | {1: "person", 200: "rug-merged"}
    adapter = TransformersAdapter(spec_with({**network, **sizes, "id2label": names}))
    now = adapter.build().state_dict()
    published = {timm_names(name): value for name, value in now.items()}
    stem = "detr.model.backbone.conv_encoder.model."
    assert {f"{stem}conv1.weight", f"{stem}layer1.0.downsample.1.running_var", f"{stem}layer4.2.bn3.bias"} < set(
        published
    )
    renamed = adapter.rename(published)
    assert set(renamed) == set(now)
    assert all(torch.equal(value, now[name]) for name, value in renamed.items())
    assert (adapter.class_names, adapter.isthing) == (("person", "rug-merged"), (True, False))


def test_a_detr_with_dilation_is_refused() -> None:
    with pytest.raises(BadModel, match="DC5"):
        TransformersAdapter(spec_with({"model_type": "detr", "dilation": True, "id2label": {0: "person"}}))


def test_transformers_and_mmdet_run_in_one_process(eomt_folder: Path) -> None:
    ours, theirs = opened(eomt_folder, things=THINGS), open_model(find_model("mask2former-tiny"), device="cpu")
    assert ours.describe().adapter != theirs.describe().adapter


def test_an_eomt_that_does_not_say_how_it_masks_its_attention_is_refused(eomt_folder: Path) -> None:
    state = dict(load_checkpoint(eomt_folder / "model.safetensors").state_dict)
    del state["attn_mask_probs"]
    torch.save(state, eomt_folder / "pytorch_model.bin")
    (eomt_folder / "model.safetensors").unlink()
    assert "attn_mask_probs" in refusal(eomt_folder, things=THINGS)


def test_weights_of_another_network_are_refused(eomt_folder: Path) -> None:
    settings_of(eomt_folder, num_hidden_layers=7)
    assert "do not fit" in refusal(eomt_folder, things=THINGS)


def test_categories_that_nobody_knows_ask_for_the_things(eomt_folder: Path) -> None:
    assert "add --things FILE" in refusal(eomt_folder)
    assert "no category 'unicorn'" in refusal(eomt_folder, things=["unicorn"])


def test_labels_without_names_are_refused(eomt_folder: Path) -> None:
    settings_of(eomt_folder, id2label={str(label): f"LABEL_{label}" for label in range(9)}, label2id=None)
    assert "names none of its 9 labels" in refusal(eomt_folder)


def test_a_folder_without_weights_says_so(eomt_folder: Path) -> None:
    (eomt_folder / "model.safetensors").unlink()
    message = refusal(eomt_folder, things=THINGS)
    assert message.startswith(f"{eomt_folder} has no weights: neither model.safetensors nor pytorch_model.bin nor ")


@pytest.mark.parametrize("kind", BUILDERS)
def test_names_for_more_or_fewer_classes_than_the_weights_have_are_refused(kind: str, tmp_path: Path) -> None:
    folder = saved(BUILDERS[kind](), tmp_path / "model")
    for names in (NAMES[:7], [*NAMES, "N/A"]):
        settings_of(folder, id2label=dict(enumerate(names)), label2id=None)
        assert f"trained for 9 classes, but id2label of its config.json has {len(names)}" in refusal(folder)
    # Under names of an earlier version, the weights go through transformers' own renaming.
    state = load_checkpoint(folder / "model.safetensors").state_dict
    earlier = {name.replace(".mlp.fc", ".fc").replace("o_proj", "out_proj"): value for name, value in state.items()}
    torch.save(earlier, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert "trained for 9 classes" in refusal(folder)


@pytest.mark.parametrize(("first", "beyond"), [(1, 9), (-1, -1), (200, 208)])
def test_labels_that_the_network_cannot_give_are_refused(first: int, beyond: int, eomt_folder: Path) -> None:
    """Whose first label is 1 would read "nothing" as a category."""
    settings_of(eomt_folder, id2label=dict(enumerate(NAMES, start=first)), label2id=None)
    assert f"9 classes, labels 0 to 8, but id2label of its config.json names the label {beyond}" in refusal(eomt_folder)


def test_a_number_of_labels_beside_their_names_does_not_take_the_names_away(eomt_folder: Path) -> None:
    settings_of(eomt_folder, id2label=dict(enumerate(NAMES)), label2id=None, num_labels=11)
    assert opened(eomt_folder).class_names == tuple(NAMES)


@pytest.mark.parametrize(
    ("names", "trained"),
    [(NAMES[:5], "instance segmentation: it has no stuff"), (NAMES[5:], "semantic segmentation: it has no things")],
)
def test_a_checkpoint_of_another_task_is_refused(names: list[str], trained: str, tmp_path: Path) -> None:
    assert trained in refusal(saved(config_of("eomt"), tmp_path / "model", names))


def test_a_name_says_for_what_a_checkpoint_was_trained(tmp_path: Path) -> None:
    folder = saved(config_of("eomt"), tmp_path / "eomt-ade-semantic")
    assert "semantic segmentation" in refusal(folder)
    assert opened(folder, things=NAMES[:5]).isthing == (True,) * 5 + (False,) * 4


def test_other_architectures_are_refused(eomt_folder: Path) -> None:
    settings_of(eomt_folder, architectures=["EomtForImageClassification"])
    assert "gives no panoptic masks" in refusal(eomt_folder)
    settings_of(eomt_folder, model_type="segformer")
    assert "is a segformer" in refusal(eomt_folder)


def test_a_config_that_transformers_cannot_read_is_refused(eomt_folder: Path) -> None:
    settings_of(eomt_folder, hidden_size="wide")
    assert "cannot read its config.json" in refusal(eomt_folder)
    (eomt_folder / "config.json").write_text("{")
    assert "cannot be read as JSON" in refusal(eomt_folder)


def test_without_transformers_the_sentence_names_the_command(
    eomt_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert install_line("transformers") in refusal(eomt_folder)
    assert install_line("transformers") in refusal("hf:facebook/mask2former-swin-tiny-coco-panoptic")


def test_differences_to_gated_weights_are_refused_before_anything_is_downloaded() -> None:
    with pytest.raises(BadModel, match=r"only differences to the gated weights of DINOv3.*--model eomt-dinov3-l-640"):
        find_model("hf:tue-mps/coco_panoptic_eomt_large_640_dinov3")


def test_nothing_is_downloaded_without_consent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PANBENCH_CACHE", str(tmp_path))
    monkeypatch.setattr(hub, "fetch", lambda *_, **__: pytest.fail("downloaded"))
    assert "--download" in refusal("hf:owner/name")


def test_a_repository_that_was_fetched_runs_under_its_own_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    folder = tmp_path / "models--owner--name"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("abc")
    saved(config_of("eomt"), folder / "snapshots" / "abc")
    model = open_model(find_model("hf:owner/name"), device="cpu")
    assert model.spec.name == "owner--name"
    assert Path(str(model.describe().weights)) == folder / "snapshots" / "abc" / "model.safetensors"


def test_sizes_are_those_of_each_papers_code() -> None:
    # detectron2 rounds, DETR cuts off, EoMT fits into its square.
    assert shortest_edge((480, 640), 800, 1333) == (800, 1067)
    assert detr_size((480, 640), 800, 1333) == (800, 1066)
    assert shortest_edge((427, 1000), 800, 1333) == (569, 1333)
    assert detr_size((427, 1000), 800, 1333) == (569, 1332)
    assert detr_size((800, 900), 800, 1333) == (800, 900)
    assert fitted((480, 640), 640, 640) == (480, 640)
    assert fitted((427, 1000), 640, 640) == (273, 640)


def test_images_reach_the_network_as_transformers_own_processor_brings_them(eomt_folder: Path) -> None:
    from transformers.models.eomt.image_processing_pil_eomt import EomtImageProcessorPil

    image = np.random.default_rng(0).integers(0, 256, (123, 97, 3), dtype=np.uint8)
    adapter = opened(eomt_folder, things=THINGS).adapter
    pixels, frame = adapter.prepare(image)
    assert frame == Frame((128, 128), (128, 101), (123, 97))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (adapter.mean, adapter.std))
    # With the size that EoMT's own code rounds to; transformers cuts it off (100).
    processor = EomtImageProcessorPil(size={"height": 128, "width": 101})
    theirs = torch.as_tensor(np.asarray(processor(images=[image])["pixel_values"][0]))
    ours = (pixels.float() - mean) / std
    torch.testing.assert_close(ours[:, :, :101], theirs.float(), rtol=0, atol=1e-5)
    # Black, not grey: EoMT pads before it normalises.
    torch.testing.assert_close(ours[:, 0, 101], -mean.flatten() / std.flatten())


def test_sizes_and_colours_are_read_from_the_processors_config(tmp_path: Path) -> None:
    folder = saved(config_of("mask2former"), tmp_path / "model")
    processor = {"size": {"shortest_edge": 96, "longest_edge": 128}, "image_mean": [0.5, 0.5, 0.5]}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    adapter = TransformersAdapter(find_model(str(folder)))
    assert (adapter.short, adapter.long, adapter.mean) == (96, 128, (127.5, 127.5, 127.5))
    (folder / "preprocessor_config.json").write_text(json.dumps({"size": 64, "max_size": 80}))
    adapter = TransformersAdapter(find_model(str(folder)))
    assert (adapter.short, adapter.long) == (64, 80)
    assert adapter.prepare(np.zeros((50, 60, 3), np.uint8))[1] == Frame((64, 96), (64, 77), (50, 60))


def test_labels_with_gaps_are_closed_up() -> None:
    from transformers.models.eomt.modeling_eomt import EomtForUniversalSegmentationOutput

    names = {0: "N/A", 1: "person", 2: "LABEL_2", 3: "sky-other-merged"}
    adapter = TransformersAdapter(spec_with({**NETWORKS["eomt"], "id2label": names}))
    assert adapter.class_names == ("person", "sky-other-merged")
    assert adapter.isthing == (True, False)
    logits = torch.full((1, 7, 5), -9.0)
    for query, label in enumerate([0, 1, 2, 3, 4, 3, 1]):
        logits[0, query, label] = 9.0

    def network(pixel_values: torch.Tensor) -> Any:
        return EomtForUniversalSegmentationOutput(
            class_queries_logits=logits, masks_queries_logits=torch.zeros(1, 7, 16, 16)
        )

    frame = Frame((64, 64), (64, 64), (64, 64))
    (found,) = adapter.candidates(network, torch.zeros(1, 3, 64, 64), [frame])
    assert found.labels.tolist() == [NO_LABEL, 0, NO_LABEL, 1, NO_LABEL, 1, 0]
