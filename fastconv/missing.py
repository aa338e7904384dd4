"""Names of PyTorch that fastconv does not have, and what to write instead."""

import dis
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

#: Expressions of what there is: x and y are Tensors, F is nn.functional; with PyTorch's defaults.
EXPRESSIONS = {
    "F.relu(x) - 0.01 * F.relu(-x)": ("LeakyReLU", "leaky_relu"),
    "F.relu(x) - F.relu(x - 6)": ("ReLU6", "relu6"),
    "F.relu(x + 1) - F.relu(x - 1) - 1": ("Hardtanh", "hardtanh"),
    "F.relu(x) + (-F.relu(-x)).exp() - 1": ("ELU", "elu"),
    "x * F.sigmoid(x)": ("SiLU", "silu"),
    "0.5 * x * (1 + F.tanh(0.7978845608 * (x + 0.044715 * x**3)))": ("GELU", "gelu"),
    "F.relu(x) + (1 + (-x.abs()).exp()).log()": ("Softplus", "softplus"),
    "(x - y).abs().mean()": ("L1Loss", "l1_loss"),
    "-(y * x.log() + (1 - y) * (1 - x).log()).mean()": ("BCELoss", "binary_cross_entropy"),
    "(F.relu(x) - x * y + (1 + (-x.abs()).exp()).log()).mean()": (
        "BCEWithLogitsLoss",
        "binary_cross_entropy_with_logits",
    ),
    "(x**2).sum().sqrt()": ("norm",),
}

ADVICE = {
    'set optimizer.param_groups[0]["lr"] before each epoch; compiled steps take it up': (
        *("lr_scheduler", "LRScheduler", "StepLR", "MultiStepLR", "ExponentialLR"),
        *("CosineAnnealingLR", "ReduceLROnPlateau", "OneCycleLR", "LambdaLR"),
    ),
    "use optim.Adam, and p.mul_(1 - lr * weight_decay) for each p, under no_grad(), before step()": (
        "AdamW",
    ),
    "use optim.Adam, or optim.SGD with momentum": (
        *("RMSprop", "Adadelta", "Adagrad", "Adamax", "NAdam", "RAdam", "LBFGS"),
    ),
    "norm = sum((p.grad**2).sum() for p in params).sqrt(); if it is above the limit, under no_grad(): "
    "p.grad.mul_(limit / norm.item()) for each p": ("utils", "clip_grad_norm_"),
    "use BatchNorm1d or BatchNorm2d": (
        *("GroupNorm", "LayerNorm", "InstanceNorm2d", "group_norm", "layer_norm"),
    ),
    "transposed convolution and upsampling are not there yet": (
        *("ConvTranspose2d", "conv_transpose2d", "Upsample", "UpsamplingBilinear2d", "interpolate"),
        *("PixelShuffle", "pixel_shuffle"),
    ),
    "use Conv2d, with an axis of size 1": ("Conv1d", "conv1d"),
    "Conv2d and MaxPool2d take padding; a border of zeros can be added by fastconv.cat": (
        *("ZeroPad2d", "ConstantPad2d", "pad"),
    ),
    "use nn.ModuleList, or setattr(self, name, module)": ("ModuleDict", "ParameterList"),
    "use fastconv.tensor(numpy.eye(classes, dtype='float32')[labels.numpy()])": ("one_hot",),
    "write a Dataset with __len__ and __getitem__": ("ConcatDataset", "IterableDataset"),
    "leave it out: the threads of the kernels share the work": ("DataParallel", "distributed"),
    "leave it out: fastconv computes on the CPU, in float32 or float64": (
        *("backends", "accelerator", "amp", "autocast", "manual_seed_all", "empty_cache", "mps"),
    ),
    "use fastconv.no_grad()": ("inference_mode",),
    "use fastconv.tensor(values)": ("FloatTensor",),
    "use fastconv.tensor(values, dtype=fastconv.int64)": ("LongTensor",),
    "under no_grad(), fill the parameter with numbers that NumPy draws": (
        *("trunc_normal_", "orthogonal_", "sparse_", "dirac_", "eye_"),
    ),
}

INSTEAD = {name: f"write {text}" for text, names in EXPRESSIONS.items() for name in names}
INSTEAD |= {name: text for text, names in ADVICE.items() for name in names}


def advice(name: str) -> str:
    """What to write instead of this name, to follow a message; nothing where nobody knows."""
    return f": {INSTEAD[name]}" if name in INSTEAD else ""


def kind(value: Any) -> str:
    """The name of its class, for a message; of another library's Tensor, with what to do."""
    cls = type(value)
    if cls.__name__ == "Tensor":
        return f"{cls.__module__.partition('.')[0]}.Tensor (make it fastconv.tensor(t.numpy()))"
    return cls.__name__


def guide(module: str, otherwise: str = "", lazy: tuple[str, ...] = ()) -> Callable[[str], Any]:
    """A `__getattr__` for that module, whose errors say what to do.

    otherwise: about the names not listed here; lazy: modules in it, imported when they are asked for.
    """

    def __getattr__(name: str) -> Any:
        if name in lazy:
            return import_module(f"{module}.{name}")
        if name.startswith("__"):
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        text = f"{module} has no {name!r}{advice(name) or otherwise}"
        asking = sys._getframe(1)
        code = asking.f_code.co_code
        # `from module import name` would put its own text in the place of an AttributeError's
        if code[asking.f_lasti] == dis.opmap["IMPORT_FROM"]:
            raise ImportError(text)
        raise AttributeError(text)

    return __getattr__
