import numpy as np
import pytest
import reference as ref
from helpers import AWKWARD, check, covers, guarded, normal

from fastconv import kernels

SHAPES = [(1,), (7,), (33,), (6, 1, 3, 3), (1000,), (0,), ()]
SGD = [
    {},
    {"weight_decay": 0.1},
    {"momentum": 0.9},
    {"momentum": 0.9, "dampening": 0.3, "weight_decay": 0.01},
    {"momentum": 0.9, "nesterov": True},
    {"momentum": 0.5, "nesterov": True, "weight_decay": 0.1},
]
SGD_DEFAULTS = {"momentum": 0, "dampening": 0, "weight_decay": 0, "nesterov": False}
ADAM = {"lr": 0.01, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8}


def bound(*arrays, dtype):
    """Every step is a handful of roundings of numbers as large as the largest of these."""
    return 8 * np.finfo(dtype).eps * sum(np.abs(np.asarray(a, float)) for a in arrays)


@covers("sgd_step")
@pytest.mark.parametrize("options", SGD)
@pytest.mark.parametrize("shape", SHAPES)
def test_sgd(isa, dtype, rng, shape, options):
    options = {**SGD_DEFAULTS, **options, "lr": 0.1}
    with guarded(shape, dtype) as p, guarded(shape, dtype) as buffer:
        p[...] = normal(rng, shape, dtype)
        v = buffer if options["momentum"] else None  # NaN at first: must not be read
        for step in range(3):
            g = normal(rng, shape, dtype)
            before, given = p.astype(float), g.copy()
            expected, expected_v = ref.sgd_step(p, g, v, first=step == 0, **options)
            kernels.sgd_step(p, g, v, first=step == 0, **options)
            check(p, expected, bound(before, g, 0 if v is None else expected_v, dtype=dtype))
            if v is not None:
                check(v, expected_v, bound(before, g, expected_v, dtype=dtype))
            check(g, given)


@pytest.mark.parametrize("options", SGD)
@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (7, 1), (1, 9), (120, 576), (0, 4), (4, 0)])
def test_sgd_with_the_gradient_as_an_outer_product(isa, dtype, rng, threads, shape, options):
    """The bits of a step with the product itself, also where it is -0, and however many threads share it."""
    options = {**SGD_DEFAULTS, **options, "lr": 0.1}
    column, row = (normal(rng, (n,), dtype) for n in shape)
    column[::2] = -0.0
    grad = kernels.gemm(column[:, None], row[None])
    for count, first in ((1, True), (2, False), (3, True), (4, False)):
        threads(count)
        given, wanted = [], []
        for arrays, g in ((given, (column, row)), (wanted, grad)):
            start = np.random.default_rng(3)
            p, v = normal(start, shape, dtype), normal(start, shape, dtype)
            p[:, ::3] = -0.0
            buffer = v if options["momentum"] else None
            kernels.sgd_step(p, g, buffer, first=first, **options)
            arrays += [p.tobytes(), v.tobytes()]
        assert given == wanted


@pytest.mark.parametrize("momentum", [0, 0.9])
@pytest.mark.parametrize(
    "shape", [(1, 1), (3, 5), (7, 1), (1, 9), (6, 1100), (120, 576), (0, 4), (4, 0)]
)
def test_sgd_with_the_other_gradient_of_a_layer(isa, dtype, rng, threads, shape, momentum):
    """The bits of a product with the weights before the step, and of the step."""
    options = {**SGD_DEFAULTS, "lr": 0.1, "momentum": momentum, "weight_decay": 0.1}
    column, row = (normal(rng, (n,), dtype) for n in shape)
    start, velocity = normal(rng, shape, dtype), normal(rng, shape, dtype)
    wanted, v = start.copy(), velocity.copy()
    kernels.sgd_step(wanted, (column, row), v if momentum else None, **options)
    for count in (1, 2, 3, 4):
        threads(count)
        with guarded(shape, dtype) as p, guarded(shape[1:], dtype) as dx:
            p[...], its_v = start, velocity.copy()
            kernels.sgd_step(p, (column, row), its_v if momentum else None, dx=dx, **options)
            assert dx.tobytes() == kernels.gemm(column[None], start).tobytes()
            assert p.tobytes() == wanted.tobytes() and its_v.tobytes() == v.tobytes()


