"""The arithmetic behind a kernel call, in words: output sizes and multiply-adds, for `summary`.

Each function of KERNELS takes the call's result and its arguments, and returns the lines of text
and the number of multiply-adds.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

Lines = tuple[list[str], int]


def _two(value: Any) -> tuple:
    return tuple(value) if isinstance(value, Sequence) else (value, value)


def _sides(padding: Any, kernel: Sequence[int], dilation: Sequence[int]) -> list[tuple[int, int]]:
    """Padding before and after, for height and for width."""
    if padding == "valid":
        return [(0, 0), (0, 0)]
    if padding == "same":
        totals = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        return [(total // 2, total - total // 2) for total in totals]
    return [_two(side) for side in _two(padding)]


def _size(
    size: int, sides: tuple[int, int], dilation: int, kernel: int, stride: int, out: int, ceil: bool
) -> str:
    """``(H + 2*padding - dilation*(kernel - 1) - 1) // stride + 1 = P``, with numbers."""
    before, after = sides
    padding = f"2*{before}" if before == after else f"{before} + {after}"
    span = f"{size} + {padding} - {dilation}*({kernel} - 1) - 1"
    if not ceil:
        return f"({span}) // {stride} + 1 = {out}"
    rounded = -(-(size + before + after - dilation * (kernel - 1) - 1) // stride) + 1
    inside = "" if rounded == out else " - 1 (no window may start in the padding)"
    return f"ceil(({span}) / {stride}) + 1{inside} = {out}"


def _window(y, x, kernel, stride, padding, dilation, ceil=False) -> list[str]:
    kernel, stride, dilation = _two(kernel), _two(stride), _two(dilation)
    sides = _sides(padding, kernel, dilation)
    height, width = (
        _size(*axis, ceil)
        for axis in zip(x.shape[-2:], sides, dilation, kernel, stride, y.shape[-2:], strict=True)
    )
    return [height] if height == width else [f"height {height}", f"width {width}"]


def conv2d(y, x, w, b=None, stride=1, padding=0, dilation=1, groups=1, **_) -> Lines:
    lines = _window(y, x, w.shape[-2:], stride, padding, dilation)
    return lines, y.size * math.prod(w.shape[1:])


def max_pool2d(
    y, x, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, **_
) -> Lines:
    stride = kernel_size if stride is None else stride
    return _window(y, x, kernel_size, stride, padding, dilation, ceil_mode), 0


def linear(y, x, w, b=None, **_) -> Lines:
    return [f"{w.shape[1]} -> {w.shape[0]}"], y.size * w.shape[1]


def matmul(y, a, b, **_) -> Lines:
    a, b = np.shape(a), np.shape(b)
    return [f"{a} @ {b}"], y.size * a[-1]


def gemm(y, a, b, c=None, *, transpose_a=False, transpose_b=False, **_) -> Lines:
    m, k = a.shape[::-1] if transpose_a else a.shape
    return [f"({m}, {k}) @ ({k}, {y.shape[1]})"], y.size * k


def view(before: Sequence[int], after: Sequence[int]) -> str:
    """``16*6*6 = 576`` where all axes but the batch's are joined, else both shapes."""
    before, after = tuple(before), tuple(after)
    if after == (before[0], math.prod(before[1:])):
        return f"{'*'.join(map(str, before[1:]))} = {after[1]}"
    return f"{before} -> {after}"


KERNELS = {
    "conv2d_forward": conv2d,
    "max_pool2d_forward": max_pool2d,
    "linear_forward": linear,
    "matmul": matmul,
    "gemm": gemm,
}
