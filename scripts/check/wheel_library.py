"""Runs the compiled library of a wheel for another system, and holds its answers to those of this machine's.

    python scripts/check/wheel_library.py dist/panbench-…-win_amd64.whl --target x86_64-windows-gnu --with wine

A program of some lines, compiled by zig (pip install ziglang), loads the library as ctypes would and calls its four
functions on random PNG rows of every filter; the tests hold this machine's library to NumPy and OpenCV.
"""

import argparse
import struct
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np

from panbench.panoptic.native import native

PROGRAM = r"""
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#ifdef _WIN32
#include <windows.h>
#define OPEN(path) (void *)LoadLibraryA(path)
#define FIND(library, name) (void *)GetProcAddress((HMODULE)(library), name)
#else
#include <dlfcn.h>
#define OPEN(path) dlopen(path, RTLD_NOW)
#define FIND(library, name) dlsym(library, name)
#endif
#define MOST (1 << 20)
static int32_t ends[2][MOST], ids[2][MOST], map[MOST];
static uint64_t keys[MOST];
static int64_t pixels[MOST];
static uint8_t raw[MOST];
int main(int count, char **words)
{
    void *library = OPEN(words[1]);
    FILE *in = fopen(words[2], "rb"), *out = fopen(words[3], "wb");
    if (count != 4 || !library || !in || !out)
        return 2;
    int64_t (*png)(const void *, int32_t, int32_t, int32_t, void *, void *, int64_t) = FIND(library, "png_runs");
    int64_t (*of_map)(const void *, int64_t, void *, void *, int64_t) = FIND(library, "map_runs");
    void (*spread)(const void *, const void *, int64_t, void *) = FIND(library, "spread_runs");
    int64_t (*pairs)(const void *, const void *, int64_t, const void *, const void *, int64_t, void *, void *, int64_t);
    pairs = FIND(library, "count_run_pairs");
    for (int32_t size[3]; fread(size, 4, 3, in) == 3;) {
        int64_t runs[2];
        for (int side = 0; side < 2; side++) {
            fread(raw, 1, (size_t)size[0] * (1 + size[1] * size[2]), in);
            runs[side] = png(raw, size[0], size[1], size[2], ends[side], ids[side], MOST);
            spread(ends[side], ids[side], runs[side], map);
            runs[side] = of_map(map, (int64_t)size[0] * size[1], ends[side], ids[side], MOST);
            fwrite(ends[side], 4, (size_t)runs[side], out);
            fwrite(ids[side], 4, (size_t)runs[side], out);
        }
        int64_t found = pairs(ends[0], ids[0], runs[0], ends[1], ids[1], runs[1], keys, pixels, MOST);
        fwrite(keys, 8, (size_t)found, out);
        fwrite(pixels, 8, (size_t)found, out);
    }
    return fclose(out) ? 3 : 0;
}
"""


def cases(count: int) -> list[tuple[int, int, int, bytes, bytes]]:
    """Height, width, bytes a pixel, and the filtered rows of two images: every filter, flat stretches and noise."""
    rng = np.random.default_rng(0)
    made = []
    for _ in range(count):
        height, width, depth = (int(value) for value in (*rng.integers(1, 90, 2), rng.integers(3, 5)))
        sides = []
        for _ in range(2):
            rows = rng.integers(0, 256, (height, 1 + width * depth)) * (rng.random((height, 1 + width * depth)) < 0.02)
            rows[:, 0] = rng.integers(0, 5, height)
            sides.append(rows.astype(np.uint8).tobytes())
        made.append((height, width, depth, *sides))
    return made  # type: ignore[return-value]


def expected(made: list[tuple[int, int, int, bytes, bytes]]) -> bytes:
    """What the program must write, by this machine's library."""
    here = native()
    if here is None:
        raise SystemExit("This machine has no compiled library to hold the other against: make install")
    answers = []
    for height, width, depth, *sides in made:
        runs = [here.map_runs(here.spread_runs(*here.png_runs(side, height, width, depth))) for side in sides]
        answers += [part.tobytes() for side in runs for part in side]
        answers += [part.tobytes() for part in here.count_run_pairs(*runs[0], *runs[1])]
    return b"".join(answers)


def main() -> None:
    """Prints how many images gave the same bytes; ends with 1 where they differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--target", required=True, help="zig's name of the system, as x86_64-windows-gnu")
    parser.add_argument("--with", dest="runner", default="", help="what runs programs of that system, as wine")
    parser.add_argument("--images", type=int, default=500)
    arguments = parser.parse_args()
    made = cases(arguments.images)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with zipfile.ZipFile(arguments.wheel) as archive:
            (member,) = [each for each in archive.namelist() if each.startswith("panbench/panoptic/_idmap.")]
            library = Path(archive.extract(member, folder))
        (folder / "program.c").write_text(PROGRAM)
        program = folder / "program.exe"
        compiler = [sys.executable, "-m", "ziglang", "cc", "-target", arguments.target, "-O1", "-o", str(program)]
        subprocess.run([*compiler, str(folder / "program.c")], check=True)
        with open(folder / "in", "wb") as handle:
            for height, width, depth, *sides in made:
                handle.write(struct.pack("<3i", height, width, depth) + b"".join(sides))
        words = [*arguments.runner.split(), str(program), str(library), str(folder / "in"), str(folder / "out")]
        ran = subprocess.run(words, capture_output=True, text=True)
        if ran.returncode:
            raise SystemExit(f"The program ended with {ran.returncode}. {ran.stderr.strip()[-300:]}")
        same = (folder / "out").read_bytes() == expected(made)
    print(f"{arguments.wheel.name}: {member}, {2 * len(made)} images: {'the same bytes' if same else 'OTHER BYTES'}")
    sys.exit(not same)


if __name__ == "__main__":
    main()
