"""What is compared: a Case makes its contenders, fastconv among them, on the same arrays."""

import functools
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import peers
import resnet
import steps
import torch
import tutorial
from goals import AVX2, OURS, PREPARED, on_threads
from layers import (
    FAMILIES,
    FUNCTIONS_OF,
    GEMMS,
    LAYERS,
    NORMS,
    POOLS,
    arrays,
    conv2d_arrays,
    empty,
)
from peak import Peak

import fastconv
from fastconv import kernels
from fastconv.nn import functional as F

PASSES = ("forward", "backward-input", "backward-weight")
SHORTEST_SPLIT = 1e-3  # seconds of a call whose threads are compared


class Case(NamedTuple):
    """One row of a table. algorithm: of fastconv's; threaded: on several threads, even in a run on one.

    No contenders: the row does not apply. training: gradients are recorded; else PyTorch runs in
    inference_mode, fastconv in no_grad. beside: calls that are timed in the same rounds, and
    compute nothing.
    """

    group: str
    name: str
    flops: float
    contenders: Callable[[], dict[str, Callable]]
    algorithm: str = ""
    training: bool = False
    threaded: bool = False
    beside: Callable[[], dict[str, Callable]] = dict


# ---- convolutions -------------------------------------------------------------------------------


def conv2d_forward(layer, threads):
    x, w, b, _ = conv2d_arrays(layer)
    ours = [fastconv.from_numpy(a) for a in (x, w, b)]
    ready = kernels.conv2d_prepare(w, x.shape, *layer.options())
    y = empty(layer.output_size())
    contenders = {
        OURS: lambda: F.conv2d(*ours, *layer.options()),
        PREPARED: lambda: kernels.conv2d_forward(x, ready, b, *layer.options(), out=y),
    }
    for name, layout in peers.LAYOUTS.items():
        theirs = *(peers.in_layout(a, layout) for a in (x, w)), torch.from_numpy(b)
        contenders[name] = lambda t=theirs: torch.nn.functional.conv2d(*t, *layer.options())
    for name, make in peers.CONV2D.items():
        call = make(layer, x, w, b, threads) if peers.is_there(name) else None
        if call is not None:
            contenders[name] = call
    return contenders


def ours(layer, which):
    """The pass as a plain function of arrays, of fastconv."""
    x, w, b, dy = conv2d_arrays(layer)
    if which == "forward":
        return lambda: kernels.conv2d_forward(x, w, b, *layer.options())
    if which == "backward-input":
        return lambda: kernels.conv2d_backward_input(dy, w, x.shape, *layer.options())
    return lambda: kernels.conv2d_backward_weight(dy, x, w.shape[2:], *layer.options())


def conv2d_backward(layer, which):
    """which: "backward-input" or "backward-weight" (with the bias)."""
    x, w, _, dy = conv2d_arrays(layer)
    mask = [True, False, False] if which == "backward-input" else [False, True, True]
    pairs = [[layer.stride] * 2, [layer.pad()] * 2, [1, 1], False, [0, 0], layer.groups, mask]
    contenders = {OURS: ours(layer, which)}
    for name, layout in peers.LAYOUTS.items():
        theirs = [peers.in_layout(a, layout) for a in (dy, x, w)]
        contenders[name] = lambda t=theirs: torch.ops.aten.convolution_backward(
            *t, [layer.K], *pairs
        )
    return contenders


def algorithm(layer, which):
    """The name of what fastconv takes."""
    sizes = layer.input_size(), layer.weight_size()
    plan = kernels.conv2d_plan(*sizes, *layer.options(), which=which.replace("-", "_"))
    return plan.algorithm


def conv2d_cases(threads):
    for family in FAMILIES:
        for which in PASSES:
            for layer in (s for s in LAYERS if s.family() == family):
                forward = which == "forward"
                yield Case(
                    f"{family}, {'forward' if forward else 'backward'}",
                    on_threads(layer.name if forward else f"{layer.name}, {which}", threads),
                    layer.flops(),
                    (lambda s=layer: conv2d_forward(s, threads))
                    if forward
                    else (lambda s=layer, w=which: conv2d_backward(s, w)),
                    algorithm(layer, which),
                )


# ---- fastconv beside itself ---------------------------------------------------------------------


def setting(change, value, call):
    """call, after change(value)."""

    def changed():
        change(value)
        return call()

    return changed


def threads_contenders(layer, which):
    """One and two threads, unless one is done at once."""
    call = ours(layer, which)
    kernels.set_num_threads(1)
    call()
    start = time.perf_counter()
    call()
    if time.perf_counter() - start < SHORTEST_SPLIT:
        return {}
    names = {"1 thread": 1, "2 threads": 2}
    return {name: setting(kernels.set_num_threads, n, call) for name, n in names.items()}


