# How fast multiply-adds can be. Template: src/kernels/peak.inc.

def multiply_add_peak(turns=100_000, dtype="float32"):
    """Run multiply-adds that do nothing else, in one thread: (s, multiply-adds), s being 1 - 2^-turns as it must.

    Their number over the time of the call is the peak of one core for this dtype and the instruction set in use.
    """
    cdef int64_t two = 2
    cdef int type_number = np.dtype(dtype).num
    if type_number != cnp.NPY_FLOAT and type_number != cnp.NPY_DOUBLE:
        raise TypeError(f"dtype must be float32 or float64, got {dtype}")
    cdef cnp.ndarray y = empty(1, &two, type_number)
    cdef multiply_add_peak_args args = multiply_add_peak_args(turns=as_int(turns, "turns", 0), x=0.5, first=0.0, y=y.data)
    run(type_number, FC_multiply_add_peak, &args)
    return float(y[0]), args.turns * int(y[1])
