"""What libraries cost a process that starts, and run.json read by panbench's decoder, by pydantic and by msgspec.

    pip install pydantic msgspec
    python scripts/bench/libraries.py --rounds 7

Printed are CPU milliseconds (user and system) that a process spends after it imported what reading a run imports
anyway, each the lowest of several processes, in turn: on importing each library; and on importing, building the decoder
of the same dataclasses (panbench/runs/record.py) and reading one run.json. Then CPU microseconds of each further
record, and of the wrong values that tests/runs/test_record.py knows, how many each decoder refuses, and how many of its
errors name the field and quote the value.
"""

import copy
import functools
import importlib
import importlib.util
import json
import sys
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scripts.bench.child import in_child
from scripts.bench.harness import ROOT, Row, arguments, cpu_seconds, finish, turns


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


def importing(name: str) -> Callable[[], None]:
    """Imports a library after the records."""
    importlib.import_module("panbench.runs.record")

    def run() -> None:
        importlib.import_module(name)

    return run


def decoding(name: str, content: str) -> Callable[[], None]:
    """Imports and builds a decoder and reads a record, after the records were imported."""
    importlib.import_module("panbench.runs.record")

    def run() -> None:
        DECODERS[name]()(content.encode())

    return run


def main() -> None:
    """Prints two tables."""
    options = arguments(__doc__, rounds=5)
    absent = [name for name in ("pydantic", "msgspec") if importlib.util.find_spec(name) is None]
    sys.path.insert(0, str(ROOT / "tests" / "runs"))
    test_record = importlib.import_module("test_record")
    content = json.dumps(test_record.FULL.to_json()).encode()
    sides = {name: functools.partial(in_child, importing, name) for name in IMPORTS if name not in absent}
    decoders = [name for name in DECODERS if name not in absent]
    sides |= {f"{name} decodes": functools.partial(in_child, decoding, name, content.decode()) for name in decoders}
    spent = {name: 1e3 * min(one.cpu for one in runs) for name, runs in turns(sides, options.rounds).items()}
    imports = [
        {"import": f"{name} {version(name.partition('.')[0])}", "CPU ms": f"{spent[name]:.0f}"}
        for name in IMPORTS
        if name in spent
    ]
    finish("libraries_imports", imports, options.write, absent)
    rows = [row(name, spent[f"{name} decodes"], content, test_record) for name in decoders]
    finish("libraries", rows, options.write, absent)


def row(name: str, first: float, content: bytes, known: Any) -> Row:
    """A decoder's milliseconds, and its judgement of the wrong values that a test knows."""
    decode = DECODERS[name]()
    judged = [judge(decode, known.FULL.to_json(), *wrong) for wrong in known.WRONG]
    passed = {field for (_, _, field), (refused, *_) in zip(known.WRONG, judged, strict=True) if not refused}
    if passed:
        print(f"{name} takes wrong values of {', '.join(sorted(passed))}", file=sys.stderr)
    heads = (f"of {len(known.WRONG)} wrong values refused", "field named", "value quoted")
    return {
        "decoder": name,
        "first record, CPU ms": f"{first:.0f}",
        "each further, µs": f"{1e6 * cpu_seconds(lambda: [decode(content) for _ in range(300)]) / 300:.0f}",
        **{head: str(sum(column)) for head, column in zip(heads, zip(*judged, strict=True), strict=True)},
    }


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
