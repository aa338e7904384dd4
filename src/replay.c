/* Replays a recorded list of kernel calls, and measures the time of each.
 *
 * A chain of them runs block of images by block: what one call writes is in the L2 cache when the next one reads it, and the
 * threads meet once. A task runs whole kernels, in its thread alone (fc_parallel), on a copy of their arguments. */
#include "fastconv.h"

#include <string.h>
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

typedef struct running {
    const fc_call *calls;
    const fc_chain *chain;
    int64_t *ticks;
} running;

/* Task: blocks [first, last) of images. */
static int chain_task(int64_t first, int64_t last, void *context) {
    const running *const r = context;
    const fc_chain *const chain = r->chain;
    const int64_t *const words = r->calls[0].args;
    char *const own = fc_scratch(FC_SCRATCH_CHAIN, chain->own + chain->words * sizeof(int64_t));
    if (!own) return FC_NO_MEMORY;
    int64_t *const args = (int64_t *)(own + chain->own);
    memcpy(args, words, chain->words * sizeof(int64_t));
    for (int64_t block = first; block < last; block++) {
        const int64_t before = block * chain->block, rest = chain->images - before;
        const int64_t images = rest < chain->block ? rest : chain->block;
        for (const fc_varying *v = chain->varying, *end = v + chain->varying_count; v < end; v++)
            args[v->word] = v->kind == FC_COUNT     ? images * v->each
                            : v->kind == FC_ADDRESS ? words[v->word] + before * v->each
                                                    : (int64_t)(intptr_t)(own + v->each);
        int64_t start = TICKS();
        for (int64_t i = 0; i < chain->count; i++) {
            const fc_call *const call = r->calls + i;
            const int status = fc_run(call->dtype, call->kernel, args + ((const int64_t *)call->args - words));
            if (status) return status;
            const int64_t now = TICKS();
            if (first == 0) r->ticks[i] += now - start;
            start = now;
        }
    }
    return 0;
}

static int run_chain(const fc_chain *chain, const fc_call *calls, int64_t *ticks) {
    running r = {calls, chain, ticks};
    const int64_t start = TICKS(), blocks = (chain->images + chain->block - 1) / chain->block;
    for (int64_t i = 0; i < chain->count; i++) ticks[i] = 0;
    const int status = fc_parallel(blocks, chain->work, chain_task, &r);
    double inside = 1;
    for (int64_t i = 0; i < chain->count; i++) inside += (double)ticks[i];
    const double scale = (double)(TICKS() - start) / inside;
    for (int64_t i = 0; i < chain->count; i++) ticks[i] = (int64_t)((double)ticks[i] * scale);
    return status;
}

int fc_replay(fc_list *list) {
    const fc_chain *chain = list->chains, *const end = chain + list->chain_count;
    const int64_t nanoseconds_before = nanoseconds(), ticks_before = TICKS();
    int64_t before = ticks_before;
    int status = 0;
    for (int64_t i = 0; i < list->count && !status;) {
        if (chain < end && chain->first == i) {
            status = run_chain(chain, list->calls + i, list->ticks + i);
            i += chain++->count;
            before = TICKS();
            continue;
        }
        const fc_call *const call = list->calls + i;
        status = fc_run(call->dtype, call->kernel, call->args);
        const int64_t now = TICKS();
        list->ticks[i++] = now - before;
        before = now;
    }
    const int64_t ticks = TICKS() - ticks_before;
    list->nanoseconds = ticks > 0 ? (double)(nanoseconds() - nanoseconds_before) / ticks : 1;
    return status;
}
