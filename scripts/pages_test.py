"""What is to be read: the pages, and the width of the notebooks' cells. `scripts/test` runs it."""

import json
import re

import pytest

from conftest import ROOT

PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")), ROOT / "data/README.md"]
NOTEBOOKS = sorted(ROOT.glob("notebooks/*.ipynb"))


def cells(path):
    """The kind of each cell of a notebook, and what is written in it."""
    return [(cell["cell_type"], "".join(cell["source"])) for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]]


@pytest.mark.parametrize("path", [*PAGES, *NOTEBOOKS], ids=lambda path: path.name)
def test_each_link_to_a_file_leads_there(path):
    text = path.read_text(encoding="utf-8") if path.suffix == ".md" else "\n".join(text for _, text in cells(path))
    links = re.findall(r"\]\((?!https?:)([^)#\s]+)\)", text)
    assert [link for link in links if not (path.parent / link).exists()] == []


def test_the_readme_is_a_front_door():
    assert len(PAGES[0].read_text(encoding="utf-8").splitlines()) <= 95
