# Matrix products. Templates: src/kernels/gemm.inc and linear.inc.

cdef int multiply(cnp.ndarray a, bint turn_a, cnp.ndarray b, bint turn_b, double alpha, double beta,
                  cnp.ndarray y) except -1:
    """y = alpha op(a) op(b) + beta y, for matrices whose shapes and memory were checked."""
    cdef int64_t s_a[2]
    cdef int64_t s_b[2]
    element_strides(a, s_a)
    element_strides(b, s_b)
    cdef gemm_args args = gemm_args(
        m=y.shape[0], n=y.shape[1], k=a.shape[not turn_a], alpha=alpha,
        a=a.data, rs_a=s_a[turn_a], cs_a=s_a[not turn_a], b=b.data, rs_b=s_b[turn_b], cs_b=s_b[not turn_b],
        beta=beta, c=y.data, rs_c=y.shape[1], cs_c=1)
    return run(type_of(y), FC_gemm, &args)


def gemm(a, b, c=None, *, alpha=1.0, beta=0.0, transpose_a=False, transpose_b=False, out=None):
    """General matrix product: out = alpha op(a) op(b) + beta c, op(x) being x or its transpose.

    a: (m, k), or (k, m) with transpose_a; b: (k, n), or (n, k) with transpose_b; c: (m, n), not read when beta is 0.
    Returns (m, n). `out` may be c itself. float32 or float64; products are summed in that precision, in blocks along k.
    Raises TypeError for other dtypes, ValueError for shapes that do not fit.
    Source: BLAS level 3, Dongarra et al., ACM TOMS 16(1), 1990.
    """
    cdef cnp.ndarray left = floats(a, "a", 2), right = floats(b, "b", 2, type_of(left)), addend = None, y
    cdef bint turn_a = transpose_a, turn_b = transpose_b
    if left.shape[not turn_a] != right.shape[turn_b]:
        raise ValueError(f"inner sizes differ: op(a) is {shape_of(left.T if turn_a else left)} and "
                         f"op(b) is {shape_of(right.T if turn_b else right)}")
    cdef int64_t size[2]
    size[0], size[1] = left.shape[turn_a], right.shape[not turn_b]
    cdef double beta_value = as_real(beta, "beta")
    if beta_value != 0:
        if c is None:
            raise ValueError(f"beta is {beta}, but there is no c")
        addend = floats(c, "c", 2, type_of(left))
        require_shape(addend, "c", 2, size)
    y = output(out, 2, size, type_of(left))
    if out is not None:
        refuse_overlap(y, left, "a")
        refuse_overlap(y, right, "b")
    if addend is not None and addend is not y:
        unary(FC_copy, addend, y)
    multiply(left, turn_a, right, turn_b, as_real(alpha, "alpha"), beta_value, y)
    return y


def matmul(a, b, *, out=None):
    """Matrix product by NumPy's and PyTorch's rules: vectors, matrices, and stacks of matrices that broadcast.

    (k) (k) -> (); (m, k) (k) -> (m); (k) (k, n) -> (n); (..., m, k) (..., k, n) -> (..., m, n).
    Raises TypeError for dtypes other than float32 and float64, ValueError for shapes that do not fit.
    """
    cdef cnp.ndarray left = floats(a, "a"), right = floats(b, "b", -1, type_of(left))
    if left.ndim == 2 and right.ndim == 2:
        return gemm(left, right, out=out)
    if left.ndim == 0 or right.ndim == 0:
        raise ValueError("matmul wants arrays of one or more axes; use mul for numbers")
    left_2d = left[None, :] if left.ndim == 1 else left
    right_2d = right[:, None] if right.ndim == 1 else right
    if left_2d.shape[-1] != right_2d.shape[-2]:
        raise ValueError(f"inner sizes differ: a is {shape_of(left)} and b is {shape_of(right)}")
    stack = np.broadcast_shapes(left_2d.shape[:-2], right_2d.shape[:-2])
    full = stack + (left_2d.shape[-2], right_2d.shape[-1])
    kept = stack + full[len(stack):][left.ndim == 1 : 2 - (right.ndim == 1)]
    if out is None:
        out = empty_array(kept, left.dtype)
    elif not isinstance(out, np.ndarray):
        raise TypeError(f"out must be a NumPy array, got {type(out).__name__}")
    elif out.shape != kept:
        raise ValueError(f"out must have shape {kept}, got {out.shape}")
    products = out.reshape(full)
    if not np.may_share_memory(products, out) and products.size:
        raise ValueError("out must be C-contiguous, aligned, writeable and in native byte order")
    refuse_overlap(out, left, "a")
    refuse_overlap(out, right, "b")
    left_2d = np.broadcast_to(left_2d, stack + left_2d.shape[-2:])
    right_2d = np.broadcast_to(right_2d, stack + right_2d.shape[-2:])
    for index in np.ndindex(stack):
        gemm(left_2d[index], right_2d[index], out=products[index])
    return out


