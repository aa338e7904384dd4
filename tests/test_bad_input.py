import copy
import itertools
import pickle

import numpy as np
import pytest
from helpers import check, integers
from test_bad_arrays import REFUSALS

import fastconv
from fastconv import kernels

X, W, B = (
    np.ones((2, 4, 5, 6), np.float32),
    np.ones((6, 4, 3, 3), np.float32),
    np.ones(6, np.float32),
)
DY = np.ones((2, 6, 3, 4), np.float32)  # of X and W
COLS = np.ones((2, 36, 12), np.float32)  # of X under 3 x 3


def ones(*shape):
    return np.ones(shape, np.float32)


@pytest.mark.parametrize(
    "arrays,options",
    [
        ((ones(4, 5, 6), W), {}),
        ((ones(1, 2, 4, 5, 6), W), {}),
        ((X, ones(6, 4, 3)), {}),
        ((X, ones(4)), {}),
        ((ones(), W), {}),
        ((ones(2, 3, 5, 6), W), {}),  # channels
        ((ones(2, 8, 5, 6), W), {}),
        ((X, W, ones(5)), {}),
        ((X, W, ones(6, 1)), {}),
        ((X, W, ones()), {}),
        ((X, W), {"groups": 2}),
        ((X, ones(6, 2, 3, 3)), {}),
        ((X, ones(5, 2, 3, 3)), {"groups": 2}),  # filters do not divide
        ((ones(2, 5, 5, 6), ones(6, 2, 3, 3)), {"groups": 2}),  # channels do not divide
        ((X, W), {"groups": 0}),
        ((X, W), {"groups": -1}),
        ((X, W), {"groups": 2**40}),
        ((X, ones(6, 4, 6, 3)), {}),  # larger than the input
        ((X, ones(6, 4, 3, 7)), {}),
        ((X, ones(6, 4, 8, 3)), {"padding": 1}),
        ((X, W), {"dilation": 3}),
        ((ones(2, 4, 0, 6), W), {"padding": 1}),
        ((ones(2, 4, 0, 6), ones(6, 4, 1, 1)), {}),
        ((X, ones(6, 4, 0, 3)), {}),
        ((X, ones(6, 4, 3, 0)), {}),
        ((X, W), {"stride": 0}),
        ((X, W), {"stride": (1, 0)}),
        ((X, W), {"stride": -1}),
        ((X, W), {"dilation": 0}),
        ((X, W), {"dilation": (1, -2)}),
        ((X, W), {"padding": -1}),
        ((X, W), {"padding": (0, -1)}),
        ((X, W), {"padding": ((0, 0), (0, -1))}),
        ((X, W), {"padding": "same", "stride": 2}),
        ((X, W), {"padding": "full"}),
        ((X, W), {"padding": ""}),
        ((X, W), {"algorithm": "gemm", "relu_pool": True}),
        ((ones(1, 64, 9, 9), ones(64, 64, 3, 3)), {"relu_pool": True}),  # not by direct
    ],
)
def test_conv2d_forward_refuses(arrays, options):
    with pytest.raises(ValueError):
        kernels.conv2d_forward(*arrays, **options)


NOT_INTEGERS = [1.5, 2.0, "2", None, 1j, (1, 2, 3), (1,), (), ((1, 2), 3, 4), [[1]]]


@pytest.mark.parametrize("wrong", NOT_INTEGERS, ids=repr)
@pytest.mark.parametrize("name", ["stride", "padding", "dilation", "groups"])
def test_parameters_that_are_no_integers(name, wrong):
    for function, given in (
        (kernels.conv2d_forward, (X, W)),
        (kernels.conv2d_backward_input, (DY, W, (5, 6))),
        (kernels.conv2d_backward_weight, (DY, X, (3, 3))),
        (kernels.max_pool2d_forward, (X, 2)),
        (kernels.im2col, (X, 3)),
        (kernels.col2im, (COLS, (5, 6), 3)),
    ):
        no_groups = name == "groups" and function.__name__[:4] != "conv"
        if no_groups or (wrong is None and name == "stride" and "pool" in function.__name__):
            continue
        if wrong == (1,) and name != "groups":
            continue  # torch expands it; so may we
        with pytest.raises(REFUSALS):
            function(*given, **{name: wrong})


