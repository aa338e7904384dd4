"""The operations of a network: each calls the door and hands the tape its backward, a closure right inside."""

from fastconv import kernels, random
from fastconv.autograd import Tensor, _wrap, change, record
from fastconv.missing import guide, kind
from fastconv.ops import common
from fastconv.ops.arithmetic import relu as _relu
from fastconv.ops.arithmetic import sigmoid, tanh
from fastconv.ops.inplace import relu_
from fastconv.ops.reductions import log_softmax, softmax
from fastconv.ops.views import flatten

__all__ = [
    "adaptive_avg_pool2d",
    "avg_pool2d",
    "batch_norm",
    "conv2d",
    "cross_entropy",
    "dropout",
    "dropout2d",
    "flatten",
    "fold",
    "linear",
    "log_softmax",
    "max_pool2d",
    "mse_loss",
    "nll_loss",
    "relu",
    "relu_",
    "sigmoid",
    "softmax",
    "tanh",
    "unfold",
]


def _refuse(**arguments):
    for name, x in arguments.items():
        if not isinstance(x, Tensor):
            raise TypeError(f"{name} must be a Tensor, got {kind(x)}")


def _array(optional):
    return None if optional is None else optional._array


def conv2d(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    """Convolution: y[n,k,p,q] = bias[k] + sum_{c,r,s} x[n, c, p*stride - padding + r*dilation, ...] weight[k,c,r,s].

    input: (N, C, H, W) or (C, H, W); weight: (K, C/groups, R, S); bias: (K) or None. padding: int, (height, width),
    ((top, bottom), (left, right)), "same" or "valid". See kernels.conv2d_forward.
    """
    if not (isinstance(input, Tensor) and isinstance(weight, Tensor)):
        _refuse(input=input, weight=weight)
    if input._array.ndim == 3:
        return conv2d(input.unsqueeze(0), weight, bias, stride, padding, dilation, groups).squeeze(
            0
        )
    x, w = input._array, weight._array
    y = kernels.conv2d_forward(x, w, _array(bias), stride, padding, dilation, groups)
    need_x, need_w = input.requires_grad, weight.requires_grad
    need_b = bias is not None and bias.requires_grad

    def backward(dy):
        dx = dw = db = None
        if need_x:
            dx = kernels.conv2d_backward_input(dy, w, x.shape, stride, padding, dilation, groups)
        if need_w or need_b:
            dw, db = kernels.conv2d_backward_weight(
                dy, x, w.shape[2:], stride, padding, dilation, groups, bias=need_b
            )
        return (dx, dw) if bias is None else (dx, dw, db)

    inputs = (input, weight) if bias is None else (input, weight, bias)
    return record("Convolution", y, inputs, backward, saves=(input, weight))


def linear(input, weight, bias=None):
    """Affine map: y = x weightᵀ + bias.  input: (..., in), weight: (out, in), bias: (out) or None."""
    if not (isinstance(input, Tensor) and isinstance(weight, Tensor)):
        _refuse(input=input, weight=weight)
    x, w = input._array, weight._array
    y = kernels.linear_forward(x, w, _array(bias))
    need_x, need_w = input.requires_grad, weight.requires_grad
    need_b = bias is not None and bias.requires_grad

    def backward(dy):
        dx = dw = db = None
        if need_x:
            dx = kernels.linear_backward_input(dy, w)
        if need_w or need_b:
            dw, db = kernels.linear_backward_weight(dy, x, bias=need_b)
        return (dx, dw) if bias is None else (db, dx, dw)

    inputs = (input, weight) if bias is None else (bias, input, weight)
    return record("Addmm" if bias is not None else "Mm", y, inputs, backward, saves=(input, weight))


def max_pool2d(
    input, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False
):
    """Max-pooling over windows of an (N, C, H, W) or (C, H, W) input; stride is kernel_size by default.

    return_indices: also the int64 position of each maximum in its plane. See kernels.max_pool2d_forward.
    """
    if not isinstance(input, Tensor):
        _refuse(input=input)
    if input._array.ndim == 3:
        y = max_pool2d(
            input.unsqueeze(0), kernel_size, stride, padding, dilation, ceil_mode, return_indices
        )
        return tuple(t.squeeze(0) for t in y) if return_indices else y.squeeze(0)
    x = input._array
    y, indices = kernels.max_pool2d_forward(x, kernel_size, stride, padding, dilation, ceil_mode)

    def backward(dy):
        dx = kernels.max_pool2d_backward(
            dy, indices, x.shape, kernel_size, stride, padding, dilation
        )
        return (dx,)

    result = record("MaxPool2DWithIndices", y, (input,), backward)
    return (result, _wrap(kernels.cast(indices, "int64"))) if return_indices else result


def avg_pool2d(
    input,
    kernel_size,
    stride=None,
    padding=0,
    ceil_mode=False,
    count_include_pad=True,
    divisor_override=None,
):
    """Averages of windows of an (N, C, H, W) or (C, H, W) input; stride is kernel_size by default.

    See kernels.avg_pool2d_forward.
    """
    if not isinstance(input, Tensor):
        _refuse(input=input)
    options = (kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)
    if input._array.ndim == 3:
        return avg_pool2d(input.unsqueeze(0), *options).squeeze(0)
    x = input._array
    y = kernels.avg_pool2d_forward(x, *options)

    def backward(dy):
        return (kernels.avg_pool2d_backward(dy, x.shape, *options),)

    return record("AvgPool2D", y, (input,), backward)


def adaptive_avg_pool2d(input, output_size):
    """Averages over output_size windows that cover an (N, C, H, W) or (C, H, W) input; None keeps a size.

    Window p of P is of rows floor(p H / P) to ceil((p + 1) H / P). See kernels.adaptive_avg_pool2d_forward.
    """
    if not isinstance(input, Tensor):
        _refuse(input=input)
    if input._array.ndim == 3:
        return adaptive_avg_pool2d(input.unsqueeze(0), output_size).squeeze(0)
    x = input._array
    y = kernels.adaptive_avg_pool2d_forward(x, output_size)

    def backward(dy):
        return (kernels.adaptive_avg_pool2d_backward(dy, x.shape),)

    return record("AdaptiveAvgPool2D", y, (input,), backward)


def batch_norm(
    input,
    running_mean,
    running_var,
    weight=None,
    bias=None,
    training=False,
    momentum=0.1,
    eps=1e-5,
    *,
    num_batches_tracked=None,
):
    """(input - mean) / sqrt(var + eps) * weight + bias, for each channel of an (N, C, ...) input.

    mean and var are running_mean and running_var, or, training, those of the input: then the running ones move
    towards them, in place, by the part `momentum`. num_batches_tracked: an int64 Tensor of one number that training
    counts up; with momentum None the running ones are averages over that many batches.
    See kernels.batch_norm_forward.
    """
    if not isinstance(input, Tensor):
        _refuse(input=input)
    x, w = input._array, _array(weight)
    state = (running_mean, running_var, num_batches_tracked)
    y, mean, invstd = kernels.batch_norm_forward(
        x, w, _array(bias), *map(_array, state), training=training, momentum=momentum, eps=eps
    )
    if training:
        for changed in state:
            if changed is not None:
                changed._bump()

    def backward(dy):
        dx, dw, db = kernels.batch_norm_backward(dy, x, w, mean, invstd, training=training)
        affine = [g for t, g in ((weight, dw), (bias, db)) if t is not None]
        return (dx, *affine)

    parameters = [t for t in (weight, bias) if t is not None]
    read = (input,) if weight is None else (input, weight)
    return record("NativeBatchNorm", y, (input, *parameters), backward, saves=read)


def dropout(input, p=0.5, training=True, inplace=False):
    """Training, input / (1 - p), or 0 with probability p, for each element by itself; else the input itself.

    manual_seed fixes what is dropped; it is not what PyTorch drops. Raises ValueError for p outside [0, 1].
    """
    return _dropout(input, p, training, inplace, channels=False)


def dropout2d(input, p=0.5, training=True, inplace=False):
    """As dropout, but for each channel of an (N, C, ...) input: all of its pixels, or none."""
    return _dropout(input, p, training, inplace, channels=True)


def _dropout(input, p, training, inplace, channels):
    if not isinstance(input, Tensor):
        _refuse(input=input)
    if not 0 <= p <= 1:
        raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}")
    x, state = input._array, random.default_generator.dropout_state
    if not training or p == 0 or x.size == 0:
        return input
    key = None

    def compute():
        nonlocal key
        y, key = kernels.dropout(x, state, p, channels=channels)
        kernels.assign(x, y)

    def backward(dy):
        return (kernels.dropout_backward(dy, key, p, channels=channels),)

    if inplace:
        return change(input, "NativeDropout", compute, (input,), backward)
    y, key = kernels.dropout(x, state, p, channels=channels)
    return record("NativeDropout", y, (input,), backward)


