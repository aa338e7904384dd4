"""The oracle: what each kernel must compute, as loops in float64 that can be read. Slow, plain.

Letters: N C H W batch, channels, height, width of the input; K filters; R S kernel height and
width; P Q output height and width; x w b y input, weight, bias, output; dx dw db dy their
gradients. A backward stands right under its forward and mirrors it.
"""

import math
from typing import NamedTuple

import numpy as np


def pair(value):
    return (value, value) if isinstance(value, int) else tuple(value)


# Products --------------------------------------------------------------------------------------


def gemm(a, b, c=None, alpha=1.0, beta=0.0):
    """alpha * a @ b + beta * c, one dot product at a time; c is not looked at when beta is 0."""
    a, b = np.asarray(a, float), np.asarray(b, float)
    y = np.zeros((a.shape[0], b.shape[1]))
    for i, j in np.ndindex(y.shape):
        y[i, j] = alpha * np.sum(a[i, :] * b[:, j])
        if c is not None and beta != 0:
            y[i, j] += beta * float(c[i, j])
    return y


def matmul(a, b):
    """gemm for each matrix of a stack, stacks broadcast; a 1-D operand is a row or a column."""
    a, b = np.asarray(a, float), np.asarray(b, float)
    rows = a[np.newaxis, :] if a.ndim == 1 else a
    columns = b[:, np.newaxis] if b.ndim == 1 else b
    stack = np.broadcast_shapes(rows.shape[:-2], columns.shape[:-2])
    rows = np.broadcast_to(rows, (*stack, *rows.shape[-2:]))
    columns = np.broadcast_to(columns, (*stack, *columns.shape[-2:]))
    y = np.zeros((*stack, rows.shape[-2], columns.shape[-1]))
    for place in np.ndindex(stack):
        y[place] = gemm(rows[place], columns[place])
    y = y[..., 0] if b.ndim == 1 else y
    return (y[..., 0] if b.ndim == 1 else y[..., 0, :]) if a.ndim == 1 else y


def product_bound(magnitude, terms, dtype):
    """How far a sum of `terms` products may lie from the exact one, rounded in any order.

    `magnitude` is the same product computed from absolute values, |a| @ |b|. A rounding error is
    at most eps/2 of a partial sum, and n independent ones add up like sqrt(n) (Higham and Mary, A
    new approach to probabilistic rounding error analysis, 2019): 4 + sqrt(n) leaves room for luck.
    """
    return (4 + math.sqrt(terms)) * np.finfo(dtype).eps * np.asarray(magnitude, float)


def linear_forward(x, w, b=None):
    """y = x @ w.T + b, x (..., in), w (out, in), b (out,) -> (..., out)."""
    x, w = np.asarray(x, float), np.asarray(w, float)
    rows = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
    y = gemm(rows, w.T)
    if b is not None:
        y += np.asarray(b, float)
    return y.reshape(*x.shape[:-1], w.shape[0])


def linear_backward_input(dy, w):
    """dx = dy @ w."""
    dy, w = np.asarray(dy, float), np.asarray(w, float)
    rows = dy.reshape(math.prod(dy.shape[:-1]), dy.shape[-1])
    return gemm(rows, w).reshape(*dy.shape[:-1], w.shape[1])


def linear_backward_weight(dy, x):
    """dw = dy.T @ x and db = the sum of dy over all but its last axis."""
    dy, x = np.asarray(dy, float), np.asarray(x, float)
    dy_rows = dy.reshape(math.prod(dy.shape[:-1]), dy.shape[-1])
    x_rows = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
    return gemm(dy_rows.T, x_rows), dy_rows.sum(axis=0)


# Convolution -----------------------------------------------------------------------------------


