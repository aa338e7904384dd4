# Replaying recorded calls. C: src/replay.c. fastconv.compiler decides what is in a plan.

import threading as _threading

from cpython.dict cimport PyDict_GetItem, PyDict_Next
from cpython.object cimport PyObject
from libc.stdlib cimport calloc, free, realloc

cdef extern from "fastconv.h" nogil:
    ctypedef struct fc_call:
        fc_dtype dtype
        fc_kernel_id kernel
        const void *args
    int fc_replay(const fc_call *calls, int64_t count, int64_t *stamps, double *nanoseconds_per_tick)


cdef bint equal_values(object a, object b):
    """Whether a and b are one object, or the same number, text, or tuple of them: not merely equal, as 1, 1.0 and True are."""
    if a is b:
        return True
    if type(a) is not type(b):
        return False
    if type(a) is float:
        return a == b and (a != 0 or str(a) == str(b))
    if type(a) is tuple:
        return len(a) == len(b) and all_equal_values(a, b)
    return type(a) in (int, str, bytes) and a == b


cdef bint all_equal_values(tuple a, tuple b):
    for left, right in zip(a, b):
        if not equal_values(left, right):
            return False
    return True


def same_value(a, b):
    """Whether a recording that met `a` holds for `b`."""
    return equal_values(a, b)


cdef extern from *:
    """
    #include <structmember.h>

    /* Where the objects of a type keep the attribute that this descriptor reads, a slot; 0 if it is not one. */
    static Py_ssize_t fc_slot_offset(PyObject *descriptor) {
        return Py_TYPE(descriptor) == &PyMemberDescr_Type ? ((PyMemberDescrObject *)descriptor)->d_member->offset : 0;
    }
    """
    Py_ssize_t fc_slot_offset(object descriptor)


cdef enum watched_kind:
    ENTRY, ITEM, SLOT, ATTRIBUTE, PRESENT, SIZE


cdef struct watched:
    watched_kind kind
    PyObject *owner  # borrowed, as are the others: the Watch's list holds them
    PyObject *key
    PyObject *value
    Py_ssize_t number  # an index, a size, or where a slot lies


cdef class Watch:
    """What must be as it was for a plan to hold: entries of containers, their sizes, attributes."""

    cdef watched *all
    cdef Py_ssize_t count, room
    cdef list held
    cdef readonly list names

    def __cinit__(self):
        self.held, self.names = [], []

    def __dealloc__(self):
        free(self.all)

    def entry(self, container, key, value, str name):
        """container[key] must stay `value`; the container is a dict, or of a class derived from it."""
        if not isinstance(container, dict):
            raise TypeError(f"container must be a dict, got {type(container).__name__}")
        self.add(ENTRY, container, key, value, 0, name)

    def item(self, list container not None, Py_ssize_t index, value, str name):
        """container[index] must stay `value`."""
        self.add(ITEM, container, None, value, index, name)

    def attribute(self, owner, str attribute, value, str name):
        """owner.attribute must stay `value`; where there is none, it counts as None."""
        cdef Py_ssize_t offset = fc_slot_offset(getattr(type(owner), attribute, None))
        self.add(SLOT if offset > 0 else ATTRIBUTE, owner, attribute, value, offset, name)

    def present(self, owner, str attribute, str name):
        """owner.attribute must not be None."""
        self.add(PRESENT, owner, attribute, None, 0, name)

    def size(self, container not None, str name):
        """len(container) must stay what it is."""
        self.add(SIZE, container, None, None, len(container), name)

    cdef int add(self, watched_kind kind, owner, key, value, Py_ssize_t number, str name) except -1:
        cdef watched *grown
        if self.count == self.room:
            grown = <watched *>realloc(self.all, (2 * self.room + 64) * sizeof(watched))
            if grown == NULL:
                raise MemoryError("fastconv: no memory for a plan")
            self.all, self.room = grown, 2 * self.room + 64
        self.held.append((owner, key, value))
        self.names.append(name)
        self.all[self.count] = watched(kind, <PyObject *>owner, <PyObject *>key, <PyObject *>value, number)
        self.count += 1
        return 0

    cdef bint holds(self, watched *w) except -1:
        if w.kind == SIZE:
            return len(<object>w.owner) == w.number
        if w.kind == ITEM:
            return w.number < len(<list>w.owner) and equal_values((<list>w.owner)[w.number], <object>w.value)
        found = getattr(<object>w.owner, <str>w.key, None)
        return found is not None if w.kind == PRESENT else equal_values(found, <object>w.value)

    def changed(self):
        """The name of the first thing that is not what it was, or None."""
        cdef Py_ssize_t i
        cdef watched *w
        cdef PyObject *found
        cdef PyObject *expected_key
        cdef PyObject *dictionary = NULL  # the one that `at` is a place in: entries stand together, in its order
        cdef Py_ssize_t at = 0
        for i in range(self.count):
            w = self.all + i
            if w.kind == SLOT:
                found = (<PyObject **>(<char *>w.owner + w.number))[0]
                if found != w.value and (found == NULL or not equal_values(<object>found, <object>w.value)):
                    return self.names[i]
            elif w.kind == ENTRY:
                if w.owner != dictionary:
                    dictionary, at = w.owner, 0
                if not PyDict_Next(<object>dictionary, &at, &expected_key, &found) or expected_key != w.key:
                    found = PyDict_GetItem(<object>dictionary, <object>w.key)
                if found != w.value and (found == NULL or not equal_values(<object>found, <object>w.value)):
                    return self.names[i]
            elif not self.holds(w):
                return self.names[i]
        return None


