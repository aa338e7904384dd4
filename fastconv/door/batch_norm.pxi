# Batch normalisation. Template: src/kernels/batch_norm.inc.

cdef cnp.ndarray per_channel(object x, str name, int64_t channels, int type_number, bint written=False):
    """An array of one number for each channel, or None; one that is written, as it is."""
    cdef cnp.ndarray array
    if x is None:
        return None
    array = floats(x, name, -1, type_number)
    require_shape(array, name, 1, &channels)
    if not written:
        return contiguous(array)
    if array is not x or not cnp.PyArray_ISCARRAY(array):
        raise ValueError(f"{name} is changed in place: it must be C-contiguous, aligned, writeable and in native order")
    return array


cdef cnp.ndarray doubles(object x, str name, int64_t channels):
    """What the forward gave to the backward."""
    cdef cnp.ndarray array = floats(x, name)
    if type_of(array) != cnp.NPY_DOUBLE:
        raise TypeError(f"{name} must be float64, as batch_norm_forward gave it, got {array.dtype}")
    require_shape(array, name, 1, &channels)
    return contiguous(array)


cdef void *data_of(cnp.ndarray x) noexcept:
    return NULL if x is None else x.data


cdef cnp.ndarray with_channels(object x, str name):
    cdef cnp.ndarray input = contiguous(floats(x, name))
    if input.ndim < 2:
        raise ValueError(f"{name} must be (N, C, ...), got shape {shape_of(input)}")
    return input


cdef cnp.ndarray batch_counter(object x):
    """One int64 that can be written, or None."""
    if x is None:
        return None
    cdef cnp.ndarray count = plain_array(x, "num_batches_tracked")
    if cnp.PyArray_TYPE(count) != cnp.NPY_INT64:
        raise TypeError(f"num_batches_tracked must be int64, got {count.dtype}")
    if count is not x or count.size != 1 or not cnp.PyArray_ISCARRAY(count):
        raise ValueError(f"num_batches_tracked must be one number, aligned and writeable, got shape {shape_of(count)}")
    return count


cdef int refuse_sharing(cnp.ndarray written, str name, dict others) except -1:
    for other in others:
        if others[other] is not None and overlap(written, others[other]):
            raise ValueError(f"{name} shares memory with {other}")
    return 0


cdef cnp.ndarray with_residual(object residual, cnp.ndarray x):
    """What is to be added to the result of x, or None."""
    cdef cnp.ndarray added
    if residual is None:
        return None
    added = contiguous(floats(residual, "residual", x.ndim, type_of(x)))
    require_shape(added, "residual", x.ndim, <int64_t *>x.shape)
    return added


cdef int refuse_residual(cnp.ndarray y, cnp.ndarray added) except -1:
    """A residual may be the result, but not partly."""
    if added is not None and added.data != y.data:
        refuse_sharing(y, "out", {"residual": added})
    return 0


def batch_norm_forward(x, w=None, b=None, running_mean=None, running_var=None, num_batches_tracked=None, *, training=True,
                       momentum=0.1, eps=1e-5, residual=None, relu=False, out=None):
    """Batch normalisation: y = (x - mean) / sqrt(var + eps) w + b, for each channel.

    x: (N, C, ...); w, b: (C), or None for 1 and 0. training: mean and (biased) variance are those of x; then running_mean and
    running_var (C), unless None, become (1 - momentum) of themselves and momentum of the mean and the unbiased variance, and
    num_batches_tracked (one int64), unless None, counts up; momentum None stands for 1 / num_batches_tracked. Not training:
    mean and variance are running_mean and running_var. residual, of x's shape, unless None, is added to y (and may be `out`);
    then relu makes it max(y, 0). Returns (y, mean, 1 / sqrt(var + eps)), the last two (C) in float64.
    Raises TypeError for dtypes, ValueError for shapes and for training on one number a channel.
    Source: Ioffe & Szegedy, arXiv 1502.03167.
    """
    cdef cnp.ndarray input = with_channels(x, "x"), y, mean, invstd
    cdef int64_t N = input.shape[0], C = input.shape[1], inner = inner_size(input)
    cdef int type_number = type_of(input)
    cdef bint trains = training
    cdef cnp.ndarray weight = per_channel(w, "w", C, type_number), bias = per_channel(b, "b", C, type_number)
    cdef cnp.ndarray old_mean = per_channel(running_mean, "running_mean", C, type_number, trains)
    cdef cnp.ndarray old_var = per_channel(running_var, "running_var", C, type_number, trains)
    cdef cnp.ndarray count = batch_counter(num_batches_tracked) if trains else None
    cdef cnp.ndarray added = with_residual(residual, input)
    if (old_mean is None) != (old_var is None):
        raise ValueError("running_mean and running_var must either both be None or neither be None")
    if not trains and old_mean is None:
        raise ValueError("without training there must be a running_mean and a running_var")
    if trains and N * inner == 1:
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {shape_of(input)}")
    if trains and old_mean is not None:
        refuse_sharing(old_mean, "running_mean", {"running_var": old_var, "x": input, "w": weight, "b": bias})
        refuse_sharing(old_var, "running_var", {"x": input, "w": weight, "b": bias})
    y = output(out, input.ndim, <int64_t *>input.shape, type_number)
    if out is not None:
        refuse_sharing(y, "out", {"x": input, "w": weight, "b": bias, "running_mean": old_mean, "running_var": old_var})
        refuse_residual(y, added)
    mean, invstd = empty(1, &C, cnp.NPY_DOUBLE), empty(1, &C, cnp.NPY_DOUBLE)
    cdef batch_norm_forward_args args = batch_norm_forward_args(
        N=N, C=C, inner=inner, training=trains, cumulative=momentum is None, relu=bool(relu),
        momentum=0 if momentum is None else as_real(momentum, "momentum"), eps=as_real(eps, "eps"),
        x=input.data, w=data_of(weight), b=data_of(bias),
        residual=data_of(added), running_mean=data_of(old_mean), running_var=data_of(old_var), batches=data_of(count),
        y=y.data, mean=mean.data, invstd=invstd.data)
    run(type_number, FC_batch_norm_forward, &args)
    return y, mean, invstd


