import itertools

import numpy as np
import pytest
import reference as ref
from helpers import AWKWARD, check, covers, fortran, guarded, integers, normal, reversed_, strided

from fastconv import kernels

# Around the tiles MR x NR of every instruction set: 14x32, 14x16, 6x16, 6x8, 8x4, 4x8, 4x4.
ROWS = (*range(1, 17), 28, 29)
COLUMNS = (*range(1, 10), 15, 16, 17, 31, 32, 33, 65)
# Around the blocks KC of k, 256 float64 or 512 float32 numbers, twice that, and the length LONG_K.
DEPTHS = (0, 1, 2, 3, 127, 128, 129, 255, 256, 257, 300, 511, 512, 513, 600, 1024, 1025)


def bound(a, b, terms, alpha=1.0, beta=0.0, c=None):
    size = ref.gemm(abs(a), abs(b), None if c is None else abs(c), abs(alpha), abs(beta))
    return ref.product_bound(size, terms + 1, a.dtype)


@covers("gemm")
def test_tiles(isa, dtype, rng):
    for m, n, k in itertools.product(ROWS, COLUMNS, (1, 5)):
        a, b = normal(rng, (m, k), dtype), normal(rng, (k, n), dtype)
        check(kernels.gemm(a, b), ref.gemm(a, b), bound(a, b, k), (m, n, k))


@covers("gemm")
@pytest.mark.parametrize("m,n", [(1, 1), (5, 17), (15, 3)])
def test_depths(isa, dtype, rng, m, n):
    for k in DEPTHS:
        a, b = normal(rng, (m, k), dtype), normal(rng, (k, n), dtype)
        check(kernels.gemm(a, b), ref.gemm(a, b), bound(a, b, k), (m, n, k))


@pytest.mark.parametrize(
    "m,n,k",
    [(500, 7, 3), (3, 1100, 4), (197, 321, 2), (35, 700, 9), (130, 70, 400), (35, 1024, 200)],
)
def test_blocks_are_exact_on_integers(isa, dtype, rng, m, n, k):
    a, b = integers(rng, (m, k), dtype), integers(rng, (k, n), dtype)
    check(kernels.gemm(a, b), ref.gemm(a, b))


@pytest.mark.parametrize("m,n,k", [(0, 3, 2), (3, 0, 2), (3, 4, 0), (0, 0, 0), (1, 0, 0)])
def test_empty(isa, dtype, m, n, k):
    a, b, c = np.ones((m, k), dtype), np.ones((k, n), dtype), np.ones((m, n), dtype)
    check(kernels.gemm(a, b), np.zeros((m, n)))
    check(kernels.gemm(fortran(a), fortran(b)), np.zeros((m, n)))
    check(kernels.gemm(a, b, c, beta=2.0), ref.gemm(a, b, c, 1.0, 2.0))


@pytest.mark.parametrize("transpose_b", [False, True])
@pytest.mark.parametrize("transpose_a", [False, True])
@pytest.mark.parametrize(
    "m,n,k",
    [(1, 1, 1), (5, 7, 3), (15, 33, 9), (29, 17, 300), (100, 50, 37), (197, 330, 41), (80, 83, 16)],
)
def test_transposes(isa, dtype, rng, transpose_a, transpose_b, m, n, k):
    a, b = normal(rng, (m, k), dtype), normal(rng, (k, n), dtype)
    given_a = a.T.copy() if transpose_a else a
    given_b = b.T.copy() if transpose_b else b
    y = kernels.gemm(given_a, given_b, transpose_a=transpose_a, transpose_b=transpose_b)
    check(y, ref.gemm(a, b), bound(a, b, k))


@pytest.mark.parametrize("m,n,k", [(9, 80, 50), (80, 9, 50), (90, 100, 33)])
@pytest.mark.parametrize("step", [0, 1, 5, -5, -1])
def test_rows_that_lie_into_each_other(isa, dtype, rng, m, n, k, step):
    """Rows of a' and b that begin fewer elements apart than a vector, or a tile, has."""

    def rows(length):
        numbers = integers(rng, length + abs(step) * k, dtype)
        start = numbers[max(-step * (k - 1), 0) :]
        strides = (step * start.itemsize, start.itemsize)
        return np.lib.stride_tricks.as_strided(start, (k, length), strides, writeable=False)

    a, b = rows(m), rows(n)
    check(kernels.gemm(a, b, transpose_a=True), ref.gemm(a.T.copy(), b.copy()))


