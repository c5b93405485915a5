"""Precisions are asked of the card: what it cannot do is refused in a sentence, before anything is built."""

import re
import types

import pytest
import torch

from panbench.base import provenance
from panbench.base.errors import BadArgument
from panbench.catalog import find_model
from panbench.evaluation.options import Opening
from panbench.evaluation.several import suggest_bf16
from panbench.evaluation.tools import doctor
from panbench.models import async_device
from panbench.models.devices import check_precision, choose_device, lower_precision, memory_errors

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


def test_no_compute_capability_is_queried_on_rocm(card):
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
def test_a_gpu_without_kernels_is_refused(card, name, built, runs):
    card(name, built)
    if runs:
        assert choose_device("auto") == choose_device("cuda") == torch.device("cuda")
        return
    for device in ("auto", "cuda", "cuda:0"):
        with pytest.raises(BadArgument, match=rf"{name} has compute capability .* no kernels .*Use --device cpu"):
            choose_device(device)
    problems: list[str] = []
    doctor._torch_record(problems)
    assert [name in problem for problem in problems] == [True]


def test_pytorch_for_rocm_without_a_gpu_gets_a_message_on_rocm(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.version, "hip", "6.2")
    with pytest.raises(BadArgument, match=r"built for ROCm 6\.2 and finds no card"):
        choose_device("cuda")


def test_metal_is_not_used_by_default_and_the_reason_is_given(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto").type == "cpu"
    assert choose_device("mps").type == "mps"
    assert "no test runs on Metal (MPS); --device mps uses it" in str(doctor.unused_gpu())
    assert "no test runs on Metal" in doctor._torch_record([])["mps"]


@pytest.mark.parametrize(
    ("models", "opening", "flags", "said"),
    [
        (["mask2former-r50"], {}, "vendor_id : AuthenticAMD flags : fma avx512_bf16 sse", True),
        (["mask2former-r50"], {}, "vendor_id : GenuineIntel flags : fma avx512_bf16 sse", False),
        (["mask2former-r50"], {}, "vendor_id : GenuineIntel flags : fma avx512_bf16 amx_bf16", True),
        (["mask2former-tiny", "maskformer-r50"], {}, "Features : fp asimd bf16", True),
        (["mask2former-tiny"], {}, "flags : amx_bf16", False),  # bf16 gains a light model nothing
        (["mask2former-r50"], {}, "flags : fma avx512f", False),
        (["mask2former-r50"], {"precision": "bf16"}, "flags : amx_bf16", False),
        (["mask2former-r50"], {"precision": "ieee"}, "flags : amx_bf16", False),
    ],
)
def test_bf16_on_a_cpu_is_reported_and_never_the_default(models, opening, flags, said, monkeypatch, tmp_path):
    (tmp_path / "cpuinfo").write_text(f"processor : 0\n{flags}\n")
    monkeypatch.setattr(provenance, "Path", lambda _: tmp_path / "cpuinfo")
    asked = Opening(device="cpu", **opening)
    message = suggest_bf16([find_model(name) for name in models], asked)
    assert (message is not None) == said
    assert Opening().precision == "fp32"
    if message:
        assert message.startswith("This CPU has bf16: --precision bf16 takes about half the time")


def test_work_without_a_named_gpu_uses_the_chosen_one(monkeypatch):
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
    assert isinstance(async_device.upload(Values(), torch.device("cuda:1")), Values)
    assert entered == []


@pytest.mark.parametrize(
    "message",
    [
        "CUDA out of memory",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
        "MPS backend out of memory (MPS allocated: 9 GB)",
        "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory",
    ],
)
def test_out_of_memory_is_recognized_from_every_library(message):
    with pytest.raises(torch.OutOfMemoryError, match=re.escape(message)), memory_errors():
        raise RuntimeError(message)
