# Threads, instruction sets, and the list of kernels.

import os as _os

cdef extern from "fastconv.h" nogil:
    const int FC_MAX_THREADS
    void fc_set_num_threads(int threads)
    int fc_get_num_threads()
    int fc_select_isa(const char *name)
    const char *fc_current_isa()

cdef extern from *:
    """
    static const char *fc_row_name(int index) {
        int count;
        const fc_row (*const *rows)[FC_DTYPE_COUNT] = fc_available_rows(&count);
        return index < count ? (*rows[index])[0].isa : NULL;
    }
    """
    const char *fc_row_name(int index)


#: The names of all kernels, in the order of src/kernels.def.
KERNELS = tuple([fc_kernel_names[<int>i].decode() for i in range(<int>FC_KERNEL_COUNT)])


def available_isas():
    """The instruction sets that this processor can run, best first, for example ('x86_v4', 'x86_v3', 'baseline')."""
    names = []
    while fc_row_name(len(names)) != NULL:
        names.append(fc_row_name(len(names)).decode())
    return tuple(names)


def isa():
    """The name of the instruction set in use. The environment variable FASTCONV_ISA chooses another at import."""
    return fc_current_isa().decode()


def set_isa(name):
    """Use the named instruction set from now on, in all threads; ValueError if it is not in available_isas()."""
    settle()
    if not isinstance(name, str) or not fc_select_isa(name.encode()):
        raise ValueError(f"instruction set must be one of {', '.join(available_isas())}, got {name!r}")


def set_num_threads(threads):
    """Compute with at most this many threads (1 to 256). Results do not depend on it, to the last bit."""
    if isinstance(threads, bool) or not hasattr(threads, "__index__"):
        raise TypeError(f"number of threads must be an int, got {type(threads).__name__}")
    if not 1 <= threads <= FC_MAX_THREADS:
        raise ValueError(f"number of threads must be from 1 to {FC_MAX_THREADS}, got {threads}")
    settle()
    fc_set_num_threads(threads)


def get_num_threads():
    """The number of threads in use. It starts as FASTCONV_NUM_THREADS, or OMP_NUM_THREADS, or the processors that
    this process may use (its affinity mask and its control group's quota)."""
    return fc_get_num_threads()


def _usable_processors():
    count = len(_os.sched_getaffinity(0)) if hasattr(_os, "sched_getaffinity") else _os.cpu_count() or 1
    for path in ("/sys/fs/cgroup/cpu.max", "/sys/fs/cgroup/cpu/cpu.cfs_quota_us"):
        try:
            with open(path) as file:
                words = file.read().split()
            if len(words) == 1:
                with open("/sys/fs/cgroup/cpu/cpu.cfs_period_us") as file:
                    words += file.read().split()
            quota, period = int(words[0]), int(words[1])
        except (OSError, ValueError, IndexError):  # no such group, or no quota ("max")
            continue
        if quota > 0 and period > 0:
            count = smaller(count, -(-quota // period))
    return smaller(count, FC_MAX_THREADS)


def _start():
    chosen = _os.environ.get("FASTCONV_ISA")
    if chosen:
        try:
            set_isa(chosen)
        except ValueError as error:
            raise ImportError(f"FASTCONV_ISA: {error}") from None
    threads = _os.environ.get("FASTCONV_NUM_THREADS")
    if threads:
        if not threads.strip().isdecimal() or not 1 <= int(threads) <= FC_MAX_THREADS:
            raise ImportError(f"FASTCONV_NUM_THREADS must be a number from 1 to {FC_MAX_THREADS}, got {threads!r}")
        set_num_threads(int(threads))
        return
    shared = _os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    wanted = int(shared) if shared.isdecimal() and int(shared) > 0 else _usable_processors()
    set_num_threads(wanted if wanted <= FC_MAX_THREADS else FC_MAX_THREADS)


_start()
