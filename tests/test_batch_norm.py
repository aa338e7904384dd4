import numpy as np
import pytest
import reference as ref
from helpers import check, check_bits, covers, guarded, normal, numeric_slope

import fastconv
from fastconv import kernels, nn
from fastconv.nn import functional as F

SHAPES = [
    (2, 3, 4, 5),
    (1, 3, 1, 2),
    (2, 1, 1, 1),
    (5, 4),
    (6, 261),
    (2, 3, 11),
    (16, 5, 7, 7),
    (1, 90, 9, 9),
    (3, 259, 2, 3),
    (2, 3, 120, 121),
    (4, 1, 33, 31),
]
EPS = np.finfo(float).eps
shapes = pytest.mark.parametrize("shape", SHAPES)


def wide(a, x):
    return ref.per_channel(a, x)


def spread(x):
    """The largest difference within a channel."""
    rows = np.moveaxis(np.asarray(x, float), 1, 0).reshape(x.shape[1], -1)
    return rows.max(1) - rows.min(1)


def errors_of_moments(x):
    """Of sums of n differences of at most `spread`, and of their squares, in double: n eps of them;

    and the mean is a double.
    """
    n = x.size // x.shape[1]
    return n * EPS * spread(x) + EPS * abs(ref.moments(x)[0]), 2 * n * EPS * spread(x) ** 2


def forward_bound(x, w, b, mean, invstd, dtype):
    """y is rounded in (x - mean) twice, in the scale, in the product and in the sum; and mean and var have errors."""
    of_mean, of_var = errors_of_moments(x)
    scale = wide(abs(invstd * w), x)
    size = abs(np.asarray(x, float) - wide(mean, x)) * scale
    rounded = 4 * np.finfo(dtype).eps * (size + wide(abs(b), x))
    return (rounded + wide(of_mean, x) * scale + size * wide(of_var * invstd**2 / 2, x)).astype(
        float
    )


def backward_bounds(dy, x, w, mean, invstd, dtype):
    """Likewise, with dw / n and db / n as the two moments."""
    eps, n = np.finfo(dtype).eps, x.size // x.shape[1]
    xhat = abs(np.asarray(x, float) - wide(mean, x)) * wide(invstd, x)
    axes = (0, *range(2, x.ndim))
    sizes = [(abs(dy) * xhat).sum(axes), abs(dy).sum(axes)]
    dw, db = ((n * EPS + eps) * size for size in sizes)
    size = abs(dy) + wide(sizes[1] / n, x) + xhat * wide(sizes[0] / n, x)
    dx = (6 * eps + n * EPS) * size * wide(abs(w) * invstd, x)
    return dx.astype(float), dw.astype(float), db.astype(float)


def arrays(rng, shape, dtype, offset=0.0):
    x, dy = normal(rng, shape, dtype) + np.asarray(offset, dtype), normal(rng, shape, dtype)
    w, b = normal(rng, shape[1], dtype), normal(rng, shape[1], dtype)
    return x, dy, w, b


@covers("batch_norm_forward", "batch_norm_backward")
@pytest.mark.parametrize("offset", [0, 1e4, -3e6])
@shapes
def test_training(isa, dtype, rng, shape, offset):
    """A mean much larger than the differences costs no digits."""
    x, dy, w, b = arrays(rng, shape, dtype, offset)
    y, mean, invstd = kernels.batch_norm_forward(x, w, b)
    expected, expected_mean, expected_invstd = ref.batch_norm_forward(x, w, b)
    of_mean, of_var = errors_of_moments(x)
    check(mean, expected_mean, of_mean)
    check(invstd, expected_invstd, expected_invstd * (of_var * expected_invstd**2 + 4 * EPS))
    check(y, expected, forward_bound(x, w, b, expected_mean, expected_invstd, dtype))
    results = kernels.batch_norm_backward(dy, x, w, mean, invstd)
    bounds = backward_bounds(dy, x, w, mean, invstd, dtype)
    wanted = ref.batch_norm_backward(dy, x, w, mean, invstd)
    for actual, exact, bound in zip(results, wanted, bounds, strict=True):
        check(actual, exact, bound)