@pytest.mark.parametrize("wrong", [*NOT_INTEGERS, 0, -1, (2, 0), (2, -1)], ids=repr)
def test_sizes_that_are_no_sizes(wrong):
    for call in (
        lambda: kernels.max_pool2d_forward(X, wrong),
        lambda: kernels.im2col(X, wrong),
        lambda: kernels.col2im(COLS, (5, 6), wrong),
        lambda: kernels.conv2d_backward_weight(DY, X, wrong),
    ):
        if wrong == (1,):
            continue
        with pytest.raises(REFUSALS):
            call()


@pytest.mark.parametrize(
    "size", [*NOT_INTEGERS, 5, (5, -6), (-5, -6), (2, 4, 5), (2, 5, 5, 6), (5, 7), (0, 0)], ids=repr
)
def test_input_sizes_that_do_not_fit(size):
    dy_pool, indices = kernels.max_pool2d_forward(X, 2)
    for call in (
        lambda: kernels.conv2d_backward_input(DY, W, size),
        lambda: kernels.col2im(COLS, size, 3),
    ):
        with pytest.raises(REFUSALS):
            call()
    if size != (5, 7):  # a pool's input may be larger than its windows reach
        with pytest.raises((IndexError, *REFUSALS)):
            kernels.max_pool2d_backward(dy_pool, indices, size)


def test_integers_of_any_kind_are_integers():
    expected = kernels.conv2d_forward(X, W, None, 1, 1, 1, 1)
    for one in (True, np.int64(1), np.uint8(1), [1, 1], (np.int32(1), True), np.array(1)):
        check(kernels.conv2d_forward(X, W, None, one, one, one), expected)
    check(kernels.conv2d_forward(X, W, None, 1, ((1, 1), (1, 1))), expected)
    check(kernels.conv2d_forward(X, W, None, 1, [[1, 1], [1, 1]]), expected)


@pytest.mark.parametrize(
    "arrays,options",
    [
        ((ones(4, 5, 6), W, (5, 6)), {}),
        ((ones(2, 5, 3, 4), W, (5, 6)), {}),  # filters
        ((ones(2, 6, 3, 5), W, (5, 6)), {}),
        ((DY, W, (5, 6)), {"padding": 1}),
        ((DY, W, (5, 6)), {"groups": 2}),
        ((DY, W, (2, 3, 5, 6)), {}),
        ((DY, W, (5, 6)), {"stride": 0}),
    ],
)
def test_conv2d_backward_input_refuses(arrays, options):
    if options == {"groups": 2}:
        assert kernels.conv2d_backward_input(*arrays, **options).shape == (2, 8, 5, 6)
        options = {"groups": 4}
    with pytest.raises(ValueError):
        kernels.conv2d_backward_input(*arrays, **options)


@pytest.mark.parametrize(
    "arrays,options",
    [
        ((DY, ones(3, 4, 5, 6), (3, 3)), {}),  # batches differ
        ((DY, ones(4, 5, 6), (3, 3)), {}),
        ((DY, X, (3, 4)), {}),
        ((DY, X, (3, 3)), {"stride": 2}),
        ((DY, X, (3, 3)), {"groups": 3}),
        ((DY, X, (3, 3)), {"groups": 4}),
        ((DY, X, (9, 9)), {}),
    ],
)
def test_conv2d_backward_weight_refuses(arrays, options):
    with pytest.raises(ValueError):
        kernels.conv2d_backward_weight(*arrays, **options)


