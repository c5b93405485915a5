"""Whole models against mmdet's own `test_step`, and what is asked of a user's config."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from model_maps import assert_maps_of_each_alone, maps_of, photographs, wrong_pixels
from torch._dynamo.exc import TorchDynamoException
from torch._dynamo.utils import counters

from panbench.base.errors import BadArgument, BadDataset, BadModel
from panbench.catalog import find_model, spec_from_config
from panbench.models.devices import choose_device
from panbench.models.host import HostedModel
from panbench.models.labels import match_categories
from panbench.models.mmdet.adapter import MmdetAdapter
from panbench.models.mmdet.inputs import preprocessed
from panbench.models.opening import open_model
from panbench.models.predict import predict
from panbench.panoptic.types import Category, Scene
from scripts.make import tiny_networks

CPU = torch.device("cpu")
TINY = ["panoptic-fpn-tiny", "maskformer-tiny", "mask2former-tiny"]
# Resizing, cropping and padding at once: 90×128 becomes 113×160, padded to 128×160.
RESIZED = "test_pipeline = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=(160, 128), keep_ratio=True), "


def mmdets_map(model: HostedModel, scene: Scene) -> np.ndarray:
    """mmdet's panoptic map: label + 1000 × instance, the number of classes where void."""
    loaded = model.load(scene)
    with torch.no_grad():
        (sample,) = model.module.test_step({"inputs": [loaded.inputs], "data_samples": [loaded.sample]})
    # A copy: CocoPanopticMetric would write into it.
    return sample.pred_panoptic_seg.sem_seg[0].numpy().copy()


def pixels_that_differ(model: HostedModel, scene: Scene) -> tuple[int, int, int]:
    """Pixels whose label or segment differs from mmdet's; pixels in all; segments."""
    (found,) = maps_of(model, [model.load(scene)])
    theirs, void = mmdets_map(model, scene), len(model.class_names)
    wrong = wrong_pixels(found, theirs, np.where(theirs == void, void, theirs % 1000), void)
    return int(wrong.sum()), wrong.size, len(found[1])


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("resized", [False, True], ids=["as is", "resized"])
def test_maps_equal_those_of_mmdets_test_step(name: str, resized: bool, tmp_path: Path):
    spec = find_model(name)
    size = (128, 160)
    if resized:
        size = (90, 128)
        config = tmp_path / f"{name}.py"
        keys = "'img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'"
        config.write_text(
            f"_base_ = {str(spec.config)!r}\n{RESIZED}dict(type='PackDetInputs', meta_keys=({keys}))]\n"
            "test_dataloader = dict(dataset=dict(pipeline=test_pipeline))\n"
        )
        spec = dataclasses.replace(spec, config=config)
    model = open_model(spec, device=CPU)
    results = [pixels_that_differ(model, scene) for scene in photographs(tmp_path, [size] * 8)]
    wrong, pixels, segments = map(sum, zip(*results, strict=True))
    assert segments >= 3 * len(results), "there must be segments to compare"
    assert wrong <= 1e-4 * pixels


@pytest.mark.parametrize("name", [*TINY, "oneformer-tiny", "eomt-tiny"])
@pytest.mark.parametrize("sizes", [[(96, 128)] * 4, [(96, 128), (90, 101), (70, 128), (96, 97)]])
def test_images_of_one_padded_size_give_the_same_alone_and_in_a_batch(name: str, sizes: list, tmp_path: Path):
    """90×101 and 96×128 are both 96×128 in the network; each has its own zeros, and MaskFormer its own mask of them."""
    model = open_model(find_model(name), device=CPU)
    found = photographs(tmp_path, sizes)
    assert len({model.batch_key(scene.image) for scene in found}) == 1
    assert_maps_of_each_alone(model, [model.load(scene) for scene in found])


