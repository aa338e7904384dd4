# Objects of Python, looked at without Python: what a plan depends on, which must be as it was; objects that are as most are.

from cpython.dict cimport PyDict_GetItem, PyDict_Next, PyDict_Size
from cpython.object cimport PyObject
from libc.stdint cimport uint64_t
from libc.stdlib cimport calloc, free, realloc

cdef extern from "Python.h":
    PyObject *PyList_GET_ITEM(object list, Py_ssize_t index)


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
        uint64_t state;                /* of the dictionary, when it held last; the address of an array */
    } watched;

    /* A number that a dictionary has only until it changes; 0 where Python keeps none. */
    #if PY_VERSION_HEX < 0x030C0000
    #define FC_STATE(dictionary) (((PyDictObject *)(dictionary))->ma_version_tag)
    #else
    #define FC_STATE(dictionary) ((uint64_t)0)
    #endif

    static PyObject **fc_place(PyObject *owner, Py_ssize_t offset) { return (PyObject **)((char *)owner + offset); }
    static PyObject *fc_slot(PyObject *owner, Py_ssize_t offset) { return *fc_place(owner, offset); }
    static void fc_set(PyObject **slot, PyObject *value) { Py_XSETREF(*slot, Py_NewRef(value)); }

    /* Whether there is an array at this address, of the dtype, shape and strides of this one, and as writeable. */
    static int fc_is_array_at(PyObject *object, uint64_t address, PyArrayObject *form) {
        if (!object || !PyArray_Check(object)) return 0;
        PyArrayObject *const a = (PyArrayObject *)object;
        const int n = PyArray_NDIM(a);
        if ((uint64_t)(uintptr_t)PyArray_DATA(a) != address || n != PyArray_NDIM(form)) return 0;
        for (int d = 0; d < n; d++)
            if (PyArray_DIM(a, d) != PyArray_DIM(form, d) || PyArray_STRIDE(a, d) != PyArray_STRIDE(form, d)) return 0;
        return PyArray_DESCR(a) == PyArray_DESCR(form) && PyArray_ISWRITEABLE(a) == PyArray_ISWRITEABLE(form);
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
        case MEMORY: return fc_is_array_at(fc_slot(w->owner, w->number), w->state, (PyArrayObject *)w->value);
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
    PyObject **fc_place(PyObject *owner, Py_ssize_t offset)
    void fc_set(PyObject **slot, PyObject *value)
    object fc_dictionary_of_class(object cls)


def dictionary_of_class(cls):
    """The dictionary that vars(cls) shows."""
    return fc_dictionary_of_class(cls)


cdef Py_ssize_t slot_offset(member, name) except -1:
    """Where a slot lies in the objects of its class, in bytes. member: what getattr(class, ...) gives."""
    cdef Py_ssize_t found = fc_slot_offset(member)
    if found < 0:
        raise TypeError(f"{name} is not a slot")
    return found


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
        self.add(SLOT, owner, member, value, slot_offset(member, member), name)

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
        self.add(PRESENT, owner, member, None, slot_offset(member, member), name)

    def memory(self, owner, member, cnp.ndarray array not None, str name):
        """What is in a slot must stay an array of the address, dtype, shape and strides of `array`, which is kept alive."""
        self.add(MEMORY, owner, array, form_of(array), slot_offset(member, member), name)
        self.all[self.count - 1].state = <uint64_t><size_t>array.data

    def may_be_late(self, owner, Late late not None):
        """The slot of an array may be empty too, while the owner's `_late` is this one; the array is not kept alive."""
        for i in range(self.count):
            if self.all[i].kind == MEMORY and self.all[i].owner == <PyObject *>owner:
                self.all[i].key = <PyObject *>late
                self.held[i] = (owner, late, <object>self.all[i].value)

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
        if w.kind == MEMORY:
            late = getattr(<object>w.owner, "_late", None)
            if late is None or fc_slot(w.owner, w.number) != NULL:
                return False
            if late is <object>w.key:
                return True
            (<Late>late).look(<object>w.owner)
            return fc_plainly_holds(w, <PyObject *>ABSENT)
        if w.kind == PRESENT:
            return fc_slot(w.owner, w.number) != NULL and <object>fc_slot(w.owner, w.number) is not None
        if w.kind in (LIST, SET):
            return len(<object>w.owner) == w.number and holds_elements(w)
        return False

    cpdef changed(self):
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


cdef class Plain:
    """Objects of one Python class, not of one derived from it, that hold given values in their slots: plain ones of it.

    slot: what is read, and what they are made of; given: the values in other slots, by name; fresh: lists in further slots, of
    which each object gets a copy. There is nothing in the slots that are not named.
    """

    cdef type cls
    cdef tuple values, lists
    cdef Py_ssize_t *offsets  # of the slots of the values, then that of `slot`, then those of the lists
    cdef Py_ssize_t count

    def __cinit__(self, type cls not None, str slot not None, dict given not None, dict fresh not None={}):
        self.cls, self.values, self.count = cls, tuple(given.values()), len(given)
        self.lists = tuple(fresh.values())
        self.offsets = <Py_ssize_t *>calloc(self.count + 1 + len(fresh), sizeof(Py_ssize_t))
        if self.offsets == NULL:
            raise MemoryError("fastconv: no memory for the slots of a class")
        for i, name in enumerate((*given, slot, *fresh)):
            self.offsets[i] = slot_offset(getattr(cls, name), f"{cls.__name__}.{name}")

    def __dealloc__(self):
        free(self.offsets)

    cpdef list read(self, tuple objects):
        """What is in the slot of each; None if one is not a plain one."""
        cdef list found = []
        cdef PyObject *value
        cdef Py_ssize_t i
        for one in objects:
            if type(one) is not self.cls:
                return None
            for i in range(self.count):
                if fc_slot(<PyObject *>one, self.offsets[i]) != <PyObject *>self.values[i]:
                    return None
            value = fc_slot(<PyObject *>one, self.offsets[self.count])
            if value == NULL:
                return None
            found.append(<object>value)
        return found

    cpdef object make(self, value):
        """A new plain one of this value."""
        cdef object one = self.cls.__new__(self.cls)
        cdef Py_ssize_t i = 0
        for held in self.values:
            self.set(one, i, held)
            i += 1
        self.set(one, i, value)
        for held in self.lists:
            i += 1
            self.set(one, i, (<list>held)[:])
        return one

    cdef void set(self, one, Py_ssize_t i, value):
        fc_set(fc_place(<PyObject *>one, self.offsets[i]), <PyObject *>value)
