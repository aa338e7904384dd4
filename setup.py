"""Builds the one extension module, fastconv.kernels, from the door and all of src/. The rest is in pyproject.toml.

FASTCONV_SANITIZE=1 builds it under AddressSanitizer and UndefinedBehaviorSanitizer.
"""

import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent
CYTHON_TYPES = {
    "SIZE": "int64_t {}",
    "SIZES": "int64_t {}[{}]",
    "REAL": "double {}",
    "IN": "const void *{}",
    "OUT": "void *{}",
    "INOUT": "void *{}",
}


def read_kernel_list():
    """[(kernel, [(kind, field, length or None)])] from src/kernels.def."""
    text = re.sub(r"/\*.*?\*/", "", (ROOT / "src/kernels.def").read_text(), flags=re.S)
    text = text.replace("\\\n", " ")
    groups = dict(re.findall(r"#define (\w+) (.*)", text))
    kernels = []
    for name, fields in re.findall(r"^KERNEL\((\w+), ((?:[^()]|\([^()]*\))*)\)", text, flags=re.M):
        for group, expansion in reversed(groups.items()):  # a group may hold those before it
            fields = re.sub(rf"\b{group}\b", expansion, fields)
        parsed = re.findall(r"(\w+)\((\w+)(?:, (\w+))?\)", fields)
        kernels.append((name, [(kind, field, length or None) for kind, field, length in parsed]))
    return kernels


def write_declarations(path):
    """Tell Cython what fastconv.h says of each kernel, and the door what fields it has: read from the one list."""
    lines = [
        'cdef extern from "fastconv.h" nogil:',
        "    enum: FC_MAX_DIMS",
        "    ctypedef enum fc_kernel_id:",
    ]
    kernels = read_kernel_list()
    lines += [f"        FC_{name}" for name, _ in kernels] + ["        FC_KERNEL_COUNT"]
    for name, fields in kernels:
        lines.append(f"    ctypedef struct {name}_args:")
        lines += [
            f"        {CYTHON_TYPES[kind].format(field, length)}" for kind, field, length in fields
        ]
    lines.append("cdef dict LISTED_FIELDS = {")
    for name, fields in kernels:
        entries = ", ".join(
            f'("{kind}", "{field}", {length or 1})' for kind, field, length in fields
        )
        lines.append(f'    "{name}": ({entries},),')
    lines.append("}")
    text = "\n".join(lines) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def compiler_flags():
    flags = ["-std=c11", "-O3", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math"]
    flags += ["-fvisibility=hidden", "-Wno-psabi", "-Wno-unknown-pragmas"]
    if os.environ.get("FASTCONV_SANITIZE") == "1":
        return (
            flags
            + ["-O1", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"],
            ["-fsanitize=address,undefined"],
        )
    # Loops begin cache lines: else what one template grows by moves the loops of another, which was
    # up to 14 % slower on a core that another thread shares.
    flags += ["-falign-functions=64", "-falign-loops=64"]
    return [*flags, "-g0"], []  # debugging information would be most of a wheel


class ParallelBuild(build_ext):
    """Compiles the files of the extension side by side: each instruction set takes a minute."""

    def build_extension(self, ext):
        compile_files = self.compiler.compile

        def compile_each(sources, **options):
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                objects = list(pool.map(lambda source: compile_files([source], **options), sources))
            return [name for names in objects for name in names]

        self.compiler.compile = compile_each
        super().build_extension(ext)


write_declarations(ROOT / "build/declarations/kernel_list.pxi")
compile_flags, link_flags = compiler_flags()
kernels = Extension(
    "fastconv.kernels",
    sources=["fastconv/kernels.pyx", *map(str, sorted(Path("src").rglob("*.c")))],
    depends=[
        "src/kernels.def",
        *map(str, [*Path("src").rglob("*.h"), *Path("src").rglob("*.inc")]),
    ],
    include_dirs=["src", numpy.get_include()],
    define_macros=[
        ("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION"),
        ("NPY_TARGET_VERSION", "NPY_1_22_API_VERSION"),  # of PyDataMem_SetHandler
        ("_GNU_SOURCE", None),
    ],
    extra_compile_args=compile_flags,
    extra_link_args=["-pthread", *link_flags],
)
setup(
    cmdclass={"build_ext": ParallelBuild},
    ext_modules=cythonize(
        [kernels],
        include_path=["build/declarations", "fastconv"],
        build_dir="build/cython",
        compiler_directives={"language_level": 3, "cdivision": True, "embedsignature": True},
    ),
)
