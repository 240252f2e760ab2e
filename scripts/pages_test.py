"""What is to be read: the pages and the notebooks. `scripts/test` runs it."""

import json
import re

import pytest

from conftest import ROOT

PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")), ROOT / "data/README.md"]
NOTEBOOKS = sorted(ROOT.glob("notebooks/*.ipynb"))


def text_of(path):
    """What is written in a page, or in the cells of a notebook."""
    text = path.read_text(encoding="utf-8")
    return text if path.suffix == ".md" else "\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"])


@pytest.mark.parametrize("path", [*PAGES, *NOTEBOOKS], ids=lambda path: path.name)
def test_each_link_to_a_file_leads_there(path):
    links = re.findall(r"\]\((?!https?:)([^)#\s]+)\)", text_of(path))
    assert [link for link in links if not (path.parent / link).exists()] == []


def test_the_readme_is_a_front_door():
    assert len(text_of(PAGES[0]).splitlines()) <= 95
