"""Who the proxy talks to, as far as its tests need them: evcxr and the library."""

import json
import socket
import time
from typing import Any

import zmq
from jupyter_client.session import Session

from cells import Message
from proxy import Proxy

SECONDS = 10  # after which a message is missing


class Kernel:
    """Evcxr's side, where the test is evcxr."""

    def __init__(self, connection: dict[str, Any]) -> None:
        self.session = Session(key=connection["key"].encode())
        self.context = zmq.Context()
        self.sockets: dict[str, zmq.Socket[bytes]] = {}
        for channel in ("shell", "control", "stdin", "iopub"):
            self.sockets[channel] = self.context.socket(zmq.PUB if channel == "iopub" else zmq.ROUTER)
            self.sockets[channel].bind(f"tcp://127.0.0.1:{connection[f'{channel}_port']}")

    def take(self, channel: str = "shell", seconds: float = SECONDS) -> Message | None:
        """The next message, with whom to answer; None where none comes."""
        if not self.sockets[channel].poll(int(1000 * seconds)):
            return None
        identities, parts = self.session.feed_identities(self.sockets[channel].recv_multipart())
        return {**self.session.deserialize(parts), "identities": identities}

    def greet(self) -> None:
        """Answers as long as greetings come: the proxy waits until it hears what is published."""
        while message := self.take(seconds=0.6):
            self.publish(message, "status", execution_state="busy")
            self.answer(message, status="ok")
            self.publish(message, "status", execution_state="idle")

    def answer(self, message: Message, channel: str = "shell", **content: Any) -> None:
        kind = message["msg_type"].replace("_request", "_reply")
        self.session.send(self.sockets[channel], kind, content, parent=message, ident=message["identities"])

    def publish(self, message: Message, kind: str, **content: Any) -> None:
        self.session.send(self.sockets["iopub"], kind, content, parent=message)

    def run(self, **content: Any) -> str:
        """Takes a cell and answers to it as evcxr does; returns its code."""
        message = self.take()
        assert message, "no cell has come"
        time.sleep(0.1)  # evcxr compiles
        self.publish(message, "status", execution_state="busy")
        self.publish(message, "execute_input", code=message["content"]["code"], execution_count=2)
        self.answer(message, **{"status": "ok", "execution_count": 2, **content})
        self.publish(message, "status", execution_state="idle")
        return str(message["content"]["code"])

    def close(self) -> None:
        self.context.destroy(linger=0)


class Library:
    """The library's side."""

    def __init__(self, proxy: Proxy, secret: str | None = None) -> None:
        port, right = proxy.environment()["MLM_KERNEL"].split()
        self.socket = socket.create_connection(("127.0.0.1", int(port)))
        self.socket.settimeout(SECONDS)
        self.socket.sendall(f"{secret or right}\n".encode())
        self.lines = self.socket.makefile("r")
        time.sleep(0.2)  # until it is let in

    def say(self, **message: Any) -> None:
        self.socket.sendall(f"{json.dumps(message)}\n".encode())

    def hears(self) -> str:
        """The next word; none where the connection is closed."""
        try:
            return self.lines.readline().strip()
        except ConnectionResetError:
            return ""
