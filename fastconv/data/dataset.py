"""Data sets: things with a length whose samples are got by number. Names and rules: PyTorch's."""

import math
import numbers
from collections.abc import Sequence
from typing import Any

import numpy as np

from fastconv.autograd import Tensor
from fastconv.random import Generator, permutation


class Dataset:
    """The base of data sets: subclasses have `__getitem__(index) -> sample` and `__len__`."""

    def __getitem__(self, index: int) -> Any:
        raise NotImplementedError(f"{type(self).__name__} must define __getitem__(index)")


class TensorDataset(Dataset):
    """Samples are the rows of Tensors of equal length: `dataset[i] == (x[i], y[i], ...)`.

    NumPy arrays are taken too, and become Tensors that share their memory.
    """

    tensors: tuple[Tensor, ...]

    def __init__(self, *tensors: Tensor | np.ndarray):
        self.tensors = tuple(t if isinstance(t, Tensor) else Tensor(t) for t in tensors)
        shapes = [tuple(t.shape) for t in self.tensors]
        if not shapes or () in shapes or len({shape[0] for shape in shapes}) > 1:
            raise ValueError(f"expected Tensors with as many rows each, got the shapes {shapes}")

    def __getitem__(self, index: int | slice | Sequence[int] | np.ndarray) -> tuple[Tensor, ...]:
        return tuple(t[index] for t in self.tensors)

    def __len__(self) -> int:
        return len(self.tensors[0])


class Subset(Dataset):
    """The samples of `dataset` that have the given indices, in that order."""

    def __init__(self, dataset: Dataset, indices: Sequence[int]):
        self.dataset = dataset
        self.indices = indices

    def __getitem__(self, index: int) -> Any:
        return self.dataset[self.indices[index]]

    def __len__(self) -> int:
        return len(self.indices)


def random_split(
    dataset: Dataset, lengths: Sequence[int] | Sequence[float], generator: Generator | None = None
) -> list[Subset]:
    """Cut a data set at random into Subsets of the given lengths, or fractions that sum to 1.

    Fractions are rounded down; the samples left over go to the first Subsets, one to each.
    """
    total = len(dataset)
    if math.isclose(sum(lengths), 1) and all(0 <= length <= 1 for length in lengths):
        counts = [math.floor(total * length) for length in lengths]
        for i in range(total - sum(counts)):
            counts[i % len(counts)] += 1
    else:
        counts = list(lengths)
    if sum(counts) != total or any(not isinstance(n, numbers.Integral) or n < 0 for n in counts):
        raise ValueError(
            f"lengths must sum to {total}, the length of the data set, or to 1; got {list(lengths)}"
        )
    order = permutation(total, generator).tolist()
    ends = np.cumsum(counts).tolist()
    return [Subset(dataset, order[e - n : e]) for e, n in zip(ends, counts, strict=True)]
