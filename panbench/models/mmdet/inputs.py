"""How an image comes into mmdet: the config's test pipeline, mmdet's preprocessor, and the sizes that they leave."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from mmengine.config import Config

from panbench.base.errors import BadModel
from panbench.models.candidates import Frame
from panbench.models.mmdet.config import in_scope_of
from panbench.models.model import LoadedImage
from panbench.models.preprocess import normalised, on_device, sizes_of
from panbench.panoptic.types import Exif

# mmcv's decoders that leave photographs as they are stored.
_NEVER_TURN = ("turbojpeg", "tifffile")
_READS_GROUND_TRUTH = ("LoadPanopticAnnotations", "LoadAnnotations")


def pipelines_of(config: Config, factor: float = 1.0) -> dict[Exif, Any]:
    """The config's test pipeline as callables that apply or ignore EXIF orientations; one is absent where it cannot be.

    mmcv turns photographs unless the config asks for turbojpeg, tifffile or `*_ignore_orientation`. A loader of another
    type is taken to turn them, as OpenCV does.
    factor: they resize images to this many times the config's size
    Raises BadModel for a config without a pipeline.
    """
    steps = _steps(config, factor)
    as_configured = _composed(config, steps)
    first, *rest = steps
    if _type_name(first["type"]) != "LoadImageFromFile":
        return {"apply": as_configured}
    color = first.get("color_type", "color")
    if first.get("imdecode_backend") in _NEVER_TURN or color not in ("color", "grayscale"):
        return {"ignore": as_configured}
    lying = [{**first, "color_type": f"{color}_ignore_orientation"}, *rest]
    return {"apply": as_configured, "ignore": _composed(config, lying)}


def _steps(config: Config, factor: float) -> list[Mapping[str, Any]]:
    """The steps of the config's test pipeline without those that read ground truth.

    Raises BadModel for a config without a pipeline.
    """
    operators = innermost_dataset(config).get("pipeline") or config.get("test_pipeline")
    if not operators:
        raise BadModel(
            f"{config.filename} has no test pipeline (`test_dataloader.dataset.pipeline` or `test_pipeline`)."
        )
    wanted = [step for step in operators if _type_name(step["type"]) not in _READS_GROUND_TRUTH]
    return wanted if factor == 1.0 else _enlarged(wanted, factor)


def _composed(config: Config, steps: Sequence[Mapping[str, Any]]) -> Any:
    """The steps as one callable. Raises BadModel."""
    with in_scope_of(config):
        import mmdet.datasets.transforms  # noqa: F401  (registers mmdet's transforms)
        from mmcv.transforms import Compose

        try:
            return Compose(steps)
        except Exception as error:
            raise BadModel(f"{config.filename}: its test pipeline cannot be built ({error}).") from error


def _enlarged(steps: Sequence[Mapping[str, Any]], factor: float) -> list[Mapping[str, Any]]:
    """The steps of a pipeline with a larger scale; one that resizes nothing gets a step that does, after loading."""

    def larger(step: Mapping[str, Any]) -> Mapping[str, Any]:
        if step.get("scale") is None:
            factors = step["scale_factor"]
            both = (factors, factors) if isinstance(factors, (int, float)) else tuple(factors)
            return {**step, "scale_factor": tuple(each * factor for each in both)}
        scale = step["scale"]
        sides = (scale, scale) if isinstance(scale, int) else tuple(scale)
        return {**step, "scale": tuple(max(1, int(side * factor + 0.5)) for side in sides)}

    resizes = [_type_name(step["type"]) == "Resize" for step in steps]
    if any(resizes):
        return [larger(step) if resize else step for step, resize in zip(steps, resizes, strict=True)]
    first, *rest = steps
    # Boxes are brought back by the scale factor, which a pipeline that never resizes need not have packed.
    packed = [
        {**step, "meta_keys": (*step["meta_keys"], "scale_factor")} if "meta_keys" in step else step for step in rest
    ]
    return [first, {"type": "Resize", "scale_factor": factor, "keep_ratio": True}, *packed]


def reads_as_opencv(pipeline: Any) -> bool:
    """Whether a test pipeline begins by decoding the file in colour, as OpenCV does, and by nothing else."""
    first = pipeline.transforms[0]
    return (
        type(first).__name__ == "LoadImageFromFile"
        and first.color_type in ("color", "color_ignore_orientation")
        and first.imdecode_backend == "cv2"
    )


def without_file(pipeline: Any, record: Mapping[str, Any], bgr: npt.NDArray[np.uint8], title: str) -> Any:
    """What a test pipeline makes of these (H, W, 3) pixels in place of the file that its first step reads.

    bgr: blue, green, red, as OpenCV decodes them
    record: what the pipeline is given of the image. Raises BadModel where another step than mmcv's reads the file.
    """
    first, *others = pipeline.transforms
    if type(first).__name__ != "LoadImageFromFile" or not first.color_type.startswith(("color", "unchanged")):
        raise BadModel(
            f"{title}: its test pipeline does not load images in colour by LoadImageFromFile, so it cannot be shown "
            "changed ones."
        )
    shape = bgr.shape[:2]
    state = {
        **record,
        "img": bgr.astype(np.float32) if first.to_float32 else bgr,
        "img_shape": shape,
        "ori_shape": shape,
    }
    for step in others:
        state = step(state)
    return state


def padded_size_of(pipeline: Any, config: Config, height: int, width: int) -> tuple[int, int] | None:
    """The (height, width) of the network's input for an image of this size; None if the pipeline does not fix it.

    The pipeline runs on an empty image, without its first step, which reads the file.
    """
    try:
        divisor = int(config.model.data_preprocessor.get("pad_size_divisor", 1))
        state: Any = {"img": np.zeros((height, width, 3), np.uint8), "img_path": "", "img_id": 0}
        state.update(height=height, width=width, img_shape=(height, width), ori_shape=(height, width))
        first, *others = pipeline.transforms
        if not type(first).__name__.startswith("LoadImage"):
            return None
        for step in others:
            state = step(state)
        rows, columns = state["inputs"].shape[-2:]
    except Exception:
        # Steps that ask for more: batches then hold images of one size.
        return None
    return -(-rows // divisor) * divisor, -(-columns // divisor) * divisor


def innermost_dataset(config: Config) -> dict[str, Any]:
    """The innermost dataset of the config's test loader (or val loader), {} when there is none."""
    for key in ("test_dataloader", "val_dataloader"):
        dataset = (config.get(key) or {}).get("dataset")
        while dataset is not None and "dataset" in dataset:
            dataset = dataset["dataset"]
        if dataset:
            return cast("dict[str, Any]", dataset)
    return {}


