/* AVX2 + FMA: 16 registers of 32 bytes; tile 6 x 2 = 12 accumulators + 2 of b + 1 of a. */
#define ISA          x86_v3
#define VECTOR_BYTES 32
#define TILE_ROWS    6
#include "../kernels/prelude.h"

#if defined(__x86_64__)
TARGET_BEGIN("avx2,fma")
#include "../kernels/row.inc"
TARGET_END
#endif