def test_gradients_that_are_no_outer_product(dtype):
    p, column, row = np.zeros((3, 4), dtype), np.zeros(3, dtype), np.zeros(4, dtype)
    options = {**SGD_DEFAULTS, "lr": 0.1}
    for grad, message in (
        ((row, column), r"must have shape \(4, 3\)"),
        ((column,), "a pair"),
        ((column[:, None], row), "column must have 1 axes"),
        ((column, p[0]), "shares memory"),
        ((p[0, :3], row), "shares memory"),
    ):
        with pytest.raises(ValueError, match=message):
            kernels.sgd_step(p, grad, None, **options)
    with pytest.raises(TypeError, match="row is"):
        other = np.float32 if dtype == np.float64 else np.float64
        kernels.sgd_step(p, (column, row.astype(other)), None, **options)
    with pytest.raises(ValueError, match="must have shape"):
        kernels.sgd_step(np.zeros(12, dtype), (column, row), None, **options)
    assert not p.any()


def test_a_place_for_the_other_gradient_that_will_not_do(dtype):
    p, column, row, v = (np.zeros(n, dtype) for n in ((3, 4), 3, 4, (3, 4)))
    options = {**SGD_DEFAULTS, "lr": 0.1, "momentum": 0.9}
    for grad, dx, message in (
        (p.copy(), row.copy(), "where grad is a pair"),
        ((column, row), np.zeros(3, dtype), "dx must have shape"),
        ((column, row), np.zeros(8, dtype)[::2], "changed in place"),
        ((column, row), row, "shares memory"),
        ((column, row), p[0], "shares memory"),
        ((column, row), v[1], "shares memory"),
    ):
        with pytest.raises(ValueError, match=message):
            kernels.sgd_step(p, grad, v, dx=dx, **options)
    assert not p.any()


@pytest.mark.parametrize("momentum", [0, 0.9])
def test_many_parameters_in_one_call(dtype, rng, momentum):
    """The bits of one call for each."""
    options = {**SGD_DEFAULTS, "lr": 0.1, "momentum": momentum}
    many = [[normal(rng, shape, dtype) for shape in SHAPES] for _ in range(3)]
    one = [[a.copy() for a in arrays] for arrays in many]
    kernels.sgd_steps(*many[: 3 if momentum else 2], **options)
    for p, g, v in zip(*one, strict=True):
        kernels.sgd_step(p, g, v if momentum else None, **options)
    for arrays, expected in zip(many, one, strict=True):
        for a, b in zip(arrays, expected, strict=True):
            assert a.tobytes() == b.tobytes()
    with pytest.raises(ValueError, match="for each of"):
        kernels.sgd_steps(many[0], many[1][:1], **options)


@covers("adam_step")
@pytest.mark.parametrize("weight_decay", [0, 0.1])
@pytest.mark.parametrize("shape", SHAPES)
def test_adam(isa, dtype, rng, shape, weight_decay):
    with guarded(shape, dtype) as p, guarded(shape, dtype) as m, guarded(shape, dtype) as v:
        p[...] = normal(rng, shape, dtype)
        m[...] = v[...] = 0
        for step in (1, 2, 3, 1000):
            g = normal(rng, shape, dtype)
            before, given = p.astype(float), g.copy()
            options, count = {**ADAM, "weight_decay": weight_decay}, np.array(step - 1)
            expected = ref.adam_step(p, g, m, v, step=step, **options)
            kernels.adam_step(p, g, m, v, count, **options)
            assert count == step
            check(p, expected[0], bound(before, 1, dtype=dtype))
            check(m, expected[1], bound(before, g, m, dtype=dtype))
            check(v, expected[2], bound((abs(before) + abs(g)) ** 2, v, dtype=dtype))
            check(g, given)


