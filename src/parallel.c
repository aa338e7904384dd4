/* A small pool of threads of our own. The caller is worker 0; the others spin for some tens of microseconds after
 * their last work and then sleep. Work is split statically. In a forked child the pool starts anew.
 *
 * One call owns the pool at a time; a call that finds it taken (from another Python thread, or from a task) runs alone. */
#include "fastconv.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define SPIN_NANOSECONDS 30000

#if defined(__x86_64__)
#define PAUSE() __builtin_ia32_pause()
#elif defined(__aarch64__)
#define PAUSE() __asm__ volatile("yield")
#else
#define PAUSE() ((void)0)
#endif

static atomic_int wanted_threads = 1;

static struct {
    /* the work: written by the owner while no worker runs */
    fc_task *task;
    void *context;
    int64_t count;
    /* ticket = generation * 1024 + threads that take part: one word, so that a worker sees both or neither */
    _Atomic uint64_t ticket;
    atomic_int pending, status;
    atomic_int sleeping;
    int workers; /* threads started, besides the caller */
    int hooked;  /* fork handler registered */
    pthread_mutex_t owner, sleep;
    pthread_cond_t wake;
} pool = {.owner = PTHREAD_MUTEX_INITIALIZER, .sleep = PTHREAD_MUTEX_INITIALIZER, .wake = PTHREAD_COND_INITIALIZER};

static _Thread_local int inside_task;

static int64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void run_share(int worker, int threads) {
    const int64_t first = pool.count * worker / threads, last = pool.count * (worker + 1) / threads;
    inside_task = 1;
    const int status = first < last ? pool.task(first, last, pool.context) : 0;
    inside_task = 0;
    if (status) atomic_store(&pool.status, status);
}

/* Waits for a ticket other than `seen`: spins, then sleeps. */
static uint64_t next_ticket(uint64_t seen) {
    const int64_t deadline = now() + SPIN_NANOSECONDS;
    do {
        for (int i = 0; i < 32; i++) {
            const uint64_t ticket = atomic_load_explicit(&pool.ticket, memory_order_acquire);
            if (ticket != seen) return ticket;
            PAUSE();
        }
    } while (now() < deadline);
    pthread_mutex_lock(&pool.sleep);
    atomic_fetch_add(&pool.sleeping, 1);
    uint64_t ticket;
    while ((ticket = atomic_load(&pool.ticket)) == seen) pthread_cond_wait(&pool.wake, &pool.sleep);
    atomic_fetch_sub(&pool.sleeping, 1);
    pthread_mutex_unlock(&pool.sleep);
    return ticket;
}

typedef struct birth {
    int worker;
    uint64_t seen;
} birth;

static void *worker_main(void *argument) {
    const birth mine = *(birth *)argument;
    free(argument);
    for (uint64_t seen = mine.seen;;) {
        seen = next_ticket(seen);
        const int threads = seen % 1024;
        if (mine.worker >= threads) continue;
        run_share(mine.worker, threads);
        atomic_fetch_sub_explicit(&pool.pending, 1, memory_order_release);
    }
    return NULL;
}

/* The child of a fork has the calling thread only. */
static void forget_pool(void) {
    pthread_mutex_init(&pool.owner, NULL);
    pthread_mutex_init(&pool.sleep, NULL);
    pthread_cond_init(&pool.wake, NULL);
    atomic_store(&pool.sleeping, 0);
    atomic_store(&pool.pending, 0);
    pool.workers = 0;
    inside_task = 0;
}

/* Start workers up to threads - 1; returns the number of threads there are, the caller included. */
static int start_workers(int threads) {
    if (!pool.hooked) {
        pthread_atfork(NULL, NULL, forget_pool);
        pool.hooked = 1;
    }
    while (pool.workers < threads - 1) {
        pthread_t thread;
        pthread_attr_t attributes;
        birth *argument = malloc(sizeof *argument);
        if (!argument) break;
        *argument = (birth){pool.workers + 1, atomic_load(&pool.ticket)};
        pthread_attr_init(&attributes);
        pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
        const int failed = pthread_create(&thread, &attributes, worker_main, argument);
        pthread_attr_destroy(&attributes);
        if (failed) {
            free(argument);
            break;
        }
        pool.workers++;
    }
    return pool.workers + 1 < threads ? pool.workers + 1 : threads;
}

int fc_parallel(int64_t count, double work, fc_task *task, void *context) {
    if (count <= 0) return 0;
    int threads = atomic_load_explicit(&wanted_threads, memory_order_relaxed);
    if (threads > count) threads = (int)count;
    if (work < FC_PARALLEL_WORK * threads) threads = (int)(work / FC_PARALLEL_WORK);
    if (threads <= 1 || inside_task || pthread_mutex_trylock(&pool.owner)) return task(0, count, context);
    threads = start_workers(threads);
    pool.task = task;
    pool.context = context;
    pool.count = count;
    atomic_store(&pool.status, 0);
    atomic_store(&pool.pending, threads - 1);
    const uint64_t generation = atomic_load(&pool.ticket) / 1024 + 1;
    atomic_store(&pool.ticket, generation * 1024 + threads);
    if (atomic_load(&pool.sleeping)) {
        pthread_mutex_lock(&pool.sleep);
        pthread_cond_broadcast(&pool.wake);
        pthread_mutex_unlock(&pool.sleep);
    }
    run_share(0, threads);
    for (int spins = 0; atomic_load_explicit(&pool.pending, memory_order_acquire); spins++)
        if (spins < 4096)
            PAUSE();
        else
            sched_yield(); /* fewer processors than threads: let them run */
    const int status = atomic_load(&pool.status);
    pthread_mutex_unlock(&pool.owner);
    return status;
}

void fc_set_num_threads(int threads) {
    atomic_store(&wanted_threads, threads);
}
int fc_get_num_threads(void) {
    return atomic_load(&wanted_threads);
}

/* ---- scratch memory ------------------------------------------------------------------------------ */

typedef struct scratch {
    void *memory[FC_SCRATCH_COUNT];
    size_t bytes[FC_SCRATCH_COUNT];
} scratch;

static pthread_key_t scratch_key;
static pthread_once_t scratch_once = PTHREAD_ONCE_INIT;
static _Thread_local scratch *mine;

static void free_scratch(void *argument) {
    scratch *s = argument;
    for (int slot = 0; slot < FC_SCRATCH_COUNT; slot++) free(s->memory[slot]);
    free(s);
}

static void make_key(void) {
    pthread_key_create(&scratch_key, free_scratch);
}

void *fc_scratch(int slot, size_t bytes) {
    if (!mine) {
        pthread_once(&scratch_once, make_key);
        mine = calloc(1, sizeof *mine);
        if (!mine) return NULL;
        pthread_setspecific(scratch_key, mine);
    }
    if (bytes > mine->bytes[slot] || !mine->memory[slot]) {
        free(mine->memory[slot]);
        mine->bytes[slot] = 0;
        const size_t rounded = (bytes + 4096) / 4096 * 4096;
        mine->memory[slot] = rounded < bytes ? NULL : aligned_alloc(64, rounded);
        if (mine->memory[slot]) mine->bytes[slot] = rounded;
    }
    return mine->memory[slot];
}
