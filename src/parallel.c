/* A small pool of threads of our own. The caller is worker 0; the others spin for a tenth of a millisecond after
 * their last work and then sleep. In a forked child the pool starts anew.
 *
 * Each thread has a share of the work, which it takes in chunks from front to back, and then chunks of the others' shares:
 * nobody waits for a thread that wakes up late, or whose processor is busy with something else. The caller waits only
 * for those that are inside.
 *
 * One call owns the pool at a time; a call that finds it taken (from another Python thread, or from a task) runs alone. */
#include "fastconv.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#if defined(__linux__)
#include <sys/mman.h>
#endif

#define SPIN_NANOSECONDS 100000
#define WAKE_NANOSECONDS 200000 /* of work that pays for waking a sleeper: 20 for the caller, 40 until it runs */
#define CHUNKS           4      /* a chunk is this part of what is left of a share, */
#define MOST_CHUNKS      16     /* but not less than this part of the share */

#define CLOSED (1 << 30)

#if defined(__x86_64__)
#define PAUSE() __builtin_ia32_pause()
#elif defined(__aarch64__)
#define PAUSE() __asm__ volatile("yield")
#else
#define PAUSE() ((void)0)
#endif

static atomic_int wanted_threads = 1;

static struct {
    /* the work: written by the owner while nobody is inside */
    fc_task *task;
    void *context;
    int64_t count;
    int threads; /* that take part, if they come in time */
    struct {
        _Alignas(64) atomic_int_fast64_t taken; /* of a share: written by all */
    } share[FC_MAX_THREADS];
    atomic_int status;
    atomic_int entry;        /* how many workers are inside; CLOSED when there is no work */
    _Atomic uint64_t ticket; /* a number for each piece of work: a new one calls the workers */
    atomic_int sleeping;
    int64_t ended; /* when the last work was done */
    int workers;   /* threads started, besides the caller */
    pthread_t thread[FC_MAX_THREADS];
    enum { AWAKE, ASLEEP, MOVED } state[FC_MAX_THREADS]; /* guarded by `sleep` */
    int hooked;                                          /* fork handler registered */
    pthread_mutex_t owner, sleep;
    pthread_cond_t wake;
} pool = {.entry = CLOSED,
          .owner = PTHREAD_MUTEX_INITIALIZER,
          .sleep = PTHREAD_MUTEX_INITIALIZER,
          .wake = PTHREAD_COND_INITIALIZER};

static _Thread_local int inside_task;

static int64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* The next chunk of a share of `size`, [*begin, *end), or 0 if nothing is left. The last chunks are small: processors are
 * not equally fast, nor always there, and all should be done at the same time. */
static int take_chunk(atomic_int_fast64_t *taken, int64_t size, int64_t *begin, int64_t *end) {
    int64_t first = atomic_load(taken), next;
    do {
        if (first >= size) return 0;
        const int64_t part = (size - first) / CHUNKS, least = size < MOST_CHUNKS ? 1 : size / MOST_CHUNKS;
        next = first + (part > least ? part : least);
        if (next > size) next = size;
    } while (!atomic_compare_exchange_weak(taken, &first, next));
    *begin = first, *end = next;
    return 1;
}

/* Chunks of all shares, from the worker's own on, until nothing is left. */
static void run_chunks(int worker) {
    inside_task = 1;
    for (int i = 0; i < pool.threads; i++) {
        const int owner = (worker + i) % pool.threads;
        const int64_t start = pool.count * owner / pool.threads, size = pool.count * (owner + 1) / pool.threads - start;
        for (int64_t begin, end; take_chunk(&pool.share[owner].taken, size, &begin, &end);) {
            const int status = pool.task(start + begin, start + end, pool.context);
            if (status) atomic_store(&pool.status, status);
        }
    }
    inside_task = 0;
}

/* Linux may wake a thread on the processor of the one that wakes it though others are idle (those of a virtual machine it
 * takes to be busy). There the worker would wait until the caller has done all the work. So sleepers are woken on any other
 * processor that the caller may use; once awake they may go where the caller may. */
#if defined(__linux__)
static cpu_set_t processors; /* of the thread that woke the sleepers, guarded by pool.sleep */

static void keep_sleepers_off_this_processor(void) {
    const int here = sched_getcpu();
    if (here < 0 || sched_getaffinity(0, sizeof processors, &processors)) return;
    cpu_set_t others = processors;
    CPU_CLR(here, &others);
    if (!CPU_COUNT(&others)) return;
    for (int worker = 1; worker <= pool.workers; worker++)
        if (pool.state[worker] != AWAKE && !pthread_setaffinity_np(pool.thread[worker], sizeof others, &others))
            pool.state[worker] = MOVED;
}

static void allow_all_processors(void) {
    pthread_setaffinity_np(pthread_self(), sizeof processors, &processors);
}
#else
static void keep_sleepers_off_this_processor(void) {}
static void allow_all_processors(void) {}
#endif

/* Waits for a ticket other than `seen`: spins, then sleeps. */
static uint64_t next_ticket(int worker, uint64_t seen) {
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
    pool.state[worker] = ASLEEP;
    uint64_t ticket;
    while ((ticket = atomic_load(&pool.ticket)) == seen) pthread_cond_wait(&pool.wake, &pool.sleep);
    if (pool.state[worker] == MOVED) allow_all_processors();
    pool.state[worker] = AWAKE;
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
        seen = next_ticket(mine.worker, seen);
        if (!(atomic_fetch_add(&pool.entry, 1) & CLOSED) && mine.worker < pool.threads) run_chunks(mine.worker);
        atomic_fetch_sub(&pool.entry, 1);
    }
    return NULL;
}

