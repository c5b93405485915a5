"""Memory that is freed is used again; what the system is asked for is counted in a process of its own."""

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from panbench.base import heap

COUNT_FAULTS = """
import resource, sys
import numpy as np
from panbench.base.heap import keep_freed_memory

if sys.argv[1] == "kept" and not keep_freed_memory():
    sys.exit("not glibc")

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(10_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(*(faults() for _ in range(4)))
"""


def faults(way: str) -> list[int]:
    ran = subprocess.run([sys.executable, "-c", COUNT_FAULTS, way], capture_output=True, text=True, timeout=60)
    if "not glibc" in ran.stderr:
        pytest.skip("the C library is not glibc")
    assert ran.returncode == 0, ran.stderr
    return [int(word) for word in ran.stdout.split()]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc is Linux's")
def test_an_array_as_large_as_one_that_was_freed_takes_no_new_pages() -> None:
    kept = faults("kept")
    # 80 MB are 19,531 pages of 4 KiB, or 38 of 2 MiB where the system gives large ones: only the ratio counts.
    assert kept[0] >= 38
    assert max(kept[1:]) < kept[0] / 20


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc is Linux's")
def test_without_it_each_array_does() -> None:
    first, *others = faults("as it is")
    assert min(others) > first / 2


def has_compiled() -> bool:
    return isinstance(heap.load_library(heap._LIBRARY, heap._SOURCE), heap.ctypes.CDLL)


compiled = pytest.mark.skipif(
    not sys.platform.startswith("linux") or platform.libc_ver()[0] != "glibc" or not has_compiled(),
    reason="heap.c is compiled for glibc alone",
)


def ran(program: str, **environment: str) -> list[int]:
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )
    assert done.returncode == 0, done.stderr
    return [int(word) for word in done.stdout.split()]


BLOCKS = """
import ctypes, importlib.util, os, random, threading
from pathlib import Path
from panbench.base import heap

# The region is reserved for PyTorch's libraries; this one is loaded at once, without the rest.
ctypes.CDLL(str(Path(importlib.util.find_spec("torch").origin).parent / "lib" / "libc10.so"))
assert heap.keep_freed_memory() and heap.reuse_aligned_blocks() == 1
library = heap.load_library(heap._LIBRARY, heap._SOURCE)
free = library.free_block
free.argtypes = [ctypes.c_void_p]
library.aligned_block.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t]

def block(size, alignment=64):
    found = ctypes.c_void_p()
    wrong = library.aligned_block(ctypes.byref(found), alignment, size)
    return wrong, found.value or 0

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

"""


@compiled
@pytest.mark.parametrize("size", [800_000, 8_000_000])
def test_a_freed_block_between_two_others_fits_the_next_of_its_size(size: int) -> None:
    # glibc's own needs 96 bytes more than there are.
    program = f"""
size = {size}
(_, first), (_, second), (_, third) = block(size), block(size), block(size)
free(second)
print(second, block(size)[1])
"""
    freed, next_one = ran(BLOCKS + program)
    assert next_one == freed


@compiled
def test_large_blocks_take_the_first_gap_whatever_sizes_came_before() -> None:
    program = """
def image(sizes):
    held = [block(size)[1] for size in sizes]
    for start in held[::2] + held[1::2]:
        free(start)
    return held
first = image([5_000_000, 3_000_000, 7_000_000])
image([2_000_000, 9_000_000, 1_500_000, 4_000_000])
small = block(800_000)[1]
print(*first, *image([5_000_000, 3_000_000, 7_000_000]), small)
"""
    *starts, small = ran(BLOCKS + program)
    assert starts[:3] == starts[3:]
    assert starts[1] == starts[0] + 5_000_000, "no gap, as 5,000,000 is a multiple of 64"
    assert not starts[0] <= small < starts[2] + 7_000_000, "smaller blocks do not lie among large ones"


@compiled
def test_blocks_are_aligned_apart_from_each_other_and_as_long_as_asked_for() -> None:
    program = """
draw, held = random.Random(0), {}
for number in range(2000):
    size = draw.choice([0, 1, 100, 4096, 5000, 70_000, draw.randrange(2_000_000), draw.randrange(2_000_000)])
    alignment = draw.choice([64, 64, 4096])
    wrong, start = block(size, alignment)
    assert not wrong and start % alignment == 0, (wrong, start)
    mark = number % 251
    ctypes.memset(start, mark, size)
    held[number] = start, size, mark
    while len(held) > 40:
        start, size, mark = held.pop(draw.choice(list(held)))
        assert ctypes.string_at(start, size) == bytes([mark]) * size
        free(start)
print(len(held))
"""
    assert ran(BLOCKS + program) == [40]


@compiled
def test_threads_and_a_forked_process_get_blocks_of_their_own() -> None:
    # ctypes lets go of Python's lock in each call.
    program = """
wrong = []
def work(mark, rounds):
    draw, held = random.Random(mark), []
    for _ in range(rounds):
        size = draw.randrange(1 << 20, 1 << 21)
        _, start = block(size)
        ctypes.memset(start, mark, 64)
        ctypes.memset(start + size - 64, mark, 64)
        held.append((start, size))
        if len(held) > 5:
            start, size = held.pop(draw.randrange(5))
            if ctypes.string_at(start, 64) + ctypes.string_at(start + size - 64, 64) != bytes([mark]) * 128:
                wrong.append(start)
            free(start)

threads = [threading.Thread(target=work, args=(mark, 3000)) for mark in (1, 2, 3)]
for thread in threads:
    thread.start()
forked = 0
while any(thread.is_alive() for thread in threads):
    child = os.fork()
    if child == 0:
        work(9, 20)
        os._exit(len(wrong))
    forked += 1
    wrong += [child] * bool(os.waitpid(child, 0)[1])
print(len(wrong), forked)
"""
    wrong, forked = ran(BLOCKS + program)
    assert (wrong, forked > 0) == (0, True)


