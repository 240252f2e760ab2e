"""The proxy's connection to the library, in the process that runs the cells.

The library connects to a port of this computer and says the secret of the environment variable MLM_KERNEL; then each side
sends lines. From here: `cell` before a cell runs, and `interrupt`. From there, as JSON:

    {"cell": "ok" or "failed", "fence": line}     a cell's code has ended; the line is its last one on stdout and stderr
    {"display": name, "data": {MIME type: text}, "new": true, "lost": text}
                                                  a display, if new below the cell that runs; and what to add to it
                                                  if the process ends before its next state
"""

import contextlib
import json
import secrets
import socket
from collections.abc import Iterator
from typing import Any

# Bytes: of a line, which holds a display's state; of all that is taken before others have their turn.
LONGEST_LINE, LONGEST_TURN = 200_000, 10_000_000


class Library:
    """The connection to the library in the process that runs the cells, of which there is one at most."""

    def __init__(self) -> None:
        self.secret = secrets.token_hex(16)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.setblocking(False)
        self.connection: socket.socket | None = None
        self.stranger: socket.socket | None = None  # one that has not said the secret yet
        self.received = b""

    def address(self) -> str:
        return f"{self.listener.getsockname()[1]} {self.secret}"

    def sockets(self) -> list[socket.socket]:
        return [some for some in (self.listener, self.stranger, self.connection) if some]

    def send(self, word: str) -> None:
        if self.connection:
            with contextlib.suppress(OSError):  # it does not read, or has just ended
                self.connection.send(f"{word}\n".encode())

    def accept(self) -> bool:
        """Lets the library in; returns whether it is there for the first time, or again."""
        with contextlib.suppress(BlockingIOError):
            stranger, _ = self.listener.accept()
            stranger.setblocking(False)
            if self.stranger:
                self.stranger.close()
            self.stranger = stranger
        if not self.stranger:
            return False
        # All or nothing: the library sends the secret in one piece.
        try:
            said = self.stranger.recv(len(self.secret) + 1)
        except BlockingIOError:
            return False
        except OSError:
            said = b""
        stranger, self.stranger = self.stranger, None
        if self.connection or not secrets.compare_digest(said, f"{self.secret}\n".encode()):
            stranger.close()
            return False
        self.connection = stranger
        return True

    def lines(self) -> Iterator[Any]:
        """What it has said, as JSON; None where it has gone."""
        taken = 0
        while self.connection and taken < LONGEST_TURN:
            try:
                received = self.connection.recv(65536)
            except BlockingIOError:
                return
            except OSError:
                received = b""
            taken += len(received)
            *lines, self.received = (self.received + received).split(b"\n")
            for line in lines:
                with contextlib.suppress(ValueError, RecursionError):
                    yield json.loads(line)
            if not received or len(self.received) > LONGEST_LINE:
                self.close()
                yield None

    def close(self) -> None:
        if self.connection:
            self.connection.close()
        self.connection, self.received = None, b""
