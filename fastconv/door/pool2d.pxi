# Pooling. Templates: src/kernels/pool2d*.inc, avg_pool2d.inc.

cdef int set_pool(geometry *g, object kernel_size, object stride, object padding, object dilation,
                  bint ceil_mode) except -1:
    as_pair(kernel_size, "kernel_size", 1, &g.R, &g.S)
    as_pair(kernel_size if stride is None else stride, "stride", 1, &g.stride_h, &g.stride_w)
    as_pair(padding, "padding", 0, &g.pad_h, &g.pad_w)
    as_pair(dilation, "dilation", 1, &g.dilation_h, &g.dilation_w)
    if 2 * g.pad_h > g.R or 2 * g.pad_w > g.S:
        raise ValueError(f"padding {(g.pad_h, g.pad_w)} must be at most half of kernel_size {(g.R, g.S)}")
    g.P = output_size(g.H, g.pad_h, g.pad_h, g.dilation_h, g.R, g.stride_h, ceil_mode, "height")
    g.Q = output_size(g.W, g.pad_w, g.pad_w, g.dilation_w, g.S, g.stride_w, ceil_mode, "width")
    return 0


cdef int set_pool_of(geometry *g, object kernel_size, object stride, object padding, object dilation) except -1:
    """The windows whose outputs are g.P x g.Q, with ceil_mode or without."""
    cdef int64_t P = g.P, Q = g.Q
    set_pool(g, kernel_size, stride, padding, dilation, True)  # which refuses less
    if g.P != P or g.Q != Q:
        set_pool(g, kernel_size, stride, padding, dilation, False)
    if g.P != P or g.Q != Q:
        raise ValueError(f"dy has windows {(P, Q)}, but such windows on {(g.H, g.W)} pixels would be {(g.P, g.Q)}")
    return 0


def max_pool2d_forward(x, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, *, relu=False, out=None):
    """Max-pooling: y[n,c,p,q] = max_{r,s} x[n, c, p*stride - padding + r*dilation, ...], over pixels inside the input.

    x: (N, C, H, W); kernel_size, stride (kernel_size by default), padding (at most half of kernel_size), dilation: int or
    (vertical, horizontal). Returns (y, indices), both (N, C, P, Q); indices (int32) is h*W + w of the maximum: of equal
    values the first, of NaNs the last; -1 (and y = -inf) where a dilated window misses the input altogether. P as in
    conv2d_forward; with ceil_mode rounded up, unless the last window would start beyond the input. relu: y = max(y, 0).
    Raises TypeError for dtypes, ValueError for shapes, values, and planes of more than 2**31 - 1 pixels.
    """
    cdef cnp.ndarray input = contiguous(floats(x, "x", 4)), y, indices
    cdef geometry g
    cdef int64_t size[4]
    set_input(&g, <int64_t *>input.shape)
    set_pool(&g, kernel_size, stride, padding, dilation, ceil_mode)
    if g.H * g.W > LARGEST:
        raise ValueError(f"planes must have at most {LARGEST} pixels, got {g.H} x {g.W}")
    size[0], size[1], size[2], size[3] = g.N, g.C, g.P, g.Q
    y = output(out, 4, size, type_of(input))
    if out is not None:
        refuse_overlap(y, input, "x")
    indices = empty(4, size, cnp.NPY_INT32)
    cdef max_pool2d_forward_args args = max_pool2d_forward_args(
        N=g.N, C=g.C, H=g.H, W=g.W, R=g.R, S=g.S, P=g.P, Q=g.Q, stride_h=g.stride_h, stride_w=g.stride_w,
        pad_h=g.pad_h, pad_w=g.pad_w, dilation_h=g.dilation_h, dilation_w=g.dilation_w, relu=bool(relu), x=input.data,
        y=y.data, indices=indices.data)
    run(type_of(y), FC_max_pool2d_forward, &args)
    return y, indices


cdef int refuse_indices(cnp.ndarray found, const geometry *g) except -1:
    raise IndexError(f"indices must be from -1 to {g.H * g.W - 1}, got {found.min()} to {found.max()}") from None


cdef cnp.ndarray as_indices(object indices, const int64_t *shape, const geometry *g):
    """int32 and contiguous, of that shape; those of other types must be pixels of the input."""
    cdef cnp.ndarray found = plain_array(indices, "indices")
    if not cnp.PyArray_ISINTEGER(found):
        raise TypeError(f"indices must be integers, got {found.dtype}")
    require_shape(found, "indices", 4, shape)
    if cnp.PyArray_TYPE(found) != cnp.NPY_INT32:
        if found.size and (found.min() < -1 or found.max() >= g.H * g.W):
            refuse_indices(found, g)
        found = found.astype(np.int32)
    return contiguous(found)


