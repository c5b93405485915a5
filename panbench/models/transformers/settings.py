"""Which keys of a config.json reach transformers: those that describe the network, and no others.

A config.json comes from whoever made the repository. Beside the network it can ask for kernels of another repository
(`attn_implementation`), other weights (`use_pretrained_backbone`), quantisation, another dtype, or outputs as tuples.
"""

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from panbench.base.errors import BadModel

__all__ = ["network_settings", "read_json"]

# What earlier versions wrote, and the classes still take.
_EARLIER = frozenset(
    ("num_labels", "out_features", "out_indices", "partial_rotary_factor", "rope_scaling", "rope_theta")
)
# Of every class, and not of the network: how it is run is panbench's to say.
_OF_THE_RUN = frozenset(
    ("architectures", "dtype", "output_hidden_states", "problem_type", "return_dict", "self", "transformers_version")
)


def network_settings(stated: Mapping[str, Any], transformers: Any, title: str) -> dict[str, Any]:
    """The keys of a config.json that describe a network, those of its backbone and decoder likewise.

    transformers: the module. Raises BadModel for a part whose `model_type` transformers does not know.
    """
    kind = stated.get("model_type")
    try:
        family = type(transformers.AutoConfig.for_model(kind))
    except (ValueError, KeyError, TypeError):
        raise BadModel(
            f"{title}: transformers {transformers.__version__} knows no network {kind!r} (model_type in config.json)."
        ) from None
    known = {*inspect.signature(family.__init__).parameters, *(family.attribute_map or ()), *_EARLIER} - _OF_THE_RUN
    found: dict[str, Any] = {"model_type": kind}
    for name, value in stated.items():
        if name in known:
            is_part = name.endswith("_config") and isinstance(value, dict)
            found[name] = network_settings(value, transformers, title) if is_part else value
    return found


def read_json(path: Path, title: str) -> dict[str, Any]:
    """The dict in a JSON file. Raises BadModel."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise BadModel(f"{title}: there is no {path}.") from None
    except (OSError, ValueError) as error:
        raise BadModel(f"{title}: {path} cannot be read as JSON ({error}).") from error
    if not isinstance(found, dict):
        raise BadModel(f"{title}: {path} is not a JSON object.")
    return found
