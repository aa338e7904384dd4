"""Linear: every output is a weighted sum of all inputs."""

import math
from operator import index

import numpy as np

from fastconv.autograd import Tensor
from fastconv.nn import functional as F
from fastconv.nn import init
from fastconv.nn.module import Module
from fastconv.nn.parameter import empty_parameter


class Linear(Module):
    """``y = x @ weight.T + bias``, x (..., in_features) -> y (..., out_features).

    weight has the shape (out_features, in_features); dtype is float32 or float64. Initial values
    are PyTorch's: weight and bias uniform on ±1 / sqrt(in_features).
    Raises ValueError for a negative number of features.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: object = None,
        dtype: np.dtype | None = None,
    ):
        super().__init__()
        self.in_features = index(in_features)
        self.out_features = index(out_features)
        if self.in_features < 0 or self.out_features < 0:
            raise ValueError(
                f"in_features and out_features must not be negative, got {in_features} and "
                f"{out_features}"
            )
        self.weight = empty_parameter((self.out_features, self.in_features), device, dtype)
        if bias:
            self.bias = empty_parameter((self.out_features,), device, dtype)
        else:
            self.register_parameter("bias", None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the initial weight, then the bias."""
        init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            bound = 1 / math.sqrt(self.in_features) if self.in_features > 0 else 0
            init.uniform_(self.bias, -bound, bound)

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.weight, self.bias)

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bias={self.bias is not None}"
        )
