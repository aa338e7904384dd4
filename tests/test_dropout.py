import threading

import numpy as np
import pytest
import reference as ref
from helpers import check, check_bits, covers, guarded, normal

import fastconv
from fastconv import kernels, nn
from fastconv.nn import functional as F

ZERO, ONES = 0, 0xFFFFFFFF
PI = (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0)


def state_of(seed, offset=0):
    return np.array([seed, offset], np.uint64)


@pytest.mark.parametrize(
    "counter,key,words",
    [
        ([ZERO] * 4, [ZERO] * 2, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ([ONES] * 4, [ONES] * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (*PI, (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)),
    ],
)
def test_the_oracle_is_philox(counter, key, words):
    """The known answers of Random123, its authors' library."""
    assert ref.philox(counter, key) == words


def test_the_kernel_is_philox(isa, dtype):
    """31 bits of each word of a counter and key of zeros: it is kept at p = word / 2^31, and not one above."""
    words = (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)
    for j, word in enumerate(words):
        for above in (0, 1):
            p = ((word >> 1) + above) / 2**31
            y, _ = kernels.dropout(np.ones(64, dtype), state_of(0), p)
            assert (y[16 * j] == 0) == above


SHAPES = [(), (1,), (63,), (64,), (65,), (1000,), (3, 5, 7, 2), (2, 70, 4, 3)]
SEEDS = [(0, 0), (1, 5), (2**64 - 1, 2**64 - 3), (0x123456789ABCDEF0, 2**32)]


@covers("dropout", "dropout_backward")
@pytest.mark.parametrize("seed,offset", SEEDS)
@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.75, 1.0])
def test_against_the_oracle(isa, dtype, rng, seed, offset, p):
    for shape in SHAPES:
        for channels in (False, True)[: 1 + (len(shape) > 1)]:
            x, dy = normal(rng, shape, dtype), normal(rng, shape, dtype)
            state = state_of(seed, offset)
            y, key = kernels.dropout(x, state, p, channels=channels)
            assert key.tolist() == [seed, offset] and state.tolist() == [seed, (offset + 1) % 2**64]
            bound = 2 * np.finfo(dtype).eps
            expected = ref.dropout(x, p, seed, offset, channels)
            check(y, expected, bound * abs(expected))
            dx = kernels.dropout_backward(dy, key, p, channels=channels)
            expected = ref.dropout(dy, p, seed, offset, channels)
            check(dx, expected, bound * abs(expected))


def test_the_rate():
    """Of 10^6 elements some p are dropped, within 4 standard deviations; likewise of each column, and of pairs."""
    n, p = 10**6, 0.3
    y, _ = kernels.dropout(np.ones(n, np.float32), state_of(12345), p)
    zero = y == 0
    assert abs(zero.sum() - n * p) < 4 * (n * p * (1 - p)) ** 0.5
    columns = zero.reshape(-1, 64).sum(0)
    assert (abs(columns - n / 64 * p) < 4 * (n / 64 * p * (1 - p)) ** 0.5).all()
    for lag in (1, 16, 64):
        both = (zero[lag:] & zero[:-lag]).sum()
        assert abs(both - n * p**2) < 4 * (n * p**2 * (1 - p**2)) ** 0.5
    other, _ = kernels.dropout(np.ones(n, np.float32), state_of(12345, 1), p)
    both = (zero & (other == 0)).sum()
    assert abs(both - n * p**2) < 4 * (n * p**2 * (1 - p**2)) ** 0.5


@pytest.mark.parametrize("shape,channels", [((40_013,), False), ((50, 67, 9, 3), True)])
def test_bits_do_not_depend_on_threads(isa, dtype, threads, shape, channels):
    x = np.ones(shape, dtype)
    threads(1)
    expected = kernels.dropout(x, state_of(9), 0.4, channels=channels)[0]
    for count in (2, 3, 7):
        threads(count)
        check_bits(kernels.dropout(x, state_of(9), 0.4, channels=channels)[0], expected)


def test_zeros_are_the_same_everywhere():
    """For both dtypes, on every instruction set."""
    before, found = kernels.isa(), []
    for isa in kernels.available_isas():
        kernels.set_isa(isa)
        for dtype in (np.float32, np.float64):
            found.append(kernels.dropout(np.ones(777, dtype), state_of(3), 0.5)[0] != 0)
    kernels.set_isa(before)
    assert all(np.array_equal(kept, found[0]) for kept in found)


@pytest.mark.parametrize("special", [np.nan, np.inf])
def test_what_is_dropped_is_zero(isa, dtype, special):
    """Also where it was infinite or NaN."""
    x = np.full(200, special, dtype)
    y, _ = kernels.dropout(x, state_of(1), 0.5)
    kept = kernels.dropout(np.ones(200, dtype), state_of(1), 0.5)[0] != 0
    assert (y[~kept] == 0).all() and 50 < kept.sum() < 150
    check(y[kept], x[kept].astype(float))
    check(kernels.dropout(x, state_of(1), 1.0)[0], np.zeros(200))


