"""The house has one staircase: every import and every #include goes down it.

cli, models, summary -> nn, optim, data, io -> nn.functional, ops -> autograd -> kernels -> src
"""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "fastconv"
MODULES = sorted(PACKAGE.rglob("*.py"))
DOOR = [PACKAGE / "kernels.pyx", *sorted(PACKAGE.glob("door/*.pxi"))]
SOURCES = sorted(p for p in (ROOT / "src").rglob("*") if p.suffix in (".c", ".h", ".inc", ".def"))

# The longest prefix of a module's name counts. A module imports from its own floor or below.
FLOORS = {
    "fastconv.kernels": 0,
    "fastconv.printing": 0,
    "fastconv.missing": 0,
    "fastconv.autograd": 1,
    "fastconv.ops": 2,
    "fastconv.creation": 2,
    "fastconv.random": 2,
    "fastconv.nn.functional": 2,
    "fastconv.nn": 3,
    "fastconv.optim": 3,
    "fastconv.data": 3,
    "fastconv.io": 3,
    "fastconv.utils": 3,
    "fastconv.compiler": 4,
    "fastconv.models": 4,
    "fastconv.summary": 4,
    "fastconv.cli": 5,
    "fastconv": 5,
    "fastconv.__main__": 5,
}


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_every_package_is_in_the_wheel():
    listed = re.search(r"^packages = \[(.*)\]$", (ROOT / "pyproject.toml").read_text(), re.M)[1]
    packages = {module_name(path) for path in MODULES if path.name == "__init__.py"}
    assert set(re.findall(r'"(.*?)"', listed)) == packages


def floor(name):
    while name not in FLOORS:
        name = name.rpartition(".")[0]
    return FLOORS[name]


def is_module(name):
    path = ROOT.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").exists() or name == "fastconv.kernels"


def imported(path):
    """(line, module) for each import of a fastconv module in a file, wherever it stands."""
    name = module_name(path)
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package.rsplit(".", node.level - 1)[0] if node.level else ""
            base = ".".join(part for part in (base, node.module) if part)
            found = [
                f"{base}.{a.name}" if is_module(f"{base}.{a.name}") else base for a in node.names
            ]
        else:
            continue
        for target in found:
            yield node.lineno, target


def upward_imports(path):
    name = module_name(path)
    for line, target in imported(path):
        if target.split(".")[0] == "fastconv" and floor(target) > floor(name):
            yield f"{path.name}:{line}: {name} imports {target}, which is above it"


def test_every_module_has_a_floor():
    """A module directly in the package would otherwise count as the top of the house."""
    for path in MODULES:
        name = module_name(path)
        assert name in FLOORS or name.count(".") > 1, f"{name}: give it a floor in FLOORS"


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_imports_go_down(path):
    assert not list(upward_imports(path))


def test_an_upward_import_is_seen(monkeypatch, tmp_path):
    """The test above can fail: with each way to write an import, also inside a function."""
    monkeypatch.setattr("test_structure.ROOT", tmp_path)
    (tmp_path / "fastconv/nn").mkdir(parents=True)
    for module in ("ops", "autograd", "nn/functional", "nn/__init__"):
        (tmp_path / f"fastconv/{module}.py").touch()
    path = tmp_path / "fastconv/autograd.py"
    for text in (
        "import fastconv.ops",
        "from fastconv import ops",
        "from fastconv.ops import add",
        "from . import ops",
        "from .nn import functional",
        "from .nn.functional import relu",
        "def f():\n    from fastconv.nn import functional",
    ):
        path.write_text(text)
        assert len(list(upward_imports(path))) == 1, text
    path.write_text("from fastconv import kernels\nimport numpy\nfrom .kernels import gemm")
    assert not list(upward_imports(path))


def test_the_tape_knows_no_op():
    allowed = {"fastconv.kernels", "fastconv.missing", "fastconv.printing"}
    found = {t for _, t in imported(PACKAGE / "autograd.py") if t.startswith("fastconv")}
    assert found <= allowed


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_only_the_door_touches_c(path):
    for line, target in imported(path):
        root = target.split(".")[0]
        assert root not in ("ctypes", "cffi", "_ctypes", "Cython", "torch"), f"{path}:{line}"


# C -----------------------------------------------------------------------------------------------


def test_the_door_is_the_only_extension():
    cython = {p for suffix in ("pyx", "pxi", "pxd") for p in PACKAGE.rglob(f"*.{suffix}")}
    assert {p for p in cython if p.name != "kernel_list.pxi"} == set(DOOR)
    assert not [p for p in SOURCES if "Python.h" in p.read_text()], "src knows no Python"


def test_the_door_stands_on_src_alone():
    lines = "\n".join(path.read_text() for path in DOOR)
    imports = re.findall(r"^\s*(?:from\s+([\w.]+)\s+c?import|c?import\s+([\w.]+))", lines, re.M)
    roots = {(a or b).split(".")[0] for a, b in imports}
    assert "fastconv" not in roots and "" not in roots, roots
    headers = re.findall(r"""cdef extern from\s+['"]([^'"]+)['"]\s+\w""", lines)
    assert all(Path(header).name == "fastconv.h" for header in headers), headers


