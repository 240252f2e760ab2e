"""JupyterLab in Chromium, driven through a copy of notebook 08 and a view of attention: `scripts/browser` calls it."""

import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import nbformat
from nbformat import NotebookNode
from playwright.sync_api import Page, sync_playwright

ROOT = pathlib.Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"
PICTURES = ROOT / "target/browser"
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
# Notebooks and folders of runs that are made here, and removed.
OWN, UNTRUSTED = NOTEBOOKS / "browser.ipynb", NOTEBOOKS / "browser_untrusted.ipynb"
VIEW, PRINTS = NOTEBOOKS / "browser_view.ipynb", NOTEBOOKS / "browser_prints.ipynb"
RUN, LONG_RUN = "models/browser", "models/browser_long"
MORE_CELLS = [
    f'let plan = TrainingConfig {{ epochs: 100_000, ..plan }};\nlet run = Run::resume("{LONG_RUN}", &texts, &model, &plan, &engine)?;',
    'run.live("You may add Your own [MASK] statement")?;',
]
# Four heads in each of two layers, of which each looks at all 7 tokens alike, but for noise.
VIEW_CELLS = [
    ':dep mlm_core = { path = "../mlm_core" }\nuse mlm_core::*;\nuse mlm_core::rand::{SeedableRng, rngs::StdRng};',
    """let params = Params::init(&ModelConfig::new(40), &mut StdRng::seed_from_u64(0))?;
let batch = Batch::with_gaps([[2, 9, 17, 11, 12, 13, 3].as_slice()], 4);
let attention = Engine::new(&params)?.encode(&batch, Mode::Evaluate)?.attention;""",
    'plot::attention_view(&["[CLS]", "the", "cake", "is", "a", "lie", "[SEP]"], &attention)?',
]
# More text than JupyterLab's server passes on in three seconds.
PRINT_CELLS = [
    VIEW_CELLS[0],
    'for line in 0..100_000 { println!("line {line} of a long text, or so it seems"); };',
    'println!("the next cell");',
]
# Seconds after which something is missing, however busy the machine.
PATIENCE = 420
# How the cells of the two figures are known.
FIRST, LONG = "Subject to the terms", "own [MASK] statement"
# Cell by cell: its code, its prompt, what it shows as text, and its drawings.
CELLS = """() => [...document.querySelectorAll(".jp-Notebook .jp-CodeCell")].map(cell => ({
    code: cell.querySelector(".cm-content")?.innerText || "",
    prompt: cell.querySelector(".jp-InputPrompt")?.innerText || "",
    text: [...cell.querySelectorAll(".jp-OutputArea-output")].map(output => output.innerText).join("\\n"),
    images: [...cell.querySelectorAll(".jp-OutputArea-output img")].map(image => image.naturalWidth > 0 ? image.src : ""),
}))"""
Cells = list[dict[str, Any]]


def main() -> None:
    if not CHROMIUM:
        sys.exit("browser: Chromium is missing; install it (on Debian: apt install chromium), or set CHROMIUM to a Chrome")
    PICTURES.mkdir(parents=True, exist_ok=True)
    try:
        clean()
        write_notebook()
        with jupyterlab() as (server, token), sync_playwright() as playwright:
            options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
            # So high that all cells are drawn.
            page = browser.new_page(viewport={"width": 1200, "height": 18_000})
            address = f"{server}/lab/workspaces/browser/tree/notebooks/{{}}?reset&token={token}"
            check(page, address)
            check_view(page, address)
            check_print(page, address)
            browser.close()
    finally:
        clean()
    print(f"browser: all passed; pictures are in {PICTURES.relative_to(ROOT)}/")