@pytest.mark.parametrize("m,n,k", [(49, 200, 4100), (31, 300, 2100), (49, 512, 8200)])
def test_threads_leave_what_others_have_packed(isa, dtype, rng, threads, m, n, k):
    """The last panel of a block of k is narrow: what follows it belongs to the next block, and to another task."""
    a, b = integers(rng, (k, m), dtype), integers(rng, (k, n), dtype)
    expected = ref.gemm(a.T.copy(), b)
    for count in (2, 3, 4):
        threads(count)
        check(kernels.gemm(a, b, transpose_a=True), expected)
        check(kernels.gemm(b, a, transpose_a=True), expected.T)


def upside_down(a):
    return a[::-1].copy()[::-1]


@pytest.mark.parametrize("b_as", [np.array, fortran, upside_down, reversed_, strided])
@pytest.mark.parametrize("a_as", [np.array, fortran, upside_down, reversed_, strided])
def test_few_rows_and_few_columns(isa, dtype, rng, a_as, b_as):
    """Dot products of rows that lie along k, and rows added up: without a packed panel."""
    for few, many, k in [(1, 1, 70), (1, 37, 1), (2, 9, 33), (3, 38, 130), (4, 5, 8)]:
        for m, n in [(few, many), (many, few)]:
            a, b = normal(rng, (m, k), dtype), normal(rng, (k, n), dtype)
            y = kernels.gemm(a_as(a), b_as(b), alpha=-0.5)
            check(y, ref.gemm(a, b, None, -0.5, 0.0), bound(a, b, k, -0.5), (m, n, k))


@pytest.mark.parametrize("alpha,beta", [(1, 1), (-1.5, 0), (2, 0.5), (0, 3), (0, 0), (1, -1)])
@pytest.mark.parametrize("m,n,k", [(5, 7, 3), (15, 33, 300), (3, 2, 0)])
def test_alpha_and_beta(isa, dtype, rng, alpha, beta, m, n, k):
    a, b, c = (normal(rng, shape, dtype) for shape in ((m, k), (k, n), (m, n)))
    y = kernels.gemm(a, b, c, alpha=alpha, beta=beta)
    check(y, ref.gemm(a, b, c, alpha, beta), bound(a, b, k, alpha, beta, c))


def test_c_is_not_read_when_beta_is_zero(isa, dtype, rng):
    for m, n, k in [(5, 7, 3), (15, 33, 600), (2, 3, 0)]:
        a, b = integers(rng, (m, k), dtype), integers(rng, (k, n), dtype)
        c = np.full((m, n), np.nan, dtype)
        check(kernels.gemm(a, b, c, beta=0.0), ref.gemm(a, b))


def test_c_is_not_changed(isa, dtype, rng):
    a, b, c = (integers(rng, shape, dtype) for shape in ((5, 3), (3, 7), (5, 7)))
    copies = a.copy(), b.copy(), c.copy()
    kernels.gemm(a, b, c, beta=1.0)
    for given, copy in zip((a, b, c), copies, strict=True):
        check(given, copy)


@pytest.mark.parametrize("awkward", AWKWARD)
def test_awkward_operands(isa, dtype, rng, awkward):
    a, b, c = (integers(rng, shape, dtype) for shape in ((15, 9), (9, 33), (15, 33)))
    y = kernels.gemm(awkward(a), awkward(b), awkward(c), beta=1.0)
    check(y, ref.gemm(a, b, c, 1.0, 1.0))
    y = kernels.gemm(awkward(a.T), awkward(b.T), transpose_a=True, transpose_b=True)
    check(y, ref.gemm(a, b))


@pytest.mark.parametrize("m,n,k", [(1, 1, 1), (13, 31, 5), (14, 32, 5), (15, 33, 5), (7, 9, 300)])
def test_out_is_written_and_nothing_else(isa, dtype, rng, m, n, k):
    a, b, c = (integers(rng, shape, dtype) for shape in ((m, k), (k, n), (m, n)))
    with guarded((m, n), dtype) as out:
        assert kernels.gemm(a, b, out=out) is out
        check(out, ref.gemm(a, b))
        kernels.gemm(a, b, c, beta=-1.0, out=out)
        check(out, ref.gemm(a, b, c, 1.0, -1.0))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_and_inf_stay_in_their_row_and_column(isa, dtype, rng, value):
    a, b = integers(rng, (15, 5), dtype), integers(rng, (5, 33), dtype)
    a[14, 2] = value
    b[3, 32] = value
    with np.errstate(invalid="ignore"):
        check(kernels.gemm(a, b), ref.gemm(a, b))


