"""The cells that the proxy has: those that wait, and the one that runs."""

import time
from typing import Any, NamedTuple

from outbox import Outbox

# Seconds: how long output may lag behind the answer, and behind what came before it.
LAG = 2
# Letters: of what a failed cell's answer quotes of its stderr.
LONGEST_QUOTE = 4_000

# A message of the Jupyter protocol.
Message = dict[str, Any]


class Cell(NamedTuple):
    """An execute_request, as it waits for its turn."""

    identities: list[bytes]
    message: Message
    frames: list[bytes]
    code: str

    @property
    def msg_id(self) -> str:
        return self.message["header"]["msg_id"]


class Output:
    """What a cell writes, up to the lines by which the library ends it."""

    def __init__(self) -> None:
        self.failed = False
        self.taken_at = 0.0
        self.stderr = ""  # the end of it
        self.last_lines: dict[str, str] = {}  # of stdout and stderr, to wait for

    def ends(self, failed: bool, line: str) -> None:
        self.failed = self.failed or failed
        self.last_lines = dict.fromkeys(("stdout", "stderr"), f"{line}\n")

    def take(self, name: str, text: str) -> str:
        """What of a text is the cell's own: all but its last line."""
        self.taken_at = time.monotonic()
        line = self.last_lines.get(name)
        if line is not None and text.endswith(line):
            del self.last_lines[name]
            text = text.removesuffix(line)
        if name == "stderr":
            self.stderr = (self.stderr + text)[-LONGEST_QUOTE:]
        return text


class Running:
    """The cell that evcxr has. Its end has two parts, which come in any order: its last lines, and evcxr's answer."""

    def __init__(self, cell: Cell, outbox: Outbox) -> None:
        self.cell = cell
        self.outbox = outbox
        self.output = Output()
        self.presses = 0  # of the stop button
        self.advise_at: float | None = None
        self.answer: list[bytes] | None = None
        self.answered_at = 0.0
        self.held: list[list[bytes]] = []  # what is said of the cell after its answer

    def wrote_all(self) -> bool:
        """Once it has been answered: whether all is there that it has written, or will not come."""
        return not self.output.last_lines or time.monotonic() > max(self.answered_at, self.output.taken_at) + LAG
