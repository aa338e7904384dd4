# Pointwise functions. Template: src/kernels/pointwise.inc.

# The argument structs of each family are laid out alike.
ctypedef copy_args unary_args
ctypedef add_args binary_args


cdef struct axes:
    # the shape of a result, and its operands' strides in elements: 0 where an operand is broadcast
    int64_t ndim
    int64_t shape[64]
    int64_t strides[3][64]


cdef void set_shape(axes *s, cnp.ndarray x) noexcept:
    cdef int d
    s.ndim = x.ndim
    for d in range(x.ndim):
        s.shape[d] = x.shape[d]


cdef int set_operand(axes *s, int operand, cnp.ndarray x) except -1:
    """The strides of x where it is broadcast to the shape of `s`; 1 if it cannot be."""
    cdef int d, own
    cdef int64_t size
    for d in range(s.ndim):
        own = d - <int>(s.ndim - x.ndim)
        size = x.shape[own] if own >= 0 else 1
        if size == s.shape[d]:
            s.strides[operand][d] = x.strides[own] // cnp.PyArray_ITEMSIZE(x) if own >= 0 else 0
        elif size == 1:
            s.strides[operand][d] = 0
        else:
            return 1
    return 0


cdef int merge_axes(axes *s, int operands) except -1:
    """Drop axes of one element, merge neighbours that every operand walks in one step, leave at least one axis."""
    cdef int d, o, kept = 0
    cdef bint one
    for d in range(s.ndim):
        if s.shape[d] == 1:
            continue
        one = kept > 0
        for o in range(operands):
            one = one and s.strides[o][kept - 1] == s.shape[d] * s.strides[o][d]
        if one:
            kept -= 1
            s.shape[kept] *= s.shape[d]
        else:
            s.shape[kept] = s.shape[d]
        for o in range(operands):
            s.strides[o][kept] = s.strides[o][d]
        kept += 1
    if kept == 0:
        s.shape[0] = 1
        for o in range(operands):
            s.strides[o][0] = 1
        kept = 1
    s.ndim = kept
    return 0


cdef int check_in_place(cnp.ndarray y, cnp.ndarray x) except -1:
    """out may be an operand, element by element, but not another part of its memory."""
    cdef bint same
    if overlap(y, x):
        same = y.data == x.data and y.ndim == x.ndim and cnp.PyArray_ISCARRAY_RO(x) and shape_of(y) == shape_of(x)
        if not same:
            raise ValueError("out overlaps an operand without being that same array")
    return 0


cdef cnp.ndarray unary(fc_kernel_id kernel, object x, object out):
    cdef cnp.ndarray input = floats(x, "x"), y
    cdef axes s
    cdef unary_args args
    y = output(out, input.ndim, <int64_t *>input.shape, type_of(input))
    if out is not None:
        check_in_place(y, input)
    if cnp.PyArray_ISCARRAY_RO(input):
        args.ndim, args.shape[0], args.a_strides[0] = 1, input.size, 1
    else:
        set_shape(&s, input)
        set_operand(&s, 0, input)
        merge_axes(&s, 1)
        if s.ndim > FC_MAX_DIMS:
            return unary(kernel, contiguous(input), y)
        args.ndim = s.ndim
        memcpy(args.shape, s.shape, s.ndim * sizeof(int64_t))
        memcpy(args.a_strides, s.strides[0], s.ndim * sizeof(int64_t))
    if y.size:
        args.a, args.y = input.data, y.data
        run(type_of(y), kernel, &args)
    return y


cdef tuple NUMBERS = (float, int, np.floating, np.integer, np.bool_)


cdef cnp.ndarray operand(object x, str name, object other):
    """An array, or a number as an array of the other operand's type."""
    cdef cnp.ndarray number
    if not cnp.PyArray_Check(x) and isinstance(x, NUMBERS):
        if not cnp.PyArray_Check(other):
            raise TypeError("one of the operands must be a NumPy array")
        number = empty(0, NULL, type_of(floats(other, "the other operand")))
        if type_of(number) == cnp.NPY_FLOAT:
            (<float *>number.data)[0] = <float><double>x
        else:
            (<double *>number.data)[0] = x
        if open_recording is not None:
            open_recording.see_constant(number)
        return number
    return floats(x, name)


