# Reductions and softmax. Templates: src/kernels/sum.inc; extremum.inc and softmax.inc, whose x is (outer, n, inner).

cdef object as_axes(object axis, int ndim):
    """A sorted list of axes: None is all, negative ones count from the end."""
    if axis is None:
        return list(range(ndim))
    if not isinstance(axis, (tuple, list)):
        axis = (axis,)
    found = set()
    for a in axis:
        if not hasattr(a, "__index__"):
            raise TypeError(f"axis must be an int, got {type(a).__name__}")
        a = a.__index__()
        if not -ndim <= a < ndim:
            raise IndexError(f"axis {a} is out of range for {ndim} axes")
        a %= ndim
        if a in found:
            raise ValueError(f"axis {a} appears twice")
        found.add(a)
    return sorted(found)


cdef cnp.ndarray split_axes(cnp.ndarray x, list reduced, int64_t *size):
    """x, contiguous, and its sizes (outer, again, between, n, inner), of which again and n are reduced.

    n alone, if they lie side by side. If they lie in more than two places, they are moved to n.
    """
    cdef int d, group = 4  # from the last axes on
    for d in range(5):
        size[d] = 1
    for d in reversed(range(x.ndim)):
        if x.shape[d] == 1:
            continue
        if (d in reduced) != (group % 2 == 1):
            group -= 1
        if group < 0:
            kept = [d for d in range(x.ndim) if d not in reduced]
            return split_axes(x.transpose(kept + reduced), list(range(len(kept), x.ndim)), size)
        size[group] *= x.shape[d]
    return contiguous(x)


cdef tuple reduced_shape(cnp.ndarray x, list reduced, bint keepdims):
    return tuple([1 if d in reduced else x.shape[d] for d in range(x.ndim) if keepdims or d not in reduced])


cdef cnp.ndarray scaled_sum(object x, object axis, bint keepdims, bint average):
    cdef cnp.ndarray input = floats(x, "x"), y
    cdef list reduced = as_axes(axis, input.ndim)
    cdef int64_t size[5]
    cdef sum_args args
    y = empty_array(reduced_shape(input, reduced, keepdims), input.dtype)
    input = split_axes(input, reduced, size)
    args.outer, args.again, args.between, args.n, args.inner = size[0], size[1], size[2], size[3], size[4]
    args.scale = 1.0
    if average:
        count = args.again * args.n
        args.scale = 1.0 / count if count else np.nan
    args.x, args.y = input.data, y.data
    run(type_of(y), FC_sum, &args)
    return y


def sum(x, axis=None, keepdims=False):
    """The sum over one axis, several, or all (None), accumulated in float64. Returns an array, of no axes for all."""
    return scaled_sum(x, axis, keepdims, False)


def mean(x, axis=None, keepdims=False):
    """The mean over one axis, several, or all (None), accumulated in float64; NaN over nothing."""
    return scaled_sum(x, axis, keepdims, True)


cdef tuple extremum(fc_kernel_id kernel, object x, object axis, bint keepdims):
    cdef cnp.ndarray input = floats(x, "x"), values, indices
    cdef int64_t size[5]
    cdef max_args args
    cdef list reduced = as_axes(axis, input.ndim)
    if axis is not None and len(reduced) != 1:
        raise ValueError(f"axis must be one axis, got {axis!r}")
    shape = reduced_shape(input, reduced, keepdims)
    input = split_axes(input, reduced, size)
    args.outer, args.n, args.inner = size[2], size[3], size[4]
    if args.n == 0 and args.outer * args.inner:
        raise ValueError(f"no largest or smallest of zero elements, in an array of shape {shape_of(input)}")
    values = empty_array(shape, input.dtype)
    indices = empty_array(shape, np.int64)
    args.x, args.values, args.indices = input.data, values.data, indices.data
    if values.size:
        run(type_of(values), kernel, &args)
    return values, indices


def max(x, axis=None, keepdims=False):
    """(values, indices) of the maxima along one axis, or of all elements (None). Of equals the first; NaN is largest.

    indices: int64, along the axis, or into x.ravel(). Raises ValueError for an empty axis.
    """
    return extremum(FC_max, x, axis, keepdims)


def min(x, axis=None, keepdims=False):
    """(values, indices) of the minima along one axis, or of all elements (None). Of equals the first; NaN is smallest."""
    return extremum(FC_min, x, axis, keepdims)


def argmax(x, axis=None, keepdims=False):
    """The int64 indices of max."""
    return extremum(FC_max, x, axis, keepdims)[1]


def argmin(x, axis=None, keepdims=False):
    """The int64 indices of min."""
    return extremum(FC_min, x, axis, keepdims)[1]


cdef list one_axis(object axis, int ndim):
    if axis is None or isinstance(axis, (tuple, list)):
        raise TypeError(f"axis must be an int, got {axis!r}")
    return as_axes(axis, ndim)


cdef cnp.ndarray softmax_of(fc_kernel_id kernel, object x, object axis):
    cdef cnp.ndarray input = contiguous(floats(x, "x")), y
    cdef int64_t size[5]
    cdef softmax_args args
    y = empty(input.ndim, <int64_t *>input.shape, type_of(input))
    split_axes(input, one_axis(axis, input.ndim), size)
    args.outer, args.n, args.inner = size[2], size[3], size[4]
    args.x, args.y = input.data, y.data
    if y.size:
        run(type_of(y), kernel, &args)
    return y


cdef cnp.ndarray softmax_gradient(fc_kernel_id kernel, object dy, object y, object axis):
    cdef cnp.ndarray grad = contiguous(floats(dy, "dy")), result = contiguous(floats(y, "y", grad.ndim, type_of(grad))), dx
    cdef int64_t size[5]
    cdef softmax_backward_args args
    require_shape(grad, "dy", result.ndim, <int64_t *>result.shape)
    dx = empty(grad.ndim, <int64_t *>grad.shape, type_of(grad))
    split_axes(grad, one_axis(axis, grad.ndim), size)
    args.outer, args.n, args.inner = size[2], size[3], size[4]
    args.dy, args.y, args.dx = grad.data, result.data, dx.data
    if dx.size:
        run(type_of(dx), kernel, &args)
    return dx


def softmax(x, axis):
    """y_j = exp(x_j) / sum_i exp(x_i) along one axis, from x - max x, so that it does not overflow."""
    return softmax_of(FC_softmax, x, axis)


def softmax_backward(dy, y, axis):
    """dx = y (dy - sum_i dy_i y_i), y being softmax's result."""
    return softmax_gradient(FC_softmax_backward, dy, y, axis)


def log_softmax(x, axis):
    """y_j = x_j - max x - ln sum_i exp(x_i - max x) along one axis."""
    return softmax_of(FC_log_softmax, x, axis)


def log_softmax_backward(dy, y, axis):
    """dx = dy - exp(y) sum_i dy_i, y being log_softmax's result."""
    return softmax_gradient(FC_log_softmax_backward, dy, y, axis)
