"""A Rust kernel for the tests, started as Jupyter starts it."""

import contextlib
import json
import os
import pathlib
import re
import threading
import time

import pytest
from jupyter_client.manager import KernelManager

ROOT = pathlib.Path(__file__).resolve().parent.parent


class Kernel:
    def __init__(self, root=ROOT, **environment):
        self.manager = KernelManager(kernel_name="rust")
        # Another checkout has the same virtual environment, but a launcher of its own.
        self.manager.kernel_spec.argv[1] = str(root / "scripts/kernel.py")
        self.manager.start_kernel(cwd=root / "notebooks", env={**os.environ, **environment})
        self.client = self.manager.blocking_client()
        self.client.start_channels()
        try:
            self.client.wait_for_ready(timeout=300)
            self.pid = self.manager.provisioner.pid
            (self.folder,) = filter(pathlib.Path.is_dir, (root / ".lab/kernels").glob(f"*-{self.pid}-*"))
        except BaseException:
            self.end()
            raise

    def run(self, code, watch=lambda message: None):
        """Runs a cell; returns whether it succeeded, and all that it showed as text. Each message is also given to `watch`."""
        messages, shown = [], []

        def take(message):
            messages.append(message)
            watch(message)

        reply = self.client.execute_interactive(code, timeout=300, allow_stdin=False, output_hook=take)
        for content in [message["content"] for message in messages]:
            shown.append(content.get("text") or content.get("evalue") or json.dumps(content.get("data", "")))
            shown.extend(content.get("traceback", []))
        return reply["content"]["status"] == "ok", "\n".join(shown)

    def expect(self, code):
        succeeded, shown = self.run(code)
        assert succeeded, f"{code}\n{shown}"
        return shown

    def run_until(self, says, code):
        """Runs a cell and presses the stop button when it shows that; returns as `run`, and the seconds from there to its end."""
        pressed = []

        def watch(message):
            if not pressed and re.search(says, json.dumps(message["content"])):
                pressed.append(time.monotonic())
                threading.Thread(target=self.manager.interrupt_kernel).start()

        succeeded, shown = self.run(code, watch)
        assert pressed, f"{code} has not shown {says}:\n{shown}"
        return succeeded, shown, time.monotonic() - pressed[0]

    @contextlib.contextmanager
    def stop_pressed_after(self, seconds):
        """Presses the stop button after that time; gives a list that then gets the time of it."""
        pressed = []

        def press():
            pressed.append(time.monotonic())
            self.manager.interrupt_kernel()

        timer = threading.Timer(seconds, press)
        timer.start()
        try:
            yield pressed
        finally:
            timer.cancel()
            timer.join()

    def end(self):
        if self.manager.has_kernel:
            self.client.stop_channels()
            self.manager.shutdown_kernel()


@pytest.fixture
def start_kernel():
    """Starts kernels, which end with the test."""
    kernels = []

    def start(**options):
        kernels.append(Kernel(**options))
        return kernels[-1]

    yield start
    for kernel in kernels:
        kernel.end()  # again, where the test has ended it


@pytest.fixture(scope="module")
def kernel():
    """One for all tests of a module that leave it as good as new."""
    kernel = Kernel()
    yield kernel
    kernel.end()