CONVOLUTIONS = {
    "forward": lambda **given: kernels.conv2d_forward(X, W, **given),
    "backward_input": lambda **given: kernels.conv2d_backward_input(DY, W, (5, 6), **given),
    "backward_weight": lambda **given: kernels.conv2d_backward_weight(DY, X, (3, 3), **given),
    "plan": lambda **given: kernels.conv2d_plan(X.shape, W.shape, **given),
    "prepare": lambda **given: kernels.conv2d_prepare(W, X.shape, **given),
}


@pytest.mark.parametrize("wrong", ["", "GEMM", "fft", "auto ", None, 0, 1, b"gemm", ["gemm"], {}])
@pytest.mark.parametrize("function", CONVOLUTIONS)
def test_algorithms_that_are_none(function, wrong):
    with pytest.raises(ValueError, match="algorithm must be one of auto, gemm, winograd"):
        CONVOLUTIONS[function](algorithm=wrong)


@pytest.mark.parametrize("function", CONVOLUTIONS)
def test_algorithms_that_cannot_do_it(function):
    with pytest.raises(ValueError, match="depthwise.*groups.*gemm"):
        CONVOLUTIONS[function](algorithm="depthwise")


@pytest.mark.parametrize(
    "sizes,options",
    [
        ((None, W.shape), {}),
        ((X.shape, None), {}),
        ((X.shape[1:], W.shape), {}),
        ((X.shape[2:], W.shape), {}),
        ((X.shape, W.shape[1:]), {}),
        ((X, W), {}),
        ((X.shape, (6, 3, 3, 3)), {}),
        ((X.shape, (6, 4, 9, 9)), {}),
        ((X.shape, (6, 4, 0, 3)), {}),
        ((X.shape, (6, -4, 3, 3)), {}),
        ((X.shape, (6.0, 4, 3, 3)), {}),
        ((X.shape, ("6", 4, 3, 3)), {}),
        ((X.shape, W.shape), {"which": "backward"}),
        ((X.shape, W.shape), {"which": None}),
        ((X.shape, W.shape), {"which": 1}),
        ((X.shape, W.shape), {"dtype": "int32"}),
        ((X.shape, W.shape), {"dtype": "float16"}),
        ((X.shape, W.shape), {"dtype": "none"}),
        ((X.shape, W.shape), {"dtype": 3}),
        ((X.shape, W.shape), {"stride": 0}),
        ((X.shape, W.shape), {"padding": -1}),
        ((X.shape, W.shape), {"padding": "full"}),
        ((X.shape, W.shape), {"dilation": 9}),
        ((X.shape, W.shape), {"groups": 2}),
        ((X.shape, W.shape), {"groups": 0}),
    ],
)
def test_conv2d_plan_refuses(sizes, options):
    with pytest.raises(REFUSALS):
        kernels.conv2d_plan(*sizes, **options)


@pytest.mark.parametrize(
    "given,options",
    [
        ((W, (5, 6)), {}),
        ((W, None), {}),
        ((W, 5), {}),
        ((W, (2, 3, 5, 6)), {}),
        ((W, (2, 4, 1, 6)), {}),
        ((W, (-1, 4, 5, 6)), {}),
        ((W, (2, 4.0, 5, 6)), {}),
        ((W[0], X.shape), {}),
        ((W.astype(int), X.shape), {}),
        ((None, X.shape), {}),
        ((W, X.shape), {"stride": 0}),
        ((W, X.shape), {"padding": -1}),
        ((W, X.shape), {"groups": 2}),
        ((W, X.shape), {"dilation": 9}),
    ],
)
def test_conv2d_prepare_refuses(given, options):
    with pytest.raises(REFUSALS):
        kernels.conv2d_prepare(*given, **options)


def test_prepared_weights_are_made_by_conv2d_prepare_alone():
    prepared = kernels.conv2d_prepare(W, X.shape)
    for copies in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="prepare it again"):
            copies(prepared)
    with pytest.raises(TypeError, match="conv2d_prepare"):
        kernels.conv2d_forward(X, kernels.PreparedWeights())
    with pytest.raises(AttributeError):
        prepared.algorithm = "gemm"


