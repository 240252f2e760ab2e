"""A Rust kernel for the tests, started as Jupyter starts it."""

import json
import os
import pathlib
import queue

import pytest
from jupyter_client.manager import KernelManager

from stderr_fence import PATIENCE, StderrFence

ROOT = pathlib.Path(__file__).resolve().parent.parent


class Kernel:
    def __init__(self, root=ROOT, **environment):
        self.manager = KernelManager(kernel_name="rust")
        # Another checkout has the same virtual environment, but a launcher of its own.
        self.manager.kernel_spec.argv[1] = str(root / "scripts/kernel.py")
        self.manager.start_kernel(cwd=root / "notebooks", env={**os.environ, **environment})
        self.client = self.manager.blocking_client()
        self.client.start_channels()
        self.fence = StderrFence()
        try:
            self.client.wait_for_ready(timeout=300)
            self.pid = self.manager.provisioner.pid
            (self.folder,) = filter(pathlib.Path.is_dir, (root / ".lab/kernels").glob(f"*-{self.pid}-*"))
            self._execute(self.fence.code)
        except BaseException:
            self.end()
            raise

    def run(self, code):
        """Runs a cell; returns whether it succeeded, and all that it showed as text."""
        messages = []
        succeeded = self._execute(code, messages.append)
        if succeeded:
            messages.extend(self._late_messages())
        # A panic or a failed `?` is no error to the kernel: it only says so on stderr.
        complained = any(message["content"].get("name") == "stderr" for message in messages)
        shown = []
        for content in [message["content"] for message in messages]:
            shown.append(content.get("text") or content.get("evalue") or json.dumps(content.get("data", "")))
            shown.extend(content.get("traceback", []))
        return succeeded and not complained, "\n".join(shown)

    def expect(self, code):
        succeeded, shown = self.run(code)
        assert succeeded, f"{code}\n{shown}"
        return shown

    def end(self):
        if self.manager.has_kernel:
            self.fence.close()
            self.client.stop_channels()
            self.manager.shutdown_kernel()

    def _execute(self, code, output_hook=lambda message: None):
        reply = self.client.execute_interactive(code, timeout=300, allow_stdin=False, output_hook=output_hook)
        return reply["content"]["status"] == "ok"

    def _late_messages(self):
        """What the kernel says of a cell after it has called it done."""
        self.fence.ask()
        while True:
            try:
                message = self.client.get_iopub_msg(timeout=PATIENCE)
            except queue.Empty:
                pytest.fail("the process that runs the cells does not answer")
            if self.fence.is_answer(message):
                return
            if message["msg_type"] == "stream":
                yield message


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
