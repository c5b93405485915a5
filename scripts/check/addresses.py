"""Asks every address from which panbench fetches weights or COCO for its headers, and prints a dated table.

    python scripts/check/addresses.py [--out FILE]

Nothing is downloaded. Exit code 1 where an address does not answer with a file: a workflow runs it each week.
"""

import argparse
import datetime
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from panbench.base.secrets import redacted
from panbench.catalog import load_catalog, repository_of
from panbench.datasets.fetch import COCO

SECONDS = 30


def addresses() -> dict[str, str]:
    """Returns all URLs of downloads by name: weights of each model, config.json of each repository, COCO's archives."""
    archives = [COCO.annotations, COCO.image_info, COCO.instances, *COCO.images.values()]
    found = {each.path: f"{COCO.base}/{each.path}" for each in archives if each is not None}
    for name, spec in load_catalog().items():
        repository = repository_of(spec)
        if repository is not None:
            found[name] = f"https://huggingface.co/{repository.name}/resolve/{repository.revision}/config.json"
        elif spec.weights is not None and "://" in spec.weights:
            found[name] = spec.weights
    return found


def answer_of(url: str) -> tuple[bool, str]:
    """Returns whether a URL responds with a file, and a short description of the response."""
    request = urllib.request.Request(url, method="HEAD", headers={"User-Agent": "panbench"})
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as response:
            kind, size = response.headers.get_content_type(), response.headers.get("Content-Length")
            words = f"{response.status} {kind}" + (f", {int(size):,} bytes" if size else "")
            return kind != "text/html", words
    except urllib.error.HTTPError as error:
        return False, f"{error.code} {error.reason}"
    except (OSError, ValueError) as error:
        return False, redacted(str(getattr(error, "reason", error)))


def table_of(answers: Mapping[str, tuple[str, bool, str]], day: datetime.date) -> str:
    """Formats the responses as Markdown: name → (URL, whether it is a file, description)."""
    gone = sum(not ok for _, ok, _ in answers.values())
    lines = [f"# Addresses on {day.isoformat()}: {len(answers) - gone} of {len(answers)} answer", ""]
    lines += ["| what | answers | address |", "| --- | --- | --- |"]
    lines += [f"| {name} | {'' if ok else 'NO: '}{words} | {url} |" for name, (url, ok, words) in answers.items()]
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Prints the table; returns 1 if a URL does not respond with a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="write the table there, too")
    out = parser.parse_args(arguments).out
    answers = {name: (url, *answer_of(url)) for name, url in addresses().items()}
    table = table_of(answers, datetime.datetime.now(datetime.timezone.utc).date())
    print(table)
    if out is not None:
        out.write_text(table, "utf-8")
    return int(any(not ok for _, ok, _ in answers.values()))


if __name__ == "__main__":
    sys.exit(main())
