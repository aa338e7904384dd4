# Replaying recorded calls. C: src/replay.c. fastconv.compiler decides what is in a plan.

import os as _os

from cpython.ref cimport Py_XDECREF
from cpython.pythread cimport (
    NOWAIT_LOCK,
    WAIT_LOCK,
    PyThread_acquire_lock,
    PyThread_allocate_lock,
    PyThread_free_lock,
    PyThread_release_lock,
    PyThread_type_lock,
)

cdef extern from "fastconv.h" nogil:
    ctypedef struct fc_call:
        fc_dtype dtype
        fc_kernel_id kernel
        const void *args
    ctypedef enum fc_varying_kind:
        FC_COUNT
        FC_ADDRESS
        FC_OWN
    ctypedef struct fc_varying:
        fc_varying_kind kind
        int64_t word, each
    ctypedef struct fc_chain:
        int64_t first, count, images, block, own, words
        double work
        int64_t varying_count
        const fc_varying *varying
    ctypedef struct fc_list:
        int64_t count, chain_count
        const fc_call *calls
        const fc_chain *chains
        int64_t *ticks
        double nanoseconds
    int fc_replay(fc_list *list)


cdef struct interval:
    size_t first, last  # addresses, the last one excluded


cdef inline bint meet(interval a, interval b) noexcept:
    return a.first < b.last and b.first < a.last and a.first < a.last and b.first < b.last


cdef struct relocation:
    # argument word `word` is the address of slot number `slot`, plus `offset` bytes
    int64_t *word
    int64_t slot, offset


cdef struct label_place:
    int64_t slot, offset, count, classes, ignored


cdef bint are_classes(const int64_t *label, const label_place *place) noexcept:
    cdef int64_t i
    for i in range(place.count):
        if (label[i] < 0 or label[i] >= place.classes) and label[i] != place.ignored:
            return False
    return True


cdef extern from *:
    """
    static PyObject *fc_form_of(PyArrayObject *x) {
        static _Alignas(64) char nothing[64];
        Py_INCREF(PyArray_DESCR(x));
        return PyArray_NewFromDescr(&PyArray_Type, PyArray_DESCR(x), PyArray_NDIM(x), PyArray_DIMS(x), PyArray_STRIDES(x), nothing,
                                    PyArray_FLAGS(x) & NPY_ARRAY_WRITEABLE, NULL);
    }
    /* lists[i][0] += 1. After the kernels they are all far away: asked for together, not one after the other. */
    static int fc_count_up(PyObject *lists) {
        const Py_ssize_t count = PyList_GET_SIZE(lists);
        for (Py_ssize_t i = 0; i < count; i++) __builtin_prefetch(PyList_GET_ITEM(lists, i));
        for (Py_ssize_t i = 0; i < count; i++) __builtin_prefetch(((PyListObject *)PyList_GET_ITEM(lists, i))->ob_item);
        for (Py_ssize_t i = 0; i < count; i++) __builtin_prefetch(PyList_GET_ITEM(PyList_GET_ITEM(lists, i), 0));
        for (Py_ssize_t i = 0; i < count; i++) {
            PyObject *const list = PyList_GET_ITEM(lists, i);
            const long long number = PyLong_AsLongLong(PyList_GET_ITEM(list, 0));
            if (number == -1 && PyErr_Occurred()) return -1;
            PyObject *const next = PyLong_FromLongLong(number + 1);
            if (!next) return -1;
            PyList_SetItem(list, 0, next);
        }
        return 0;
    }
    """
    cnp.ndarray fc_form_of(cnp.ndarray x)
    int fc_count_up(list lists) except -1


def form_of(cnp.ndarray x not None):
    """An array of the same dtype, shape and strides, without the memory: never to be read."""
    return fc_form_of(x)


cdef int64_t forks = 0


def _count_fork():
    global forks
    forks += 1


_os.register_at_fork(after_in_child=_count_fork)