def relu(input, inplace=False):
    """max(input, 0)."""
    return relu_(input) if inplace else _relu(input)


def unfold(input, kernel_size, dilation=1, padding=0, stride=1):
    """The patches of an (N, C, H, W) input as columns: (N, C*R*S, P*Q). See kernels.im2col."""
    if not isinstance(input, Tensor):
        _refuse(input=input)
    x = input._array
    cols = kernels.im2col(x, kernel_size, stride=stride, padding=padding, dilation=dilation)

    def backward(dy):
        dx = kernels.col2im(
            dy, x.shape[2:], kernel_size, stride=stride, padding=padding, dilation=dilation
        )
        return (dx,)

    return record("Im2Col", cols, (input,), backward)


def fold(input, output_size, kernel_size, dilation=1, padding=0, stride=1):
    """Columns (N, C*R*S, P*Q) added up into an (N, C, H, W) image: the adjoint of unfold. See kernels.col2im."""
    if not isinstance(input, Tensor):
        _refuse(input=input)
    x = kernels.col2im(
        input._array, output_size, kernel_size, stride=stride, padding=padding, dilation=dilation
    )

    def backward(dx):
        return (kernels.im2col(dx, kernel_size, stride=stride, padding=padding, dilation=dilation),)

    return record("Col2Im", x, (input,), backward)


