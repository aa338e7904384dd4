# What every function of the door does with its arguments, and the one place that calls C.

from cpython.long cimport PyLong_AsLongLongAndOverflow

cdef int64_t LARGEST = 2**31 - 1  # of a stride, a padding, an axis in a geometry: no product of two overflows


cdef int run(int type_number, fc_kernel_id kernel, const void *args) except -1:
    """Run one kernel of the current row, without the GIL."""
    cdef int status
    cdef fc_dtype dtype = FC_FLOAT32 if type_number == cnp.NPY_FLOAT else FC_FLOAT64
    if open_recording is not None and open_recording.note(dtype, kernel, args):
        return 0
    with nogil:
        status = fc_run(dtype, kernel, args)
    return check_status(status)


cdef int check_status(int status) except -1:
    """Raise what a kernel's status says."""
    if status and open_recording is not None:
        open_recording.refuse("a kernel failed inside of it")
    if status == FC_BAD_INDEX:
        raise IndexError("an index is out of range")
    if status:
        raise MemoryError("fastconv: no memory for the workspace of a kernel")
    return 0


cdef object shape_of(cnp.ndarray x):
    return tuple([x.shape[d] for d in range(x.ndim)])


cdef int refuse_mask(object x, str name) except -1:
    if isinstance(x, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array, and its mask would be ignored; pass x.filled(...)")
    return 0


cdef cnp.ndarray plain_array(object x, str name):
    """x as an ndarray proper, its data in this machine's byte order and aligned."""
    if not cnp.PyArray_CheckExact(x):
        if not isinstance(x, np.ndarray):
            raise TypeError(f"{name} must be a NumPy array, got {type(x).__name__}")
        refuse_mask(x, name)
        x = x.view(np.ndarray)
    cdef cnp.ndarray array = x
    cdef int d
    if not cnp.PyArray_ISBEHAVED_RO(array):
        array = array.astype(array.dtype.newbyteorder("="))
    cdef int64_t itemsize = larger(cnp.PyArray_ITEMSIZE(array), 1)  # 0, of a record without fields
    for d in range(array.ndim):
        if array.strides[d] % itemsize:
            array = new_copy(array)
            break
    if open_recording is not None:
        open_recording.see(array)
    return array


cdef cnp.ndarray floats(object x, str name, int ndim=-1, int type_number=-1):
    """x as a float32 or float64 array, of the given number of axes and the given type."""
    cdef cnp.ndarray array = plain_array(x, name)
    cdef int given = cnp.PyArray_TYPE(array)
    if given != cnp.NPY_FLOAT and given != cnp.NPY_DOUBLE:
        raise TypeError(f"{name} must be float32 or float64, got {array.dtype}")
    if type_number >= 0 and given != type_number:
        raise TypeError(f"{name} is {array.dtype}, but the arrays before it are "
                        f"{np.dtype(np.float32 if type_number == cnp.NPY_FLOAT else np.float64)}")
    if ndim >= 0 and array.ndim != ndim:
        raise ValueError(f"{name} must have {ndim} axes, got shape {shape_of(array)}")
    return array


cdef cnp.ndarray contiguous(cnp.ndarray x):
    """x in C order: itself, or a copy, which a recording wants to see made by a kernel."""
    if cnp.PyArray_ISCARRAY_RO(x):
        return x
    if open_recording is not None and x.ndim <= FC_MAX_DIMS and type_of(x) in (cnp.NPY_FLOAT, cnp.NPY_DOUBLE):
        return unary(FC_copy, x, None)
    return new_copy(x)


cdef inline int type_of(cnp.ndarray x):
    return cnp.PyArray_TYPE(x)


cdef cnp.ndarray empty(int ndim, const int64_t *shape, int type_number):
    """A new C-contiguous array whose contents are still to be written: what results are written into."""
    cdef cnp.npy_intp sizes[64]
    cdef cnp.ndarray array
    cdef int d
    for d in range(ndim):
        sizes[d] = shape[d]
    if open_recording is None:
        return fc_new_array(ndim, sizes, type_number)
    array = fc_noted_array(ndim, sizes, type_number)
    open_recording.see_new(array)
    return array


def empty_array(shape, dtype, *, for_kernels=True):
    """A new C-contiguous array whose contents are still to be written; a recording takes it for one that kernels write,
    unless told otherwise."""
    cdef int64_t sizes[64]
    cdef int d = 0
    cdef cnp.dtype described = dtype if isinstance(dtype, cnp.dtype) else np.dtype(dtype)
    if described.type_num >= cnp.NPY_OBJECT or not cnp.PyArray_ISNBO(described.byteorder) or len(shape) > 64 \
            or (open_recording is not None and not for_kernels):
        return np.empty(shape, described)
    for size in shape:
        sizes[d] = size
        d += 1
    return empty(d, sizes, described.type_num)


def new_copy(x, dtype=None):
    """A C-contiguous copy of an array of any dtype; made by NumPy, not by a kernel."""
    refuse_mask(x, "the array")
    x = np.asarray(x)
    y = empty_array(x.shape, x.dtype.newbyteorder("=") if dtype is None else dtype, for_kernels=False)
    y[...] = x
    return y


cdef inline bint has_shape(cnp.ndarray x, int ndim, const int64_t *shape) noexcept:
    cdef int d
    if x.ndim != ndim:
        return False
    for d in range(ndim):
        if x.shape[d] != shape[d]:
            return False
    return True


cdef cnp.ndarray output(object out, int ndim, const int64_t *shape, int type_number):
    """A new array of this shape and type, or `out` once it is found to be one."""
    if out is None:
        return empty(ndim, shape, type_number)
    if cnp.PyArray_CheckExact(out) and has_shape(out, ndim, shape) and cnp.PyArray_TYPE(out) == type_number \
            and cnp.PyArray_ISCARRAY(out):
        if open_recording is not None:
            open_recording.see(out)
        return out
    cdef tuple wanted = tuple([shape[d] for d in range(ndim)])
    if not isinstance(out, np.ndarray):
        raise TypeError(f"out must be a NumPy array, got {type(out).__name__}")
    if cnp.PyArray_TYPE(out) != type_number:
        raise TypeError(f"out must be {cnp.PyArray_DescrFromType(type_number)}, got {out.dtype}")
    if out.shape != wanted:
        raise ValueError(f"out must have shape {wanted}, got {out.shape}")
    if not cnp.PyArray_ISCARRAY(out):
        raise ValueError("out must be C-contiguous, aligned, writeable and in native byte order")
    return out


cdef void extent(cnp.ndarray x, size_t *first, size_t *last) noexcept:
    """The addresses from the first byte of x to the one after its last."""
    cdef int d
    first[0] = <size_t>x.data
    last[0] = first[0] + cnp.PyArray_ITEMSIZE(x)
    for d in range(x.ndim):
        if x.shape[d] == 0:
            last[0] = first[0]
            return
        if x.strides[d] > 0:
            last[0] += <size_t>((x.shape[d] - 1) * x.strides[d])
        else:
            first[0] -= <size_t>((1 - x.shape[d]) * x.strides[d])


cdef bint overlap(cnp.ndarray x, cnp.ndarray y) noexcept:
    """Whether the memory between the first and the last element of one meets that of the other."""
    cdef size_t first_x, last_x, first_y, last_y
    extent(x, &first_x, &last_x)
    extent(y, &first_y, &last_y)
    return first_x < last_y and first_y < last_x and last_x > first_x and last_y > first_y


cdef int refuse_overlap(cnp.ndarray out, cnp.ndarray x, str name) except -1:
    """For kernels that read x after they have begun to write out."""
    if x is not None and overlap(out, x):
        raise ValueError(f"out shares memory with {name}")
    return 0


cdef int require_shape(cnp.ndarray x, str name, int ndim, const int64_t *shape) except -1:
    cdef int d
    if not has_shape(x, ndim, shape):
        raise ValueError(f"{name} must have shape {tuple([shape[d] for d in range(ndim)])}, got {shape_of(x)}")
    return 0


cdef int64_t as_int(object value, str name, int64_t smallest) except? -1:
    """A Python or NumPy integer from smallest to LARGEST."""
    cdef int overflow
    if type(value) is not int:
        if not hasattr(value, "__index__"):
            raise TypeError(f"{name} must be an int, got {type(value).__name__}")
        value = value.__index__()
    cdef int64_t number = PyLong_AsLongLongAndOverflow(value, &overflow)
    if overflow or not smallest <= number <= LARGEST:
        raise ValueError(f"{name} must be from {smallest} to {LARGEST}, got {value}")
    return number


cdef double as_real(object value, str name) except? -1:
    """A number, of Python's or NumPy's."""
    try:
        return value
    except TypeError:
        raise TypeError(f"{name} must be a number, got {type(value).__name__}") from None


cdef int as_pair(object value, str name, int64_t smallest, int64_t *first, int64_t *second) except -1:
    """An int for both axes, or a pair (vertical, horizontal)."""
    if isinstance(value, (tuple, list)):
        if len(value) != 2:
            raise ValueError(f"{name} must be an int or a pair of ints, got {value!r}")
        first[0] = as_int(value[0], name, smallest)
        second[0] = as_int(value[1], name, smallest)
    else:
        first[0] = second[0] = as_int(value, name, smallest)
    return 0


cdef int element_strides(cnp.ndarray x, int64_t *strides) noexcept:
    cdef int d
    for d in range(x.ndim):
        strides[d] = x.strides[d] // cnp.PyArray_ITEMSIZE(x)
    return 0


cdef int as_reduction(object reduction) except -1:
    if reduction == "mean":
        return 1
    if reduction == "sum":
        return 2
    if reduction == "none":
        return 0
    raise ValueError(f"reduction must be 'none', 'mean' or 'sum', got {reduction!r}")