def includes(path):
    return re.findall(r'^\s*#\s*include\s+"([^"]+)"', path.read_text(), re.M)


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_includes_go_down(path):
    """kernels.def <- fastconv.h <- templates <- isa/*.c; dispatch and parallel know no template."""
    room = {"isa": "isa", "kernels": "kernels"}.get(path.parent.name, "src")
    for include in includes(path):
        target = (path.parent / include).resolve()
        assert target.exists(), f"{path}: {include}"
        seen = str(target.relative_to(ROOT / "src"))
        allowed = {
            "src": r"fastconv\.h|kernels\.def",
            "kernels": r"fastconv\.h|kernels\.def|kernels/\w+\.(inc|h)|isa/target\.h",
            "isa": r"kernels/(prelude\.h|row\.inc)",
        }[room]
        assert re.fullmatch(allowed, seen), f"{path.relative_to(ROOT)} includes {seen}"


@pytest.mark.parametrize("path", [p for p in SOURCES if p.suffix == ".inc"], ids=lambda p: p.name)
def test_templates_do_not_know_their_instruction_set(path):
    text = re.sub(r"/\*.*?\*/", "", path.read_text(), flags=re.S)
    found = re.findall(r"__AVX\w*|__SSE\w*|__ARM_NEON|_mm\d*_\w+|immintrin|arm_neon", text)
    assert not found


# NumPy beside the door ----------------------------------------------------------------------------

# What may be asked of NumPy outside the door: types, conversion, views, empty arrays, files.
HARMLESS = re.compile(
    "ndarray|dtype|generic|number|floating|integer|inexact|bool_?|u?int(8|16|32|64|p)|float(16|32|64)|"
    "finfo|iinfo|issubdtype|isscalar|can_cast|result_type|promote_types|typing|exceptions|"
    "array|asarray|ascontiguousarray|frombuffer|from_dlpack|longdouble|"
    "(empty|zeros|ones|full)(_like)?|arange|"
    "broadcast_(to|shapes|arrays)|(may_)?share(s)?_memory|newaxis|ndim|shape|reshape|ravel|squeeze|"
    "transpose|moveaxis|swapaxes|expand_dims|load|save|savez|errstate|printoptions"
)
COMPUTES = re.compile(
    "sum|mean|prod|max|min|arg(max|min|sort)|dot|std|var|cumsum|cumprod|clip|round|trace|all|any|"
    "sort|fill|astype|choose|compress|repeat|take|put"
)
BESIDE_THE_DOOR = [
    p
    for p in MODULES
    if module_name(p).startswith(("fastconv.ops", "fastconv.nn", "fastconv.optim", "fastconv.auto"))
]


def is_array(node):
    """An expression such as `x._array` or `x._array[0]`, of which we know that it is an ndarray."""
    while isinstance(node, ast.Subscript):
        node = node.value
    return isinstance(node, ast.Attribute) and node.attr == "_array"


def numpy_arithmetic(path):
    tree = ast.parse(path.read_text())
    aliases = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
        if alias.name == "numpy"
    }
    for node in ast.walk(tree):
        where = f"{path.name}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "numpy":
            yield from (f"{where}: {a.name}" for a in node.names if not HARMLESS.fullmatch(a.name))
        elif isinstance(node, ast.Attribute):
            root = node.value
            if (
                isinstance(root, ast.Name)
                and root.id in aliases
                and not HARMLESS.fullmatch(node.attr)
            ):
                yield f"{where}: np.{node.attr}"
            if is_array(root) and COMPUTES.fullmatch(node.attr):
                yield f"{where}: ._array.{node.attr}"
        elif (
            isinstance(node, ast.BinOp)
            and (is_array(node.left) or is_array(node.right))
            or isinstance(node, ast.UnaryOp)
            and is_array(node.operand)
            or isinstance(node, ast.AugAssign)
            and is_array(node.target)
        ):
            yield f"{where}: arithmetic on ._array"


@pytest.mark.parametrize("path", BESIDE_THE_DOOR, ids=module_name)
def test_nothing_is_computed_beside_the_door(path):
    assert not list(numpy_arithmetic(path))


def test_arithmetic_beside_the_door_is_seen(tmp_path):
    path = tmp_path / "ops.py"
    for text in (
        "import numpy as np\nnp.exp(x)",
        "import numpy\nnumpy.add(x, y)",
        "from numpy import matmul",
        "from numpy.linalg import norm",
        "x._array + 1",
        "-x._array",
        "2 * x._array[0]",
        "x._array *= 2",
        "x._array.sum()",
    ):
        path.write_text(text)
        assert list(numpy_arithmetic(path)), text
    path.write_text("import numpy as np\nnp.asarray(x, np.float32).reshape(2)\nx._array.reshape(3)")
    assert not list(numpy_arithmetic(path))
