"""Precisions are asked of the card: what it cannot do is refused in a sentence, before anything is built."""

import types

import pytest
import torch

from panbench.base import provenance
from panbench.base.errors import BadArgument
from panbench.catalog import find_model
from panbench.evaluation.opening import Opening
from panbench.evaluation.several import unused_bf16
from panbench.evaluation.tools import doctor
from panbench.models import feeding
from panbench.models.devices import check_precision, choose_device, lower_precision

CARDS = {"V100": (7, 0), "T4": (7, 5), "A100": (8, 0), "L4": (8, 9), "H100": (9, 0), "B200": (10, 0)}
CUDA_12_6 = ["sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90"]
CUDA_13 = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120"]


@pytest.fixture
def card(monkeypatch):
    """A machine with the named card, and a PyTorch with kernels for `built`; `hip` for a PyTorch of ROCm."""

    def play(name: str, built: list[str] = CUDA_12_6, hip: str | None = None) -> None:
        monkeypatch.setattr(torch.version, "hip", hip)
        monkeypatch.setattr(torch.version, "cuda", None if hip else "12.6")
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: CARDS[name])
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
        monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: built)
        properties = types.SimpleNamespace(name=name, total_memory=16e9)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties)

    return play


@pytest.mark.parametrize("name", CARDS)
@pytest.mark.parametrize("precision", ["bf16", "tf32"])
def test_bf16_and_tf32_are_refused_on_cards_that_emulate_them(card, name, precision):
    card(name, [*CUDA_12_6, "compute_90"])
    device = choose_device("auto")
    assert device.type == "cuda"
    if CARDS[name] >= (8, 0):
        check_precision(precision, device)
        assert lower_precision(device) == "bf16"
        return
    with pytest.raises(BadArgument, match=rf"needs compute capability 8\.0, and {name} has 7\.\d: .*--precision fp16"):
        check_precision(precision, device)
    check_precision("fp16", device)
    check_precision("fp32", device)
    assert lower_precision(device) == "fp16"


def test_a_card_of_rocm_is_asked_for_no_compute_capability(card):
    card("V100", built=["gfx90a"], hip="6.2")
    device = choose_device("auto")
    check_precision("bf16", device)
    assert lower_precision(device) == "bf16"


@pytest.mark.parametrize(
    ("name", "built", "runs"),
    [
        ("V100", CUDA_12_6, True),
        ("V100", CUDA_13, False),
        ("T4", CUDA_13, True),
        ("L4", CUDA_13, True),  # code for 8.6 runs on 8.9
        ("T4", ["sm_80"], False),
        ("B200", ["sm_90", "compute_90"], True),  # the driver translates
        ("B200", ["sm_90"], False),
        ("V100", [], True),  # this PyTorch does not say
    ],
)
def test_a_card_without_kernels_is_refused_in_a_sentence(card, name, built, runs):
    card(name, built)
    if runs:
        assert choose_device("auto") == choose_device("cuda") == torch.device("cuda")
        return
    for device in ("auto", "cuda", "cuda:0"):
        with pytest.raises(BadArgument, match=rf"{name} has compute capability .* no kernels .*Use --device cpu"):
            choose_device(device)
    problems: list[str] = []
    doctor._torch(problems)
    assert [name in problem for problem in problems] == [True]


def test_a_pytorch_of_rocm_without_a_card_is_not_told_that_it_has_no_cuda(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.version, "hip", "6.2")
    with pytest.raises(BadArgument, match=r"built for ROCm 6\.2 and finds no card"):
        choose_device("cuda")


def test_metal_is_not_used_unasked_and_it_is_said_why(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto").type == "cpu"
    assert choose_device("mps").type == "mps"
    assert "no test runs on Metal (MPS); --device mps tries it" in str(doctor.unused_gpu())
    assert "no test runs on Metal" in doctor._torch([])["mps"]


@pytest.mark.parametrize(
    ("models", "opening", "flags", "said"),
    [
        (["mask2former-r50"], {}, "flags : fma avx512_bf16 sse", True),
        (["mask2former-tiny", "maskformer-r50"], {}, "Features : fp asimd bf16", True),
        (["mask2former-tiny"], {}, "flags : avx512_bf16", False),  # bf16 gains a light model nothing
        (["mask2former-r50"], {}, "flags : fma avx512f", False),
        (["mask2former-r50"], {"precision": "bf16"}, "flags : avx512_bf16", False),
        (["mask2former-r50"], {"precision": "ieee"}, "flags : avx512_bf16", False),
    ],
)
def test_bf16_of_a_cpu_is_said_and_never_chosen_unasked(models, opening, flags, said, monkeypatch, tmp_path):
    (tmp_path / "cpuinfo").write_text(f"processor : 0\n{flags}\n")
    monkeypatch.setattr(provenance, "Path", lambda _: tmp_path / "cpuinfo")
    asked = Opening(device="cpu", **opening)
    sentence = unused_bf16([find_model(name) for name in models], asked)
    assert (sentence is not None) == said
    assert Opening().precision == "fp32"
    if sentence:
        assert sentence.startswith("This CPU has bf16: --precision bf16 takes about half the time")


def test_what_asks_for_no_gpu_by_name_is_done_on_the_one_that_was_chosen(monkeypatch):
    """Each thread begins on the first GPU: pinned memory of a run on cuda:1 would open a context there."""
    entered: list[torch.device] = []

    class Entered:
        def __init__(self, device: torch.device) -> None:
            self.device = device

        def __enter__(self) -> None:
            entered.append(self.device)

        def __exit__(self, *_: object) -> None:
            entered.remove(self.device)

    class Values:
        def is_pinned(self) -> bool:
            return False

        def pin_memory(self) -> "Values":
            assert entered == [torch.device("cuda:1")]
            return self

        def to(self, device: torch.device, non_blocking: bool) -> "Values":
            assert entered == [device]
            return self

    monkeypatch.setattr(torch.cuda, "device", Entered)
    assert isinstance(feeding.upload(Values(), torch.device("cuda:1")), Values)
    assert entered == []
