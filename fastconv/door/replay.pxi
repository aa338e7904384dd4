# Replaying recorded calls. C: src/replay.c. fastconv.compiler decides what is in a plan.

from cpython.dict cimport PyDict_GetItem, PyDict_Next, PyDict_Size
from cpython.object cimport PyObject
from cpython.pythread cimport (
    NOWAIT_LOCK,
    WAIT_LOCK,
    PyThread_acquire_lock,
    PyThread_allocate_lock,
    PyThread_free_lock,
    PyThread_release_lock,
    PyThread_type_lock,
)
from libc.stdint cimport uint64_t
from libc.stdlib cimport calloc, free, realloc

cdef extern from "Python.h":
    PyObject *PyList_GET_ITEM(object list, Py_ssize_t index)

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
    if isinstance(a, np.generic):
        return a.tobytes() == b.tobytes()
    return type(a) in (int, str, bytes) and a == b


cdef bint all_equal_values(tuple a, tuple b):
    for left, right in zip(a, b):
        if not equal_values(left, right):
            return False
    return True


def same_value(a, b):
    """Whether a recording that met `a` holds for `b`."""
    return equal_values(a, b)


#: What `Watch` sees where there is nothing.
ABSENT = object()


cdef extern from *:
    """
    #include <structmember.h>

    typedef enum { ENTRY, DICTIONARY, ITEM, LIST, SET, CLASS, SLOT, PRESENT, MEMORY } watched_kind;

    typedef struct {
        watched_kind kind;
        PyObject *owner, *key, *value; /* borrowed: the Watch's list holds them; value: NULL where there was nothing */
        Py_ssize_t number;             /* an offset in bytes, an index, or a size */
        uint64_t state;                /* of the dictionary, when it held last */
    } watched;

    /* A number that a dictionary has only until it changes; 0 where Python keeps none. */
    #if PY_VERSION_HEX < 0x030C0000
    #define FC_STATE(dictionary) (((PyDictObject *)(dictionary))->ma_version_tag)
    #else
    #define FC_STATE(dictionary) ((uint64_t)0)
    #endif

    static PyObject *fc_slot(PyObject *owner, Py_ssize_t offset) { return *(PyObject **)((char *)owner + offset); }

    static int fc_same_memory(PyArrayObject *a, PyArrayObject *b) {
        const int n = PyArray_NDIM(a);
        if (PyArray_DATA(a) != PyArray_DATA(b) || n != PyArray_NDIM(b)) return 0;
        for (int d = 0; d < n; d++)
            if (PyArray_DIM(a, d) != PyArray_DIM(b, d) || PyArray_STRIDE(a, d) != PyArray_STRIDE(b, d)) return 0;
        return 1;
    }
    /* Whether a dictionary has these very keys and values, in this order. */
    static int fc_same_entries(PyObject *dictionary, PyObject *keys, PyObject *values, PyObject *any) {
        PyObject *key, *value, *expected;
        Py_ssize_t place = 0, i = 0;
        const Py_ssize_t count = PyList_GET_SIZE(keys);
        if (PyDict_GET_SIZE(dictionary) != count) return 0;
        while (PyDict_Next(dictionary, &place, &key, &value)) {
            if (i == count || key != PyList_GET_ITEM(keys, i)) return 0;
            expected = PyList_GET_ITEM(values, i++);
            if (expected != value && expected != any) return 0;
        }
        return i == count;
    }
    /* Whether what is watched of a dictionary holds: without a look if that has not changed since. */
    static int fc_dictionary_holds(watched *w, PyObject *any) {
        const uint64_t state = FC_STATE(w->owner);
        if (state && state == w->state) return 1;
        const int holds = w->kind == ENTRY ? PyDict_GetItem(w->owner, w->key) == w->value
                                           : fc_same_entries(w->owner, w->key, w->value, any);
        if (holds) w->state = state;
        return holds;
    }
    /* Whether it holds, to judge by the identity of objects; a 0 is to be looked at more closely. */
    static int fc_plainly_holds(watched *w, PyObject *any) {
        switch (w->kind) {
        case SLOT: return fc_slot(w->owner, w->number) == w->value;
        case MEMORY: return fc_same_memory((PyArrayObject *)w->owner, (PyArrayObject *)w->value);
        case ENTRY:
        case DICTIONARY: return fc_dictionary_holds(w, any);
        case ITEM: return w->number < PyList_GET_SIZE(w->owner) && PyList_GET_ITEM(w->owner, w->number) == w->value;
        case LIST:
            if (PyList_GET_SIZE(w->owner) != w->number) return 0;
            for (Py_ssize_t i = 0; i < w->number; i++)
                if (PyList_GET_ITEM(w->owner, i) != PyList_GET_ITEM(w->value, i)) return 0;
            return 1;
        case CLASS:
            if (Py_TYPE(w->owner) != (PyTypeObject *)w->key) return 0;
            if (w->value) {
                PyObject *const found = PyObject_GenericGetDict(w->owner, NULL);
                if (!found) PyErr_Clear();
                Py_XDECREF(found);
                return found == w->value;
            }
            return 1;
        default: return 0;
        }
    }

    /* Where a slot of a Python class lies in its instances, in bytes; -1 for what is no such slot. */
    static Py_ssize_t fc_slot_offset(PyObject *member) {
        if (!Py_IS_TYPE(member, &PyMemberDescr_Type)) return -1;
        return ((PyMemberDescrObject *)member)->d_member->offset;
    }
    static const Py_ssize_t fc_cell_offset = offsetof(PyCellObject, ob_ref);
    static const Py_ssize_t fc_function_offsets[4] = {
        offsetof(PyFunctionObject, func_code), offsetof(PyFunctionObject, func_defaults),
        offsetof(PyFunctionObject, func_kwdefaults), offsetof(PyFunctionObject, func_dict),
    };
    static PyObject *fc_dictionary_of_class(PyObject *cls) {
        PyObject *const found = ((PyTypeObject *)cls)->tp_dict;
        return Py_NewRef(found ? found : Py_None);
    }
    """
    ctypedef enum watched_kind:
        ENTRY, DICTIONARY, ITEM, LIST, SET, CLASS, SLOT, PRESENT, MEMORY
    ctypedef struct watched:
        watched_kind kind
        PyObject *owner
        PyObject *key
        PyObject *value
        Py_ssize_t number
        uint64_t state
    bint fc_plainly_holds(watched *w, PyObject *any)
    Py_ssize_t fc_slot_offset(object member)
    const Py_ssize_t fc_cell_offset
    const Py_ssize_t fc_function_offsets[4]
    PyObject *fc_slot(PyObject *owner, Py_ssize_t offset)
    object fc_dictionary_of_class(object cls)