def max_pool2d_backward(dy, indices, input_size, kernel_size=None, stride=None, padding=0, dilation=1, *, y=None,
                        out=None):
    """Gradient of max_pool2d_forward: dx[n,c,i] = the sum of dy[n,c,p,q] over the windows whose indices[n,c,p,q] is i.

    dy, indices: (N, C, P, Q); input_size: (N, C, H, W) or (H, W). kernel_size, stride, padding, dilation: those of the forward,
    if known: the result is the same without them, or with indices outside of their windows, but comes later. y: the result of
    a forward with relu=True: where it is 0 (or less), dy counts as 0.
    Raises IndexError for an index outside [-1, H*W), ValueError for windows that do not give (P, Q).
    """
    cdef cnp.ndarray grad = contiguous(floats(dy, "dy", 4)), dx, result = None
    cdef geometry g
    cdef int64_t size[4]
    set_input_size(&g, input_size, grad.shape[0], grad.shape[1])
    cdef cnp.ndarray found = as_indices(indices, <int64_t *>grad.shape, &g)
    if y is not None:
        result = contiguous(floats(y, "y", 4, type_of(grad)))
        require_shape(result, "y", 4, <int64_t *>grad.shape)
    size[0], size[1], size[2], size[3] = g.N, g.C, g.H, g.W
    dx = output(out, 4, size, type_of(grad))
    if out is not None:
        refuse_overlap(dx, grad, "dy")
        refuse_overlap(dx, found, "indices")
        refuse_overlap(dx, result, "y")
    g.R = g.S = 0
    g.P, g.Q = grad.shape[2], grad.shape[3]
    if kernel_size is not None:
        set_pool_of(&g, kernel_size, stride, padding, dilation)
    cdef max_pool2d_backward_args args = max_pool2d_backward_args(
        N=g.N, C=g.C, H=g.H, W=g.W, R=g.R, S=g.S, P=g.P, Q=g.Q, stride_h=g.stride_h, stride_w=g.stride_w,
        pad_h=g.pad_h, pad_w=g.pad_w, dilation_h=g.dilation_h, dilation_w=g.dilation_w, dy=grad.data,
        indices=found.data, y=NULL, dx=dx.data)
    if result is not None:
        args.y = result.data
    try:
        run(type_of(dx), FC_max_pool2d_backward, &args)
    except IndexError:
        refuse_indices(found, &g)
    return dx


cdef int64_t as_divisor(object divisor_override) except? -1:
    """0 for None, which lets the pixels be counted."""
    if divisor_override is None:
        return 0
    cdef int64_t divisor = as_int(divisor_override, "divisor_override", -LARGEST)
    if divisor == 0:
        raise ValueError("divisor_override must not be 0")
    return divisor


def avg_pool2d_forward(x, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True,
                       divisor_override=None, *, out=None):
    """Average pooling: y[n,c,p,q] = sum_{r,s} x[n, c, p*stride - padding + r, ...] / d, over pixels inside the input.

    x: (N, C, H, W); kernel_size, stride (kernel_size by default), padding (at most half of kernel_size): int or (vertical,
    horizontal). d is divisor_override, or else the number of pixels of the window: all inside the padded input, or,
    without count_include_pad, inside the input. Returns y (N, C, P, Q), P as in max_pool2d_forward. A float32 window is
    added in float32. Raises TypeError for dtypes, ValueError for shapes and values.
    """
    cdef cnp.ndarray input = contiguous(floats(x, "x", 4)), y
    cdef geometry g
    cdef int64_t size[4]
    set_input(&g, <int64_t *>input.shape)
    set_pool(&g, kernel_size, stride, padding, 1, ceil_mode)
    cdef int64_t divisor = as_divisor(divisor_override)
    size[0], size[1], size[2], size[3] = g.N, g.C, g.P, g.Q
    y = output(out, 4, size, type_of(input))
    if out is not None:
        refuse_overlap(y, input, "x")
    cdef avg_pool2d_forward_args args = avg_pool2d_forward_args(
        N=g.N, C=g.C, H=g.H, W=g.W, R=g.R, S=g.S, P=g.P, Q=g.Q, stride_h=g.stride_h, stride_w=g.stride_w,
        pad_h=g.pad_h, pad_w=g.pad_w, dilation_h=1, dilation_w=1, count_include_pad=bool(count_include_pad),
        divisor=divisor, x=input.data, y=y.data)
    run(type_of(y), FC_avg_pool2d_forward, &args)
    return y


