# Writing down what passes through the door: each kernel call with a copy of its arguments, and which array each pointer
# is. fastconv.compiler makes a plan of it. One recording is open at a time, and sees the thread that opened it.
#
# The calls may be put off until the plan runs them, which takes less memory than one after the other does: as long as nobody
# looks at numbers. Whoever might, lets them run: `not_recorded`, an array that NumPy makes, code outside of fastconv that calls
# the door, another thread that has one of their results, memory that is not on the compiler's watch, an exception.

import sys as _sys

from cpython.pythread cimport PyThread_get_thread_ident

cdef Recording open_recording = None


cdef dict list_fields():
    """{kernel: ((kind, field, first word, words), ...)}: where each field lies in the kernel's arguments."""
    result = {}
    for name, fields in LISTED_FIELDS.items():
        placed, word = [], 0
        for kind, field, words in fields:
            placed.append((kind, field, word, words))
            word += words
        result[name] = tuple(placed)
    return result


#: {kernel: ((kind, field, first word, words), ...)} of the argument structs of src/kernels.def, whose words have 8 bytes.
FIELDS = list_fields()


cdef cnp.ndarray root_of(cnp.ndarray x):
    """The array that owns x's memory, as far as NumPy knows."""
    cdef object base = cnp.get_array_base(x)
    while isinstance(base, np.ndarray):
        x = base
        base = cnp.get_array_base(x)
    return x


