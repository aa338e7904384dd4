"""Activations: functions without parameters, as layers."""

from fastconv.autograd import Tensor
from fastconv.nn import functional as F
from fastconv.nn.module import Module


class ReLU(Module):
    """``max(x, 0)``; NaN stays NaN. `inplace` overwrites the input."""

    def __init__(self, inplace: bool = False):
        super().__init__()
        self.inplace = inplace

    def forward(self, input: Tensor) -> Tensor:
        return F.relu(input, self.inplace)

    def extra_repr(self) -> str:
        return "inplace=True" if self.inplace else ""


class Sigmoid(Module):
    """``1 / (1 + exp(-x))``."""

    def forward(self, input: Tensor) -> Tensor:
        return F.sigmoid(input)


class Tanh(Module):
    """``(exp(x) - exp(-x)) / (exp(x) + exp(-x))``."""

    def forward(self, input: Tensor) -> Tensor:
        return F.tanh(input)


class Softmax(Module):
    """``exp(x) / sum of exp(x)`` along the axis `dim`, which must be given (ValueError)."""

    function = staticmethod(F.softmax)

    def __init__(self, dim: int | None = None):
        super().__init__()
        self.dim = dim

    def forward(self, input: Tensor) -> Tensor:
        if self.dim is None:
            raise ValueError("dim must be given: the axis along which the values sum to 1")
        return self.function(input, self.dim)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"


class LogSoftmax(Softmax):
    """``x - log(sum of exp(x))`` along the axis `dim`, which must be given (ValueError)."""

    function = staticmethod(F.log_softmax)
