"""What is to be read: the pages and the notebooks. `scripts/test` runs it."""

import csv
import itertools
import re
import statistics
import subprocess

import nbformat
import pytest

import pages
from conftest import ROOT
from exercises import exercises, is_exercise, solved

PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")), ROOT / "data/README.md"]
NOTEBOOKS = sorted(ROOT.glob("notebooks/*.ipynb"))


def text_of(path):
    """What is written in a page, or in the cells of a notebook."""
    if path.suffix == ".md":
        return path.read_text(encoding="utf-8")
    return "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells)


@pytest.mark.parametrize("path", [*PAGES, *NOTEBOOKS], ids=lambda path: path.name)
def test_each_link_to_a_file_leads_there(path):
    links = re.findall(r"\]\((?!https?:)([^)#\s]+)\)", text_of(path))
    assert [link for link in links if not (path.parent / link).exists()] == []


def test_the_readme_is_a_front_door():
    assert len(text_of(PAGES[0]).splitlines()) <= 95


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_each_figure_has_a_caption_beside_it(path):
    """In the text after its cell, or where code comes after, in the text before; in the order of their numbers."""
    cells = nbformat.read(path, as_version=4).cells
    figures = 0
    for nth, cell in enumerate(cells):
        drawn = any("text/html" in out.get("data", {}) for out in cell.get("outputs", []))
        if not drawn or is_exercise(cell):
            continue
        figures += 1
        beside = [cells[at] for at in (nth - 1, nth + 1) if at < len(cells) and cells[at].cell_type == "markdown"]
        assert f"**Figure {figures}.** " in "\n".join(each.source for each in beside), cell.source
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


STUDY = list(csv.DictReader((ROOT / "data/study.csv").read_text(encoding="utf-8").splitlines()))


def of(experiment, text, setting, column="loss"):
    """What the study has in this column, of each seed."""
    chosen = [row for row in STUDY if [row["experiment"], row["text"], row["setting"]] == [experiment, text, setting]]
    assert len(chosen) == 3
    return [float(row[column]) for row in chosen]


def test_what_the_page_on_the_study_says_is_what_it_has_measured():
    rows = {
        "*counting: how frequent a token is*": ("recipe", "unigram"),
        "*counting: and its two neighbours*": ("recipe", "neighbours"),
        "*the best guess from two neighbours*": ("recipe", "best_neighbours"),
        "the recipe": ("recipe", "loss"),
        "but initial weights that are noise": ("initial weights: noise", "loss"),
        "but 15 % masks": ("masks 15 %", "loss"),
        "noise of 0.05, 40 %, 5e-3, batches of 32": ("noise of 0.05 and masks 40 %", "loss"),
        "noise of 0.02, 15 %, 3e-3, batches of 32": ("noise of 0.02 and masks 15 %", "loss"),
        "*the smallest loss that there is*": ("recipe", "floor"),
    }
    texts, said = ["jargon", "devil", "faq", "stories"], []
    for line in text_of(ROOT / "docs/study.md").splitlines():
        name, *cells = [cell.strip() for cell in line.strip("|").split("|")]
        if name in rows:
            said += [(cell, "ablation", text, *rows[name]) for cell, text in zip(cells, texts, strict=True)]
        elif name.endswith(",000"):
            sentences = f"{name.replace(',', '')} sentences"
            settings = [(sentences, "neighbours"), (sentences, "loss"), (f"{sentences} and a larger model", "loss")]
            said += [(cell, "text", "gcide", *setting) for cell, setting in zip(cells, settings, strict=True)]
    said = [(cell, of(*where)) for cell, *where in said if cell not in ("", "unknown")]
    assert len(said) == 30 + 13
    for cell, losses in said:
        numbers = re.findall(r"[\d.]+", cell)
        for number, loss in zip(numbers, [statistics.mean(losses), min(losses), max(losses)][: len(numbers)], strict=True):
            assert abs(float(number) - loss) <= 0.5001 * 10 ** -len(number.split(".")[1]), (cell, losses)

    def told_apart(text, setting):
        recipe, other = of("ablation", text, "recipe"), of("ablation", text, setting)
        return min(other) > max(recipe) or max(other) < min(recipe)

    alike = ["batches of 8", "masks 50 %", "weight decay 0.01", "beta2 0.999", "2 heads", "warm-up 30 %"]
    assert [(text, one) for text in texts for one in alike if told_apart(text, one)] == [("faq", "warm-up 30 %")]
    assert [text for text in texts if told_apart(text, "masks 15 %")] == texts
    assert [text for text in texts if told_apart(text, "initial weights: noise")] == texts[:3]


