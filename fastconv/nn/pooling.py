"""MaxPool2d, AvgPool2d, AdaptiveAvgPool2d: the largest value, or the average, of each window."""

from collections.abc import Sequence

from fastconv.autograd import Tensor
from fastconv.nn import functional as F
from fastconv.nn.module import Module

Pair = int | Sequence[int]


class MaxPool2d(Module):
    """``y[n, c, p, q] = max of x[n, c]`` over the window that starts at (p, q) * stride - padding.

    x (N, C, H, W) or (C, H, W) gives (H + 2 * padding - dilation * (kernel_size - 1) - 1) / stride
    + 1 rows, rounded down, or up with `ceil_mode`; likewise columns. Padding counts as -inf.
    `stride` is `kernel_size` when left out. `return_indices` adds an int64 Tensor of the places
    h * W + w of the maxima.
    """

    def __init__(
        self,
        kernel_size: Pair,
        stride: Pair | None = None,
        padding: Pair = 0,
        dilation: Pair = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
    ):
        super().__init__()
        self.kernel_size = kernel_size
        self.stride = kernel_size if stride is None else stride
        self.padding = padding
        self.dilation = dilation
        self.return_indices = return_indices
        self.ceil_mode = ceil_mode

    def forward(self, input: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        return F.max_pool2d(
            input,
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
            self.ceil_mode,
            self.return_indices,
        )

    def extra_repr(self) -> str:
        return (
            f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}, "
            f"dilation={self.dilation}, ceil_mode={self.ceil_mode}"
        )


class AvgPool2d(Module):
    """``y[n, c, p, q] = sum of x[n, c] / d`` over the window that starts at (p, q) * stride - padding.

    x (N, C, H, W) or (C, H, W) gives (H + 2 * padding - kernel_size) / stride + 1 rows, rounded
    down, or up with `ceil_mode`; likewise columns. Padding counts as 0. d is the number of pixels
    of the window, without those of the padding unless `count_include_pad`; or `divisor_override`.
    `stride` is `kernel_size` when left out.
    """

    def __init__(
        self,
        kernel_size: Pair,
        stride: Pair | None = None,
        padding: Pair = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ):
        super().__init__()
        self.kernel_size = kernel_size
        self.stride = kernel_size if stride is None else stride
        self.padding = padding
        self.ceil_mode = ceil_mode
        self.count_include_pad = count_include_pad
        self.divisor_override = divisor_override

    def forward(self, input: Tensor) -> Tensor:
        return F.avg_pool2d(
            input,
            self.kernel_size,
            self.stride,
            self.padding,
            self.ceil_mode,
            self.count_include_pad,
            self.divisor_override,
        )

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class AdaptiveAvgPool2d(Module):
    """Averages over P x Q windows that cover the input, whatever its size: window p is of rows
    floor(p * H / P) to ceil((p + 1) * H / P), likewise columns.

    `output_size` is (P, Q), or an int for both; None keeps the input's size.
    """

    def __init__(self, output_size: int | None | Sequence[int | None]):
        super().__init__()
        self.output_size = output_size

    def forward(self, input: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(input, self.output_size)

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}"
