"""PyTorch's tutorial with its import lines changed, and the notebook that we made of it."""

import contextlib
import importlib.util
import io
import json
import re
from pathlib import Path

import pytest

import fastconv

DOCS = Path(__file__).resolve().parents[1] / "docs"
NOTEBOOK = DOCS / "tutorial.ipynb"


def run_cell(code, namespace):
    """What the code prints."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(code, "<cell>", "exec"), namespace)
    return printed.getvalue()


# The tutorial -------------------------------------------------------------------------------------

IMPORTS = """
import torch
import torch.nn as nn
import torch.nn.functional as F
"""

NET = """
class Net(nn.Module):

    def __init__(self):
        super(Net, self).__init__()
        self.conv1 = nn.Conv2d(1, 6, 3)
        self.conv2 = nn.Conv2d(6, 16, 3)
        self.fc1 = nn.Linear(16 * 6 * 6, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv1(x)), (2, 2))
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = x.view(-1, self.num_flat_features(x))
        x = F.relu(self.fc1(x))
        x = F.relu(self.fc2(x))
        x = self.fc3(x)
        return x

    def num_flat_features(self, x):
        size = x.size()[1:]
        num_features = 1
        for s in size:
            num_features *= s
        return num_features

net = Net()
print(net)
"""
NET_PRINTED = """Net(
  (conv1): Conv2d(1, 6, kernel_size=(3, 3), stride=(1, 1))
  (conv2): Conv2d(6, 16, kernel_size=(3, 3), stride=(1, 1))
  (fc1): Linear(in_features=576, out_features=120, bias=True)
  (fc2): Linear(in_features=120, out_features=84, bias=True)
  (fc3): Linear(in_features=84, out_features=10, bias=True)
)
"""

SIZES = """
params = list(net.parameters())
print(len(params))
for i in range(0, 10):
    print(params[i].size())
"""
SIZES_PRINTED = """10
fastconv.Size([6, 1, 3, 3])
fastconv.Size([6])
fastconv.Size([16, 6, 3, 3])
fastconv.Size([16])
fastconv.Size([120, 576])
fastconv.Size([120])
fastconv.Size([84, 120])
fastconv.Size([84])
fastconv.Size([10, 84])
fastconv.Size([10])
"""

PARAMETERS = """
print(params[0])
print(params[1])
"""
INPUT = """
input = torch.randn(1, 1, 32, 32)
print(input)
"""
OUTPUT = """
out = net(input)
print(out)
"""
GRADIENTS = """
net.zero_grad()
out.backward(torch.randn(1, 10))
"""
LOSS = """
output = net(input)
target = torch.randn(10)
target = target.view(1, -1)
criterion = nn.MSELoss()

loss = criterion(output, target)
print(loss)
"""
BACKPROPAGATION = """
net.zero_grad()

print('conv1.bias.grad before backward')
print(net.conv1.bias.grad)

loss.backward()

print('conv1.bias.grad after backward')
print(net.conv1.bias.grad)
"""
UPDATE = """
learning_rate = 0.01
for f in net.parameters():
    f.data.sub_(f.grad.data * learning_rate)
"""
OPTIMIZER = """
import torch.optim as optim