# ---- losses -------------------------------------------------------------------------------------------


def mse_loss(input, target, *, reduction="mean"):
    """Squared error (input - target)²: its mean, its sum, or each ("none"). Shapes must be equal."""
    if not (isinstance(input, Tensor) and isinstance(target, Tensor)):
        _refuse(input=input, target=target)
    input, target = common.operands(input, target)
    x, t = input._array, target._array
    y = kernels.mse_loss_forward(x, t, reduction)
    need_target = target.requires_grad

    def backward(dy):
        dx = kernels.mse_loss_backward(dy, x, t, reduction)
        return dx, kernels.neg(dx) if need_target else None

    return record("MseLoss", y, (input, target), backward, saves=(input, target))


def nll_loss(input, target, weight=None, *, ignore_index=-100, reduction="mean"):
    """Negative log-likelihood of classes: -weight[t] input[n, t], t = target[n].

    input: (N, C, ...) logarithms of probabilities, or (C); target: (N, ...) integers. See kernels.nll_loss_forward.
    """
    if not (isinstance(input, Tensor) and isinstance(target, Tensor)):
        _refuse(input=input, target=target)
    if input._array.ndim == 1:
        if target._array.ndim:
            raise ValueError(
                f"target must have no axes for an input of one, got {tuple(target.shape)}"
            )
        options = {"ignore_index": ignore_index, "reduction": reduction}
        loss = nll_loss(input.unsqueeze(0), target.reshape(1), weight, **options)
        return loss.reshape(()) if reduction == "none" else loss
    x, t, weights = input._array, target._array, _array(weight)
    y = kernels.nll_loss_forward(x, t, weights, ignore_index, reduction)

    def backward(dy):
        return (kernels.nll_loss_backward(dy, x, t, weights, ignore_index, reduction),)

    read = (target,) if weight is None else (target, weight)
    return record("NllLoss", y, (input,), backward, saves=read)


def cross_entropy(
    input, target, weight=None, *, ignore_index=-100, reduction="mean", label_smoothing=0.0
):
    """nll_loss of log_softmax over the class axis.

    input: (N, C, ...) scores, or (C). target: (N, ...) classes, or probabilities of input's shape. label_smoothing e in
    [0, 1]: the target becomes (1 - e) of itself and e / C of every class.
    """
    if not (isinstance(input, Tensor) and isinstance(target, Tensor)):
        _refuse(input=input, target=target)
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"label_smoothing must be from 0 to 1, got {label_smoothing}")
    axis = 0 if input._array.ndim == 1 else 1
    log_p = log_softmax(input, axis)
    if common.is_floating(target):
        return _cross_entropy_of_probabilities(
            log_p, target, axis, weight, reduction, label_smoothing
        )
    if label_smoothing == 0:
        return nll_loss(log_p, target, weight, ignore_index=ignore_index, reduction=reduction)
    return _smoothed_cross_entropy(
        log_p, target, axis, weight, ignore_index, reduction, label_smoothing
    )


def _smoothed_cross_entropy(log_p, target, axis, weight, ignore_index, reduction, smoothing):
    """(1 - e) of nll_loss, and e / C of the weighted sum over all classes; both only where a target is not ignored."""
    classes = log_p.shape[axis]
    hard = nll_loss(log_p, target, weight, ignore_index=ignore_index, reduction="none")
    counted = (target != ignore_index).float().to(log_p.dtype)
    if weight is None:
        each, weights = log_p, counted
    else:
        each = log_p * weight.reshape([-1 if d == axis else 1 for d in range(log_p.ndim)])
        weights = weight[target * (target != ignore_index)] * counted
    loss = hard * (1 - smoothing) - each.sum(axis) * counted * (smoothing / classes)
    return loss.sum() / weights.sum() if reduction == "mean" else _reduce(loss, reduction)


def _cross_entropy_of_probabilities(log_p, target, axis, weight, reduction, label_smoothing):
    if weight is not None:
        raise NotImplementedError("weight together with probabilities as target is not supported")
    if target.shape != log_p.shape:
        raise ValueError(
            f"target must have input's shape {tuple(log_p.shape)}, got {tuple(target.shape)}"
        )
    if label_smoothing:
        target = target * (1 - label_smoothing) + label_smoothing / log_p.shape[axis]
    return _reduce(-(log_p * target).sum(axis), reduction)


def _reduce(loss, reduction):
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"reduction must be 'none', 'mean' or 'sum', got {reduction!r}")
    return loss if reduction == "none" else loss.mean() if reduction == "mean" else loss.sum()


__getattr__ = guide(__name__)
