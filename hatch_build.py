"""Compiles panbench/panoptic/idmap.c while a wheel or an editable install is built; users need no compiler.

    python hatch_build.py    # for this machine, into the source tree

The compiler is the system's: $CC, cc, gcc or clang. Where none works, the package is built without the library, and
panbench/panoptic/idmap.py does the same with NumPy. The library is loaded through ctypes, so one wheel serves every
version of Python.
"""

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:  # run as a program, outside of a build
    BuildHookInterface = object  # type: ignore[assignment, misc]

SOURCE = Path(__file__).resolve().parent / "panbench" / "panoptic" / "idmap.c"
LIBRARY = SOURCE.with_name("_idmap" + {"darwin": ".dylib", "win32": ".dll"}.get(sys.platform, ".so"))
_FLAGS = ("-O3", "-std=c99", "-shared", "-fvisibility=hidden")
_SYSTEM_FLAGS = {"darwin": ("-mmacosx-version-min=11.0",), "win32": ()}.get(sys.platform, ("-fPIC",))
_COMPILE_SECONDS = 300


class IdmapBuildHook(BuildHookInterface):
    """Adds the compiled library to wheels and puts it into the source tree of editable installs."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compiles the library and tells hatchling where it is and what platform the wheel is for."""
        self._scratch = tempfile.TemporaryDirectory()
        library = LIBRARY if version == "editable" else Path(self._scratch.name) / LIBRARY.name
        try:
            compile_to(library)
        except RuntimeError as error:
            self.app.display_warning(f"panbench is built without compiled code: scoring is slower. {error}")
            return
        if version != "editable":
            build_data["force_include"][str(library)] = f"panbench/panoptic/{LIBRARY.name}"
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{_this_platform()}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Removes the scratch folder."""
        self._scratch.cleanup()


def compile_to(library: Path) -> None:
    """Compiles the C file to `library`, atomically, unless that was compiled from this source.

    Raises RuntimeError, with the compilers' words, when none can.
    """
    # native.py refuses a library of another source.
    source_hash = hashlib.sha256(SOURCE.read_bytes().replace(b"\r\n", b"\n")).digest()[:8]
    if library.exists() and source_hash in library.read_bytes():
        return
    define = f"-DIDMAP_SOURCE={int.from_bytes(source_hash, 'little'):#x}ULL"
    outputs = []
    with tempfile.TemporaryDirectory(dir=library.parent, prefix=".idmap-") as scratch:
        compiled = Path(scratch) / library.name
        for compiler in _compilers():
            command = [*compiler, *_FLAGS, define, *_SYSTEM_FLAGS, "-o", str(compiled), str(SOURCE)]
            try:
                done = subprocess.run(
                    command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=_COMPILE_SECONDS
                )
            except (OSError, subprocess.SubprocessError) as error:
                outputs.append(f"{shlex.join(command)}: {error}")
                continue
            if done.returncode == 0 and compiled.exists():
                os.replace(compiled, library)
                return
            outputs.append(f"{shlex.join(command)}: {done.stderr.strip()[-2000:]}")
    raise RuntimeError("\n".join(outputs) or "No C compiler (cc, gcc or clang) was found.")


def _compilers() -> Iterator[list[str]]:
    if sys.platform == "darwin" and subprocess.run(["xcode-select", "-p"], capture_output=True).returncode:
        return  # without the developer tools, calling cc opens a window that offers to install them
    try:
        named = shlex.split(os.environ.get("CC", ""))
    except ValueError:
        named = []
    for command in (named, ["cc"], ["gcc"], ["clang"]):
        if command and shutil.which(command[0]):
            yield command


def _this_platform() -> str:
    if sys.platform == "darwin":  # sysconfig may say universal2, which one call of the compiler does not make
        return f"macosx_11_0_{platform.machine()}"
    return sysconfig.get_platform().replace("-", "_").replace(".", "_")


if __name__ == "__main__":
    compile_to(LIBRARY)
