# Losses. Template: src/kernels/loss.inc.

def mse_loss_forward(x, target, reduction="mean"):
    """Squared error: l_i = (x_i - target_i)^2; their mean, their sum, or (reduction="none") all of them.

    x, target: arrays of one shape and dtype. Returns an array of no axes, or of that shape.
    """
    cdef cnp.ndarray input = contiguous(floats(x, "x")), wanted = contiguous(floats(target, "target", -1, type_of(input))), y
    cdef int kind = as_reduction(reduction)
    require_shape(wanted, "target", input.ndim, <int64_t *>input.shape)
    y = empty(0 if kind else input.ndim, <int64_t *>input.shape, type_of(input))
    cdef mse_loss_args args = mse_loss_args(n=input.size, reduction=kind, x=input.data, target=wanted.data, y=y.data)
    run(type_of(y), FC_mse_loss, &args)
    return y


def mse_loss_backward(dy, x, target, reduction="mean"):
    """dx_i = 2 (x_i - target_i) dy, divided by the number of elements for the mean; dy of mse_loss_forward's shape."""
    cdef cnp.ndarray grad = contiguous(floats(dy, "dy")), input = contiguous(floats(x, "x", -1, type_of(grad)))
    cdef cnp.ndarray wanted = contiguous(floats(target, "target", -1, type_of(grad))), dx
    cdef int kind = as_reduction(reduction)
    require_shape(wanted, "target", input.ndim, <int64_t *>input.shape)
    require_shape(grad, "dy", 0 if kind else input.ndim, <int64_t *>input.shape)
    dx = empty(input.ndim, <int64_t *>input.shape, type_of(input))
    cdef mse_loss_backward_args args = mse_loss_backward_args(
        n=input.size, reduction=kind, dy=grad.data, x=input.data, target=wanted.data, dx=dx.data)
    run(type_of(dx), FC_mse_loss_backward, &args)
    return dx


cdef int64_t as_label(object ignore_index) except? -1:
    if not hasattr(ignore_index, "__index__"):
        raise TypeError(f"ignore_index must be an int, got {type(ignore_index).__name__}")
    label = ignore_index.__index__()
    if not -2**63 <= label < 2**63:
        raise ValueError(f"ignore_index must be an integer of 64 bits, got {label}")
    return label


cdef cnp.ndarray class_labels(object target, cnp.ndarray log_p):
    """Labels as int64; log_p: (N, C, ...), target: (N, ...). That each is a class, or ignored, the kernel finds out."""
    cdef cnp.ndarray labels = plain_array(target, "target")
    if not cnp.PyArray_ISINTEGER(labels):
        raise TypeError(f"target must be integers (class indices), got {labels.dtype}")
    if log_p.ndim < 2:
        raise ValueError(f"log_p must be (N, C, ...), got shape {shape_of(log_p)}")
    shape = shape_of(log_p)[:1] + shape_of(log_p)[2:]
    if shape_of(labels) != shape:
        raise ValueError(f"target must have shape {shape} for log_p of shape {shape_of(log_p)}, got {shape_of(labels)}")
    largest = int(labels.max()) if labels.dtype == np.uint64 and labels.size else 0
    if largest >= 2**63:
        raise IndexError(f"target {largest} is out of bounds: there are {shape_of(log_p)[1]} classes")
    labels = contiguous(labels.astype(np.int64, copy=False))
    if open_recording is not None:
        open_recording.see(labels)
    return labels


cdef int64_t inner_size(cnp.ndarray log_p):
    cdef int64_t inner = 1
    cdef int d
    for d in range(2, log_p.ndim):
        inner *= log_p.shape[d]
    return inner


cdef cnp.ndarray class_weights(object weight, cnp.ndarray log_p):
    cdef int64_t classes = log_p.shape[1]
    if weight is None:
        return None
    cdef cnp.ndarray weights = contiguous(floats(weight, "weight", 1, type_of(log_p)))
    require_shape(weights, "weight", 1, &classes)
    return weights


cdef tuple nll(cnp.ndarray log_p, cnp.ndarray labels, cnp.ndarray weights, int64_t ignore_index, int kind):
    """(loss, total weight)."""
    cdef cnp.ndarray y, total = empty(0, NULL, type_of(log_p))
    y = empty(labels.ndim if kind == 0 else 0, <int64_t *>labels.shape, type_of(log_p))
    cdef nll_loss_args args = nll_loss_args(
        N=log_p.shape[0], C=log_p.shape[1], inner=inner_size(log_p), ignore_index=ignore_index, reduction=kind,
        log_p=log_p.data, target=labels.data, weight=NULL, y=y.data, total=total.data)
    if weights is not None:
        args.weight = weights.data
    cdef label_place place = label_place(0, 0, labels.size, args.C, ignore_index)
    if open_recording is not None and (open_recording.makes(labels) or not are_classes(<const int64_t *>labels.data, &place)):
        settle()  # whoever records this may want to know here that one is no class
    try:
        run(type_of(log_p), FC_nll_loss, &args)
    except IndexError:
        wrong = labels[((labels < 0) | (labels >= args.C)) & (labels != ignore_index)]
        raise IndexError(f"target {wrong.flat[0]} is out of bounds: there are {args.C} classes") from None
    return y, total


def nll_loss_forward(log_p, target, weight=None, ignore_index=-100, reduction="mean"):
    """Negative log-likelihood: l = -weight[t] log_p[n, t, ...] with t = target[n, ...]; 0 where t is ignore_index.

    log_p: (N, C, ...), logarithms of probabilities; target: (N, ...), integers in [0, C); weight: (C) or None.
    reduction "mean" divides the sum by the sum of the weights of the targets (NaN when there are none).
    Raises IndexError for a target out of bounds, TypeError and ValueError for dtypes and shapes.
    """
    cdef cnp.ndarray log_probability = contiguous(floats(log_p, "log_p"))
    cdef int64_t ignored = as_label(ignore_index)
    cdef cnp.ndarray labels = class_labels(target, log_probability)
    return nll(log_probability, labels, class_weights(weight, log_probability), ignored, as_reduction(reduction))[0]


def nll_loss_backward(dy, log_p, target, weight=None, ignore_index=-100, reduction="mean"):
    """d/d log_p: -weight[t] dy at the targets, divided by the sum of their weights for the mean; 0 elsewhere."""
    cdef cnp.ndarray log_probability = contiguous(floats(log_p, "log_p"))
    cdef cnp.ndarray grad = contiguous(floats(dy, "dy", -1, type_of(log_probability)))
    cdef int64_t ignored = as_label(ignore_index)
    cdef cnp.ndarray labels = class_labels(target, log_probability), dx
    cdef cnp.ndarray weights = class_weights(weight, log_probability), total
    cdef int kind = as_reduction(reduction)
    require_shape(grad, "dy", 0 if kind else labels.ndim, <int64_t *>labels.shape)
    total = nll(log_probability, labels, weights, ignored, kind)[1]
    dx = empty(log_probability.ndim, <int64_t *>log_probability.shape, type_of(log_probability))
    cdef nll_loss_backward_args args = nll_loss_backward_args(
        N=log_probability.shape[0], C=log_probability.shape[1], inner=inner_size(log_probability),
        ignore_index=ignored, reduction=kind, dy=grad.data, target=labels.data, weight=NULL, total=total.data,
        dx=dx.data)
    if weights is not None:
        args.weight = weights.data
    run(type_of(dx), FC_nll_loss_backward, &args)
    return dx