def dictionary_of_class(cls):
    """The dictionary that vars(cls) shows."""
    return fc_dictionary_of_class(cls)


cdef class Watch:
    """What must be as it was for a plan to hold."""

    cdef watched *all
    cdef Py_ssize_t count, room
    cdef list held
    cdef readonly list names

    def __cinit__(self):
        self.held, self.names = [], []

    def __dealloc__(self):
        free(self.all)

    def __len__(self):
        return self.count

    def entry(self, container, key, str name):
        """container[key], of a dict, must stay what it is, or stay away."""
        self.add(ENTRY, container, key, container.get(key, ABSENT), 0, name)

    def dictionary(self, container, str name, tuple skipped=()):
        """The keys of a dict must stay, in their order, and all values but those of the keys in `skipped`. A name that ends
        with a point is followed by keys, another by [keys]."""
        values = [ABSENT if type(key) is str and key in skipped else value for key, value in container.items()]
        self.add(DICTIONARY, container, list(container), values, len(values), name)

    def item(self, list container not None, Py_ssize_t index, value, str name):
        """container[index] must stay `value`."""
        self.add(ITEM, container, None, value, index, name)

    def items(self, list container not None, str name):
        """The elements must stay."""
        self.add(LIST, container, None, list(container), len(container), name)

    def members(self, container not None, str name):
        """The elements of a set must stay."""
        self.add(SET, container, None, list(container), len(container), name)

    def instance(self, owner, str name):
        """The class must stay, and the dictionary of attributes the same one."""
        dictionary = owner.__dict__ if type(owner).__dictoffset__ else ABSENT
        self.add(CLASS, owner, type(owner), dictionary, 0, name)

    def slot(self, owner, member, value, str name):
        """The slot `member` (what getattr(class, name) gives) of owner must stay `value`, which may be ABSENT."""
        self.add(SLOT, owner, member, value, self.offset(member), name)

    def cell(self, cell, str name):
        """What the cell of a closure holds must stay, or stay away."""
        try:
            value = cell.cell_contents
        except ValueError:
            value = ABSENT
        self.add(SLOT, cell, None, value, fc_cell_offset, name)

    def function(self, function, str name):
        """Code, defaults, and the dictionary of attributes must stay what they are."""
        values = (function.__code__, function.__defaults__, function.__kwdefaults__, function.__dict__)
        for value, offset in zip(values, fc_function_offsets):
            self.add(SLOT, function, None, ABSENT if value is None else value, offset, name)

    def present(self, owner, member, str name):
        """The slot must not become None."""
        self.add(PRESENT, owner, member, None, self.offset(member), name)

    def memory(self, cnp.ndarray array not None, str name):
        """The array must keep its address, shape and strides."""
        self.add(MEMORY, array, None, array.view(), 0, name)

    cdef Py_ssize_t offset(self, member) except -1:
        cdef Py_ssize_t found = fc_slot_offset(member)
        if found < 0:
            raise TypeError(f"{member!r} is not a slot")
        return found

    cdef int add(self, watched_kind kind, owner, key, value, Py_ssize_t number, str name) except -1:
        cdef watched *grown
        cdef PyObject *expected = NULL
        if value is not ABSENT:
            expected = <PyObject *>value
        if self.count == self.room:
            grown = <watched *>realloc(self.all, (2 * self.room + 64) * sizeof(watched))
            if grown == NULL:
                raise MemoryError("fastconv: no memory for a plan")
            self.all, self.room = grown, 2 * self.room + 64
        self.held.append((owner, key, value))
        self.names.append(name)
        self.all[self.count].kind, self.all[self.count].number, self.all[self.count].state = kind, number, 0
        self.all[self.count].owner, self.all[self.count].key = <PyObject *>owner, <PyObject *>key
        self.all[self.count].value = expected
        self.count += 1
        return 0

    cdef bint holds(self, watched *w) except -1:
        """Whether it holds, though not to judge by the identity of objects."""
        if w.kind == SLOT:
            return same(fc_slot(w.owner, w.number), w.value)
        if w.kind == DICTIONARY:
            return PyDict_Size(<object>w.owner) == w.number and first_difference(w) < 0
        if w.kind == ENTRY:
            return same(PyDict_GetItem(<object>w.owner, <object>w.key), w.value)
        if w.kind == ITEM:
            return w.number < len(<list>w.owner) and same(PyList_GET_ITEM(<list>w.owner, w.number), w.value)
        if w.kind == PRESENT:
            return fc_slot(w.owner, w.number) != NULL and <object>fc_slot(w.owner, w.number) is not None
        if w.kind in (LIST, SET):
            return len(<object>w.owner) == w.number and holds_elements(w)
        return False

    def changed(self):
        """The name of the first thing that is not what it was, or None."""
        cdef Py_ssize_t i, at
        for i in range(self.count):
            if fc_plainly_holds(&self.all[i], <PyObject *>ABSENT) or self.holds(&self.all[i]):
                continue
            if self.all[i].kind != DICTIONARY:
                return self.names[i]
            return name_of_entry(self.names[i], <list>self.all[i].key, first_difference(&self.all[i]))
        return None


