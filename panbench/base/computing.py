"""What computing can be asked for by name, known without PyTorch."""

__all__ = ["DEVICES", "PRECISIONS"]

DEVICES = ("auto", "cpu", "cuda", "mps")
"""auto is CUDA where there is a GPU, else the CPU; cuda:1 is the second GPU."""

PRECISIONS = ("fp32", "ieee", "tf32", "bf16", "fp16")
"""fp32: as PyTorch comes and mmdet runs, with TF32 in CUDA's convolutions; ieee: without; tf32: also in products."""
