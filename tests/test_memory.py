"""No kernel reads or writes outside its arrays, and memory is given back."""

import os
import platform
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from helpers import run_python

import fastconv
from fastconv import kernels

FENCED = str(Path(__file__).with_name("fenced.py"))
WORKSPACE = str(Path(__file__).with_name("workspace.py"))
STARVED = str(Path(__file__).with_name("starved.py"))
linux = pytest.mark.skipif(sys.platform != "linux", reason="mprotect and /proc as on Linux")


def resident():
    """Bytes."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@linux
@pytest.mark.parametrize("threads", ["1", "3"])
def test_nothing_is_touched_beyond_an_array(threads):
    run = run_python(FENCED, FASTCONV_NUM_THREADS=threads)
    last = run.stdout.splitlines()[-1:]
    assert run.returncode == 0 and last == ["done"], f"ended after {last}: {run.stderr[-2000:]}"


@linux
@pytest.mark.parametrize("where", ["before", "after"])
def test_the_fence_is_one(where):
    """The test above can fail."""
    run = run_python(FENCED, where)
    assert run.returncode == -signal.SIGSEGV, run.stderr


@linux
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the settings of its malloc")
def test_no_memory_for_a_workspace():
    """Kernels and chains raise a MemoryError, and work again when there is some."""
    # one arena, large blocks from the system: the program can take away all that was freed before
    run = run_python(STARVED, MALLOC_ARENA_MAX="1", MALLOC_MMAP_THRESHOLD_="32768")
    assert run.returncode == 0 and run.stdout.endswith("done\n"), run.stderr[-2000:]


@linux
def test_a_long_run_does_not_grow():
    """Results and workspaces are given back, also after an error: memory stays where it was."""
    x, w = np.ones((4, 3, 40, 40), np.float32), np.ones((8, 3, 3, 3), np.float32)
    for i in range(400):
        if i == 100:
            before = resident()
        y = kernels.conv2d_forward(x, w)
        kernels.conv2d_backward_weight(y, x, (3, 3))
        with pytest.raises(ValueError):
            kernels.conv2d_forward(x, w[:, :2])
    assert resident() - before < 10_000_000


@linux
def test_workspaces_of_convolutions():
    """At most what the plan says on one thread, and a quarter of input and output, or 4 MiB."""
    result = run_python(WORKSPACE)
    assert result.returncode == 0, result.stderr[-2000:]
    rows = [line.split(maxsplit=4) for line in result.stdout.splitlines()]
    assert len(rows) > 50
    margin = 2**19  # pages of the program itself, and of its threads
    for threads, *sizes, what in rows:
        grown, planned, allowed = map(int, sizes)
        text = f"{what} on {threads} threads took {grown}, planned {planned}, allowed {allowed}"
        assert grown <= allowed + margin, text
        assert threads != "1" or grown <= planned + margin, text


# ---- what is kept of arrays that are gone ------------------------------------------------------------------

sanitized = pytest.mark.skipif(
    "libasan" in os.environ.get("LD_PRELOAD", ""), reason="nothing is kept"
)


def array_of(mebibytes):
    return kernels.empty_array((mebibytes << 20,), np.uint8)


@sanitized
def test_memory_of_the_same_size_is_taken_again():
    first = array_of(3)
    second = array_of(3)
    places = {a.ctypes.data for a in (first, second)}
    del first, second
    assert {a.ctypes.data for a in [array_of(3), array_of(3)]} == places


def test_living_arrays_share_nothing():
    kept = [array_of(1) for _ in range(20)]
    for number, array in enumerate(kept):
        array[:] = number
    del kept[::2]
    for number, array in enumerate([array_of(1) for _ in range(20)]):
        array[:] = 100 + number
    assert [array[0] for array in kept] == [*range(1, 20, 2)]
    assert all((array == array[0]).all() for array in kept)


def test_zeros_are_zeros_in_used_memory():
    used = fastconv.zeros(1 << 18)
    kernels.fill(used.numpy(), 7)
    del used
    assert not fastconv.zeros(1 << 18).numpy().any()
    assert not np.zeros(1 << 18, np.float32).any()


@linux
def test_no_more_than_64_mebibytes_are_kept():
    before = resident()
    for _ in range(2):
        # larger than what malloc itself may keep, 32 MiB
        arrays = [array_of(33 + i) for i in range(6)]
        for array in arrays:
            array[:] = 1
        del arrays, array
    assert resident() < before + (70 << 20)


def test_threads_take_and_give_back():
    def work(number):
        for i in range(300):
            array = kernels.empty_array((1 << 14,), np.float32)
            kernels.fill(array, number * 1000 + i)
            assert (array == number * 1000 + i).all()
        return True

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(8)))
