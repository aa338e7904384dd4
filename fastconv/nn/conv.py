"""Conv2d: a layer of filters, each of which sees every input channel of its group."""

import math
from collections.abc import Sequence
from operator import index

import numpy as np

from fastconv.autograd import Tensor
from fastconv.nn import functional as F
from fastconv.nn import init
from fastconv.nn.module import Module
from fastconv.nn.parameter import empty_parameter

Pair = int | Sequence[int]
Padding = Pair | Sequence[Sequence[int]] | str


def _pair(name: str, value: Pair, least: int) -> tuple[int, int]:
    """`value` for height and width."""
    try:
        both = tuple(map(index, value)) if isinstance(value, Sequence) else (index(value),) * 2
    except TypeError:
        raise TypeError(f"{name} must be an int or two ints, got {value!r}") from None
    if len(both) != 2 or min(both) < least:
        raise ValueError(f"{name} must be one or two ints of at least {least}, got {value!r}")
    return both


def _checked_padding(padding: Padding, stride: tuple[int, int]) -> tuple | str:
    if isinstance(padding, str):
        if padding not in ("same", "valid"):
            raise ValueError(f"padding must be 'same', 'valid' or numbers, got {padding!r}")
        if padding == "same" and stride != (1, 1):
            raise ValueError("padding='same' is not supported for strided convolutions")
        return padding
    if isinstance(padding, Sequence) and any(isinstance(side, Sequence) for side in padding):
        if len(padding) != 2 or not all(isinstance(side, Sequence) for side in padding):
            raise ValueError(f"padding must be ((top, bottom), (left, right)), got {padding!r}")
        return tuple(_pair("padding", side, 0) for side in padding)
    return _pair("padding", padding, 0)


class Conv2d(Module):
    """``y[n, k] = bias[k] + sum over c of cross_correlation(x[n, c], weight[k, c])``.

    weight has the shape (out_channels, in_channels / groups, kernel height, kernel width): with
    six input channels each filter is six planes deep, and its plane sums make one output channel.
    x (N, C, H, W) or (C, H, W) gives P = (H + padding - dilation * (kernel - 1) - 1) // stride + 1
    rows (`padding` counts both sides) and likewise columns.

    kernel_size, stride, dilation: an int, or one for height and one for width.
    padding: int, (height, width), ((top, bottom), (left, right)), "same" or "valid"; zeros are put
    around x. groups: 1 joins all channels, `in_channels` keeps them apart (depthwise).
    dtype: float32 or float64. Initial values are PyTorch's: weight and bias uniform on
    ±1 / sqrt(fan_in). Raises ValueError or TypeError for an argument out of range.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Pair,
        stride: Pair = 1,
        padding: Padding = 0,
        dilation: Pair = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: object = None,
        dtype: np.dtype | None = None,
    ):
        super().__init__()
        if groups <= 0:
            raise ValueError(f"groups must be a positive integer, got {groups}")
        for name, channels in (("in_channels", in_channels), ("out_channels", out_channels)):
            if channels < 0 or channels % groups:
                raise ValueError(
                    f"{name} must be divisible by groups, got {name}={channels}, groups={groups}"
                )
        if padding_mode != "zeros":
            raise ValueError(
                f"padding_mode must be 'zeros', got {padding_mode!r}: for another border, pad the "
                "input before the layer (for example with numpy.pad) and give padding=0"
            )
        self.in_channels = index(in_channels)
        self.out_channels = index(out_channels)
        self.kernel_size = _pair("kernel_size", kernel_size, 1)
        self.stride = _pair("stride", stride, 1)
        self.padding = _checked_padding(padding, self.stride)
        self.dilation = _pair("dilation", dilation, 1)
        self.groups = index(groups)
        self.padding_mode = padding_mode
        shape = (self.out_channels, self.in_channels // self.groups, *self.kernel_size)
        self.weight = empty_parameter(shape, device, dtype)
        if bias:
            self.bias = empty_parameter((self.out_channels,), device, dtype)
        else:
            self.register_parameter("bias", None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the initial weight, then the bias."""
        init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        fan_in, _ = init.fan_in_and_fan_out(self.weight)
        if self.bias is not None and fan_in > 0:
            init.uniform_(self.bias, -1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in))

    def forward(self, input: Tensor) -> Tensor:
        return F.conv2d(
            input, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups
        )

    def extra_repr(self) -> str:
        text = (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, "
            f"stride={self.stride}"
        )
        if self.padding != (0, 0):
            text += f", padding={self.padding}"
        if self.dilation != (1, 1):
            text += f", dilation={self.dilation}"
        if self.groups != 1:
            text += f", groups={self.groups}"
        if self.bias is None:
            text += ", bias=False"
        return text
