"""What a config.json of a stranger can ask of transformers: a network, and nothing else."""

import pytest
import transformers

from panbench.base.errors import BadModel
from panbench.models.transformers.families import network_settings

ASKED = {
    "_attn_implementation": "kernels/evil",
    "attn_implementation": "kernels/evil",
    "auto_map": {"AutoModel": "evil.Model"},
    "custom_pipelines": {"x": {"impl": "evil.Pipeline"}},
    "quantization_config": {"quant_method": "bitsandbytes"},
    "use_pretrained_backbone": True,
    "torch_dtype": "float16",
    "dtype": "float16",
    "return_dict": False,
    "output_attentions": True,
    "_name_or_path": "elsewhere/evil",
    "trust_remote_code": True,
}


@pytest.mark.parametrize("kind", ["Mask2Former", "OneFormer", "Eomt", "EomtDinov3"])
def test_only_settings_of_the_network_reach_transformers(kind):
    stated = getattr(transformers, f"{kind}Config")().to_dict()
    parts = [name for name, value in stated.items() if name.endswith("_config") and isinstance(value, dict)]
    hostile = {**stated, **ASKED, **{part: {**stated[part], **ASKED} for part in parts}}
    found = network_settings(hostile, transformers, "x")
    assert not set(found) & set(ASKED)
    assert not any(set(found[part]) & set(ASKED) for part in parts)
    again = transformers.AutoConfig.for_model(found.pop("model_type"), **found).to_dict()
    assert {name: value for name, value in again.items() if name not in parts} == {
        name: value for name, value in stated.items() if name not in parts
    }
    for part in parts:
        assert {**again[part], **ASKED} == {**stated[part], **ASKED}


def test_names_of_earlier_versions_are_accepted():
    assert network_settings({"model_type": "eomt_dinov3", "rope_theta": 50.0}, transformers, "x")["rope_theta"] == 50.0
    assert network_settings({"model_type": "mask2former", "hidden_size": 64}, transformers, "x")["hidden_size"] == 64


@pytest.mark.parametrize("kind", [None, "evil", ["mask2former"], {}])
def test_a_part_of_an_unknown_kind_is_refused(kind):
    stated = {"model_type": "mask2former", "backbone_config": {"model_type": kind}}
    with pytest.raises(BadModel, match="knows no network"):
        network_settings(stated, transformers, "x")
