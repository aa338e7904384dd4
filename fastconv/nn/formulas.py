"""The arithmetic behind an operation, in words: output sizes and multiply-adds, for `summary`."""

import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

Shape = tuple[int, ...]


class Explained(NamedTuple):
    """What one operation did: lines of text, and its multiply-adds."""

    lines: list[str]
    multiply_adds: int


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


def conv2d(y, x, w, b=None, stride=1, padding=0, dilation=1, groups=1, **_) -> Explained:
    lines = _window(y, x, w.shape[-2:], stride, padding, dilation)
    return Explained(lines, y.size * math.prod(w.shape[1:]))


def max_pool2d(
    y, x, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, **_
) -> Explained:
    stride = kernel_size if stride is None else stride
    return Explained(_window(y, x, kernel_size, stride, padding, dilation, ceil_mode), 0)


def avg_pool2d(y, x, kernel_size, stride=None, padding=0, ceil_mode=False, *_, **__) -> Explained:
    stride = kernel_size if stride is None else stride
    return Explained(_window(y, x, kernel_size, stride, padding, 1, ceil_mode), 0)


def adaptive_avg_pool2d(y, x, output_size, **_) -> Explained:
    lines = []
    for axis, size, out in zip(("height", "width"), x.shape[-2:], y.shape[-2:], strict=True):
        lengths = {-(-(i + 1) * size // out) - i * size // out for i in range(out)} or {0}
        least, most = min(lengths), max(lengths)
        lengths = least if least == most else f"{least} to {most}"
        lines.append(f"{axis} {size}: {out} windows of {lengths}")
    return Explained(lines, 0)


def linear(y, x, w, b=None, **_) -> Explained:
    return Explained([f"{w.shape[1]} -> {w.shape[0]}"], y.size * w.shape[1])


# Explain a kernel call, given the (first) result and the arguments.
KERNELS = {
    "conv2d_forward": conv2d,
    "max_pool2d_forward": max_pool2d,
    "avg_pool2d_forward": avg_pool2d,
    "adaptive_avg_pool2d_forward": adaptive_avg_pool2d,
    "linear_forward": linear,
}


def operation(op: str, shape: Shape, inputs: Sequence[Shape]) -> tuple[str, Explained]:
    """The name of a recorded operation, and what it did, as far as shapes tell."""
    if op in ("Mm", "Matmul"):
        a, b = inputs
        return "matmul", Explained([f"{a} @ {b}"], math.prod(shape) * a[-1])
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", op).lower()
    return name, Explained([view(inputs[0], shape)] if op == "View" else [], 0)


def view(before: Shape, after: Shape) -> str:
    """``16*6*6 = 576`` where all axes but the batch's are joined, else both shapes."""
    if before and after == (before[0], math.prod(before[1:])):
        return f"{'*'.join(map(str, before[1:]))} = {after[1]}"
    return f"{before} -> {after}"