@pytest.mark.parametrize(
    "x,args",
    [
        (ones(4, 5, 6), (2,)),
        (ones(1, 1, 4, 5, 6), (2,)),
        (X, (2, 2, 2)),  # padding beyond half the kernel
        (X, (3, 1, 2)),
        (X, (3, 1, (2, 0))),
        (X, (2, 0)),
        (X, (2, -1)),
        (X, (2, 2, -1)),
        (X, (2, 2, 0, 0)),
        (X, (6,)),
        (X, (3, 1, 0, 3)),
        (ones(2, 4, 0, 6), (1,)),
        (X, (2, 2, ((0, 1), (0, 1)))),
        (X, (2, 2, "same")),
    ],
)
def test_max_pool2d_forward_refuses(x, args):
    with pytest.raises(REFUSALS):
        kernels.max_pool2d_forward(x, *args)


@pytest.mark.parametrize("index", [30, 31, 2**31 - 1, -2, -(2**31), 2**31, 2**40, -(2**63)])
def test_max_pool2d_backward_refuses_an_index_outside_its_plane(isa, index):
    for place in ((0, 0, 0, 0), (1, 3, 1, 2)):
        dy, indices = kernels.max_pool2d_forward(X, 2)
        indices = indices.astype(np.int64 if abs(index) > 2**31 - 1 else np.int32)
        indices[place] = index
        for window in ((), (2,)):
            with pytest.raises(IndexError, match=f"from -1 to 29, got .*{index}"):
                kernels.max_pool2d_backward(dy, indices, (5, 6), *window)


def test_max_pool2d_backward_refuses_indices_that_do_not_fit():
    dy, indices = kernels.max_pool2d_forward(X, 2)
    for wrong in (
        indices[:1],
        indices[..., None],
        indices.reshape(-1),
        indices.astype(float),
        indices.astype(np.float32),
        indices.astype(complex),
        indices.astype(object),
        indices.astype(bool),
        None,
        "indices",
    ):
        with pytest.raises(REFUSALS):
            kernels.max_pool2d_backward(dy, wrong, (5, 6))
    with pytest.raises(REFUSALS):
        kernels.max_pool2d_backward(dy, indices, (1, 4, 5, 6))
    with pytest.raises((IndexError, *REFUSALS)):
        kernels.max_pool2d_backward(dy, indices, (1, 1))


def test_max_pool2d_backward_refuses_other_windows():
    """kernel_size and the like may be left out; given, they are those of the forward."""
    dy, indices = kernels.max_pool2d_forward(X, 2)
    for window in ((3,), (2, 1), (2, 2, 1), (2, 2, 0, 4), (0,), (2, 0), (2, 2, 2)):
        with pytest.raises(ValueError):
            kernels.max_pool2d_backward(dy, indices, X.shape, *window)
    with pytest.raises(TypeError, match="kernel_size must be an int"):
        kernels.max_pool2d_backward(dy, indices, X.shape, 2.0)


@pytest.mark.parametrize(
    "x,args",
    [
        (ones(4, 5, 6), (2,)),
        (X, (2, 2, 2)),  # padding beyond half the kernel
        (X, (0,)),
        (X, (2, 0)),
        (X, (2, 2, -1)),
        (X, (6,)),
        (X, (2.0,)),
        (X, (2, 2, 0, False, True, 0)),
        (X, (2, 2, 0, False, True, 1.5)),
        (X, (2, 2, "same")),
    ],
)
def test_avg_pool2d_refuses(x, args):
    with pytest.raises(REFUSALS):
        kernels.avg_pool2d_forward(x, *args)
    with pytest.raises(REFUSALS):
        kernels.avg_pool2d_backward(x, (5, 6), *args)


def test_avg_pool2d_backward_refuses_what_does_not_fit():
    dy = kernels.avg_pool2d_forward(X, 2)
    for args in (((5, 6), 3), ((5, 8), 2), ((1, 4, 5, 6), 2), ((5,), 2), (None, 2), ((1, 1), 2)):
        with pytest.raises(REFUSALS):
            kernels.avg_pool2d_backward(dy, *args)


