# Where arrays lie: from a cache line on, as the widest loads and stores want it; NumPy's own memory puts a large array 16
# bytes past one, so that they all cross lines. Large arrays begin on a page: where a result began a few lines further into its
# page than the input, each load would wait for an earlier store to what looks like the same address. Arrays below
# a kilobyte stay with NumPy, which has a cache of them. Large blocks that are given back are kept for the next array of that size,
# up to 64 MiB of them: a training loop asks for the same sizes again and again, and the C library would return such memory to the
# system each time, and take it back page by page, which takes longer than a convolution.
#
# Two memory handlers of NumPy do it, by the same functions. One is for the arrays that the door makes. The other is in force
# while a recording is open, and notes NumPy's allocations too: what NumPy computed inside of a step is not seen by the door,
# and must not be taken for something that was there before. Nothing noted is given back while the recording is open, so that
# an address means one array; its pages are, so that recording takes no more memory than running. Where a recording puts off its
# calls, an array that NumPy makes lets them run: it may be a copy of what they are to write. Until then large arrays are
# addresses without memory, but for the page of their header.
cdef extern from *:
    """
    #include <pthread.h>
    #include <stdint.h>
    #include <stdlib.h>
    #include <string.h>
    #if defined(__linux__)
    #include <sys/mman.h>
    #endif
    #if defined(__GLIBC__)
    #include <malloc.h>
    #endif
    #include "fastconv.h"

    #define FC_LINE 64
    #define FC_KILOBYTE 1024
    #define FC_PAGE 4096
    #define FC_LARGE (16 * FC_PAGE)
    #define FC_HUGE (4 << 20)           /* from here on NumPy asks for huge pages */
    #define FC_TRACE_DOMAIN 389047      /* of NumPy's arrays, in tracemalloc */

    #if defined(MADV_HUGEPAGE)
    static void fc_advise(void *memory, size_t size, int advice) {
        const size_t first = ((size_t)memory + FC_PAGE - 1) / FC_PAGE * FC_PAGE, last = ((size_t)memory + size) / FC_PAGE * FC_PAGE;
        madvise((void *)first, last - first, advice);
    }
    #endif

    /* What stands before an array; mapped: bytes that the system gave for it alone, or 0. */
    typedef struct fc_header { void *block; size_t size, mapped; } fc_header;

    static size_t fc_room(size_t size) { return sizeof(fc_header) + (size < FC_LARGE ? FC_LINE : FC_PAGE); }
    static void *fc_array_in(void *block, size_t size) {
        if (!block) return NULL;
        const size_t unit = size < FC_LARGE ? FC_LINE : FC_PAGE;
        char *const memory = (char *)(((size_t)block + fc_room(size)) / unit * unit);
        ((fc_header *)memory)[-1] = (fc_header){block, size, 0};
    #if defined(MADV_HUGEPAGE)
        if (size >= FC_HUGE) fc_advise(memory, size, MADV_HUGEPAGE);
    #endif
        return memory;
    }
    #define FC_KEPT       128           /* blocks, */
    #define FC_KEPT_LEAST 8192          /* of so many bytes and more, */
    #define FC_KEPT_BYTES ((size_t)64 << 20) /* and of all together */
    static struct { void *memory[FC_KEPT]; size_t size[FC_KEPT], count, bytes; } fc_kept; /* arrays, the oldest first */
    static pthread_mutex_t fc_keeping = PTHREAD_MUTEX_INITIALIZER;

    static void *fc_drop_kept(size_t i) {
        void *const memory = fc_kept.memory[i];
        fc_kept.bytes -= fc_kept.size[i];
        fc_kept.count--;
        memmove(fc_kept.memory + i, fc_kept.memory + i + 1, (fc_kept.count - i) * sizeof *fc_kept.memory);
        memmove(fc_kept.size + i, fc_kept.size + i + 1, (fc_kept.count - i) * sizeof *fc_kept.size);
        return memory;
    }
    static void fc_give_back(void *memory) {
        const fc_header header = ((fc_header *)memory)[-1];
    #if defined(MADV_HUGEPAGE)
        if (header.mapped) { munmap(header.block, header.mapped); return; }
    #endif
        free(header.block);
    }
    static void fc_give_back_kept(size_t most) {
        while (fc_kept.count && (fc_kept.bytes > most || fc_kept.count == FC_KEPT)) fc_give_back(fc_drop_kept(0));
    }
    /* Without what is kept if there is no more. */
    static void *fc_new_block(size_t bytes, int zeros) {
        void *block = zeros ? calloc(1, bytes) : malloc(bytes);
        if (block) return block;
        pthread_mutex_lock(&fc_keeping);
        fc_give_back_kept(0);
        pthread_mutex_unlock(&fc_keeping);
        return zeros ? calloc(1, bytes) : malloc(bytes);
    }
    static void *fc_malloc(void *context, size_t size) {
        (void)context;
        void *memory = NULL;
        if (size > PY_SSIZE_T_MAX) return NULL;
        if (size >= FC_KEPT_LEAST) {
            pthread_mutex_lock(&fc_keeping);
            for (size_t i = fc_kept.count; i-- > 0 && !memory;)
                if (fc_kept.size[i] == size) memory = fc_drop_kept(i);
            pthread_mutex_unlock(&fc_keeping);
        }
        return memory ? memory : fc_array_in(fc_new_block(size + fc_room(size), 0), size);
    }
    static void *fc_calloc(void *context, size_t count, size_t size) {
        (void)context;
        if (size && count > PY_SSIZE_T_MAX / size) return NULL;
        return fc_array_in(fc_new_block(count * size + fc_room(count * size), 1), count * size);
    }
    static void fc_free(void *context, void *memory, size_t size) {
        (void)context;
        if (!memory) return;
        size = ((fc_header *)memory)[-1].size; /* NumPy says 1 for none */
    #if defined(__SANITIZE_ADDRESS__)
        fc_give_back(memory); /* whose errors it shows */
    #else
        if (size < FC_KEPT_LEAST || size > FC_KEPT_BYTES) { fc_give_back(memory); return; }
        pthread_mutex_lock(&fc_keeping);
        fc_give_back_kept(FC_KEPT_BYTES - size);
        fc_kept.memory[fc_kept.count] = memory, fc_kept.size[fc_kept.count++] = size;
        fc_kept.bytes += size;
        pthread_mutex_unlock(&fc_keeping);
    #endif
    }
    static void *fc_moved(void *memory, void *grown, void (*give_back)(void *, void *, size_t)) {
        if (!memory || !grown) return grown;
        const size_t before = ((fc_header *)memory)[-1].size, after = ((fc_header *)grown)[-1].size;
        memcpy(grown, memory, before < after ? before : after);
        give_back(NULL, memory, before);
        return grown;
    }
    static void *fc_realloc(void *context, void *memory, size_t size) {
        return fc_moved(memory, fc_malloc(context, size), fc_free);
    }
    static PyDataMem_Handler fc_handler = {"fastconv", 1, {NULL, fc_malloc, fc_calloc, fc_realloc, fc_free}};

    typedef struct fc_addresses { size_t *address; size_t count, room; } fc_addresses;
    static fc_addresses fc_noted, fc_dead; /* given out, and given back, while a recording is open */
    static int fc_noting;

    static int fc_add(fc_addresses *list, void *memory) {
        if (list->count == list->room) {
            const size_t room = list->room ? 2 * list->room : 1024;
            size_t *const grown = (size_t *)realloc(list->address, room * sizeof *grown);
            if (!grown) return 0;
            list->address = grown, list->room = room;
        }
        list->address[list->count++] = (size_t)memory;
        return 1;
    }
    static int fc_is_among(const fc_addresses *list, size_t address) {
        for (size_t i = 0; i < list->count; i++)
            if (list->address[i] == address) return 1;
        return 0;
    }
    static int fc_was_noted(size_t address) { return fc_is_among(&fc_noted, address); }
    static int fc_is_dead(size_t address) { return fc_is_among(&fc_dead, address); }

    /* Calls that a recording has put off, and memory given back between them (args NULL), in their order. */
    typedef struct fc_put_off { fc_call call; void *memory; size_t size; } fc_put_off;
    static struct { fc_put_off *list; size_t count, room; int putting_off, status, by_door; } fc_later;

    static int fc_add_later(fc_put_off what) {
        if (fc_later.count == fc_later.room) {
            const size_t room = fc_later.room ? 2 * fc_later.room : 1024;
            fc_put_off *const grown = (fc_put_off *)realloc(fc_later.list, room * sizeof *grown);
            if (!grown) return 0;
            fc_later.list = grown, fc_later.room = room;
        }
        fc_later.list[fc_later.count++] = what;
        return 1;
    }
    static int fc_put_off_call(fc_dtype dtype, fc_kernel_id kernel, const void *args) {
        return fc_add_later((fc_put_off){{dtype, kernel, args}, NULL, 0});
    }
    static void fc_give_back_pages(void *memory, size_t size) {
    #if defined(MADV_HUGEPAGE)
        if (size >= FC_LARGE) fc_advise(memory, size, MADV_DONTNEED); /* not the page of its header */
    #else
        (void)memory, (void)size;
    #endif
    }
    /* An array that may never be written. Huge pages would come with its header. */
    static void *fc_addresses_only(size_t size) {
    #if defined(MADV_HUGEPAGE) && !defined(__SANITIZE_ADDRESS__)
        if (size < FC_LARGE || size > PY_SSIZE_T_MAX - 2 * FC_PAGE) return NULL;
        const size_t bytes = (size + 2 * FC_PAGE - 1) / FC_PAGE * FC_PAGE;
        char *const block = (char *)mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (block == MAP_FAILED) return NULL;
        madvise(block, bytes, MADV_NOHUGEPAGE);
        ((fc_header *)(block + FC_PAGE))[-1] = (fc_header){block, size, bytes};
        return block + FC_PAGE;
    #else
        (void)size;
        return NULL;
    #endif
    }
    /* What is still there, will be written. */
    static void fc_expect_writes(void) {
    #if defined(MADV_HUGEPAGE)
        for (size_t i = 0; i < fc_noted.count; i++) {
            void *const memory = (void *)fc_noted.address[i];
            if (fc_is_dead((size_t)memory)) continue;
            const fc_header header = ((fc_header *)memory)[-1];
            if (header.mapped && header.size >= FC_HUGE) fc_advise(memory, header.size, MADV_HUGEPAGE);
        }
    #endif
    }
    static int fc_is_putting_off(void) { return fc_later.putting_off; }
    /* All of them, up to one that fails; and put off no more. With the GIL: no other thread of Python's sees it half done. */
    static void fc_run_put_off(void) {
        if (fc_later.putting_off) fc_expect_writes();
        fc_later.putting_off = 0;
        for (size_t i = 0; i < fc_later.count && !fc_later.status; i++) {
            const fc_put_off *const next = fc_later.list + i;
            if (next->call.args)
                fc_later.status = fc_run(next->call.dtype, next->call.kernel, next->call.args);
            else
                fc_give_back_pages(next->memory, next->size);
        }
        fc_later.count = 0;
    }
    /* They have run by other means. */
    static void fc_forget_put_off(void) {
        fc_later.count = 0;
        fc_run_put_off();
    }
    static int fc_take_status(void) {
        const int status = fc_later.status;
        fc_later.status = 0;
        return status;
    }

    static void *fc_note(void *memory) {
        if (!fc_later.by_door) fc_run_put_off();
        if (memory && fc_noting && !fc_add(&fc_noted, memory)) { fc_free(NULL, memory, 0); return NULL; }
        return memory;
    }
    static void *fc_noting_malloc(void *context, size_t size) {
        void *const memory = fc_later.putting_off && fc_later.by_door ? fc_addresses_only(size) : NULL;
        return fc_note(memory ? memory : fc_malloc(context, size));
    }
    static void *fc_noting_calloc(void *context, size_t count, size_t size) { return fc_note(fc_calloc(context, count, size)); }
    static void fc_noting_free(void *context, void *memory, size_t size) {
        if (!fc_noting || !fc_was_noted((size_t)memory) || !fc_add(&fc_dead, memory)) { fc_free(context, memory, size); return; }
        if (!fc_later.count || !fc_add_later((fc_put_off){{0}, memory, size})) fc_give_back_pages(memory, size);
    }
    static void *fc_noting_realloc(void *context, void *memory, size_t size) {
        void *const grown = fc_noting_malloc(context, size);
        return fc_moved(memory, grown, fc_noting_free);
    }
    /* An array that the door makes while a recording is open, by the recording's handler. */
    static PyObject *fc_noted_array(int ndim, npy_intp *shape, int type_number) {
        fc_later.by_door = 1;
        PyObject *const array = PyArray_SimpleNew(ndim, shape, type_number);
        fc_later.by_door = 0;
        return array;
    }
    static PyDataMem_Handler fc_noting_handler = {
        "fastconv_recording", 1,
        {NULL, fc_noting_malloc, fc_noting_calloc, fc_noting_realloc, fc_noting_free},
    };

    /* Blocks that are kept: what is recorded has its own memory, and so has a replay. */
    static void fc_give_up_kept(void) {
        pthread_mutex_lock(&fc_keeping);
        fc_give_back_kept(0);
        pthread_mutex_unlock(&fc_keeping);
    #if defined(__GLIBC__)
        malloc_trim(0); /* and what lies free between other blocks */
    #endif
    }
    /* putting_off: whether calls are to be put off. */
    static PyObject *fc_begin_noting(int putting_off) {
        PyObject *const capsule = PyCapsule_New(&fc_noting_handler, "mem_handler", NULL);
        if (!capsule) return NULL;
        PyObject *const before = PyDataMem_SetHandler(capsule);
        Py_DECREF(capsule);
        fc_noted.count = 0;
        fc_noting = 1;
        fc_later.count = 0, fc_later.putting_off = putting_off, fc_later.status = 0;
        fc_give_up_kept();
        return before;
    }
    static void fc_end_noting(void) {
        fc_noting = 0;
        for (size_t i = 0; i < fc_dead.count; i++) fc_give_back((void *)fc_dead.address[i]);
        fc_dead.count = 0;
        fc_give_up_kept();
    }

    /* An array whose numbers are still to be written, in C order. The handler in force, which NumPy would look up for each,
     * is passed by: memory that it did not make is given to the array, as its own, with the handler that frees it. */
    static PyObject *fc_new_array(int ndim, npy_intp *shape, int type_number) {
        static PyObject *capsule;
        PyArray_Descr *const dtype = PyArray_DescrFromType(type_number);
        if (!dtype) return NULL;
        size_t bytes = (size_t)PyDataType_ELSIZE(dtype);
        int too_large = 0;
        for (int d = 0; d < ndim; d++) too_large |= shape[d] < 0 || __builtin_mul_overflow(bytes, (size_t)shape[d], &bytes);
        if (!capsule && !(capsule = PyCapsule_New(&fc_handler, "mem_handler", NULL))) { Py_DECREF(dtype); return NULL; }
        if (too_large || bytes < FC_KILOBYTE || bytes > PY_SSIZE_T_MAX) return PyArray_Empty(ndim, shape, dtype, 0);
        void *const memory = fc_malloc(NULL, bytes);
        if (!memory) { Py_DECREF(dtype); return PyErr_NoMemory(); }
        PyObject *const array = PyArray_NewFromDescr(&PyArray_Type, dtype, ndim, shape, NULL, memory, NPY_ARRAY_CARRAY, NULL);
        if (!array) { fc_free(NULL, memory, bytes); return NULL; }
        PyArray_ENABLEFLAGS((PyArrayObject *)array, NPY_ARRAY_OWNDATA);
        ((PyArrayObject_fields *)array)->mem_handler = Py_NewRef(capsule);
        PyTraceMalloc_Track(FC_TRACE_DOMAIN, (uintptr_t)memory, bytes);
        return array;
    }
    """
    int fc_was_noted(size_t address)
    int fc_is_dead(size_t address)
    int fc_put_off_call(fc_dtype dtype, fc_kernel_id kernel, const void *args)
    int fc_is_putting_off()
    void fc_run_put_off()
    void fc_forget_put_off()
    int fc_take_status()
    cnp.ndarray fc_noted_array(int ndim, cnp.npy_intp *shape, int type_number)
    object fc_begin_noting(bint putting_off)
    void fc_end_noting()
    cnp.ndarray fc_new_array(int ndim, cnp.npy_intp *shape, int type_number)
    object PyDataMem_SetHandler(object handler)
