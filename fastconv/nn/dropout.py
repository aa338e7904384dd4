"""Dropout, Dropout2d: in training, numbers or whole channels are left out at random."""

from fastconv.autograd import Tensor
from fastconv.nn import functional as F
from fastconv.nn.module import Module


class Dropout(Module):
    """In training ``x / (1 - p)``, or 0 with probability `p`, for each element; else x itself.

    `inplace` overwrites the input. Source: Srivastava et al., JMLR 15 (2014).
    Raises ValueError for p outside [0, 1].
    """

    function = staticmethod(F.dropout)

    def __init__(self, p: float = 0.5, inplace: bool = False):
        super().__init__()
        if not 0 <= p <= 1:
            raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}")
        self.p = p
        self.inplace = inplace

    def forward(self, input: Tensor) -> Tensor:
        return self.function(input, self.p, self.training, self.inplace)

    def extra_repr(self) -> str:
        return f"p={self.p}, inplace={self.inplace}"


class Dropout2d(Dropout):
    """As Dropout, but for each channel of (N, C, H, W): all of its pixels, or none."""

    function = staticmethod(F.dropout2d)
