"""Losses: reductions, weights, ignored targets, smoothing, shapes."""

import itertools

import numpy as np
import pytest
from libraries import compare, differences, normal, refused

import fastconv

REDUCTIONS = ("mean", "sum", "none")


def targets(*shape, classes=5, seed=3):
    return np.asarray(np.random.default_rng(seed).integers(0, classes, shape))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shape", [(), (4,), (3, 5), (2, 3, 4, 5), (0,), (0, 3)], ids=str)
def test_mse(shape, reduction, dtype):
    x, t = normal(*shape, dtype=dtype), normal(*shape, dtype=dtype, seed=1)
    compare(lambda torch, x, t: torch.nn.functional.mse_loss(x, t, reduction=reduction), x, t)
    compare(lambda torch, x, t: torch.nn.MSELoss(reduction=reduction)(x, t.detach()), x, t)


@pytest.mark.parametrize(
    "dtypes", [("float32", "float64"), ("float64", "float32"), ("float32", "int64")]
)
def test_mse_of_two_dtypes(dtypes):
    x, t = (
        np.arange(6).reshape(2, 3).astype(d) * np.asarray(1 + i, d) for i, d in enumerate(dtypes)
    )
    compare(lambda torch, x, t: torch.nn.functional.mse_loss(x, t), x, t)


def test_mse_of_two_shapes_is_refused():
    """PyTorch warns that it will likely lead to incorrect results, and broadcasts."""
    refused(lambda torch, x, t: torch.nn.functional.mse_loss(x, t), normal(3, 1), normal(3))


def test_mse_of_shapes_that_do_not_broadcast():
    compare(lambda torch, x, t: torch.nn.functional.mse_loss(x, t), normal(3, 2), normal(3))
    compare(
        lambda torch, x, t: torch.nn.functional.mse_loss(x, t, reduction="median"),
        normal(3),
        normal(3),
    )


SHAPES = [
    ((4, 5), (4,)),
    ((5,), ()),
    ((2, 5, 3), (2, 3)),
    ((2, 5, 3, 4), (2, 3, 4)),
    ((0, 5), (0,)),
    ((1, 1), (1,)),
]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["nll_loss", "cross_entropy"])
@pytest.mark.parametrize("scores, classes", SHAPES, ids=str)
def test_of_classes(name, scores, classes, dtype):
    x = normal(*scores, dtype=dtype)
    count = scores[0] if len(scores) == 1 else scores[1]
    t = targets(*classes, classes=count)
    w = np.abs(normal(count, dtype=dtype, seed=1))
    cases = []
    for reduction, weighted, ignored in itertools.product(REDUCTIONS, (False, True), (-100, 0)):
        options = {"reduction": reduction, "ignore_index": ignored}

        def program(torch, x, t, options=options, weighted=weighted):
            weight = torch.tensor(w) if weighted else None
            return getattr(torch.nn.functional, name)(x, t, weight=weight, **options)

        cases.append(((weighted, options), program, x, t))
    differences(cases, ulps=16)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("smoothing", [0.1, 1.0])
@pytest.mark.parametrize("scores, classes", SHAPES[:4], ids=str)
def test_label_smoothing(scores, classes, smoothing, reduction):
    options = {"label_smoothing": smoothing, "reduction": reduction}
    program = lambda torch, x, t: torch.nn.functional.cross_entropy(x, t, **options)  # noqa: E731
    compare(program, normal(*scores), targets(*classes), ulps=16)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("shape", [(4, 5), (5,), (2, 5, 3), (2, 5, 3, 4)], ids=str)
def test_probabilities_as_targets(shape, smoothing, reduction):
    p = np.exp(normal(*shape, seed=1))
    p /= p.sum(0 if len(shape) == 1 else 1, keepdims=True)
    options = {"label_smoothing": smoothing, "reduction": reduction}
    program = lambda torch, x, t: torch.nn.functional.cross_entropy(x, t, **options)  # noqa: E731
    compare(program, normal(*shape), p, ulps=16)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("ignored", [-100, 0])
def test_weights_with_smoothing(ignored, smoothing, reduction):
    x, t, w = normal(6, 5), targets(6), np.abs(normal(5, seed=1))
    options = {"label_smoothing": smoothing, "reduction": reduction}

    def program(torch, x, t, w):
        cross_entropy = torch.nn.functional.cross_entropy
        return cross_entropy(x, t, w.detach(), ignore_index=ignored, **options)

    compare(program, x, t, w, ulps=16)


