from dataclasses import dataclass

import numpy as np
import pytest
import reference as ref
from helpers import (
    AWKWARD,
    check,
    covers,
    guarded,
    integers,
    normal,
    numeric_slope,
)

from fastconv import kernels


@dataclass
class Case:
    """One convolution: x (N, C, H, W), K filters R x S."""

    x: tuple
    K: int
    kernel: tuple
    stride: object = 1
    padding: object = 0
    dilation: object = 1
    groups: int = 1

    @property
    def w(self):
        return (self.K, self.x[1] // self.groups, *self.kernel)

    @property
    def size(self):
        return self.x[2:]

    @property
    def args(self):
        return self.stride, self.padding, self.dilation, self.groups

    @property
    def y(self):
        P, Q, _ = ref.windows(self.size, self.kernel, self.stride, self.padding, self.dilation)
        return (self.x[0], self.K, P, Q)

    def arrays(self, rng, dtype, draw=normal):
        """x, w, b and dy."""
        return [draw(rng, shape, dtype) for shape in (self.x, self.w, (self.K,), self.y)]


CASES = [
    Case((1, 1, 1, 1), 1, (1, 1)),
    Case((2, 1, 8, 8), 6, (3, 3)),
    Case((1, 6, 7, 9), 16, (3, 3)),
    Case((2, 3, 5, 6), 4, (3, 3), padding=1),
    Case((1, 3, 9, 8), 5, (3, 3), stride=2, padding=1),
    Case((1, 3, 11, 10), 7, (7, 7), stride=2, padding=3),
    Case((2, 5, 4, 3), 15, (1, 1)),
    Case((1, 17, 5, 5), 33, (1, 1)),
    Case((1, 100, 7, 7), 300, (1, 1)),  # dx: pixels as rows, whose tiles are turned
    Case((1, 4, 7, 7), 6, (1, 1), stride=2),
    Case((2, 4, 3, 4), 3, (1, 1), padding=2),
    Case((1, 2, 6, 7), 3, (2, 4), stride=(1, 2), padding=(1, 0)),
    Case((1, 2, 8, 9), 3, (3, 2), stride=(3, 1), dilation=(1, 3)),
    Case((1, 2, 9, 9), 2, (3, 3), padding=2, dilation=2),
    Case((1, 2, 10, 11), 2, (3, 3), stride=2, padding=3, dilation=3),
    Case((1, 2, 5, 6), 3, (3, 3), padding=((1, 0), (0, 2))),
    Case((1, 2, 5, 6), 3, (3, 3), stride=2, padding=((0, 2), (2, 1))),
    Case((1, 2, 5, 6), 3, (3, 3), padding="same"),
    Case((1, 2, 5, 6), 3, (4, 2), padding="same"),
    Case((1, 2, 6, 5), 3, (2, 3), padding="same", dilation=(3, 2)),
    Case((1, 2, 5, 6), 3, (3, 3), stride=2, padding="valid"),
    Case((2, 4, 5, 5), 6, (3, 3), padding=1, groups=2),
    Case((1, 6, 6, 5), 6, (3, 3), padding=1, groups=6),
    Case((1, 3, 6, 7), 9, (3, 3), stride=2, padding=1, groups=3),
    Case((2, 4, 5, 5), 2, (1, 1), groups=2),
    Case((1, 1, 3, 3), 1, (3, 3)),
    Case((3, 2, 3, 4), 2, (3, 4)),
    Case((1, 1, 1, 40), 3, (1, 5), padding=(0, 2)),
    Case((1, 2, 40, 1), 2, (5, 1), stride=(3, 1)),
    Case((1, 1, 2, 2), 2, (2, 2), padding=3, stride=2),
    Case((1, 2, 6, 6), 14, (3, 3)),
    Case((1, 2, 5, 9), 13, (2, 2)),
    Case((1, 70, 4, 4), 5, (3, 3), padding=1),
    Case((1, 2, 3, 100), 2, (3, 3), padding=1),
    Case((4, 3, 2, 2), 3, (2, 2), stride=2, padding=1),
    Case((1, 1, 5, 5), 2, (2, 2), stride=4),
    Case((1, 2, 7, 6), 64, (2, 7), stride=2, padding=(2, 3), dilation=(2, 1)),
    Case((2, 24, 8, 15), 16, (3, 3), stride=(2, 1), padding=(1, 2)),
    # gradients of strides: panels of channels, blocks of k and of rows, rows of whole vectors and
    # of less, phases without taps
    Case((1, 33, 9, 71), 200, (3, 3), stride=2, padding=1),
    Case((2, 16, 30, 64), 40, (1, 1), stride=2),
    Case((1, 20, 40, 33), 70, (3, 3), stride=2, padding=1),
    Case((2, 6, 13, 35), 8, (2, 3), stride=(2, 3), padding=2, groups=2),
    Case((1, 5, 12, 9), 6, (1, 1), stride=(1, 2), padding=(0, 1)),
    Case((1, 3, 32, 32), 9, (8, 8), stride=8),
    Case((1, 4, 1, 70), 3, (3, 4), stride=2, padding=((1, 1), (0, 3)), dilation=(1, 2)),
    # depthwise: strips of whole vectors and of less, odd and even borders, rows nobody reads, any kernel
    Case((2, 3, 7, 7), 3, (3, 3), padding=1, groups=3),
    Case((1, 2, 18, 37), 2, (3, 3), padding=1, groups=2),
    Case((2, 3, 15, 40), 3, (3, 3), stride=2, padding=1, groups=3),
    Case((1, 2, 14, 71), 2, (3, 3), stride=2, groups=2),
    Case((1, 2, 9, 34), 2, (3, 3), stride=2, padding=((0, 4), (5, 0)), groups=2),
    Case((1, 2, 3, 20), 2, (3, 3), padding=4, groups=2),
    Case((1, 2, 6, 56), 2, (3, 3), padding=1, groups=2),  # strips inside, and half a strip
    Case((1, 2, 5, 112), 2, (3, 3), stride=2, padding=1, groups=2),
    Case((1, 2, 6, 99), 2, (3, 3), stride=2, padding=(1, 0), groups=2),
    Case((1, 2, 40, 60), 2, (3, 3), padding=9, groups=2),
    Case((2, 2, 9, 50), 2, (3, 3), stride=2, padding=1, groups=2),  # rows of pairs
    Case((1, 2, 8, 66), 2, (3, 3), stride=2, padding=(0, 2), groups=2),
    Case((1, 2, 7, 96), 2, (3, 3), stride=2, groups=2),
    Case((1, 2, 12, 35), 2, (3, 3), stride=2, padding=((1, 1), (1, 0)), groups=2),
    Case((1, 2, 9, 33), 2, (3, 3), padding=((1, 1), (1, 3)), groups=2),
    Case((1, 2, 4, 5), 2, (3, 3), stride=2, padding=((2, 0), (0, 11)), groups=2),
    Case((1, 17, 2, 3), 17, (5, 5), padding=2, groups=17),
    Case((1, 2, 12, 35), 2, (5, 5), stride=2, padding=2, groups=2),
    Case((1, 2, 11, 18), 2, (7, 7), padding=3, groups=2),
    Case((1, 2, 13, 36), 2, (7, 7), stride=2, padding=3, groups=2),
    Case((1, 2, 9, 21), 2, (3, 3), padding=2, dilation=2, groups=2),
    Case((1, 2, 9, 10), 2, (2, 4), stride=(3, 2), padding=1, dilation=(1, 2), groups=2),
    Case((1, 1, 90, 150), 1, (3, 3), padding=1),
]
# Direct convolution: rows shorter than a vector, of some vectors and a rest, padding beyond the image
# and beyond the kernel, filters that fill vectors and those that do not, images in several blocks.
DIRECT = [
    Case((3, 1, 6, 33), 7, (3, 3)),
    Case((1, 6, 15, 15), 16, (3, 3)),
    Case((1, 3, 5, 32), 32, (3, 3), padding=1),
    Case((1, 2, 9, 13), 19, (2, 4), padding=((0, 2), (3, 1))),
    Case((1, 1, 2, 3), 2, (2, 2), padding=4),
    Case((2, 3, 5, 7), 4, (2, 2), padding=3),
    Case((1, 9, 3, 2), 33, (3, 1), padding=(1, 0)),
    Case((1, 8, 60, 44), 3, (5, 5), padding=2),
    Case((2, 2, 3, 70), 17, (1, 3)),
    Case((1, 1, 90, 14), 16, (1, 2)),
    Case((1, 2, 1, 300), 5, (1, 7), padding=(0, 3)),
    # taps beside each other: of rows of 5, of output rows that are shorter than the kernel's
    Case((2, 2, 9, 11), 17, (5, 5), padding=2),
    Case((2, 3, 6, 4), 16, (5, 5), padding=1),
    Case((1, 10, 7, 3), 16, (3, 3), padding=((0, 1), (1, 0))),
    # strips that are walked down: of one row and of two, of several blocks of rows, an odd filter
    Case((2, 3, 3, 37), 5, (3, 3)),
    Case((1, 2, 4, 20), 2, (3, 3), padding=(0, 1)),
    Case((2, 5, 101, 40), 3, (3, 3), padding=1),
    # images as lanes: blocks of them and a rest, pixels that no tap reaches
    Case((19, 3, 5, 6), 8, (3, 3), padding=1),
    Case((17, 2, 4, 7), 5, (2, 4), padding=((0, 6), (3, 9))),
    Case((33, 6, 15, 15), 16, (3, 3)),
    Case((16, 7, 2, 2), 4, (5, 5), padding=2),
]
# Strided or dilated, forward only: odd sizes, borders of one side, padding beyond the image, steps beyond the kernel,
# phases of rows without taps, output rows of less than a vector and of some, channels that make blocks of few rows.
STRIDED = [
    Case((2, 3, 11, 67), 7, (3, 3), stride=2, padding=1),
    Case((1, 3, 40, 37), 13, (7, 7), stride=2, padding=3),
    Case((1, 5, 9, 35), 6, (1, 1), stride=2),
    Case((1, 2, 8, 71), 3, (3, 4), stride=(1, 2), padding=((0, 3), (2, 0))),
    Case((1, 2, 9, 70), 3, (3, 2), stride=(2, 1), padding=((1, 0), (0, 5))),
    Case((2, 1, 2, 3), 2, (3, 3), stride=2, padding=9),
    Case((1, 2, 3, 2), 5, (2, 2), stride=2, padding=(0, 40)),
    Case((1, 3, 13, 52), 4, (2, 2), stride=3),
    Case((1, 2, 14, 41), 4, (5, 5), stride=3, padding=2),
    Case((1, 2, 12, 40), 3, (3, 3), padding=2, dilation=2),
    Case((1, 2, 15, 44), 3, (3, 3), stride=2, padding=((3, 0), (1, 4)), dilation=(2, 3)),
    Case((1, 1, 14, 36), 2, (3, 2), stride=4, dilation=(3, 2), padding=(2, 1)),
    Case((1, 150, 30, 60), 7, (3, 3), stride=2, padding=1),
    Case((1, 3, 66, 1), 4, (5, 1), stride=2, padding=(2, 0)),
]
SMALL_IMAGES = [  # whose weight gradients take several images at once, in pieces
    Case((24, 33, 9, 9), 30, (1, 1), stride=2),
    Case((70, 17, 4, 4), 20, (1, 1), stride=(2, 1)),
    Case((37, 40, 5, 7), 33, (1, 1), stride=2, padding=(1, 0)),
    Case((40, 36, 6, 6), 34, (1, 1), stride=3, groups=2),
    Case((19, 40, 7, 7), 120, (3, 3), stride=2, padding=1),
]
CASES += DIRECT + STRIDED + SMALL_IMAGES
# The product's depth beyond a cache block (KC): C*R*S, K*R*S and N*P*Q past 256 and 512; then
# batches that are cut into pieces, images and weights that do not stay in the cache.
DEEP = [
    Case((1, 64, 3, 3), 3, (3, 3), padding=1),
    Case((1, 3, 3, 3), 64, (3, 3), padding=1),
    Case((3, 2, 14, 15), 3, (3, 3), padding=1),
    Case((5, 1, 20, 20), 2, (3, 3)),
    Case((5, 4, 20, 19), 6, (2, 2), groups=2),
    Case((1, 9, 90, 90), 2, (3, 3), padding=1),
    Case((2, 290, 4, 4), 130, (3, 3)),
]
EMPTY = [
    Case((0, 3, 5, 5), 4, (3, 3), padding=1),
    Case((2, 0, 5, 5), 4, (3, 3), padding=1),
    Case((0, 4, 5, 5), 4, (3, 3), stride=2, groups=2),
]

cases = pytest.mark.parametrize("case", CASES + DEEP + EMPTY, ids=str)
few_cases = pytest.mark.parametrize("case", CASES[3:24:3], ids=str)


def terms_of(case):
    """How many products meet in one element of y, of dx and of dw."""
    K, C, R, S = case.w
    N, _, P, Q = case.y
    return C * R * S + 1, K // case.groups * R * S, N * P * Q


def summing(case, dtype):
    """Options by which the three passes add up products: exact on integers, which Winograd is not."""
    plans = [
        kernels.conv2d_plan(case.x, case.w, *case.args, which=which, dtype=dtype)
        for which in ("forward", "backward_input", "backward_weight")
    ]
    return [{"algorithm": "gemm"} if p.algorithm == "winograd" else {} for p in plans]


@covers("conv2d_forward")
@cases
def test_forward(isa, dtype, rng, case):
    x, w, b, _ = case.arrays(rng, dtype)
    size = ref.conv2d_forward(abs(x), abs(w), abs(b), *case.args)
    bound = ref.product_bound(size, terms_of(case)[0], dtype)
    options, _, _ = summing(case, dtype)
    for bias in (b, None):
        expected = ref.conv2d_forward(x, w, bias, *case.args)
        check(kernels.conv2d_forward(x, w, bias, *case.args, **options), expected, bound)


@covers("conv2d_backward_input")
@cases
def test_backward_input(isa, dtype, rng, case):
    _, w, _, dy = case.arrays(rng, dtype)
    size = ref.conv2d_backward_input(abs(dy), abs(w), case.size, *case.args)
    _, options, _ = summing(case, dtype)
    check(
        kernels.conv2d_backward_input(dy, w, case.x, *case.args, **options),
        ref.conv2d_backward_input(dy, w, case.size, *case.args),
        ref.product_bound(size, terms_of(case)[1], dtype),
    )


@covers("conv2d_backward_weight")
@cases
def test_backward_weight(isa, dtype, rng, case):
    x, _, _, dy = case.arrays(rng, dtype)
    given = case.kernel, *case.args
    _, _, options = summing(case, dtype)
    results = kernels.conv2d_backward_weight(dy, x, *given, **options)
    sizes = ref.conv2d_backward_weight(abs(dy), abs(x), *given)
    expected = ref.conv2d_backward_weight(dy, x, *given)
    for name, d, e, size in zip(("dw", "db"), results, expected, sizes, strict=True):
        check(d, e, ref.product_bound(size, terms_of(case)[2], dtype), name)
    dw, db = kernels.conv2d_backward_weight(dy, x, *given, bias=False, **options)
    assert db is None
    check(dw, expected[0], ref.product_bound(sizes[0], terms_of(case)[2], dtype))


@cases
def test_integers_are_exact_and_nothing_else_is_written(isa, dtype, rng, case):
    x, w, b, dy = case.arrays(rng, dtype, integers)
    forward, backward_input, backward_weight = summing(case, dtype)
    with guarded(case.y, dtype) as out:
        assert kernels.conv2d_forward(x, w, b, *case.args, **forward, out=out) is out
        check(out, ref.conv2d_forward(x, w, b, *case.args))
    with guarded(case.x, dtype) as out:
        options = {**backward_input, "out": out}
        assert kernels.conv2d_backward_input(dy, w, case.size, *case.args, **options) is out
        check(out, ref.conv2d_backward_input(dy, w, case.size, *case.args))
    results = kernels.conv2d_backward_weight(dy, x, case.kernel, *case.args, **backward_weight)
    expected = ref.conv2d_backward_weight(dy, x, case.kernel, *case.args)
    for d, e in zip(results, expected, strict=True):
        check(d, e)


@pytest.mark.parametrize("case", CASES[:4] + DIRECT, ids=str)
@pytest.mark.parametrize("awkward", [np.asarray, *AWKWARD])
def test_direct(isa, dtype, rng, case, awkward):
    x, w, b, dy = case.arrays(rng, dtype, integers)
    ax, aw, ab, ady = map(awkward, (x, w, b, dy))
    expected = ref.conv2d_forward(x, w, b, *case.args)
    with guarded(case.y, dtype) as out:
        check(kernels.conv2d_forward(ax, aw, ab, *case.args, out=out, algorithm="direct"), expected)
    expected = ref.conv2d_backward_input(dy, w, case.size, *case.args)
    with guarded(case.x, dtype) as out:
        check(
            kernels.conv2d_backward_input(ady, aw, case.x, *case.args, out=out, algorithm="direct"),
            expected,
        )
    results = kernels.conv2d_backward_weight(ady, ax, case.kernel, *case.args, algorithm="direct")
    for d, e in zip(
        results, ref.conv2d_backward_weight(dy, x, case.kernel, *case.args), strict=True
    ):
        check(d, e)


@pytest.mark.parametrize("case", STRIDED, ids=str)
@pytest.mark.parametrize("awkward", [np.asarray, *AWKWARD])
def test_direct_strided(isa, dtype, rng, case, awkward):
    arrays = case.arrays(rng, dtype, integers)[:3]
    with guarded(case.y, dtype) as out:
        options = {"out": out, "algorithm": "direct"}
        kernels.conv2d_forward(*map(awkward, arrays), *case.args, **options)
        check(out, ref.conv2d_forward(*arrays, *case.args))


@pytest.mark.parametrize("case", CASES[:4] + DIRECT, ids=str)
def test_scratch_memory_is_not_read_before_it_is_written(isa, dtype, rng, case):
    """What an earlier call left there does not count: NaN, in the place of every number."""

    def passes(x, w, b, dy):
        options = {"algorithm": "direct"}
        return [
            kernels.conv2d_forward(x, w, b, *case.args, **options),
            kernels.conv2d_backward_input(dy, w, case.size, *case.args, **options),
            *kernels.conv2d_backward_weight(dy, x, case.kernel, *case.args, **options),
        ]

    arrays = case.arrays(rng, dtype)
    wanted = passes(*arrays)
    passes(*(np.full_like(array, np.nan) for array in arrays))
    for found, first in zip(passes(*arrays), wanted, strict=True):
        assert np.isfinite(first).all() and found.tobytes() == first.tobytes()


def test_direct_refuses_what_it_cannot_do(rng):
    x, w = normal(rng, (1, 2, 6, 6), np.float32), normal(rng, (2, 2, 3, 3), np.float32)
    dy = normal(rng, (1, 2, 2, 2), np.float32)
    for steps in ((2, 0, 1), (1, 0, 2)):  # stride and dilation
        with pytest.raises(ValueError, match="direct"):
            kernels.conv2d_backward_input(dy, w, x.shape, *steps, algorithm="direct")
    halves = normal(rng, (2, 1, 3, 3), np.float32)
    with pytest.raises(ValueError, match="direct"):
        kernels.conv2d_forward(x, halves, None, 2, groups=2, algorithm="direct")
    with pytest.raises(ValueError, match="direct"):
        kernels.conv2d_backward_weight(dy, x, (3, 3), 2, groups=2, algorithm="direct")


@pytest.mark.parametrize("case", [c for c in CASES if c.groups == c.K == c.x[1]], ids=str)
def test_depthwise(isa, dtype, rng, case):
    """Each kernel and stride; the images of a batch that lie apart, and rows that do."""
    x, w, b, dy = case.arrays(rng, dtype, integers)
    asked = {"algorithm": "depthwise"}
    for lay in (np.array, *AWKWARD):
        ax, ady = lay(x), lay(dy)
        y = kernels.conv2d_forward(ax, w, b, *case.args, **asked)
        check(y, ref.conv2d_forward(x, w, b, *case.args))
        dx = kernels.conv2d_backward_input(ady, w, case.size, *case.args, **asked)
        check(dx, ref.conv2d_backward_input(dy, w, case.size, *case.args))
        dw, db = kernels.conv2d_backward_weight(ady, ax, case.kernel, *case.args, **asked)
        expected = ref.conv2d_backward_weight(dy, x, case.kernel, *case.args)
        check(dw, expected[0])
        check(db, expected[1])


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize(
    "width,kernel,stride,padding",
    [(37, 3, 1, 1), (37, 3, 2, 0), (37, 3, 2, 1), (38, 3, 2, 1), (37, 5, 2, 2), (37, 7, 1, 0)],
)
def test_depthwise_invents_no_products(isa, dtype, rng, width, kernel, stride, padding, value):
    """A NaN or infinity reaches what saw it, and nothing else, wherever it is."""
    case = Case((1, 2, 12, width), 2, (kernel, kernel), stride, padding, groups=2)
    asked = {"algorithm": "depthwise"}
    for place in ((0, 0), (0, -1), (-1, 0), (5, 20), (6, 15), (-1, -1)):
        x, w, _, dy = (np.where(a == 0, 1, a) for a in case.arrays(rng, dtype, integers))
        x[0, 0][place] = value
        with np.errstate(invalid="ignore"):
            y = kernels.conv2d_forward(x, w, None, *case.args, **asked)
            check(y, ref.conv2d_forward(x, w, None, *case.args))
            dw, _ = kernels.conv2d_backward_weight(dy, x, case.kernel, *case.args, **asked)
            check(dw, ref.conv2d_backward_weight(dy, x, case.kernel, *case.args)[0])


@covers("im2col", "col2im")
@pytest.mark.parametrize("case", [c for c in CASES + EMPTY if c.groups == 1], ids=str)
def test_im2col_and_col2im(isa, dtype, rng, case):
    x = integers(rng, case.x, dtype)
    options = {"stride": case.stride, "padding": case.padding, "dilation": case.dilation}
    expected = ref.im2col(x, case.kernel, **options)
    check(kernels.im2col(x, case.kernel, **options), expected)
    with guarded(expected.shape, dtype) as out:
        assert kernels.im2col(x, case.kernel, **options, out=out) is out
        check(out, expected)
    cols = integers(rng, expected.shape, dtype)
    expected = ref.col2im(cols, case.size, case.kernel, **options)
    check(kernels.col2im(cols, case.size, case.kernel, **options), expected)
    with guarded(expected.shape, dtype) as out:
        assert kernels.col2im(cols, case.size, case.kernel, **options, out=out) is out
        check(out, expected)
    # <im2col x, cols> = <x, col2im cols>: each is the other's adjoint.
    unfolded = kernels.im2col(x, case.kernel, **options)
    folded = kernels.col2im(cols, case.size, case.kernel, **options)
    assert np.vdot(unfolded, cols) == np.vdot(x, folded)


@cases
def test_the_three_passes_are_adjoint(isa, dtype, rng, case):
    """<conv x, dy> = <x, dx> = <w, dw>, and <b, db> for the bias: exact on integers."""
    x, w, b, dy = case.arrays(rng, dtype, integers)
    forward, backward_input, backward_weight = summing(case, dtype)
    y = kernels.conv2d_forward(x, w, None, *case.args, **forward)
    dx = kernels.conv2d_backward_input(dy, w, case.x, *case.args, **backward_input)
    dw, db = kernels.conv2d_backward_weight(dy, x, case.kernel, *case.args, **backward_weight)
    assert np.vdot(y, dy) == np.vdot(x, dx) == np.vdot(w, dw)
    with_bias = kernels.conv2d_forward(x, w, b, *case.args, **forward)
    assert np.vdot(with_bias - y, dy) == np.vdot(b, db)


@few_cases
def test_gradients_by_central_difference(isa, rng, case):
    x, w, b, dy = case.arrays(rng, np.float64)
    dx = kernels.conv2d_backward_input(dy, w, case.x, *case.args)
    dw, db = kernels.conv2d_backward_weight(dy, x, case.kernel, *case.args)
    for i, gradient in enumerate((dx, dw, db)):

        def loss(value, i=i):
            given = [x, w, b]
            given[i] = value
            return np.vdot(kernels.conv2d_forward(*given, *case.args), dy)

        direction = rng.standard_normal(gradient.shape)
        slope = numeric_slope(loss, (x, w, b)[i], direction)
        assert slope == pytest.approx(np.vdot(gradient, direction), rel=1e-6, abs=1e-6)


@few_cases
@pytest.mark.parametrize("awkward", AWKWARD)
def test_awkward_operands(isa, dtype, rng, case, awkward):
    x, w, b, dy = case.arrays(rng, dtype, integers)
    ax, aw, ab, ady = map(awkward, (x, w, b, dy))
    y = kernels.conv2d_forward(ax, aw, ab, *case.args)
    check(y, ref.conv2d_forward(x, w, b, *case.args))
    dx = kernels.conv2d_backward_input(ady, aw, case.x, *case.args)
    check(dx, ref.conv2d_backward_input(dy, w, case.size, *case.args))
    results = kernels.conv2d_backward_weight(ady, ax, case.kernel, *case.args)
    expected = ref.conv2d_backward_weight(dy, x, case.kernel, *case.args)
    for d, e in zip(results, expected, strict=True):
        check(d, e)
    for result in (y, dx, *results):
        assert result.flags.c_contiguous and result.dtype == dtype


def test_broadcast_operands(isa, dtype, rng):
    """Strides of 0: one pixel seen everywhere."""
    case = CASES[3]
    x = np.broadcast_to(integers(rng, (1, 3, 1, 1), dtype), case.x)
    dy = np.broadcast_to(integers(rng, (1, 4, 1, 1), dtype), case.y)
    w = integers(rng, case.w, dtype)
    check(
        kernels.conv2d_forward(x, w, None, *case.args), ref.conv2d_forward(x, w, None, *case.args)
    )
    dx = kernels.conv2d_backward_input(dy, w, case.x, *case.args)
    check(dx, ref.conv2d_backward_input(dy, w, case.size, *case.args))
    dw, _ = kernels.conv2d_backward_weight(dy, x, case.kernel, *case.args)
    check(dw, ref.conv2d_backward_weight(dy, x, case.kernel, *case.args)[0])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_inf_reach_the_windows_that_see_them(isa, dtype, rng, value):
    case = Case((2, 3, 6, 7), 5, (3, 3), padding=1)
    x, w, b, dy = case.arrays(rng, dtype, integers)
    w[w == 0] = 1  # torch and we both let inf * 0 be NaN, but padding adds no 0 * inf
    dy[dy == 0] = 1
    x[1, 2, 5, 6] = dy[0, 4, 0, 0] = value
    with np.errstate(invalid="ignore"):
        y = kernels.conv2d_forward(x, w, b, *case.args)
        check(y, ref.conv2d_forward(x, w, b, *case.args))
        dx = kernels.conv2d_backward_input(dy, w, case.size, *case.args)
        check(dx, ref.conv2d_backward_input(dy, w, case.size, *case.args))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("case", [CASES[2], CASES[23], DEEP[3], DEEP[4]], ids=str)
def test_nan_and_inf_reach_the_weights_that_met_them(isa, dtype, rng, value, case):
    x, _, _, dy = case.arrays(rng, dtype, integers)
    x[x == 0] = dy[dy == 0] = 1
    for given in (x, dy):
        before = given[0, -1, -1, -1]
        given[0, -1, -1, -1] = value
        with np.errstate(invalid="ignore"):
            results = kernels.conv2d_backward_weight(dy, x, case.kernel, *case.args)
            expected = ref.conv2d_backward_weight(dy, x, case.kernel, *case.args)
            for d, e in zip(results, expected, strict=True):
                check(d, e)
        given[0, -1, -1, -1] = before


# ---- relu and max-pool of the result, by itself ------------------------------------------------------

POOLED = [
    Case((1, 1, 32, 32), 6, (3, 3)),
    Case((64, 1, 32, 32), 6, (3, 3)),
    Case((37, 6, 15, 15), 16, (3, 3)),
    Case((1, 6, 15, 15), 16, (3, 3)),
    Case((2, 6, 15, 15), 33, (3, 3)),
    Case((2, 3, 9, 7), 8, (3, 3), padding=1),
    Case((3, 3, 33, 50), 7, (3, 3)),
    Case((17, 1, 5, 5), 1, (2, 2)),
    Case((16, 1, 8, 8), 1, (3, 3)),
    Case((40, 3, 12, 12), 20, (3, 3), padding=1),
    Case((2, 3, 40, 44), 64, (7, 7), stride=2, padding=3),
    Case((2, 4, 21, 20), 6, (3, 3), padding=2, dilation=2),
    Case((1, 3, 30, 131), 5, (5, 5), padding=2),
    Case((1, 3, 128, 20), 32, (3, 3), padding=1),
    Case((1, 1, 2, 2), 3, (1, 1)),
    Case((1, 1, 3, 9), 2, (3, 3)),  # no whole window
    Case((0, 1, 5, 5), 2, (3, 3)),
]


@pytest.mark.parametrize("case", POOLED, ids=str)
def test_relu_pool(rng, isa, dtype, threads, case):
    """The bits of the calls that it stands for, whatever the numbers and the threads."""
    x, w, b, _ = case.arrays(rng, dtype)
    for special in ([], [np.nan], [np.inf, -np.inf]):  # NaNs of one kind at a time
        x = np.nan_to_num(x)
        for value in special if x.size else []:
            x.flat[rng.integers(x.size, size=2)] = value
        y = kernels.conv2d_forward(x, w, b, *case.args, algorithm="direct")
        shape = (*y.shape[:2], y.shape[2] // 2, y.shape[3] // 2)
        wanted = np.zeros(shape, dtype), np.zeros(shape, np.int32)
        if wanted[0].size:
            wanted = kernels.max_pool2d_forward(y, 2, relu=True)
        for count in (1, 3):
            threads(count)
            with guarded(shape, dtype) as out:
                y, indices = kernels.conv2d_forward(
                    x, w, b, *case.args, algorithm="direct", relu_pool=True, out=out
                )
            assert y is out and y.tobytes() == wanted[0].tobytes()
            assert indices.dtype == np.int32 and indices.tobytes() == wanted[1].tobytes()
