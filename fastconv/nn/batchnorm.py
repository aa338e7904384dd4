"""BatchNorm2d, BatchNorm1d: every channel brought to mean 0 and variance 1, over the batch."""

from operator import index

import numpy as np

from fastconv.autograd import Tensor
from fastconv.nn import functional as F
from fastconv.nn import init
from fastconv.nn.module import Module
from fastconv.nn.parameter import empty_parameter


class BatchNorm(Module):
    """``y = (x - mean) / sqrt(var + eps) * weight + bias`` for each of num_features channels, axis 1.

    In training mean and (biased) variance are those of the batch, and running_mean and running_var
    move towards them (the unbiased one): by the part `momentum`; or, where that is None, so that
    they are averages over all batches. In evaluation the running ones are used; without
    `track_running_stats` there are none, and always the batch's are used. num_batches_tracked
    counts the batches. affine=False: no weight and no bias; bias=False: no bias. dtype: float32 or
    float64. Weight and running_var begin as 1, bias and running_mean as 0.
    Source: Ioffe & Szegedy, arXiv 1502.03167. Raises ValueError for an input of other axes, and for
    training on one number a channel.
    """

    axes: dict[int, str]  # that an input may have

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: object = None,
        dtype: np.dtype | None = None,
        *,
        bias: bool = True,
    ):
        super().__init__()
        self.num_features = index(num_features)
        if self.num_features < 0:
            raise ValueError(f"num_features must not be negative, got {num_features}")
        self.eps = eps
        self.momentum = momentum
        self.affine = affine
        self.track_running_stats = track_running_stats
        for name, wanted in (("weight", affine), ("bias", affine and bias)):
            parameter = empty_parameter((self.num_features,), device, dtype) if wanted else None
            self.register_parameter(name, parameter)
        for name in ("running_mean", "running_var"):
            state = empty_parameter((self.num_features,), device, dtype).detach()
            self.register_buffer(name, state if track_running_stats else None)
        count = Tensor(np.zeros((), np.int64)) if track_running_stats else None
        self.register_buffer("num_batches_tracked", count)
        self.reset_parameters()

    def reset_running_stats(self) -> None:
        """Forget the batches: mean 0, variance 1, none counted."""
        if self.track_running_stats:
            init.zeros_(self.running_mean)
            init.ones_(self.running_var)
            init.zeros_(self.num_batches_tracked)

    def reset_parameters(self) -> None:
        self.reset_running_stats()
        if self.weight is not None:
            init.ones_(self.weight)
        if self.bias is not None:
            init.zeros_(self.bias)

    def forward(self, input: Tensor) -> Tensor:
        if input.ndim not in self.axes:
            raise ValueError(
                f"expected {' or '.join(self.axes.values())} input (got {input.ndim}D input)"
            )
        tracks = self.track_running_stats or not self.training
        return F.batch_norm(
            input,
            self.running_mean if tracks else None,
            self.running_var if tracks else None,
            self.weight,
            self.bias,
            self.training or self.running_mean is None,
            self.momentum,
            self.eps,
            num_batches_tracked=self.num_batches_tracked if tracks and self.training else None,
        )

    def extra_repr(self) -> str:
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, "
            f"affine={self.affine}, bias={self.bias is not None}, "
            f"track_running_stats={self.track_running_stats}"
        )


class BatchNorm1d(BatchNorm):
    """Batch normalisation of (N, C) or (N, C, L); see BatchNorm."""

    axes = {2: "2D", 3: "3D"}


class BatchNorm2d(BatchNorm):
    """Batch normalisation of (N, C, H, W); see BatchNorm."""

    axes = {4: "4D"}