def check(page: Page, address: str) -> None:
    visit(page, address.format(OWN.name))
    run_all(page)
    states = watch(page, FIRST, until=lambda cells: all(re.search(r"\d", cell["prompt"]) for cell in cells))
    require(len(states) >= 6, f"the figure changes while later cells run: {len(states)} states")
    require("finished" in states[-1], "its last state is that of the run's end")
    cells = page.evaluate(CELLS)
    require(not [cell["text"] for cell in cells if "end of cell" in cell["text"]], "nothing of the protocol is seen")
    page.screenshot(path=PICTURES / "run_all.png")

    # The last two cells have started a longer run, and show it.
    require(len(watch(page, LONG, count=3)) == 3, "a figure changes while no cell runs")
    save(page, OWN)
    page.reload()
    ready(page)
    require(len(watch(page, LONG, count=1)) == 1, "after a reload of the page it is there as it was saved")
    run_cell(page, LONG)
    require(len(watch(page, LONG, count=4)) == 4, "and changes again when its cell is run again")
    page.keyboard.press("Escape")
    page.keyboard.press("b")
    page.keyboard.press("Enter")
    page.keyboard.type("run.stop()?;")
    page.keyboard.press("Control+Enter")
    stopped = watch(page, LONG, until=lambda cells: "stopped" in one(cells, LONG)["text"])
    require("stopped" in stopped[-1], "it ends as the run does")
    save(page, OWN)
    page.screenshot(path=PICTURES / "stopped.png")

    visit_untrusted(page, address, OWN)
    for code, end in ((FIRST, "finished"), (LONG, "stopped")):
        (state,) = watch(page, code, count=1)
        require(end in state, f"whoever opens the notebook sees the figure as it {end}")
    page.screenshot(path=PICTURES / "untrusted.png")


def check_view(page: Page, address: str) -> None:
    """The view of attention with its buttons, under a pointer, saved, as a page, and where scripts do not run."""
    run_notebook(page, address, VIEW, VIEW_CELLS)
    play(page, "in the notebook")
    page.screenshot(path=PICTURES / "view.png")
    save(page, VIEW)
    page.reload()
    ready(page, VIEW_CELLS[-1])
    play(page, "in the saved notebook")
    export: list[str | pathlib.Path] = [ROOT / ".lab/venv/bin/jupyter-nbconvert", "--to=html", f"--output-dir={PICTURES}", VIEW]
    subprocess.run(export, check=True, capture_output=True)
    page.goto((PICTURES / VIEW.name).with_suffix(".html").as_uri())
    play(page, "in the exported page")
    visit_untrusted(page, address, VIEW)
    page.wait_for_selector(".jp-OutputArea-output img")
    require(page.locator(".mlm-attention svg").count() == 0, "where nobody trusts it, its drawing stands there")
    page.screenshot(path=PICTURES / "view_untrusted.png")


def check_print(page: Page, address: str) -> None:
    """A cell that prints more than the server passes on: all of it arrives, and what follows."""
    run_notebook(page, address, PRINTS, PRINT_CELLS)
    page.locator(".jp-OutputArea-output", has_text="the next cell").wait_for(timeout=1000 * PATIENCE)
    save(page, PRINTS)
    _, prints, _ = nbformat.read(PRINTS, as_version=4).cells
    printed = "".join(out.get("text", "") for out in prints.outputs)
    whole = "".join(f"line {line} of a long text, or so it seems\n" for line in range(100_000))
    require(printed == whole, f"{printed.count(chr(10))} of 100000 lines that a cell prints have arrived, in their order")


def play(page: Page, where: str) -> None:
    view = page.locator(".mlm-attention")
    view.locator("svg").wait_for(timeout=120_000)
    lines = view.locator("line")
    require(lines.count() == 4 * 7 * 7, f"{where}, all heads of the first layer are drawn")
    view.locator("[data-side=from][data-token='2']").hover()
    require(lines.count() == 4 * 7, f"{where}, pointing at a word leaves its lines")
    shares = view.locator("[data-side=to] text:nth-of-type(2)").all_text_contents()
    total = sum(int(share.removesuffix(" %")) for share in shares)
    require(96 <= total <= 104 and "cake looks at" in view.inner_text(), f"{where}, the shares add up: {total} %")
    view.locator("[data-side=from][data-token='2']").click()
    view.get_by_role("button", name="2", exact=True).first.click()
    view.get_by_role("button", name="4", exact=True).click()
    view.get_by_role("button", name="3", exact=True).click()
    view.get_by_role("button", name="3", exact=True).hover()
    require(lines.count() == 2 * 7, f"{where}, a click keeps a word, while layers and heads are picked")


def visit_untrusted(page: Page, address: str, notebook: pathlib.Path) -> None:
    """Trust is a signature of the content, so it is gone once that has changed."""
    changed = nbformat.read(notebook, as_version=4)
    changed.cells[0].source += "\n// Not the notebook that was signed."
    nbformat.write(changed, UNTRUSTED)
    visit(page, address.format(UNTRUSTED.name), changed.cells[-1].source)


