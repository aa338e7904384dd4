"""PyTorch's path to the data tools: `fastconv.utils.data`."""

from . import data

__all__ = ["data"]