@pytest.mark.parametrize("size", [(2, 2, 2), (2,), (), 2.0, "2", -1, (2, -1), (None,)], ids=repr)
def test_adaptive_avg_pool2d_refuses(size):
    with pytest.raises(REFUSALS):
        kernels.adaptive_avg_pool2d_forward(X, size)


def test_adaptive_avg_pool2d_refuses_images_without_pixels():
    with pytest.raises(ValueError, match="at least 1"):
        kernels.adaptive_avg_pool2d_forward(ones(2, 4, 0, 6), 1)
    with pytest.raises(ValueError, match="at least 1"):
        kernels.adaptive_avg_pool2d_backward(ones(2, 4, 1, 1), (5, 0))
    with pytest.raises(ValueError, match="4 axes"):
        kernels.adaptive_avg_pool2d_forward(ones(4, 5, 6), 1)
    with pytest.raises(ValueError, match="must begin with"):
        kernels.adaptive_avg_pool2d_backward(ones(2, 4, 1, 1), (2, 5, 6, 6))


def test_a_window_outside_the_input(isa, dtype):
    """Dilation can carry every tap past it: -inf, and a gradient that goes nowhere."""
    x = np.ones((1, 1, 3, 3), dtype)
    y, indices = kernels.max_pool2d_forward(x, 2, 1, 1, 4)
    check(y, np.full((1, 1, 1, 1), -np.inf))
    check(kernels.max_pool2d_backward(np.ones_like(y), indices, (3, 3)), np.zeros((1, 1, 3, 3)))


@pytest.mark.parametrize(
    "arrays,options",
    [
        ((ones(3), ones(3, 2)), {}),
        ((ones(3, 2), ones(2)), {}),
        ((ones(3, 2), ones(3, 2)), {}),
        ((ones(3, 2), ones(2, 2, 4)), {}),
        ((ones(3, 2), ones(2, 4), ones(3)), {"beta": 1.0}),
        ((ones(3, 2), ones(2, 4), ones(4, 3)), {"beta": 1.0}),
        ((ones(3, 2), ones(2, 4)), {"transpose_a": True}),
        ((ones(3, 2), ones(2, 4)), {"transpose_b": True}),
        ((ones(3, 2), ones(2, 4)), {"beta": 1.0}),
        ((ones(3, 2), ones(2, 4)), {"alpha": "1"}),
        ((ones(3, 2), ones(2, 4)), {"alpha": None}),
        ((ones(3, 2), ones(2, 4)), {"alpha": 1j}),
    ],
)
def test_gemm_refuses(arrays, options):
    with pytest.raises(REFUSALS):
        kernels.gemm(*arrays, **options)


@pytest.mark.parametrize(
    "shapes", [((), (3,)), ((3,), ()), ((3,), (4,)), ((2, 3), (4, 3)), ((2, 2, 3), (3, 3, 2))]
)
def test_matmul_refuses(shapes):
    with pytest.raises(ValueError):
        kernels.matmul(*(ones(*shape) for shape in shapes))


def test_operands_that_do_not_broadcast():
    for name in ("add", "pow", "eq"):
        with pytest.raises(ValueError):
            getattr(kernels, name)(ones(3), ones(4))
    with pytest.raises(ValueError):
        kernels.where(np.ones((2, 2), bool), ones(3), ones(3))
    for x, b in itertools.product(
        (ones(2, 3), ones(2, 3, 4)), (ones(2), ones(4), ones(1, 3), ones())
    ):
        with pytest.raises(ValueError):
            kernels.bias_add(x, b)
    for wrong in ("1", [1.0, 2.0, "x"], 1j):
        with pytest.raises(REFUSALS):
            kernels.add(ones(3), wrong)


