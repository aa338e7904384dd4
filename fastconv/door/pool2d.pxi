# Max-pooling. Template: src/kernels/pool2d.inc.

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


def max_pool2d_forward(x, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, *, out=None):
    """Max-pooling: y[n,c,p,q] = max_{r,s} x[n, c, p*stride - padding + r*dilation, ...], over pixels inside the input.

    x: (N, C, H, W); kernel_size, stride (kernel_size by default), padding (at most half of kernel_size), dilation: int or
    (vertical, horizontal). Returns (y, indices), both (N, C, P, Q); indices (int32) is h*W + w of the maximum: of equal
    values the first, of NaNs the last; -1 (and y = -inf) where a dilated window misses the input altogether. P as in
    conv2d_forward; with ceil_mode rounded up, unless the last window would start beyond the input.
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
        pad_h=g.pad_h, pad_w=g.pad_w, dilation_h=g.dilation_h, dilation_w=g.dilation_w, x=input.data, y=y.data,
        indices=indices.data)
    run(type_of(y), FC_max_pool2d_forward, &args)
    return y, indices


def max_pool2d_backward(dy, indices, input_size, *, out=None):
    """Gradient of max_pool2d_forward: dx[n,c,i] = the sum of dy[n,c,p,q] over the windows whose indices[n,c,p,q] is i.

    dy, indices: (N, C, P, Q); input_size: (N, C, H, W) or (H, W). Raises IndexError for an index outside [-1, H*W).
    """
    cdef cnp.ndarray grad = contiguous(floats(dy, "dy", 4)), dx, found = plain_array(indices, "indices")
    cdef geometry g
    cdef int64_t size[4]
    cdef int64_t i
    cdef int32_t pixels
    cdef int bad = 0
    if not cnp.PyArray_ISINTEGER(found):
        raise TypeError(f"indices must be integers, got {found.dtype}")
    require_shape(found, "indices", 4, <int64_t *>grad.shape)
    set_input_size(&g, input_size, grad.shape[0], grad.shape[1])
    if cnp.PyArray_TYPE(found) != cnp.NPY_INT32:
        bad = found.size and (found.min() < -1 or found.max() >= g.H * g.W)
        found = found if bad else found.astype(np.int32)
    found = contiguous(found)
    cdef const int32_t *index = <const int32_t *>found.data
    cdef int64_t count = 0 if bad else found.size
    pixels = <int32_t>smaller(g.H * g.W, LARGEST)
    with nogil:
        for i in range(count):
            bad |= (index[i] < -1) | (index[i] >= pixels)
    if bad:
        raise IndexError(f"indices must be from -1 to {g.H * g.W - 1}, got {found.min()} to {found.max()}")
    size[0], size[1], size[2], size[3] = g.N, g.C, g.H, g.W
    dx = output(out, 4, size, type_of(grad))
    if out is not None:
        refuse_overlap(dx, grad, "dy")
        refuse_overlap(dx, found, "indices")
    cdef max_pool2d_backward_args args
    args.N, args.C, args.H, args.W = g.N, g.C, g.H, g.W
    args.P, args.Q = grad.shape[2], grad.shape[3]
    args.dy, args.indices, args.dx = grad.data, found.data, dx.data
    run(type_of(dx), FC_max_pool2d_backward, &args)
    return dx
