"""Each algorithm of the convolutions against the others, its error bound, and its plan.

What an algorithm can do is asked of conv2d_plan, so that a new one is tested as soon as it is there.
Bounds are those of docs/accuracy.md.
"""

import functools
import math
import zlib

import numpy as np
import pytest
import reference as ref
from helpers import (
    AWKWARD,
    check,
    check_bits,
    covers,
    integers,
    normal,
    run_python,
)
from test_conv2d import Case

from fastconv import kernels

PASSES = ("forward", "backward_input", "backward_weight")


def table(*rows, kernel=3, stride=1):
    return [
        Case((N, C, H, W), K, (kernel, kernel), stride=stride, padding=padding)
        for N, C, K, H, W, padding in rows
    ]


#    N   C   K   H   W  padding
AROUND_THE_TILES = table(
    (1, 1, 1, 1, 1, 1),
    (1, 1, 2, 2, 1, 2),
    (2, 3, 1, 3, 3, 0),
    (1, 2, 3, 1, 9, 1),
    (3, 1, 4, 4, 5, 0),
    (1, 4, 5, 5, 8, 1),
    (1, 5, 3, 6, 4, (0, 2)),
    (3, 3, 6, 7, 7, 3),
    (1, 16, 16, 8, 2, (1, 3)),
    (2, 7, 17, 9, 6, ((1, 0), (0, 2))),
    (1, 17, 15, 13, 3, ((4, 1), (3, 0))),
    (1, 6, 33, 14, 14, 1),
    (1, 33, 8, 15, 16, 0),
    (1, 2, 2, 16, 17, 4),
    (1, 20, 9, 17, 28, ((0, 1), (2, 4))),
    (1, 3, 4, 2, 29, "same"),
    (1, 8, 7, 30, 13, (2, 0)),
    (1, 1, 6, 31, 32, 0),
    (3, 5, 33, 33, 33, 1),
    (1, 8, 5, 22, 150, 1),  # bands of few channels
)
DEEP = table(
    (3, 65, 20, 9, 10, 1),  # channels: more than a chunk
    (1, 64, 64, 18, 17, 1),
    (1, 130, 3, 7, 6, 0),
    (1, 160, 160, 8, 9, 1),  # transformed weights beyond the workspace: made in pieces
    (1, 130, 100, 7, 7, 1),  # one, two or four tiles: each point of the weights used at once
    (1, 20, 37, 3, 14, 1),
    (4, 33, 18, 4, 3, 1),
    (2, 18, 49, 3, 4, 1),
    (1, 66, 33, 4, 4, 1),
    (1, 130, 100, 26, 50, 1),  # of the weight gradient: groups of channels and filters
    (2, 33, 18, 32, 32, 1),  # planes that share a set of the L1 cache
    (
        3,
        70,
        36,
        30,
        33,
        ((2, 0), (0, 1)),
    ),  # several super-blocks, and pieces of the weight gradient
)
STRIDED = table(
    (1, 1, 1, 1, 1, 1),
    (1, 1, 2, 2, 1, 2),
    (2, 3, 1, 3, 3, 0),
    (1, 2, 3, 1, 19, 1),
    (3, 1, 4, 8, 9, 0),
    (1, 4, 5, 9, 8, 1),
    (1, 5, 3, 7, 16, (0, 2)),
    (2, 7, 17, 17, 10, ((1, 0), (0, 2))),
    (1, 17, 15, 23, 5, ((4, 1), (3, 0))),
    (1, 16, 16, 16, 4, (1, 3)),
    (1, 6, 33, 32, 32, 1),
    (1, 33, 8, 33, 15, 0),
    (1, 20, 9, 31, 66, ((0, 1), (2, 4))),
    (2, 65, 20, 18, 17, 1),
    (1, 160, 160, 14, 15, 1),  # transformed weights made in pieces
    (1, 130, 100, 40, 68, 1),  # of the weight gradient: groups, and several chunks of tiles
    (3, 70, 36, 40, 61, ((2, 0), (0, 1))),  # super-blocks, and pieces of the weight gradient
    (1, 3, 5, 3, 130, 1),  # more tiles in a row than are gathered together
    stride=2,
)
ROWS = table(
    (1, 1, 1, 1, 1, 3),
    (1, 1, 2, 7, 7, 0),
    (2, 3, 17, 9, 24, 3),
    (1, 2, 16, 40, 17, ((5, 0), (1, 9))),
    (1, 3, 33, 33, 40, 3),  # bands, panels of filters
    (3, 5, 4, 20, 33, (9, 11)),
    (1, 1, 3, 8, 150, (0, 2)),
    (1, 2, 70, 40, 300, (2, 3)),  # of dx: segments of rows, and two chunks of filters
    kernel=7,
    stride=2,
)
ONE_TAP = [
    Case((N, C, H, W), K, (1, 1), stride=stride, padding=padding)
    for N, C, K, H, W, stride, padding in (
        (1, 40, 70, 7, 7, 1, 0),  # more filters than pixels: turned by the tasks
        (2, 5, 33, 3, 4, 1, 0),
        (1, 300, 50, 4, 5, 1, 0),
        (18, 7, 40, 1, 2, 1, 0),  # images as lanes, and two more
        (2, 9, 20, 14, 14, 1, 0),  # more pixels than filters
        (1, 6, 40, 5, 5, 1, 1),
        (1, 8, 60, 9, 8, 2, 0),
    )
]
OTHERS = [
    Case((2, 3, 20, 21), 8, (5, 5), padding=2),
    Case((1, 1, 33, 40), 6, (7, 3), padding=(0, 1)),
    Case((1, 3, 31, 33), 16, (7, 7), stride=2, padding=3),
    Case((2, 20, 9, 35), 20, (3, 3), padding=1, groups=20),
    Case((1, 33, 17, 18), 33, (3, 3), stride=2, padding=1, groups=33),
    Case((1, 6, 12, 13), 12, (3, 3), padding=1, groups=6),
    Case((1, 17, 13, 19), 17, (5, 5), padding=2, groups=17),
    Case((2, 6, 8, 9), 4, (3, 3), padding=1, groups=2),
]
FIVE_BY_FIVE = table(
    (1, 2, 3, 5, 5, 0),
    (2, 2, 3, 4, 3, 2),
    (2, 3, 17, 6, 9, 2),
    (1, 17, 4, 8, 31, ((3, 1), (0, 6))),
    (3, 5, 33, 13, 30, (5, 2)),
    (1, 70, 50, 3, 4, 2),  # chunks of channels
    (1, 150, 130, 9, 10, 2),  # transformed weights made in pieces
    (2, 40, 33, 20, 31, 1),  # super-blocks
    kernel=5,
)
FOUR_BY_FOUR = table(
    (1, 1, 1, 4, 4, 0),
    (1, 2, 3, 2, 1, 2),
    (2, 3, 1, 5, 6, 1),
    (2, 2, 17, 7, 10, 1),
    (1, 17, 20, 9, 31, ((3, 1), (0, 6))),
    (3, 4, 33, 13, 30, (5, 2)),
    (1, 70, 50, 5, 8, 1),  # chunks of channels
    (1, 150, 130, 12, 14, 1),  # transformed weights made in pieces
    (2, 40, 33, 31, 50, 1),  # super-blocks
    (1, 64, 17, 9, 10, 1),  # filters that share a set of the L1 cache
    kernel=4,
    stride=2,
)
LARGE_KERNELS = [  # filters as lanes in all passes, rows of taps that lie outside of the image
    Case((2, 24, 9, 8), 40, (5, 5), padding=2),
    Case((2, 33, 9, 9), 20, (5, 5)),
    Case((2, 9, 4, 9), 33, (5, 5), padding=(7, 1)),
    Case((1, 18, 6, 20), 20, (7, 5), padding=(3, 0)),
    Case((3, 70, 6, 7), 50, (5, 5), padding=(1, 3)),  # few pieces of the weight gradient
    Case((1, 130, 5, 6), 180, (5, 5), padding=2),  # one, in parts
]
APART = [  # strides and dilations that copies take out
    Case((2, 6, 12, 12), 20, (2, 2), stride=2),
    Case((1, 3, 22, 30), 17, (4, 4), stride=4),
    Case((2, 5, 13, 14), 18, (3, 3), padding=2, dilation=2),
    Case((1, 4, 17, 15), 20, (5, 3), stride=(3, 1), padding=2, dilation=(1, 2)),
    Case((2, 3, 9, 40), 6, (3, 5), stride=(1, 2), padding=(1, 2)),
]
ALL = AROUND_THE_TILES + DEEP + STRIDED + ROWS + ONE_TAP + OTHERS
ALL += FIVE_BY_FIVE + FOUR_BY_FOUR + LARGE_KERNELS + APART
FEW = [AROUND_THE_TILES[i] for i in (0, 7, 9, 11, 18)]
FEW += [DEEP[0], STRIDED[7], STRIDED[10], ROWS[3], ONE_TAP[0], OTHERS[0], OTHERS[3]]
FEW += FIVE_BY_FIVE[1::4] + FOUR_BY_FOUR[3:6:2] + LARGE_KERNELS[::3]
MANY_CHANNELS = [  # and few tiles: weights are prepared in the form that takes less memory
    Case((1, 350, 3, 4), 348, (3, 3), padding=1),
    Case((1, 349, 6, 7), 353, (3, 3), padding=1),
]
cases = pytest.mark.parametrize("case", ALL, ids=str)
few_cases = pytest.mark.parametrize("case", FEW, ids=str)


