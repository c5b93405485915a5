"""Counts the parameters of every model in configs/ and holds them against what its config file says.

    python scripts/check/count_parameters.py           prints a table
    python scripts/check/count_parameters.py --check   and exits 1 where a config file is wrong

Models are built by their adapters, without weights or downloads, mmdet's on torch's meta device.
Networks of the Hugging Face hub are built by their published sizes (hub_networks.py).
"""

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import cast

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from panbench.base.references import load
from panbench.catalog import MMDET, ModelSpec, extra_missing, load_catalog, repository_of
from panbench.models.adapter import Adapter
from panbench.models.host import count_parameters
from panbench.models.mmdet.config import build_model, load_config


def counted(spec: ModelSpec) -> int:
    """Counts the parameters of a model, on its network as the config describes it."""
    if spec.adapter == MMDET:
        return count_parameters(build_model(load_config(spec), device="meta"))
    if repository_of(spec) is not None:
        from scripts.check.hub_networks import hub_network

        with torch.device("meta"):
            return count_parameters(hub_network(spec))
    adapter = cast(Adapter, load(spec.adapter)(spec))
    # Not on the meta device: mmdet's PVTv2 asks tensors for their values while it is built.
    return count_parameters(adapter.build())


def main(arguments: list[str] | None = None) -> int:
    """Prints the table; returns 1 if --check was given and a config file is wrong, else 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="exit 1 where a config file is wrong")
    options = parser.parse_args(arguments)
    catalog = load_catalog()
    left_out = [name for name, spec in catalog.items() if extra_missing(spec) is not None]
    wrong = report(spec for name, spec in catalog.items() if name not in left_out)
    if left_out:
        print(f"Not counted, as their packages are not installed: {', '.join(left_out)}")
    return 1 if options.check and wrong else 0


def report(specs: Iterable[ModelSpec]) -> int:
    """Prints a line for each model; returns the number of wrong config files."""
    wrong = 0
    for spec in specs:
        count = counted(spec)
        remark = "" if spec.params == count else f"  but configs/{spec.name}.py says {spec.params or 0:,}"
        wrong += bool(remark)
        print(f"{spec.name:26} {count:12,}{remark}", flush=True)
    return wrong


if __name__ == "__main__":
    sys.exit(main())