@functools.cache
def fma_loops():
    """As many FMAs on one thread and on two, which share nothing: what the machine's second core is
    worth at that moment."""
    return {"FMAs, 1 thread": Peak(1, 1_200_000), "FMAs, 2 threads": Peak(2, 600_000)}


def isa_contenders(layer, which):
    call = ours(layer, which)
    return {name: setting(kernels.set_isa, name, call) for name in ("x86_v4", "x86_v3")}


def own_cases(cores):
    """Threads against threads, where there are two cores, and instruction sets."""
    groups = []
    if cores > 1:
        groups.append(("2 threads against 1", threads_contenders, True, fma_loops))
    if {"x86_v3", "x86_v4"} <= set(kernels.available_isas()):
        groups.append((AVX2, isa_contenders, False, dict))
    for group, make, threaded, beside in groups:
        for which in PASSES:
            for layer in LAYERS:
                yield Case(
                    group,
                    f"{layer.name}, {which}",
                    0.0,
                    lambda s=layer, w=which, m=make: m(s, w),
                    algorithm(layer, which),
                    threaded=threaded,
                    beside=beside,
                )


# ---- products -----------------------------------------------------------------------------------


def gemm(m, n, k):
    a, b = arrays((m, k), (k, n))
    theirs = [torch.from_numpy(x) for x in (a, b)]
    return {
        OURS: lambda: kernels.gemm(a, b),
        "MKL (torch.mm)": lambda: torch.mm(*theirs),
        "OpenBLAS (NumPy)": lambda: a @ b,
    }


def of_tensors(function, *numbers):
    """A function of Tensors that is called by the same words in both libraries."""
    contenders = {}
    for name, lib in ((OURS, fastconv), ("PyTorch", torch)):
        contenders[name] = functools.partial(function, *map(lib.from_numpy, numbers))
    return contenders


def matmul(n):
    """Of Tensors: what a call costs beside its arithmetic."""
    return of_tensors(lambda a, b: a.matmul(b), *arrays((n, n), (n, n)))


def gemm_cases(threads):
    for m, n, k in GEMMS:
        name = on_threads(f"{m}³" if m == n == k else f"{m}×{n}×{k}", threads)
        yield Case("GEMM", name, 2.0 * m * n * k, lambda s=(m, n, k): gemm(*s))


def matmul_cases():
    for n in (8, 64):
        yield Case("GEMM", f"matmul of Tensors, {n}³", 2.0 * n**3, lambda n=n: matmul(n))


# ---- pooling ------------------------------------------------------------------------------------


def max_pool2d_forward(shape, window):
    (x,) = arrays(shape)
    mine = fastconv.from_numpy(x)
    contenders = {OURS: lambda: F.max_pool2d(mine, *window)}
    for name, layout in peers.LAYOUTS.items():
        t = peers.in_layout(x, layout)
        contenders[name] = lambda t=t: torch.nn.functional.max_pool2d(t, *window)
    return contenders


def max_pool2d_backward(shape, window):
    (x,) = arrays(shape)
    y, indices = kernels.max_pool2d_forward(x, *window)
    (dy,) = arrays(y.shape)
    contenders = {OURS: lambda: kernels.max_pool2d_backward(dy, indices, shape, *window)}
    options = [[v, v] for v in (*window, 1)]
    for name, layout in peers.LAYOUTS.items():
        t, dt = peers.in_layout(x, layout), peers.in_layout(dy, layout)
        places = torch.ops.aten.max_pool2d_with_indices(t, *options)[1]
        contenders[name] = lambda t=t, dt=dt, i=places: (
            torch.ops.aten.max_pool2d_with_indices_backward(dt, t, *options, False, i)
        )
    return contenders


def avg_pool2d_forward(shape, window):
    (x,) = arrays(shape)
    contenders = {OURS: lambda: kernels.avg_pool2d_forward(x, *window)}
    for name, layout in peers.LAYOUTS.items():
        t = peers.in_layout(x, layout)
        contenders[name] = lambda t=t: torch.nn.functional.avg_pool2d(t, *window)
    return contenders


