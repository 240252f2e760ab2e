"""Rust kernels for the tests, started as Jupyter starts them."""

import concurrent.futures
import contextlib
import hashlib
import json
import os
import pathlib
import re
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from jupyter_client.asynchronous import AsyncKernelClient
from jupyter_client.manager import KernelManager
from jupyter_client.provisioning import LocalProvisioner

from cells import Message
from execute import execute

ROOT = pathlib.Path(__file__).resolve().parent.parent
WARM = ROOT / ".lab/warm"
# Cargo asks where nobody listens: no test needs a network.
WITHOUT_NETWORK = {"CARGO_HTTP_PROXY": "127.0.0.1:9"}


class Kernel:
    def __init__(self, root: pathlib.Path = ROOT, **environment: str) -> None:
        self.manager = KernelManager(kernel_name="rust")
        # Another checkout has the same virtual environment, but a launcher of its own.
        spec = self.manager.kernel_spec
        assert spec, "run scripts/setup"
        spec.argv[1] = str(root / "scripts/kernel.py")
        self.manager.start_kernel(cwd=root / "notebooks", env={**os.environ, **environment})
        self.client = self.manager.blocking_client()
        self.client.start_channels()
        try:
            self.client.wait_for_ready(timeout=300)
            assert isinstance(self.manager.provisioner, LocalProvisioner)
            self.pid = self.manager.provisioner.pid
            (self.folder,) = filter(pathlib.Path.is_dir, (root / ".lab/kernels").glob(f"*-{self.pid}-*"))
        except BaseException:
            self.end()
            raise

    def run(self, code: str, watch: Callable[[Message], None] = lambda message: None) -> tuple[bool, str]:
        """Runs a cell; returns whether it succeeded, and all that it showed as text. Each message is also given to `watch`."""
        messages: list[Message] = []
        shown: list[str] = []

        def take(message: Message) -> None:
            messages.append(message)
            watch(message)

        reply = self.client.execute_interactive(code, timeout=300, allow_stdin=False, output_hook=take)
        for content in [message["content"] for message in messages]:
            shown.append(content.get("text") or content.get("evalue") or json.dumps(content.get("data", "")))
            shown.extend(content.get("traceback", []))
        return reply["content"]["status"] == "ok", "\n".join(shown)

    def expect(self, code: str) -> str:
        succeeded, shown = self.run(code)
        assert succeeded, f"{code}\n{shown}"
        return shown

    def play(self, path: pathlib.Path) -> bool:
        """Runs a notebook from top to bottom, as `scripts/lab --execute` does; returns whether all its cells ran."""
        self.manager.client_factory = AsyncKernelClient  # what nbclient speaks with
        return execute(path, manager=self.manager)

    def run_until(self, says: str, code: str) -> tuple[bool, str, float]:
        """Runs a cell and presses the stop button when it shows that; returns as `run`, and the seconds from there to its end."""
        pressed: list[float] = []

        def watch(message: Message) -> None:
            if not pressed and re.search(says, json.dumps(message["content"])):
                pressed.append(time.monotonic())
                threading.Thread(target=self.manager.interrupt_kernel).start()

        succeeded, shown = self.run(code, watch)
        assert pressed, f"{code} has not shown {says}:\n{shown}"
        return succeeded, shown, time.monotonic() - pressed[0]

    @contextlib.contextmanager
    def stop_pressed_after(self, seconds: float) -> Iterator[list[float]]:
        """Presses the stop button after that time; gives a list that then gets the time of it."""
        pressed: list[float] = []

        def press() -> None:
            pressed.append(time.monotonic())
            self.manager.interrupt_kernel()

        timer = threading.Timer(seconds, press)
        timer.start()
        try:
            yield pressed
        finally:
            timer.cancel()
            timer.join()

    def clear(self) -> None:
        """Leaves no variables, no library, and another process to run the cells; what was compiled stays."""
        self.expect(":clear")

    def is_alive(self) -> bool:
        return self.manager.has_kernel and self.manager.is_alive()

    def end(self) -> None:
        if self.manager.has_kernel:
            self.client.stop_channels()
            self.manager.shutdown_kernel()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What shares a kernel as others have left it is run one after the other, in one process or several. Those groups, which
    take long, come before the rest, which then fills up what time is left in each process. To start a kernel takes long as
    well, so who ends one is the last of its group."""

    def order(item: pytest.Item) -> tuple[str, bool]:
        group = item.get_closest_marker("xdist_group")
        return group.args[0] if group else "", item.get_closest_marker("ends_a_kernel") is None

    items.sort(key=order, reverse=True)


@pytest.fixture
def start_kernel() -> Iterator[Callable[..., Kernel]]:
    """Starts kernels, which end with the test."""
    kernels: list[Kernel] = []

    def start(**options: Any) -> Kernel:
        kernels.append(Kernel(**options))
        return kernels[-1]

    yield start
    for kernel in kernels:
        kernel.end()  # again, where the test has ended it


def digest(folder: pathlib.Path) -> dict[pathlib.Path, str]:
    """The content of all files below a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="session")
def warm() -> dict[pathlib.Path, str]:
    """What the folder that kernels start from was like before the first one did."""
    return digest(WARM)


@pytest.fixture(scope="session")
def started(warm: dict[pathlib.Path, str]) -> Iterator[list[Kernel]]:
    """The kernels that all tests of a process share."""
    kernels: list[Kernel] = []
    yield kernels
    for kernel in kernels:
        kernel.end()


@pytest.fixture(scope="session")
def as_new(started: list[Kernel]) -> Callable[[int], list[Kernel]]:
    """Gives so many kernels, without variables and without a library. Those that other tests have used are there at once."""

    def give(count: int) -> list[Kernel]:
        for kernel in [kernel for kernel in started if not kernel.is_alive()]:
            started.remove(kernel)
            kernel.end()
        missing = max(0, count - len(started))
        with concurrent.futures.ThreadPoolExecutor() as pool:
            started.extend(pool.map(lambda _: Kernel(ROOT, **WITHOUT_NETWORK), range(missing)))
        for kernel in started[:count]:
            kernel.clear()
        return started[:count]

    return give


@pytest.fixture
def kernel(as_new: Callable[[int], list[Kernel]]) -> Kernel:
    """One of them."""
    return as_new(1)[0]
