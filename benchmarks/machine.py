"""What a reader must know of the machine and the versions."""

import datetime
import importlib.metadata
import importlib.util
import os
import platform
import re
import statistics
import subprocess
from pathlib import Path

PEERS = ("torch", "jax", "onnxruntime", "openvino", "ncnn", "MNN", "numpy")
BUSY = 0.5  # a load average, before the run, that puts the numbers in doubt


def processor():
    """The model's name."""
    try:
        text = Path("/proc/cpuinfo").read_text()
        return re.search(r"^model name\s*:\s*(.+)$", text, re.M).group(1).strip()
    except (OSError, AttributeError):
        return platform.processor() or platform.machine()


def caches():
    """For example "L1 32K, L2 1024K, L3 32768K", of the first core."""
    found = {}
    for folder in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            level, kind, cache = (
                (folder / f).read_text().strip() for f in ("level", "type", "size")
            )
        except OSError:
            continue
        if kind != "Instruction":
            found[f"L{level}"] = cache
    return ", ".join(f"{level} {cache}" for level, cache in found.items()) or "unknown"


def usable_cores():
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def facts(threads, peak, rates, load, missing):
    """[(name, value)]. rates: the peaks in FLOP/s that were measured beside the rows."""
    import peak as peak_module
    import torch

    import fastconv

    command = [*peak_module.compiler(), "--version"]
    compiler = subprocess.run(command, capture_output=True, text=True).stdout.split("\n")[0]
    low, middle, high = (
        f"{f(rates) / 1e9:.0f}" if rates else "–" for f in (min, statistics.median, max)
    )
    versions = [
        f"{importlib.metadata.metadata(name)['Name']} {importlib.metadata.version(name)}"
        for name in PEERS
        if importlib.util.find_spec(name)
    ]
    found = [
        ("date", datetime.date.today().isoformat()),
        ("processor", processor()),
        ("usable cores; caches", f"{usable_cores()}; {caches()}"),
        ("threads", str(threads)),
        ("load average before the run", f"{load:.2f}{' (BUSY: in doubt)' if load > BUSY else ''}"),
        (
            "peak",
            f"{middle} GFLOP/s ({low} – {high} during the run), {peak.bits}-bit float32 FMA",
        ),
        ("fastconv", f"{fastconv.__version__}, {fastconv.isa()}"),
        ("beside it", ", ".join(versions)),
        ("oneDNN in PyTorch", "on" if torch.backends.mkldnn.enabled else "off"),
        (
            "Python, compiler, system",
            f"{platform.python_version()}, {compiler}, {platform.system()}",
        ),
    ]
    if missing:
        found.append(("left out, because not installed or not working here", ", ".join(missing)))
    return found
