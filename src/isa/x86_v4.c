/* AVX-512: 32 registers of 64 bytes; tile 14 x 2 = 28 accumulators + 2 of b + 1 of a. */
#define ISA          x86_v4
#define VECTOR_BYTES 64
#define TILE_ROWS    14
#include "../kernels/prelude.h"

#if defined(__x86_64__)
TARGET_BEGIN("avx512f,avx512vl,avx512bw,avx512dq,avx2,fma,prefer-vector-width=512")
#include "../kernels/row.inc"
TARGET_END
#endif