optimizer = optim.SGD(net.parameters(), lr=0.01)
"""
TRAINING = """
optimizer.zero_grad()
output = net(input)
loss = criterion(output, target)
loss.backward()
optimizer.step()
"""

NUMBER = r" *-?\d+\.\d{4}(?:e[-+]\d\d)?"


def numbers(count, separator=",\\s*"):
    return r"\[" + separator.join([NUMBER] * count) + r"\]"


def filters(count):
    """A printed (count, 1, 3, 3) tensor: two empty lines between filters."""
    rows = r",\n          ".join([numbers(3, ",")] * 3)
    return r"\[\[\[" + r"\]\],\n\n\n        \[\[".join([rows] * count) + r"\]\]\]"


IMAGE_ROW = r"\[" + ",".join([NUMBER] * 3 + [r"  \.\.\."] + [NUMBER] * 3) + r"\]"
IMAGE = r",\n          ".join([IMAGE_ROW] * 3 + [r"\.\.\."] + [IMAGE_ROW] * 3)
ZEROS = r"\[0\., 0\., 0\., 0\., 0\., 0\.\]"

CELLS = [  # code, and the regular expression that what it prints matches as a whole
    (IMPORTS, ""),
    (NET, re.escape(NET_PRINTED)),
    (SIZES, re.escape(SIZES_PRINTED)),
    (
        PARAMETERS,
        rf"Parameter containing:\ntensor\({filters(6)}, requires_grad=True\)\n"
        rf"Parameter containing:\ntensor\({numbers(6)},\s+requires_grad=True\)\n",
    ),
    (INPUT, rf"tensor\(\[\[\[{IMAGE}\]\]\]\)\n"),
    (OUTPUT, rf"tensor\(\[{numbers(10)}\],\s+grad_fn=<AddmmBackward>\)\n"),
    (GRADIENTS, ""),
    (LOSS, rf"tensor\({NUMBER}, grad_fn=<MseLossBackward>\)\n"),
    (
        BACKPROPAGATION,
        rf"conv1\.bias\.grad before backward\ntensor\({ZEROS}\)\n"
        rf"conv1\.bias\.grad after backward\ntensor\({numbers(6)}\)\n",
    ),
    (UPDATE, ""),
    (OPTIMIZER, ""),
    (TRAINING, ""),
]


def with_our_imports(code):
    code = re.sub(r"^import torch$", "import fastconv as torch", code, flags=re.M)
    return re.sub(r"^import torch\.", "import fastconv.", code, flags=re.M)


@pytest.fixture(params=[0, 1, 2])
def tutorial(request):
    """The names that are left when all cells have run, and what each cell printed."""
    fastconv.manual_seed(request.param)
    namespace = {"__name__": "tutorial"}
    return namespace, [run_cell(with_our_imports(code), namespace) for code, _ in CELLS]


def test_the_tutorial_prints_what_it_should(tutorial):
    _, printed = tutorial
    for (code, pattern), text in zip(CELLS, printed, strict=True):
        assert re.fullmatch(pattern, text), f"{code}\nprinted\n{text}"


def test_the_tutorial_learns(tutorial):
    """Each update of the tutorial, by hand and by the optimizer, makes the loss smaller."""
    namespace, _ = tutorial
    losses = [namespace["loss"].item()]  # from before the last update
    for _ in range(20):
        losses.append(
            namespace["criterion"](namespace["net"](namespace["input"]), namespace["target"]).item()
        )
        run_cell(with_our_imports(TRAINING), namespace)
    assert all(after < before for before, after in zip(losses, losses[1:], strict=False))


def test_the_updates_are_what_the_tutorial_says():
    """Both set each weight to weight - learning rate * gradient."""
    fastconv.manual_seed(0)
    namespace = {"__name__": "tutorial"}
    for code, _ in CELLS[: CELLS.index((UPDATE, ""))]:
        run_cell(with_our_imports(code), namespace)
    parameters = list(namespace["net"].parameters())
    before = [p.detach().clone() for p in parameters]
    wanted = [w - 0.01 * p.grad for w, p in zip(before, parameters, strict=True)]

    def as_wanted():
        pairs = zip(parameters, wanted, strict=True)
        return all(fastconv.allclose(p.detach(), w, rtol=1e-6) for p, w in pairs)

    run_cell(UPDATE, namespace)
    assert as_wanted()
    for parameter, w in zip(parameters, before, strict=True):
        parameter.data.copy_(w)
    assert not as_wanted()
    run_cell(with_our_imports(OPTIMIZER), namespace)
    namespace["optimizer"].step()
    assert as_wanted()


# The notebook -------------------------------------------------------------------------------------


def source_cells():
    """The cells of docs/tutorial.py."""
    spec = importlib.util.spec_from_file_location("build_tutorial", DOCS / "build_tutorial.py")
    builder = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(builder)
    return builder.read_cells(builder.SOURCE.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def notebook():
    return json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]


@pytest.fixture(scope="module")
def code_cells(notebook):
    return [cell for cell in notebook if cell["cell_type"] == "code"]


def is_plot(cell):
    return "plot" in cell["metadata"].get("tags", [])


def printed_by(cell):
    """The text among the outputs that the notebook shows for a cell."""
    return "".join("".join(o["text"]) for o in cell["outputs"] if o["output_type"] == "stream")


def form(text):
    """The text without spaces and with # for each number that has a decimal point."""
    return re.sub(r"-?\d+\.\d*(?:e[-+]\d+)?", "#", re.sub(r"\s", "", text))


def test_the_notebook_is_made_of_its_source(notebook):
    cells = [
        (cell["cell_type"], "".join(cell["source"]), cell["metadata"].get("tags", []))
        for cell in notebook
    ]
    assert cells == source_cells(), "run `make docs`"


def test_the_notebook_is_complete_and_clean(code_cells):
    """Each cell was run, in order; no errors, warnings, addresses or paths; small."""
    assert [cell["execution_count"] for cell in code_cells] == [*range(1, len(code_cells) + 1)]
    for cell in code_cells:
        assert all(o["output_type"] in ("stream", "display_data") for o in cell["outputs"])
        assert all(o.get("name", "stdout") == "stdout" for o in cell["outputs"])
        assert sum("image/png" in o.get("data", {}) for o in cell["outputs"]) == is_plot(cell)
        assert not re.search(r"0x[0-9a-f]{6}|/home/|/tmp/|/usr/", printed_by(cell))
    assert NOTEBOOK.stat().st_size < 500_000


@pytest.fixture
def plots(monkeypatch):
    """Whether figures can be drawn here; they are then drawn and thrown away."""
    try:
        import matplotlib
    except ImportError:
        yield False
        return
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    monkeypatch.setattr(plt, "show", lambda: plt.close("all"))
    with matplotlib.rc_context():
        yield True


def test_the_notebook_is_true(code_cells, plots):
    """Its cells, run again, print what it shows; only numbers with a decimal point may differ."""
    namespace = {"__name__": "notebook"}
    for cell in code_cells:
        if plots or not is_plot(cell):
            printed = run_cell("".join(cell["source"]), namespace)
            assert form(printed) == form(printed_by(cell))
    assert namespace["accuracy"] > 0.97
    shown = re.findall(r"test accuracy ([\d.]+)%", "".join(map(printed_by, code_cells)))
    assert len(shown) == 1 and float(shown[0]) > 97
