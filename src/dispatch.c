/* Chooses the row of kernels: one table for each instruction set, the best that this processor runs, or a named one. Knows what
 * else kernels ask about the processor. */
#include "fastconv.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#include <string.h>
#include <unistd.h>

#define KERNEL(name, fields) #name,
const char *const fc_kernel_names[FC_KERNEL_COUNT] = {
#include "kernels.def"
};
#undef KERNEL

/* The instruction sets, the best one first, and whether this processor runs them. __builtin_cpu_supports also asks whether the
 * operating system saves the registers. */
typedef const fc_row (*row_pair)[FC_DTYPE_COUNT];
extern const fc_row fc_row_baseline[FC_DTYPE_COUNT];
static int runs_always(void) {
    return 1;
}
#if defined(__x86_64__)
extern const fc_row fc_row_x86_v3[FC_DTYPE_COUNT], fc_row_x86_v4[FC_DTYPE_COUNT];
static int runs_x86_v3(void) {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}
static int runs_x86_v4(void) {
    return runs_x86_v3() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq");
}
#endif
static const struct {
    row_pair rows;
    int (*runs)(void);
} instruction_sets[] = {
#if defined(__x86_64__)
    {&fc_row_x86_v4, runs_x86_v4},
    {&fc_row_x86_v3, runs_x86_v3},
#endif
    {&fc_row_baseline, runs_always},
};
enum { INSTRUCTION_SETS = sizeof instruction_sets / sizeof *instruction_sets };

row_pair const *fc_available_rows(int *count) {
    static row_pair available[INSTRUCTION_SETS];
    int found = 0;
#if defined(__x86_64__)
    __builtin_cpu_init();
#endif
    for (int i = 0; i < INSTRUCTION_SETS; i++)
        if (instruction_sets[i].runs()) available[found++] = instruction_sets[i].rows;
    *count = found;
    return available;
}

static _Atomic(row_pair) current;

int fc_select_isa(const char *name) {
    int count;
    row_pair const *rows = fc_available_rows(&count);
    for (int i = 0; i < count; i++)
        if (!strcmp((*rows[i])[0].isa, name)) {
            current = rows[i];
            return 1;
        }
    return 0;
}

static row_pair current_row(void) {
    int count;
    row_pair chosen = current;
    if (!chosen) current = chosen = fc_available_rows(&count)[0];
    return chosen;
}

const char *fc_current_isa(void) {
    return (*current_row())[0].isa;
}

int fc_run(fc_dtype dtype, fc_kernel_id id, const void *args) {
    return (*current_row())[dtype].kernel[id](args);
}

int64_t fc_l2_bytes(void) {
    static _Atomic(int64_t) bytes;
    if (!bytes) {
        int64_t found = 0;
#if defined(_SC_LEVEL2_CACHE_SIZE)
        found = sysconf(_SC_LEVEL2_CACHE_SIZE);
#endif
        bytes = found > 0 ? found : 1 << 20;
    }
    return bytes;
}

/* Of processors with AVX-512: Intel's, whose servers nearly all do, and AMD's from Zen 5 on (family 1Ah). */
int fc_starts_two(void) {
    static _Atomic(int) known; /* 1: no, 2: yes */
    if (!known) {
        int two = 0;
#if defined(__x86_64__)
        unsigned a, b, c, d;
        __builtin_cpu_init();
        __cpuid(1, a, b, c, d);
        const unsigned family = (a >> 8 & 15) + (a >> 20 & 255);
        two = __builtin_cpu_supports("avx512f") &&
              (__builtin_cpu_is("intel") || (__builtin_cpu_is("amd") && family >= 0x1A));
#endif
        known = 1 + two;
    }
    return known == 2;
}
