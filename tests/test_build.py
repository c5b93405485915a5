"""A build compiles idmap.c with the system's compiler, and does without one."""

import ctypes
import hashlib
import importlib.util
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("hatchling")

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def build():
    spec = importlib.util.spec_from_file_location("hatch_build_under_test", ROOT / "hatch_build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def built(build, monkeypatch, tmp_path, compilers):
    """What the hook tells hatchling, its warnings, and the bytes of the library that it adds."""
    monkeypatch.setattr(build, "_compilers", lambda: iter(compilers))
    warnings = []
    app = SimpleNamespace(display_warning=warnings.append)
    hook = build.IdmapBuildHook(str(ROOT), {}, None, None, str(tmp_path), "wheel", app)
    data = {"force_include": {}, "pure_python": True}
    hook.initialize("standard", data)
    libraries = {place: Path(path).read_bytes() for path, place in data["force_include"].items()}
    hook.finalize("standard", data, "")
    return data, warnings, libraries


def test_a_wheel_with_the_library_is_for_this_system_and_any_python(build, monkeypatch, tmp_path):
    compilers = list(build._compilers())
    if not compilers:
        pytest.skip("no C compiler")
    data, warnings, libraries = built(build, monkeypatch, tmp_path, [["no-such-compiler"], *compilers])
    assert not warnings
    ((place, content),) = libraries.items()
    assert place == f"panbench/panoptic/{build.LIBRARY.name}"
    assert not data["pure_python"]
    assert data["tag"].startswith("py3-none-")
    library = tmp_path / f"again{build.LIBRARY.suffix}"
    library.write_bytes(b"of another source")
    build.compile_to(library)
    assert ctypes.CDLL(str(library)).png_runs
    before = library.stat().st_mtime_ns
    build.compile_to(library)
    assert library.stat().st_mtime_ns == before, "compiled from this source already"
    assert hashlib.sha256(build.SOURCE.read_bytes().replace(b"\r\n", b"\n")).digest()[:8] in content


def test_without_a_compiler_the_wheel_is_for_every_system_and_the_build_says_why(build, monkeypatch, tmp_path):
    data, warnings, libraries = built(build, monkeypatch, tmp_path, [])
    assert (data, libraries) == ({"force_include": {}, "pure_python": True}, {})
    (warning,) = warnings
    assert "without compiled code" in warning
    assert "No C compiler (cc, gcc or clang) was found." in warning


def test_a_compiler_that_fails_is_quoted(build, monkeypatch, tmp_path):
    _, (warning,), libraries = built(build, monkeypatch, tmp_path, [["false"]])
    assert not libraries
    assert "false -O3" in warning
