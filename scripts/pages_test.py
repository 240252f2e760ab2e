"""What is to be read: the pages and the notebooks. `scripts/test` runs it."""

import itertools
import json
import re
import subprocess

import nbformat
import pytest

import pages
from conftest import ROOT
from exercises import exercises, solved

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


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The pages, of notebooks that have been solved, but not run."""
    folder, solutions = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("solved")
    for path in NOTEBOOKS:
        nbformat.write(solved(nbformat.read(path, as_version=4)), solutions / path.name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pages, "SITE", folder)
        pages.make("https://example.org/files", solutions)
    return folder


def page_of(site, path):
    return (site / pages.page_of(str(path.relative_to(ROOT)))).read_text(encoding="utf-8")


@pytest.mark.parametrize("path", [*PAGES[:-1], *NOTEBOOKS], ids=lambda path: path.name)
def test_a_page_needs_nothing_from_the_network_and_leads_to_what_is_there(site, path):
    page = page_of(site, path)
    assert not re.search(r"<link|<script[^>]+src|@import|url\(", page)
    here = (site / pages.page_of(str(path.relative_to(ROOT)))).parent
    shown = [source for source in re.findall(r'<img[^>]+src="([^"]+)"', page) if not source.startswith("data:")]
    links = [link for link in re.findall(r'<a[^>]+href="([^"#]+)', page) if not link.startswith("https:")]
    assert [each for each in shown + links if not (here / each).is_file()] == []
    anchors = re.findall(r'<a[^>]+href="#([^"]+)"', page)
    assert [anchor for anchor in anchors if f'id="{anchor}"' not in page] == []
    files = re.findall(r'href="https://example.org/files/([^"]+)"', page)
    assert [file for file in files if not (ROOT / file).exists()] == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_has_its_formulas_and_exercises_in_its_page(site, path):
    page, notebook = page_of(site, path), nbformat.read(path, as_version=4)
    texts = [re.sub(r"```.*?```|`[^`]*`", "", cell.source, flags=re.DOTALL) for cell in notebook.cells if cell.cell_type == "markdown"]
    formulas = re.findall(r"\$\$.+?\$\$|\$.+?\$", "\n".join(texts), re.DOTALL)
    assert page.count("<math ") == len(formulas)
    assert page.count('display="block"') - 1 == sum(formula.startswith("$$") for formula in formulas), "and one in the style"
    for tag in ["solved", "unsolved"]:
        assert page.count(f" celltag_{tag}\"") == len(exercises(notebook))
    assert page.count("your code here") == len(exercises(notebook))
    assert ('id="solved"' in page) == bool(exercises(notebook))


def test_the_view_of_attention_is_in_its_page(site):
    page = page_of(site, next(path for path in NOTEBOOKS if path.name.startswith("09_")))
    assert len(re.findall(r"""<div class="mlm-attention" data-attention=["']{""", page)) == 1 and "(() => {" in page


@pytest.mark.parametrize("name", "bench browser lab parity site study test".split())
def test_a_script_asked_for_help_says_all_that_its_first_lines_say(name):
    script = ROOT / "scripts" / name
    comment = itertools.takewhile(lambda line: line.startswith("#"), script.read_text(encoding="utf-8").splitlines()[1:])
    said = subprocess.run([script, "--help"], check=True, capture_output=True, text=True).stdout
    assert said.splitlines() == [line.removeprefix("#").removeprefix(" ") for line in comment]
