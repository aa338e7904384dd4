"""Each function of the door on one small example, for the tests that hold for all of them."""

from dataclasses import dataclass, field

import numpy as np
from helpers import integers

from fastconv import kernels

UNARY = ("neg", "abs", "exp", "log", "sqrt", "tanh", "sigmoid", "relu", "copy")
BINARY = ("add", "sub", "mul", "div", "pow", "maximum", "minimum")
COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge")
POINTWISE = {
    name for name, fields in kernels.FIELDS.items() if "shape" in {f for _, f, *_ in fields}
}
ELEMENTWISE = POINTWISE - {"assign"} | {"bias_add", "dropout_backward"}  # they take any rank


@dataclass
class Example:
    """`kernels.name(*arrays, *rest, **options)`; `out` says whether it takes out=."""

    name: str
    arrays: tuple
    rest: tuple = ()
    options: dict = field(default_factory=dict)
    out: bool = True

    def __call__(self, *arrays, **options):
        """Run on the example's arrays, or on others; always a tuple of results."""
        function = getattr(kernels, self.name)
        result = function(*(arrays or self.arrays), *self.rest, **self.options, **options)
        return result if isinstance(result, tuple) else (result,)

    @property
    def title(self):
        """The name, and the algorithm or mode where one is asked for."""
        mode = None if self.options.get("training", True) else "running statistics"
        return " by ".join((self.name, *filter(None, [self.options.get("algorithm"), mode])))

    def floats(self, dtype):
        """Places of the arguments of that dtype: all but indices, labels and conditions."""
        return [i for i, a in enumerate(self.arrays) if a.dtype == dtype]


def examples(dtype, size=1):
    """Whole numbers, so that results are exact where they are sums of products."""
    rng = np.random.default_rng(7)

    def draw(*shape):
        return integers(rng, shape, dtype)

    n = 2 * size
    x, w, b, dy = draw(n, 4, 9, 8), draw(6, 2, 3, 3), draw(6), draw(n, 6, 5, 4)
    w_all, dy_all = draw(6, 4, 3, 3), draw(n, 6, 9, 8)  # of a convolution that keeps the size
    winograd, pooled = {"algorithm": "winograd"}, {"algorithm": "direct", "relu_pool": True}
    conv = (2, 1, 1, 2)  # stride, padding, dilation, groups
    pool = (3, 2, 1)  # kernel_size, stride, padding
    y, indices = kernels.max_pool2d_forward(x, *pool)
    a, labels = draw(5 * size, 7, 6), rng.integers(0, 7, (5 * size, 6))
    positive = abs(a) + 1
    channels = draw(4), draw(4), draw(4), abs(draw(4)) + 1  # w, b, mean, variance
    statistics = kernels.batch_norm_forward(x)[1:]
    found = [
        Example("gemm", (draw(15 * size, 9), draw(9, 33), draw(15 * size, 33)), (), {"beta": 2.0}),
        Example("matmul", (draw(n, 4, 3), draw(n, 3, 5))),
        Example("linear_forward", (draw(15 * size, 9), draw(5, 9), draw(5))),
        Example("linear_backward_input", (draw(15 * size, 5), draw(5, 9))),
        Example("linear_backward_weight", (draw(15 * size, 5), draw(15 * size, 9)), out=False),
        Example("im2col", (x,), ((3, 2),), {"stride": 2, "padding": 1}),
        Example("col2im", (draw(n, 24, 20),), ((9, 8), (3, 2)), {"stride": 2, "padding": (1, 0)}),
        Example("conv2d_forward", (x, w, b), conv),
        Example("conv2d_forward", (x, w_all, b), (1, 1), pooled),
        Example("conv2d_backward_input", (dy, w), ((9, 8), *conv)),
        Example("conv2d_backward_weight", (dy, x), ((3, 3), *conv), out=False),
        Example("conv2d_forward", (x, w_all, b), (1, 1), winograd),
        Example("conv2d_backward_input", (dy_all, w_all), ((9, 8), 1, 1), winograd),
        Example("conv2d_backward_weight", (dy_all, x), ((3, 3), 1, 1), winograd, out=False),
        Example("max_pool2d_forward", (x,), pool),
        Example("max_pool2d_backward", (y, indices), ((9, 8), *pool)),
        Example("avg_pool2d_forward", (x,), pool),
        Example("avg_pool2d_backward", (y,), ((9, 8), *pool)),
        Example("adaptive_avg_pool2d_forward", (x,), ((4, 3),)),
        Example("adaptive_avg_pool2d_backward", (y,), ((9, 8),)),
        Example("batch_norm_forward", (x, draw(4), draw(4))),
        Example("batch_norm_forward", (x, *channels), (), {"training": False}),
        Example("batch_norm_again", (x, draw(4), draw(4), *statistics)),
        Example("batch_norm_backward", (draw(*x.shape), x, draw(4), *statistics)),
        Example("bias_add", (x, draw(4))),
        Example("dropout_backward", (a, np.array([5, 7], np.uint64)), (0.4,)),
        Example("relu_backward", (positive, a)),
        Example("where", (a > 0, a, draw(5 * size, 1, 6)), out=False),
        Example("sum", (a,), (1,), out=False),
        Example("mean", (a,), (None,), out=False),
        Example("softmax", (a,), (1,), out=False),
        Example("log_softmax", (a,), (1,), out=False),
        Example("softmax_backward", (a, positive), (1,), out=False),
        Example("log_softmax_backward", (a, -positive), (1,), out=False),
        Example("mse_loss_forward", (a, positive), out=False),
        Example("mse_loss_backward", (draw(), a, positive), out=False),
        Example("nll_loss_forward", (a, labels, draw(7)), out=False),
        Example(
            "nll_loss_backward", (draw(), a, labels, positive[0, :, 0]), (-100, "mean"), out=False
        ),
    ]
    found += [Example(name, (a,), (1,), out=False) for name in ("max", "min", "argmax", "argmin")]
    found += [Example(name, (positive,)) for name in UNARY]
    found += [Example(name, (positive, draw(7, 1))) for name in BINARY]
    found += [Example(name, (a, draw(7, 1)), out=False) for name in COMPARISONS]
    return found


NAMES = [example.title for example in examples(np.float32)]


def example(name, dtype, size=1):
    return next(e for e in examples(dtype, size) if e.title == name)
