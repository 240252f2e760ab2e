"""The notebooks and their kernel, as a class meets them. `scripts/test` runs it after `scripts/lab --execute`."""

import hashlib
import json
import os
import pathlib
import re
import time

import nbformat
import pytest
from jupyter_client.manager import KernelManager

ROOT = pathlib.Path(__file__).resolve().parent.parent
KERNELS = ROOT / ".lab/kernels"
WARM = ROOT / ".lab/warm"
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
(LAB_08,) = [path for path in NOTEBOOKS if path.name.startswith("08_")]
IMPORTS = ':dep mlm_core = { path = "../mlm_core" }\nuse mlm_core::*;\nuse mlm_core::candle_core::Var;'


class Kernel:
    """A Rust kernel, started as Jupyter starts it."""

    def __init__(self, **environment):
        before = set(KERNELS.glob("*"))
        self.manager = KernelManager(kernel_name="rust")
        self.manager.start_kernel(cwd=ROOT / "notebooks", env={**os.environ, **environment})
        self.client = self.manager.blocking_client()
        self.client.start_channels()
        try:
            self.client.wait_for_ready(timeout=300)
            (self.folder,) = set(KERNELS.glob("*")) - before
        except BaseException:
            self.end()
            raise

    def run(self, code):
        """Runs a cell; returns whether it succeeded, and all that it showed as text."""
        shown, complained = [], []

        def collect(message):
            content = message["content"]
            # A panic or a failed `?` is no error to the kernel: it only says so on stderr.
            complained.extend([True] if content.get("name") == "stderr" else [])
            shown.append(content.get("text") or content.get("evalue") or json.dumps(content.get("data", "")))
            shown.extend(content.get("traceback", []))

        reply = self.client.execute_interactive(code, timeout=300, allow_stdin=False, output_hook=collect)
        return reply["content"]["status"] == "ok" and not complained, "\n".join(shown)

    def expect(self, code):
        succeeded, shown = self.run(code)
        assert succeeded, f"{code}\n{shown}"
        return shown

    def end(self):
        self.client.stop_channels()
        self.manager.shutdown_kernel()


