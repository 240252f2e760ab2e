"""Runs notebooks from top to bottom in the Rust kernel, without a browser: `scripts/lab --execute` calls it.

    execute.py [--write | --solved] [NOTEBOOK…]
"""

import argparse
import pathlib
import re
import sys
import time
from typing import Any

import nbformat
from jupyter_client.manager import KernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbformat import NotebookNode

from exercises import solved

ROOT = pathlib.Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"
EXECUTED = ROOT / "target/notebooks"
SOLVED = EXECUTED / "solved"


class PrintingClient(NotebookClient):
    """Prints what the cells print while they run, and how long each took."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.seconds: list[float] = []
        self.cell: NotebookNode | None = None
        self.on_cell_execute = self.start_cell
        self.on_cell_executed = self.end_cell

    def start_cell(self, cell: NotebookNode, cell_index: int) -> None:
        self.cell = cell
        self.started = time.monotonic()

    def end_cell(self, cell: NotebookNode, cell_index: int, execute_reply: dict[str, Any]) -> None:
        self.seconds.append(time.monotonic() - self.started)
        code = cell.source.strip().splitlines()
        print(f"[{len(self.seconds):2}] {self.seconds[-1]:6.2f} s  {code[0] if code else ''}", flush=True)

    def output(
        self, outs: list[NotebookNode], msg: dict[str, Any], display_id: str | None, cell_index: int
    ) -> NotebookNode | None:
        if msg["msg_type"] == "stream":
            print("".join(f"     | {line}\n" for line in msg["content"]["text"].splitlines()), end="", flush=True)
        return super().output(outs, msg, display_id, cell_index)


def execute(path: pathlib.Path, write: bool = False, manager: KernelManager | None = None, solutions: bool = False) -> bool:
    """Runs one notebook, in a kernel of its own or in the one that a manager has, as it stands or with the solutions of its
    exercises; returns whether all its cells did."""
    notebook = nbformat.read(path, as_version=4)
    out = SOLVED if solutions else EXECUTED
    if solutions:
        notebook = solved(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    client = PrintingClient(
        notebook, km=manager, kernel_name="rust", timeout=None, startup_timeout=300, record_timing=False, coalesce_streams=True,
        resources={"metadata": {"path": NOTEBOOKS}}
    )
    print(f"== {path.name}", flush=True)
    start = time.monotonic()
    failure: Exception | None = None
    try:
        client.execute()
    except (CellExecutionError, DeadKernelError, RuntimeError) as error:
        failure = error
    renumber(notebook)
    out.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, out / path.name)
    total = sum(cell.cell_type == "code" and bool(cell.source.strip()) for cell in notebook.cells)
    if failure:
        print_errors(notebook, failure)
        place = f"in the cell: {client.cell.source.splitlines()[0]}" if client.cell else "before the first cell"
        print(f"{path.name}: FAILED {place}", flush=True)
        return False
    if write:
        nbformat.write(notebook, path)
    ordered = sorted(client.seconds) or [0.0]
    print(
        f"{path.name}: {total} cells, no error, {time.monotonic() - start:.1f} s"
        f" (first cell {(client.seconds or [0.0])[0]:.1f} s, median {ordered[len(ordered) // 2]:.2f} s)",
        flush=True,
    )
    return True


def renumber(notebook: NotebookNode) -> None:
    """Numbers the cells that ran from 1; the kernel starts at 2, and not everywhere."""
    ran = [cell for cell in notebook.cells if cell.get("execution_count")]
    for number, cell in enumerate(ran, 1):
        cell.execution_count = number
        for out in cell.outputs:
            if out.output_type == "execute_result":
                out.execution_count = number


def print_errors(notebook: NotebookNode, failure: Exception) -> None:
    """Prints what the kernel said of the cell that failed, without the colours; what it said on stderr stands there."""
    errors = [out for cell in notebook.cells for out in cell.get("outputs", []) if out.output_type == "error"]
    for error in errors:
        print(re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(error.traceback) or error.evalue))
    if not errors and not isinstance(failure, CellExecutionError):
        print(failure)


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/lab --execute")
    parser.add_argument("notebooks", nargs="*", type=pathlib.Path, metavar="NOTEBOOK")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--write", action="store_true", help="update the outputs of the notebooks themselves")
    how.add_argument("--solved", action="store_true", help="with the solutions of the exercises, to target/notebooks/solved/")
    arguments = parser.parse_args()
    paths = [path.resolve() for path in arguments.notebooks] or sorted(NOTEBOOKS.glob("*.ipynb"))
    for path in paths:
        if not path.is_file():
            sys.exit(f"no such notebook: {path}")
    ran = [execute(path, arguments.write, solutions=arguments.solved) for path in paths]
    if not all(ran):
        sys.exit(1)


if __name__ == "__main__":
    main()
