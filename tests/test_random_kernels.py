import numpy as np
import pytest
import reference as ref
from helpers import byte_swapped, check, covers, reversed_, strided

from fastconv import kernels

SIZES = (0, 1, 7, 16, 33, 1000)


def random_words(rng, count):
    words = rng.integers(0, 2**32, count, dtype=np.uint32)
    words[: count // 4] = 0xFFFFFFFF  # the largest fraction
    words[count // 4 : count // 3] = 0
    return words


@covers("random_uniform")
@pytest.mark.parametrize("low,high", [(0, 1), (-1, 1), (2.5, 2.75), (3, 3), (-1e3, 1e3)])
def test_uniform(isa, dtype, rng, low, high):
    wide = dtype == np.float64
    for size in SIZES:
        words = random_words(rng, size * (1 + wide))
        expected = ref.random_uniform(words, low, high, 53 if wide else 24)
        bound = 2 * np.finfo(dtype).eps * max(abs(low), abs(high))
        for given in (words, strided(words), reversed_(words)):
            y = kernels.random_uniform(given, low, high, dtype)
            assert y.dtype == dtype
            check(y, expected, bound)
        if low == 0:
            assert ((y >= 0) & (y < 1)).all()


@covers("random_normal")
@pytest.mark.parametrize("mean,std", [(0, 1), (-3, 0.5), (2, 0)])
@pytest.mark.parametrize("n", [16, 17, 31, 32, 100, 128])
def test_normal(isa, dtype, rng, n, mean, std):
    words = random_words(rng, (n + 16) * 2)
    u = kernels.random_uniform(words, 0, 1, dtype)[: n + 16 if n % 16 else n]
    y = kernels.random_normal(u, n, mean, std)
    assert y.dtype == dtype
    # the angle, up to 2 pi, is itself rounded: radii up to 9 turn with it
    bound = np.finfo(dtype).eps * (abs(mean) + std * 9 * 10)
    check(y, ref.random_normal(u, n, mean, std), bound)


def test_numbers_have_the_moments_they_should(rng):
    u = kernels.random_uniform(rng.integers(0, 2**32, 40_000, dtype=np.uint32), 0, 1, np.float32)
    z = kernels.random_normal(u, 40_000, 1.0, 2.0)
    assert u.mean() == pytest.approx(0.5, abs=0.01) and u.var() == pytest.approx(1 / 12, abs=0.01)
    assert z.mean() == pytest.approx(1.0, abs=0.05) and z.std() == pytest.approx(2.0, abs=0.05)


@pytest.mark.parametrize("n", [0, 1, 2, 5, 100])
def test_permutation(rng, n):
    """Fisher and Yates: place i is exchanged with one of the places from i on."""
    words = random_words(rng, max(n - 1, 0))
    expected = list(range(n))
    for i, word in enumerate(words):
        j = i + int(word) % (n - i)
        expected[i], expected[j] = expected[j], expected[i]
    assert kernels.random_permutation(words, n).tolist() == expected


def test_integers_from_words(rng):
    words = random_words(rng, 50)
    for low, high in ((0, 10), (-5, 5), (0, 1), (-(2**40), -(2**40) + 2**28 - 1)):
        y = kernels.random_integers(words, low, high)
        assert y.tolist() == [low + int(word) % (high - low) for word in words]
    doubles = [int(first) << 32 | int(second) for first, second in words.reshape(-1, 2)]
    for low, high in ((0, 2**28), (-(2**40), 2**40), (-1, 2**63 - 2)):
        y = kernels.random_integers(words, low, high)
        assert y.tolist() == [low + double % (high - low) for double in doubles]


def test_bad_input(rng):
    words, u = random_words(rng, 32), np.full(32, 0.5, np.float32)
    refused = (TypeError, ValueError)
    for call in (
        lambda: kernels.random_uniform(words.astype(np.int64), 0, 1, np.float32),
        lambda: kernels.random_uniform(words[:31], 0, 1, np.float64),
        lambda: kernels.random_uniform(words.reshape(4, 8), 0, 1, np.float32),
        lambda: kernels.random_uniform(words.tolist(), 0, 1, np.float32),
        lambda: kernels.random_uniform(None, 0, 1, np.float32),
        lambda: kernels.random_uniform(byte_swapped(words), 0, 1, np.float16),
        lambda: kernels.random_uniform(words, 0, 1, np.int32),
        lambda: kernels.random_uniform(words, "0", 1, np.float32),
        lambda: kernels.random_normal(u[:15], 15, 0, 1),
        lambda: kernels.random_normal(u, 31, 0, 1),
        lambda: kernels.random_normal(u, 33, 0, 1),
        lambda: kernels.random_normal(u, 16, 0, 1),
        lambda: kernels.random_normal(u.astype(np.float16), 32, 0, 1),
        lambda: kernels.random_normal(None, 32, 0, 1),
        lambda: kernels.random_permutation(words, 10),
        lambda: kernels.random_permutation(words, -1),
        lambda: kernels.random_permutation(words, 2.5),
        lambda: kernels.random_integers(words, 5, 5),
        lambda: kernels.random_integers(words, 0, 2**63),
        lambda: kernels.random_integers(words[:31], 0, 2**33),
        lambda: kernels.random_integers(words.tolist(), 0, 5),
    ):
        with pytest.raises(refused):
            call()
