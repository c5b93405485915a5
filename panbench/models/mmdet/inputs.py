"""How an image comes into mmdet: the config's test pipeline, mmdet's preprocessor, and the sizes that they leave."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from mmengine.config import Config

from panbench.base.errors import BadModel
from panbench.models.base import LoadedImage
from panbench.models.candidates import Frame
from panbench.models.mmdet.config import in_scope_of

_READS_GROUND_TRUTH = ("LoadPanopticAnnotations", "LoadAnnotations")


def pipeline_of(config: Config) -> Any:
    """The config's test pipeline as a callable, without the steps that read ground truth."""
    operators = innermost_dataset(config).get("pipeline") or config.get("test_pipeline")
    if not operators:
        raise BadModel(
            f"{config.filename} has no test pipeline (`test_dataloader.dataset.pipeline` or `test_pipeline`)."
        )
    wanted = [step for step in operators if _type_name(step["type"]) not in _READS_GROUND_TRUTH]
    with in_scope_of(config):
        import mmdet.datasets.transforms  # noqa: F401  (registers mmdet's transforms)
        from mmcv.transforms import Compose

        try:
            return Compose(wanted)
        except Exception as error:
            raise BadModel(f"{config.filename}: its test pipeline cannot be built ({error}).") from error


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
    if next(module.parameters()).device.type == "cuda":
        # Images lie in pinned memory, so the copy need not be waited for.
        module.data_preprocessor._non_blocking = True
    data = {"inputs": [image.inputs for image in batch], "data_samples": [image.sample for image in batch]}
    prepared = module.data_preprocessor(data, False)
    return prepared["inputs"], prepared["data_samples"]


def frame_of(meta: Mapping[str, Any]) -> Frame:
    """The sizes of an image, from mmdet's sample."""
    padded, resized, original = (tuple(meta[key][:2]) for key in ("batch_input_shape", "img_shape", "ori_shape"))
    return Frame(cast(Any, padded), cast(Any, resized), cast(Any, original))


def _type_name(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) else str(kind).rpartition(".")[2]
