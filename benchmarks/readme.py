"""The results that README.md shows: the section "In short" of RESULTS.md, between two comments."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- benchmarks/run.py --readme writes this -->", "<!-- as far as here -->"


def block(results):
    """What stands between the comments, for the text of RESULTS.md."""
    section = results.split("\n## In short\n")[1].split("\n## ")[0].strip()
    return re.sub(r"\]\((?=[\w.-]+\))", "](benchmarks/", section)


def shown(readme):
    return readme.split(BEGIN)[1].split(END)[0].strip()


def write(root=ROOT):
    path = root / "README.md"
    readme, results = path.read_text(), (root / "benchmarks/RESULTS.md").read_text()
    before, after = readme.split(BEGIN)[0], readme.split(END)[1]
    path.write_text(f"{before}{BEGIN}\n\n{block(results)}\n\n{END}{after}")
