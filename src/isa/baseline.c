/* What every compiler can lower: vectors of 16 bytes (SSE2, NEON, ...). 16 registers hold a tile of 6 x 2,
 * 32 registers (arm64) one of 8 x 2. */
#define ISA          baseline
#define VECTOR_BYTES 16
#if defined(__aarch64__)
#define TILE_ROWS 8
#else
#define TILE_ROWS 6
#endif
#include "../kernels/prelude.h"

#include "../kernels/row.inc"
