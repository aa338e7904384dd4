"""Reading and writing parameters."""

from fastconv.io.checkpoint import load, save

__all__ = ["load", "save"]
