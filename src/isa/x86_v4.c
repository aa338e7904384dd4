/* AVX-512: 32 registers of 64 bytes; tile 14 x 2 = 28 accumulators + 2 of b + 1 of a. */
#define ISA          x86_v4
#define VECTOR_BYTES 64
#define TILE_ROWS    14
#include "../kernels/prelude.h"

#if defined(__clang__) /* which prefers no width, unless told to, and would ignore a target that it does not know */
#define FEATURES "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma"
#else
#define FEATURES "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma,prefer-vector-width=512"
#endif

#if defined(__x86_64__)
TARGET_BEGIN(FEATURES)
#include "../kernels/row.inc"
TARGET_END
#endif