cdef str name_of_entry(str name, list keys, Py_ssize_t at):
    if not 0 <= at < len(keys):
        return f"the size of {name.rstrip('.')}"
    key = keys[at]
    if name.endswith("."):
        return f"{name}{key}"
    return f"{name}[{key!r}]" if type(key) in (str, int, bool) else f"{name}[a {type(key).__name__}]"


cdef bint same(PyObject *found, PyObject *value) except -1:
    return found == value or (found != NULL and value != NULL and equal_values(<object>found, <object>value))


cdef Py_ssize_t first_difference(watched *w) except -2:
    """The number of the first entry of a dictionary that changed, or -1."""
    cdef PyObject *key
    cdef PyObject *value
    cdef PyObject *expected
    cdef Py_ssize_t place = 0, i = 0
    cdef list keys = <list>w.key, values = <list>w.value
    while PyDict_Next(<object>w.owner, &place, &key, &value):
        if i == w.number or not same(key, PyList_GET_ITEM(keys, i)):
            return i
        expected = PyList_GET_ITEM(values, i)
        if expected != <PyObject *>ABSENT and not same(value, expected):
            return i
        i += 1
    return -1 if i == w.number else i


cdef bint holds_elements(watched *w) except -1:
    cdef Py_ssize_t i
    for i in range(w.number):
        if w.kind == SET:
            if (<list>w.value)[i] not in <object>w.owner:
                return False
        elif not same(PyList_GET_ITEM(<list>w.owner, i), PyList_GET_ITEM(<list>w.value, i)):
            return False
    return True


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


