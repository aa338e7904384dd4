# Dropout. Template: src/kernels/dropout.inc.

cdef cnp.ndarray seed_and_offset(object x, str name, bint written):
    """Two uint64."""
    cdef cnp.ndarray array = plain_array(x, name)
    cdef int64_t two = 2
    if cnp.PyArray_TYPE(array) != cnp.NPY_UINT64:
        raise TypeError(f"{name} must be uint64, got {array.dtype}")
    require_shape(array, name, 1, &two)
    if not written:
        return contiguous(array)
    if array is not x or not cnp.PyArray_ISCARRAY(array):
        raise ValueError(f"{name} is changed in place: it must be C-contiguous, aligned, writeable and in native order")
    return array


cdef double as_probability(object p) except? -1:
    cdef double probability = as_real(p, "p")
    if not 0 <= probability <= 1:
        raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}")
    return probability


cdef int64_t kept_together(cnp.ndarray x, bint channels) except -1:
    """How many elements one draw decides on."""
    if channels and x.ndim < 2:
        raise ValueError(f"to drop channels there must be (N, C, ...), got shape {shape_of(x)}")
    return inner_size(x) if channels else 1


def dropout(x, state, p, *, channels=False, out=None):
    """y = x / (1 - p), or 0 with probability p, for each element by itself, or each channel of (N, C, ...).

    state: two uint64, a seed and an offset, by which random words are made without any other state (Philox4x32-10); the
    offset counts up. Returns (y, key): key is the state as it was, for dropout_backward. Zeros do not depend on dtype, threads
    or instruction set. Source: Salmon et al., SC 2011. Raises ValueError for p outside [0, 1].
    """
    cdef cnp.ndarray input = contiguous(floats(x, "x")), y, key, counter = seed_and_offset(state, "state", True)
    cdef double probability = as_probability(p)
    cdef int64_t inner = kept_together(input, channels), two = 2
    y = output(out, input.ndim, <int64_t *>input.shape, type_of(input))
    if out is not None:
        check_in_place(y, input)
    key = empty(1, &two, cnp.NPY_UINT64)
    cdef dropout_args args = dropout_args(
        n=input.size // inner if inner else 0, inner=inner, p=probability, state=counter.data, x=input.data, y=y.data,
        key=key.data)
    run(type_of(y), FC_dropout, &args)
    return y, key


def dropout_backward(dy, key, p, *, channels=False, out=None):
    """dx = dy / (1 - p), or 0 where the dropout that gave this key, of the same p and channels, dropped."""
    cdef cnp.ndarray grad = contiguous(floats(dy, "dy")), dx, state = seed_and_offset(key, "key", False)
    cdef double probability = as_probability(p)
    cdef int64_t inner = kept_together(grad, channels)
    dx = output(out, grad.ndim, <int64_t *>grad.shape, type_of(grad))
    if out is not None:
        check_in_place(dx, grad)
    cdef dropout_backward_args args = dropout_backward_args(
        n=grad.size // inner if inner else 0, inner=inner, p=probability, key=state.data, dy=grad.data, dx=dx.data)
    run(type_of(dx), FC_dropout_backward, &args)
    return dx
