"""Writes requirements/colab.txt: what of panbench's environment Colab's newest recorded image has.

    python scripts/make/colab_pins.py [--source FILE_OR_ADDRESS] [--commit COMMIT] [--date DATE]

The source is pip-freeze.txt of https://github.com/googlecolab/backend-info. PyTorch's lines name wheels of
one index and are written as plain versions.
"""

import argparse
import re
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parents[2]
PINS = ROOT / "requirements" / "colab.txt"
SOURCE = "https://raw.githubusercontent.com/googlecolab/backend-info/main/pip-freeze.txt"


def name_of(line: str) -> str:
    """Returns the normalized package name in a line of pip freeze or of a constraints file."""
    return re.split(r"[=<>@\s;]", line, maxsplit=1)[0].lower().replace("_", "-")


def pins(freeze: str, ours: set[str]) -> list[str]:
    """Returns the lines `name==version` of pip freeze for packages that panbench uses."""
    found = []
    for line in freeze.splitlines():
        if (name := name_of(line)) not in ours:
            continue
        wheel = re.search(r"@ \S+/[\w.]+-([\d.]+)(?:%2B|\+|-)", line)
        found.append(f"{name}=={wheel[1]}" if wheel else line.partition(";")[0].strip())
    return found


def main() -> None:
    """Reads the source and writes the pins."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", default=SOURCE)
    parser.add_argument("--commit", default="of the branch main")
    parser.add_argument("--date", required=True, help="of that commit")
    given = parser.parse_args()
    remote = given.source.startswith("https://")
    freeze = httpx.get(given.source).raise_for_status().text if remote else Path(given.source).read_text("utf-8")
    ours = {name_of(line) for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines() if line[:1].isalpha()}
    head = (
        "# Colab's newest recorded image (Python 3.13): pip-freeze.txt of github.com/googlecolab/backend-info,\n"
        f"# commit {given.commit}, {given.date}; packages of constraints.txt alone. Renew: scripts/make/colab_pins.py\n"
    )
    PINS.write_text(head + "\n".join(pins(freeze, ours)) + "\n", "utf-8")
    print(f"Wrote {PINS}")


if __name__ == "__main__":
    main()