cdef class Replay:
    """A list of kernel calls over memory of its own, over arrays that it was given, and over slots.

    calls: (kernel, dtype, words) each, as a Recording has them. relocations: (call, word, slot, offset in bytes). Slots are
    the input arrays, of the shapes, strides and dtypes of `inputs`, then new arrays of the shapes and dtypes of `outputs`. keep:
    what must live as long as the plan. written: arrays that it writes besides; an input must not overlap them. versions: lists
    whose first element each replay counts up. labels: (slot, offset in bytes, count, classes, ignored) of int64 labels in an
    input, or with -1 for the slot, at an address: one that is no class is for eager execution to refuse. chains: (first call,
    calls, images, images of a block, own bytes, nanoseconds, varying arguments) in their order: see fc_chain in src/fastconv.h;
    an argument is ("count", "address" or "own", call, word, each), call counted from the chain's first. late: how many of the
    last calls `run` leaves to `run_late`.
    """

    cdef fc_call *calls
    cdef fc_chain *chains
    cdef fc_varying *varying
    cdef fc_list recorded
    cdef relocation *moves
    cdef int64_t count, move_count, late
    cdef int64_t *ticks
    cdef int64_t *slots  # addresses, in a run
    cdef cnp.ndarray words
    cdef list starts, keep, inputs, outputs, versions
    cdef interval *written
    cdef Py_ssize_t written_count, label_count
    cdef label_place *labels
    cdef const char *isa
    cdef PyThread_type_lock lock
    cdef int64_t forks  # of the process, when the lock was made

    def __cinit__(self, list calls, list relocations, list inputs, list outputs, list keep, list written, list versions,
                  list labels, list chains, int64_t late):
        cdef int64_t i = 0, total = 0
        self.count, self.move_count, self.late = len(calls), len(relocations), late
        self.calls = <fc_call *>calloc(self.count + 1, sizeof(fc_call))
        self.moves = <relocation *>calloc(self.move_count + 1, sizeof(relocation))
        self.ticks = <int64_t *>calloc(self.count + 1, sizeof(int64_t))
        self.slots = <int64_t *>calloc(len(inputs) + len(outputs) + 1, sizeof(int64_t))
        if self.calls == NULL or self.moves == NULL or self.ticks == NULL or self.slots == NULL:
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
        self.set_chains(chains, [*self.starts, total])
        self.recorded.calls, self.recorded.ticks = self.calls, self.ticks
        i = 0
        for call, word, slot, offset in relocations:
            self.moves[i].word = first + <int64_t>(self.starts[call] + word)
            self.moves[i].slot, self.moves[i].offset = slot, offset
            i += 1
        self.inputs = [form_of(array) for array in inputs]
        self.outputs = [form_of(array) for array in outputs]
        self.keep = keep
        for version in versions:
            if type(version) is not list or not version:
                raise TypeError(f"a version is a list that begins with a number, got {version!r}")
        self.versions, self.written_count = versions, len(written)
        self.written = <interval *>calloc(self.written_count + len(inputs) + 1, sizeof(interval))
        self.label_count = len(labels)
        self.labels = <label_place *>calloc(self.label_count + 1, sizeof(label_place))
        if self.written == NULL or self.labels == NULL:
            raise MemoryError("fastconv: no memory for a plan")
        for i in range(self.written_count):
            extent(written[i], &self.written[i].first, &self.written[i].last)
        for i in range(self.label_count):
            slot, offset, count, classes, ignored = labels[i]
            self.labels[i] = label_place(slot, offset, count, classes, ignored)
        self.isa, self.lock, self.forks = fc_current_isa(), PyThread_allocate_lock(), forks
        if self.lock == NULL:
            raise MemoryError("fastconv: no memory for a lock")

    cdef int set_chains(self, list chains, list starts) except -1:
        cdef int64_t i = 0, total = 0
        cdef fc_varying *v
        for *_, varying in chains:
            total += len(varying)
        self.chains = <fc_chain *>calloc(len(chains) + 1, sizeof(fc_chain))
        self.varying = v = <fc_varying *>calloc(total + 1, sizeof(fc_varying))
        if self.chains == NULL or self.varying == NULL:
            raise MemoryError("fastconv: no memory for a plan")
        for first, count, images, block, own, work, varying in chains:
            self.chains[i].first, self.chains[i].count = first, count
            self.chains[i].images, self.chains[i].block, self.chains[i].own = images, block, own
            self.chains[i].words, self.chains[i].work = starts[first + count] - starts[first], work
            self.chains[i].varying, self.chains[i].varying_count = v, len(varying)
            for kind, call, word, each in varying:
                v.kind = FC_COUNT if kind == "count" else FC_ADDRESS if kind == "address" else FC_OWN
                v.word, v.each = starts[first + call] - starts[first] + word, each
                v += 1
            i += 1
        self.recorded.chains, self.recorded.chain_count = self.chains, i
        return 0

    def __dealloc__(self):
        free(self.calls)
        free(self.chains)
        free(self.varying)
        free(self.moves)
        free(self.ticks)
        free(self.slots)
        free(self.written)
        free(self.labels)
        if self.lock != NULL:
            PyThread_free_lock(self.lock)

    cpdef bint accepts(self, list arrays) except -1:
        """Whether these arrays can stand for the inputs, and the instruction set is that of the recording."""
        cdef cnp.ndarray given, wanted
        cdef Py_ssize_t i, d, other
        cdef interval *own = self.written + self.written_count
        if len(arrays) != len(self.inputs) or fc_current_isa() != self.isa:
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
        return self.has_good_labels(arrays)

    cdef bint has_good_labels(self, list arrays) except -1:
        cdef Py_ssize_t i
        cdef size_t start
        for i in range(self.label_count):
            start = 0 if self.labels[i].slot < 0 else <size_t>(<cnp.ndarray>arrays[self.labels[i].slot]).data
            if not are_classes(<const int64_t *>(start + <size_t>self.labels[i].offset), &self.labels[i]):
                return False
        return True

    cdef void acquire(self):
        if self.forks != forks:  # who had it, is not in this process
            self.lock, self.forks = PyThread_allocate_lock(), forks
        if not PyThread_acquire_lock(self.lock, NOWAIT_LOCK):
            with nogil:  # who has it, may wait for the GIL
                PyThread_acquire_lock(self.lock, WAIT_LOCK)

    def set_number(self, int64_t call, int64_t word, double value):
        """Write a REAL into the arguments of a call."""
        cdef int64_t at = self.starts[call] + word
        (<double *>self.words.data)[at] = value

    cpdef list run(self, list arrays, list outputs, list late):
        """Run the calls on these inputs; returns the outputs. Raises what the kernels raise.

        late: of each late call the Tensor of what it writes, and its Late: the array is taken out of it before the calls, or, if
        others have it too, computed after them, before Python goes on.

        outputs: None for new ones. Or where they lie already, for the open recording: all calls, the late ones too, run if it
        is still putting them off; other threads may see the outputs, and therefore wait; the changes that the calls make have
        been counted.
        """
        cdef cnp.ndarray array
        cdef list made = [] if outputs is None else outputs, held = []
        cdef int64_t i
        cdef int status = 0
        cdef Late its_late
        if outputs is None:
            for array in self.outputs:
                made.append(fc_new_array(array.ndim, array.shape, cnp.PyArray_TYPE(array)))
        if len(arrays) != len(self.inputs) or len(made) != len(self.outputs):
            raise ValueError(f"the plan has {len(self.inputs)} inputs and {len(self.outputs)} outputs, "
                             f"got {len(arrays)} and {len(made)}")
        for tensor, its_late in late:
            held.append(its_late.take(tensor))
        self.acquire()
        try:
            self.recorded.count = self.count - (self.late if outputs is None else 0)
            i = 0
            for given in (arrays, made):
                for array in <list>given:
                    self.slots[i] = <int64_t><size_t>array.data
                    i += 1
            for i in range(self.move_count):
                self.moves[i].word[0] = self.slots[self.moves[i].slot] + self.moves[i].offset
            if outputs is None:
                with nogil:
                    status = fc_replay(&self.recorded)
            elif fc_is_putting_off():
                fc_forget_put_off()
                status = fc_replay(&self.recorded)
            for tensor, its_late in late:
                if status:
                    its_late.lose(tensor)
                elif its_late.take(tensor) is not None:
                    status = self.run_late(its_late.number)
        finally:
            PyThread_release_lock(self.lock)
        if outputs is None:
            fc_count_up(self.versions)
        if status == FC_BAD_INDEX:
            raise IndexError("a target or an index is out of bounds")
        if status:
            raise MemoryError("fastconv: no memory for the workspace of a kernel")
        return made

    cdef int run_late(self, int64_t number):
        """Run one of the late calls, of what the last `run` has left; without giving others the GIL."""
        cdef fc_call *call = &self.calls[self.count - self.late + number]
        return fc_run(call.dtype, call.kernel, call.args)

    def nanoseconds(self):
        """The time that each call took in the last replay; of a chain, all the time shared out as its first blocks spent it."""
        return [self.ticks[i] * self.recorded.nanoseconds for i in range(self.count)]