cdef int check_linear(cnp.ndarray x, cnp.ndarray w, str x_name, int side) except -1:
    """The last axis of x must be w's axis `side`."""
    if x.ndim == 0 or x.shape[x.ndim - 1] != w.shape[side]:
        raise ValueError(f"{x_name} must have {w.shape[side]} as its last axis, for a weight of shape {shape_of(w)}; "
                         f"got shape {shape_of(x)}")
    return 0


def linear_forward(x, w, b=None, *, out=None):
    """Affine map y = x wᵀ + b.

    x: (..., in), w: (out, in), b: (out) or None. Returns (..., out). float32 or float64.
    Raises TypeError for dtypes, ValueError for shapes that do not fit.
    """
    cdef cnp.ndarray input = floats(x, "x"), weight = floats(w, "w", 2, type_of(input)), bias = None, y
    check_linear(input, weight, "x", 1)
    cdef int64_t size[64]
    cdef int d
    cdef int64_t rows = 1, features = weight.shape[0]
    for d in range(input.ndim - 1):
        size[d] = input.shape[d]
        rows *= size[d]
    size[input.ndim - 1] = features
    if b is not None:
        bias = contiguous(floats(b, "b", 1, type_of(input)))
        require_shape(bias, "b", 1, &features)
    y = output(out, input.ndim, size, type_of(input))
    if out is not None:
        refuse_overlap(y, input, "x")
        refuse_overlap(y, weight, "w")
        refuse_overlap(y, bias, "b")
    input = contiguous(input)
    weight = contiguous(weight)
    cdef linear_args args = linear_args(
        m=rows, n=features, k=weight.shape[1], x=input.data, w=weight.data, b=NULL, y=y.data)
    if bias is not None:
        args.b = bias.data
    run(type_of(y), FC_linear, &args)
    return y


def linear_backward_input(dy, w, *, out=None):
    """Gradient of linear_forward with respect to x: dx = dy w.  dy: (..., out), w: (out, in); returns (..., in)."""
    cdef cnp.ndarray grad = floats(dy, "dy"), weight = floats(w, "w", 2, type_of(grad))
    check_linear(grad, weight, "dy", 0)
    cdef cnp.ndarray dx
    cdef int64_t size[2]
    if out is None and grad.ndim == 2:
        size[0], size[1] = grad.shape[0], weight.shape[1]
        dx = empty(2, size, type_of(grad))
        multiply(grad, False, weight, False, 1, 0, dx)
        return dx
    cdef tuple full = shape_of(grad)[:-1] + (weight.shape[1],)
    if out is None:
        out = empty_array(full, grad.dtype)
    elif not isinstance(out, np.ndarray):
        raise TypeError(f"out must be a NumPy array, got {type(out).__name__}")
    elif out.shape != full:
        raise ValueError(f"out must have shape {full}, got {out.shape}")
    elif not cnp.PyArray_ISCARRAY(out):
        raise ValueError("out must be C-contiguous, aligned, writeable and in native byte order")
    gemm(_rows(grad), weight, out=_rows(out))
    return out


def linear_backward_weight(dy, x, *, bias=True):
    """Gradients of linear_forward with respect to w and b: dw = dyᵀ x, db = the sum of dy's rows.

    dy: (..., out), x: (..., in). Returns (dw, db): (out, in) and (out), or (dw, None) without bias.
    """
    cdef cnp.ndarray grad = floats(dy, "dy"), input = floats(x, "x", grad.ndim, type_of(grad)), dw, db = None
    cdef int64_t size[2]
    cdef sum_args args
    if grad.ndim == 0 or memcmp(grad.shape, input.shape, (grad.ndim - 1) * sizeof(cnp.npy_intp)):
        raise ValueError(f"dy {shape_of(grad)} and x {shape_of(input)} must agree in all axes but the last")
    grad, input = contiguous(_rows(grad)), _rows(input)
    size[0], size[1] = grad.shape[1], input.shape[1]
    if bias:
        db = empty(1, size, type_of(grad))
        args = sum_args(outer=1, again=1, between=1, n=grad.shape[0], inner=size[0], scale=1.0, x=grad.data, y=db.data)
        run(type_of(grad), FC_sum, &args)
    dw = empty(2, size, type_of(grad))
    multiply(grad, True, input, False, 1, 0, dw)
    return dw, db


cdef cnp.ndarray _rows(cnp.ndarray x):
    """x as a matrix of its last axis."""
    if x.ndim == 2:
        return x
    cdef int64_t features = x.shape[x.ndim - 1]
    return plain_array(x.reshape(x.size // features if features else int(np.prod(shape_of(x)[:-1])), features), "x")