def test_weights_with_probabilities_are_left_out():
    def program(torch, x, p):
        return torch.nn.functional.cross_entropy(x, p.detach().softmax(1), torch.ones(5))

    refused(program, normal(4, 5), normal(4, 5, seed=1))


@pytest.mark.parametrize("name", ["NLLLoss", "CrossEntropyLoss"])
def test_layers(name):
    x, t, w = normal(4, 5), targets(4), np.abs(normal(5, seed=1))
    differences(
        (
            options,
            lambda torch, x, t, w, o=options: getattr(torch.nn, name)(w.detach(), **o)(x, t),
            x,
            t,
            w,
        )
        for options in ({}, {"reduction": "sum"}, {"reduction": "none"}, {"ignore_index": 2})
    )


def test_all_targets_ignored():
    x, t = normal(3, 5), np.full(3, -100)
    for name in ("nll_loss", "cross_entropy"):
        for reduction in REDUCTIONS:
            options = {"reduction": reduction}
            compare(
                lambda torch, x, t, n=name, o=options: getattr(torch.nn.functional, n)(x, t, **o),
                x,
                t,
            )


WRONG = [
    ((4, 5), np.array([0, 1, 2, 5])),
    ((4, 5), np.array([0, 1, 2, -1])),
    ((4, 5), np.array([0, 1, 2])),
    ((4, 5), np.array([[0], [1], [2], [3]])),
    ((4, 5), np.array([0, 1, 2, 3], np.uint8)),
    ((4, 5), np.array([0.0, 1.0, 2.0, 3.0], np.float32)),
    ((4, 5), np.array([True, False, True, True])),
    ((4, 5, 2), np.array([0, 1, 2, 3])),
    ((), np.array(0)),
    ((5,), np.array([0])),
    ((5,), np.array([0, 1])),
]


@pytest.mark.parametrize("name", ["nll_loss", "cross_entropy"])
@pytest.mark.parametrize("scores, t", WRONG, ids=str)
def test_wrong_targets(name, scores, t):
    compare(lambda torch, x, t: getattr(torch.nn.functional, name)(x, t), normal(*scores), t)


def test_classes_of_other_integers_are_allowed():
    """int32 is an error in PyTorch."""
    x = fastconv.tensor(normal(4, 5))
    losses = [
        fastconv.nn.functional.cross_entropy(x, fastconv.tensor(targets(4).astype(dtype)))
        for dtype in ("int32", "int64", "uint8")
    ]
    assert losses[0] == losses[1] == losses[2]


@pytest.mark.parametrize("options", [{"reduction": "x"}, {"label_smoothing": 1.5}], ids=str)
def test_wrong_options(options):
    compare(
        lambda torch, x, t: torch.nn.functional.cross_entropy(x, t, **options),
        normal(4, 5),
        targets(4),
    )


@pytest.mark.parametrize("shape", [(4,), (6,)])
def test_weights_of_a_wrong_size(shape):
    program = lambda torch, x, t, w: torch.nn.functional.cross_entropy(x, t, w.detach())  # noqa: E731
    compare(program, normal(4, 5), targets(4, classes=4), normal(*shape))


NOT_FINITE = [
    [1, np.inf, 0],
    [1, -np.inf, 0],
    [np.nan, 0, 1],
    [-np.inf] * 3,
    [1e4, -1e4, 0],
    [3e38, 3e38, -3e38],
]


@pytest.mark.parametrize("row", NOT_FINITE, ids=str)
def test_not_finite(row):
    x = np.array([row, [0, 1, 2]], np.float32)
    for t in ([0, 1], [1, 1], [2, 2]):
        for name in ("cross_entropy", "nll_loss"):
            for reduction in ("mean", "none"):
                options = {"reduction": reduction}
                compare(
                    lambda torch, x, t, n=name, o=options: getattr(torch.nn.functional, n)(
                        x, t, **o
                    ),
                    x,
                    np.array(t),
                )
    compare(lambda torch, x: torch.nn.functional.mse_loss(x, x.detach() * 0), x)
