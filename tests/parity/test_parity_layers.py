"""Convolution, pooling, linear, unfold and fold: outputs and gradients over many configurations."""

import itertools

import numpy as np
import pytest
from libraries import compare, differences, distinct, normal, refused

import fastconv


def ulps_of(terms):
    """Sums of `terms` products: 4 + 2 sqrt(terms) units in the last place of the largest result."""
    return 4 + 2 * int(np.sqrt(terms))


CONVOLUTIONS = [
    # x shape, filters, kernel, options
    ((2, 3, 8, 9), 4, (3, 3), {}),
    ((2, 3, 8, 9), 4, (3, 3), {"padding": 1}),
    ((2, 3, 8, 9), 4, (3, 2), {"stride": 2, "padding": (1, 0)}),
    ((2, 3, 8, 9), 4, (2, 3), {"stride": (3, 1), "dilation": (1, 2)}),
    ((1, 2, 12, 11), 3, (3, 3), {"dilation": 3, "padding": 3}),
    ((2, 4, 7, 7), 6, (3, 3), {"groups": 2, "padding": 1}),
    ((2, 4, 7, 7), 4, (3, 3), {"groups": 4, "padding": 1}),
    ((2, 4, 7, 7), 8, (3, 3), {"groups": 4, "stride": 2}),
    ((2, 3, 8, 9), 4, (1, 1), {}),
    ((2, 3, 8, 9), 4, (1, 1), {"stride": 2}),
    ((2, 3, 8, 9), 4, (1, 1), {"padding": 2}),
    ((1, 3, 15, 14), 8, (7, 7), {"stride": 2, "padding": 3}),
    ((2, 3, 8, 9), 4, (3, 3), {"padding": "same"}),
    ((2, 3, 8, 9), 4, (2, 4), {"padding": "same"}),
    ((2, 3, 8, 9), 4, (3, 4), {"padding": "same", "dilation": 2}),
    ((2, 3, 8, 9), 4, (3, 3), {"padding": "valid", "stride": 2}),
    ((2, 3, 5, 5), 4, (5, 5), {}),
    ((2, 3, 4, 4), 4, (6, 6), {"padding": 1}),
    ((2, 3, 2, 2), 4, (2, 2), {"stride": 5, "padding": 4}),
    ((0, 3, 8, 9), 4, (3, 3), {}),
    ((3, 8, 9), 4, (3, 3), {"padding": 1}),
    ((1, 16, 20, 20), 33, (3, 3), {"padding": 1}),
    ((1, 70, 6, 6), 16, (3, 3), {"padding": 1}),
    ((3, 1, 32, 32), 6, (3, 3), {}),
    ((3, 6, 15, 15), 16, (3, 3), {}),
]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("x, filters, kernel, options", CONVOLUTIONS, ids=str)
def test_conv2d(x, filters, kernel, options, dtype):
    channels, groups = x[-3], options.get("groups", 1)
    w = normal(filters, channels // groups, *kernel, dtype=dtype, seed=1)
    b = normal(filters, dtype=dtype, seed=2)
    terms = max(
        w[0].size, (x[0] if len(x) == 4 else 1) * x[-1] * x[-2], filters * kernel[0] * kernel[1]
    )
    conv2d = lambda torch, x, w, b=None: torch.nn.functional.conv2d(x, w, b, **options)  # noqa: E731
    x = normal(*x, dtype=dtype)
    compare(conv2d, x, w, b, ulps=ulps_of(terms))
    compare(conv2d, x, w, ulps=ulps_of(terms))


@pytest.mark.parametrize("stride", list(itertools.product((1, 2, 3), repeat=2)), ids=str)
def test_conv2d_of_unequal_strides(stride):
    """Strides, dilations and kernels that differ between height and width."""
    cases = []
    for r, s, *dilation, padding in itertools.product((1, 3), (1, 2, 3), (1, 2), (1, 2), (0, 1)):
        options = {"stride": stride, "padding": padding, "dilation": dilation}
        cases.append(
            (
                ((r, s), options),
                lambda torch, x, w, options=options: torch.nn.functional.conv2d(x, w, **options),
                normal(1, 2, 8, 9, dtype="float64"),
                normal(3, 2, r, s, dtype="float64", seed=1),
            )
        )
    differences(cases, ulps=32)


@pytest.mark.parametrize("side", [5, 8])
def test_conv2d_grid(side):
    """Every combination of kernel, stride, padding and dilation, in float64."""
    f = "float64"
    cases = []
    for r, stride, padding, dilation in itertools.product((1, 2, 3), (1, 2, 3), (0, 1, 2), (1, 2)):
        options = {"stride": stride, "padding": padding, "dilation": dilation}
        cases.append(
            (
                (r, options),
                lambda torch, x, w, options=options: torch.nn.functional.conv2d(x, w, **options),
                normal(2, 2, side, side + 1, dtype=f),
                normal(3, 2, r, r, dtype=f, seed=1),
            )
        )
    differences(cases, ulps=32)


@pytest.mark.parametrize(
    "x, w, b, options",
    [
        ((2, 3, 8, 8), (4, 2, 3, 3), None, {}),
        ((2, 3, 8, 8), (4, 3, 9, 9), None, {}),
        ((2, 3, 8, 8), (4, 3, 3, 3), (3,), {}),
        ((2, 3, 8, 8), (4, 3, 3, 3), None, {"stride": 0}),
        ((2, 3, 8, 8), (4, 3, 3, 3), None, {"padding": -1}),
        ((2, 3, 8, 8), (4, 3, 3, 3), None, {"dilation": 0}),
        ((2, 3, 8, 8), (4, 3, 3, 3), None, {"groups": 2}),
        ((2, 4, 8, 8), (3, 2, 3, 3), None, {"groups": 2}),
        ((2, 3, 8, 8), (4, 3, 3, 3), None, {"padding": "same", "stride": 2}),
        ((2, 3, 8, 8), (4, 3, 3, 3), None, {"padding": "full"}),
        ((2, 3, 8, 8), (4, 3, 3), None, {}),
        ((8, 8), (4, 3, 3, 3), None, {}),
        ((2, 3, 0, 8), (4, 3, 3, 3), None, {}),
    ],
    ids=str,
)
def test_conv2d_errors(x, w, b, options):
    conv2d = lambda torch, x, w, b: torch.nn.functional.conv2d(x, w, b, **options)  # noqa: E731
    compare(conv2d, normal(*x), normal(*w), None if b is None else normal(*b))


@pytest.mark.parametrize(
    "dtypes", [("float64", "float32"), ("int64", "float32"), ("int64", "int64")]
)
def test_conv2d_wants_one_floating_dtype(dtypes):
    x, w = (np.ones(s, d) for s, d in zip(((1, 1, 3, 3), (1, 1, 2, 2)), dtypes, strict=True))
    conv2d = lambda torch, x, w: torch.nn.functional.conv2d(x, w)  # noqa: E731
    (refused if dtypes == ("int64", "int64") else compare)(conv2d, x, w)


def pool(torch, x, arguments):
    return torch.nn.functional.max_pool2d(x, **arguments, return_indices=True)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(2, 3, 8, 9), (1, 1, 7, 7), (3, 6, 5), (0, 2, 6, 6)], ids=str)