def form_of(x):
    """An array of the same dtype, shape and strides, without the memory: never to be read."""
    return np.lib.stride_tricks.as_strided(np.empty(1, x.dtype), x.shape, x.strides, writeable=x.flags.writeable)


cdef class Replay:
    """A list of kernel calls over memory of its own, over arrays that it was given, and over slots.

    calls: (kernel, dtype, words) each, as a Recording has them. relocations: (call, word, slot, offset in bytes). Slots are
    the input arrays, of the shapes, strides and dtypes of `inputs`, then new arrays of the shapes and dtypes of `outputs`. keep:
    what must live as long as the plan. written: arrays that it writes besides; an input must not overlap them. versions: lists
    whose first element each replay counts up. labels: (slot, offset in bytes, count, classes, ignored) of int64 labels in an
    input, or with -1 for the slot, at an address: one that is no class is for eager execution to refuse. chains: (first call,
    calls, images, images of a block, own bytes, nanoseconds, varying arguments) in their order: see fc_chain in src/fastconv.h;
    an argument is ("count", "address" or "own", call, word, each), call counted from the chain's first.
    """

    cdef fc_call *calls
    cdef fc_chain *chains
    cdef fc_varying *varying
    cdef fc_list recorded
    cdef relocation *moves
    cdef int64_t count, move_count
    cdef int64_t *ticks
    cdef cnp.ndarray words
    cdef list starts, keep, inputs, outputs, versions
    cdef interval *written
    cdef Py_ssize_t written_count, label_count
    cdef label_place *labels
    cdef const char *isa
    cdef PyThread_type_lock lock

    def __cinit__(self, list calls, list relocations, list inputs, list outputs, list keep, list written, list versions,
                  list labels, list chains):
        cdef int64_t i = 0, total = 0
        self.count, self.move_count = len(calls), len(relocations)
        self.calls = <fc_call *>calloc(self.count + 1, sizeof(fc_call))
        self.moves = <relocation *>calloc(self.move_count + 1, sizeof(relocation))
        self.ticks = <int64_t *>calloc(self.count + 1, sizeof(int64_t))
        if self.calls == NULL or self.moves == NULL or self.ticks == NULL:
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
        self.recorded.count, self.recorded.calls, self.recorded.ticks = self.count, self.calls, self.ticks
        i = 0
        for call, word, slot, offset in relocations:
            self.moves[i].word = first + <int64_t>(self.starts[call] + word)
            self.moves[i].slot, self.moves[i].offset = slot, offset
            i += 1
        self.inputs = [form_of(array) for array in inputs]
        self.outputs = [form_of(array) for array in outputs]
        self.keep = keep
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
        self.isa, self.lock = fc_current_isa(), PyThread_allocate_lock()
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
        free(self.written)
        free(self.labels)
        if self.lock != NULL:
            PyThread_free_lock(self.lock)

    def accepts(self, list arrays):
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
        for array in self.outputs:
            made.append(fc_new_array(array.ndim, array.shape, cnp.PyArray_TYPE(array)))
        slots += made
        if not PyThread_acquire_lock(self.lock, NOWAIT_LOCK):
            with nogil:  # who has it, may wait for the GIL
                PyThread_acquire_lock(self.lock, WAIT_LOCK)
        try:
            for i in range(self.move_count):
                array = slots[self.moves[i].slot]
                self.moves[i].word[0] = <int64_t>(<size_t>array.data) + self.moves[i].offset
            with nogil:
                status = fc_replay(&self.recorded)
        finally:
            PyThread_release_lock(self.lock)
        for version in self.versions:
            (<list>version)[0] += 1
        if status == FC_BAD_INDEX:
            raise IndexError("a target or an index is out of bounds")
        if status:
            raise MemoryError("fastconv: no memory for the workspace of a kernel")
        return made

    def nanoseconds(self):
        """The time that each call took in the last replay; of a chain, all the time shared out as its first blocks spent it."""
        return [self.ticks[i] * self.recorded.nanoseconds for i in range(self.count)]