def plan(case, which, dtype, **options):
    return kernels.conv2d_plan(case.x, case.w, *case.args, which=which, dtype=dtype, **options)


def algorithms(case, which, dtype):
    """All that can do it, gemm first."""
    return tuple(plan(case, which, dtype).cycles)


def label(case, which, algorithm, *more):
    return " ".join(map(str, (kernels.isa(), algorithm, which, case, *more)))


def operands(case, which, x, w, b, dy):
    """The arrays of a pass."""
    return {"forward": (x, w, b), "backward_input": (dy, w), "backward_weight": (dy, x)}[which]


def run(case, which, arrays, algorithm="auto"):
    """y, dx or dw."""
    if which == "forward":
        return kernels.conv2d_forward(*arrays, *case.args, algorithm=algorithm)
    if which == "backward_input":
        return kernels.conv2d_backward_input(*arrays, case.x, *case.args, algorithm=algorithm)
    dw, db = kernels.conv2d_backward_weight(*arrays, case.kernel, *case.args, algorithm=algorithm)
    assert db.shape == (case.K,)
    return dw


# ---- error bounds --------------------------------------------------------------------------------


def terms(case, which):
    """How many products meet in one sum, and the bias."""
    K, C, R, S = case.w
    N, _, P, Q = case.y
    counts = (C * R * S + 1, K // case.groups * R * S, N * P * Q)
    return counts[PASSES.index(which)]


def padding_of(case):
    """Top and left, and the stride."""
    (top, _), (left, _) = ref.borders(case.padding, case.kernel, case.dilation)
    return (top, left), case.args[0]


def bounds(case, which, arrays):
    """algorithm -> how far each element of its result may be from the exact one."""
    info, wide = np.finfo(arrays[0].dtype), [abs(a.astype(float)) for a in arrays]
    size, n = run(case, which, wide, "gemm"), terms(case, which)
    # Each product or transform may lose half of the smallest subnormal, times what it meets next.
    lost = n * info.smallest_subnormal * 200 * (1 + sum(a.max() for a in wide if a.size))
    found = {}
    for name in algorithms(case, which, info.dtype):
        bound = n * float(info.eps) * size
        if name == "winograd":
            sizes = case.size, case.y[2:]
            bound = ref.winograd_bound(
                which, arrays, case.kernel[0], *padding_of(case), sizes, float(info.eps)
            )
        found[name] = bound + lost
    if info.dtype == np.float64:  # gemm in float64 is what they are compared with
        found = {name: bound + found["gemm"] for name, bound in found.items()}
    return found


def spike(rng, shape, dtype):
    """One 1e8 among small ones."""
    a = normal(rng, shape, dtype)
    a.flat[rng.integers(a.size)] = 1e8
    return a


def scaled(factor):
    return lambda rng, shape, dtype: normal(rng, shape, dtype) * dtype.type(factor)


def offset(rng, shape, dtype):
    return 1e4 + normal(rng, shape, dtype)


def subnormal(rng, shape, dtype):
    return normal(rng, shape, dtype) * (100 * np.finfo(dtype).smallest_subnormal)


# name: how x and dy are drawn, and how w and b
KINDS = {
    "normal": (normal, normal),
    "offset": (offset, normal),
    "offset in both": (offset, offset),
    "1e-20 and 1e20": (scaled(1e-20), scaled(1e20)),
    "1e20 and 1e-20": (scaled(1e20), scaled(1e-20)),
    "1e-20": (scaled(1e-20), normal),
    "1e20": (scaled(1e20), normal),
    "1e-20 in w": (normal, scaled(1e-20)),
    "spike": (spike, normal),
    "spike in w": (normal, spike),
    "subnormal": (subnormal, normal),
    "subnormal in w": (normal, subnormal),
}


def draw(case, dtype, kind="normal", which="forward"):
    """x, w, b and dy, the same ones each time. dy meets w, or x in the weight gradient."""
    rng = np.random.default_rng(zlib.crc32(f"{case} {dtype} {kind}".encode()))
    images, filters = KINDS[kind]
    gradients = filters if which == "backward_weight" else images
    shapes = ((case.x, images), (case.w, filters), ((case.K,), filters), (case.y, gradients))
    return [np.asarray(of(rng, shape, dtype), dtype) for shape, of in shapes]


@functools.cache
def expected(case_number, dtype, kind, which):
    """The arrays, what they must give, and the bounds; once for all instruction sets."""
    case = ALL[case_number]
    arrays = operands(case, which, *draw(case, dtype, kind, which))
    wanted = run(case, which, [a.astype(float) for a in arrays], "gemm")
    return arrays, wanted, bounds(case, which, arrays)


def check_bounds(case, dtype, kind):
    for which in PASSES:
        arrays, wanted, bound = expected(ALL.index(case), dtype, kind, which)
        for name, limit in bound.items():
            result = run(case, which, arrays, name)
            check(result, wanted, limit, label(case, which, name, kind))


@cases
def test_errors_on_random_numbers(isa, dtype, case):
    check_bounds(case, dtype, "normal")


@pytest.mark.parametrize("kind", list(KINDS)[1:])
@few_cases
def test_errors_on_adverse_numbers(isa, dtype, case, kind):
    check_bounds(case, dtype, kind)


@pytest.mark.parametrize(
    "case",
    AROUND_THE_TILES[::4] + DEEP[2:3] + STRIDED[::3] + FIVE_BY_FIVE[::2] + FOUR_BY_FOUR[::2],
    ids=str,
)
def test_the_bound_of_winograd(dtype, case):
    """The matrices of tests/reference.py are Winograd's, and its sum of absolute values is at
    most what the docstrings say: 158 sum_c max |x[patch,c]| sum |w[k,c]|."""
    x, w, _, dy = [a.astype(float) for a in draw(case, dtype)]
    padding, stride = padding_of(case)
    exact = {"of": np.asarray, "stride": stride}
    y = ref.winograd_forward(x, w, padding, case.y[2:], **exact)
    np.testing.assert_allclose(y, run(case, "forward", (x, w, None), "gemm"), atol=1e-10)
    dx = ref.winograd_backward_input(dy, w, padding, case.size, **exact)
    np.testing.assert_allclose(dx, run(case, "backward_input", (dy, w), "gemm"), atol=1e-10)

    form = ref.winograd_form(case.kernel[0], stride)
    first, width, tile = [-pad for pad in padding], len(form.to_points), len(form.from_points)
    largest = abs(ref.winograd_tiles(x, first, case.y[2:], tile, width, form.advance)).max((3, 4))
    size = ref.winograd_forward(x, w, padding, case.y[2:], stride=stride)
    simple = np.einsum("nct,kc->nkt", largest, abs(w).sum((2, 3))) * 158
    tiles = ref.winograd_tiles(size, (0, 0), case.y[2:], tile, tile, tile)
    assert (tiles <= simple[..., None, None]).all()
    kernel = case.kernel[0]
    dw = ref.winograd_backward_weight(dy, x, padding, kernel=kernel, **exact)
    np.testing.assert_allclose(dw, run(case, "backward_weight", (dy, x), "gemm"), atol=1e-10)
    size = ref.winograd_backward_weight(dy, x, padding, stride=stride, kernel=kernel)
    sums = abs(ref.winograd_tiles(dy, (0, 0), case.y[2:], tile, tile, tile)).sum((3, 4))
    assert (size <= np.einsum("nct,nkt->kc", largest, sums)[..., None, None] * 158).all()


@pytest.mark.parametrize("case", ROWS, ids=str)
def test_the_bound_of_winograd_along_rows(dtype, case):
    """As above, and in the simple bound a sum over the rows of taps: seven, or four for dx."""
    x, w, _, dy = [a.astype(float) for a in draw(case, dtype)]
    padding, _ = padding_of(case)
    y = ref.winograd_rows_forward(x, w, padding, case.y[2:], np.asarray)
    np.testing.assert_allclose(y, run(case, "forward", (x, w, None), "gemm"), atol=1e-10)
    dx = ref.winograd_rows_backward_input(dy, w, padding, case.size, np.asarray)
    np.testing.assert_allclose(dx, run(case, "backward_input", (dy, w), "gemm"), atol=1e-10)
    dw = ref.winograd_rows_backward_weight(dy, x, padding, np.asarray)
    np.testing.assert_allclose(dw, run(case, "backward_weight", (dy, x), "gemm"), atol=1e-9)
    to_points, weights, from_points, _ = (np.abs(part) for part in ref.ROWS)
    assert (from_points @ (weights * to_points.sum(1, keepdims=True))).max() < 158


@cases
def test_errors_are_small_on_average(dtype, case):
    """The bounds leave room for the worst. The root of the mean square of all errors does not:
    the error of a sum of n terms one after the other is about 0.1 n eps, of N(0,1) times N(0,1)."""
    for which in PASSES:
        arrays, wanted, bound = expected(ALL.index(case), dtype, "normal", which)
        ones = run(case, which, [np.ones_like(a, float) for a in arrays], "gemm")
        typical = np.finfo(dtype).eps * np.sqrt(np.mean((np.sqrt(ones) + 0.1 * ones) ** 2))
        for name in bound:
            error = run(case, which, arrays, name) - wanted
            rms = math.sqrt(np.mean(error.astype(float) ** 2))
            most = {"winograd": 6, "gemm": 1}.get(name, 1.5)  # gemm adds blocks of 512 terms
            if np.dtype(dtype) == float:  # what is wanted is such a sum, too
                most = math.hypot(most, 1)
            assert rms <= most * typical, label(case, which, name, rms / typical)


@cases
def test_integers_are_exact(isa, dtype, rng, case):
    """But by Winograd, whose a = sqrt(1/2) is rounded: it comes near."""
    x, w, b, dy = case.arrays(rng, dtype, integers)
    for which in PASSES:
        arrays = operands(case, which, x, w, b, dy)
        wanted = run(case, which, [a.astype(float) for a in arrays], "gemm")
        for name in algorithms(case, which, dtype):
            near = 0.0 if name != "winograd" else 2e4 * np.finfo(dtype).eps
            result = run(case, which, arrays, name)
            check(result, wanted, near, label(case, which, name))


@few_cases
def test_zeros(isa, dtype, rng, case):
    """Give exact zeros, plus the bias."""
    x, w, b, dy = case.arrays(rng, dtype)
    for zero, full in ((np.zeros_like(x), w), (x, np.zeros_like(w))):
        for name in algorithms(case, "forward", dtype):
            y = run(case, "forward", (zero, full, b), name)
            check(y, np.broadcast_to(b[:, None, None], y.shape), 0, label(case, "forward", name))
    for which, arrays in (
        ("backward_input", (np.zeros_like(dy), w)),
        ("backward_input", (dy, np.zeros_like(w))),
        ("backward_weight", (np.zeros_like(dy), x)),
        ("backward_weight", (dy, np.zeros_like(x))),
    ):
        for name in algorithms(case, which, dtype):
            assert not run(case, which, arrays, name).any(), label(case, which, name)


# ---- what is not finite --------------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@few_cases
def test_nan_and_inf_are_where_gemm_has_them(isa, dtype, rng, case, value):
    x, w, b, dy = case.arrays(rng, dtype)
    for which in PASSES:
        for i, array in enumerate(operands(case, which, x, w, b, dy)):
            arrays = list(operands(case, which, x, w, b, dy))
            arrays[i] = array.copy()
            arrays[i].flat[rng.integers(array.size)] = value
            if array is w and case.padding != 0:
                continue  # gemm multiplies the zeros around the image, others need not
            wanted = run(case, which, arrays, "gemm")
            for name in algorithms(case, which, dtype)[1:]:
                result, text = run(case, which, arrays, name), label(case, which, name, i)
                if array is w and which == "backward_input" and name == "direct":
                    # it leaves out rows of zeros around dy, and is finite more often
                    assert np.isnan(wanted[np.isnan(result)]).all(), text
                    continue
                if name == "winograd" and i < 2:  # a bias is added at the end
                    assert result.tobytes() == wanted.tobytes(), text
                assert (np.isnan(result) == np.isnan(wanted)).all(), text
                assert (np.isposinf(result) == np.isposinf(wanted)).all(), text
                assert (np.isneginf(result) == np.isneginf(wanted)).all(), text


@pytest.mark.parametrize("case", FEW[1:6], ids=str)
def test_overflow_between_the_transforms(isa, dtype, rng, case):
    """Results that are finite stay so, and are gemm's."""
    x, w, b, dy = case.arrays(rng, dtype)
    largest = np.finfo(dtype).max / 4
    x, dy = (np.copysign(largest, a) for a in (x, dy))
    w, b = (a * dtype.type(1e-4) for a in (w, b))
    for which in ("forward", "backward_input"):
        arrays = operands(case, which, x, w, b, dy)
        wanted, result = (run(case, which, arrays, name) for name in ("gemm", "winograd"))
        assert np.isfinite(wanted).all(), label(case, which, "gemm")
        assert result.tobytes() == wanted.tobytes(), label(case, which, "winograd")
    arrays = x, dy * dtype.type(0)
    for given in ((arrays[1], x), (dy, x * dtype.type(0))):
        for name in algorithms(case, "backward_weight", dtype):
            text = label(case, "backward_weight", name)
            assert not run(case, "backward_weight", given, name).any(), text


def test_nothing_is_left_over_from_the_call_before(isa, dtype, rng):
    """Lanes without a channel hold nothing that counts: NaNs of an earlier call do not come back."""
    case = Case((2, 4, 10, 10), 5, (3, 3))
    x, w, b, dy = (np.asarray(a, order="F") for a in case.arrays(rng, dtype))
    nan = Case((2, 64, 10, 10), 64, (3, 3))
    x_nan, w_nan, b_nan, dy_nan = (np.full_like(a, np.nan) for a in nan.arrays(rng, dtype))
    for which in PASSES:
        for name in algorithms(case, which, dtype):
            arrays = operands(case, which, x, w, b, dy)
            before = run(case, which, arrays, name)
            for bad in PASSES:
                if name in algorithms(nan, bad, dtype):
                    run(nan, bad, operands(nan, bad, x_nan, w_nan, b_nan, dy_nan), name)
                again = run(case, which, arrays, name)
                assert again.tobytes() == before.tobytes(), label(case, which, name, bad)


# ---- layouts, threads, symmetries ----------------------------------------------------------------


@pytest.mark.parametrize("awkward", AWKWARD)
@few_cases
def test_layouts(isa, dtype, rng, case, awkward):
    """Whole numbers: gemm, direct and depthwise are exact; Winograd's bits must be equal anyway."""
    x, w, b, dy = case.arrays(rng, dtype, integers)
    for which in PASSES:
        arrays = operands(case, which, x, w, b, dy)
        for name in algorithms(case, which, dtype):
            result = run(case, which, [awkward(a) for a in arrays], name)
            wanted = run(case, which, arrays, name)
            assert result.tobytes() == wanted.tobytes(), label(case, which, name)


@few_cases
def test_strides_of_zero(isa, dtype, rng, case):
    x, w, b, dy = case.arrays(rng, dtype, integers)
    for cut in ((slice(0, 1),), (..., slice(0, 1), slice(0, 1)), (slice(None), slice(0, 1))):
        x, dy = (np.broadcast_to(a[cut], a.shape) for a in (x, dy))
        for which in PASSES:
            arrays = operands(case, which, x, w, b, dy)
            for name in algorithms(case, which, dtype):
                result = run(case, which, arrays, name)
                wanted = run(case, which, [np.ascontiguousarray(a) for a in arrays], name)
                assert result.tobytes() == wanted.tobytes(), label(case, which, name, cut)


@pytest.mark.parametrize(
    "case",
    [*(AROUND_THE_TILES[i] for i in (7, 18, 19)), *DEEP, *ONE_TAP, *OTHERS],
    ids=str,
)
def test_bits_do_not_depend_on_threads(isa, dtype, threads, case):
    x, w, b, dy = draw(case, dtype)
    for which in PASSES:
        arrays = operands(case, which, x, w, b, dy)
        for name in algorithms(case, which, dtype):
            threads(1)
            wanted = run(case, which, arrays, name)
            for count in (2, 3, 4, 16):
                threads(count)
                result = run(case, which, arrays, name)
                assert result.tobytes() == wanted.tobytes(), label(case, which, name, count)


@few_cases
def test_db_of_each_algorithm(isa, dtype, rng, case):
    """The sum of dy, whatever else an algorithm makes of dy: also where a NaN in x has gemm do dw over."""
    x, _, _, dy = case.arrays(rng, dtype, integers)
    wanted = dy.sum((0, 2, 3))
    for value in (0, np.nan):
        x.flat[0] = value
        for name in algorithms(case, "backward_weight", dtype):
            _, db = kernels.conv2d_backward_weight(dy, x, case.kernel, *case.args, algorithm=name)
            assert (db == wanted).all(), label(case, "backward_weight", name, value)


@few_cases
def test_powers_of_two_scale_exactly(isa, dtype, case):
    x, w, b, dy = draw(case, dtype)
    for which in PASSES:
        arrays = operands(case, which, x, w, b, dy)
        scaled = [a * f for a, f in zip(arrays, (dtype.type(4), dtype.type(0.5)), strict=False)]
        scaled += [a * dtype.type(2) for a in arrays[2:]]  # the bias
        for name in algorithms(case, which, dtype):
            result, wanted = run(case, which, scaled, name), 2 * run(case, which, arrays, name)
            assert result.tobytes() == wanted.tobytes(), label(case, which, name)


@pytest.mark.parametrize("case", [AROUND_THE_TILES[9], AROUND_THE_TILES[18], DEEP[0]], ids=str)
def test_winograd_does_not_know_where_a_tile_is(isa, dtype, case):
    """Moved by whole tiles, alone in its batch or not, with other filters or not: the same bits."""
    x, w, b, _ = draw(case, dtype)
    y = run(case, "forward", (x, w, b), "winograd")
    moved = Case((*case.x[:2], case.x[2] + 4, case.x[3] + 8), case.K, (3, 3), padding=case.padding)
    far = np.zeros(moved.x, dtype)
    far[:, :, 4:, 8:] = x
    check_bits(run(moved, "forward", (far, w, b), "winograd")[:, :, 4:, 8:].copy(), y)
    alone = Case((1, *case.x[1:]), case.K, (3, 3), padding=case.padding)
    check_bits(run(alone, "forward", (x[-1:], w, b), "winograd"), y[-1:])
    check_bits(run(case, "forward", (x, w[:2], b[:2]), "winograd"), y[:, :2].copy())


def test_winograd_does_not_know_what_is_summed_with_it(isa, dtype):
    """Of so many channels, and weights whose points are not stored, several panels of filters are summed together
    where L2 does not hold the points of all tiles; of few images it does."""
    for which, channels, filters in (("forward", 704, 100), ("backward_input", 100, 704)):
        case = Case((24, channels, 4, 4), filters, (3, 3), padding=(1, 1))
        few = Case((3, channels, 4, 4), filters, (3, 3), padding=(1, 1))
        images, *others = operands(case, which, *draw(case, dtype))
        result = run(case, which, (images, *others), "winograd")
        check_bits(run(few, which, (images[21:], *others), "winograd"), result[21:])


@few_cases
def test_channels_add_up(isa, dtype, rng, case):
    """The sum over two halves of the channels is the whole: exact but for Winograd."""
    if case.groups > 1 or case.x[1] < 2:
        return
    x, w, _, _ = case.arrays(rng, dtype, integers)
    half = case.x[1] // 2
    for name in algorithms(case, "forward", dtype):
        parts = [
            run(case, "forward", (x[:, c], w[:, c], None), "gemm" if name == "direct" else name)
            for c in (slice(0, half), slice(half, None))
        ]
        near = 0.0 if name != "winograd" else 2e4 * np.finfo(dtype).eps
        whole = run(case, "forward", (x, w, None), name)
        check(whole, parts[0].astype(float) + parts[1], near, label(case, "forward", name))


# ---- the plan ------------------------------------------------------------------------------------


@covers("conv2d_plan")
@cases
def test_auto_does_what_the_plan_says(isa, dtype, case):
    x, w, b, dy = draw(case, dtype)
    for which in PASSES:
        found = plan(case, which, dtype)
        arrays = operands(case, which, x, w, b, dy)
        wanted = run(case, which, arrays, found.algorithm)
        result = run(case, which, arrays)
        assert result.tobytes() == wanted.tobytes(), label(case, which, found)


@cases
def test_fields_of_a_plan(isa, dtype, case):
    for which in PASSES:
        found = plan(case, which, dtype)
        assert found._fields == ("algorithm", "reason", "workspace", "cycles")
        assert set(found.cycles) <= set(kernels.ALGORITHMS) - {"auto"} and "gemm" in found.cycles
        assert all(0 < count < math.inf for count in found.cycles.values())
        allowed = {n: c for n, c in found.cycles.items() if (n, dtype) != ("winograd", "float64")}
        assert found.algorithm == min(allowed, key=allowed.get)
        assert isinstance(found.workspace, int) and found.workspace >= 0
        assert isinstance(found.reason, str) and found.reason
        for name in found.cycles:
            asked = plan(case, which, dtype, algorithm=name)
            assert (asked.algorithm, asked.reason) == (name, "asked for")
            assert asked.cycles == found.cycles
        for name in set(kernels.ALGORITHMS) - set(found.cycles) - {"auto"}:
            with pytest.raises(ValueError, match=f"{name}.* wants .*gemm"):
                plan(case, which, dtype, algorithm=name)
            arrays = operands(case, which, *draw(case, dtype))
            with pytest.raises(ValueError, match=f"{name}.* wants .*gemm"):
                run(case, which, arrays, name)


@pytest.mark.parametrize(
    "case",
    [
        Case((1, 64, 28, 28), 64, (3, 3), padding=1),
        Case((4, 64, 28, 28), 64, (4, 4), stride=2, padding=1),
    ],
    ids=str,
)
def test_many_channels_take_winograd_in_float32_alone(isa, case):
    for which in PASSES:
        assert plan(case, which, "float32").algorithm == "winograd"
        found = plan(case, which, "float64")
        assert found.algorithm != "winograd" and "only when asked" in found.reason
        assert plan(case, which, "float64", algorithm="winograd").algorithm == "winograd"


@pytest.mark.parametrize(
    "case",
    [
        Case((0, 3, 5, 5), 4, (3, 3), padding=1),
        Case((2, 0, 5, 5), 4, (3, 3), padding=1),
        Case((2, 3, 5, 5), 0, (3, 3), padding=1),
    ],
    ids=str,
)
def test_nothing_to_compute(isa, dtype, rng, case):
    x, w, b, dy = case.arrays(rng, dtype)
    for which in PASSES:
        found = plan(case, which, dtype)
        arrays = operands(case, which, x, w, b, dy)
        for name in ("auto", *found.cycles):
            text = label(case, which, name)
            result = run(case, which, arrays, name)
            wanted = run(case, which, [a.astype(float) for a in arrays], "gemm")
            assert result.shape == wanted.shape and (result == wanted).all(), text
        assert found.reason
    for name in plan(case, "forward", dtype).cycles:
        prepared = kernels.conv2d_prepare(w, case.x, *case.args, algorithm=name)
        y = run(case, "forward", (x, prepared, b))
        check_bits(y, run(case, "forward", (x, w, b), name))


# ---- prepared weights ----------------------------------------------------------------------------


@covers("conv2d_prepare")
@cases
def test_prepared_weights_give_the_same_bits(isa, dtype, case):
    x, w, b, _ = draw(case, dtype)
    for name in ("auto", *algorithms(case, "forward", dtype)):
        given = w.copy()
        prepared = kernels.conv2d_prepare(given, case.x, *case.args, algorithm=name)
        assert prepared.algorithm == plan(case, "forward", dtype, algorithm=name).algorithm or (
            name == "auto"
        )
        given[...] = np.nan  # a later change of w
        for batch in (slice(None), slice(0, 1), slice(0, 0), [0, 0, 0, 0]):
            y = run(case, "forward", (x[batch], prepared, b))
            wanted = run(case, "forward", (x[batch], w, b), prepared.algorithm)
            text = label(case, "forward", name, "prepared")
            assert y.tobytes() == wanted.tobytes(), text
        asked = run(case, "forward", (x, prepared, b), prepared.algorithm)
        check_bits(asked, run(case, "forward", (x, w, b), prepared.algorithm))


@pytest.mark.parametrize("case", MANY_CHANNELS, ids=str)
def test_weights_that_are_prepared_for_few_tiles(isa, dtype, case):
    x, w, b, _ = draw(case, dtype)
    few, many = (
        kernels.conv2d_prepare(w, (N, *case.x[1:]), *case.args, algorithm="winograd")
        for N in (1, 99)
    )
    assert few.nbytes < 2.1 * w.nbytes < 4 * w.nbytes < many.nbytes
    infinite = x.copy()
    infinite.flat[0] = np.inf
    for images in (x, x[[0, 0, 0, 0, 0, 0, 0]], infinite):
        wanted = run(case, "forward", (images, w, b), "winograd")
        for prepared in (few, many):
            y = run(case, "forward", (images, prepared, b))
            assert y.tobytes() == wanted.tobytes(), (images.shape, prepared)


@few_cases
def test_prepared_weights_and_nan(isa, dtype, case):
    """gemm does over what is not finite: from w, not from what Winograd made of it."""
    x, w, b, _ = draw(case, dtype)
    x.flat[0] = np.inf
    for name in algorithms(case, "forward", dtype):
        prepared = kernels.conv2d_prepare(w, case.x, *case.args, algorithm=name)
        y = run(case, "forward", (x, prepared, b))
        wanted = run(case, "forward", (x, w, b), name)
        assert y.tobytes() == wanted.tobytes(), label(case, "forward", name)


def test_prepared_weights_of_another_instruction_set(dtype, rng):
    sets, before = kernels.available_isas(), kernels.isa()
    x, w = normal(rng, (2, 40, 8, 9), dtype), normal(rng, (7, 40, 3, 3), dtype)
    try:
        for one in sets:
            kernels.set_isa(one)
            prepared = kernels.conv2d_prepare(w, x.shape, 1, 1)
            for other in sets:
                kernels.set_isa(other)
                if other != one:
                    with pytest.raises(ValueError, match=f"another instruction set than {other}"):
                        kernels.conv2d_forward(x, prepared, None, 1, 1)
            kernels.set_isa(one)
            kernels.conv2d_forward(x, prepared, None, 1, 1)
    finally:
        kernels.set_isa(before)
    with pytest.raises(TypeError, match="made by conv2d_prepare"):
        kernels.PreparedWeights()


def test_prepared_weights_of_another_convolution(dtype, rng):
    x, w = normal(rng, (2, 5, 8, 9), dtype), normal(rng, (7, 5, 3, 3), dtype)
    prepared = kernels.conv2d_prepare(w, x.shape, 1, 1, algorithm="winograd")
    assert (prepared.weight_size, prepared.input_size) == (w.shape, x.shape)
    assert prepared.dtype == dtype and prepared.nbytes > w.nbytes
    assert "winograd" in repr(prepared) and str(w.shape) in repr(prepared)
    for change in (
        lambda: kernels.conv2d_forward(x, prepared),  # padding
        lambda: kernels.conv2d_forward(x, prepared, None, 2, 1),
        lambda: kernels.conv2d_forward(x, prepared, None, 1, 2, 2),
        lambda: kernels.conv2d_forward(x, prepared, None, 1, ((1, 0), (1, 1))),
        lambda: kernels.conv2d_forward(x[:, :, 1:], prepared, None, 1, 1),
        lambda: kernels.conv2d_forward(x[..., 1:], prepared, None, 1, 1),
    ):
        with pytest.raises(ValueError, match="prepared for another convolution"):
            change()
    with pytest.raises(ValueError, match="channels"):
        kernels.conv2d_forward(x[:, 1:], prepared, None, 1, 1)
    with pytest.raises(ValueError, match="prepared for 'winograd'"):
        kernels.conv2d_forward(x, prepared, None, 1, 1, algorithm="gemm")
    other = "float64" if dtype == np.float32 else "float32"
    with pytest.raises(TypeError, match=f"x is {other}, but w was prepared as {dtype}"):
        kernels.conv2d_forward(x.astype(other), prepared, None, 1, 1)
    for call in (
        lambda: kernels.conv2d_backward_input(x, prepared, (8, 9)),
        lambda: kernels.conv2d_prepare(prepared, x.shape),
    ):
        with pytest.raises(TypeError):
            call()


# ---- FASTCONV_ALGORITHM --------------------------------------------------------------------------

PROGRAM = """
import numpy as np
from fastconv import kernels
size = (1, 64, 28, 28)
for dtype in ("float32", "float64"):
    for kernel, stride in ((3, 1), (5, 2)):
        x, w = np.ones(size, dtype), np.ones((64, 64, kernel, kernel), dtype)
        found = kernels.conv2d_plan(size, w.shape, stride, dtype=dtype)
        y = kernels.conv2d_forward(x, w, None, stride)
        named = kernels.conv2d_forward(x, w, None, stride, algorithm=found.algorithm)
        same = y.tobytes() == named.tobytes()
        print(dtype, kernel, found.algorithm, same)
"""


@pytest.mark.parametrize(
    "algorithm,taken",
    [  # 3x3 and 5x5 in float32, in float64; *: what auto takes but Winograd
        ("", "winograd * * *"),
        ("auto", "winograd * * *"),
        ("gemm", "gemm gemm gemm gemm"),
        ("winograd", "winograd * winograd *"),
    ],
)
def test_the_environment_chooses(algorithm, taken):
    result = run_python("-c", PROGRAM, FASTCONV_ALGORITHM=algorithm)
    assert result.returncode == 0, result.stderr
    lines = [line.split() for line in result.stdout.splitlines()]
    for (*_, name, same), wanted in zip(lines, taken.split(), strict=True):
        assert name == wanted or (wanted == "*" and name != "winograd"), lines
        assert same == "True", lines


def test_the_environment_with_a_wrong_name():
    result = run_python("-c", "import fastconv", FASTCONV_ALGORITHM="fft")
    assert result.returncode
    message = result.stderr.splitlines()[-1]
    assert "FASTCONV_ALGORITHM" in message and "winograd" in message and "'fft'" in message