def avg_pool2d_backward(shape, window):
    (x,) = arrays(shape)
    (dy,) = arrays(kernels.avg_pool2d_forward(x, *window).shape)
    contenders = {OURS: lambda: kernels.avg_pool2d_backward(dy, shape, *window)}
    options = [[v, v] for v in window]
    for name, layout in peers.LAYOUTS.items():
        t, dt = peers.in_layout(x, layout), peers.in_layout(dy, layout)
        contenders[name] = lambda t=t, dt=dt: torch.ops.aten.avg_pool2d_backward(
            dt, t, *options, False, True, None
        )
    return contenders


def pool_cases(threads):
    kinds = {
        "max": (max_pool2d_forward, max_pool2d_backward),
        "average": (avg_pool2d_forward, avg_pool2d_backward),
    }
    for kind, makers in kinds.items():
        for pool, (shape, window) in POOLS.items():
            for direction, make in zip(("forward", "backward"), makers, strict=True):
                name = on_threads(f"{kind}, {pool}, {direction}", threads)
                yield Case("Pooling", name, 0.0, lambda m=make, s=shape, w=window: m(s, w))


# ---- batch normalisation ------------------------------------------------------------------------


def batch_norm_forward(shape):
    """In training: with the batch's statistics, which the running ones follow."""
    x, w, b = arrays(shape, *[shape[1:2]] * 2)

    def call(lib, x):
        state = lib.zeros(shape[1]), lib.ones(shape[1]), *map(lib.from_numpy, (w, b))
        return lambda: lib.nn.functional.batch_norm(x, *state, training=True)

    contenders = {OURS: call(fastconv, fastconv.from_numpy(x))}
    for name, layout in peers.LAYOUTS.items():
        contenders[name] = call(torch, peers.in_layout(x, layout))
    return contenders


def batch_norm_backward(shape):
    x, dy, w = arrays(shape, shape, shape[1:2])
    saved = kernels.batch_norm_forward(x)[1:]
    contenders = {OURS: lambda: kernels.batch_norm_backward(dy, x, w, *saved)}
    rest = [torch.from_numpy(a.astype(np.float32)) for a in saved]
    for name, layout in peers.LAYOUTS.items():
        dt, t = (peers.in_layout(a, layout) for a in (dy, x))
        contenders[name] = lambda dt=dt, t=t: torch.ops.aten.native_batch_norm_backward(
            dt, t, torch.from_numpy(w), None, None, *rest, True, 1e-5, [True] * 3
        )
    return contenders


def norm_cases():
    for direction, make in (("forward", batch_norm_forward), ("backward", batch_norm_backward)):
        for shape in NORMS:
            name = f"{shape[0]}×{shape[1]}×{shape[2]}², {direction}"
            yield Case("Batch normalisation", name, 0.0, lambda m=make, s=shape: m(s))


# ---- all else -----------------------------------------------------------------------------------


def of_channels(function, shape):
    x, y, c = arrays(shape, shape, (1, shape[1]) + (1,) * (len(shape) - 2))
    return of_tensors(function, x, np.abs(y, out=y), c)


def function_cases():
    for size, (shape, functions) in FUNCTIONS_OF.items():
        for name, function in functions.items():
            make = functools.partial(of_channels, function, shape)
            yield Case("Functions of Tensors", f"{name}, {size}", 0.0, make)


# ---- whole networks -----------------------------------------------------------------------------


def network_cases(threads):
    for batch in (1, 64):
        flops = 2.0 * tutorial.FORWARD * batch
        make = lambda b=batch: steps.tutorial_forward(b, threads)  # noqa: E731
        yield Case("Tutorial", on_threads(f"forward, batch {batch}", threads), flops, make)
    for batch in (1, 64, 256):
        flops = 2.0 * tutorial.TRAINING * batch
        make = lambda b=batch: steps.tutorial_step(b)  # noqa: E731
        name = on_threads(f"training step, batch {batch}", threads)
        yield Case("Tutorial", name, flops, make, training=True)
    name = on_threads("forward, 224², batch 1", threads)
    yield Case("ResNet-18", name, 2.0 * resnet.IMAGENET, lambda: steps.resnet_forward(threads))
    name = on_threads(f"training step, 32², batch {steps.BATCH}", threads)
    flops = 2.0 * resnet.CIFAR_TRAINING * steps.BATCH
    yield Case("ResNet-18", name, flops, steps.resnet_training, training=True)


def threads_cases(threads):
    """The rows that are measured on several numbers of threads, in the order of the tables."""
    yield from conv2d_cases(threads)
    yield from pool_cases(threads)
    yield from gemm_cases(threads)
    yield from network_cases(threads)


def all_cases(threads, cores):
    """Every row."""
    yield from threads_cases(threads)
    yield from norm_cases()
    yield from function_cases()
    yield from matmul_cases()
    yield from own_cases(cores)
