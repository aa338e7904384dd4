"""Layers that compute nothing: Flatten changes the shape, Identity not even that."""

from typing import Any

from fastconv.autograd import Tensor
from fastconv.nn import functional as F
from fastconv.nn.module import Module


class Flatten(Module):
    """Join the axes `start_dim` to `end_dim` into one: (N, C, H, W) -> (N, C*H*W)."""

    def __init__(self, start_dim: int = 1, end_dim: int = -1):
        super().__init__()
        self.start_dim = start_dim
        self.end_dim = end_dim

    def forward(self, input: Tensor) -> Tensor:
        return F.flatten(input, self.start_dim, self.end_dim)

    def extra_repr(self) -> str:
        return f"start_dim={self.start_dim}, end_dim={self.end_dim}"


class Identity(Module):
    """Returns its input; a placeholder that takes, and ignores, any arguments."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__()

    def forward(self, input: Tensor) -> Tensor:
        return input