@pytest.mark.parametrize("name", [*TINY, "maskformer-r50"])
def test_the_networks_input_size_is_known_before_reading_an_image(name: str, tmp_path: Path):
    model = open_model(find_model(name), weights="random" if "r50" in name else "auto", device=CPU)
    for size in ((96, 128), (90, 101), (61, 200)):
        (scene,) = photographs(tmp_path, [size])
        (output,) = model.candidates([model.load(scene)]) if "tiny" in name else (None,)
        loaded = model.load(scene).inputs.shape[-2:]
        divisor = model.module.data_preprocessor.pad_size_divisor
        padded = tuple(-(-side // divisor) * divisor for side in loaded)
        assert model.batch_key(scene.image) == padded
        assert output is None or output.frame.padded == padded


@pytest.mark.parametrize("name", TINY)
def test_a_batch_is_prepared_as_mmdets_preprocessor_prepares_it(name: str, tmp_path: Path):
    model = open_model(find_model(name), device=CPU)
    found = photographs(tmp_path, [(96, 128), (96, 128), (90, 101)])
    batch = [model.load(scene) for scene in found]
    pixels, samples, _ = preprocessed(model.module, batch)
    metas = [dict(sample.metainfo) for sample in samples]
    data = {"inputs": [image.inputs for image in batch], "data_samples": [image.sample for image in batch]}
    expected = model.module.data_preprocessor(data, False)
    assert torch.equal(pixels, expected["inputs"])
    assert [dict(sample.metainfo) for sample in expected["data_samples"]] == metas


def test_random_weights_are_the_same_for_the_same_seed():
    spec = find_model("mask2former-tiny")
    weights = [
        torch.cat([p.flatten() for p in open_model(spec, weights="random", device=CPU, seed=seed).module.parameters()])
        for seed in (0, 0, 1)
    ]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_the_models_pipeline_never_reads_ground_truth(tmp_path: Path):
    """The zoo's test pipelines hold LoadPanopticAnnotations; here there is no ground truth at all."""
    spec = find_model("maskformer-r50")
    model = open_model(spec, weights="random", device=CPU)
    (scene,) = photographs(tmp_path, [(64, 96)])
    loaded = model.load(scene)
    assert loaded.sample.metainfo["ori_shape"] == (64, 96)
    assert loaded.inputs.shape == (3, 800, 1200)
    assert model.module.panoptic_fusion_head.test_cfg.instance_on is False


CATEGORIES = (Category(7, "sky", isthing=False), Category(1, "cat", isthing=True), Category(3, "dog", isthing=True))


def test_labels_are_mapped_to_categories_by_name():
    assert match_categories("M", ["cat", "dog", "sky"], [True, True, False], CATEGORIES) == (1, 3, 7)


@pytest.mark.parametrize(
    ("names", "things", "message"),
    [
        (["cat", "dog", "sea"], 2, "3 in the model, of which the dataset lacks sea; .* the model lacks sky"),
        (["cat", "sky"], 1, "the dataset lacks none; 3 in the dataset, of which the model lacks dog"),
        (["cat", "sky", "dog"], 2, "which categories are things: sky, dog"),
    ],
)
def test_categories_that_do_not_match_are_refused_with_the_difference(names, things, message):
    with pytest.raises(BadModel, match=message):
        match_categories("M", names, [label < things for label in range(len(names))], CATEGORIES)


def test_a_users_config_names_its_categories_or_is_refused(tmp_path: Path):
    config = tmp_path / "mine.py"
    config.write_text(
        f"_base_ = {str(find_model('mask2former-tiny').config)!r}\n"
        "test_dataloader = dict(dataset=dict(metainfo=dict(classes=('a', 'b'))))\n"
    )
    with pytest.raises(BadModel, match="does not name its model's 9 categories"):
        open_model(spec_from_config(config), weights="random", device=CPU)


def test_an_image_of_another_size_than_its_json_is_refused(tmp_path: Path):
    model = open_model(find_model("maskformer-tiny"), weights="random", device=CPU)
    (scene,) = photographs(tmp_path, [(64, 96)])
    other = dataclasses.replace(scene, image=dataclasses.replace(scene.image, height=96, width=64))
    with pytest.raises(BadDataset, match="is 64×96 but the JSON says 96×64"):
        model.load(other)


@pytest.mark.parametrize(
    ("name", "message"), [("gpu", "auto, cpu, cuda, cuda:N or mps"), ("cuda:x", "unknown"), ("mps", "no Metal")]
)
def test_a_missing_device_is_refused(name: str, message: str, monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(BadArgument, match=message):
        choose_device(name)


def test_cuda_is_refused_without_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == CPU
    with pytest.raises(BadArgument, match=r"--device cuda: .*Use --device cpu"):
        choose_device("cuda")


@pytest.mark.parametrize(
    ("precision", "message"), [("int8", "it is one of fp32, ieee, tf32, bf16, fp16"), ("tf32", "needs a CUDA device")]
)
def test_an_unsupported_precision_is_refused(precision: str, message: str):
    with pytest.raises(BadArgument, match=message):
        open_model(find_model("maskformer-tiny"), weights="random", device=CPU, precision=precision)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_a_compiled_backbone_gives_the_same_map(tmp_path: Path, monkeypatch):
    """Of the backbone one stage, which has every kind of layer of the others: a C++ compiler takes seconds for each.

    Inductor would compile six small programs to see which vectors this computer has, headers for kernels to come, and
    the kernels with all optimizations: more than half of the time. Here it takes vectors of AVX2 where the processor
    has them, optimizes nothing, and starts no pool of compilers.
    """
    from torch._inductor import config as inductor  # a second that collecting does without
    from torch._inductor.cpu_vec_isa import VecISA

    spec = find_model("maskformer-tiny")
    (scene,) = photographs(tmp_path, [(96, 128)])
    plain = predict(open_model(spec, device=CPU), scene, range(9))
    compile_whole = torch.compile

    def compile_stage(backbone: Any, **settings: Any) -> Any:
        backbone.layer2 = compile_whole(backbone.layer2, **settings)
        return backbone

    monkeypatch.setattr(torch, "compile", compile_stage)
    counters.clear()
    # `vec_isa_ok` spares the compiling for all vectors but those of a few instructions more.
    monkeypatch.setattr(VecISA, "check_build", lambda *_: False)
    settings = {"cpp.vec_isa_ok": True, "cpp.simdlen": 256, "cpp_cache_precompile_headers": False, "compile_threads": 1}
    settings["aot_inductor.debug_compile"] = True
    with inductor.patch(settings):
        compiled = predict(open_model(spec, device=CPU, compiled=True), scene, range(9))
    assert counters["stats"]["calls_captured"] > 10, "two blocks, with a convolution around the first"
    assert (plain.ids != compiled.ids).mean() <= 1e-3
    assert [s.category_id for s in plain.segments] == [s.category_id for s in compiled.segments]


@pytest.mark.parametrize("name", [*TINY, *tiny_networks.SPECS])
def test_a_part_of_every_family_is_compiled_and_runs(name: str, tmp_path: Path, monkeypatch):
    """What torch.compile is given is what the forward pass calls: the backbone, or the network where it is one."""
    called = []

    def counted(part: Any, **settings: Any) -> Any:
        assert settings["dynamic"]
        run = part.forward if isinstance(part, torch.nn.Module) else part

        def forward(*given: Any, **named: Any) -> Any:
            called.append(part)
            return run(*given, **named)

        if not isinstance(part, torch.nn.Module):
            return forward
        monkeypatch.setattr(part, "forward", forward)
        return part

    monkeypatch.setattr(torch, "compile", counted)
    if name in tiny_networks.SPECS:
        model = tiny_networks.open_tiny(name, compiled=True)
    else:
        model = open_model(find_model(name), weights="random", device=CPU, compiled=True)
    assert model.compiled
    (scene,) = photographs(tmp_path, [(64, 64)])
    model.candidates([model.load(scene)])
    assert len(called) == 1


def test_a_function_is_not_compiled():
    with pytest.raises(BadArgument, match=r"is a function of its own\. Leave \+compile out"):
        open_model(find_model("os.path:basename"), device=CPU, compiled=True)


def test_a_failed_compilation_is_reported_in_one_sentence(tmp_path: Path, monkeypatch):
    spec = find_model("maskformer-tiny")
    (scene,) = photographs(tmp_path, [(96, 128)])
    model = open_model(spec, weights="random", device=CPU, compiled=True)

    def fail(*arguments, **keywords):
        raise TorchDynamoException("No working compiler\n\nwith a long explanation")

    monkeypatch.setattr(model.module, "extract_feat", fail)
    with pytest.raises(BadArgument, match=r"compile: .*\(No working compiler\).*leave \+compile out"):
        predict(model, scene, range(9))


@pytest.mark.parametrize("name", TINY)
def test_weights_cast_once_give_the_same_as_autocast(name: str, tmp_path: Path, monkeypatch):
    found = photographs(tmp_path, [(96, 128)] * 2)

    def outputs() -> list[torch.Tensor]:
        model = open_model(find_model(name), device=CPU, precision="bf16")
        answers = model.candidates([model.load(scene) for scene in found])
        assert (next(model.module.backbone.conv1.parameters()).dtype == torch.bfloat16) == MmdetAdapter.half_weights
        return [getattr(answer, "weight", None) if hasattr(answer, "weight") else answer.masks for answer in answers]

    once = outputs()
    monkeypatch.setattr(MmdetAdapter, "half_weights", False)
    assert all(torch.equal(a, b) for a, b in zip(once, outputs(), strict=True))


def test_boxes_keep_pixel_accuracy_at_half_precision(tmp_path: Path):
    """mmdet makes anchors and boxes of the type of the heads' answers, which in bfloat16 is 8 pixels coarse at 1000."""
    (scene,) = photographs(tmp_path, [(480, 640)])

    def boxes(precision: str) -> torch.Tensor:
        (found,) = (model := open_model(find_model("panoptic-fpn-tiny"), device=CPU, precision=precision)).candidates(
            [model.load(scene)]
        )
        return found.boxes

    exact, half = boxes("ieee"), boxes("bf16")
    assert half.dtype == torch.float32
    assert len(half)
    nearest = (half[:, None] - exact[None]).abs().amax(dim=2).amin(dim=1)
    assert (half != half.bfloat16().float()).any(), "not rounded to bfloat16"
    assert nearest.median() < 2
