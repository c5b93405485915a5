"""What libraries cost a process that starts, and run.json read by panbench's decoder, by pydantic and by msgspec.

    pip install pydantic msgspec
    python scripts/bench/libraries.py --repeats 7

Printed are CPU milliseconds (user and system) that a process spends after it imported what reading a run imports
anyway, each the lowest of several processes, in turn: on importing each library; and on importing, building the decoder
of the same dataclasses (panbench/runs/record.py) and reading one run.json. Then CPU microseconds of each further
record, and of the wrong values that tests/runs/test_record.py knows, how many each decoder refuses, and how many of its
errors name the field and quote the value.
"""

import argparse
import copy
import importlib
import json
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from panbench.base import provenance

ROOT = Path(__file__).resolve().parents[2]


def ours() -> Callable[[bytes], Any]:
    """panbench's decoder."""
    from panbench.runs.record import RunInfo

    return lambda content: RunInfo.from_json(json.loads(content))


def by_pydantic() -> Callable[[bytes], Any]:
    """pydantic's, strict, so that no text becomes a number."""
    import pydantic

    from panbench.runs.record import RunInfo

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapter = pydantic.TypeAdapter(RunInfo)
    return lambda content: adapter.validate_json(content, strict=True)


def by_msgspec() -> Callable[[bytes], Any]:
    """msgspec's, which is strict by itself."""
    msgspec = importlib.import_module("msgspec")
    from panbench.runs.record import RunInfo

    return msgspec.json.Decoder(RunInfo).decode


DECODERS = {"panbench": ours, "pydantic": by_pydantic, "msgspec": by_msgspec}
IMPORTS = ("filelock", "huggingface_hub.file_download", "huggingface_hub.hf_api", "pydantic", "msgspec")


def main() -> None:
    """Prints two Markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(*arguments.child)
        return
    sys.path.insert(0, str(ROOT / "tests" / "runs"))
    test_record = importlib.import_module("test_record")

    content = json.dumps(test_record.FULL.to_json()).encode()
    spent = measured(content, arguments.repeats)
    print(f"{provenance.cpu_name()}, Python {sys.version.split()[0]}; CPU time, the lowest of {arguments.repeats}")
    print("\n| import | ms |\n| --- | ---: |")
    for name in IMPORTS:
        print(f"| {name} {version(name.partition('.')[0])} | {min(spent[name]) * 1000:.0f} |")
    print("\n| decoder | first record, ms | each further, µs | wrong values refused | field named | value quoted |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for name, make in DECODERS.items():
        decode = make()
        judged = [judge(decode, test_record.FULL.to_json(), *wrong) for wrong in test_record.WRONG]
        counts = " | ".join(str(sum(column)) for column in zip(*judged, strict=True))
        first = min(spent[f"{name} decodes"]) * 1000
        print(f"| {name} | {first:.0f} | {each(decode, content) * 1e6:.0f} | {counts} |")
        passed = {field for (_, _, field), (refused, *_) in zip(test_record.WRONG, judged, strict=True) if not refused}
        if passed:
            print(f"{name} takes wrong values of {', '.join(sorted(passed))}", file=sys.stderr)
    print(f"\nof {len(test_record.WRONG)} wrong values")


def measured(content: bytes, repeats: int) -> dict[str, list[float]]:
    """CPU seconds of processes by what they do, in turn, after one of each that is not counted."""
    spent: dict[str, list[float]] = {name: [] for name in (*IMPORTS, *(f"{name} decodes" for name in DECODERS))}
    with tempfile.NamedTemporaryFile(suffix=".json") as record:
        record.write(content)
        record.flush()
        for repeat in range(repeats + 1):
            for name, found in spent.items():
                command = [sys.executable, __file__, "--child", name, record.name]
                seconds = float(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
                if repeat:
                    found.append(seconds)
    return spent


def child(name: str, record: str) -> None:
    """One process: imports the records, does what `name` says, and prints the CPU seconds of that."""
    importlib.import_module("panbench.runs.record")
    began = time.process_time()
    decoder, _, _ = name.partition(" decodes")
    if decoder in DECODERS and decoder != name:
        DECODERS[decoder]()(Path(record).read_bytes())
    else:
        importlib.import_module(name)
    print(time.process_time() - began)


def each(decode: Callable[[bytes], Any], content: bytes, times: int = 300) -> float:
    """CPU seconds of reading one record again."""
    began = time.process_time()
    for _ in range(times):
        decode(content)
    return (time.process_time() - began) / times


def judge(
    decode: Callable[[bytes], Any], right: dict[str, Any], place: tuple[Any, ...], value: Any, field: str
) -> tuple[bool, bool, bool]:
    """Whether a wrong value is refused, whether the error names its field, and whether it quotes the value."""
    content = copy.deepcopy(right)
    inside: Any = content
    for step in place[:-1]:
        inside = inside[step]
    inside[place[-1]] = value
    try:
        decode(json.dumps(content).encode())
    except Exception as error:
        text = str(error)
        named = any(path.startswith(field) for path in places_of(error))
        # A number too long to be quoted is described instead.
        quoted = any(form in text for form in (json.dumps(value)[:12], repr(value)[:12], "digits", "64 bits"))
        return True, named, quoted
    return False, False, False


def places_of(error: Exception) -> list[str]:
    """The fields that an error names, spelled as panbench spells them."""
    if (errors := getattr(error, "errors", None)) is not None:  # pydantic
        steps = [found["loc"] for found in errors()]
        return [
            "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).removeprefix(".")
            for path in steps
        ]
    text = str(error)
    if "`$" in text:  # msgspec ends in: at `$.model.params`
        return [text.partition("`$")[2].rstrip("`").removeprefix(".")]
    return text.split("`")[1:2]


if __name__ == "__main__":
    main()
