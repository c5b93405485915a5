"""Counts the parameters of every model in configs/ and holds them against what its config file says.

    python scripts/check/count_parameters.py           prints a table
    python scripts/check/count_parameters.py --check   and exits 1 where a config file is wrong

Models are built on torch's meta device: no memory, no weights, no download.
"""

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from panbench.catalog import MMDET, ModelSpec, load_catalog
from panbench.models.host import count_parameters
from panbench.models.mmdet.config import build_model, load_config


def measured(specs: Iterable[ModelSpec]) -> dict[str, int]:
    """Parameters of each model by name, counted on the model as it is built from its config."""
    return {spec.name: count_parameters(build_model(load_config(spec), device="meta")) for spec in specs}


def main(arguments: list[str] | None = None) -> int:
    """Prints the table; returns 1 when --check was given and a config file is wrong, else 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="exit 1 where a config file is wrong")
    options = parser.parse_args(arguments)
    catalog = {name: spec for name, spec in load_catalog().items() if spec.adapter == MMDET}
    counts = measured(catalog.values())
    for name, count in counts.items():
        stated = catalog[name].params
        remark = "" if stated == count else f"  but configs/{name}.py says {stated or 0:,}"
        print(f"{name:26} {count:12,}{remark}")
    wrong = [name for name, count in counts.items() if catalog[name].params != count]
    return 1 if options.check and wrong else 0


if __name__ == "__main__":
    sys.exit(main())