cdef class Recording:
    """What passes through the door in this thread inside of `with Recording() as recording:`.

    calls: a list of (kernel, dtype, words, operands): its name, 0 for float32 and 1 for float64, its arguments as an int64
    array, and for each pointer that is not NULL (kind, field, array). refusal: what the door could not write down, if
    anything. Arrays that the door made meanwhile are stood for by others, of the same addresses and shapes, which own
    nothing: the memory may be gone. new, constants: by id, those that stand for such an array, and the arrays themselves
    where they hold a number given by Python.

    known: None, or, where calls are to be put off, the ids of the arrays that own memory which is there before and changes by
    no other way. Then finish() must follow the block; it runs what has not run. putting_off: whether nothing has, yet.
    """

    cdef readonly list calls
    cdef readonly dict new, constants
    cdef readonly str refusal
    cdef readonly bint putting_off
    cdef dict seen, stands_for
    cdef frozenset known
    cdef bint noting
    cdef list operands
    cdef unsigned long thread
    cdef object handler

    def __init__(self, known=None):
        self.known, self.putting_off, self.noting = known, known is not None, False
        self.calls, self.operands = [], []
        self.new, self.constants, self.seen, self.stands_for = {}, {}, {}, {}
        self.refusal = None

    def __enter__(self):
        global open_recording
        if open_recording is not None:
            raise RuntimeError("a recording is open already")
        self.thread = PyThread_get_thread_ident()
        self.handler = fc_begin_noting(self.putting_off)
        self.noting = True
        open_recording = self
        return self

    def __exit__(self, exception, *rest):
        global open_recording
        try:
            if exception is not None:
                self.settle()
        finally:
            open_recording = None
            PyDataMem_SetHandler(self.handler)
            if not self.putting_off:
                self.finish()

    cdef int settle(self) except -1:
        """Run what was put off, and put off nothing more."""
        if self.putting_off:
            self.putting_off = False
            check_status(fc_run_put_off())
        return 0

    def forget(self):
        """What was put off has run by other means."""
        self.putting_off = False
        fc_forget_put_off()

    def finish(self):
        """Run what was put off, and give back the memory of the recording."""
        if self.noting:
            self.noting = False
            try:
                self.settle()
            finally:
                fc_forget_put_off()
                fc_end_noting()

    def is_alive(self, cnp.ndarray root not None):
        """Whether the array that a root of `new` stands for is still there."""
        return not fc_is_dead(<size_t>root.data)

    def made_by_numpy(self, cnp.ndarray array not None):
        """Whether NumPy itself, not the door, made the array's memory since the recording was opened."""
        cdef cnp.ndarray root = self.root_of(array)
        return id(root) not in self.new and fc_was_noted(<size_t>root.data) != 0

    def root_of(self, cnp.ndarray array not None):
        """The array that owns this one's memory, or stands for it."""
        cdef cnp.ndarray root = root_of(array)
        return self.stands_for.get(<size_t>root.data, root)

    def refuse(self, str cause):
        """Note that the step cannot be replayed, and why; the first cause counts."""
        if self.refusal is None:
            self.refusal = cause

    cdef bint is_mine(self):
        return PyThread_get_thread_ident() == self.thread

    cdef int see(self, cnp.ndarray array) except -1:
        cdef cnp.ndarray root, own = root_of(array)
        if not self.is_mine():
            if <size_t>own.data in self.stands_for:
                self.settle()
            return 0
        root = self.stands_for.get(<size_t>own.data)
        if root is None:
            self.seen[id(own)] = own
        elif array is own:
            array = root
        else:
            array = np.ndarray(shape_of(array), array.dtype, root, <size_t>array.data - <size_t>own.data,
                               tuple([array.strides[d] for d in range(array.ndim)]))
        self.operands.append(array)
        return 0

    cdef int see_new(self, cnp.ndarray array) except -1:
        cdef cnp.ndarray stand_in
        if self.is_mine():
            stand_in = cnp.PyArray_SimpleNewFromData(array.ndim, array.shape, cnp.PyArray_TYPE(array), array.data)
            self.stands_for[<size_t>array.data] = stand_in
            self.new[id(stand_in)] = self.seen[id(stand_in)] = stand_in
            self.operands.append(stand_in)
        return 0

    cdef int see_constant(self, cnp.ndarray array) except -1:
        if self.is_mine():
            self.constants[id(self.stands_for[<size_t>array.data])] = array
        return 0

    cdef cnp.ndarray array_at(self, size_t address):
        """The array that begins there, the last one that was seen, or else one that holds the address."""
        cdef size_t first, last
        cdef cnp.ndarray array
        for array in reversed(self.operands):
            if <size_t>array.data == address:
                return array
        for array in self.seen.values():
            extent(array, &first, &last)
            if first <= address < last:
                return array
        return None

    cdef bint note(self, fc_dtype dtype, fc_kernel_id kernel, const void *args) except -1:
        """Write down a call; whether it is put off."""
        if not self.is_mine():
            return False
        cdef const int64_t *word = <const int64_t *>args
        cdef str name = KERNELS[<int>kernel]
        cdef list operands = []
        cdef cnp.ndarray words, array
        cdef tuple fields = FIELDS[name]
        cdef int64_t i, count = fields[len(fields) - 1][2] + fields[len(fields) - 1][3]
        words = fc_noted_array(1, <cnp.npy_intp *>&count, cnp.NPY_INT64)
        memcpy(words.data, args, count * sizeof(int64_t))
        for kind, field, first, _ in fields:
            i = first
            if kind in ("IN", "OUT", "INOUT") and word[i]:
                array = self.array_at(<size_t>word[i])
                if array is None:
                    self.refuse(f"{name} reads memory that is not an array's")
                else:
                    operands.append((kind, field, array))
        self.operands.clear()
        self.calls.append((name, <int>dtype, words, operands))
        if self.putting_off:
            if self.refusal is None and is_inside(_sys._getframe()) and self.knows_all(operands) \
                    and fc_put_off_call(dtype, kernel, words.data):
                return True
            self.settle()
        return False

    cdef bint knows_all(self, list operands) except -1:
        """Whether all memory of a call is the recording's own, or changes by no other way."""
        for _, _, array in operands:
            root = id(root_of(array))
            if root not in self.new and root not in self.known:
                return False
        return True


cdef bint is_inside(frame) except -1:
    """Whether it is fastconv's own code."""
    return frame.f_globals.get("__name__", "").split(".")[0] == "fastconv"


cdef int settle() except -1:
    """Let what an open recording of this thread has put off run, before somebody looks at numbers."""
    if open_recording is not None and open_recording.is_mine():
        open_recording.settle()
    return 0


def not_recorded(str what):
    """Tell an open recording of this thread that `what` happens beside the kernels."""
    settle()
    if open_recording is None or not open_recording.is_mine() or open_recording.refusal is not None:
        return
    frame = _sys._getframe()
    while frame is not None and is_inside(frame):
        frame = frame.f_back
    place = f" (line {frame.f_lineno} of {frame.f_code.co_filename})" if frame is not None else ""
    open_recording.refuse(what + place)


def is_recording():
    """Whether a recording of this thread is open."""
    return open_recording is not None and open_recording.is_mine()