cdef struct interval:
    size_t first, last  # addresses, the last one excluded


cdef inline bint meet(interval a, interval b) noexcept:
    return a.first < b.last and b.first < a.last and a.first < a.last and b.first < b.last


cdef struct relocation:
    # argument word `word` is the address of slot number `slot`, plus `offset` bytes
    int64_t *word
    int64_t slot, offset


cdef class Replay:
    """A list of kernel calls over memory of its own, over arrays that it was given, and over slots.

    calls: (kernel, dtype, words) each, as a Recording has them. relocations: (call, word, slot, offset in bytes). Slots are
    the input arrays, of the shapes, strides and dtypes of `inputs`, then new arrays of the (shape, dtype) in `outputs`. keep:
    what must live as long as the plan. written: arrays that it writes besides; an input must not overlap them. versions: lists
    whose first element each replay counts up.
    """

    cdef fc_call *calls
    cdef relocation *moves
    cdef int64_t count, move_count
    cdef int64_t *stamps
    cdef double tick
    cdef cnp.ndarray words
    cdef list starts, keep, inputs, outputs, versions
    cdef interval *written
    cdef Py_ssize_t written_count
    cdef object lock

    def __cinit__(self, list calls, list relocations, list inputs, list outputs, list keep, list written, list versions):
        cdef int64_t i = 0, total = 0
        self.count, self.move_count = len(calls), len(relocations)
        self.calls = <fc_call *>calloc(self.count + 1, sizeof(fc_call))
        self.moves = <relocation *>calloc(self.move_count + 1, sizeof(relocation))
        self.stamps = <int64_t *>calloc(self.count + 1, sizeof(int64_t))
        if self.calls == NULL or self.moves == NULL or self.stamps == NULL:
            raise MemoryError("fastconv: no memory for a recorded step")
        self.words = np.concatenate([words for _, _, words in calls] + [np.zeros(1, np.int64)])
        cdef int64_t *first = <int64_t *>self.words.data
        self.starts = []
        for kernel, dtype, words in calls:
            self.starts.append(total)
            self.calls[i].dtype, self.calls[i].kernel = dtype, <fc_kernel_id><int>KERNELS.index(kernel)
            self.calls[i].args = first + total
            total += len(words)
            i += 1
        i = 0
        for call, word, slot, offset in relocations:
            self.moves[i].word = first + <int64_t>(self.starts[call] + word)
            self.moves[i].slot, self.moves[i].offset = slot, offset
            i += 1
        self.inputs, self.outputs, self.keep = inputs, outputs, keep
        self.versions, self.written_count = versions, len(written)
        self.written = <interval *>calloc(self.written_count + len(inputs) + 1, sizeof(interval))
        if self.written == NULL:
            raise MemoryError("fastconv: no memory for a plan")
        for i in range(self.written_count):
            extent(written[i], &self.written[i].first, &self.written[i].last)
        self.lock = _threading.Lock()

    def __dealloc__(self):
        free(self.calls)
        free(self.moves)
        free(self.stamps)
        free(self.written)

    def accepts(self, list arrays):
        """Whether these arrays can stand for the inputs."""
        cdef cnp.ndarray given, wanted
        cdef Py_ssize_t i, d, other
        cdef interval *own = self.written + self.written_count
        if len(arrays) != len(self.inputs):
            return False
        for i in range(len(self.inputs)):
            given, wanted = arrays[i], self.inputs[i]
            if given.ndim != wanted.ndim or cnp.PyArray_TYPE(given) != cnp.PyArray_TYPE(wanted) \
                    or not cnp.PyArray_ISBEHAVED_RO(given) \
                    or cnp.PyArray_ISWRITEABLE(given) != cnp.PyArray_ISWRITEABLE(wanted):
                return False
            for d in range(given.ndim):
                if given.shape[d] != wanted.shape[d] or given.strides[d] != wanted.strides[d]:
                    return False
            extent(given, &own[i].first, &own[i].last)
            for other in range(self.written_count + i):
                if meet(own[i], self.written[other]):
                    return False
        return True

    def set_number(self, int64_t call, int64_t word, double value):
        """Write a REAL into the arguments of a call."""
        cdef int64_t at = self.starts[call] + word
        (<double *>self.words.data)[at] = value

    def run(self, list arrays):
        """Run the calls on these inputs; returns the outputs. Raises what the kernels raise."""
        cdef cnp.ndarray array
        cdef list slots = list(arrays), made = []
        cdef int64_t i
        cdef int status = 0
        for shape, dtype in self.outputs:
            array = np.empty(shape, dtype)
            made.append(array)
            slots.append(array)
        with self.lock:
            for i in range(self.move_count):
                array = slots[self.moves[i].slot]
                self.moves[i].word[0] = <int64_t>(<size_t>array.data) + self.moves[i].offset
            with nogil:
                status = fc_replay(self.calls, self.count, self.stamps, &self.tick)
        for version in self.versions:
            (<list>version)[0] += 1
        if status == FC_BAD_INDEX:
            raise IndexError("a target or an index is out of bounds")
        if status:
            raise MemoryError("fastconv: no memory for the workspace of a kernel")
        return made

    def nanoseconds(self):
        """The time that each call took in the last replay."""
        return [(self.stamps[i + 1] - self.stamps[i]) * self.tick for i in range(self.count)]
