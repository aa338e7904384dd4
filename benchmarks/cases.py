"""What is compared: a Case makes its contenders, "fastconv" among them, on the same arrays."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

import fastconv
from fastconv import kernels
from fastconv.nn import functional as F

OURS = "fastconv"
LAYOUTS = {"PyTorch": torch.contiguous_format, "PyTorch channels_last": torch.channels_last}


class Case(NamedTuple):
    """One row of a table. goal: ("ratio", x) or ("peak", fraction), to be reached or exceeded.

    training: gradients are recorded; else PyTorch runs in inference_mode, fastconv in no_grad.
    """

    group: str
    name: str
    flops: float
    contenders: Callable[[], dict[str, Callable]]
    goal: tuple[str, float] | None = None
    training: bool = False


class Layer(NamedTuple):
    """A convolution: x (N, C, H, H), K filters of R x R, padded to keep the size at stride 1."""

    name: str
    N: int
    C: int
    H: int
    K: int
    R: int
    stride: int = 1
    padding: int | None = None
    groups: int = 1

    def pad(self):
        return self.R // 2 if self.padding is None else self.padding

    def out(self):
        """P, the rows and columns of the output."""
        return (self.H + 2 * self.pad() - self.R) // self.stride + 1

    def flops(self):
        """Of each of the three passes: two per multiply-add."""
        return 2.0 * self.N * self.K * self.out() ** 2 * self.C // self.groups * self.R**2


LAYERS = [
    Layer("tutorial conv1, batch 64", 64, 1, 32, 6, 3, padding=0),
    Layer("tutorial conv2, batch 64", 64, 6, 15, 16, 3, padding=0),
    Layer("3→32 3×3 on 32², batch 32", 32, 3, 32, 32, 3),
    Layer("32→64 3×3 on 16², batch 32", 32, 32, 16, 64, 3),
    Layer("3→64 7×7/2 on 224²", 1, 3, 224, 64, 7, stride=2),
    Layer("64→64 1×1 on 56²", 1, 64, 56, 64, 1),
    Layer("64→64 3×3 on 56²", 1, 64, 56, 64, 3),
    Layer("128→128 3×3 on 28²", 1, 128, 28, 128, 3),
    Layer("256→256 3×3 on 14²", 1, 256, 14, 256, 3),
    Layer("512→512 3×3 on 7²", 1, 512, 7, 512, 3),
    Layer("128→128 3×3/2 on 56²", 1, 128, 56, 128, 3, stride=2),
    Layer("256→1024 1×1 on 14²", 1, 256, 14, 1024, 1),
    Layer("256→512 1×1/2 on 56²", 1, 256, 56, 512, 1, stride=2),
    Layer("64→64 3×3 on 224²", 1, 64, 224, 64, 3),
    Layer("512→512 3×3 on 28²", 1, 512, 28, 512, 3),
    Layer("depthwise 144 3×3 on 56²", 1, 144, 56, 144, 3, groups=144),
    Layer("depthwise 96 3×3/2 on 112²", 1, 96, 112, 96, 3, stride=2, groups=96),
]

GEMMS = [(n, n, n) for n in (64, 128, 256, 512, 1024, 2048)]
GEMMS += [(6, 900, 9), (16, 169, 54), (64, 120, 576), (64, 3136, 576), (1024, 196, 256)]


def arrays(*shapes):
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


def in_layout(array, layout):
    """A PyTorch tensor of the numbers; of the array's own memory in NCHW order."""
    return torch.from_numpy(array).contiguous(memory_format=layout)


