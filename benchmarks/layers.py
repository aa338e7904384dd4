"""The layers and matrix products that are measured, and their numbers. No library but NumPy."""

from typing import NamedTuple

import numpy as np


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

    def options(self):
        """stride, padding, dilation, groups: the arguments that every pass ends with."""
        return self.stride, self.pad(), 1, self.groups

    def out(self):
        """P, the rows and columns of the output."""
        return (self.H + 2 * self.pad() - self.R) // self.stride + 1

    def input_size(self):
        return self.N, self.C, self.H, self.H

    def weight_size(self):
        return self.K, self.C // self.groups, self.R, self.R

    def output_size(self):
        return self.N, self.K, self.out(), self.out()

    def flops(self):
        """Of each of the three passes: two per multiply-add of the direct method."""
        return 2.0 * self.N * self.K * self.out() ** 2 * self.C // self.groups * self.R**2

    def family(self):
        """The part of the tables that it belongs to."""
        if self.groups > 1:
            return "Depthwise 3×3"
        if self.C < 8 and self.R == 3:
            return "First layers"
        if self.R not in (1, 3, 7):
            return "Other kernels"
        return "3×3 stride 1" if (self.R, self.stride) == (3, 1) else "1×1, 7×7 and strided"


LAYERS = [
    Layer("32→64 3×3 on 16², batch 32", 32, 32, 16, 64, 3),
    Layer("64→64 3×3 on 56²", 1, 64, 56, 64, 3),
    Layer("128→128 3×3 on 28²", 1, 128, 28, 128, 3),
    Layer("256→256 3×3 on 14²", 1, 256, 14, 256, 3),
    Layer("512→512 3×3 on 7²", 1, 512, 7, 512, 3),
    Layer("64→64 3×3 on 224²", 1, 64, 224, 64, 3),
    Layer("512→512 3×3 on 28²", 1, 512, 28, 512, 3),
    Layer("3→64 7×7/2 on 224²", 1, 3, 224, 64, 7, stride=2),
    Layer("64→64 1×1 on 56²", 1, 64, 56, 64, 1),
    Layer("256→1024 1×1 on 14²", 1, 256, 14, 1024, 1),
    Layer("2048→512 1×1 on 7²", 1, 2048, 7, 512, 1),
    Layer("256→512 1×1/2 on 56²", 1, 256, 56, 512, 1, stride=2),
    Layer("128→128 3×3/2 on 56²", 1, 128, 56, 128, 3, stride=2),
    Layer("tutorial conv1, batch 64", 64, 1, 32, 6, 3, padding=0),
    Layer("tutorial conv2, batch 64", 64, 6, 15, 16, 3, padding=0),
    Layer("3→32 3×3 on 32², batch 32", 32, 3, 32, 32, 3),
    Layer("64→64 5×5 on 28²", 1, 64, 28, 64, 5),
    Layer("32→64 5×5 on 14², batch 32", 32, 32, 14, 64, 5),
    Layer("64→128 2×2/2 on 28², batch 8", 8, 64, 28, 128, 2, stride=2, padding=0),
    Layer("32→64 4×4/2 on 32², batch 8", 8, 32, 32, 64, 4, stride=2, padding=1),
    Layer("depthwise 144 3×3 on 56²", 1, 144, 56, 144, 3, groups=144),
    Layer("depthwise 96 3×3/2 on 112²", 1, 96, 112, 96, 3, stride=2, groups=96),
]
FAMILIES = list(dict.fromkeys(layer.family() for layer in LAYERS))

GEMMS = [(n, n, n) for n in (64, 128, 256, 512, 1024, 2048)]  # m, n, k
GEMMS += [(6, 900, 9), (16, 169, 54), (64, 120, 576), (64, 3136, 576), (1024, 196, 256)]

POOLS = {  # (N, C, H, W), (window, stride, padding)
    "2×2, 64×6×30²": ((64, 6, 30, 30), (2, 2, 0)),
    "3×3/2, 64×112²": ((1, 64, 112, 112), (3, 2, 1)),
}

LINE = 64  # bytes

NORMS = [(1, 64, 56, 56), (16, 64, 56, 56), (16, 512, 7, 7)]

FUNCTIONS = {  # of x, of y > 0 of its shape, and of c, a number for each channel; the same words in both libraries
    "x + y": lambda x, y, c: x + y,
    "x + c": lambda x, y, c: x + c,
    "exp": lambda x, y, c: x.exp(),
    "log": lambda x, y, c: y.log(),
    "tanh": lambda x, y, c: x.tanh(),
    "relu": lambda x, y, c: x.relu(),
    "sum": lambda x, y, c: x.sum(),
    "sum over axis 1": lambda x, y, c: x.sum(1),
    "max over axis 1": lambda x, y, c: x.max(1),
    "softmax over axis 1": lambda x, y, c: x.softmax(1),
    "log_softmax over axis 1": lambda x, y, c: x.log_softmax(1),
}
OF_IMAGES = {
    "sum over axes 0, 2, 3": lambda x, y, c: x.sum((0, 2, 3)),
    "sum over axis 3": lambda x, y, c: x.sum(3),
    "max over axis 3": lambda x, y, c: x.max(3),
    "to channels last": lambda x, y, c: x.permute(0, 2, 3, 1).contiguous(),
    "from channels last": lambda x, y, c: (
        x.reshape(x.shape[0], *x.shape[2:], -1).permute(0, 3, 1, 2).contiguous()
    ),
}
FUNCTIONS_OF = {
    "64×10": ((64, 10), FUNCTIONS),
    "64×6×30²": ((64, 6, 30, 30), FUNCTIONS | OF_IMAGES),
    "16×64×56²": ((16, 64, 56, 56), FUNCTIONS | OF_IMAGES),
}


def empty(shape):
    """float32, from a cache line on, where each library here puts its own arrays, and NumPy does not."""
    size = 4 * int(np.prod(shape))
    memory = np.empty(size + LINE, np.uint8)
    start = -memory.ctypes.data % LINE
    return memory[start : start + size].view(np.float32).reshape(shape)


def arrays(*shapes):
    rng, made = np.random.default_rng(0), [empty(shape) for shape in shapes]
    for array in made:
        array[...] = rng.standard_normal(array.shape)
    return made


def conv2d_arrays(layer):
    """x, w, b, dy."""
    return arrays(layer.input_size(), layer.weight_size(), (layer.K,), layer.output_size())