def test_max_pool2d(shape, dtype):
    cases = []
    for kernel, stride, padding, dilation, ceil in itertools.product(
        (2, 3, (2, 3)), (None, 1, 2, 3), (0, 1), (1, 2), (False, True)
    ):
        arguments = {
            "kernel_size": kernel,
            "stride": stride,
            "padding": padding,
            "dilation": dilation,
        }
        arguments["ceil_mode"] = ceil
        x = distinct(*shape, dtype=dtype)
        cases.append((arguments, lambda torch, x, a=arguments: pool(torch, x, a), x))
    differences(cases)


@pytest.mark.parametrize(
    "arguments",
    [
        {"kernel_size": 2, "padding": 2},
        {"kernel_size": 3, "padding": 2},
        {"kernel_size": 9},
        {"kernel_size": 0},
        {"kernel_size": 2, "stride": 0},
        {"kernel_size": 2, "padding": -1},
        {"kernel_size": 2, "dilation": 0},
        {"kernel_size": (2, 2, 2)},
        {"kernel_size": 5, "dilation": 2},
        {"kernel_size": 2.0},
    ],
    ids=str,
)
def test_max_pool2d_errors(arguments):
    compare(lambda torch, x: pool(torch, x, arguments), distinct(2, 3, 8, 8))