cdef extern from *:
    """
    /* Whether nobody has the array but the one that holds this reference: it owns its memory, and there is no other. */
    static int fc_is_alone(PyObject *array) {
        return PyArray_CheckExact(array) && Py_REFCNT(array) == 1 && !((PyArrayObject_fields *)array)->weakreflist &&
               PyArray_CHKFLAGS((PyArrayObject *)array, NPY_ARRAY_OWNDATA);
    }
    /* Moves a reference to where there is none. */
    static void fc_move(PyObject **from, PyObject **to) {
        *to = *from;
        *from = NULL;
    }
    """
    bint fc_is_alone(PyObject *array)
    void fc_move(PyObject **start, PyObject **to)


cdef class Late:
    """What a late call writes: the array in a slot of a Tensor, which a replay may leave without it.

    number: of the late call. The Tensor's class has slots for the array and for this: _array and _late.
    """

    cdef Replay replay
    cdef int64_t number
    cdef void *address
    cdef size_t bytes
    cdef Py_ssize_t array_slot, late_slot
    cdef PyObject *array  # while it is not in its Tensor

    def __cinit__(self, Replay replay not None, int64_t number, tensor):
        cdef cnp.ndarray array = tensor._array
        self.replay, self.number, self.address, self.bytes = replay, number, array.data, array.nbytes
        self.array_slot = slot_offset(type(tensor)._array, "_array")
        self.late_slot = slot_offset(type(tensor)._late, "_late")

    def __dealloc__(self):
        Py_XDECREF(self.array)

    cdef object take(self, tensor):
        """Take the array out of its Tensor, and return None, or the array if anybody else has it too."""
        cdef PyObject **slot = fc_place(<PyObject *>tensor, self.array_slot)
        if slot[0] == NULL or (<cnp.ndarray>slot[0]).data != self.address:  # taken; or another thread has given it another
            return None
        if not fc_is_alone(slot[0]):
            return <object>slot[0]
        fc_set(fc_place(<PyObject *>tensor, self.late_slot), <PyObject *>self)
        fc_move(slot, &self.array)
        return None

    cdef int put_back(self, tensor) except -1:
        """The array into its Tensor again."""
        cdef PyObject **slot = fc_place(<PyObject *>tensor, self.array_slot)
        if slot[0] == NULL and self.array != NULL:
            fc_move(&self.array, slot)
            fc_set(fc_place(<PyObject *>tensor, self.late_slot), <PyObject *>None)
        return 0

    cdef int lose(self, tensor) except -1:
        """After calls that failed half-way, and may have overwritten what the numbers are computed from: zeros."""
        if self.array != NULL:
            memset(self.address, 0, self.bytes)
        return self.put_back(tensor)

    def look(self, tensor):
        """The array, computed, and again in its Tensor."""
        cdef PyObject **slot = fc_place(<PyObject *>tensor, self.array_slot)
        cdef int status = 0
        self.replay.acquire()
        try:
            if self.array != NULL:  # nobody has looked while this thread waited
                status = self.replay.run_late(self.number)
                self.put_back(tensor)
        finally:
            PyThread_release_lock(self.replay.lock)
        check_status(status)
        if slot[0] == NULL:
            raise AttributeError("the Tensor has no array")
        return <object>slot[0]
