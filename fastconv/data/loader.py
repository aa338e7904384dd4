"""DataLoader: a data set in batches. Names and rules are PyTorch's."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from fastconv.autograd import Tensor
from fastconv.missing import kind
from fastconv.random import Generator, default_generator, permutation

from .dataset import Dataset, Subset, TensorDataset

# Options of PyTorch's DataLoader that mean nothing here, with the values that ask for nothing.
ABSENT = {
    "num_workers": 0,
    "batch_sampler": None,
    "timeout": 0,
    "worker_init_fn": None,
    "multiprocessing_context": None,
    "prefetch_factor": None,
    "persistent_workers": False,
    "pin_memory": False,
    "pin_memory_device": "",
}


def default_collate(samples: list) -> Any:
    """A batch out of samples of one kind.

    Tensors, arrays and numbers are stacked into one Tensor (Python's int -> int64, float ->
    float64, bool -> bool); tuples, lists and mappings are collated field by field; strings stay a
    list.
    """
    first = samples[0]
    if isinstance(first, Tensor | np.ndarray | np.generic | int | float):
        arrays = [s._array if isinstance(s, Tensor) else np.asarray(s) for s in samples]
        shapes = {a.shape for a in arrays}
        if len(shapes) > 1:
            raise ValueError(
                f"the samples of a batch must have equal shapes, got {sorted(shapes)}; give "
                "DataLoader a collate_fn, or batch_size=1"
            )
        return Tensor(np.stack(arrays))
    if isinstance(first, str | bytes):
        return samples
    if isinstance(first, Mapping):
        return {key: default_collate([s[key] for s in samples]) for key in first}
    if isinstance(first, tuple | list):
        if any(len(s) != len(first) for s in samples):
            raise ValueError("the samples of a batch must have equally many fields")
        fields = [default_collate(list(field)) for field in zip(*samples, strict=True)]
        return type(first)(*fields) if hasattr(first, "_fields") else fields
    raise TypeError(
        "samples must be Tensors, arrays, numbers, strings, or tuples, lists or mappings of them, "
        f"got {kind(first)}; give DataLoader a collate_fn"
    )


def _drawn_seed(generator: Generator) -> int:
    """63 random bits, from two words."""
    high, low = generator.words(2).tolist()
    return (high << 32 | low) & (2**63 - 1)


class DataLoader:
    """Iterates over a data set in batches, anew for every `for`.

    dataset: anything with `__len__` and `__getitem__`. shuffle: in a new random order each time,
    drawn from `generator` or else from the numbers that `manual_seed` starts. sampler: the indices
    to take, in their order, instead. drop_last: leave out a last batch that is not full.
    collate_fn: makes the batch of a list of samples.

    Everything happens in the calling process: there are no workers to start, and batches of a
    TensorDataset, or of a Subset of one, are cut out with one index operation.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int = 1,
        shuffle: bool = False,
        *,
        sampler: Iterable[int] | None = None,
        collate_fn: Callable[[list], Any] | None = None,
        drop_last: bool = False,
        generator: Generator | None = None,
        **options: Any,
    ):
        for name, value in options.items():
            if name not in ABSENT:
                raise TypeError(f"DataLoader has no option {name!r}")
            if name != "pin_memory" and value != ABSENT[name]:
                raise ValueError(
                    f"{name}={value!r}: fastconv's DataLoader works in the calling process and has "
                    f"no such option; leave it out (or {ABSENT[name]!r})"
                )
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"batch_size must be an int of at least 1, got {batch_size!r}")
        if shuffle and sampler is not None:
            raise ValueError("shuffle=True and a sampler exclude each other")
        self.dataset = dataset
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.sampler = sampler
        self.collate_fn = collate_fn
        self.drop_last = drop_last
        self.generator = generator

    def _indices(self) -> np.ndarray:
        """The order of one pass. It uses up what PyTorch does, so that a seed gives the same order.

        That is: a seed for its workers, then one for the shuffle; or, where the loader was given a
        generator, two permutations, of which the sampler takes the first.
        """
        n = len(self.dataset)
        generator = self.generator or default_generator
        _drawn_seed(generator)
        if self.sampler is not None:
            return np.array(list(self.sampler), dtype=np.int64)
        if not self.shuffle:
            return np.arange(n)
        if self.generator is None:
            return permutation(n, Generator().manual_seed(_drawn_seed(generator)))
        order = permutation(n, generator)
        permutation(n, generator)
        return order

    def _batch(self, indices: np.ndarray) -> Any:
        dataset = self.dataset
        if self.collate_fn is None:
            while type(dataset) is Subset:
                indices, dataset = np.asarray(dataset.indices)[indices], dataset.dataset
            if type(dataset) is TensorDataset:
                return list(dataset[indices])
        collate = self.collate_fn or default_collate
        return collate([dataset[i] for i in indices.tolist()])

    def __iter__(self) -> Iterator[Any]:
        indices = self._indices()
        n = len(indices)
        if self.drop_last:
            n -= n % self.batch_size
        for start in range(0, n, self.batch_size):
            yield self._batch(indices[start : start + self.batch_size])

    def __len__(self) -> int:
        """The number of batches."""
        n = len(self.dataset if self.sampler is None else self.sampler)
        return n // self.batch_size if self.drop_last else -(-n // self.batch_size)