cdef cnp.ndarray binary(fc_kernel_id kernel, object a, object b, object out, int result_type=-1):
    cdef cnp.ndarray left, right, y
    cdef axes s
    cdef binary_args args
    cdef int d, shift
    left = operand(a, "a", b)
    right = operand(b, "b", a)
    if type_of(left) != type_of(right):
        raise TypeError(f"operands must have one dtype, got {left.dtype} and {right.dtype}")
    if result_type < 0:
        result_type = type_of(left)
    if left.ndim == right.ndim and cnp.PyArray_SAMESHAPE(left, right) and cnp.PyArray_ISCARRAY_RO(left) \
            and cnp.PyArray_ISCARRAY_RO(right):
        y = output(out, left.ndim, <int64_t *>left.shape, result_type)
        args.ndim, args.shape[0], args.a_strides[0], args.b_strides[0] = 1, left.size, 1, 1
    else:
        s.ndim = larger(left.ndim, right.ndim)
        for d in range(s.ndim):
            s.shape[d] = 1
        for x in (left, right):
            shift = s.ndim - (<cnp.ndarray>x).ndim
            for d in range((<cnp.ndarray>x).ndim):
                if s.shape[d + shift] == 1:
                    s.shape[d + shift] = (<cnp.ndarray>x).shape[d]
        if set_operand(&s, 0, left) or set_operand(&s, 1, right):
            raise ValueError(f"shapes {shape_of(left)} and {shape_of(right)} do not broadcast")
        y = output(out, s.ndim, s.shape, result_type)
        merge_axes(&s, 2)
        if s.ndim > FC_MAX_DIMS:
            return binary(kernel, np.ascontiguousarray(np.broadcast_to(left, shape_of(y))),
                          np.ascontiguousarray(np.broadcast_to(right, shape_of(y))), y, result_type)
        args.ndim = s.ndim
        memcpy(args.shape, s.shape, s.ndim * sizeof(int64_t))
        memcpy(args.a_strides, s.strides[0], s.ndim * sizeof(int64_t))
        memcpy(args.b_strides, s.strides[1], s.ndim * sizeof(int64_t))
    if out is not None:
        check_in_place(y, left)
        check_in_place(y, right)
    if y.size:
        args.a, args.b, args.y = left.data, right.data, y.data
        run(type_of(left), kernel, &args)
    return y


def copy(x, *, out=None):
    """A C-contiguous copy of x."""
    return unary(FC_copy, x, out)


def neg(x, *, out=None):
    """y = -x."""
    return unary(FC_neg, x, out)


def abs(x, *, out=None):
    """y = |x|."""
    return unary(FC_abs, x, out)


def exp(x, *, out=None):
    """y = e^x."""
    return unary(FC_exp, x, out)


def log(x, *, out=None):
    """y = ln x; NaN below 0, -inf at 0."""
    return unary(FC_log, x, out)


def sqrt(x, *, out=None):
    """y = sqrt(x); NaN below 0."""
    return unary(FC_sqrt, x, out)


def tanh(x, *, out=None):
    """y = tanh x."""
    return unary(FC_tanh, x, out)


def sigmoid(x, *, out=None):
    """y = 1 / (1 + e^-x)."""
    return unary(FC_sigmoid, x, out)


def relu(x, *, out=None):
    """Rectified linear unit: y = max(x, 0); NaN stays NaN."""
    return unary(FC_relu, x, out)


def relu_backward(dy, y, *, out=None):
    """Gradient of relu: dx = dy where y > 0 (or y is NaN), else 0; y is relu's output, or its input.

    dy and y: arrays of one shape and dtype. Returns an array of that shape.
    """
    if cnp.PyArray_Check(dy) and cnp.PyArray_Check(y) and not cnp.PyArray_SAMESHAPE(dy, y):
        raise ValueError(f"dy {dy.shape} and y {y.shape} must have one shape")
    return binary(FC_relu_backward, dy, y, out)


