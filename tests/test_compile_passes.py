"""What the passes of `compile` rely on."""

import itertools

import numpy as np
import pytest

from fastconv import kernels

SHAPES = [
    # N, C, H, K, R, stride, padding, groups
    (2, 3, 8, 4, 3, 1, 1, 1), (1, 1, 32, 6, 3, 1, 0, 1), (2, 6, 15, 16, 3, 1, 0, 1), (2, 64, 14, 64, 3, 1, 1, 1),
    (2, 8, 9, 8, 3, 1, 1, 8), (2, 16, 9, 16, 1, 1, 0, 1), (2, 3, 16, 8, 7, 2, 3, 1), (2, 16, 9, 32, 3, 2, 1, 1),
    (3, 32, 28, 32, 3, 1, 1, 32), (16, 1, 28, 6, 3, 1, 0, 1), (2, 16, 7, 32, 1, 2, 0, 1), (0, 2, 5, 3, 3, 1, 0, 1),
]  # fmt: skip


def has_minus_zero(array):
    return ((array == 0) & np.signbit(array)).any()


def products_that_are_minus_zero(rng, shape_a, shape_b, dtype):
    """Pairs of arrays whose products are zeros, of which many or all are negative."""
    zeros = np.zeros(shape_a, dtype)
    some = np.where(rng.random(shape_a) < 0.5, -zeros, zeros)
    yield zeros, np.full(shape_b, -1, dtype)
    yield -zeros, np.full(shape_b, 1, dtype)
    yield some, np.asarray(rng.standard_normal(shape_b), dtype)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_weight_gradients_are_never_minus_zero(rng, isa, dtype, shape):
    """0 + d is d, bit for bit, unless d is -0: gradients are written where they would be added to zeros."""
    N, C, H, K, R, stride, padding, groups = shape
    P = (H + 2 * padding - R) // stride + 1
    images, outputs = (N, C, H, H), (N, K, P, P)
    pairs = list(products_that_are_minus_zero(rng, images, outputs, dtype))
    pairs += [(b, a) for a, b in products_that_are_minus_zero(rng, outputs, images, dtype)]
    tried = 0
    for algorithm in ("auto", "gemm", "winograd", "direct", "depthwise"):
        for x, dy in pairs:
            try:
                gradients = kernels.conv2d_backward_weight(
                    dy, x, (R, R), stride, padding, 1, groups, bias=True, algorithm=algorithm
                )
            except ValueError:  # not an algorithm of this shape
                continue
            tried += 1
            assert not any(map(has_minus_zero, gradients)), algorithm
    assert tried >= 2 * len(pairs)


def test_products_and_sums_are_never_minus_zero(rng, isa, dtype):
    for m, n, k in itertools.product((1, 3, 17, 120), (1, 5, 84), (0, 1, 2, 64)):
        for a, b in products_that_are_minus_zero(rng, (m, k), (k, n), dtype):
            assert not has_minus_zero(kernels.gemm(a, b))
            assert not has_minus_zero(kernels.gemm(b.T, a.T))
        for dy, x in products_that_are_minus_zero(rng, (m, n), (m, k), dtype):
            assert not any(map(has_minus_zero, kernels.linear_backward_weight(dy, x, bias=True)))
        zeros = -np.zeros((m, n), dtype)
        for axis in (0, 1, None):
            assert not has_minus_zero(np.asarray(kernels.sum(zeros, axis)))


def test_gradients_of_batch_norm_are_never_minus_zero(rng, isa, dtype):
    for shape in ((4, 3), (2, 5, 6, 7), (3, 33, 4, 4)):
        x = np.asarray(rng.standard_normal(shape), dtype)
        weight = np.asarray(rng.standard_normal(shape[1]), dtype)
        _, mean, invstd = kernels.batch_norm_forward(x, weight, weight, None, None, training=True)
        for dy in (-np.zeros(shape, dtype), np.zeros(shape, dtype), -x * 0):
            for training in (True, False):
                _, dw, db = kernels.batch_norm_backward(
                    dy, x, weight, mean, invstd, training=training
                )
                assert not has_minus_zero(dw) and not has_minus_zero(db)
