"""Prepares images for mmdet: the config's test pipeline, mmdet's preprocessing, and the resulting sizes."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from mmengine.config import Config

from panbench.base.errors import BadModel
from panbench.models.candidates import Frame
from panbench.models.mmdet.config import config_type_name, in_registry_scope_of
from panbench.models.mmdet.families import PreprocessedBatch
from panbench.models.model import LoadedImage
from panbench.models.preprocess import image_sizes_of, normalised, on_device

# mmcv's decoders that ignore EXIF orientation.
_NEVER_TURN = ("turbojpeg", "tifffile")
_READS_GROUND_TRUTH = ("LoadPanopticAnnotations", "LoadAnnotations")


def pipeline_of(config: Config, factor: float = 1.0) -> Any:
    """Returns the config's test pipeline as a callable, without the steps that read ground truth.

    factor: scales the config's image size. Raises BadModel for a config without a pipeline.
    """
    declared = innermost_dataset_config(config).get("pipeline") or config.get("test_pipeline")
    if not declared:
        raise BadModel(
            f"{config.filename} has no test pipeline (`test_dataloader.dataset.pipeline` or `test_pipeline`)."
        )
    steps = [step for step in declared if config_type_name(step["type"]) not in _READS_GROUND_TRUTH]
    return _compose_steps(config, steps if factor == 1.0 else _enlarge_resize_steps(steps, factor))


def applies_exif_orientation(pipeline: Any) -> bool:
    """Returns whether a test pipeline applies EXIF orientations.

    mmcv does unless the config uses turbojpeg, tifffile or `*_ignore_orientation`. Loaders of other types are assumed
    to apply them, as OpenCV does.
    """
    first = pipeline.transforms[0]
    if type(first).__name__ != "LoadImageFromFile":
        return True
    return first.imdecode_backend not in _NEVER_TURN and first.color_type in ("color", "grayscale")


def _compose_steps(config: Config, steps: Sequence[Mapping[str, Any]]) -> Any:
    """Makes one callable of a pipeline's steps. Raises BadModel."""
    with in_registry_scope_of(config):
        import mmdet.datasets.transforms  # noqa: F401  (registers mmdet's transforms)
        from mmcv.transforms import Compose

        try:
            return Compose(steps)
        except Exception as error:
            raise BadModel(f"{config.filename}: its test pipeline cannot be built ({error}).") from error


def _enlarge_resize_steps(steps: Sequence[Mapping[str, Any]], factor: float) -> list[Mapping[str, Any]]:
    """Multiplies the image size in a pipeline's Resize steps; adds such a step after loading if there is none."""

    def enlarged_resize_step(step: Mapping[str, Any]) -> Mapping[str, Any]:
        """Returns a Resize step with its scale multiplied."""
        if step.get("scale") is None:
            factors = step["scale_factor"]
            both = (factors, factors) if isinstance(factors, (int, float)) else tuple(factors)
            return {**step, "scale_factor": tuple(each * factor for each in both)}
        scale = step["scale"]
        sides = (scale, scale) if isinstance(scale, int) else tuple(scale)
        return {**step, "scale": tuple(max(1, int(side * factor + 0.5)) for side in sides)}

    resizes = [config_type_name(step["type"]) == "Resize" for step in steps]
    if any(resizes):
        return [enlarged_resize_step(step) if resize else step for step, resize in zip(steps, resizes, strict=True)]
    first, *rest = steps
    # Boxes are divided by the scale factor, which a pipeline without Resize need not pack.
    packed = [
        {**step, "meta_keys": (*step["meta_keys"], "scale_factor")} if "meta_keys" in step else step for step in rest
    ]
    return [first, {"type": "Resize", "scale_factor": factor, "keep_ratio": True}, *packed]


def decodes_as_opencv(pipeline: Any) -> bool:
    """Returns whether a test pipeline begins with mmcv's loader, which decodes in colour with OpenCV."""
    first = pipeline.transforms[0]
    return (
        type(first).__name__ == "LoadImageFromFile"
        and first.color_type in ("color", "color_ignore_orientation")
        and first.imdecode_backend == "cv2"
    )


def run_on_pixels(pipeline: Any, record: Mapping[str, Any], bgr: npt.NDArray[np.uint8], title: str) -> Any:
    """Runs a test pipeline on the given (H, W, 3) pixels in place of the file that its first step reads.

    bgr: blue, green, red, as OpenCV decodes them; record: the pipeline's input dict
    Raises BadModel if another step than mmcv's loader reads the file.
    """
    first, *others = pipeline.transforms
    if type(first).__name__ != "LoadImageFromFile" or not first.color_type.startswith(("color", "unchanged")):
        raise BadModel(
            f"{title}: its test pipeline does not load images in colour by LoadImageFromFile, so it cannot run on "
            "changed images."
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
    """Returns the network's (height, width) for an image of this size; None if it cannot be determined.

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
        # A step needs more than sizes: batches then hold images of one size.
        return None
    return -(-rows // divisor) * divisor, -(-columns // divisor) * divisor


def innermost_dataset_config(config: Config) -> dict[str, Any]:
    """Returns the config's test dataset (else val) without the datasets that wrap it; {} if there is none."""
    for key in ("test_dataloader", "val_dataloader"):
        dataset = (config.get(key) or {}).get("dataset")
        while dataset is not None and "dataset" in dataset:
            dataset = dataset["dataset"]
        if dataset:
            return cast("dict[str, Any]", dataset)
    return {}


def preprocessed(module: Any, batch: Sequence[LoadedImage]) -> PreprocessedBatch:
    """Normalises and pads images as mmdet's preprocessor does, on the module's device."""
    preprocessor = module.data_preprocessor
    # mmdet's own class is reproduced here; a config's subclass may do anything, and is called.
    if type(preprocessor).__name__ == "DetDataPreprocessor" and preprocessor._enable_normalize:
        images, samples = [image.inputs for image in batch], [image.sample for image in batch]
        sizes = image_sizes_of(images)
        divisor = preprocessor.pad_size_divisor
        padded = [(-(-height // divisor) * divisor, -(-width // divisor) * divisor) for height, width in sizes]
        canvas = (max(height for height, _ in padded), max(width for _, width in padded))
        pixels = on_device(images, canvas, preprocessor.mean.device)
        if preprocessor._channel_conversion:
            pixels = pixels.flip(1)
        for sample, size in zip(samples, padded, strict=True):
            sample.set_metainfo({"batch_input_shape": canvas, "pad_shape": size})
        inputs = normalised(pixels, preprocessor.mean, preprocessor.std, sizes, preprocessor.pad_value)
    else:
        data = {"inputs": [image.inputs for image in batch], "data_samples": [image.sample for image in batch]}
        prepared = preprocessor(data, False)
        inputs, samples = prepared["inputs"], prepared["data_samples"]
    frames = []
    for sample in samples:
        shapes: Any = [tuple(sample.metainfo[key][:2]) for key in ("batch_input_shape", "img_shape", "ori_shape")]
        frames.append(Frame(*shapes))
    return PreprocessedBatch(inputs, samples, frames)
