"""Random numbers: a Mersenne Twister, used as PyTorch's CPU generator uses it, so that a seed gives PyTorch's numbers.

float32 numbers agree to rounding: PyTorch approximates log, sin and cos in its own way. What dropout draws are others:
it counts its calls in `dropout_state`, and makes its numbers from seed, count and place.
"""

import os

import numpy as np

from fastconv import kernels


class Generator:
    """A stream of 32-bit words, and the seed and count of dropouts."""

    def __init__(self, device="cpu"):
        self.dropout_state = np.zeros(2, np.uint64)  # one array for ever: kernels change it
        self.manual_seed(int.from_bytes(os.urandom(8), "little"))

    def manual_seed(self, seed):
        """Start anew from a seed, of which 32 bits count; returns the generator."""
        if not hasattr(seed, "__index__"):
            raise TypeError(f"seed must be an int, got {type(seed).__name__}")
        kernels.not_recorded("seeding a generator")
        self._seed = seed.__index__()
        self._bits = np.random.MT19937()
        self._bits.state = np.random.RandomState(self._seed & 0xFFFFFFFF).get_state(legacy=False)
        self._spare = None  # the second number of a pair of normal ones
        self.dropout_state[:] = self._seed & 0xFFFFFFFFFFFFFFFF, 0
        return self

    def initial_seed(self):
        """The seed that it was last started from."""
        return self._seed

    def get_state(self):
        """The state, to be given to set_state."""
        kernels.not_recorded("reading a generator's state")
        return {
            "bits": self._bits.state,
            "seed": self._seed,
            "spare": self._spare,
            "dropout": self.dropout_state.copy(),
        }

    def set_state(self, state):
        kernels.not_recorded("seeding a generator")
        self._bits.state, self._seed, self._spare = state["bits"], state["seed"], state["spare"]
        self.dropout_state[:] = state["dropout"]

    def words(self, count):
        kernels.not_recorded("drawing random numbers")
        return self._bits.random_raw(count).astype(np.uint32)


default_generator = Generator()


def manual_seed(seed):
    """Start the default generator from a seed, and return it."""
    return default_generator.manual_seed(seed)


def initial_seed():
    return default_generator.initial_seed()


def uniform(shape, low, high, dtype, generator=None):
    """An array of numbers uniform in [low, high)."""
    if not low <= high:
        raise RuntimeError(
            f"uniform_ expects to return a [from, to) range, but found from={low} > to={high}"
        )
    generator = generator or default_generator
    dtype = np.dtype(dtype)
    count = int(np.prod(shape, dtype=np.int64))
    words = generator.words(count * (2 if dtype == np.float64 else 1))
    return kernels.random_uniform(words, low, high, dtype).reshape(shape)


def normal(shape, mean, std, dtype, generator=None):
    """An array of normal numbers."""
    if not std >= 0:
        raise RuntimeError(f"normal expects std >= 0.0, but found std {std}")
    generator = generator or default_generator
    if np.dtype(dtype).kind != "f":
        raise TypeError(f"normal numbers are float32 or float64, not {np.dtype(dtype)}")
    count = int(np.prod(shape, dtype=np.int64))
    if count >= 16:
        u = uniform((count + (16 if count % 16 else 0),), 0.0, 1.0, dtype, generator)
        return kernels.random_normal(u, count, mean, std).reshape(shape)
    numbers = np.empty(count, dtype)
    for i in range(count):
        if generator._spare is not None:
            numbers[i] = generator._spare * std + mean
            generator._spare = None
        else:
            u1, u2 = uniform((2,), 0.0, 1.0, np.float64, generator)
            numbers[i], generator._spare = kernels.random_normal_pair(u1, u2, mean, std)
    return numbers.reshape(shape)


def permutation(n, generator=None):
    """A random order of 0 .. n-1, int64."""
    generator = generator or default_generator
    return kernels.random_permutation(generator.words(max(n - 1, 0)), n)


def integers(low, high, shape, generator=None):
    """An array of integers in [low, high), int64."""
    generator = generator or default_generator
    count = int(np.prod(shape, dtype=np.int64)) * (2 if high - low >= 2**28 else 1)
    return kernels.random_integers(generator.words(count), low, high).reshape(shape)