@pytest.mark.parametrize("dtype", ["int64", "int32", "uint8"])
def test_labels_out_of_range(isa, rng, dtype):
    log_p = integers(rng, (4, 3), np.float32)
    for wrong in (3, 2**31 - 1, -1, -(2**31)):
        if not np.iinfo(dtype).min <= wrong <= np.iinfo(dtype).max:
            continue
        target = np.array([0, 1, 2, wrong], dtype)
        for reduction in ("none", "mean", "sum"):
            with pytest.raises((IndexError, ValueError)):
                kernels.nll_loss_forward(log_p, target, reduction=reduction)
            dy = ones(4) if reduction == "none" else ones()
            with pytest.raises((IndexError, ValueError)):
                kernels.nll_loss_backward(dy, log_p, target, None, -100, reduction)


def test_losses_refuse():
    log_p, target = ones(4, 3), np.array([0, 1, 2, 0])
    for call in (
        lambda: kernels.nll_loss_forward(log_p, target[:3]),
        lambda: kernels.nll_loss_forward(log_p, target[:, None]),
        lambda: kernels.nll_loss_forward(log_p, target.astype(np.float32)),
        lambda: kernels.nll_loss_forward(log_p, target, ones(4)),
        lambda: kernels.nll_loss_forward(log_p, target, ones(3, 1)),
        lambda: kernels.nll_loss_forward(log_p, target, reduction="average"),
        lambda: kernels.nll_loss_forward(log_p, target, reduction=None),
        lambda: kernels.nll_loss_forward(log_p, target, ignore_index=1.5),
        lambda: kernels.nll_loss_forward(log_p, target, ignore_index="0"),
        lambda: kernels.nll_loss_backward(ones(), log_p, target, None, 1.5, "mean"),
        lambda: kernels.nll_loss_forward(ones(), target),
        lambda: kernels.nll_loss_backward(ones(3), log_p, target, None, -100, "none"),
        lambda: kernels.nll_loss_backward(ones(4), log_p, target, None, -100, "mean"),
        lambda: kernels.mse_loss_forward(ones(3), ones(4)),
        lambda: kernels.mse_loss_forward(ones(3), ones(3), "average"),
        lambda: kernels.mse_loss_backward(ones(4), ones(3), ones(3), "none"),
        lambda: kernels.mse_loss_backward(ones(3), ones(3), ones(3), "mean"),
    ):
        with pytest.raises(REFUSALS):
            call()


NUMBERS = {
    "alpha": lambda v: kernels.gemm(DY[0, 0], DY[0, 0].T, alpha=v),
    "beta": lambda v: kernels.gemm(DY[0, 0], DY[0, 0].T, ones(3, 3), beta=v),
    "eps": lambda v: kernels.batch_norm_forward(X, eps=v),
    "momentum": lambda v: kernels.sgd_step(ones(3), ones(3), ones(3), lr=0.1, momentum=v),
    "lr": lambda v: kernels.sgd_step(ones(3), ones(3), lr=v),
    "beta2": lambda v: kernels.adam_step(
        ones(3), ones(3), ones(3), ones(3), np.zeros((), np.int64), lr=0.1, beta2=v
    ),
    "p": lambda v: kernels.dropout(X, np.zeros(2, np.uint64), v),
    "high": lambda v: kernels.random_uniform(np.zeros(4, np.uint32), 0, v, np.float32),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_what_is_no_number_is_named(name):
    for number in (0, 0.5, np.float32(0.5), np.int64(1)):
        NUMBERS[name](number)
    for value in ("0.1", None, [0.1], 1j):
        with pytest.raises(
            TypeError, match=rf"^{name} must be a number, got {type(value).__name__}"
        ):
            NUMBERS[name](value)


def test_masks_are_refused():
    masked = np.ma.masked_less(np.arange(3, dtype=np.float32), 1)
    for refuse in (kernels.neg, kernels.new_copy, fastconv.tensor):
        with pytest.raises(TypeError, match="is a masked array"):
            refuse(masked)


def test_chunks_are_counted():
    with pytest.raises(ValueError, match="at least 1 piece, got 0"):
        fastconv.ones(3).chunk(0)
