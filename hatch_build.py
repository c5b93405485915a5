"""Compiles the C files of panbench while a wheel or an editable install is built; users need no compiler.

    python hatch_build.py                   # compile for this machine, into the source tree
    PANBENCH_BUILD_TARGET=arm64-macos …     # while building a wheel: for another system, by zig's cross compiler
    PANBENCH_BUILD_TARGET=none …            # while building a wheel: without the library

The compiler is the system's ($CC, cc, gcc or clang); where none works, `ziglang` from PyPI becomes a requirement of the
build. The libraries are loaded through ctypes, so one wheel serves every version of Python.
"""

import hashlib
import importlib.util
import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:  # run as a program, outside of a build
    BuildHookInterface = object  # type: ignore[assignment, misc]

_ROOT = Path(__file__).resolve().parent
IDMAP = _ROOT / "panbench" / "panoptic" / "idmap.c"
ZIGLANG = "ziglang>=0.13"

_FLAGS = ("-O3", "-std=c99", "-shared", "-fvisibility=hidden")
_COMPILE_SECONDS = 300


@dataclass(frozen=True)
class Target:
    """A system that a wheel is for: zig's name of it, the wheel's platform tag, and the library's suffix."""

    zig: str
    tag: str
    suffix: str


TARGETS = {
    "x86_64-linux": Target("x86_64-linux-gnu.2.17", "manylinux_2_17_x86_64.manylinux2014_x86_64", ".so"),
    "arm64-linux": Target("aarch64-linux-gnu.2.17", "manylinux_2_17_aarch64.manylinux2014_aarch64", ".so"),
    "arm64-macos": Target("aarch64-macos.11.0", "macosx_11_0_arm64", ".dylib"),
    "x86_64-macos": Target("x86_64-macos.11.0", "macosx_11_0_x86_64", ".dylib"),
    "x86_64-windows": Target("x86_64-windows-gnu", "win_amd64", ".dll"),
}


class IdmapBuildHook(BuildHookInterface):
    """Adds the compiled libraries to wheels and puts them into the source tree of editable installs."""

    PLUGIN_NAME = "custom"

    def dependencies(self) -> list[str]:
        """`ziglang`, where the system's compiler cannot compile the C files for the target."""
        target = _chosen_target()
        if target == "none" or _zig() is not None:
            return []
        return [ZIGLANG] if target or not any(_compiles(command) for command in _system_compilers()) else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compiles the libraries and tells hatchling where they go and what platform the wheel is for."""
        target = _chosen_target()
        if target == "none":
            return
        if version == "editable":
            compile_in_place()
        else:
            self._scratch = tempfile.TemporaryDirectory()
            for source in sources(target):
                library = Path(self._scratch.name) / library_of(source, target).name
                compile_for(target, library, source)
                place = library_of(source, target).relative_to(_ROOT).as_posix()
                build_data["force_include"][str(library)] = place
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{TARGETS[target].tag if target else _this_platform()}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Removes the scratch folder."""
        if hasattr(self, "_scratch"):
            self._scratch.cleanup()


def compile_in_place() -> None:
    """Compiles the libraries for this machine into the source tree, unless those of this source are there."""
    for source in sources():
        library = library_of(source)
        if not library.exists() or _fingerprint(source).to_bytes(8, "little") not in library.read_bytes():
            compile_for("", library, source)


def sources(target: str = "") -> tuple[Path, ...]:
    """The C files that a target has a library of; "" is this machine."""
    return (IDMAP,)


def library_of(source: Path, target: str = "") -> Path:
    """The library's path in the source tree: beside its source."""
    return source.with_name(f"_{source.stem}{_suffix(target)}")


def compile_for(target: str, library: Path, source: Path) -> None:
    """Compiles a C file to `library`, atomically; `target` is a key of TARGETS, or "" for this machine.

    Raises RuntimeError, with the compiler's words, when no compiler can.
    """
    said = []
    for command in _commands(target, source):
        with tempfile.TemporaryDirectory(dir=library.parent, prefix=f".{source.stem}-") as scratch:
            made = Path(scratch) / library.name
            done = _run([*command, "-o", str(made), str(source)])
            if done is not None and done.returncode == 0 and made.exists():
                os.replace(made, library)
                return
            said.append(f"{shlex.join(command)}: {done.stderr.strip()[-2000:] if done else 'did not run'}")
    raise RuntimeError(
        f"{source.name} could not be compiled for {target or 'this machine'}. Install a C compiler or {ZIGLANG}, or set"
        " PANBENCH_BUILD_TARGET=none to build without it (scoring is then slower).\n"
        + "\n".join(said or ["No compiler found."])
    )


def _commands(target: str, source: Path) -> Iterator[list[str]]:
    """The compilers to try, with their flags."""
    flags = [*_FLAGS, f"-D{source.stem.upper()}_SOURCE={_fingerprint(source):#x}ULL"]
    if not target:
        for command in _system_compilers():
            yield [*command, *flags, *_system_flags()]
    if zig := _zig():
        # zig would otherwise add checks of undefined behaviour, and debug information.
        yield [*zig, "cc", *(["-target", TARGETS[target].zig] if target else []), *flags, "-g0", "-s"]


def _system_compilers() -> Iterator[list[str]]:
    if sys.platform == "darwin" and (done := _run(["xcode-select", "-p"])) is not None and done.returncode:
        return  # without the developer tools, calling cc opens a window that offers to install them
    try:
        named = shlex.split(os.environ.get("CC", ""))
    except ValueError:
        named = []
    for command in (named, ["cc"], ["gcc"], ["clang"]):
        if command and shutil.which(command[0]):
            yield command


def _system_flags() -> list[str]:
    if sys.platform == "darwin":
        return ["-mmacosx-version-min=11.0"]
    return [] if sys.platform == "win32" else ["-fPIC"]


def _zig() -> list[str] | None:
    """The command of PyPI's ziglang, if this Python has it."""
    return [sys.executable, "-m", "ziglang"] if importlib.util.find_spec("ziglang") else None


def _compiles(command: list[str]) -> bool:
    with tempfile.TemporaryDirectory() as scratch:
        made = Path(scratch) / "idmap"
        done = _run([*command, *_FLAGS, *_system_flags(), "-o", str(made), str(IDMAP)])
        return done is not None and done.returncode == 0 and made.exists()


def _run(command: list[str]) -> "subprocess.CompletedProcess[str] | None":
    try:
        return subprocess.run(
            command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=_COMPILE_SECONDS
        )
    except (OSError, subprocess.SubprocessError):
        return None


def _fingerprint(source: Path) -> int:
    """What the library says it was made of: base/compiled.py refuses one of another source (see idmap.c)."""
    return int.from_bytes(hashlib.sha256(source.read_bytes().replace(b"\r\n", b"\n")).digest()[:8], "little")


def _chosen_target() -> str:
    chosen = os.environ.get("PANBENCH_BUILD_TARGET", "")
    if chosen not in ("", "none", *TARGETS):
        raise ValueError(f"PANBENCH_BUILD_TARGET={chosen} is unknown; choose from none, {', '.join(TARGETS)}.")
    return chosen


def _suffix(target: str) -> str:
    if target:
        return TARGETS[target].suffix
    return {"darwin": ".dylib", "win32": ".dll"}.get(sys.platform, ".so")


def _this_platform() -> str:
    if sys.platform == "darwin":  # sysconfig may say universal2, which one call of the compiler does not make
        return f"macosx_11_0_{platform.machine()}"
    return sysconfig.get_platform().replace("-", "_").replace(".", "_")


if __name__ == "__main__":
    compile_in_place()