def borders(padding, kernel_size, dilation):
    """Any of the ways to write padding -> ((top, bottom), (left, right))."""
    if padding == "valid":
        return (0, 0), (0, 0)
    if padding == "same":
        totals = [d * (r - 1) for r, d in zip(pair(kernel_size), pair(dilation), strict=True)]
        return tuple((total // 2, total - total // 2) for total in totals)
    return tuple(pair(side) for side in pair(padding))


def windows(input_size, kernel_size, stride, padding, dilation):
    """P, Q, and all (p, q, rows, columns): the slices of the padded plane that y[p, q] sees."""
    (H, W), (R, S), (sh, sw), (dh, dw) = map(pair, (input_size, kernel_size, stride, dilation))
    (top, bottom), (left, right) = borders(padding, kernel_size, dilation)
    P = (top + H + bottom - dh * (R - 1) - 1) // sh + 1
    Q = (left + W + right - dw * (S - 1) - 1) // sw + 1
    places = [
        (
            p,
            q,
            slice(p * sh, p * sh + dh * (R - 1) + 1, dh),
            slice(q * sw, q * sw + dw * (S - 1) + 1, dw),
        )
        for p, q in np.ndindex(P, Q)
    ]
    return P, Q, places


def pad(x, padding, kernel_size, dilation):
    return np.pad(np.asarray(x, float), ((0, 0), (0, 0), *borders(padding, kernel_size, dilation)))


def crop(x, input_size, padding, kernel_size, dilation):
    """The adjoint of pad: the frame is thrown away."""
    (top, _), (left, _) = borders(padding, kernel_size, dilation)
    return x[:, :, top : top + input_size[0], left : left + input_size[1]]


def im2col(x, kernel_size, stride=1, padding=0, dilation=1):
    """(N, C, H, W) -> (N, C*R*S, P*Q): column p*Q + q is the window under y[p, q], flattened."""
    N, C, H, W = x.shape
    R, S = pair(kernel_size)
    P, Q, places = windows((H, W), kernel_size, stride, padding, dilation)
    x = pad(x, padding, kernel_size, dilation)
    cols = np.zeros((N, C * R * S, P * Q))
    for p, q, rows, columns in places:
        cols[:, :, p * Q + q] = x[:, :, rows, columns].reshape(N, C * R * S)
    return cols


def col2im(cols, output_size, kernel_size, stride=1, padding=0, dilation=1):
    """(N, C*R*S, P*Q) -> (N, C, H, W): each column is added back to where im2col read it."""
    (H, W), (R, S) = output_size, pair(kernel_size)
    N, C = cols.shape[0], cols.shape[1] // (R * S)
    _, Q, places = windows((H, W), kernel_size, stride, padding, dilation)
    x = pad(np.zeros((N, C, H, W)), padding, kernel_size, dilation)
    for p, q, rows, columns in places:
        x[:, :, rows, columns] += cols[:, :, p * Q + q].reshape(N, C, R, S)
    return crop(x, (H, W), padding, kernel_size, dilation)


def conv2d_forward(x, w, b=None, stride=1, padding=0, dilation=1, groups=1):
    """y[n,k,p,q] = b[k] + sum over c,r,s of w[k,c,r,s] * x[n, c of k's group, p*sh+r*dh, q*sw+s*dw]

    where x is padded, and filter k sees the C/groups channels of group k // (K/groups).
    """
    (N, _, H, W), (K, C, R, S) = x.shape, w.shape
    P, Q, places = windows((H, W), (R, S), stride, padding, dilation)
    x, w = pad(x, padding, (R, S), dilation), np.asarray(w, float)
    y = np.zeros((N, K, P, Q))
    for n, k in np.ndindex(N, K):
        first = k // (K // groups) * C
        for p, q, rows, columns in places:
            y[n, k, p, q] = np.sum(w[k] * x[n, first : first + C, rows, columns])
        if b is not None:
            y[n, k] += float(b[k])
    return y


def conv2d_backward_input(dy, w, input_size, stride=1, padding=0, dilation=1, groups=1):
    """dx: each dy[n,k,p,q] * w[k] is added to the window that y[n,k,p,q] saw."""
    (N, K), (_, C, R, S), (H, W) = dy.shape[:2], w.shape, input_size
    _, _, places = windows((H, W), (R, S), stride, padding, dilation)
    dx, w = pad(np.zeros((N, C * groups, H, W)), padding, (R, S), dilation), np.asarray(w, float)
    for n, k in np.ndindex(N, K):
        first = k // (K // groups) * C
        for p, q, rows, columns in places:
            dx[n, first : first + C, rows, columns] += w[k] * float(dy[n, k, p, q])
    return crop(dx, (H, W), padding, (R, S), dilation)


def conv2d_backward_weight(dy, x, kernel_size, stride=1, padding=0, dilation=1, groups=1):
    """dw[k] = the sum of dy[n,k,p,q] * the window that y[n,k,p,q] saw; db[k] = the sum of dy."""
    (N, K), (_, C_all, H, W), (R, S) = dy.shape[:2], x.shape, pair(kernel_size)
    C = C_all // groups
    _, _, places = windows((H, W), (R, S), stride, padding, dilation)
    x, dw = pad(x, padding, (R, S), dilation), np.zeros((K, C, R, S))
    for n, k in np.ndindex(N, K):
        first = k // (K // groups) * C
        for p, q, rows, columns in places:
            dw[k] += x[n, first : first + C, rows, columns] * float(dy[n, k, p, q])
    return dw, np.asarray(dy, float).sum(axis=(0, 2, 3))


# Error bounds of Winograd's convolutions: docs/accuracy.md derives them ------------------------


class Winograd(NamedTuple):
    """y = A'[sum_c (G w G') * (B' x B)]A, from patches of x that begin every `advance` pixels."""

    to_points: np.ndarray  # B'
    weights: np.ndarray  # G
    from_points: np.ndarray  # A'
    advance: int


def by_turns(even, odd):
    """One above the other; the columns of `even` have even numbers."""
    both = np.zeros((len(even) + len(odd), even.shape[1] + odd.shape[1]))
    both[: len(even), ::2], both[len(even) :, 1::2] = even, odd
    return both


A = math.sqrt(0.5)
DENSE = Winograd(  # the points are 0, +-a, +-1/a and infinity
    np.array(
        [
            [1, 0, -2.5, 0, 1, 0],
            [0, -2 * A, -2, A, 1, 0],
            [0, 2 * A, -2, -A, 1, 0],
            [0, -A, -0.5, 2 * A, 1, 0],
            [0, A, -0.5, -2 * A, 1, 0],
            [0, 1, 0, -2.5, 0, 1],
        ]
    ),
    np.array(
        [
            [1, 0, 0],
            [-2 / 3, -2 / 3 * A, -1 / 3],
            [-2 / 3, 2 / 3 * A, -1 / 3],
            [1 / 6, A / 3, 1 / 3],
            [1 / 6, -A / 3, 1 / 3],
            [0, 0, 1],
        ]
    ),
    np.array(
        [
            [1, 1, 1, 1, 1, 0],
            [0, A, -A, 2 * A, -2 * A, 0],
            [0, 0.5, 0.5, 2, 2, 0],
            [0, A / 2, -A / 2, 4 * A, -4 * A, 1],
        ]
    ),
    4,
)

FIVE_BY_FIVE = Winograd(  # F(2x2, 5x5): the same points
    DENSE.to_points,
    np.array(
        [
            [1, 0, 0, 0, 0],
            [-2 / 3, -2 / 3 * A, -1 / 3, -A / 3, -1 / 6],
            [-2 / 3, 2 / 3 * A, -1 / 3, A / 3, -1 / 6],
            [1 / 6, A / 3, 1 / 3, 2 / 3 * A, 2 / 3],
            [1 / 6, -A / 3, 1 / 3, -2 / 3 * A, 2 / 3],
            [0, 0, 0, 0, 1],
        ]
    ),
    np.array([[1, 1, 1, 1, 1, 0], [0, A, -A, 2 * A, -2 * A, 1]]),
    2,
)

# Stride 2: F(4, 2) with the points +-1, +-1/2 and infinity for the even pixels, which see the outer
# taps; the odd ones see the middle tap, which is the same with a second tap of 0, and without infinity.
FIVE_TO = np.array(
    [
        [-1 / 4, -1 / 4, 1, 1, 0],
        [1 / 4, -1 / 4, -1, 1, 0],
        [-1 / 2, -1, 1 / 2, 1, 0],
        [1 / 2, -1, -1 / 2, 1, 0],
        [1 / 4, 0, -5 / 4, 0, 1],
    ]
)
FIVE_WEIGHTS = np.array([[2, 2], [-2, 2], [-4, -2], [4, -2], [0, 3]]) / 3
FIVE_FROM = np.array(
    [[1, 1, 1, 1, 0], [1, -1, 1 / 2, -1 / 2, 0], [1, 1, 1 / 4, 1 / 4, 0], [1, -1, 1 / 8, -1 / 8, 1]]
)


def strided():
    """Of y from x, where they add up; and of dx from dy, where the odd pixels come first."""
    of_one_tap = FIVE_WEIGHTS[:4, 0]  # goes into the pixels' points: the tap itself is all weights
    weights = by_turns(FIVE_WEIGHTS, np.ones((4, 1)))
    forward = by_turns(FIVE_TO, of_one_tap[:, None] * FIVE_TO[:4, :4])
    back = np.vstack([FIVE_TO, FIVE_TO[:4]])
    apart = np.zeros((8, 9))
    apart[::2, 5:], apart[1::2, :5] = FIVE_FROM[:, :4] * of_one_tap, FIVE_FROM
    together = np.hstack([FIVE_FROM, FIVE_FROM[:, :4]])
    return Winograd(forward, weights, together, 8), Winograd(back, weights, apart, 4)


STRIDED, STRIDED_INPUT = strided()


def four_by_four():
    """4x4 of stride 2: F(2, 2) with the points 0, 1 and infinity, of the even pixels and of the odd ones.

    Of y from x, where they add up; and of dx from dy, where they take turns.
    """
    to, taps = np.array([[1, -1, 0], [0, 1, 0], [0, 1, -1]]), np.array([[1, 0], [1, 1], [0, 1]])
    values = np.array([[1, 1, 0], [0, 1, -1]])
    weights, forward, apart = by_turns(taps, taps), by_turns(to, to), by_turns(values.T, values.T).T
    back = np.zeros((6, 4))
    back[:3, :3], back[3:, 1:] = to, to
    together = np.hstack([values, values])
    return Winograd(forward, weights, together, 4), Winograd(back, weights, apart, 2)


FOUR_BY_FOUR, FOUR_BY_FOUR_INPUT = four_by_four()


# 7x7 of stride 2, along the rows alone: F(4, 4) with the points +-1/2, +-1, +-2 and infinity for the
# even pixels; for the odd ones the same with a fourth tap of 0, and without infinity; or, for dx, F(4, 3) as above.
SEVEN_TO = np.array(
    [
        [2, 4, -2.5, -5, 0.5, 1, 0],
        [-2, 4, 2.5, -5, -0.5, 1, 0],
        [1, 1, -4.25, -4.25, 1, 1, 0],
        [-1, 1, 4.25, -4.25, -1, 1, 0],
        [0.5, 0.25, -2.5, -1.25, 2, 1, 0],
        [-0.5, 0.25, 2.5, -1.25, -2, 1, 0],
        [-1, 0, 5.25, 0, -5.25, 0, 1],
    ]
)
SEVEN_WEIGHTS = (
    np.array(
        [
            [16, 8, 4, 2],
            [-16, 8, -4, 2],
            [-10, -10, -10, -10],
            [10, -10, 10, -10],
            [1, 2, 4, 8],
            [-1, 2, -4, 8],
            [0, 0, 0, 45],
        ]
    )
    / 45
)
SEVEN_FROM = np.array(
    [
        [1, 1, 1, 1, 1, 1, 0],
        [0.5, -0.5, 1, -1, 2, -2, 0],
        [0.25, 0.25, 1, 1, 4, 4, 0],
        [0.125, -0.125, 1, -1, 8, -8, 1],
    ]
)


ROWS = Winograd(
    by_turns(SEVEN_TO, SEVEN_TO[:6, :6]),
    by_turns(SEVEN_WEIGHTS, SEVEN_WEIGHTS[:6, :3]),
    np.hstack([SEVEN_FROM, SEVEN_FROM[:, :6]]),
    8,
)


def row_points(x, padding, size, of):
    """B' x: (N, C, P, 7, tiles, 13), for each row of outputs and of taps."""
    (top, left), (P, Q) = padding, size
    tiles = -(-Q // 4)
    padded = np.zeros((*x.shape[:2], 2 * (P - 1) + 7, 8 * (tiles - 1) + 13))
    rows, cols = (
        min(a, b + c) for a, b, c in zip(padded.shape[2:], x.shape[2:], padding, strict=True)
    )
    padded[:, :, top:rows, left:cols] = x[:, :, : max(rows - top, 0), : max(cols - left, 0)]
    patches = np.lib.stride_tricks.sliding_window_view(padded, (7, 13), (2, 3))[:, :, ::2, ::8]
    return of(patches).transpose(0, 1, 2, 4, 3, 5) @ of(ROWS.to_points).T


def winograd_rows_forward(x, w, padding, size, of=np.abs):
    """A'[sum_{c,r} (G w) * (B' x)] with `of` applied to all that enters: times (14 C + 29) eps / 2."""
    u = of(np.float64(w)) @ of(ROWS.weights).T
    m = np.einsum("ncprti,kcri->nkpti", row_points(x, padding, size, of), u, optimize=True)
    y = m @ of(ROWS.from_points).T
    return y.reshape(*y.shape[:3], -1)[..., : size[1]]


def winograd_rows_backward_weight(dy, x, padding, of=np.abs):
    """G'[sum_t (B' x) * (A dy)]: times (T + 28) eps / 2, for T tiles of four pixels."""
    N, K, P, Q = dy.shape
    d = np.zeros((N, K, P, -(-Q // 4) * 4))
    d[..., :Q] = of(np.float64(dy))
    d = d.reshape(N, K, P, -1, 4) @ of(ROWS.from_points)
    v = row_points(x, padding, (P, Q), of)
    return np.einsum("ncprti,nkpti->kcri", v, d, optimize=True) @ of(ROWS.weights)


def winograd_rows_backward_input(dy, w, padding, size, of=np.abs):
    """A'[sum_{k,r} (G w) * (B' dy)]: times (4 K + 29) eps / 2.

    Of a tile of 8 pixels of dx, those that meet four taps have even numbers, from the padding on.
    """
    (N, _, P, Q), (top, left), (H, W) = dy.shape, padding, size
    tiles, first, even = -(-W // 8), (left + 1) // 2 - 3, left % 2
    to_points, from_points = np.zeros((13, 7)), np.zeros((8, 13))
    to_points[:7], to_points[7:, 1 - even : 7 - even] = SEVEN_TO, DENSE.to_points
    from_points[even::2, :7], from_points[1 - even :: 2, 7:] = SEVEN_FROM, DENSE.from_points
    padded = np.zeros((*dy.shape[:3], 4 * tiles + 3))
    begin, end = max(-first, 0), min(4 * tiles + 3, Q - first)
    if begin < end:
        padded[..., begin:end] = dy[..., first + begin : first + end]
    patches = np.lib.stride_tricks.sliding_window_view(padded, 7, 3)[..., ::4, :]
    weights = by_turns(SEVEN_WEIGHTS, DENSE.weights)
    d, u = of(patches) @ of(to_points).T, of(np.float64(w[..., ::-1])) @ of(weights).T
    rows = np.zeros((N, w.shape[1], max(2 * P + 5, top + H), tiles, 13))
    for r in range(7):
        rows[:, :, r : r + 2 * P : 2] += np.einsum("nkpti,kci->ncpti", d, u[:, :, r], optimize=True)
    dx = rows[:, :, top : top + H] @ of(from_points).T
    return dx.reshape(*dx.shape[:3], -1)[..., :W]


def winograd_tiles(x, first, size, tile, width, advance):
    """(N, C, H, W) -> (N, C, tiles, width, width): each `advance` pixels on from the one before.

    As many as results of tile x tile cover `size` pixels. Pixel `first` of x, which may lie outside,
    is the first of all; there are zeros outside.
    """
    for axis, (begin, count) in enumerate(zip(first, size, strict=True), 2):
        length = (-(-count // tile) - 1) * advance + width
        places = np.arange(begin, begin + length)
        inside = (places >= 0) & (places < x.shape[axis])
        x = np.take(x, np.where(inside, places, 0), axis)
        x = x * np.expand_dims(inside, tuple(range(1, 4 - axis)))
    tiles = np.lib.stride_tricks.sliding_window_view(x, (width, width), (2, 3))
    tiles = tiles[:, :, ::advance, ::advance]
    return tiles.reshape(*tiles.shape[:2], -1, width, width)


def both_sides(matrix, x):
    return matrix @ x @ matrix.T


def winograd_points(form, x, first, size, of):
    """B' x B of all tiles."""
    tile, width = len(form.from_points), form.to_points.shape[1]
    tiles = winograd_tiles(of(np.float64(x)), first, size, tile, width, form.advance)
    return both_sides(of(form.to_points), tiles)


def winograd_result(form, x, w, first, size, of):
    (N, _), K, tile = x.shape[:2], w.shape[0], len(form.from_points)
    rows, cols = (-(-n // tile) for n in size)
    u = both_sides(of(form.weights), of(np.float64(w)))
    m = np.einsum("nctij,kcij->nktij", winograd_points(form, x, first, size, of), u, optimize=True)
    y = both_sides(of(form.from_points), m)
    y = y.reshape(N, K, rows, cols, tile, tile).transpose(0, 1, 2, 4, 3, 5)
    return y.reshape(N, K, rows * tile, cols * tile)[:, :, : size[0], : size[1]]


def winograd_form(kernel, stride):
    forms = {(3, 1): DENSE, (3, 2): STRIDED, (4, 2): FOUR_BY_FOUR, (5, 1): FIVE_BY_FIVE}
    return forms[kernel, stride]


def winograd_forward(x, w, padding, size, of=np.abs, stride=1):
    """A'[sum_c (G w G') * (B' x B)]A with `of` applied to all that enters. padding: top, left.

    With abs, this times (C + 29) eps / 2 bounds the error of y; with stride 2, (2 C + 29) eps / 2, for sums go over
    the points of even and of odd pixels. With np.asarray it is y itself.
    """
    first = [-pad for pad in padding]
    return winograd_result(winograd_form(w.shape[2], stride), x, w, first, size, of)


def winograd_backward_input(dy, w, padding, size, of=np.abs, stride=1):
    """The same of dx: times (K + 29) eps / 2."""
    flipped = w[:, :, ::-1, ::-1].swapaxes(0, 1)
    R = w.shape[2]
    if stride == 1:
        first = [pad - (R - 1) for pad in padding]
        return winograd_result(winograd_form(R, stride), dy, flipped, first, size, of)
    cut = [1 - pad % 2 for pad in padding]  # the first pixel of a tile meets the taps of odd number
    first = [(pad - 1 - more) // 2 - (R - 3) for pad, more in zip(padding, cut, strict=True)]
    more = [n + c for n, c in zip(size, cut, strict=True)]
    form = STRIDED_INPUT if R == 3 else FOUR_BY_FOUR_INPUT
    return winograd_result(form, dy, flipped, first, more, of)[:, :, cut[0] :, cut[1] :]


def winograd_backward_weight(dy, x, padding, of=np.abs, stride=1, kernel=3):
    """G'[sum_t (B' x B) * (A dy A')]G, as above: times (T + 28) eps / 2, for T tiles; of 3x3 with stride 2
    16 times as many, for a sum goes over all points that share their weight."""
    form, size = winograd_form(kernel, stride), dy.shape[2:]
    v, tile = winograd_points(form, x, [-pad for pad in padding], size, of), len(form.from_points)
    d = winograd_tiles(of(np.float64(dy)), (0, 0), size, tile, tile, tile)
    u = np.einsum("nctij,nktij->kcij", v, both_sides(of(form.from_points.T), d), optimize=True)
    return both_sides(of(form.weights.T), u)


def winograd_bound(which, arrays, kernel, padding, stride, size, eps):
    """How far each element of y, dx or dw may be from the exact one, as docs/accuracy.md promises.

    arrays: x, w and the bias or 0; dy and w; dy and x. kernel: 3, 4, 5 or 7; size: of the images of x and of y.
    """
    if which == "backward_weight":
        dy, x = arrays
        N, _, P, Q = dy.shape
        if kernel == 7:
            terms = N * P * -(-Q // 4)
            return (terms + 28) * eps / 2 * winograd_rows_backward_weight(dy, x, padding)
        tile = len(winograd_form(kernel, stride).from_points)
        terms = N * -(-P // tile) * -(-Q // tile) * (16 if (kernel, stride) == (3, 2) else 1)
        sums = winograd_backward_weight(dy, x, padding, stride=stride, kernel=kernel)
        return (terms + 28) * eps / 2 * sums
    if which == "backward_input":
        dy, w = arrays
        if kernel == 7:
            sums = winograd_rows_backward_input(dy, w, padding, size[0])
            return (4 * len(w) + 29) * eps / 2 * sums
        sums = winograd_backward_input(dy, w, padding, size[0], stride=stride)
        return (len(w) + 29) * eps / 2 * sums
    x, w, b = arrays
    terms, bias = w.shape[1], np.abs(np.reshape(b, (-1, 1, 1)))
    if kernel == 7:
        terms, sums = 14 * terms, winograd_rows_forward(x, w, padding, size[1])
    else:
        terms *= 2 if stride == 2 else 1
        sums = winograd_forward(x, w, padding, size[1], stride=stride)
    return (terms + 29) * eps / 2 * (sums + bias)


# Pooling ---------------------------------------------------------------------------------------


def pool_output_size(size, kernel, stride, padding, dilation, ceil_mode):
    """floor or ceil of (size + 2 padding - dilation (kernel - 1) - 1) / stride, + 1.

    With ceil, the last window must still start inside the input or its left padding.
    """
    room = size + 2 * padding - dilation * (kernel - 1) - 1
    count = (-(-room // stride) if ceil_mode else room // stride) + 1
    if ceil_mode and (count - 1) * stride >= size + padding:
        count -= 1
    return count


def max_pool2d_forward(x, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False):
    """y[n,c,p,q] = the largest x of the window, and its place h*W + w in the plane of x.

    Padding is never chosen. The first of equals is; a NaN beats all, and the last NaN is chosen.
    A window of nothing but -inf gives its first element; one that lies outside x, -inf and -1.
    """
    N, C, H, W = x.shape
    (R, S), (ph, pw), (dh, dw) = map(pair, (kernel_size, padding, dilation))
    sh, sw = (R, S) if stride is None else pair(stride)
    P = pool_output_size(H, R, sh, ph, dh, ceil_mode)
    Q = pool_output_size(W, S, sw, pw, dw, ceil_mode)
    y = np.full((N, C, P, Q), -np.inf)
    indices = np.full((N, C, P, Q), -1)
    for n, c, p, q in np.ndindex(N, C, P, Q):
        for r, s in np.ndindex(R, S):
            h, v = p * sh + r * dh - ph, q * sw + s * dw - pw
            if not (0 <= h < H and 0 <= v < W):
                continue
            value = float(x[n, c, h, v])
            if indices[n, c, p, q] < 0 or value > y[n, c, p, q] or math.isnan(value):
                y[n, c, p, q], indices[n, c, p, q] = value, h * W + v
    return y, indices


def max_pool2d_backward(dy, indices, input_size):
    """dx: each dy is added to the place in its plane where the maximum was found."""
    N, C, P, Q = dy.shape
    H, W = input_size
    dx = np.zeros((N, C, H, W))
    for n, c, p, q in np.ndindex(N, C, P, Q):
        if indices[n, c, p, q] >= 0:
            h, v = divmod(int(indices[n, c, p, q]), W)
            dx[n, c, h, v] += float(dy[n, c, p, q])
    return dx


def averaged(shape, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor):
    """(P, Q) and, for each window, (p, q, its rows, its columns, what its sum is divided by)."""
    (H, W), (R, S), (ph, pw) = shape, pair(kernel_size), pair(padding)
    sh, sw = (R, S) if stride is None else pair(stride)
    P = pool_output_size(H, R, sh, ph, 1, ceil_mode)
    Q = pool_output_size(W, S, sw, pw, 1, ceil_mode)
    found = []
    for p, q in np.ndindex(P, Q):
        h, w = p * sh - ph, q * sw - pw
        h_end, w_end = min(h + R, H + ph), min(w + S, W + pw)  # in the padded input
        padded = (h_end - h) * (w_end - w)
        rows, columns = slice(max(h, 0), min(h_end, H)), slice(max(w, 0), min(w_end, W))
        inside = (rows.stop - rows.start) * (columns.stop - columns.start)
        found.append((p, q, rows, columns, divisor or (padded if count_include_pad else inside)))
    return (P, Q), found


def avg_pool2d_forward(
    x, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True, divisor=None
):
    """y[n,c,p,q] = the sum of the window / the number of its pixels, with those in the padding or without."""
    options = (kernel_size, stride, padding, ceil_mode, count_include_pad, divisor)
    size, found = averaged(x.shape[2:], *options)
    y = np.zeros((*x.shape[:2], *size))
    for p, q, rows, columns, d in found:
        y[:, :, p, q] = np.asarray(x, float)[:, :, rows, columns].sum(axis=(2, 3)) / d
    return y


def avg_pool2d_backward(
    dy,
    input_size,
    kernel_size,
    stride=None,
    padding=0,
    ceil_mode=False,
    count_include_pad=True,
    divisor=None,
):
    """dx: each dy / d is added to the pixels of its window."""
    options = (kernel_size, stride, padding, ceil_mode, count_include_pad, divisor)
    dx = np.zeros((*dy.shape[:2], *input_size))
    for p, q, rows, columns, d in averaged(input_size, *options)[1]:
        dx[:, :, rows, columns] += np.asarray(dy, float)[:, :, p, q, None, None] / d
    return dx


def adaptive(shape, size):
    """(p, q, rows, columns) of each window: from floor(i * size / count) to ceil((i + 1) * size / count)."""
    (H, W), (P, Q) = shape, size
    for p, q in np.ndindex(P, Q):
        rows = slice(p * H // P, -(-(p + 1) * H // P))
        yield p, q, rows, slice(q * W // Q, -(-(q + 1) * W // Q))


def adaptive_avg_pool2d_forward(x, output_size):
    y = np.zeros((*x.shape[:2], *output_size))
    for p, q, rows, columns in adaptive(x.shape[2:], output_size):
        y[:, :, p, q] = np.asarray(x, float)[:, :, rows, columns].mean(axis=(2, 3))
    return y


def adaptive_avg_pool2d_backward(dy, input_size):
    dx = np.zeros((*dy.shape[:2], *input_size))
    for p, q, rows, columns in adaptive(input_size, dy.shape[2:]):
        pixels = dx[0, 0, rows, columns].size if dx.size else 1
        dx[:, :, rows, columns] += np.asarray(dy, float)[:, :, p, q, None, None] / pixels
    return dx


# Batch normalisation ---------------------------------------------------------------------------


def per_channel(values, x):
    """One number a channel, to be broadcast against x (N, C, ...)."""
    return np.asarray(values, np.longdouble).reshape(-1, *[1] * (x.ndim - 2))


def moments(x):
    """Mean and biased variance of each channel; 0 of nothing."""
    rows = np.moveaxis(np.asarray(x, np.longdouble), 1, 0).reshape(x.shape[1], -1)
    n = max(rows.shape[1], 1)
    mean = rows.sum(1) / n
    return mean, ((rows - mean[:, None]) ** 2).sum(1) / n


def batch_norm_forward(x, w=None, b=None, mean=None, var=None, eps=1e-5):
    """y = (x - mean) / sqrt(var + eps) * w + b: mean and var of x itself, unless they are given.

    Returns y, mean and 1 / sqrt(var + eps).
    """
    x = np.asarray(x, np.longdouble)
    if mean is None:
        mean, var = moments(x)
    w = np.ones(x.shape[1]) if w is None else w
    b = np.zeros(x.shape[1]) if b is None else b
    invstd = 1 / np.sqrt(np.asarray(var, np.longdouble) + eps)
    y = (x - per_channel(mean, x)) * per_channel(invstd, x) * per_channel(w, x) + per_channel(b, x)
    return y, np.asarray(mean, np.longdouble), invstd


def running(old, new, momentum):
    """What a running statistic becomes."""
    return (1 - momentum) * np.asarray(old, np.longdouble) + momentum * new


def batch_norm_backward(dy, x, w, mean, invstd, training=True):
    """dw = sum dy * xhat, db = sum dy, dx = w * invstd * (dy - db / n - xhat * dw / n),

    xhat = (x - mean) * invstd; dx = w * invstd * dy when mean and invstd do not depend on x.
    """
    dy, x = np.asarray(dy, np.longdouble), np.asarray(x, np.longdouble)
    w = np.ones(x.shape[1]) if w is None else w
    axes = (0, *range(2, x.ndim))
    n = max(x.size // max(x.shape[1], 1), 1)
    xhat = (x - per_channel(mean, x)) * per_channel(invstd, x)
    dw, db = (dy * xhat).sum(axes), dy.sum(axes)
    dx = dy - per_channel(db / n, x) - xhat * per_channel(dw / n, x) if training else dy
    return per_channel(w, x) * per_channel(invstd, x) * dx, dw, db


# Pointwise -------------------------------------------------------------------------------------


def relu(x):
    """x where x > 0 or x is NaN, else 0."""
    return np.where(x > 0, x, np.where(np.isnan(x), np.nan, 0.0))


def relu_backward(dy, y):
    """dx = 0 where y <= 0, else dy: a NaN lets it through, as in PyTorch."""
    return np.where(y <= 0, 0.0, dy)


def sigmoid(x):
    """1 / (1 + e^-x), written so that nothing overflows."""
    small = np.exp(-np.abs(np.asarray(x, float)))
    return np.where(np.signbit(x), small, 1.0) / (1.0 + small)


def bias_add(x, b):
    """x (N, C, ...) + b (C,)."""
    x, y = np.asarray(x, float), np.zeros(x.shape)
    for c in range(x.shape[1]):
        y[:, c] = x[:, c] + float(b[c])
    return y


# Softmax and the losses ------------------------------------------------------------------------


def log_softmax(x, axis):
    """x - m - log sum e^(x - m), with m the largest x along the axis."""
    x = np.asarray(x, float)
    shifted = x - x.max(axis=axis, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True))


def log_softmax_backward(dy, y, axis):
    """dx = dy - e^y * sum dy."""
    dy, y = np.asarray(dy, float), np.asarray(y, float)
    return dy - np.exp(y) * dy.sum(axis=axis, keepdims=True)


def softmax(x, axis):
    """e^(x - m) / sum e^(x - m)."""
    return np.exp(log_softmax(x, axis))


def softmax_backward(dy, y, axis):
    """dx = y * (dy - sum dy * y)."""
    dy, y = np.asarray(dy, float), np.asarray(y, float)
    return y * (dy - (dy * y).sum(axis=axis, keepdims=True))


def reduce_loss(losses, weights, reduction):
    """The losses themselves, their sum, or their mean weighted by `weights` (0/0 is NaN)."""
    if reduction == "none":
        return losses
    total = losses.sum()
    if reduction == "sum":
        return total
    return total / weights.sum() if weights.sum() != 0 else math.nan


def nll_weights(target, weight, ignore_index):
    """The weight of each target: weight[class], and 0 where it is to be ignored."""
    weights = np.zeros(target.shape)
    for place in np.ndindex(target.shape):
        if target[place] != ignore_index:
            weights[place] = 1.0 if weight is None else float(weight[target[place]])
    return weights


def nll_loss_forward(log_p, target, weight=None, ignore_index=-100, reduction="mean"):
    """-weight[t] * log_p[n, t, ...], t = target[n, ...]; the mean divides by the sum of weights."""
    weights = nll_weights(target, weight, ignore_index)
    losses = np.zeros(target.shape)
    for n, *rest in np.ndindex(target.shape):
        t = target[(n, *rest)]
        if t != ignore_index:
            losses[(n, *rest)] = -weights[(n, *rest)] * float(log_p[(n, t, *rest)])
    return reduce_loss(losses, weights, reduction)


def nll_loss_backward(dy, log_p, target, weight=None, ignore_index=-100, reduction="mean"):
    """d log_p[n, t, ...] = -weight[t] * dy, divided by the sum of weights for the mean."""
    weights = nll_weights(target, weight, ignore_index)
    scale = weights.sum() if reduction == "mean" else 1.0
    dy = np.broadcast_to(np.asarray(dy, float), target.shape)
    dx = np.zeros(log_p.shape)
    for n, *rest in np.ndindex(target.shape):
        t = target[(n, *rest)]
        if t != ignore_index:
            dx[(n, t, *rest)] = -weights[(n, *rest)] * dy[(n, *rest)] / scale
    return dx


def mse_loss_forward(x, target, reduction="mean"):
    """(x - target)^2, itself, summed or averaged."""
    losses = (np.asarray(x, float) - np.asarray(target, float)) ** 2
    return reduce_loss(losses, np.ones(losses.shape), reduction)


def mse_loss_backward(dy, x, target, reduction="mean"):
    """dx = 2 (x - target) dy, over the number of elements for the mean."""
    dx = 2 * (np.asarray(x, float) - np.asarray(target, float)) * np.asarray(dy, float)
    return dx / max(dx.size, 1) if reduction == "mean" else dx


# Random numbers, as PyTorch's CPU generator makes them from 32-bit words ------------------------


def random_uniform(words, low, high, bits):
    """low + (high - low) u: u is the low 24 bits of a word, or the low 53 of two, as a fraction."""
    words = [int(word) for word in words]
    if bits == 53:
        pairs = zip(words[::2], words[1::2], strict=True)
        words = [first << 32 | second for first, second in pairs]
    return np.array([low + (high - low) * (word % 2**bits / 2**bits) for word in words], float)


def random_normal(u, n, mean, std):
    """Box and Muller: of each 16 numbers, 8 give radii sqrt(-2 log(1 - u)), 8 angles 2 pi u.

    When 16 does not divide n, 16 more numbers at the end of u make the last 16 results.
    """
    u, y = np.asarray(u, float), np.zeros(n)
    blocks = [(start, start) for start in range(0, n - 15, 16)]
    if n % 16:
        blocks.append((n, n - 16))
    for source, target in blocks:
        for j in range(8):
            radius = math.sqrt(-2 * math.log1p(-u[source + j]))
            angle = 2 * math.pi * u[source + j + 8]
            y[target + j] = mean + std * radius * math.cos(angle)
            y[target + j + 8] = mean + std * radius * math.sin(angle)
    return y


def philox(counter, key):
    """Four words from a counter of four words and a key of two, in ten rounds: Philox4x32-10,

    Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
    """
    (a, b, c, d), (k, m) = counter, key
    for _ in range(10):
        first, second = a * 0xD2511F53, c * 0xCD9E8D57
        a, b, c, d = second >> 32 ^ b ^ k, second % 2**32, first >> 32 ^ d ^ m, first % 2**32
        k, m = (k + 0x9E3779B9) % 2**32, (m + 0xBB67AE85) % 2**32
    return a, b, c, d


def dropout_words(n, seed, offset):
    """Of each 64 words, word 16 j + l is number j of block l; a block's counter is its number and the offset."""
    words = []
    for start in range(0, n, 64):
        blocks = range(start // 64 * 16, start // 64 * 16 + 16)
        counters = [[v % 2**32 for v in (b, b >> 32, offset, offset >> 32)] for b in blocks]
        fours = [philox(counter, (seed % 2**32, seed >> 32)) for counter in counters]
        words += [four[j] for j in range(4) for four in fours]
    return words[:n]


def dropout(x, p, seed, offset, channels=False):
    """x / (1 - p), or 0 where the upper 31 bits of the element's (or channel's) word are below p."""
    x = np.asarray(x, float)
    shape = x.shape[:2] if channels else x.shape
    words = dropout_words(math.prod(shape), seed, offset)
    kept = np.array([word >> 1 >= math.floor(p * 2**31 + 0.5) for word in words], bool)
    kept = kept.reshape(shape + (1,) * (x.ndim - len(shape)))
    return np.where(kept, x / (1 - p), 0.0) if p < 1 else np.zeros(x.shape)


# Optimizer steps -------------------------------------------------------------------------------


def sgd_step(
    param, grad, buffer, *, lr, momentum=0, dampening=0, weight_decay=0, nesterov=False, first=True
):
    """g = grad + weight_decay p;  v = momentum v + (1 - dampening) g, at first v = g;

    p -= lr * (g + momentum v if nesterov else v). Returns the new p and v (None without momentum).
    """
    param, grad = np.asarray(param, float), np.asarray(grad, float)
    grad = grad + weight_decay * param
    if momentum == 0:
        return param - lr * grad, None
    buffer = grad if first else momentum * np.asarray(buffer, float) + (1 - dampening) * grad
    return param - lr * (grad + momentum * buffer if nesterov else buffer), buffer


def adam_step(param, grad, m, v, *, lr, beta1, beta2, eps, weight_decay, step):
    """g = grad + weight_decay p;  m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2;

    p -= lr * m^ / (sqrt(v^) + eps), m^ = m / (1 - beta1^step), v^ = v / (1 - beta2^step).
    Returns the new p, m, v. Kingma and Ba, Adam, 2015, with L2 regularisation as in torch.
    """
    param, grad, m, v = (np.asarray(array, float) for array in (param, grad, m, v))
    grad = grad + weight_decay * param
    m = beta1 * m + (1 - beta1) * grad
    v = beta2 * v + (1 - beta2) * grad * grad
    m_hat, v_hat = m / (1 - beta1**step), v / (1 - beta2**step)
    return param - lr * m_hat / (np.sqrt(v_hat) + eps), m, v