/* The child of a fork has the calling thread only. */
static void forget_pool(void) {
    pthread_mutex_init(&pool.owner, NULL);
    pthread_mutex_init(&pool.sleep, NULL);
    pthread_cond_init(&pool.wake, NULL);
    atomic_store(&pool.sleeping, 0);
    atomic_store(&pool.entry, CLOSED);
    memset(pool.state, 0, sizeof pool.state);
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
        pthread_attr_t attributes;
        birth *argument = malloc(sizeof *argument);
        if (!argument) break;
        *argument = (birth){pool.workers + 1, atomic_load(&pool.ticket)};
        pthread_attr_init(&attributes);
        pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
        const int failed = pthread_create(&pool.thread[pool.workers + 1], &attributes, worker_main, argument);
        pthread_attr_destroy(&attributes);
        if (failed) {
            free(argument);
            break;
        }
        pool.workers++;
    }
    return pool.workers + 1 < threads ? pool.workers + 1 : threads;
}

/* Called by the owner. */
static int run_together(int64_t count, int threads, fc_task *task, void *context) {
    pool.threads = start_workers(threads);
    pool.task = task;
    pool.context = context;
    pool.count = count;
    for (int i = 0; i < pool.threads; i++) atomic_store_explicit(&pool.share[i].taken, 0, memory_order_relaxed);
    atomic_store(&pool.status, 0);
    atomic_fetch_and(&pool.entry, ~CLOSED); /* one who came late is still about to leave: count it on */
    atomic_fetch_add(&pool.ticket, 1);
    if (atomic_load(&pool.sleeping)) {
        pthread_mutex_lock(&pool.sleep);
        keep_sleepers_off_this_processor();
        pthread_cond_broadcast(&pool.wake);
        pthread_mutex_unlock(&pool.sleep);
    }
    run_chunks(0);
    atomic_fetch_or(&pool.entry, CLOSED);
    for (int spins = 0; atomic_load(&pool.entry) != CLOSED; spins++)
        if (spins < 4096)
            PAUSE();
        else
            sched_yield(); /* fewer processors than threads: let them run */
    return atomic_load(&pool.status);
}

int fc_parallel(int64_t count, double work, fc_task *task, void *context) {
    if (count <= 0) return 0;
    int threads = atomic_load_explicit(&wanted_threads, memory_order_relaxed);
    if (threads > count) threads = (int)count;
    if (work < FC_PARALLEL_WORK * threads) threads = (int)(work / FC_PARALLEL_WORK);
    if (threads <= 1 || inside_task || pthread_mutex_trylock(&pool.owner)) return task(0, count, context);
    /* A little work by itself does not pay for waking the sleepers; that which follows on other work does. */
    const int alone = work < WAKE_NANOSECONDS && atomic_load(&pool.sleeping) && now() - pool.ended > SPIN_NANOSECONDS;
    const int status = alone ? task(0, count, context) : run_together(count, threads, task, context);
    pool.ended = now();
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

#define PAGE  4096
#define LARGE (4 << 20) /* bytes from which on huge pages are asked for, as NumPy does */

typedef struct scratch {
    void *memory[FC_SCRATCH_COUNT];
    size_t bytes[FC_SCRATCH_COUNT];
} scratch;

static pthread_key_t scratch_key;
static pthread_once_t scratch_once = PTHREAD_ONCE_INIT;
static _Thread_local scratch *mine;

/* Blocks of their own from the system: one that grows leaves no hole between others. AddressSanitizer watches malloc's. */
#if defined(MADV_HUGEPAGE) && !defined(__SANITIZE_ADDRESS__)
static void *new_block(size_t bytes) {
    void *const memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return memory == MAP_FAILED ? NULL : memory;
}
static void free_block(void *memory, size_t bytes) {
    if (memory) munmap(memory, bytes);
}
#else
static void *new_block(size_t bytes) {
    return aligned_alloc(64, bytes);
}
static void free_block(void *memory, size_t bytes) {
    (void)bytes;
    free(memory);
}
#endif

static void free_scratch(void *argument) {
    scratch *s = argument;
    for (int slot = 0; slot < FC_SCRATCH_COUNT; slot++) free_block(s->memory[slot], s->bytes[slot]);
    free(s);
}

static void make_key(void) {
    pthread_key_create(&scratch_key, free_scratch);
}

/* Packed operands of many megabytes are read over and over. */
static void ask_for_huge_pages(void *memory, size_t bytes) {
#if defined(MADV_HUGEPAGE)
    char *const page = (char *)(((size_t)memory + PAGE - 1) / PAGE * PAGE);
    if (memory && bytes >= LARGE) madvise(page, bytes - PAGE, MADV_HUGEPAGE);
#else
    (void)memory, (void)bytes;
#endif
}

void *fc_scratch(int slot, size_t bytes) {
    if (!mine) {
        pthread_once(&scratch_once, make_key);
        mine = calloc(1, sizeof *mine);
        if (!mine) return NULL;
        pthread_setspecific(scratch_key, mine);
    }
    if (bytes > mine->bytes[slot] || !mine->memory[slot]) {
        free_block(mine->memory[slot], mine->bytes[slot]);
        mine->bytes[slot] = 0;
        const size_t rounded = (bytes + PAGE) / PAGE * PAGE;
        mine->memory[slot] = rounded < bytes ? NULL : new_block(rounded);
        ask_for_huge_pages(mine->memory[slot], rounded);
        if (mine->memory[slot]) mine->bytes[slot] = rounded;
    }
    return mine->memory[slot];
}