@covers("batch_norm_again")
@shapes
def test_again(isa, dtype, rng, shape):
    """From moments that come from elsewhere, too."""
    x, residual, w, b = arrays(rng, shape, dtype)
    mean, var = normal(rng, shape[1], "float64"), normal(rng, shape[1], "float64") ** 2 + 1
    expected, _, invstd = ref.batch_norm_forward(x, w, b, mean, var)
    size = abs(x - wide(mean, x)) * wide(abs(w) * invstd, x) + wide(abs(b), x) + abs(residual)
    bound = (6 * np.finfo(dtype).eps * size).astype(float)
    saved = mean, invstd.astype(float)
    check(kernels.batch_norm_again(x, w, b, *saved), expected, bound)
    expected = ref.relu(expected + residual)
    check(kernels.batch_norm_again(x, w, b, *saved, residual=residual, relu=True), expected, bound)
    kernels.batch_norm_again(x, w, b, *saved, residual=residual, relu=True, out=residual)
    check(residual, expected, bound)


@covers("batch_norm_forward", "batch_norm_backward")
@shapes
def test_with_running_statistics(isa, dtype, rng, shape):
    x, dy, w, b = arrays(rng, shape, dtype)
    mean, var = normal(rng, shape[1], dtype), normal(rng, shape[1], dtype) ** 2
    before = mean.copy(), var.copy()
    y, *saved = kernels.batch_norm_forward(x, w, b, mean, var, training=False, eps=1e-3)
    expected, expected_mean, expected_invstd = ref.batch_norm_forward(x, w, b, mean, var, 1e-3)
    size = abs(x - wide(mean, x)) * wide(abs(w) * expected_invstd, x)
    check(y, expected, (4 * np.finfo(dtype).eps * (size + wide(abs(b), x))).astype(float))
    check(saved[0], expected_mean)
    check(saved[1], expected_invstd, 4 * EPS * expected_invstd)
    check_bits(mean, before[0])
    check_bits(var, before[1])
    results = kernels.batch_norm_backward(dy, x, w, *saved, training=False)
    bounds = backward_bounds(dy, x, w, *saved, dtype)
    wanted = ref.batch_norm_backward(dy, x, w, *saved, training=False)
    for actual, exact, bound in zip(results, wanted, bounds, strict=True):
        check(actual, exact, bound)


@shapes
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("special", [False, True])
def test_a_residual_and_relu_within(isa, dtype, rng, shape, training, special):
    """The bits of the pointwise kernels after the forward, and of relu's gradient before the backward."""
    x, dy, w, b = arrays(rng, shape, dtype)
    residual, var = normal(rng, shape, dtype), np.ones(shape[1], dtype)
    if special and x.size:
        for array in (dy, residual) if training else (x, dy, residual):
            places = rng.integers(array.size, size=8)
            array.flat[places] = [np.nan, -np.nan, np.inf, -np.inf, 0, -0.0, 1e-40, -1e-40]
    running = () if training else (b, var)
    plain, *saved = kernels.batch_norm_forward(x, w, b, *running, training=training)
    sums = kernels.add(plain, residual)
    for added, relu, expected in (
        (None, True, kernels.relu(plain)),
        (residual, False, sums),
        (residual, True, kernels.relu(sums)),
    ):
        options = {"training": training, "residual": added, "relu": relu}
        y, *found = kernels.batch_norm_forward(x, w, b, *running, **options)
        check_bits(y, expected)
        assert all(map(np.array_equal, found, saved))
        if added is not None:  # in its place
            out = added.copy()
            kernels.batch_norm_forward(x, w, b, *running, **options | {"residual": out}, out=out)
            check_bits(out, expected)
        check_bits(kernels.batch_norm_again(x, w, b, *saved, residual=added, relu=relu), expected)
    check_bits(kernels.batch_norm_again(x, w, b, *saved), plain)
    for y, asked in (
        (kernels.relu(plain), {"y": kernels.relu(plain)}),
        (kernels.relu(plain), {"b": b, "relu": True}),
        (kernels.relu(sums), {"y": kernels.relu(sums)}),
    ):
        results = kernels.batch_norm_backward(dy, x, w, *saved, training=training, **asked)
        masked = kernels.relu_backward(dy, y)
        wanted = kernels.batch_norm_backward(masked, x, w, *saved, training=training)
        for actual, exact in zip(results, wanted, strict=True):
            check_bits(actual, exact)