def bias_add(x, b, *, out=None):
    """y[n,c,...] = x[n,c,...] + b[c];  x: (N, C, ...), b: (C)."""
    cdef cnp.ndarray input = floats(x, "x"), bias = floats(b, "b", 1, type_of(input))
    if input.ndim < 2 or input.shape[1] != bias.shape[0]:
        raise ValueError(f"x must be (N, {bias.shape[0]}, ...) for b of {bias.shape[0]}, got shape {shape_of(input)}")
    return binary(FC_add, input, bias.reshape((-1,) + (1,) * (input.ndim - 2)), out)


def add(a, b, *, out=None):
    """y = a + b. As in all binary functions here: shapes broadcast as NumPy's, and one operand may be a number."""
    return binary(FC_add, a, b, out)


def sub(a, b, *, out=None):
    """y = a - b."""
    return binary(FC_sub, a, b, out)


def mul(a, b, *, out=None):
    """y = a b."""
    return binary(FC_mul, a, b, out)


def div(a, b, *, out=None):
    """y = a / b; by zero: inf or NaN."""
    return binary(FC_div, a, b, out)


def pow(a, b, *, out=None):
    """y = a^b; NaN for a negative a and a b that is no integer."""
    return binary(FC_pow, a, b, out)


def maximum(a, b, *, out=None):
    """y = the larger of a and b; NaN if one is NaN."""
    return binary(FC_maximum, a, b, out)


def minimum(a, b, *, out=None):
    """y = the smaller of a and b; NaN if one is NaN."""
    return binary(FC_minimum, a, b, out)


def eq(a, b):
    """a == b, a boolean array; so ne, lt, le, gt, ge."""
    return binary(FC_eq, a, b, None, cnp.NPY_BOOL)


def ne(a, b):
    """a != b."""
    return binary(FC_ne, a, b, None, cnp.NPY_BOOL)


def lt(a, b):
    """a < b."""
    return binary(FC_lt, a, b, None, cnp.NPY_BOOL)


def le(a, b):
    """a <= b."""
    return binary(FC_le, a, b, None, cnp.NPY_BOOL)


def gt(a, b):
    """a > b."""
    return binary(FC_gt, a, b, None, cnp.NPY_BOOL)


def ge(a, b):
    """a >= b."""
    return binary(FC_ge, a, b, None, cnp.NPY_BOOL)


def where(condition, a, b):
    """y = a where condition is true, else b; condition: a boolean array; all broadcast."""
    cdef cnp.ndarray left = operand(a, "a", b), right = operand(b, "b", a), mask = plain_array(condition, "condition"), y
    if cnp.PyArray_TYPE(mask) != cnp.NPY_BOOL:
        raise TypeError(f"condition must be bool, got {mask.dtype}")
    if type_of(left) != type_of(right):
        raise TypeError(f"operands must have one dtype, got {left.dtype} and {right.dtype}")
    shape = np.broadcast_shapes(shape_of(mask), shape_of(left), shape_of(right))
    y = empty_array(shape, left.dtype)
    cdef axes s
    cdef where_args args
    set_shape(&s, y)
    set_operand(&s, 0, left)
    set_operand(&s, 1, right)
    set_operand(&s, 2, mask)
    merge_axes(&s, 3)
    if s.ndim > FC_MAX_DIMS:
        return where(*(np.ascontiguousarray(np.broadcast_to(x, shape)) for x in (mask, left, right)))
    args.ndim = s.ndim
    memcpy(args.shape, s.shape, s.ndim * sizeof(int64_t))
    memcpy(args.a_strides, s.strides[0], s.ndim * sizeof(int64_t))
    memcpy(args.b_strides, s.strides[1], s.ndim * sizeof(int64_t))
    memcpy(args.condition_strides, s.strides[2], s.ndim * sizeof(int64_t))
    if y.size:
        args.a, args.b, args.condition, args.y = left.data, right.data, mask.data, y.data
        run(type_of(y), FC_where, &args)
    return y