@pytest.mark.parametrize("n", [1, 63, 64, 129])
def test_nothing_beside_out_is_written(isa, dtype, n):
    x = np.ones(n, dtype)
    expected, key = kernels.dropout(x, state_of(1), 0.5)
    with guarded((n,), dtype) as out:
        check_bits(kernels.dropout(x, state_of(1), 0.5, out=out)[0], expected)
    with guarded((n,), dtype) as out:
        check_bits(kernels.dropout_backward(x, key, 0.5, out=out), expected)
    assert kernels.dropout(x, state_of(1), 0.5, out=x)[0] is x
    check_bits(x, expected)


def test_empty(dtype):
    for shape in ((0,), (0, 3, 2), (2, 0, 3), (2, 3, 0)):
        for channels in (False, True)[: len(shape)]:
            state = state_of(1)
            y, key = kernels.dropout(np.zeros(shape, dtype), state, 0.5, channels=channels)
            assert y.shape == shape
            dx = kernels.dropout_backward(y, key, 0.5, channels=channels)
            assert dx.shape == shape


def test_python_threads_get_different_numbers():
    state, keys = state_of(4), []

    def work():
        for _ in range(200):
            keys.append(int(kernels.dropout(np.ones(70, np.float32), state, 0.5)[1][1]))

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert sorted(keys) == list(range(800)) and state[1] == 800


def test_refusals():
    x, state = np.ones(5, np.float32), state_of(1)
    read_only = state.copy()
    read_only.flags.writeable = False
    for error, text, call in (
        (ValueError, "between 0 and 1, but got 1.5", lambda: kernels.dropout(x, state, 1.5)),
        (ValueError, "between 0 and 1, but got nan", lambda: kernels.dropout(x, state, np.nan)),
        (ValueError, "between 0 and 1", lambda: kernels.dropout_backward(x, state, -0.1)),
        (TypeError, "NoneType", lambda: kernels.dropout(x, state, None)),
        (TypeError, "state must be uint64", lambda: kernels.dropout(x, np.zeros(2, int), 0.5)),
        (ValueError, "state must have shape", lambda: kernels.dropout(x, state[:1], 0.5)),
        (ValueError, "changed in place", lambda: kernels.dropout(x, read_only, 0.5)),
        (ValueError, "changed in place", lambda: kernels.dropout(x, state[::-1], 0.5)),
        (ValueError, "must be .N, C", lambda: kernels.dropout(x, state, 0.5, channels=True)),
        (TypeError, "float32 or float64", lambda: kernels.dropout(state, state, 0.5)),
    ):
        with pytest.raises(error, match=text):
            call()
    assert state.tolist() == [1, 0]


# The layers --------------------------------------------------------------------------------------


def test_a_seed_fixes_it_and_calls_differ():
    x = fastconv.ones(100)
    fastconv.manual_seed(7)
    first, second = F.dropout(x), F.dropout(x)
    assert not fastconv.equal(first, second)
    fastconv.manual_seed(7)
    assert fastconv.equal(F.dropout(x), first)
    generator = fastconv.manual_seed(7)
    state = generator.get_state()
    F.dropout(x)
    generator.set_state(state)
    assert fastconv.equal(F.dropout(x), first) and fastconv.equal(F.dropout(x), second)


def test_it_leaves_the_other_numbers_alone():
    fastconv.manual_seed(7)
    expected = fastconv.randn(5)
    fastconv.manual_seed(7)
    F.dropout(fastconv.ones(10))
    assert fastconv.equal(fastconv.randn(5), expected)


@pytest.mark.parametrize("function", [F.dropout, F.dropout2d])
@pytest.mark.parametrize("inplace", [False, True])
def test_gradient(function, inplace):
    """That of a product with what is 0 or 1 / (1 - p)."""
    fastconv.manual_seed(1)
    x = fastconv.randn(3, 20, 4, 5, requires_grad=True)
    h = x * 1
    y = function(h, 0.25, inplace=inplace)
    assert (y is h) == inplace and y.grad_fn.name() == "NativeDropoutBackward"
    y.sum().backward()
    factor = x.grad.numpy()
    assert set(np.unique(factor)) == {0, np.float32(1 / (1 - 0.25))}
    assert np.array_equal(y.detach().numpy(), x.detach().numpy() * factor)
    whole = (factor == factor[:, :, :1, :1]).all()
    assert whole == (function is F.dropout2d)


def test_in_place_on_a_view():
    base = fastconv.ones(8, 6)
    F.dropout(base[:, ::2], 0.5, inplace=True)
    values = base.numpy()
    assert (values[:, 1::2] == 1).all() and set(np.unique(values[:, ::2])) == {0, 2}


def test_when_nothing_is_dropped():
    x = fastconv.ones(5, requires_grad=True)
    state = fastconv.random.default_generator.dropout_state.copy()
    assert nn.Dropout(0.5).eval()(x) is x and F.dropout(x, 0.0) is x
    assert F.dropout(x, 0.3, training=False) is x
    assert np.array_equal(fastconv.random.default_generator.dropout_state, state)
    y = nn.Dropout(1.0)(x)
    y.sum().backward()
    assert y.tolist() == [0] * 5 and x.grad.tolist() == [0] * 5


@pytest.mark.parametrize("p", [-0.1, 1.1, float("nan")])
def test_probabilities_that_are_refused(p):
    for call in (
        lambda: nn.Dropout(p),
        lambda: nn.Dropout2d(p),
        lambda: F.dropout(fastconv.ones(2), p),
    ):
        with pytest.raises(
            ValueError, match="dropout probability has to be between 0 and 1, but got"
        ):
            call()