def test_a_residual_or_result_of_another_shape(rng):
    x, dy, w, b = arrays(rng, (2, 3, 4), np.float32)
    saved = kernels.batch_norm_forward(x, w, b)[1:]
    for wrong in (dy[:1], dy[0], dy.astype(np.float64)):
        with pytest.raises((ValueError, TypeError), match="residual must|residual is"):
            kernels.batch_norm_forward(x, w, b, residual=wrong)
        with pytest.raises((ValueError, TypeError), match="residual must|residual is"):
            kernels.batch_norm_again(x, w, b, *saved, residual=wrong)
        with pytest.raises((ValueError, TypeError), match="^y (must|is)"):
            kernels.batch_norm_backward(dy, x, w, *saved, y=wrong)
    memory = np.zeros(25, np.float32)
    with pytest.raises(ValueError, match="out shares memory with residual"):
        out, residual = memory[1:].reshape(x.shape), memory[:-1].reshape(x.shape)
        kernels.batch_norm_forward(x, w, b, residual=residual, out=out)
    with pytest.raises(ValueError, match="give one of them"):
        kernels.batch_norm_backward(dy, x, w, *saved, y=dy, b=b, relu=True)


@pytest.mark.parametrize("momentum", [0.1, 0.0, 1.0, None])
def test_running_statistics_move(isa, dtype, rng, momentum):
    """By the part momentum; None makes them averages over the batches, whatever they began as."""
    shape, eps = (3, 5, 4, 6), np.finfo(dtype).eps
    mean, var, count = np.full(5, 7, dtype), np.full(5, 9, dtype), np.zeros((), np.int64)
    expected = mean.astype(float), var.astype(float)
    for step in range(1, 5):
        x = normal(rng, shape, dtype) * 3 - 2
        kernels.batch_norm_forward(x, None, None, mean, var, count, momentum=momentum)
        part = 1 / step if momentum is None else momentum
        new_mean, new_var = ref.moments(x)
        expected = [
            ref.running(old, new, part)
            for old, new in zip(expected, (new_mean, new_var * 72 / 71), strict=True)
        ]
        check(mean, expected[0], 4 * step * eps * 10)
        check(var, expected[1], 4 * step * eps * 20)
        assert count == step
    before = mean.copy()
    kernels.batch_norm_forward(x, None, None, mean, var, count, training=False)
    assert count == 4 and np.array_equal(before, mean)
    kernels.batch_norm_forward(x, num_batches_tracked=count)
    assert count == 5


def test_no_counter_and_no_momentum(rng):
    """As with PyTorch's functional form, nothing moves then."""
    x, mean, var = normal(rng, (3, 2, 4), "float64"), np.full(2, 3.0), np.full(2, 4.0)
    kernels.batch_norm_forward(x, None, None, mean, var, momentum=None)
    assert mean.tolist() == [3, 3] and var.tolist() == [4, 4]


@pytest.mark.parametrize("affine", [(False, False), (True, False), (False, True)])
def test_without_weight_or_bias(isa, dtype, rng, affine):
    x, dy, w, b = arrays(rng, (3, 4, 5, 6), dtype)
    given = w if affine[0] else None, b if affine[1] else None
    ones, zeros = np.ones(4, dtype), np.zeros(4, dtype)
    y, *saved = kernels.batch_norm_forward(x, *given)
    same = w if affine[0] else ones, b if affine[1] else zeros
    check_bits(y, kernels.batch_norm_forward(x, *same)[0])
    for a, e in zip(
        kernels.batch_norm_backward(dy, x, given[0], *saved),
        kernels.batch_norm_backward(dy, x, same[0], *saved),
        strict=True,
    ):
        check_bits(a, e)