def assign(y, x):
    """y[...] = x, for a y of any strides: a slice of an array, say. x, an array or a number, broadcasts to y."""
    if not isinstance(y, np.ndarray):
        raise TypeError(f"y must be a NumPy array, got {type(y).__name__}")
    if not cnp.PyArray_ISWRITEABLE(y):
        raise ValueError("y is read-only")
    cdef cnp.ndarray target = floats(y, "y"), source = operand(x, "x", y)
    if target is not y:
        raise ValueError("y must be aligned and in native byte order")
    if type_of(source) != type_of(target):
        raise TypeError(f"x is {source.dtype}, but y is {target.dtype}")
    cdef axes s
    cdef assign_args args
    set_shape(&s, target)
    if source.ndim > target.ndim or set_operand(&s, 0, source):
        raise ValueError(f"x of shape {shape_of(source)} does not broadcast to y of shape {shape_of(target)}")
    set_operand(&s, 1, target)
    if overlap(source, target):
        return assign(y, unary(FC_copy, source, None))
    merge_axes(&s, 2)
    if s.ndim > FC_MAX_DIMS:
        raise ValueError(f"y has more than {FC_MAX_DIMS} axes that cannot be walked as one")
    args.ndim = s.ndim
    memcpy(args.shape, s.shape, s.ndim * sizeof(int64_t))
    memcpy(args.a_strides, s.strides[0], s.ndim * sizeof(int64_t))
    memcpy(args.y_strides, s.strides[1], s.ndim * sizeof(int64_t))
    if target.size:
        args.a, args.y = source.data, target.data
        run(type_of(target), FC_assign, &args)
    return None


def fill(y, value):
    """y[...] = value, one number; y of any strides."""
    if not isinstance(value, NUMBERS):
        raise TypeError(f"value must be a number, got {type(value).__name__}")
    if not cnp.PyArray_CheckExact(y) or not cnp.PyArray_ISCARRAY(y):
        assign(y, value)
        return
    cdef cnp.ndarray target = floats(y, "y"), number = operand(value, "value", y)
    cdef assign_args args
    args.ndim, args.shape[0], args.a_strides[0], args.y_strides[0] = 1, target.size, 0, 1
    args.a, args.y = number.data, target.data
    if target.size:
        run(type_of(target), FC_assign, &args)


def zero(list arrays not None):
    """Fill each array with zeros."""
    for array in arrays:
        fill(array, 0.0)


def cast(x, dtype):
    """x as an array of another dtype; x itself if it has that dtype already."""
    cdef cnp.ndarray array = plain_array(x, "x")
    if array.dtype != dtype:
        not_recorded(f"a conversion from {array.dtype} to {np.dtype(dtype)}")
    return array.astype(dtype, copy=False)


_INTEGER_FUNCTIONS = frozenset(
    "add subtract multiply floor_divide remainder negative absolute power maximum minimum equal not_equal less less_equal "
    "greater greater_equal logical_and logical_or logical_not logical_xor sum max min argmax argmin all any cumsum".split())


def integer(function, *args, **kwargs):
    """A NumPy function on integer or boolean arrays: labels, masks, counts. They never meet the kernels in C."""
    if function not in _INTEGER_FUNCTIONS:
        raise ValueError(f"no such function on integers: {function!r}")
    not_recorded(f"{function} of integers")
    return np.asarray(getattr(np, function)(*args, **kwargs))


def index_add(y, index, x):
    """y[index] += x, where an index that appears twice adds twice: the gradient of y[index] by integer arrays."""
    if not isinstance(y, np.ndarray) or not isinstance(x, np.ndarray):
        raise TypeError("index_add wants NumPy arrays")
    not_recorded("a gradient of x[index] by an array of indices")
    np.add.at(y, index, x)