@pytest.mark.parametrize(
    "left,right",
    [
        ((3,), (3,)),
        ((0,), (0,)),
        ((3,), (3, 5)),
        ((4, 3), (3,)),
        ((4, 3), (3, 5)),
        ((2, 4, 3), (3, 5)),
        ((4, 3), (2, 3, 5)),
        ((2, 4, 3), (2, 3, 5)),
        ((2, 1, 4, 3), (7, 3, 5)),
        ((6, 2, 3), (3,)),
        ((3,), (6, 3, 2)),
        ((0, 4, 3), (3, 5)),
        ((2, 4, 0), (2, 0, 5)),
    ],
)
@covers("gemm")
def test_matmul(isa, dtype, rng, left, right):
    a, b = normal(rng, left, dtype), normal(rng, right, dtype)
    size = ref.matmul(abs(a), abs(b))
    check(kernels.matmul(a, b), ref.matmul(a, b), ref.product_bound(size, left[-1], dtype))
    with guarded(size.shape, dtype) as out:
        kernels.matmul(a, b, out=out)
        check(out, ref.matmul(a, b), ref.product_bound(size, left[-1], dtype))


@pytest.mark.parametrize("awkward", AWKWARD)
def test_matmul_of_awkward_operands(isa, dtype, rng, awkward):
    a, b = integers(rng, (2, 4, 3), dtype), integers(rng, (2, 3, 5), dtype)
    check(kernels.matmul(awkward(a), awkward(b)), ref.matmul(a, b))
    check(kernels.matmul(awkward(a[0]), awkward(b)), ref.matmul(a[0], b))


LINEAR = [((5,), 3), ((1, 1), 1), ((4, 576), 120), ((2, 3, 17), 33), ((0, 5), 3), ((3, 0), 4)]


@covers("linear")
@pytest.mark.parametrize("shape,out_features", [*LINEAR, ((7, 300), 84)])
def test_linear(isa, dtype, rng, shape, out_features):
    x, w = normal(rng, shape, dtype), normal(rng, (out_features, shape[-1]), dtype)
    b = normal(rng, out_features, dtype)
    size = ref.linear_forward(abs(x), abs(w), abs(b))
    terms = shape[-1] + 1
    tolerance = ref.product_bound(size, terms, dtype)
    check(kernels.linear_forward(x, w), ref.linear_forward(x, w), tolerance)
    with guarded(size.shape, dtype) as out:
        kernels.linear_forward(x, w, b, out=out)
        check(out, ref.linear_forward(x, w, b), tolerance)


@covers("gemm")
@pytest.mark.parametrize("shape,out_features", LINEAR)
def test_linear_backward(isa, dtype, rng, shape, out_features):
    x, w = normal(rng, shape, dtype), normal(rng, (out_features, shape[-1]), dtype)
    dy = normal(rng, (*shape[:-1], out_features), dtype)
    size = ref.linear_backward_input(abs(dy), abs(w))
    with guarded(shape, dtype) as out:
        kernels.linear_backward_input(dy, w, out=out)
        check(out, ref.linear_backward_input(dy, w), ref.product_bound(size, len(w), dtype))
    sizes = ref.linear_backward_weight(abs(dy), abs(x))
    results = kernels.linear_backward_weight(dy, x)
    rows = int(np.prod(shape[:-1]))
    for d, expected, size in zip(results, ref.linear_backward_weight(dy, x), sizes, strict=True):
        check(d, expected, ref.product_bound(size, rows, dtype))
    assert kernels.linear_backward_weight(dy, x, bias=False)[1] is None


@pytest.mark.parametrize("awkward", AWKWARD)
def test_linear_of_awkward_operands(isa, dtype, rng, awkward):
    x, w, b = (integers(rng, shape, dtype) for shape in ((2, 3, 9), (5, 9), (5,)))
    dy = integers(rng, (2, 3, 5), dtype)
    y = kernels.linear_forward(awkward(x), awkward(w), awkward(b))
    check(y, ref.linear_forward(x, w, b))
    check(kernels.linear_backward_input(awkward(dy), awkward(w)), ref.linear_backward_input(dy, w))
    dw, db = kernels.linear_backward_weight(awkward(dy), awkward(x))
    expected_dw, expected_db = ref.linear_backward_weight(dy, x)
    check(dw, expected_dw)
    check(db, expected_db)
