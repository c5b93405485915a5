import dataclasses
import functools
import json
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import support
import torch
import transformers
from model_maps import photographs
from views import check_views

from panbench.base import hub
from panbench.base.errors import BadArgument, BadCheckpoint, BadDataset, BadModel
from panbench.base.extras import install_line
from panbench.catalog import ModelSpec, find_model
from panbench.models.candidates import NO_LABEL, Candidates, Frame
from panbench.models.checkpoints import load_checkpoint
from panbench.models.host import HostedModel
from panbench.models.opening import open_model
from panbench.models.predict import predict
from panbench.models.transformers.adapter import TransformersAdapter
from panbench.models.transformers.families import detr_size, fit_into_square, shortest_edge
from scripts.check.compare_models import transformers_row
from scripts.make.tiny_networks import NAMES, NETWORKS

EOMT = Path(__file__).parents[2] / "reference" / "other_models" / "eomt"
LABELS = str(EOMT / "categories.json")


def config_of(kind: str) -> Any:
    """The config of a tiny network of a family."""
    return transformers.AutoConfig.for_model(**NETWORKS[kind])


BUILDERS: dict[str, Callable[[], Any]] = {kind: functools.partial(config_of, kind) for kind in NETWORKS}


def untrained(config: Any, names: Sequence[str] = NAMES) -> Any:
    """The network of a config, with random weights and these classes."""
    config.id2label = dict(enumerate(names))
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
    return getattr(transformers, network)(config).eval()


def saved(config: Any, folder: Path, names: Sequence[str] = NAMES) -> Path:
    """A folder as save_pretrained writes it, of random weights."""
    untrained(config, names).save_pretrained(folder)
    return folder


def in_the_hubs_cache(cache: Path, repository: str) -> Path:
    """Where the files of a repository's main branch lie in the hub's cache, once there are some."""
    root = cache / f"models--{repository.replace('/', '--')}"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text("0" * 40)
    return root / "snapshots" / ("0" * 40)


def settings_of(folder: Path, **changes: Any) -> Path:
    """Changes keys of a folder's config.json; None takes one away."""
    path = folder / "config.json"
    stated = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in stated.items() if value is not None}))
    return folder


def opened(folder: Path | str, **settings: Any) -> HostedModel:
    spec = find_model(str(folder))
    model = open_model(dataclasses.replace(spec, settings={**spec.settings, **settings}), device="cpu")
    assert isinstance(model, HostedModel)
    return model


def refusal(folder: Path | str, **settings: Any) -> str:
    return support.refusal((BadModel, BadCheckpoint), opened, folder, **settings)


def spec_with(network: dict[str, Any]) -> ModelSpec:
    return dataclasses.replace(find_model("hf:a/b"), settings={"network": network})


@pytest.fixture
def eomt_folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(EOMT, tmp_path / "eomt"))


def test_logits_and_maps_equal_the_recorded_ones() -> None:
    with torch.inference_mode():
        _, _, apart, pixels = transformers_row("EoMT", EOMT)
    assert apart <= 1e-4
    assert pixels == "0 of 11,931"
    assert len(np.load(EOMT / "reference.npz")["mid_segments_0"]) > 1


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
    (scene,) = photographs(tmp_path, [(56, 64)])
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
    model = opened(eomt_folder, labels=LABELS)
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
def test_a_detr_saved_with_timm_loads_without_timm(backbone: str) -> None:
    network = {"model_type": "detr", "use_timm_backbone": True, "backbone": backbone, "d_model": 32}
    sizes = dict.fromkeys(("encoder_layers", "decoder_layers"), 1) | {"num_queries": 7}
    sizes |= dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), 32)
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
    ours, theirs = opened(eomt_folder, labels=LABELS), open_model(find_model("mask2former-tiny"), device="cpu")
    assert ours.describe().adapter != theirs.describe().adapter


def test_an_eomt_that_does_not_say_how_it_masks_its_attention_is_refused(eomt_folder: Path) -> None:
    state = dict(load_checkpoint(eomt_folder / "model.safetensors").state_dict)
    del state["attn_mask_probs"]
    torch.save(state, eomt_folder / "pytorch_model.bin")
    (eomt_folder / "model.safetensors").unlink()
    assert "attn_mask_probs" in refusal(eomt_folder, labels=LABELS)


