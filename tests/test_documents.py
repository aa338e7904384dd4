"""README.md and CONTRIBUTING.md: programs run, names and files exist, commands are there."""

import contextlib
import doctest
import io
import re
from pathlib import Path

import pytest

import fastconv
from fastconv import cli, data, models, nn, optim

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = {
    name: (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "CONTRIBUTING.md")
}
ROOMS = {
    "Tensor": fastconv.Tensor,
    "fastconv": fastconv,
    "nn": nn,
    "nn.functional": nn.functional,
    "optim": optim,
    "data": data,
    "models": models,
}


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.M | re.S)


def form(text):
    """# for each number with a decimal point: the last digits depend on the instruction set."""
    return re.sub(r"\d+\.\d+", "#", text)


def test_programs(tmp_path, monkeypatch):
    """The network, which prints what is shown, and then its saving and loading."""
    monkeypatch.chdir(tmp_path)
    network, saving = blocks("python")
    assert len(network.splitlines()) <= 30
    names = {"__name__": "readme"}
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(network, names)
    assert form(printed.getvalue()) == form(blocks("text")[0])
    exec(saving, names)


def test_conversations():
    options = doctest.NORMALIZE_WHITESPACE
    for text in blocks("pycon"):
        test = doctest.DocTestParser().get_doctest(text, {}, "README.md", "README.md", 0)
        report = io.StringIO()
        result = doctest.DocTestRunner(optionflags=options).run(test, out=report.write)
        assert result.attempted and not result.failed, report.getvalue()


def test_the_training_that_is_shown(capsys):
    """The first epoch and the size of the data; test_cli.py trains to the end."""
    assert cli.main(["train", "--epochs", "1"]) == 0
    count, epoch = capsys.readouterr().out.splitlines()[:2]
    shown = blocks("console")[0].splitlines()
    assert shown[1] == count
    assert form(shown[2]) == form(epoch.replace("1/1", "1/20"))


def rows(heading):
    """The rows of the first table under a heading of README.md."""
    section = README.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return [line.strip("|").split(" | ") for line in section.splitlines() if line.startswith("| `")]


def test_the_names_that_are_listed_exist():
    table = {room.strip(" `"): what for room, what in rows("What there is")}
    assert table.keys() == ROOMS.keys()
    for room, what in table.items():
        names = [name for names in re.findall(r"`([^`]+)`", what) for name in names.split()]
        missing = [n for n in names if n.isidentifier() and not hasattr(ROOMS[room], n)]
        assert names and not missing, f"{room} has no {missing}"


@pytest.mark.parametrize("name", ["ConvTranspose2d"])
def test_what_is_said_to_be_missing_is(name):
    assert not hasattr(nn, name), "README.md says that it is not there yet"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_and_files(document):
    text = DOCUMENTS[document]
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    rooms = "src|fastconv|tests|docs|tools|examples|benchmarks"
    files = re.findall(rf"`((?:{rooms})/[\w./*]*)`", text)
    missing = [path for path in links + files if not list(ROOT.glob(path.rstrip("/")))]
    assert not missing


@pytest.mark.parametrize("document", DOCUMENTS)
def test_make_targets(document):
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.M))
    named = set(re.findall(r"(?:^|`)make ([\w-]+)", DOCUMENTS[document], flags=re.M))
    assert named and named <= targets


@pytest.mark.parametrize(
    "variable",
    ["FASTCONV_NUM_THREADS", "FASTCONV_ISA", "FASTCONV_ALGORITHM", "FASTCONV_SANITIZE"],
)
def test_environment_variables(variable):
    sources = [ROOT / "setup.py", *ROOT.glob("fastconv/door/*.pxi")]
    assert any(variable in path.read_text() for path in sources)
    assert any(variable in text for text in DOCUMENTS.values())


def test_the_results_of_the_readme_are_those_of_the_benchmark(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import readme

    block = readme.shown(README)
    assert "faster" in block.lower(), "python benchmarks/run.py --readme"
    assert block == readme.block((ROOT / "benchmarks/RESULTS.md").read_text())
