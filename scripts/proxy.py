"""What the kernel evcxr lacks, added between it and the front ends: a proxy of the Jupyter protocol.

    https://jupyter-client.readthedocs.io/en/stable/messaging.html

The launcher (kernel.py) gives evcxr ports of its own and serves Jupyter's ports itself. Messages pass as they are, but for
these:

- What is malformed or not signed with the connection's key is dropped. (evcxr would stop listening.)
- Cells wait here, and evcxr gets one at a time. To a cell that panicked or whose `?` failed evcxr answers "ok"; the library
  tells when that happens, and the answer becomes an error, upon which the cells that wait are not run.
- The stop button asks the library to return from what it is doing: the variables stay. Pressed again, it goes to evcxr,
  which kills the process that runs the cells.
- What a cell prints, a message of evcxr's a line, is joined; see outbox.py.
- The library shows displays of its own, and updates them while later cells run.

What the library and this proxy say to each other stands in library.py. A cell that loads the library waits until it has
connected: where it has changed since `scripts/setup`, as long as it is compiled.
"""

import collections
import contextlib
import html
import json
import re
import secrets
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import zmq
from jupyter_client.session import DELIM, Session

from cells import Cell, Message, Running
from library import Library
from outbox import JOINED, Outbox

# Seconds: from the stop button to the advice; between two states of a display.
PATIENCE, PAUSE = 3, 0.2
# Letters: of what a line says of a message that is dropped.
LONGEST_REASON = 200
# Last lines that are waited for no more.
MOST_LATE = 20
# Displays that can still be updated.
MOST_DISPLAYS = 50
# What is in a cell that loads the library.
LOADS_LIBRARY = re.compile(r"^\s*:dep\s+mlm_core\b", re.MULTILINE)

COMPILING = """\
mlm_core is not compiled yet as it is now: that comes first, and takes 1 to 5 minutes. (scripts/setup does it beforehand.)
"""
NOT_LISTENING = """\
The cell does not hear the stop button: it is being compiled, or what it computes is not in the library.
Press it once more to end the cell with the process that runs it. All variables are lost then.
"""
ENDED = """\
The process that runs the cells has ended, and all variables are lost. Run the cells again from the top.
A run in the background was saved in its last 30 seconds: Run::resume in its folder goes on from there.
"""


class Display:
    """What the library shows and updates."""

    def __init__(self, parent: Message) -> None:
        self.parent = parent
        self.data: dict[str, str] = {}
        self.lost: str | None = None
        self.kind = "display_data"
        self.changed = False
        self.shown_at = float(-PAUSE)