def categories(path: Path, names: list[str]) -> str:
    """A JSON for --labels, of which every second name is a thing."""
    path.write_text(json.dumps([{"id": 7 * i, "name": name, "isthing": i % 2} for i, name in enumerate(names)]))
    return str(path)


def test_unknown_categories_need_a_list_of_things(eomt_folder: Path, tmp_path: Path) -> None:
    assert "as --labels FILE" in refusal(eomt_folder)
    lacks = categories(tmp_path / "other.json", ["unicorn", *NAMES])
    assert f"has the category 'car' (id2label of config.json), which {lacks} lacks" in refusal(
        eomt_folder, labels=lacks
    )
    assert opened(eomt_folder, labels=LABELS).isthing == (True,) * 5 + (False,) * 4


@pytest.mark.parametrize("kind", ["eomt", "mask2former"])
def test_a_network_without_names_needs_labels(kind: str, tmp_path: Path) -> None:
    folder = saved(BUILDERS[kind](), tmp_path / "model")
    settings_of(folder, id2label={str(label): f"LABEL_{label}" for label in range(9)}, label2id=None)
    said = refusal(folder)
    assert "names none of its 9 labels (id2label of config.json)" in said
    ways = "coco, ade20k, cityscapes, mapillary, or a JSON FILE of its categories (name, isthing) in label order"
    assert said.endswith(f"Say what they are with --labels {ways}.")
    model = opened(folder, labels=categories(tmp_path / "mine.json", list("abcdefghi")))
    assert (model.class_names, model.isthing) == (tuple("abcdefghi"), (False, True) * 4 + (False,))
    assert opened(folder, labels="shapes").isthing == (True,) * 5 + (False,) * 4
    assert "has 9 classes (config.json), but coco has 133 categories" in refusal(folder, labels="coco")
    few = categories(tmp_path / "few.json", ["a", "b"])
    assert f"has 9 classes (config.json), but {few} has 2 categories" in refusal(folder, labels=few)
    with pytest.raises(BadArgument, match="--labels pets: there is no such file or dataset"):
        opened(folder, labels="pets")
    (tmp_path / "words.json").write_text("[1")
    with pytest.raises(BadDataset):
        opened(folder, labels=str(tmp_path / "words.json"))


def test_a_detr_of_250_classes_has_cocos_ids_as_labels() -> None:
    unnamed = {label: f"LABEL_{label}" for label in range(250)}
    spec = spec_with({**NETWORKS["detr"], "id2label": unnamed})
    adapter = TransformersAdapter(dataclasses.replace(spec, settings={**spec.settings, "labels": "coco"}))
    assert (len(adapter.class_names), sum(adapter.isthing), adapter.class_names[0]) == (133, 80, "person")
    assert adapter._label_of[[1, 200, 0, 249]].tolist() == [0, 132, NO_LABEL, NO_LABEL]


def test_a_folder_without_weights_is_reported(eomt_folder: Path) -> None:
    (eomt_folder / "model.safetensors").unlink()
    message = refusal(eomt_folder, labels=LABELS)
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
def test_more_labels_than_the_network_has_are_refused(first: int, beyond: int, eomt_folder: Path) -> None:
    """Whose first label is 1 would read "nothing" as a category."""
    settings_of(eomt_folder, id2label=dict(enumerate(NAMES, start=first)), label2id=None)
    assert f"9 classes, labels 0 to 8, but id2label of its config.json names the label {beyond}" in refusal(eomt_folder)


def test_a_number_of_labels_does_not_replace_their_names(eomt_folder: Path) -> None:
    settings_of(eomt_folder, id2label=dict(enumerate(NAMES)), label2id=None, num_labels=11)
    assert opened(eomt_folder).class_names == tuple(NAMES)


@pytest.mark.parametrize(
    ("names", "trained"),
    [(NAMES[:5], "instance segmentation: it has no stuff"), (NAMES[5:], "semantic segmentation: it has no things")],
)
def test_a_checkpoint_of_another_task_is_refused(names: list[str], trained: str, tmp_path: Path) -> None:
    assert trained in refusal(saved(config_of("eomt"), tmp_path / "model", names))


