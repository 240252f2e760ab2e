"""The exercises of a notebook: the task, with its solution folded up below it, and the cell with a gap that comes after."""

import copy
import re
from typing import NamedTuple

from nbformat import NotebookNode

# Between what a student writes and what checks it, in the cell with the gap.
CHECKED = "// The rest of the cell checks it.\n"
SOLUTION = re.compile(r"<details><summary>A solution</summary>\n\n```rust\n(.*?)```\n\n</details>", re.DOTALL)


class Exercise(NamedTuple):
    """Where its cell is among all, and what is to be written into the gap."""

    at: int
    solution: str

    def solved(self, cell: NotebookNode) -> str:
        """The code of its cell with the solution in the gap."""
        _, checked = cell.source.split(CHECKED)
        return self.solution + CHECKED + checked


def is_exercise(cell: NotebookNode) -> bool:
    return "exercise" in cell.metadata.get("tags", [])


def exercises(notebook: NotebookNode) -> list[Exercise]:
    """Those of a notebook, in their order."""
    found, solution = [], ""
    for at, cell in enumerate(notebook.cells):
        if is_exercise(cell) and cell.cell_type == "code":
            found.append(Exercise(at, solution))
        elif is_exercise(cell):
            (solution,) = SOLUTION.findall(cell.source)
    return found


def solved(notebook: NotebookNode) -> NotebookNode:
    """A copy in which each gap is filled, and its cell has no outputs."""
    notebook = copy.deepcopy(notebook)
    for exercise in exercises(notebook):
        cell = notebook.cells[exercise.at]
        cell.source, cell.outputs, cell.execution_count = exercise.solved(cell), [], None
    return notebook