def test_what_lab_10_says_of_the_study_holds_in_its_table():
    def costs(text, setting):
        return statistics.mean(of("ablation", text, setting)) - statistics.mean(of("ablation", text, "recipe"))

    settings = {row["setting"] for row in STUDY if row["experiment"] == "ablation"}
    texts = {"jargon": (3.47, 3.15), "devil": (3.97, 3.38), "faq": (4.63, 3.14)}
    for text, (recipe, neighbours) in texts.items():
        for setting in ["masks 15 %", "initial weights: noise"]:
            assert min(of("ablation", text, setting)) > max(of("ablation", text, "recipe")) and costs(text, setting) > 0.5
        assert min(of("ablation", text, "whole words")) > max(of("ablation", text, "recipe")) and costs(text, "whole words") > 0.2
        assert 0 < costs(text, "batches of 32") < 0.3
        stands = zip(of("ablation", text, "noise of 0.02 and masks 15 %"), of("ablation", text, "recipe", "unigram"), strict=True)
        assert all(abs(loss - unigram - (0.2 if text == "faq" else 0.0)) < 0.1 for loss, unigram in stands)
        assert round(statistics.mean(of("ablation", text, "recipe")), 2) == recipe
        assert round(statistics.mean(of("ablation", text, "recipe", "neighbours")), 2) == neighbours
        for setting in settings:
            assert min(of("ablation", text, setting)) > max(of("ablation", text, setting, "neighbours")), "counting wins"
    both = ["batches of 32", "initializer range 0.02"]
    assert [round(costs(text, setting), 2) for text in ("jargon", "faq") for setting in both] == [0.06, 0.06, 0.24, 0.70]
    assert all(min(of("ablation", "jargon", setting)) < max(of("ablation", "jargon", "recipe")) for setting in both), "overlap"
    assert of("ablation", "stories", "whole words") == of("ablation", "stories", "recipe")
    assert [round(costs("stories", setting), 2) for setting in ["masks 15 %", "noise of 0.02 and masks 15 %"]] == [0.09, 0.19]
    left = statistics.mean(of("ablation", "stories", "recipe")) - statistics.mean(of("ablation", "stories", "recipe", "floor"))
    assert round(left, 2) == 0.08

    at_15, at_40 = (sorted(of(*those)) for those in [("questions", "stories", "masks 15 %"), ("epochs", "stories", "5 epochs")])
    assert [round(loss, 2) for loss in (at_15[0], at_15[-1], at_40[0], at_40[-1])] == [0.53, 0.57, 0.61, 0.64]
    loss = lambda size, column="loss": statistics.mean(of("text", "gcide", size, column))
    assert abs(loss("48000 sentences") - loss("48000 sentences", "neighbours")) < 0.01, "it has caught up"
    for size, model_wins in [(3000, False), (6000, True), (12000, True)]:
        name = f"{size} sentences"
        assert (loss(f"{name} and a larger model") < loss(name, "neighbours")) == model_wins
    gained = [loss("3000 sentences", column) - loss("48000 sentences", column) for column in ("loss", "neighbours")]
    assert [round(nats, 2) for nats in gained] == [0.84, 0.46]
    closer = [loss(f"{size} sentences") - loss(f"{size} sentences", "neighbours") for size in (3000, 6000, 12000, 24000, 48000)]
    assert closer == sorted(closer, reverse=True)