def batch_norm_again(x, w, b, mean, invstd, *, residual=None, relu=False, out=None):
    """The y of batch_norm_forward, to the bit, from the mean and invstd that it returned: so y need not be kept for a backward.

    x: (N, C, ...); w, b: (C), or None for 1 and 0; mean, invstd: (C), float64; residual (which may be `out`), relu: as the
    forward had them. Raises TypeError for dtypes, ValueError for shapes.
    """
    cdef cnp.ndarray input = with_channels(x, "x"), y
    cdef int64_t C = input.shape[1]
    cdef int type_number = type_of(input)
    cdef cnp.ndarray weight = per_channel(w, "w", C, type_number), bias = per_channel(b, "b", C, type_number)
    cdef cnp.ndarray means = doubles(mean, "mean", C), invstds = doubles(invstd, "invstd", C)
    cdef cnp.ndarray added = with_residual(residual, input)
    y = output(out, input.ndim, <int64_t *>input.shape, type_number)
    if out is not None:
        refuse_sharing(y, "out", {"x": input, "w": weight, "b": bias, "mean": means, "invstd": invstds})
        refuse_residual(y, added)
    cdef batch_norm_again_args args = batch_norm_again_args(
        N=input.shape[0], C=C, inner=inner_size(input), relu=bool(relu), x=input.data, w=data_of(weight), b=data_of(bias),
        residual=data_of(added), mean=means.data, invstd=invstds.data, y=y.data)
    run(type_number, FC_batch_norm_again, &args)
    return y


def batch_norm_backward(dy, x, w, mean, invstd, *, training=True, y=None, b=None, relu=False, out=None):
    """Gradients of batch_norm_forward: (dx, dw, db), with xhat = (x - mean) invstd:

        dw = sum dy xhat;   db = sum dy;   dx = w invstd (dy - db / n - xhat dw / n)

    n being the numbers of a channel; not training: dx = w invstd dy. dy, x: (N, C, ...); w: (C) or None for 1; mean, invstd: (C),
    float64, as the forward gave them. After a forward with relu=True: where its y is 0 (or less), dy counts as 0. y is given, or,
    if there was no residual, b and relu=True, from which it is known.
    """
    cdef cnp.ndarray grad = with_channels(dy, "dy"), dx, dw, db
    cdef int64_t C = grad.shape[1]
    cdef int type_number = type_of(grad)
    cdef cnp.ndarray input = contiguous(floats(x, "x", -1, type_number)), weight = per_channel(w, "w", C, type_number)
    cdef cnp.ndarray bias = per_channel(b, "b", C, type_number)
    cdef cnp.ndarray means = doubles(mean, "mean", C), invstds = doubles(invstd, "invstd", C)
    cdef cnp.ndarray rectified = None if y is None else contiguous(floats(y, "y", grad.ndim, type_number))
    require_shape(input, "x", grad.ndim, <int64_t *>grad.shape)
    if rectified is not None:
        require_shape(rectified, "y", grad.ndim, <int64_t *>grad.shape)
        if relu:
            raise ValueError("y says where relu was 0; relu=True asks for it to be made from x and b: give one of them")
    dx = output(out, grad.ndim, <int64_t *>grad.shape, type_number)
    if out is not None:
        refuse_sharing(dx, "out", {"dy": grad, "x": input, "y": rectified, "w": weight, "b": bias, "mean": means,
                                   "invstd": invstds})
    dw, db = empty(1, &C, type_number), empty(1, &C, type_number)
    cdef batch_norm_backward_args args = batch_norm_backward_args(
        N=grad.shape[0], C=C, inner=inner_size(grad), training=bool(training), relu=bool(relu), dy=grad.data, x=input.data,
        w=data_of(weight), b=data_of(bias), mean=means.data, invstd=invstds.data, y=data_of(rectified), dx=dx.data, dw=dw.data,
        db=db.data)
    run(type_number, FC_batch_norm_backward, &args)
    return dx, dw, db
