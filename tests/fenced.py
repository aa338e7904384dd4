"""Runs every kernel on arrays that lie against pages which must not be touched; see test_memory.py.

A program of its own, because a stray access ends the process. Each array is laid against the end,
and then against the start, of a mapping whose neighbouring pages are PROT_NONE.
"""

import ctypes
import mmap
import sys

import numpy as np
from example_calls import Example, examples
from helpers import integers
from test_algorithms import (
    AROUND_THE_TILES,
    DEEP,
    FOUR_BY_FOUR,
    MANY_CHANNELS,
    OTHERS,
    PASSES,
    plan,
)
from test_batch_norm import SHAPES
from test_conv2d import CASES
from test_pool2d import CASES as POOLS

from fastconv import kernels

PAGE = mmap.PAGESIZE
libc = ctypes.CDLL(None, use_errno=True)
libc.mprotect.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int


def fenced(array, at_end):
    pages = -(-array.nbytes // PAGE)
    memory = mmap.mmap(-1, (pages + 2) * PAGE)
    address = np.frombuffer(memory, np.uint8).ctypes.data
    for fence in (0, (pages + 1) * PAGE):
        if libc.mprotect(address + fence, PAGE, 0):
            raise OSError(ctypes.get_errno(), "mprotect")
    start = (pages + 1) * PAGE - array.nbytes if at_end else PAGE
    copy = np.frombuffer(memory, array.dtype, array.size, start).reshape(array.shape)
    copy[...] = array
    return copy


def fenced_channels_last(array, at_end):
    if array.ndim != 4:
        return fenced(array, at_end)
    return np.moveaxis(fenced(np.moveaxis(array, 1, -1), at_end), -1, 1)


def convolutions(dtype):
    for case in CASES:
        x, w, b, dy = case.arrays(np.random.default_rng(0), dtype, integers)
        yield Example("conv2d_forward", (x, w, b), case.args)
        yield Example("conv2d_backward_input", (dy, w), (case.size, *case.args))
        yield Example("conv2d_backward_weight", (dy, x), (case.kernel, *case.args), out=False)


def algorithms(dtype):
    """Each that can do it."""
    for case in AROUND_THE_TILES + DEEP[:4] + FOUR_BY_FOUR[:6] + OTHERS:
        x, w, b, dy = case.arrays(np.random.default_rng(0), dtype, integers)
        given = {
            "forward": ((x, w, b), ()),
            "backward_input": ((dy, w), (case.size,)),
            "backward_weight": ((dy, x), (case.kernel,)),
        }
        for which in PASSES:
            arrays, first = given[which]
            for name in plan(case, which, dtype).cycles:
                options, out = {"algorithm": name}, which != "backward_weight"
                yield Example(f"conv2d_{which}", arrays, (*first, *case.args), options, out)


def check_prepared_weights(dtype, at_end):
    for case in AROUND_THE_TILES + DEEP[:2] + OTHERS + MANY_CHANNELS:
        x, w, b, _ = case.arrays(np.random.default_rng(0), dtype, integers)
        for name in plan(case, "forward", dtype).cycles:
            print(kernels.isa(), np.dtype(dtype), "prepared", name, case, at_end, flush=True)
            expected = kernels.conv2d_forward(x, w, b, *case.args, algorithm=name)
            options = {"algorithm": name}
            prepared = kernels.conv2d_prepare(fenced(w, at_end), case.x, *case.args, **options)
            given = fenced(x, at_end), prepared, fenced(b, at_end)
            same([kernels.conv2d_forward(*given, *case.args)], [expected])


def pools(dtype):
    rng = np.random.default_rng(0)
    for shape, *window, ceil in POOLS:
        x = integers(rng, shape, dtype)
        y, indices = kernels.max_pool2d_forward(x, *window, ceil)
        yield Example("max_pool2d_forward", (x,), (*window, ceil))
        yield Example("max_pool2d_backward", (y, indices), (shape, *window))
        if window[-1] == 1:
            yield Example("avg_pool2d_forward", (x,), (*window[:-1], ceil))
            yield Example("avg_pool2d_backward", (y,), (shape, *window[:-1], ceil))
            yield Example("adaptive_avg_pool2d_forward", (x,), (y.shape[2:],))
            yield Example("adaptive_avg_pool2d_backward", (y,), (shape,))


def normalisations(dtype):
    rng = np.random.default_rng(0)
    for shape in SHAPES:
        x, dy, w = (integers(rng, s, dtype) for s in (shape, shape, shape[1:2]))
        yield Example("batch_norm_forward", (x, w, w))
        y, *saved = kernels.batch_norm_forward(x)
        yield Example("batch_norm_backward", (dy, x, w, *saved))
        yield Example("batch_norm_forward", (x, w, w), (), {"residual": dy, "relu": True})
        yield Example("batch_norm_backward", (dy, x, w, *saved), (), {"y": y})
        yield Example("batch_norm_again", (x, w, w, *saved), (), {"residual": dy, "relu": True})
        yield Example("batch_norm_backward", (dy, x, w, *saved), (), {"b": w, "relu": True})


def products(dtype):
    rng = np.random.default_rng(0)
    for m, n, k in ((1, 1, 1), (5, 17, 3), (13, 31, 20), (15, 33, 5), (29, 9, 200), (64, 64, 64)):
        a, b, w = (integers(rng, shape, dtype) for shape in ((m, k), (k, n), (n, k)))
        yield Example("gemm", (a, b))
        yield Example("gemm", (a, w), options={"transpose_b": True})
        yield Example("gemm", (a, a), options={"transpose_a": True})
        yield Example("linear_forward", (a, w))


def copies(dtype):
    """Channels last, they are transposed: blocks of VL, and what is left."""
    for shape in ((2, 17, 5, 3), (1, 37, 1, 3), (2, 16, 4, 10), (1, 8, 1, 2)):
        yield Example("copy", (integers(np.random.default_rng(0), shape, dtype),))


def same(results, expected):
    for result, wanted in zip(results, expected, strict=True):
        if not np.array_equal(result, wanted, equal_nan=result.dtype.kind == "f"):
            raise AssertionError(f"{result} is not {wanted}")


def main():
    for isa in kernels.available_isas():
        kernels.set_isa(isa)
        for dtype in (np.float32, np.float64):
            for at_end in (True, False):
                check_prepared_weights(dtype, at_end)
            small, large = examples(dtype, 1), examples(dtype, 3)
            cases = convolutions, algorithms, pools, normalisations, products, copies
            for e in (*small, *large, *(e for make in cases for e in make(dtype))):
                for at_end in (True, False):
                    print(isa, np.dtype(dtype), e.title, e.rest, at_end, flush=True)
                    expected = e()
                    out = {"out": fenced(expected[0], at_end)} if e.out else {}
                    same(e(*(fenced(a, at_end) for a in e.arrays), **out), expected)
                    same(e(*(fenced_channels_last(a, at_end) for a in e.arrays)), expected)


def stray():
    """One step too far, on purpose."""
    array = fenced(np.zeros(5, np.float32), sys.argv[1] == "after")
    place = array.ctypes.data + (array.nbytes if sys.argv[1] == "after" else -1)
    ctypes.c_byte.from_address(place).value  # noqa: B018


if __name__ == "__main__":
    stray() if len(sys.argv) > 1 else main()
    print("done")
