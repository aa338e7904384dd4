"""The float32 multiply-add peak of the processor, measured by a C loop of independent FMAs.

The loop is compiled when the benchmark starts, by the system's compiler, into a temporary folder.
Nothing of fastconv takes part, so that a percentage of this peak is a percentage of the machine.
"""

import ctypes
import os
import shlex
import shutil
import subprocess
import sysconfig
import tempfile
import threading

SOURCE = r"""
#define LOOP(NAME, TARGET, BYTES, SUMS)                                                          \
    typedef float NAME##_vector __attribute__((vector_size(BYTES)));                             \
    TARGET float NAME(long turns, float half) {                                                  \
        NAME##_vector sum[SUMS], x = {0}, total = {0};                                           \
        x += half;                                                                               \
        for (int i = 0; i < SUMS; i++) sum[i] = x + (float)i;                                    \
        for (long t = 0; t < turns; t++)                                                         \
            _Pragma("GCC unroll 32") for (int i = 0; i < SUMS; i++) sum[i] = sum[i] * x + x;     \
        for (int i = 0; i < SUMS; i++) total += sum[i];                                          \
        return total[0];                                                                         \
    }                                                                                            \
    const double NAME##_flops = 2.0 * SUMS * (BYTES / 4); /* of one turn */

#if defined(__x86_64__) || defined(__i386__)
LOOP(v512, __attribute__((target("avx512f"))), 64, 24)
LOOP(v256, __attribute__((target("avx2,fma"))), 32, 12)
LOOP(v128, , 16, 12)
int supported(int bits) {
    __builtin_cpu_init();
    if (bits == 512) return __builtin_cpu_supports("avx512f") != 0;
    if (bits == 256) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    return bits == 128;
}
#else
LOOP(v128, , 16, 24)
int supported(int bits) { return bits == 128; }
#endif
"""


def compiler():
    """The command of the system's C compiler, as a list."""
    configured = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "")
    for command in (configured, ["cc"], ["gcc"], ["clang"]):
        if command and shutil.which(command[0]):
            return command[:1]
    raise SystemExit("the benchmark needs a C compiler (cc) for the loop that measures the peak")


def build():
    with tempfile.TemporaryDirectory() as folder:
        source, library = (os.path.join(folder, name) for name in ("peak.c", "peak.so"))
        with open(source, "w") as file:
            file.write(SOURCE)
        flags = ["-O2", "-ffp-contract=fast", "-shared", "-fPIC", "-w"]
        subprocess.run([*compiler(), *flags, "-o", library, source], check=True)
        return ctypes.CDLL(library)


class Peak:
    """The peak of `threads` threads: a call runs the loop once, `flops` operations altogether.

    turns: of the loop, of each thread.
    """

    def __init__(self, threads=1, turns=None):
        library = build()
        self.bits = next(b for b in (512, 256, 128) if library.supported(b))
        self.threads = threads
        self.loop = getattr(library, f"v{self.bits}")
        self.loop.argtypes, self.loop.restype = (ctypes.c_long, ctypes.c_float), ctypes.c_float
        # starting a thread must not count
        self.turns = turns or (80_000 if threads == 1 else 800_000)
        per_turn = ctypes.c_double.in_dll(library, f"v{self.bits}_flops").value
        self.flops = threads * self.turns * per_turn

    def __call__(self):
        others = [
            threading.Thread(target=self.loop, args=(self.turns, 0.5))
            for _ in range(self.threads - 1)
        ]
        for thread in others:
            thread.start()
        self.loop(self.turns, 0.5)
        for thread in others:
            thread.join()