def test_steps_that_meet_nan_and_inf(isa, dtype):
    p = np.array([1, 2, 3, np.nan], dtype)
    g = np.array([np.nan, np.inf, 0, 1], dtype)
    kernels.sgd_step(p, g, None, lr=0.5, first=True, **SGD_DEFAULTS)
    check(p, [np.nan, -np.inf, 3, np.nan])
    p, m, v = np.array([1, 2, 3, np.nan], dtype), np.zeros(4, dtype), np.zeros(4, dtype)
    kernels.adam_step(p, g, m, v, np.array(0), **ADAM, weight_decay=0)
    assert np.isnan(p[[0, 1, 3]]).all() and p[2] == 3


@pytest.mark.parametrize("awkward", AWKWARD)
def test_awkward_gradient(isa, dtype, rng, awkward):
    p, g = normal(rng, (3, 5), dtype), normal(rng, (3, 5), dtype)
    expected, _ = ref.sgd_step(p, g, None, lr=0.1)
    kernels.sgd_step(p, awkward(g), None, lr=0.1, first=True, **SGD_DEFAULTS)
    check(p, expected, bound(expected, g, dtype=dtype))


@pytest.mark.parametrize("awkward", AWKWARD)
def test_awkward_parameter(isa, dtype, rng, awkward):
    """Updated in place, or refused untouched: never written to a copy that is thrown away."""
    p, g = normal(rng, (3, 5), dtype), normal(rng, (3, 5), dtype)
    given = awkward(p)
    for step, expected in (
        (
            lambda: kernels.sgd_step(given, g, None, lr=0.1, first=True, **SGD_DEFAULTS),
            ref.sgd_step(p, g, None, lr=0.1)[0],
        ),
        (
            lambda: kernels.adam_step(given, g, p * 0, p * 0, np.array(0), **ADAM, weight_decay=0),
            None,
        ),
    ):
        before = given.copy()
        try:
            step()
        except (ValueError, TypeError):
            assert np.array_equal(given, before)
        else:
            assert given.flags.writeable and not np.array_equal(given, before)
            if expected is not None:
                check(np.array(given, dtype), expected, bound(expected, g, dtype=dtype))


def test_steps_refuse_what_does_not_fit(dtype):
    p = np.zeros(4, dtype)
    other = np.zeros(4, np.float32 if dtype == np.float64 else np.float64)
    sgd = {**SGD_DEFAULTS, "lr": 0.1, "first": True}
    momentum = {**sgd, "momentum": 0.9}
    for given, options, error in (
        ((p, p[:3].copy(), None), sgd, ValueError),
        ((p, other, None), sgd, TypeError),
        ((p, p.astype(int), None), sgd, TypeError),
        ((p, None, None), sgd, TypeError),
        ((p, p.copy(), p[:3].copy()), momentum, ValueError),
        ((p, p.copy(), other), momentum, TypeError),
        ((p, p.copy(), None), momentum, (TypeError, ValueError)),
        ((p.tolist(), p, None), sgd, TypeError),
    ):
        with pytest.raises(error):
            kernels.sgd_step(*given, **options)
    read_only = np.array(0)
    read_only.flags.writeable = False
    for given, error in (
        ((p, p.copy(), p.copy(), p[:3].copy(), np.array(0)), ValueError),
        ((p, p.copy(), p.copy(), other, np.array(0)), TypeError),
        ((p, p.copy(), p.copy(), None, np.array(0)), TypeError),
        ((p, p.copy(), p.copy(), p.copy(), np.array(-1)), ValueError),
        ((p, p.copy(), p.copy(), p.copy(), read_only), ValueError),
        ((p, p.copy(), p.copy(), p.copy(), np.array([0])), TypeError),
        ((p, p.copy(), p.copy(), p.copy(), np.array(0.0)), TypeError),
        ((p, p.copy(), p.copy(), p.copy(), 0), TypeError),
    ):
        with pytest.raises(error):
            kernels.adam_step(*given, **ADAM, weight_decay=0)
