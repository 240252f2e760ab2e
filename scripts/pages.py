"""Makes pages of the README, docs/ and the notebooks: `scripts/site` calls it."""

import argparse
import copy
import functools
import html
import pathlib
import posixpath
import re
import shutil
from typing import Any

import jinja2
import nbformat
from latex2mathml.converter import convert
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbformat import NotebookNode
from pygments.formatters import HtmlFormatter

from exercises import exercises, is_exercise

ROOT = pathlib.Path(__file__).resolve().parent.parent
SOLVED = ROOT / "target/notebooks/solved"
SITE = ROOT / "target/site"
TEMPLATE = ROOT / "scripts/page.html.j2"


def page_of(path: str) -> str | None:
    """Where the page of a file is, both from the root; none if it has none."""
    if path == "README.md":
        return "index.html"
    if re.fullmatch(r"docs/\w+\.md|notebooks/\w+\.ipynb", path):
        return posixpath.splitext(path)[0] + ".html"
    return None


class Renderer(IPythonRenderer):
    """Of Markdown: formulas as MathML, which needs no script, and links to what is in the site."""

    def __init__(self, path: str, repository: str | None) -> None:
        super().__init__(escape=False)
        self.path = path  # of the file, from the root
        self.repository = repository

    def block_math(self, body: str) -> str:
        return convert(body, display="block")

    def inline_math(self, body: str) -> str:
        return convert(body)

    def link(self, text: str, url: str, title: str | None = None) -> str:
        if re.match(r"https?:|#", url):
            return super().link(text, url, title)
        file, _, anchor = url.partition("#")
        target = posixpath.normpath(posixpath.join(posixpath.dirname(self.path), file))
        page = page_of(target)
        if page:
            here = posixpath.dirname(page_of(self.path) or "")
            return super().link(text, posixpath.relpath(page, here or ".") + (f"#{anchor}" if anchor else ""), title)
        return super().link(text, f"{self.repository}/{target}", title) if self.repository else text

    def render(self, source: str) -> str:
        return MarkdownWithMath(renderer=self).render(source)


class Exporter(HTMLExporter):
    """Of notebooks, without the page around the cells."""

    def __init__(self, renderer: Renderer) -> None:
        super().__init__(template_name="basic", exclude_input_prompt=True, exclude_output_prompt=True)
        self.renderer = renderer

    @jinja2.pass_context
    def markdown2html(self, context: Any, source: str) -> str:
        return self.renderer.render(source)


def with_both(notebook: NotebookNode, solved: NotebookNode) -> NotebookNode:
    """A notebook whose exercises are in it twice, tagged `unsolved` and `solved`."""
    both = copy.deepcopy(notebook)
    both.cells = []
    gaps = {exercise.at for exercise in exercises(notebook)}
    for at, (cell, other) in enumerate(zip(notebook.cells, solved.cells, strict=True)):
        if at not in gaps:
            both.cells.append(cell)
            continue
        for tag, version in [("unsolved", cell), ("solved", other)]:
            version = copy.deepcopy(version)
            version.id = f"{cell.id}-{tag}"
            version.metadata.tags = [*version.metadata.tags, tag]
            both.cells.append(version)
    return both


def contents(body: str) -> list[tuple[str, str]]:
    """The sections of a page: their anchors and titles."""
    sections = re.findall(r'<h2 id="([^"]+)">(.*?)<a class="anchor-link"', body, re.DOTALL)
    return [(html.unescape(anchor), html.unescape(re.sub(r"<[^>]+>", "", title))) for anchor, title in sections]


@functools.cache
def template() -> jinja2.Template:
    """What stands around the body of each page, with the colours of code."""
    of_code = {"light": "default", "dark": "github-dark"}
    styles = {name: HtmlFormatter(style=style).get_style_defs(".highlight") for name, style in of_code.items()}
    text = TEMPLATE.read_text(encoding="utf-8")
    return jinja2.Environment(autoescape=True).from_string(text, globals={"styles": styles})


def write(path: str, body: str, has_exercises: bool, labs: dict[str, str]) -> None:
    """Writes the page of a file."""
    page = page_of(path)
    assert page
    title = re.search(r"<h1[^>]*>(.*?)<a class=", body, re.DOTALL)
    here = posixpath.dirname(page) or "."
    links = [(posixpath.relpath(other, here), name, other == page) for other, name in labs.items()]
    content = template().render(title=html.unescape(re.sub(r"<[^>]+>", "", title[1])) if title else path,
                                body=body, links=links, contents=contents(body), has_exercises=has_exercises)
    out = SITE / page
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(content, encoding="utf-8")


def lab_name(path: pathlib.Path) -> str:
    return f"Lab {path.name[:2]}"


def make(repository: str | None, solved_in: pathlib.Path = SOLVED) -> None:
    """Writes all pages."""
    shutil.rmtree(SITE, ignore_errors=True)
    notebooks = sorted(ROOT.glob("notebooks/*.ipynb"))
    labs = {"index.html": "Overview"} | {f"notebooks/{path.stem}.html": lab_name(path) for path in notebooks}
    for path in notebooks:
        name = f"notebooks/{path.name}"
        notebook = nbformat.read(path, as_version=4)
        both = with_both(notebook, nbformat.read(solved_in / path.name, as_version=4))
        body, _ = Exporter(Renderer(name, repository)).from_notebook_node(both)
        write(name, body, any(map(is_exercise, notebook.cells)), labs)
    for path in [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]:
        name = str(path.relative_to(ROOT))
        write(name, Renderer(name, repository).render(path.read_text(encoding="utf-8")), False, labs)
    shutil.copytree(ROOT / "notebooks/figures", SITE / "notebooks/figures")


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/site")
    parser.add_argument("--repository", help="where this repository's files are, for links to those that are no pages")
    make(parser.parse_args().repository)
    print(f"site: {SITE.relative_to(ROOT)}/index.html")


if __name__ == "__main__":
    main()