@compiled
def test_more_blocks_than_are_kept_count_of_are_made_as_before() -> None:
    # Nothing is written to them: only addresses are used.
    program = """
starts = [block(1 << 20)[1] for _ in range(5000)]
apart = min(after - before for before, after in zip(sorted(starts), sorted(starts)[1:]))
for start in starts:
    free(start)
print(apart, starts[0], block(1 << 20)[1])
"""
    apart, first, next_one = ran(BLOCKS + program)
    assert apart >= 1 << 20
    assert next_one == first


@compiled
def test_freed_blocks_are_given_back_on_request_and_those_in_use_are_kept() -> None:
    program = """
size = 40_000_000
(_, first), (_, second), (_, third) = block(size), block(size), block(size)
before = resident()
for start in (first, second, third):
    ctypes.memset(start, 7, size)
free(first)
free(third)
held = resident() - before
heap.give_back()
left = resident() - before
same = ctypes.string_at(second, size) == bytes([7]) * size
print(held, left, int(same))
"""
    held, left, same = ran(BLOCKS + program)
    assert held > 110_000_000
    assert 38_000_000 < left < 45_000_000
    assert same == 1


@compiled
def test_where_addresses_are_limited_blocks_are_made_as_before() -> None:
    """Also after a process has begun: tests and users limit what their children may take."""
    program = """
import resource
size = 120_000_000
_, region = block(size)
used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
resource.setrlimit(resource.RLIMIT_AS, (used + 2 * size + (8 << 20), used + 2 * size + (8 << 20)))
held = [block(size) for _ in range(11)]
for wrong, start in held:
    ctypes.memset(start, 1, 0 if wrong else 4096)
outside = [start for wrong, start in held if not wrong and abs(start - region) > 1 << 30]
for wrong, start in held:
    free(start)
print(len(outside), sum(wrong == 12 for wrong, _ in held), int(used < 2 << 30))
"""
    outside, refused, little = ran(BLOCKS + program)
    assert (outside, refused, little) == (2, 2, 1), "seven more fit the region, two the rest, and two nothing"


@compiled
def test_a_block_larger_than_memory_is_an_error_as_it_was() -> None:
    enomem, einval = 12, 22
    program = "print(block(2**64 - 1)[0], block(2**63 + 5)[0], block(2**62)[0], block(100, 24)[0])"
    assert ran(BLOCKS + program) == [enomem, enomem, enomem, einval]


TENSORS = """
import sys
import torch
from panbench.base import heap

heap.keep_freed_memory()
arrays = [torch.zeros(2_000_000) for _ in range(3)]
freed = arrays[1].data_ptr()
arrays[1] = None
print(freed, torch.empty(2_000_000).data_ptr(), heap.reuse_aligned_blocks())
"""


@compiled
def test_a_tensor_fits_where_a_freed_one_of_its_size_was() -> None:
    freed, next_one, libraries = ran(TENSORS)
    assert libraries == 2, "libc10 and libtorch_cpu; none if their calls are fixed when they are loaded (-z now)"
    assert next_one == freed


@compiled
def test_nothing_is_replaced_without_compiled_code() -> None:
    assert ran(TENSORS, PANBENCH_NATIVE="0")[2] == 0


CALLER = """
#include <stdlib.h>
int call(void) { void *block = NULL; int wrong = posix_memalign(&block, 64, 100000); free(block); return wrong; }
"""


@compiled
@pytest.mark.skipif(shutil.which("gcc") is None, reason="no compiler that takes the linker's options")
@pytest.mark.parametrize(("linked", "replaced"), [(["-Wl,-z,lazy"], 1), (["-Wl,-z,now,-z,relro"], 0)])
def test_a_table_that_is_read_only_stays_as_it_is(tmp_path: Path, linked: list[str], replaced: int) -> None:
    (tmp_path / "caller.c").write_text(CALLER)
    library = tmp_path / "libc10.so"
    subprocess.run(["gcc", "-shared", "-fPIC", *linked, "-o", library, tmp_path / "caller.c"], check=True)
    program = f"""
import ctypes
from panbench.base import heap
caller = ctypes.CDLL({str(library)!r})
print(heap.reuse_aligned_blocks(), caller.call())
"""
    assert ran(program) == [replaced, 0]


@compiled
def test_before_pytorch_is_imported_nothing_is_replaced() -> None:
    assert ran("from panbench.base import heap; print(heap.reuse_aligned_blocks())") == [0]


SIZES = """
import os
from pathlib import Path
import torch
from panbench.base import heap

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

heap.keep_freed_memory()
start = resident()

def image(width):
    # Eight arrays, with others that stay between them; each is replaced as by the next layer's.
    held = [torch.zeros(length) for length in [3000 * width, 5000] * 8]
    for _ in range(6):
        for place in range(0, len(held), 2):
            held[place] = None
            held[place] = torch.zeros(3000 * width)

for width in (400, *range(200, 400, 7), *range(390, 200, -11)):
    image(width)
print(resident() - start, 8 * 3000 * 400 * 4)
"""


@compiled
def test_over_images_of_many_sizes_memory_is_hardly_more_than_what_the_largest_holds() -> None:
    resident, held = ran(SIZES)
    # With glibc 2.36's own aligned blocks it is four times as much.
    assert held <= resident < 1.25 * held
