"""What a cell publishes, in its order, on its way to the front ends: what it prints is joined, and no faster than JupyterLab's
server passes it on.

Evcxr sends a message a line. A front end that gets tens of thousands stops listening before it has read them (nbclient: 4
seconds after the answer), and the server leaves out what is more than 1,000 messages or 1 MB of text a second, over 3 seconds.
"""

import collections
import json
import time
from collections.abc import Callable
from typing import Any

# Seconds for which text is joined, and the bytes of a message that nothing is added to.
JOINED, FULL = 0.05, 65_536
# Bytes that are sent in any so many seconds: a little less than the server's 3 MB, in a little more than its 3 seconds.
MOST_SENT, WINDOW = 2_700_000, 3.3
# Bytes of text that may wait: what is printed beyond that is left out, and the cell says so.
MOST_WAITING = 20_000_000
# Bytes of a message beside its text.
AROUND = 700
# Letters: longer text is parted.
LONGEST_PART = FULL // 4


class Text:
    """What a cell prints on stdout or stderr."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.parts: list[str] = []
        self.size = 0
        self.begun = time.monotonic()


class Outbox:
    def __init__(self, send_text: Callable[[str, str], None], send: Callable[[list[bytes]], Any]) -> None:
        self.send_text, self.send = send_text, send
        self.waiting: collections.deque[Text | list[bytes]] = collections.deque()
        self.size = 0  # of all text that waits
        self.left_out = 0
        self.sent: collections.deque[tuple[float, int]] = collections.deque()  # in the window: when, and how many bytes
        self.sent_size = 0

    def print(self, name: str, text: str) -> None:
        for start in range(0, len(text), LONGEST_PART):
            part = text[start : start + LONGEST_PART]
            size = len(json.dumps(part, ensure_ascii=False).encode(errors="replace"))
            if self.size + size > MOST_WAITING:
                self.left_out += size
                continue
            last = self.waiting[-1] if self.waiting else None
            if not isinstance(last, Text) or last.name != name or last.size + size > FULL:
                last = Text(name)
                self.waiting.append(last)
            last.parts.append(part)
            last.size += size
            self.size += size

    def pass_on(self, frames: list[bytes]) -> None:
        """Something else than text, after all that has been printed before it."""
        self.waiting.append(frames)

    def discard(self) -> None:
        """Leaves out the text that waits."""
        self.left_out += self.size
        self.waiting = collections.deque(item for item in self.waiting if not isinstance(item, Text))
        self.size = 0

    def flush(self, all_has_come: bool) -> bool:
        """Sends what may be sent now; returns whether all of it has been."""
        now = time.monotonic()
        while self.sent and now > self.sent[0][0] + WINDOW:
            self.sent_size -= self.sent.popleft()[1]
        while self.waiting:
            item = self.waiting[0]
            if isinstance(item, Text):
                may_grow = len(self.waiting) == 1 and not all_has_come and now < item.begun + JOINED
                size = item.size + AROUND
                if may_grow or self.sent_size + size > MOST_SENT:
                    return False
                self.sent.append((now, size))
                self.sent_size += size
                self.size -= item.size
                self.send_text(item.name, "".join(item.parts))
            else:
                self.send(item)
            self.waiting.popleft()
        if self.left_out and all_has_come:
            self.send_text("stderr", f"[{self.left_out / 1e6:.1f} MB more were printed, which is too much to show]\n")
            self.left_out = 0
        return True
