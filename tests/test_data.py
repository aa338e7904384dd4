"""Data sets, DataLoader, and the digits. The IDX files have test_idx.py."""

import hashlib
from typing import NamedTuple

import numpy as np
import pytest

import fastconv as fc
import fastconv.utils.data
from fastconv.data import (
    DataLoader,
    Dataset,
    Subset,
    TensorDataset,
    default_collate,
    load_digits,
    random_split,
)

DIGEST = "778c88bf787b6e293f052f4b5293e23df50f680fc2bd7f4ec63ca173cb93e24d"


class Squares(Dataset):
    """Samples (array (2,), int) without a Tensor."""

    def __len__(self):
        return 5

    def __getitem__(self, index):
        return np.array([index, index**2], np.float32), index


def order(loader):
    return [labels.tolist() for (labels,) in loader]


# The digits ---------------------------------------------------------------------------------------


def test_digits():
    train, test = load_digits()
    assert (len(train), len(test)) == (1437, 360)
    for images, labels in (train.tensors, test.tensors):
        assert images.shape == (len(labels), 1, 32, 32) and images.dtype == np.float32
        assert labels.dtype == np.int64
    assert np.bincount(test.tensors[1].numpy()).tolist() == [36] * 10
    images = train.tensors[0].numpy()
    assert images.mean(dtype=float) == pytest.approx(0, abs=0.01)
    assert images.std(dtype=float) == pytest.approx(1, abs=0.01)


def test_digits_are_those_of_the_source():
    """Their digest was taken from the csv, its rows put in the order of the split."""
    (a, b), (c, d) = (part.tensors for part in load_digits(raw=True))
    images = np.concatenate([a.numpy(), c.numpy()])
    assert images.shape == (1797, 1, 8, 8) and images.dtype == np.uint8 and images.max() == 16
    digest = hashlib.sha256(images.tobytes())
    digest.update(np.concatenate([b.numpy(), d.numpy()]).astype(np.uint8).tobytes())
    assert digest.hexdigest() == DIGEST


def test_digits_are_enlarged_bilinearly():
    scan = load_digits(raw=True)[1].tensors[0].numpy()[5, 0].astype(float)
    wanted = np.zeros((32, 32))
    for i in range(24):
        for j in range(24):
            y, x = np.clip((i + 0.5) / 3 - 0.5, 0, 7), np.clip((j + 0.5) / 3 - 0.5, 0, 7)
            top, left = min(int(y), 6), min(int(x), 6)
            dy, dx = y - top, x - left
            upper = scan[top, left] * (1 - dx) + scan[top, left + 1] * dx
            lower = scan[top + 1, left] * (1 - dx) + scan[top + 1, left + 1] * dx
            wanted[4 + i, 4 + j] = upper * (1 - dy) + lower * dy
    image = load_digits()[1].tensors[0].numpy()[5, 0]
    np.testing.assert_allclose(image, (wanted - 2.75) / 4.66, rtol=1e-5, atol=1e-6)


# TensorDataset, Subset, random_split --------------------------------------------------------------


def test_tensor_dataset():
    x, y = fc.arange(12).reshape(6, 2), fc.arange(6)
    dataset = TensorDataset(x, y)
    assert len(dataset) == 6 and dataset.tensors[0] is x
    assert [t.tolist() for t in dataset[2]] == [[4, 5], 2]
    assert [t.tolist() for t in dataset[[0, 3]]] == [[[0, 1], [6, 7]], [0, 3]]


@pytest.mark.parametrize("arrays", [(), (np.arange(3), np.arange(4)), (np.array(1.0),)])
def test_tensor_dataset_wants_equal_lengths(arrays):
    with pytest.raises(ValueError, match="as many rows"):
        TensorDataset(*arrays)


def test_dataset_needs_getitem():
    with pytest.raises(NotImplementedError, match="Dataset must define __getitem__"):
        Dataset()[0]


def test_random_split_is_that_of_pytorch():
    fc.manual_seed(3)
    parts = random_split(range(10), [7, 3])
    assert [p.indices for p in parts] == [[6, 0, 3, 7, 8, 5, 1], [9, 2, 4]]
    assert parts[1][0] == 9
    assert [len(p) for p in random_split(range(11), [0.5, 0.3, 0.2])] == [6, 3, 2]


@pytest.mark.parametrize("lengths", [[7, 4], [-1, 11], [0.5, 0.6], [4.5, 5.5], []])
def test_random_split_lengths_must_fit(lengths):
    with pytest.raises(ValueError, match="lengths must sum to 10"):
        random_split(range(10), lengths)


# DataLoader ---------------------------------------------------------------------------------------


def test_batches_in_order():
    loader = DataLoader(TensorDataset(np.arange(10)), batch_size=4)
    assert order(loader) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]] and len(loader) == 3
    loader = DataLoader(TensorDataset(np.arange(10)), batch_size=4, drop_last=True)
    assert order(loader) == [[0, 1, 2, 3], [4, 5, 6, 7]] and len(loader) == 2
    assert order(DataLoader(TensorDataset(np.arange(3)), batch_size=10**30)) == [[0, 1, 2]]
    assert order(DataLoader(TensorDataset(np.arange(0)), shuffle=True)) == []