def avg_pool2d_backward(dy, input_size, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True,
                        divisor_override=None, *, out=None):
    """Gradient of avg_pool2d_forward: dx[n,c,h,w] = the sum of dy[n,c,p,q] / d over the windows that hold the pixel.

    dy: (N, C, P, Q); input_size: (N, C, H, W) or (H, W); the rest as in the forward. dy is multiplied by 1 / d.
    """
    cdef cnp.ndarray grad = contiguous(floats(dy, "dy", 4)), dx
    cdef geometry g
    cdef int64_t size[4]
    set_input_size(&g, input_size, grad.shape[0], grad.shape[1])
    set_pool(&g, kernel_size, stride, padding, 1, ceil_mode)
    cdef int64_t divisor = as_divisor(divisor_override)
    size[0], size[1], size[2], size[3] = g.N, g.C, g.P, g.Q
    require_shape(grad, "dy", 4, size)
    size[2], size[3] = g.H, g.W
    dx = output(out, 4, size, type_of(grad))
    if out is not None:
        refuse_overlap(dx, grad, "dy")
    cdef avg_pool2d_backward_args args = avg_pool2d_backward_args(
        N=g.N, C=g.C, H=g.H, W=g.W, R=g.R, S=g.S, P=g.P, Q=g.Q, stride_h=g.stride_h, stride_w=g.stride_w,
        pad_h=g.pad_h, pad_w=g.pad_w, dilation_h=1, dilation_w=1, count_include_pad=bool(count_include_pad),
        divisor=divisor, dy=grad.data, dx=dx.data)
    run(type_of(dx), FC_avg_pool2d_backward, &args)
    return dx


cdef int set_adaptive(geometry *g, object output_size) except -1:
    """output_size: an int for both axes, or (P, Q), in which None keeps the input's size."""
    if not isinstance(output_size, (tuple, list)):
        output_size = (output_size, output_size)
    if len(output_size) != 2:
        raise ValueError(f"output_size must be an int, None or a pair of them, got {output_size!r}")
    if g.H < 1 or g.W < 1:
        raise ValueError(f"height and width must be at least 1, got {(g.H, g.W)}")
    g.P = g.H if output_size[0] is None else as_int(output_size[0], "output_size", 0)
    g.Q = g.W if output_size[1] is None else as_int(output_size[1], "output_size", 0)
    return 0


def adaptive_avg_pool2d_forward(x, output_size, *, out=None):
    """Averages over P x Q windows that cover x: y[n,c,p,q] = mean of x[n,c,h,w], floor(p H/P) <= h < ceil((p+1) H/P), likewise w.

    x: (N, C, H, W); output_size: an int for both, or (P, Q); None keeps a size. Returns y (N, C, P, Q).
    Raises TypeError for dtypes, ValueError for shapes and values.
    """
    cdef cnp.ndarray input = contiguous(floats(x, "x", 4)), y
    cdef geometry g
    cdef int64_t size[4]
    set_input(&g, <int64_t *>input.shape)
    set_adaptive(&g, output_size)
    size[0], size[1], size[2], size[3] = g.N, g.C, g.P, g.Q
    y = output(out, 4, size, type_of(input))
    if out is not None:
        refuse_overlap(y, input, "x")
    cdef adaptive_avg_pool2d_forward_args args = adaptive_avg_pool2d_forward_args(
        N=g.N, C=g.C, H=g.H, W=g.W, P=g.P, Q=g.Q, x=input.data, y=y.data)
    run(type_of(y), FC_adaptive_avg_pool2d_forward, &args)
    return y


def adaptive_avg_pool2d_backward(dy, input_size, *, out=None):
    """Gradient of adaptive_avg_pool2d_forward: dx[n,c,h,w] = the sum of dy[n,c,p,q] / pixels, over the windows with that pixel.

    dy: (N, C, P, Q); input_size: (N, C, H, W) or (H, W).
    """
    cdef cnp.ndarray grad = contiguous(floats(dy, "dy", 4)), dx
    cdef geometry g
    cdef int64_t size[4]
    set_input_size(&g, input_size, grad.shape[0], grad.shape[1])
    set_adaptive(&g, (grad.shape[2], grad.shape[3]))
    size[0], size[1], size[2], size[3] = g.N, g.C, g.H, g.W
    dx = output(out, 4, size, type_of(grad))
    if out is not None:
        refuse_overlap(dx, grad, "dy")
    cdef adaptive_avg_pool2d_backward_args args = adaptive_avg_pool2d_backward_args(
        N=g.N, C=g.C, H=g.H, W=g.W, P=g.P, Q=g.Q, dy=grad.data, dx=dx.data)
    run(type_of(dx), FC_adaptive_avg_pool2d_backward, &args)
    return dx
