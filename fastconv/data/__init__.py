"""Data sets and how to iterate over them: PyTorch's `torch.utils.data`, the digits, IDX files."""

from .dataset import Dataset, Subset, TensorDataset, random_split
from .digits import load_digits
from .idx import find_idx, load_idx, read_idx
from .loader import DataLoader, default_collate

__all__ = [
    "DataLoader",
    "Dataset",
    "Subset",
    "TensorDataset",
    "default_collate",
    "find_idx",
    "load_digits",
    "load_idx",
    "random_split",
    "read_idx",
]