def test_whole_numbers_are_exact(isa, dtype):
    """Mean 5 and variance 4, without eps."""
    x = np.array([3, 7, 7, 3, 7, 3], dtype).reshape(1, 1, 2, 3)
    y, mean, invstd = kernels.batch_norm_forward(x, eps=0.0)
    assert (mean[0], invstd[0]) == (5, 0.5)
    check(y, (x - 5) / 2)


@pytest.mark.parametrize("training", [True, False])
def test_slopes(isa, rng, training):
    """Along random directions, in double: the gradients of sum(r y)."""
    x, r, w, b = arrays(rng, (3, 4, 5, 2), "float64")
    given = (None, None) if training else (b, w**2)

    def loss(x, w, b):
        return (kernels.batch_norm_forward(x, w, b, *given, training=training)[0] * r).sum()

    saved = kernels.batch_norm_forward(x, w, b, *given, training=training)[1:]
    gradients = kernels.batch_norm_backward(r, x, w, *saved, training=training)
    for i, (argument, gradient) in enumerate(zip((x, w, b), gradients, strict=True)):
        direction = rng.standard_normal(argument.shape)
        given_to = [x, w, b]

        def along(value, i=i, given_to=given_to):
            return loss(*given_to[:i], value, *given_to[i + 1 :])

        slope = numeric_slope(along, argument, direction)
        assert (gradient * direction).sum() == pytest.approx(slope, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 7])
def test_a_channel_spoils_itself_only(isa, dtype, rng, special, place):
    x, dy, w, b = arrays(rng, (2, 3, 4, 5), dtype)
    clean = kernels.batch_norm_forward(x, w, b)[0]
    x[0, 1].flat[place] = special
    mean, var = np.zeros(3, dtype), np.ones(3, dtype)
    y, *saved = kernels.batch_norm_forward(x, w, b, mean, var)
    check(y[:, ::2], clean[:, ::2].astype(float))
    assert np.isnan(y[:, 1]).all() and np.isnan(var[1]) and np.isfinite(var[::2]).all()
    assert mean[1] == special or np.isnan(special) and np.isnan(mean[1])
    dx, dw, db = kernels.batch_norm_backward(dy, x, w, *saved)
    assert np.isnan(dx[:, 1]).all() and np.isnan(dw[1]) and np.isfinite(dx[:, ::2]).all()
    assert np.isfinite(dw[::2]).all() and np.isfinite(db).all()


def test_infinite_running_statistics(isa, dtype):
    """As the formula has it: an infinite variance leaves the bias, an infinite mean an infinity."""
    x, b = np.full((1, 3, 2), 5, dtype), np.full(3, 2, dtype)
    mean, var = np.array([0, np.inf, -np.inf], dtype), np.array([np.inf, 1, 1], dtype)
    y = kernels.batch_norm_forward(x, None, b, mean, var, training=False)[0]
    check(y[0, :, 0], [2, -np.inf, np.inf])


@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 3, 0, 4), (2, 0, 3, 3), (0, 3)])
@pytest.mark.parametrize("training", [True, False])
def test_empty(isa, dtype, shape, training):
    """As with PyTorch: the running statistics stay, the batch counts, the gradients are 0."""
    C = shape[1]
    x, mean, var = np.zeros(shape, dtype), np.full(C, 3, dtype), np.full(C, 4, dtype)
    count = np.zeros((), np.int64)
    y, *saved = kernels.batch_norm_forward(x, None, None, mean, var, count, training=training)
    assert y.shape == shape and (mean == 3).all() and (var == 4).all() and count == training
    dx, dw, db = kernels.batch_norm_backward(x, x, None, *saved, training=training)
    assert dx.shape == shape and not dw.any() and not db.any()