def conv2d_arrays(layer):
    """x, w, b, dy."""
    return arrays(
        (layer.N, layer.C, layer.H, layer.H),
        (layer.K, layer.C // layer.groups, layer.R, layer.R),
        (layer.K,),
        (layer.N, layer.K, layer.out(), layer.out()),
    )


def conv2d_forward(layer):
    x, w, b, _ = conv2d_arrays(layer)
    options = {"stride": layer.stride, "padding": layer.pad(), "groups": layer.groups}
    ours = [fastconv.from_numpy(a) for a in (x, w, b)]
    contenders = {OURS: lambda: F.conv2d(*ours, **options)}
    for name, layout in LAYOUTS.items():
        theirs = (in_layout(x, layout), in_layout(w, layout), torch.from_numpy(b))
        contenders[name] = lambda t=theirs: torch.nn.functional.conv2d(*t, **options)
    return contenders


def conv2d_backward(layer, which):
    """which: "input" or "weight" (with the bias)."""
    x, w, b, dy = conv2d_arrays(layer)
    rest = (layer.stride, layer.pad(), 1, layer.groups)
    mask = [True, False, False] if which == "input" else [False, True, True]
    if which == "input":
        ours = lambda: kernels.conv2d_backward_input(dy, w, x.shape, *rest)  # noqa: E731
    else:
        ours = lambda: kernels.conv2d_backward_weight(dy, x, w.shape[2:], *rest)  # noqa: E731
    contenders = {OURS: ours}
    for name, layout in LAYOUTS.items():
        theirs = [in_layout(a, layout) for a in (dy, x, w)]
        pairs = [[layer.stride] * 2, [layer.pad()] * 2, [1, 1], False, [0, 0], layer.groups, mask]
        contenders[name] = lambda t=theirs, p=pairs: torch.ops.aten.convolution_backward(
            *t, [layer.K], *p
        )
    return contenders


def gemm(m, n, k):
    a, b = arrays((m, k), (k, n))
    theirs = [torch.from_numpy(x) for x in (a, b)]
    return {
        OURS: lambda: kernels.gemm(a, b),
        "PyTorch": lambda: torch.mm(*theirs),
        "NumPy": lambda: a @ b,
    }


def matmul(n):
    """Of Tensors: what a call costs beside its arithmetic."""
    contenders = {}
    for name, lib in ((OURS, fastconv), ("PyTorch", torch)):
        a, b = (lib.from_numpy(x) for x in arrays((n, n), (n, n)))
        contenders[name] = lambda lib=lib, a=a, b=b: lib.matmul(a, b)
    return contenders


POOLS = {
    "2×2, 64×6×30²": ((64, 6, 30, 30), (2, 2, 0)),
    "3×3/2, 64×112²": ((1, 64, 112, 112), (3, 2, 1)),
}


def max_pool2d_forward(shape, window):
    (x,) = arrays(shape)
    ours = fastconv.from_numpy(x)
    contenders = {OURS: lambda: F.max_pool2d(ours, *window)}
    for name, layout in LAYOUTS.items():
        t = in_layout(x, layout)
        contenders[name] = lambda t=t: torch.nn.functional.max_pool2d(t, *window)
    return contenders


def max_pool2d_backward(shape, window):
    (x,) = arrays(shape)
    y, indices = kernels.max_pool2d_forward(x, *window)
    (dy,) = arrays(y.shape)
    contenders = {OURS: lambda: kernels.max_pool2d_backward(dy, indices, shape)}
    options = [[v, v] for v in (*window, 1)]
    for name, layout in LAYOUTS.items():
        t, dt = in_layout(x, layout), in_layout(dy, layout)
        places = torch.ops.aten.max_pool2d_with_indices(t, *options)[1]
        contenders[name] = lambda t=t, dt=dt, i=places: (
            torch.ops.aten.max_pool2d_with_indices_backward(dt, t, *options, False, i)
        )
    return contenders


# ---- the tutorial's network ---------------------------------------------------------------------


def tutorial_net(lib):
    """The tutorial's Net, written with `lib` (fastconv or torch), from seed 0."""
    nn, functional = lib.nn, lib.nn.functional

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1 = nn.Conv2d(1, 6, 3)
            self.conv2 = nn.Conv2d(6, 16, 3)
            self.fc1 = nn.Linear(16 * 6 * 6, 120)
            self.fc2 = nn.Linear(120, 84)
            self.fc3 = nn.Linear(84, 10)

        def forward(self, x):
            x = functional.max_pool2d(functional.relu(self.conv1(x)), (2, 2))
            x = functional.max_pool2d(functional.relu(self.conv2(x)), 2)
            x = x.view(-1, 576)
            x = functional.relu(self.fc1(x))
            x = functional.relu(self.fc2(x))
            return self.fc3(x)

    lib.manual_seed(0)
    return Net()


FORWARD = 274_656  # multiply-adds of a sample
TRAINING = 3 * FORWARD - 48_600  # the gradient of the images, conv1's dx, is not computed


def forward(batch):
    (x,) = arrays((batch, 1, 32, 32))
    contenders = {}
    for name, lib in ((OURS, fastconv), ("PyTorch", torch)):
        net, images = tutorial_net(lib), lib.from_numpy(x)
        contenders[name] = lambda net=net, images=images: net(images)
    return contenders


def train_step(batch):
    """zero_grad, forward, MSELoss, backward, SGD: as the tutorial's loop, eager on both sides."""
    x, t = arrays((batch, 1, 32, 32), (batch, 10))
    sides = (
        (OURS, fastconv, {}),
        ("PyTorch", torch, {}),
        ("PyTorch fused", torch, {"fused": True}),
    )
    contenders = {}
    for name, lib, options in sides:
        net, criterion = tutorial_net(lib), lib.nn.MSELoss()
        optimizer = lib.optim.SGD(net.parameters(), lr=1e-3, **options)
        images, target = lib.from_numpy(x), lib.from_numpy(t)

        def step(net=net, criterion=criterion, optimizer=optimizer, images=images, target=target):
            optimizer.zero_grad()
            loss = criterion(net(images), target)
            loss.backward()
            optimizer.step()
            return loss.detach()

        contenders[name] = step
    return contenders


def all_cases():
    """Every row, in the order of the tables."""
    for m, n, k in GEMMS:
        goal = ("peak", 0.9) if m == n == k == 512 else None
        name = f"{m}³" if m == n == k else f"{m}×{n}×{k}"
        yield Case("GEMM", name, 2.0 * m * n * k, lambda s=(m, n, k): gemm(*s), goal)
    for n in (8, 64):
        yield Case("GEMM", f"matmul of Tensors, {n}³", 2.0 * n**3, lambda n=n: matmul(n))
    for layer in LAYERS:
        goal = ("ratio", 1.0) if layer.R in (1, 7) else None
        flops = layer.flops()
        yield Case(
            "convolution, forward", layer.name, flops, lambda s=layer: conv2d_forward(s), goal
        )
    for which in ("input", "weight"):
        for layer in LAYERS:
            make = lambda s=layer, w=which: conv2d_backward(s, w)  # noqa: E731
            group = f"convolution, backward-{which}"
            yield Case(group, layer.name, layer.flops(), make)
    for name, (shape, window) in POOLS.items():
        for direction, make in (("forward", max_pool2d_forward), ("backward", max_pool2d_backward)):
            make = lambda m=make, s=shape, w=window: m(s, w)  # noqa: E731
            yield Case("max-pool", f"{name}, {direction}", 0.0, make)
    for batch in (1, 64):
        flops = 2.0 * FORWARD * batch
        yield Case("tutorial", f"forward, batch {batch}", flops, lambda b=batch: forward(b))
    for batch in (1, 64):
        goal = ("ratio", 3.0) if batch == 1 else None
        flops = 2.0 * TRAINING * batch
        make = lambda b=batch: train_step(b)  # noqa: E731
        yield Case("tutorial", f"training step, batch {batch}", flops, make, goal, training=True)
