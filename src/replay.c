/* Replays a recorded list of kernel calls, and stamps the time between them. */
#include "fastconv.h"

#include <time.h>

#if defined(__x86_64__)
#define TICKS() ((int64_t)__builtin_ia32_rdtsc())
#else
#define TICKS() nanoseconds()
#endif

static int64_t nanoseconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

int fc_replay(const fc_call *calls, int64_t count, int64_t *stamps, double *nanoseconds_per_tick) {
    const int64_t start = nanoseconds();
    stamps[0] = TICKS();
    int status = 0;
    for (int64_t i = 0; i < count && !status; i++) {
        status = fc_run(calls[i].dtype, calls[i].kernel, calls[i].args);
        stamps[i + 1] = TICKS();
    }
    const int64_t ticks = TICKS() - stamps[0];
    *nanoseconds_per_tick = ticks > 0 ? (double)(nanoseconds() - start) / ticks : 1;
    return status;
}