@shapes
def test_nothing_beside_out_is_written(isa, dtype, rng, shape):
    x, dy, w, b = arrays(rng, shape, dtype)
    expected, *saved = kernels.batch_norm_forward(x, w, b)
    with guarded(shape, dtype) as out:
        check_bits(kernels.batch_norm_forward(x, w, b, out=out)[0], expected)
    expected = kernels.batch_norm_backward(dy, x, w, *saved)[0]
    with guarded(shape, dtype) as out:
        check_bits(kernels.batch_norm_backward(dy, x, w, *saved, out=out)[0], expected)


@pytest.mark.parametrize("shape", [(4, 37, 30, 31), (1, 37, 60, 61), (300, 263)])
def test_bits_do_not_depend_on_threads(isa, dtype, rng, threads, shape):
    x, dy, w, b = arrays(rng, shape, dtype)

    def results():
        mean, var = np.zeros_like(w), np.ones_like(w)
        y, *saved = kernels.batch_norm_forward(x, w, b, mean, var)
        return y, *saved, mean, var, *kernels.batch_norm_backward(dy, x, w, *saved)

    threads(1)
    expected = results()
    for count in (2, 3, 7):
        threads(count)
        for a, e in zip(results(), expected, strict=True):
            check_bits(a, e)


def test_refusals(rng):
    x, dy, w, b = arrays(rng, (2, 3, 4, 5), np.float32)
    mean, var, wide_mean = np.zeros(3, np.float32), np.ones(3, np.float32), np.zeros(3)
    forward, backward = kernels.batch_norm_forward, kernels.batch_norm_backward
    read_only = mean.copy()
    read_only.flags.writeable = False
    for error, text, call in (
        (
            ValueError,
            r"w must have shape \(3,\), got \(4,\)",
            lambda: forward(x, np.ones(4, w.dtype)),
        ),
        (ValueError, r"must be \(N, C, ...\), got shape \(3,\)", lambda: forward(mean)),
        (ValueError, "both be None", lambda: forward(x, running_mean=mean)),
        (ValueError, "both be None", lambda: forward(x, running_var=var)),
        (ValueError, "must be a running_mean", lambda: forward(x, training=False)),
        (ValueError, "more than 1 value per channel", lambda: forward(x[:1, :, :1, :1])),
        (ValueError, "more than 1 value per channel", lambda: forward(x[:1, :, 0, 0])),
        (ValueError, "changed in place", lambda: forward(x, None, None, read_only, var)),
        (ValueError, "changed in place", lambda: forward(x, None, None, mean[::-1], var)),
        (ValueError, "running_mean shares memory", lambda: forward(x, None, None, mean, mean)),
        (ValueError, "running_var shares memory", lambda: forward(x, var, None, mean, var)),
        (TypeError, "running_mean is float64", lambda: forward(x, None, None, wide_mean, var)),
        (TypeError, "num_batches_tracked must be int64", lambda: forward(x, num_batches_tracked=b)),
        (
            ValueError,
            "must be one number",
            lambda: forward(x, num_batches_tracked=np.zeros(2, int)),
        ),
        (TypeError, "must be a NumPy array", lambda: forward(x, num_batches_tracked=0)),
        (TypeError, "mean must be float64", lambda: backward(dy, x, w, mean, wide_mean)),
        (ValueError, r"x must have shape", lambda: backward(dy, x[:1], w, wide_mean, wide_mean)),
        (ValueError, r"invstd must have shape", lambda: backward(dy, x, w, wide_mean, np.ones(4))),
    ):
        with pytest.raises(error, match=text):
            call()


# The layers --------------------------------------------------------------------------------------