def test_a_checkpoints_name_says_its_data_set(tmp_path: Path) -> None:
    folder = saved(config_of("eomt"), tmp_path / "eomt-ade-semantic")
    assert "semantic segmentation" in refusal(folder)
    assert opened(folder, labels="shapes").isthing == (True,) * 5 + (False,) * 4


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_hidden_layers": 7}, "do not fit"),
        ({"architectures": ["EomtForImageClassification"]}, "gives no panoptic masks"),
        ({"model_type": "segformer"}, "is a segformer"),
        ({"hidden_size": "wide"}, "cannot read its config.json"),
    ],
)
def test_a_folder_with_an_unfit_config_is_refused_with_the_reason(eomt_folder: Path, changes, words) -> None:
    settings_of(eomt_folder, **changes)
    assert words in refusal(eomt_folder, labels=LABELS)


def test_a_config_that_is_not_json_is_refused(eomt_folder: Path) -> None:
    (eomt_folder / "config.json").write_text("{")
    assert "cannot be read as JSON" in refusal(eomt_folder)


def test_without_transformers_the_error_has_the_install_command(eomt_folder, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert install_line("transformers") in refusal(eomt_folder)
    assert install_line("transformers") in refusal("hf:facebook/mask2former-swin-tiny-coco-panoptic")


def test_delta_weights_of_gated_models_are_refused_before_any_download() -> None:
    with pytest.raises(BadModel, match=r"only differences to the gated weights of DINOv3.*--model eomt-dinov3-l-640"):
        find_model("hf:tue-mps/coco_panoptic_eomt_large_640_dinov3")


def test_nothing_is_downloaded_without_consent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PANBENCH_CACHE", str(tmp_path))
    monkeypatch.setattr(hub, "fetch", lambda *_, **__: pytest.fail("downloaded"))
    assert "--download" in refusal("hf:owner/name")


def test_a_downloaded_repository_runs_under_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    folder = saved(config_of("eomt"), in_the_hubs_cache(tmp_path, "owner/name"))
    model = open_model(find_model("hf:owner/name"), device="cpu")
    assert model.spec.name == "owner--name"
    assert Path(str(model.describe().weights)) == folder / "model.safetensors"


def test_image_sizes_are_those_of_each_papers_code() -> None:
    # detectron2 rounds, DETR cuts off, EoMT fits into its square.
    assert [shortest_edge(size, 800, 1333) for size in ((480, 640), (427, 1000))] == [(800, 1067), (569, 1333)]
    by_detr = [detr_size(size, 800, 1333) for size in ((480, 640), (427, 1000), (800, 900))]
    assert by_detr == [(800, 1066), (569, 1332), (800, 900)]
    assert [fit_into_square(size, 640, 640) for size in ((480, 640), (427, 1000))] == [(480, 640), (273, 640)]


def test_images_are_preprocessed_as_by_transformers_own_processor(eomt_folder: Path) -> None:
    from transformers.models.eomt.image_processing_pil_eomt import EomtImageProcessorPil

    image = np.random.default_rng(0).integers(0, 256, (123, 97, 3), dtype=np.uint8)
    adapter = opened(eomt_folder, labels=LABELS).adapter
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


def test_size_mean_and_std_are_read_from_the_processors_config(tmp_path: Path) -> None:
    folder = saved(config_of("mask2former"), tmp_path / "model")
    processor = {"size": {"shortest_edge": 96, "longest_edge": 128}, "image_mean": [0.5, 0.5, 0.5]}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    adapter = TransformersAdapter(find_model(str(folder)))
    assert (adapter.resize.short, adapter.resize.long, adapter.mean) == (96, 128, (127.5, 127.5, 127.5))
    (folder / "preprocessor_config.json").write_text(json.dumps({"size": 64, "max_size": 80}))
    adapter = TransformersAdapter(find_model(str(folder)))
    assert (adapter.resize.short, adapter.resize.long) == (64, 80)
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
        masks = torch.zeros(1, 7, 16, 16)
        return EomtForUniversalSegmentationOutput(class_queries_logits=logits, masks_queries_logits=masks)

    frame = Frame((64, 64), (64, 64), (64, 64))
    (found,) = adapter.candidates(network, torch.zeros(1, 3, 64, 64), [frame])
    assert found.labels.tolist() == [NO_LABEL, 0, NO_LABEL, 1, NO_LABEL, 1, 0]