def test_shuffle_is_that_of_pytorch():
    """The orders were printed by PyTorch's DataLoader, with the same seeds."""
    fc.manual_seed(3)
    loader = DataLoader(TensorDataset(np.arange(10)), batch_size=4, shuffle=True)
    assert order(loader) == [[6, 2, 0, 1], [8, 3, 5, 4], [7, 9]]
    assert order(loader) == [[3, 4, 0, 9], [6, 7, 1, 2], [5, 8]]
    generator = fc.Generator().manual_seed(5)
    loader = DataLoader(TensorDataset(np.arange(6)), 4, shuffle=True, generator=generator)
    assert order(loader) == [[1, 0, 4, 2], [3, 5]]
    assert order(loader) == [[0, 4, 5, 3], [2, 1]]


def test_a_batch_is_a_list_of_tensors():
    x = np.arange(12, dtype=np.float32).reshape(6, 2)
    images, labels = next(iter(DataLoader(TensorDataset(x, np.arange(6)), batch_size=4)))
    assert isinstance(images, fc.Tensor) and images.dtype == np.float32
    np.testing.assert_array_equal(images.numpy(), x[:4])
    assert labels.dtype == np.int64
    images.zero_()
    assert x[1, 0] == 2, "a batch is a copy"


def test_own_dataset_is_collated():
    batches = list(DataLoader(Squares(), batch_size=2))
    assert [len(b[1]) for b in batches] == [2, 2, 1]
    x, y = batches[1]
    assert x.tolist() == [[2, 4], [3, 9]] and x.dtype == np.float32
    assert y.tolist() == [2, 3] and y.dtype == np.int64


def test_subset_sampler_and_collate_fn():
    dataset = TensorDataset(np.arange(10) * 10)
    subset = Subset(Subset(dataset, [9, 8, 7, 1]), [3, 0])
    assert order(DataLoader(subset, batch_size=5)) == [[10, 90]]
    assert order(DataLoader(dataset, batch_size=2, sampler=[4, 2, 4])) == [[40, 20], [40]]
    assert list(DataLoader(Squares(), 2, collate_fn=len)) == [2, 2, 1]
    assert list(DataLoader(Subset(Squares(), [3]), collate_fn=lambda s: s[0][1])) == [3]


def test_a_subclass_keeps_its_getitem():
    class Doubled(TensorDataset):
        def __getitem__(self, index):
            return (2 * super().__getitem__(index)[0],)

    assert order(DataLoader(Doubled(np.arange(3)), batch_size=3)) == [[0, 2, 4]]


class Pair(NamedTuple):
    a: int
    b: float


def test_default_collate():
    batch = default_collate([{"a": 1.5, "b": "x", "c": True}, {"a": 2, "b": "y", "c": False}])
    assert batch["a"].tolist() == [1.5, 2] and batch["a"].dtype == np.float64
    assert batch["b"] == ["x", "y"] and batch["c"].dtype == np.bool_
    pair = default_collate([Pair(1, 2.0), Pair(3, 4.0)])
    assert isinstance(pair, Pair) and pair.a.tolist() == [1, 3]
    assert default_collate([fc.ones(2), fc.zeros(2)]).tolist() == [[1, 1], [0, 0]]


@pytest.mark.parametrize(
    ("samples", "error", "message"),
    [
        ([np.zeros(2), np.zeros(3)], ValueError, "equal shapes"),
        ([(1, 2), (1,)], ValueError, "equally many fields"),
        ([object()], TypeError, "got object"),
    ],
)
def test_default_collate_refuses(samples, error, message):
    with pytest.raises(error, match=message):
        default_collate(samples)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"num_workers": 2}, ValueError, "num_workers=2: .* calling process.*leave it out"),
        ({"prefetch_factor": 2}, ValueError, "leave it out"),
        ({"bach_size": 2}, TypeError, "no option 'bach_size'"),
        ({"batch_size": 0}, ValueError, "at least 1, got 0"),
        ({"batch_size": 2.0}, ValueError, "at least 1, got 2.0"),
        ({"batch_size": True}, ValueError, "at least 1, got True"),
        ({"shuffle": True, "sampler": [0]}, ValueError, "exclude each other"),
    ],
)
def test_data_loader_refuses(options, error, message):
    with pytest.raises(error, match=message):
        DataLoader(Squares(), **options)


def test_options_that_ask_for_nothing():
    loader = DataLoader(Squares(), 5, num_workers=0, pin_memory=True, persistent_workers=False)
    assert len(list(loader)) == 1


def test_the_path_of_pytorch():
    assert fastconv.utils.data.DataLoader is DataLoader
    assert all(hasattr(fastconv.data, name) for name in fastconv.utils.data.__all__)