def test_modes(rng):
    """In training the batch's statistics, which the running ones follow; afterwards those."""
    layer = nn.BatchNorm2d(3, momentum=0.5, dtype=np.float64)
    x = fastconv.tensor(normal(rng, (4, 3, 5, 5), "float64") * 3 + 1)
    y = layer(x)
    assert abs(y.mean().item()) < 1e-14 and y.var(unbiased=False).item() == pytest.approx(
        1, abs=1e-5
    )
    mean, var = ref.moments(x.numpy())
    check(layer.running_mean.numpy(), mean / 2, 1e-15)
    check(layer.running_var.numpy(), 0.5 + var * 100 / 99 / 2, 1e-14)
    assert layer.num_batches_tracked.item() == 1
    state = {name: t.numpy().copy() for name, t in layer.eval().state_dict().items()}
    expected = ref.batch_norm_forward(x.numpy(), None, None, mean / 2, state["running_var"])[0]
    check(layer(x).detach().numpy(), expected, 1e-13)
    for name, t in layer.state_dict().items():
        check_bits(t.numpy(), state[name])


def test_gradients_of_what_is_there(rng):
    x = fastconv.tensor(normal(rng, (4, 3, 5, 5), "float32"), requires_grad=True)
    for affine, bias in ((True, True), (True, False), (False, False)):
        layer = nn.BatchNorm2d(3, affine=affine, bias=bias)
        x.grad = None
        (layer(x) * fastconv.rand_like(x)).sum().backward()
        assert x.grad is not None and len(list(layer.parameters())) == affine + bias
        assert all(p.grad.shape == (3,) for p in layer.parameters())
    y = F.batch_norm(x, None, None, None, fastconv.ones(3).requires_grad_(), training=True)
    y.sum().backward()


def test_an_input_changed_in_place_is_noticed(rng):
    x = fastconv.tensor(normal(rng, (4, 3, 5, 5), "float32"))
    layer, h = nn.BatchNorm2d(3), x * fastconv.ones(1, requires_grad=True)
    y = layer(h)
    h.mul_(2)
    with pytest.raises(RuntimeError, match="NativeBatchNormBackward needs was changed in place"):
        y.sum().backward()
    F.relu(layer(x), inplace=True).sum().backward()  # the result may be


def test_state_goes_through_a_file(tmp_path, rng):
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3))
    for _ in range(3):
        net(fastconv.randn(2, 1, 6, 6))
    path = tmp_path / "net.safetensors"
    fastconv.save(net.state_dict(), path)
    other = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3))
    count = other[1].num_batches_tracked.numpy()
    other.load_state_dict(fastconv.load(path))
    assert other[1].num_batches_tracked.dtype == np.int64 and count.shape == () and count == 3
    for name, t in net.state_dict().items():
        check_bits(other.state_dict()[name].numpy(), t.numpy())
    assert net.double()[1].num_batches_tracked.dtype == np.int64
    assert net[1].running_var.dtype == np.float64


def test_reset(rng):
    layer = nn.BatchNorm1d(3)
    layer(fastconv.randn(5, 3))
    layer.reset_running_stats()
    assert layer.num_batches_tracked.item() == 0
    assert layer.running_mean.tolist() == [0, 0, 0] and layer.running_var.tolist() == [1, 1, 1]
    assert nn.BatchNorm1d(3, track_running_stats=False).eval()(fastconv.randn(5, 3)).shape == (5, 3)


@pytest.mark.parametrize(
    "layer,shape,text",
    [
        (nn.BatchNorm2d, (2, 3), "expected 4D input .got 2D input."),
        (nn.BatchNorm1d, (2, 3, 1, 1), "expected 2D or 3D input .got 4D input."),
        (nn.BatchNorm2d, (1, 3, 1, 1), "more than 1 value per channel"),
        (
            nn.BatchNorm2d,
            (2, 4, 1, 1),
            r"BatchNorm2d\\(3, .*must have shape \\(4,\\), got \\(3,\\)",
        ),
    ],
)
def test_inputs_that_layers_refuse(layer, shape, text):
    with pytest.raises(ValueError, match=text.replace("\\\\", "\\")):
        layer(3)(fastconv.ones(*shape))
    with pytest.raises(ValueError, match="must not be negative"):
        layer(-1)
