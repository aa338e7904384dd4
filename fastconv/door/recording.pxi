# Writing down what passes through the door: each kernel call with a copy of its arguments, and which array each pointer
# is. fastconv.compiler makes a plan of it. One recording is open at a time, and sees the thread that opened it.
#
# The calls may be put off until the plan runs them, which takes less memory than one after the other does: as long as nobody
# looks at numbers. Whoever might, lets them run: `not_recorded`, an array that NumPy makes, code outside of fastconv that calls
# the door, any other thread at the door, memory that is not on the compiler's watch, an exception.

import sys as _sys

from cpython.pythread cimport PyThread_get_thread_ident

cdef Recording open_recording = None
cdef Recording claimant = None  # whose turn it is


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

    claim(), before all else, keeps those of other threads out until finish(). put_off(known), before the block, has the calls
    put off; known: the ids of the arrays that own memory which is there before and changes by no other way. The recording is
    then open until finish(), which runs what has not run.
    """

    cdef readonly list calls
    cdef readonly dict new, constants
    cdef readonly str refusal
    cdef dict seen, stands_for
    cdef frozenset known
    cdef bint inside, unfinished
    cdef list operands
    cdef unsigned long thread
    cdef object handler

    def __init__(self):
        self.known, self.inside, self.unfinished = None, False, False
        self.calls, self.operands = [], []
        self.new, self.constants, self.seen, self.stands_for = {}, {}, {}, {}
        self.refusal = None

    def __enter__(self):
        global open_recording
        if open_recording is not None:
            raise RuntimeError("a recording is open already")
        self.thread = PyThread_get_thread_ident()
        self.handler = fc_begin_noting(self.known is not None)
        open_recording = self
        self.inside = self.unfinished = True
        return self

    def __exit__(self, exception, *rest):
        try:
            if exception is not None or not self.putting_off:
                self.settle()
        finally:
            self.inside = False
            PyDataMem_SetHandler(self.handler)
            if self.known is None:
                self.finish()

    def claim(self):
        """Whether it may be opened, by this thread: no other one has been claimed and is not finished."""
        global claimant
        if claimant is None:
            claimant, self.thread = self, PyThread_get_thread_ident()
        return claimant is self

    def put_off(self, known):
        """Let the calls that are to be recorded wait."""
        self.known = known

    @property
    def putting_off(self):
        """Whether no call has run yet."""
        return self.unfinished and fc_is_putting_off() != 0

    cdef int settle(self) except -1:
        """Run what was put off, and put off nothing more. Raises what a kernel has raised since, in the recording's thread."""
        fc_run_put_off()
        return check_status(fc_take_status()) if PyThread_get_thread_ident() == self.thread else 0

    cdef bint makes(self, cnp.ndarray array):
        """Whether the array is of the recording's own making, and so may be still to be written."""
        return <size_t>root_of(array).data in self.stands_for

    def finish(self):
        """Run what was put off, give back the memory of the recording, and close it."""
        global open_recording, claimant
        if claimant is self:
            claimant = None
        if self.unfinished:
            try:
                self.settle()
            finally:
                self.unfinished = False
                open_recording = None
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

    cdef bint is_mine(self) except -1:
        """Whether it records this thread now. Another thread finds all run that this one has done."""
        if PyThread_get_thread_ident() == self.thread:
            return self.inside
        self.settle()
        return False

    cdef int see(self, cnp.ndarray array) except -1:
        cdef cnp.ndarray root, own = root_of(array)
        if not self.is_mine():
            self.settle()  # in this thread, after the block: somebody's finalizer, or what shows a warning
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
        if fc_is_putting_off():
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


def _leave_to_parent():
    """In a new process: what another thread was recording when it began. That thread is not here."""
    global open_recording, claimant
    if claimant is not None and claimant.thread != PyThread_get_thread_ident():
        claimant = None
    if open_recording is not None and open_recording.thread != PyThread_get_thread_ident():
        open_recording.unfinished = False
        open_recording = None
        fc_forget_put_off()
        fc_end_noting()


_os.register_at_fork(after_in_child=_leave_to_parent)


cdef bint is_inside(frame) except -1:
    """Whether it is fastconv's own code."""
    return str(frame.f_globals.get("__name__")).split(".")[0] == "fastconv"


cpdef settle():
    """Let what an open recording has put off run, before somebody looks at numbers.

    What looks and is not recorded says so by not_recorded; an array that NumPy makes in the thread that records says it itself.
    """
    if open_recording is not None:
        open_recording.settle()


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
