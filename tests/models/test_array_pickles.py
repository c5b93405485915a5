"""Pickles of NumPy arrays: those of every protocol load, and what is hidden in one never runs."""

import builtins
import codecs
import os
import pickle
import struct
import tracemalloc
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from panbench.base.errors import BadCheckpoint
from panbench.models.checkpoints import load_checkpoint

WEIGHT = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_of_every_protocol_load(protocol: int, tmp_path: Path) -> None:
    model = OrderedDict(
        plain=WEIGHT,
        columns=np.asfortranarray(WEIGHT),
        swapped=WEIGHT.astype(">f4"),
        half=WEIGHT.astype(np.float16),
        count=np.int64(3),
        same=WEIGHT,
    )
    path = tmp_path / "model_final.pkl"
    path.write_bytes(pickle.dumps({"model": model, "__author__": "somebody"}, protocol))
    checkpoint = load_checkpoint(path)
    assert checkpoint.part == "model"
    assert list(checkpoint.state_dict) == list(model)
    for name, value in model.items():
        found = checkpoint.state_dict[name].numpy()
        assert np.array_equal(found, value)
        assert found.dtype == value.dtype.newbyteorder("=")


def test_arrays_that_python_2_wrote_load(tmp_path: Path) -> None:
    state = (
        b"K\x01K\x02\x85cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNN" + 2 * b"J\xff\xff\xff\xff" + b"K\x00tb"
    )
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntU\x01btR(" + state
    array += b"\x89U\x08" + struct.pack("<2f", 1.5, -2.0) + b"tb"
    (tmp_path / "w.pkl").write_bytes(b"\x80\x02}U\x05model}U\x01w" + array + b"ss.")
    assert load_checkpoint(tmp_path / "w.pkl").state_dict["w"].tolist() == [1.5, -2.0]


class Reduced:
    """Pickles as a call of `function`."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.made = (function, arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.made


def inside(payload: object, protocol: int = 2) -> bytes:
    return pickle.dumps({"model": {"weight": WEIGHT}, "by": payload}, protocol)


def short(text: str) -> bytes:
    return b"\x8c" + bytes([len(text)]) + text.encode()


def command(trace: Path) -> str:
    return f"touch {trace}"


ARRAY = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntVb\ntR"
DTYPE = b"cnumpy\ndtype\n(Vf4\nI0\nI1\ntR(I3\nV<\nNNNI-1\nI-1\nI0\ntb"


def repeated_arrays(count: int) -> bytes:
    """A dict of arrays whose 64 kB are in the stream once."""
    once = DTYPE + b"p1\n0V" + b"a" * 65536 + b"\np2\n0"
    arrays = (b"V%d\n" % number + ARRAY + b"(I1\n(I16384\ntg1\nI0\ng2\ntb" for number in range(count))
    return once + b"(" + b"".join(arrays) + b"d"


HOSTILE: dict[str, tuple[bytes | Callable[[Path], bytes], str]] = {
    **{
        f"os.system, protocol {protocol}": (
            lambda trace, protocol=protocol: inside(Reduced(os.system, command(trace)), protocol),
            r"(posix|nt)\.system would have to be run",
        )
        for protocol in range(6)
    },
    "eval": (lambda trace: inside(Reduced(builtins.eval, f"open({str(trace)!r}, 'w')")), r"eval would have to be run"),
    "a path that is touched": (lambda trace: inside(Reduced(Path.touch, trace)), "getattr would have to be run"),
    "a name of a module": (b"cos.path\nos\n.", r"os\.path\.os would"),
    "a name through another": (
        b"\x80\x04" + short("numpy") + short("ndarray.__class__.mro") + b"\x93.",
        r"numpy\.ndarray\.__class__\.mro would",
    ),
    "a name behind a dot": (
        b"\x80\x04" + short("_codec") + short("s.encode.x") + b"\x93.",
        r"_codec\.s\.encode\.x would",
    ),
    "a name without module": (b"\x80\x04" + short("") + short("_codecs.encode") + b"\x93.", r"\._codecs\.encode would"),
    "build with attributes": (
        b"\x80\x02cnumpy\nndarray\n}X\x01\x00\x00\x00aK\x01sb.",
        "the state of a function would have to be set",
    ),
    "build of slots": (
        b"\x80\x02ccollections\nOrderedDict\nN}X\x05\x00\x00\x00_makecnumpy\nndarray\ns\x86b.",
        "the state of a function",
    ),
    "a call of ndarray": (b"\x80\x02cnumpy\nndarray\nJ\xff\xff\xff\x7f\x85R.", r"numpy\.ndarray would"),
    "a new object": (b"\x80\x02cnumpy\nndarray\n)\x81.", "NEWOBJ"),
    "a new object with words": (b"\x80\x04\x8c\x05numpy\x8c\x07ndarray\x93)}\x92.", "NEWOBJ_EX"),
    "an instance of Python 2": (b"(Vtouch it\nios\nsystem\n.", "INST"),
    "an object of Python 2": (b"(cos\nsystem\nVtouch it\no.", r"os\.system"),
    "a persistent id": (b"Psomewhere\n.", "PERSID"),
    "a binary persistent id": (b"\x80\x02X\x01\x00\x00\x00aQ.", "BINPERSID"),
    "an extension": (b"\x80\x02\x82\x01.", "EXT1"),
    "a buffer from outside": (b"\x80\x05\x97.", "NEXT_BUFFER"),
    "a pickle in a pickle": (inside(Reduced(pickle.loads, inside(1))), r"pickle\.loads would"),
    "another codec": (inside(Reduced(codecs.encode, "print()", "rot13")), "as 'rot13'"),
    "an array of objects": (
        lambda trace: inside(np.array([Reduced(os.system, command(trace))], object)),
        r"system would|type 'O8'",
    ),
    "an array of records": (inside(np.zeros(2, [("a", "f4")])), "type 'V4'"),
    "a memo of 64 GB": (b"\x80\x02Nr\xff\xff\xff\xff.", "memory for 4,294,967,295 values"),
    "a memo by text": (b"Np99999999999\n.", "memory for 99,999,999,999 values"),
    "text of an exabyte": (b"\x80\x04\x8d" + struct.pack("<Q", 1 << 60) + b"abc", "cut off"),
    "bytes of 4 GB": (b"\x80\x04B\xff\xff\xff\xffabc", "cut off"),
    "a frame of an exabyte": (b"\x80\x04\x95" + struct.pack("<Q", 1 << 60) + b"N.", "cut off"),
    "an array larger than its bytes": (
        b"}Vmodel\n}Vw\n" + ARRAY + b"(I1\n(I999999999\nI999999999\nt" + DTYPE + b"I0\nVab\ntbss.",
        "an array of 2 bytes is said to be",
    ),
    "a negative array": (
        b"}Vmodel\n}Vw\n" + ARRAY + b"(I1\n(I-1\nI-4\nt" + DTYPE + b"I0\nVab\ntbss.",
        "shape is not numbers",
    ),
    "the same bytes for many arrays": (
        b"}Vmodel\n" + repeated_arrays(20) + b"s.",
        "the same bytes would have to be copied many times",
    ),
    "a dict made of another": (
        b"}p1\nVa\nNs" + b"ccollections\nOrderedDict\n(g1\ntR.",
        "an OrderedDict would have to be copied",
    ),
    "instructions without end": (b"\x80\x02" + b"N0" * 160_000 + b"N.", "300,000 instructions"),
    "a stack that is empty": (b"\x80\x02R.", "cut off"),
    "nothing but the protocol": (b"\x80\x04", "cut off"),
    "no pickle": (b"\x00\x01\x02", "cut off"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_pickle_is_refused_and_runs_nothing(name: str, tmp_path: Path) -> None:
    made, words = HOSTILE[name]
    path, trace = tmp_path / "w.pkl", tmp_path / "it-ran"
    path.write_bytes(made if isinstance(made, bytes) else made(trace))
    with pytest.raises(BadCheckpoint, match=words) as caught:
        load_checkpoint(path)
    assert str(path) in str(caught.value)
    assert not trace.exists()


def test_repeated_objects_of_a_pickle_are_loaded_once(tmp_path: Path) -> None:
    array = np.zeros(250_000, np.float32)
    model = {f"{number}.weight": array for number in range(200)}
    text = b"(lp1\n" + b"c_codecs\nencode\n(V" + b"a" * 1_000_000 + b"\np2\nVlatin1\ntRa"
    text += b"c_codecs\nencode\n(g2\nVlatin1\ntRa" * 200 + b"0"
    content = pickle.dumps({"model": model}, 2)
    (tmp_path / "w.pkl").write_bytes(content[:2] + text + content[2:])
    tracemalloc.start()
    try:
        loaded = load_checkpoint(tmp_path / "w.pkl").state_dict
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len({value.data_ptr() for value in loaded.values()}) == 1
    assert peak < 20e6, peak


def test_a_self_referencing_dict_is_loaded_once(tmp_path: Path) -> None:
    content: dict[str, Any] = {"model": {"weight": WEIGHT}}
    content["self"] = content
    (tmp_path / "w.pkl").write_bytes(pickle.dumps(content))
    assert load_checkpoint(tmp_path / "w.pkl").state_dict["weight"].tolist() == WEIGHT.tolist()


def test_a_pickle_of_other_data_is_refused_with_its_kind(tmp_path: Path) -> None:
    for content, words in (({"blobs": {"w": WEIGHT}}, "blobs is no tensor"), ([1, 2], "not weights by name")):
        (tmp_path / "w.pkl").write_bytes(pickle.dumps(content))
        with pytest.raises(BadCheckpoint, match=words):
            load_checkpoint(tmp_path / "w.pkl")