@pytest.mark.parametrize("shape", [(8, 8), (2, 3, 4, 8, 8), (2, 3, 0, 8), (0, 3, 8, 8)], ids=str)
def test_max_pool2d_shapes(shape):
    compare(lambda torch, x: torch.nn.functional.max_pool2d(x, 2), normal(*shape))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(2, 3, 8, 9), (1, 1, 7, 7), (3, 6, 5), (0, 2, 6, 6)], ids=str)
def test_avg_pool2d(shape, dtype):
    cases = []
    for kernel, stride, padding, ceil, include, divisor in itertools.product(
        (2, 3, (2, 3)), (None, 1, 2, 3), (0, 1), (False, True), (False, True), (None, 3)
    ):
        options = (kernel, stride, padding, ceil, include, divisor)
        program = lambda torch, x, o=options: torch.nn.functional.avg_pool2d(x, *o)  # noqa: E731
        cases.append((options, program, normal(*shape, dtype=dtype)))
    differences(cases)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(2, 3, 8, 9), (1, 1, 7, 7), (3, 6, 5), (0, 2, 6, 6)], ids=str)
def test_adaptive_avg_pool2d(shape, dtype):
    cases = []
    for size in (1, 2, 3, 5, 9, (4, 3), (None, 1), (2, None), (1, 10)):
        program = lambda torch, x, s=size: torch.nn.functional.adaptive_avg_pool2d(x, s)  # noqa: E731
        cases.append((size, program, normal(*shape, dtype=dtype)))
    differences(cases)


@pytest.mark.parametrize(
    "arguments",
    [
        {"kernel_size": 2, "padding": 2},
        {"kernel_size": 9},
        {"kernel_size": 0},
        {"kernel_size": 2, "stride": 0},
        {"kernel_size": 2, "padding": -1},
        {"kernel_size": (2, 2, 2)},
        {"kernel_size": 2.0},
        {"kernel_size": 2, "divisor_override": 0},
        {"kernel_size": 2, "divisor_override": -2},
    ],
    ids=str,
)
def test_avg_pool2d_errors(arguments):
    compare(lambda torch, x: torch.nn.functional.avg_pool2d(x, **arguments), normal(2, 3, 8, 8))


@pytest.mark.parametrize("size", [-1, (1, 2, 3), 2.0, (2, -1)], ids=str)
def test_adaptive_avg_pool2d_errors(size):
    compare(lambda torch, x: torch.nn.functional.adaptive_avg_pool2d(x, size), normal(2, 3, 8, 8))


NOTHING = [
    ((2, 3, 0, 8), (4, 3, 3, 3)),
    ((2, 3, 8, 8), (0, 3, 3, 3)),
    ((2, 0, 8, 8), (4, 0, 3, 3)),
]


@pytest.mark.parametrize("x, w", NOTHING, ids=str)
def test_conv2d_of_nothing_is_allowed(x, w):
    """Images of no height that are padded, no filters, no channels: a sum over nothing is 0.

    The first two are errors in PyTorch; without input channels it returns no output channels.
    """
    x, w = (fastconv.tensor(normal(*s), requires_grad=True) for s in (x, w))
    y = fastconv.nn.functional.conv2d(x, w, padding=2)
    assert not y.detach().numpy().any()
    y.backward(y.detach())
    assert not x.grad.numpy().any() and not w.grad.numpy().any()