class Proxy:
    def __init__(self, front: Mapping[str, Any], back: Mapping[str, Any], attach: Callable[[], str]) -> None:
        """Takes the contents of two connection files: Jupyter's, whose ports it serves, and evcxr's; and what gives
        the code by which the library connects, when evcxr is about to run it."""
        self.attach = attach
        self.session = Session(
            key=front["key"].encode(), signature_scheme=front.get("signature_scheme", "hmac-sha256"), username="kernel"
        )
        self.context = zmq.Context()
        # evcxr answers on its stdin channel whom it knows from its shell channel.
        name = secrets.token_bytes(8)
        self.front = {channel: self._socket(zmq.ROUTER) for channel in ("shell", "control", "stdin", "hb")}
        self.back = {channel: self._socket(zmq.DEALER, name) for channel in ("shell", "control", "stdin")}
        self.front |= {"iopub": self._socket(zmq.PUB)}
        self.back |= {"iopub": self._socket(zmq.SUB)}
        self.back["iopub"].subscribe(b"")
        for channel, endpoint in self.front.items():
            endpoint.bind(_url(front, channel))
        for channel, endpoint in self.back.items():
            endpoint.connect(_url(back, channel))
        self.library = Library()
        self.waiting: collections.deque[Cell] = collections.deque()
        self.running: Running | None = None
        self.displays: collections.OrderedDict[str, Display] = collections.OrderedDict()
        self.ready = False  # whether what evcxr publishes arrives
        # The last lines, of stdout and stderr, that have not come in time: nobody is to see them.
        self.late: collections.deque[tuple[str, str]] = collections.deque(maxlen=MOST_LATE)
        self.lost = False  # whether the process that runs the cells has ended, and no cell has said so
        self.attaching = False  # whether evcxr has been told to load the library, and has not answered

    def _socket(self, kind: int, name: bytes | None = None) -> zmq.Socket[bytes]:
        endpoint = self.context.socket(kind)
        endpoint.linger = 500
        endpoint.set_hwm(0)  # nothing is dropped
        if kind == zmq.ROUTER:
            endpoint.router_handover = 1  # a front end may come again before its last connection is known to have ended
        if name:
            endpoint.identity = name
        return endpoint

    def environment(self) -> dict[str, str]:
        return {"MLM_KERNEL": self.library.address()}

    def serve(self, goes_on: Callable[[], bool]) -> None:
        """Passes messages until the kernel has ended, its last ones too."""
        last_greeting, going = 0.0, True
        while going:
            going = goes_on()
            poller = zmq.Poller()
            from_back = list(self.back.items())
            # Before evcxr is heard it gets no cell: the front end would wait for the outputs in vain.
            open_channels = ("hb", "control", "shell", "stdin") if self.ready else ("hb", "control")
            from_front = [(channel, self.front[channel]) for channel in open_channels]
            for _, endpoint in from_back + from_front:
                poller.register(endpoint, zmq.POLLIN)
            for connection in self.library.sockets():
                poller.register(connection, zmq.POLLIN)
            poller.poll(self._milliseconds())
            if not self.ready and time.monotonic() > last_greeting + 0.25:
                last_greeting = time.monotonic()
                self.session.send(self.back["shell"], "kernel_info_request", ident=[b"proxy"])
            with _survives():
                self._hear_library()
            for take, channels in ((self._from_kernel, from_back), (self._from_front, from_front)):
                for channel, endpoint in channels:
                    for frames in _received(endpoint):
                        with _survives():
                            take(channel, frames)
            with _survives():
                self._tick()

    def close(self) -> None:
        self._lose_displays()
        self.library.close()
        self.library.listener.close()
        self.context.destroy(linger=500)

    def _milliseconds(self) -> int:
        """How long to wait for a message at most."""
        if self.running and self.running.outbox.waiting:
            return int(1000 * JOINED) // 2
        if not self.ready or any(display.changed for display in self.displays.values()):
            return 50
        return 500

    def _from_front(self, channel: str, frames: list[bytes]) -> None:
        if channel == "hb":
            self.front["hb"].send_multipart(frames)
            return
        try:
            identities, parts = self.session.feed_identities(frames)
            message = self.session.deserialize(parts)
            kind = message["header"]["msg_type"]
            # evcxr counts what follows the four parts as signed, which it is not.
            frames = [*identities, DELIM, *parts[:5]]
            is_cell = channel == "shell" and kind == "execute_request"
            code = str(message["content"]["code"]) if is_cell else ""
        except Exception as error:  # malformed, not signed, or a replay
            print(f"proxy: dropped a message on {channel}: {_short(error)}", file=sys.stderr, flush=True)
            return
        if is_cell:
            self.waiting.append(Cell(identities, message, frames, code))
            self._next_cell()
        elif channel == "control" and kind == "interrupt_request":
            self._interrupt(identities, message, frames)
        else:
            self.back[channel].send_multipart(frames)

    def _next_cell(self) -> None:
        if self.running or self.attaching or not self.waiting:
            return
        if not self.library.connection and LOADS_LIBRARY.search(self.waiting[0].code):
            self._say(self.waiting[0], COMPILING)
            self._attach()
        else:
            self._run_cell()

    def _run_cell(self) -> None:
        cell = self.waiting.popleft()
        outbox = Outbox(lambda name, text: self._say(cell, text, name), self.front["iopub"].send_multipart)
        self.running = Running(cell, outbox)
        self.library.send("cell")
        self.back["shell"].send_multipart(self.running.cell.frames)

    def _attach(self) -> None:
        """Lets evcxr load the library, lest a cell runs that nobody hears of: whether it fails, and the stop button."""
        self.session.send(self.back["shell"], "execute_request", {"code": self.attach()}, ident=[b"proxy"])
        self.attaching = True

    def _interrupt(self, identities: list[bytes], message: Message, frames: list[bytes]) -> None:
        """The stop button."""
        if self.running:
            self.running.presses += 1
            if self.running.answer or self.running.presses > 1:  # only what it has printed is on its way
                self.running.outbox.discard()
            if self.running.presses > 1 or not self.library.connection:
                self.running.advise_at = None
                self.back["control"].send_multipart(frames)  # evcxr kills, and answers
                return
            self.library.send("interrupt")
            self.running.advise_at = time.monotonic() + PATIENCE
        elif self.attaching:
            self._abort_waiting()
        self.session.send(self.front["control"], "interrupt_reply", {"status": "ok"}, parent=message, ident=identities)

    def _say(self, cell: Cell, text: str, name: str = "stderr") -> None:
        """Puts text under a cell."""
        self._publish("stream", {"name": name, "text": text}, cell.message)

    def _publish(self, kind: str, content: dict[str, Any], parent: Message) -> None:
        self.session.send(self.front["iopub"], kind, content, parent=parent, ident=kind.encode())

    def _from_kernel(self, channel: str, frames: list[bytes]) -> None:
        if channel == "iopub":
            try:
                self._published(frames)
            except Exception:
                self.front["iopub"].send_multipart(frames)  # what cannot be improved passes as it is
        elif frames[0] == b"proxy":  # the answer to what this proxy has asked
            if self.attaching and _is_reply(frames, "execute_reply"):
                self.attaching = False
                self._hear_library()
                if self.waiting:  # where the library is not there now, the cell says why
                    self._run_cell()
        elif channel == "shell" and self.running and _is_reply(frames, "execute_reply", self.running.cell.msg_id):
            self.running.answer, self.running.answered_at = frames, time.monotonic()
            self._hear_library()
            self._finish(self.running)
        else:
            self.front[channel].send_multipart(frames)

    def _published(self, frames: list[bytes]) -> None:
        """Passes on what evcxr publishes."""
        header, parent, _, content = (json.loads(part) for part in frames[frames.index(DELIM) + 2 :][:4])
        kind = header["msg_type"]
        if not self.ready:
            # Greetings are all that it can speak of. The last one may still be on its way.
            self.ready = kind == "status" and content["execution_state"] == "idle"
        elif self.running and parent.get("msg_id") == self.running.cell.msg_id:
            if kind == "stream":
                self._stream(self.running, content["name"], content["text"])
            elif kind == "status" and content["execution_state"] == "idle":
                self.running.held.append(frames)
            else:
                self.running.outbox.pass_on(frames)
                self.running.outbox.flush(False)
        elif parent.get("session") == self.session.session:
            pass  # it speaks of what this proxy has asked
        elif kind != "stream" or not self._is_late(content["name"], content["text"], {"header": parent}):
            self.front["iopub"].send_multipart(frames)

    def _is_late(self, name: str, text: str, parent: Message) -> bool:
        """Whether a text is the last line of a cell that has ended without it; what stands before it in the line is shown."""
        for late in self.late:
            if name == late[0] and text.endswith(late[1]):
                self.late.remove(late)
                if rest := text.removesuffix(late[1]):
                    self._publish("stream", {"name": name, "text": rest}, parent)
                return True
        return False

    def _stream(self, running: Running, name: str, text: str) -> None:
        self._hear_library()
        if rest := running.output.take(name, text):
            running.outbox.print(name, rest)
        self._finish(running)

    def _finish(self, running: Running) -> None:
        """Passes on evcxr's answer to a cell when all is there that the cell has written."""
        all_has_come = running.answer is not None and running.wrote_all()
        if not running.outbox.flush(all_has_come) or running.answer is None or not all_has_come:
            return
        cell, output = running.cell, running.output
        # What has not come by now is not of the cell that runs then.
        self.late.extend(output.last_lines.items())
        if self.lost:
            self._say(cell, ENDED)
            self.lost = False
            self._attach()  # the next process is there
        self.running = None
        content = json.loads(running.answer[running.answer.index(DELIM) + 5])
        if output.failed and content["status"] == "ok":
            lines = output.stderr.splitlines()
            content |= {"status": "error", "ename": "Error", "evalue": output.stderr.strip(), "traceback": lines}
            self.session.send(self.front["shell"], "execute_reply", content, parent=cell.message, ident=cell.identities)
        else:
            self.front["shell"].send_multipart(running.answer)
        for frames in running.held:
            self.front["iopub"].send_multipart(frames)
        if content["status"] == "error" and cell.message["content"].get("stop_on_error", True):
            self._abort_waiting()
        self._next_cell()

    def _abort_waiting(self) -> None:
        while self.waiting:
            cell = self.waiting.popleft()
            self._publish("status", {"execution_state": "busy"}, cell.message)
            content = {"status": "aborted"}
            self.session.send(self.front["shell"], "execute_reply", content, parent=cell.message, ident=cell.identities)
            self._publish("status", {"execution_state": "idle"}, cell.message)

    def _hear_library(self) -> None:
        self._listen()
        if self.library.accept():
            self._listen()

    def _listen(self) -> None:
        for said in self.library.lines():
            if said is None:
                self.lost = True
                self._lose_displays()
            elif not isinstance(said, dict):
                continue
            elif "cell" in said and "fence" in said and self.running:
                self.running.output.ends(said["cell"] == "failed", said["fence"])
                self.running.advise_at = None
            elif isinstance(said.get("display"), str) and isinstance(said.get("data"), dict):
                self._take_display(said)

    def _take_display(self, said: dict[str, Any]) -> None:
        name = said["display"]
        if said.get("new") and self.running:
            self.displays[name] = Display(self.running.cell.message)
        if display := self.displays.get(name):
            self.displays.move_to_end(name)
            display.data, display.lost, display.changed = said["data"], said.get("lost"), True
            self._show(name, display)
        while len(self.displays) > MOST_DISPLAYS:
            self.displays.popitem(last=False)

    def _show(self, name: str, display: Display, at_once: bool = False) -> None:
        """Publishes a display's state, unless it follows too soon on another."""
        now = time.monotonic()
        if display.changed and (at_once or now >= display.shown_at + PAUSE):
            content = {"data": display.data, "metadata": {}, "transient": {"display_id": name}}
            # Front ends find a display by its name; nbclient does it only for what the cell that runs is said to publish.
            first = display.kind == "display_data"
            self._publish(display.kind, content, self.running.cell.message if self.running and not first else display.parent)
            display.kind, display.changed, display.shown_at = "update_display_data", False, now

    def _lose_displays(self) -> None:
        """The process that runs the cells has ended."""
        for name, display in self.displays.items():
            if display.lost:
                if "text/html" in display.data:
                    display.data["text/html"] += f"<p>{html.escape(display.lost)}</p>"
                display.data["text/plain"] = display.lost
                display.changed = True
            self._show(name, display, at_once=True)
        self.displays.clear()

    def _tick(self) -> None:
        now = time.monotonic()
        for name, display in self.displays.items():
            self._show(name, display)
        if self.running and self.running.advise_at and now >= self.running.advise_at:
            self.running.advise_at = None
            self._say(self.running.cell, NOT_LISTENING)
        if self.running:
            self._finish(self.running)


def _is_reply(frames: list[bytes], kind: str, to: str | None = None) -> bool:
    """Whether a message of evcxr's is an answer of that kind; and if an id is given, to the message that has it."""
    try:
        header, parent = (json.loads(frames[frames.index(DELIM) + part]) for part in (2, 3))
        return header["msg_type"] == kind and to in (None, parent["msg_id"])
    except (ValueError, LookupError, TypeError):
        return False


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:LONGEST_REASON]


@contextlib.contextmanager
def _survives() -> Iterator[None]:
    """A fault in what is added here costs that, not the kernel."""
    try:
        yield
    except Exception:
        traceback.print_exc()


def _url(connection: Mapping[str, Any], channel: str) -> str:
    between = ":" if connection["transport"] == "tcp" else "-"
    return f"{connection['transport']}://{connection['ip']}{between}{connection[f'{channel}_port']}"


def _received(endpoint: zmq.Socket[bytes]) -> list[list[bytes]]:
    """The messages that have arrived, but not those that arrive while they are looked at: others have their turn."""
    messages: list[list[bytes]] = []
    with contextlib.suppress(zmq.Again):
        while len(messages) < 100:
            messages.append(endpoint.recv_multipart(zmq.NOBLOCK))
    return messages
