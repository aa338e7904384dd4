"""fastconv: convolutional networks on a CPU.

    import fastconv as torch                      PyTorch's names
    from fastconv import kernels                  the same kernels on plain NumPy arrays

One staircase; every import and every call goes down it:

    cli · models · compiler · summary ─▶ nn · optim · data · io ─▶ nn.functional · ops ─▶ autograd (the tape)
                                                             └──────────────▶ kernels (the door) ─▶ src/ (C)

    autograd        Tensor, the tape, backward, no_grad
    ops             arithmetic, reductions, views: each op and, inside it, its backward
    nn.functional   convolution, pooling, losses: likewise
    nn              layers, losses, initial values
    optim           SGD, Adam
    data            the digits, IDX files, DataLoader
    io              save and load
    compiler        compile: a step recorded once, and replayed in C
    models          the tutorial's network, ResNet-18
    kernels         every number is computed here: checks, allocates, calls C
"""

from importlib.metadata import PackageNotFoundError as _PackageNotFoundError
from importlib.metadata import version as _version

import numpy as _np

from fastconv import kernels, nn, ops, optim, utils
from fastconv.autograd import (
    Size,
    Tensor,
    enable_grad,
    is_grad_enabled,
    no_grad,
    set_grad_enabled,
)
from fastconv.compiler import compile
from fastconv.creation import (
    allclose,
    arange,
    as_tensor,
    empty,
    empty_like,
    equal,
    eye,
    from_numpy,
    full,
    full_like,
    is_tensor,
    linspace,
    numel,
    ones,
    ones_like,
    rand,
    rand_like,
    randint,
    randn,
    randn_like,
    randperm,
    tensor,
    zeros,
    zeros_like,
)
from fastconv.io import load, save
from fastconv.kernels import available_isas, get_num_threads, isa, set_num_threads
from fastconv.missing import guide as _guide
from fastconv.ops.arithmetic import (
    abs,
    add,
    bmm,
    clamp,
    div,
    eq,
    exp,
    ge,
    gt,
    le,
    log,
    lt,
    matmul,
    mm,
    mul,
    ne,
    neg,
    pow,
    relu,
    sigmoid,
    sqrt,
    sub,
    tanh,
)
from fastconv.ops.convert import device
from fastconv.ops.reductions import (
    all,
    any,
    argmax,
    argmin,
    log_softmax,
    max,
    mean,
    min,
    softmax,
    std,
    sum,
    var,
)
from fastconv.ops.views import (
    cat,
    chunk,
    clone,
    concat,
    flatten,
    permute,
    reshape,
    split,
    squeeze,
    stack,
    transpose,
    unbind,
    unsqueeze,
)
from fastconv.printing import set_printoptions
from fastconv.random import Generator, initial_seed, manual_seed
from fastconv.summary import summary

float32 = float = _np.dtype(_np.float32)
float64 = double = _np.dtype(_np.float64)
int64 = long = _np.dtype(_np.int64)
int32 = int = _np.dtype(_np.int32)
uint8 = _np.dtype(_np.uint8)
bool = _np.dtype(_np.bool_)
inf, nan, pi = _np.inf, _np.nan, _np.pi

try:
    __version__ = _version("fastconv")
except _PackageNotFoundError:  # used from a source tree that was never installed
    __version__ = "0+unknown"


class cuda:
    """There is no GPU here; scripts ask."""

    @staticmethod
    def is_available():
        return False

    @staticmethod
    def device_count():
        return 0


__getattr__ = _guide(
    "fastconv",
    ". If PyTorch does: fastconv covers what small CNNs need; what needs no gradient can be computed with NumPy on "
    "t.detach().numpy(), and wrapped by fastconv.tensor()",
    lazy=("models",),
)
