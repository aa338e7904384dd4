/* What the templates stand on. Included once by each instruction-set file, outside its target region. */
#include "../fastconv.h"
#include "../isa/target.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* NAME(gemm) is gemm_f32 or gemm_f64: each template is compiled once per dtype T. */
#define FC_JOIN_(a, b) a##_##b
#define FC_JOIN(a, b)  FC_JOIN_(a, b)
#define NAME(name)     FC_JOIN(name, SUFFIX)
/* The function of kernel `name`; args points to its name_args. */
#define KERNEL_BODY(name) static int NAME(kernel_##name)(const void *args)

#define INLINE   static inline __attribute__((always_inline))
#define NOINLINE __attribute__((noinline))
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 32")
#endif
/* Keep a vector in its register, as it is: the compiler would load it again for each use, or merge what made it with what
 * uses it. */
#if defined(__x86_64__)
#define IN_REGISTER(v) __asm__("" : "+v"(v))
#else
#define IN_REGISTER(v) ((void)0)
#endif
/* A product that is rounded before it is added: Clang makes it part of a multiply-add where it is used once, not where it is
 * used twice; GCC in all of its uses or in none. Bits must not depend on where else a template uses it. */
#if defined(__clang__)
#define ROUNDED(v) IN_REGISTER(v)
#else
#define ROUNDED(v) ((void)0)
#endif
/* Keep an address as it is: the compiler would make one of its own for each use. */
#define AS_IT_IS(address) __asm__("" : "+r"(address))
#define IVDEP _Pragma("GCC ivdep") /* iterations touch different elements; a result may replace its own operand */

static inline int64_t fc_min(int64_t a, int64_t b) {
    return a < b ? a : b;
}
static inline int64_t fc_max(int64_t a, int64_t b) {
    return a > b ? a : b;
}
static inline int64_t fc_ceil_div(int64_t a, int64_t b) {
    return (a + b - 1) / b;
}
static inline int64_t fc_round_up(int64_t a, int64_t b) {
    return fc_ceil_div(a, b) * b;
}
/* Into how many parts, at most, each of so many tasks is cut: several threads want some eight each, to end together. */
static inline int64_t fc_parts(int64_t tasks, int64_t most) {
    const int64_t threads = fc_get_num_threads();
    return threads == 1 ? 1 : fc_min(most, fc_ceil_div(8 * threads, tasks));
}
