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


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_each_figure_has_a_caption_beside_it(path):
    """In the text after its cell, or where code comes after, in the text before; in the order of their numbers."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    figures = 0
    for nth, cell in enumerate(cells):
        drawn = any("text/html" in out.get("data", {}) for out in cell.get("outputs", []))
        if not drawn or "exercise" in cell["metadata"].get("tags", []):
            continue
        figures += 1
        beside = [cells[at] for at in (nth - 1, nth + 1) if at < len(cells) and cells[at]["cell_type"] == "markdown"]
        assert f"**Figure {figures}.** " in "\n".join("".join(each["source"]) for each in beside), "".join(cell["source"])
    captions = re.findall(r"\*\*Figure (\d+)\.\*\*", text_of(path))
    assert captions == [str(number) for number in range(1, figures + 1)]