def preprocessed(module: Any, batch: Sequence[LoadedImage]) -> tuple[torch.Tensor, Sequence[Any]]:
    """A batch as mmdet's preprocessor makes it: (B, 3, H, W) on the module's device, and the samples."""
    preprocessor = module.data_preprocessor
    # mmdet's own, as it comes; a config's subclass may do anything, and is called.
    if type(preprocessor).__name__ == "DetDataPreprocessor" and preprocessor._enable_normalize:
        images, samples = [image.inputs for image in batch], [image.sample for image in batch]
        sizes = sizes_of(images)
        divisor = preprocessor.pad_size_divisor
        padded = [(-(-height // divisor) * divisor, -(-width // divisor) * divisor) for height, width in sizes]
        whole = (max(height for height, _ in padded), max(width for _, width in padded))
        pixels = on_device(images, whole, preprocessor.mean.device)
        if preprocessor._channel_conversion:
            pixels = pixels.flip(1)
        for sample, size in zip(samples, padded, strict=True):
            sample.set_metainfo({"batch_input_shape": whole, "pad_shape": size})
        return normalised(pixels, preprocessor.mean, preprocessor.std, sizes, preprocessor.pad_value), samples
    data = {"inputs": [image.inputs for image in batch], "data_samples": [image.sample for image in batch]}
    prepared = module.data_preprocessor(data, False)
    return prepared["inputs"], prepared["data_samples"]


def frame_of(meta: Mapping[str, Any]) -> Frame:
    """The sizes of an image, from mmdet's sample."""
    padded, resized, original = (tuple(meta[key][:2]) for key in ("batch_input_shape", "img_shape", "ori_shape"))
    return Frame(cast(Any, padded), cast(Any, resized), cast(Any, original))


def _type_name(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) else str(kind).rpartition(".")[2]