def require(holds: bool, what: str) -> None:
    print(f"browser: {'ok' if holds else 'FAILED'}: {what}", flush=True)
    if not holds:
        sys.exit(1)


def visit(page: Page, address: str, last: str = LONG) -> None:
    page.goto(address)
    ready(page, last)


def ready(page: Page, last: str = LONG) -> None:
    """Waits until the notebook is drawn, to its last cell, and its kernel waits for cells."""
    page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=60_000)
    page.wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status=idle]", timeout=120_000)
    # It draws the cells below the first ones a little later.
    page.wait_for_function(f"() => ({CELLS})().some(cell => cell.code.includes({json.dumps(last.splitlines()[0])}))", timeout=60_000)


def one(cells: Cells, code: str) -> dict[str, Any]:
    (cell,) = [cell for cell in cells if code in cell["code"]]
    return cell


def watch(
    page: Page, code: str, until: Callable[[Cells], bool] = lambda cells: False, count: int | None = None
) -> list[str]:
    """The states of a cell's figure, as text and drawing: so many, or until a condition holds."""
    states: list[str] = []
    end = time.monotonic() + PATIENCE
    while True:
        cells = page.evaluate(CELLS)
        state = "".join([one(cells, code)["text"], *one(cells, code)["images"]])
        if one(cells, code)["images"] and state not in states[-1:]:
            states.append(state)
        if until(cells) or len(states) == count or time.monotonic() > end:
            return states
        page.wait_for_timeout(100)


def run_all(page: Page) -> None:
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_text("Run All Cells", exact=True).click()


def run_cell(page: Page, code: str) -> None:
    page.locator(".jp-CodeCell", has_text=code).locator(".cm-content").click()
    page.keyboard.press("Control+Enter")


def run_notebook(page: Page, address: str, path: pathlib.Path, sources: list[str]) -> None:
    """Writes a notebook of these cells, opens it and runs them."""
    notebook = lab_08()
    notebook.cells = [nbformat.v4.new_code_cell(source) for source in sources]
    nbformat.write(notebook, path)
    visit(page, address.format(path.name), sources[-1])
    run_all(page)


def save(page: Page, notebook: pathlib.Path) -> None:
    """Waits until it is on the disk."""
    before, end = notebook.stat().st_mtime_ns, time.monotonic() + PATIENCE
    page.keyboard.press("Control+s")
    while time.monotonic() < end:
        page.wait_for_timeout(100)
        if notebook.stat().st_mtime_ns != before:
            with contextlib.suppress(ValueError):  # as long as it is being written
                json.loads(notebook.read_bytes())
                return


def lab_08() -> NotebookNode:
    (path,) = NOTEBOOKS.glob("08_*.ipynb")
    return nbformat.read(path, as_version=4)


def write_notebook() -> None:
    notebook = lab_08()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
            cell.source = cell.source.replace("models/licence", RUN)
    notebook.cells += [nbformat.v4.new_code_cell(source) for source in MORE_CELLS]
    nbformat.write(notebook, OWN)


def clean() -> None:
    for notebook in (OWN, UNTRUSTED, VIEW, PRINTS):
        notebook.unlink(missing_ok=True)
    for folder in (RUN, LONG_RUN):
        shutil.rmtree(NOTEBOOKS / folder, ignore_errors=True)


@contextlib.contextmanager
def jupyterlab() -> Iterator[tuple[str, str]]:
    """Started as a teacher starts it, but for the browser; gives its address and its token."""
    lab = subprocess.Popen(
        [ROOT / "scripts/lab"], env={**os.environ, "BROWSER": "true"}, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )
    try:
        assert lab.stdout  # it was asked for
        said = iter(lab.stdout)
        for line in said:
            if found := re.search(r"(http://127\.0\.0\.1:\d+)/lab\S*\?token=(\w+)", line):
                break
        else:
            sys.exit("browser: JupyterLab has not started")
        threading.Thread(target=lambda: [None for _ in said], daemon=True).start()
        yield found[1], found[2]
    finally:
        os.killpg(lab.pid, signal.SIGTERM)  # it ends its kernels
        lab.wait()


if __name__ == "__main__":
    main()