def test_max_pool2d_of_no_channels_is_allowed():
    assert fastconv.nn.functional.max_pool2d(fastconv.zeros(2, 0, 8, 8), 2).shape == (2, 0, 4, 4)


def test_max_pool2d_ties_and_overlap():
    """Of equal elements the first gets the gradient; an element in several windows gets the sum."""
    x = np.random.default_rng(1).integers(0, 3, (2, 2, 9, 9)).astype(np.float32)
    for arguments in (
        {"kernel_size": 2},
        {"kernel_size": 3, "stride": 1},
        {"kernel_size": 3, "padding": 1},
    ):
        compare(lambda torch, x, a=arguments: pool(torch, x, a), x)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "shape", [(5, 7), (7,), (2, 3, 7), (0, 7), (2, 3, 4, 7), (5, 6), ()], ids=str
)
@pytest.mark.parametrize("bias", [True, False])
def test_linear(shape, bias, dtype):
    x, w, b = (normal(*s, dtype=dtype, seed=i) for i, s in enumerate((shape, (4, 7), (4,))))
    if bias:
        compare(lambda torch, x, w, b: torch.nn.functional.linear(x, w, b), x, w, b, ulps=16)
    else:
        compare(lambda torch, x, w: torch.nn.functional.linear(x, w), x, w, ulps=16)


@pytest.mark.parametrize(
    "w, b", [((4, 6), (4,)), ((4, 7), (5,)), ((0, 7), (0,)), ((), None)], ids=str
)
def test_linear_shapes(w, b):
    program = lambda torch, x, w, b: torch.nn.functional.linear(x, w, b)  # noqa: E731
    compare(program, normal(5, 7), normal(*w), None if b is None else normal(*b))


def test_linear_does_not_broadcast():
    """PyTorch takes a weight of one row without its axis, and a bias of one number for all."""
    refused(lambda torch, x, w: torch.nn.functional.linear(x, w), normal(5, 7), normal(7))
    refused(
        lambda torch, *arguments: torch.nn.functional.linear(*arguments),
        *(normal(5, 7), normal(4, 7), normal(1)),
    )


WINDOWS = [
    {"kernel_size": 3},
    {"kernel_size": (2, 3), "stride": 2},
    {"kernel_size": 2, "padding": 1, "dilation": 2},
    {"kernel_size": (3, 1), "stride": (1, 3), "padding": (1, 0), "dilation": (2, 1)},
]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_unfold_and_fold(window, dtype):
    x = normal(2, 3, 7, 8, dtype=dtype)
    unfold = lambda torch, x: torch.nn.functional.unfold(x, **window)  # noqa: E731
    fold = lambda torch, x: torch.nn.functional.fold(unfold(torch, x), (7, 8), **window)  # noqa: E731
    compare(unfold, x)
    compare(fold, x)


def test_fold_refuses_what_does_not_fit():
    for shape in ((2, 12, 9), (2, 10, 9), (2, 12, 10)):
        compare(lambda torch, x: torch.nn.functional.fold(x, (4, 4), 2), normal(*shape))


@pytest.mark.parametrize("order", ["channels last", "transposed", "every other", "flipped view"])
def test_any_memory_order(order):
    def program(torch, x, w):
        if order == "channels last":
            x = x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
        elif order == "transposed":
            x, w = x.transpose(2, 3), w.transpose(0, 1).contiguous().transpose(0, 1)
        elif order == "every other":
            x, w = x[:, :, ::2, 1::2], w[:, :, :, 1:]
        else:
            x = x.expand(4, 3, 8, 10)
        y = torch.nn.functional.conv2d(x, w, padding=1)
        return torch.nn.functional.max_pool2d(y, 2)

    compare(program, normal(1, 3, 8, 10), normal(4, 3, 3, 3, seed=1), ulps=32)