@pytest.fixture
def kernel():
    kernel = Kernel()
    yield kernel
    kernel.end()


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def digest(folder):
    """The content of all files below a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def versions(folder):
    """The packages of a Cargo.lock."""
    return set(re.findall(r'name = "(.+)"\nversion = "(.+)"', (folder / "Cargo.lock").read_text()))


def is_running(folder):
    """Whether a process of the kernel is left; its folder is named after its process group."""
    try:
        os.killpg(int(folder.name), 0)
        return True
    except ProcessLookupError:
        return False


def within_seconds(seconds, condition):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_committed_notebook_is_short_and_has_its_outputs(path):
    cells = code_cells(nbformat.read(path, as_version=4))
    assert len(cells) <= 30
    assert [len(cell.source.splitlines()) for cell in cells if len(cell.source.splitlines()) > 15] == []
    assert all(cell.execution_count for cell in cells), "run scripts/lab --execute --write"
    assert not [out for cell in cells for out in cell.outputs if out.output_type == "error"]
    executed = code_cells(nbformat.read(ROOT / "target/notebooks" / path.name, as_version=4))
    for cell, again in zip(cells, executed, strict=True):
        kinds = [sorted(out.get("data", {"stream": 0})) for out in cell.outputs]
        assert kinds == [sorted(out.get("data", {"stream": 0})) for out in again.outputs], cell.source


def test_notebook_08_recovers_every_word_and_shows_its_figures():
    cells = code_cells(nbformat.read(ROOT / "target/notebooks" / LAB_08.name, as_version=4))
    text = "".join(out.text for cell in cells for out in cell.outputs if out.output_type == "stream")
    assert "33 of 33 words recovered" in text
    (last_loss,) = re.findall(r"epoch 5  loss ([0-9.]+)", text)
    assert float(last_loss) <= 0.15
    figures = [out.data["text/html"] for cell in cells for out in cell.outputs if "text/html" in out.get("data", {})]
    images = [out.data["image/svg+xml"] for cell in cells for out in cell.outputs if "image/svg+xml" in out.get("data", {})]
    assert (len(images), len(figures)) == (3, 8)
    assert sum("data:image/svg+xml;base64," in figure for figure in figures) == len(images)


def test_any_cell_of_notebook_08_runs_again_and_trains_to_the_same_numbers(kernel):
    cells = [cell.source for cell in code_cells(nbformat.read(LAB_08, as_version=4))]
    (training,) = [nth for nth, source in enumerate(cells) if "epoch {epoch}" in source]
    first = [kernel.expect(source) for source in cells]
    for nth, source in enumerate(cells):
        again = kernel.expect(source)
        if nth == training:
            assert "epoch 5" in again
            lines = [[line for line in shown.splitlines() if line.startswith("epoch")] for shown in (first[nth], again)]
            assert lines[0] == lines[1]


def test_gradients_of_variables_from_different_cells(kernel):
    kernel.expect(IMPORTS)
    kernel.expect("let device = pick_device(); let w = Var::new(&[1f32, 2., 3.], &device)?;")
    kernel.expect("let b = Var::new(&[10f32, 20., 30.], &device)?;")
    kernel.expect("let sum = (w.as_tensor() * b.as_tensor())?.affine(2.0, 0.0)?.sum_all()?;")
    kernel.expect("let slopes = sum.backward()?;")
    assert "[20.0, 40.0, 60.0]" in kernel.expect('println!("{:?}", slopes.get(&w).unwrap().to_vec1::<f32>()?);')
    assert "[2.0, 4.0, 6.0]" in kernel.expect('println!("{:?}", slopes.get(&b).unwrap().to_vec1::<f32>()?);')


def test_errors_are_sentences_and_keep_the_variables(kernel):
    kernel.expect(IMPORTS)
    kernel.expect('let corpus = Corpus::from_lines(["to be or not to be"])?;')
    succeeded, shown = kernel.run('let missing = Corpus::from_file("../data/missing.txt", Layout::Lines)?;')
    assert not succeeded and "cannot read ../data/missing.txt" in shown
    succeeded, shown = kernel.run('panic!("on purpose");')
    assert not succeeded and "on purpose" in shown
    succeeded, shown = kernel.run("corpus.no_such_method()")
    assert not succeeded and "no_such_method" in shown
    assert "[1]" in kernel.expect('println!("[{}]", corpus.len());')


def test_a_kernel_works_without_a_network():
    kernel = Kernel(CARGO_HTTP_PROXY="127.0.0.1:9")  # where nobody listens
    try:
        kernel.expect(IMPORTS)
        assert "[2]" in kernel.expect('println!("[{}]", Corpus::from_lines(["a", "b"])?.len());')
    finally:
        kernel.end()


def test_a_busy_kernel_leaves_nothing_behind():
    kernel = Kernel()
    try:
        kernel.client.execute("loop {}")
        time.sleep(3)
        assert is_running(kernel.folder)
    finally:
        kernel.end()
    assert within_seconds(20, lambda: not kernel.folder.exists() and not is_running(kernel.folder))


def test_two_kernels_run_at_once_each_in_a_folder_of_its_own_that_goes_with_it():
    warm = digest(WARM)
    kernels = []
    try:
        for _ in range(2):
            kernels.append(Kernel())
        first, second = kernels
        assert first.folder != second.folder
        for kernel in kernels:
            kernel.expect(IMPORTS)
        first.expect("let mine = 1u32;")
        second.expect("let mine = 2u32;")
        assert "mine is 1" in first.expect('println!("mine is {mine}");')
        assert "mine is 2" in second.expect('println!("mine is {mine}");')
        assert versions(first.folder) - versions(ROOT) == {("ctx", "1.0.0")}
    finally:
        for kernel in kernels:
            kernel.end()
    assert within_seconds(20, lambda: not first.folder.exists() and not second.folder.exists())
    assert digest(WARM) == warm, "a kernel has changed the folder that the others start from"
