/* fastconv: the contract between the kernels (C) and the door (fastconv/kernels.pyx).
 *
 * Every kernel is a function `int kernel(const void *args)`, where args points to the struct that
 * kernels.def lists for it. It returns 0, FC_NO_MEMORY or FC_BAD_INDEX. One row holds all kernels for one dtype
 * and one instruction set; picking a row picks both. Shapes and strides are counted in elements.
 * The door has checked every argument: kernels trust shapes, strides and pointers.
 */
#ifndef FASTCONV_H
#define FASTCONV_H

#include <stddef.h>
#include <stdint.h>

#define FC_MAX_DIMS  8 /* axes of a strided operand, after neighbours that form one axis were merged */
#define FC_NO_MEMORY (-1)
#define FC_BAD_INDEX (-2) /* an index that only the kernel looks at */

/* ---- the list: argument structs, identifiers, names ------------------------------------------ */

/* Every field takes whole 8-byte words, so that a list of calls can be stored and replayed. */
#define SIZE(name)         int64_t name;
#define SIZES(name, count) int64_t name[count];
#define REAL(name)         double name;
#define IN(name)           const void *name;
#define OUT(name)          void *name;
#define INOUT(name)        void *name;
#define KERNEL(name, fields)     \
    typedef struct name##_args { \
        fields                   \
    } name##_args;
#include "kernels.def"
#undef KERNEL
#undef SIZE
#undef SIZES
#undef REAL
#undef IN
#undef OUT
#undef INOUT

#define KERNEL(name, fields) FC_##name,
typedef enum fc_kernel_id {
#include "kernels.def"
    FC_KERNEL_COUNT
} fc_kernel_id;
#undef KERNEL

typedef int fc_kernel(const void *args);

extern const char *const fc_kernel_names[FC_KERNEL_COUNT];

/* ---- convolutions ----------------------------------------------------------------------------- */

typedef enum fc_algorithm {
    FC_AUTO,
    FC_CONV_GEMM,
    FC_CONV_WINOGRAD,
    FC_CONV_DIRECT,
    FC_CONV_DEPTHWISE,
    FC_ALGORITHM_COUNT
} fc_algorithm;

/* What w is: as it was given, or what conv2d_prepare made of it. FC_TURNED: filters are the lanes, and Winograd's transform
 * is still to be made. */
typedef enum fc_prepared { FC_GIVEN, FC_READY, FC_TURNED } fc_prepared;

typedef enum fc_pass { FC_FORWARD, FC_BACKWARD_INPUT, FC_BACKWARD_WEIGHT } fc_pass;

/* ---- rows (dispatch.c) ------------------------------------------------------------------------ */

typedef enum fc_dtype { FC_FLOAT32, FC_FLOAT64, FC_DTYPE_COUNT } fc_dtype;

typedef struct fc_row {
    const char *isa;
    fc_kernel *kernel[FC_KERNEL_COUNT];
} fc_row;

/* Rows this processor can run, best first; count gets their number. */
const fc_row (*const *fc_available_rows(int *count))[FC_DTYPE_COUNT];
/* Make the named instruction set current; 0 when it is unknown or cannot run here. */
int fc_select_isa(const char *name);
const char *fc_current_isa(void);
/* Run one kernel of the current row. */
int fc_run(fc_dtype dtype, fc_kernel_id id, const void *args);
/* Of a core's L2 cache; 1 MiB where nobody knows. No bit of a result may depend on it. */
int64_t fc_l2_bytes(void);
/* Whether two multiply-adds of 64 bytes start in a cycle, not one. Which algorithm a convolution takes may depend on it. */
int fc_starts_two(void);

/* ---- recorded calls (replay.c) ------------------------------------------------------------------- */

typedef struct fc_call {
    fc_dtype dtype;
    fc_kernel_id kernel;
    const void *args;
} fc_call;

/* An argument, `word` words after the first of a chain, that is another for each block of images [first, first + n):
 *   FC_COUNT    `each` for each of the n images
 *   FC_ADDRESS  what it is in the list, plus `each` bytes for each of the images before the block
 *   FC_OWN      `each` bytes after the first of the memory that the thread has for the block */
typedef enum fc_varying_kind { FC_COUNT, FC_ADDRESS, FC_OWN } fc_varying_kind;

typedef struct fc_varying {
    fc_varying_kind kind;
    int64_t word, each;
} fc_varying;

/* `count` calls from `first` on that take each of `images` images by itself: all of them run on a block of images, then on
 * the next one. Blocks are what the threads share. own: bytes of what only these calls see, of a block. */
typedef struct fc_chain {
    int64_t first, count, images, block, own;
    int64_t words; /* of the arguments of all its calls, which follow each other */
    double work;   /* nanoseconds, roughly */
    int64_t varying_count;
    const fc_varying *varying;
} fc_chain;

typedef struct fc_list {
    int64_t count, chain_count;
    const fc_call *calls;
    const fc_chain *chains; /* in their order */
    int64_t *ticks;         /* that each call took */
    double nanoseconds;     /* of a tick */
} fc_list;

/* Run the calls in their order, up to the first that fails, whose status is returned. A chain's time is that of all its blocks,
 * given to its calls as the first ones spent it. */
int fc_replay(fc_list *list);

/* ---- threads and scratch memory (parallel.c) ---------------------------------------------------- */

#define FC_MAX_THREADS   256
#define FC_THREAD_BYTES  (5 << 18) /* of workspace that a thread may have to itself: about its L2 cache */
#define FC_PARALLEL_WORK 15000.0   /* nanoseconds of work for each thread below which it does not pay: it may sleep */

typedef int fc_task(int64_t first, int64_t last, void *context);

/* Run task over [0, count), split over at most fc_get_num_threads() threads; `work` is the
 * expected total time in nanoseconds. Returns 0, or the error of a task. Results must not depend
 * on the split. Runs in the calling thread alone when the pool is taken or the work is small. */
int fc_parallel(int64_t count, double work, fc_task *task, void *context);
void fc_set_num_threads(int threads);
int fc_get_num_threads(void);

/* Scratch memory of the calling thread, 64-byte aligned, kept from call to call; NULL when there is none.
 * FC_SCRATCH_CALL belongs to the kernel that was called, FC_SCRATCH_TASK to the task that runs, FC_SCRATCH_PART to a task
 * whose parts, or other tasks that it runs by itself, take that of the task, FC_SCRATCH_CHAIN to the chain whose kernels run. */
enum { FC_SCRATCH_CALL, FC_SCRATCH_TASK, FC_SCRATCH_PART, FC_SCRATCH_CHAIN, FC_SCRATCH_COUNT };
void *fc_scratch(int slot, size_t bytes);

#endif
