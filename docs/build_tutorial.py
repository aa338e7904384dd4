"""Makes tutorial.ipynb of tutorial.py: cells, outputs, figures. `make docs` runs it.

The notebook holds nothing that changes from run to run, such as times or paths.
"""

import hashlib
import json
import os
import re
from pathlib import Path

FOLDER = Path(__file__).parent
SOURCE = FOLDER / "tutorial.py"
NOTEBOOK = FOLDER / "tutorial.ipynb"
TITLE = re.compile(r"^# %%(?: \[(\w+)\])?(?: tags=(\[.*\]))?\n", re.M)


def read_cells(text):
    """[(kind, source, tags)], kind being "code" or "markdown", of what follows the first `# %%`."""
    _, *parts = TITLE.split(text)
    cells = []
    for kind, tags, source in zip(parts[::3], parts[1::3], parts[2::3], strict=True):
        source = source.strip("\n")
        if kind:
            source = "\n".join(
                line.removeprefix("#").removeprefix(" ") for line in source.split("\n")
            )
        cells.append((kind or "code", source, json.loads(tags or "[]")))
    return cells


def build():
    """The executed notebook, as text."""
    import nbclient  # not on top: the tests read the cells without Jupyter
    import nbformat

    notebook = nbformat.v4.new_notebook()
    make = {"code": nbformat.v4.new_code_cell, "markdown": nbformat.v4.new_markdown_cell}
    for kind, source, tags in read_cells(SOURCE.read_text(encoding="utf-8")):
        name = hashlib.sha256(source.encode()).hexdigest()[:8]
        cell = make[kind](source, id=name, metadata={"tags": tags} if tags else {})
        notebook.cells.append(cell)
    # The instruction set that every machine has: the same bits here and there.
    os.environ["FASTCONV_ISA"] = "baseline"
    nbclient.NotebookClient(
        notebook, kernel_name="python3", record_timing=False, coalesce_streams=True, timeout=300
    ).execute()
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    nbformat.validate(notebook)
    return nbformat.writes(notebook) + "\n"


if __name__ == "__main__":
    text = build()
    NOTEBOOK.write_text(text, encoding="utf-8")
    print(f"{NOTEBOOK.name}: {len(text) / 1024:.0f} KB")
