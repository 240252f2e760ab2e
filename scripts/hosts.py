"""Two machines that are none: network namespaces of this one, with a link between them. Takes Linux, root and iproute2."""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
from collections.abc import Iterator

# In a container one may be root, who may not start Open MPI unless these are set.
AS_ROOT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
ADDRESSES = ["10.77.0.1", "10.77.0.2"]
# Its name on each.
LINK = "wire"
# mpirun starts a process on a machine as ssh would: options, the machine, a command.
AGENT = """#!/bin/sh
while [ "${1#-}" != "$1" ]; do shift; done
machine=$1
shift
exec nsenter --target "$(cat "$(dirname "$0")/$machine")" --net --uts --mount sh -c "$*"
"""


class Hosts:
    """Where they are: `folder` holds what mpirun needs."""

    def __init__(self, folder: pathlib.Path, processes: list[int]) -> None:
        self.folder = folder
        self.processes = processes

    def enter(self, nth: int) -> list[str]:
        """What stands before a command on one of them."""
        return ["nsenter", "--target", str(self.processes[nth]), "--net", "--uts", "--mount"]

    def mpirun(self, mpi: pathlib.Path) -> list[str]:
        """The mpirun of an MPI, Open MPI or MPICH, with a process on each."""
        if (mpi / "prterun").exists():
            where = ["--hostfile", f"{self.folder}/hosts", "--prtemca", "plm_ssh_agent", f"{self.folder}/agent", "--bind-to", "none"]
        else:
            where = ["-hosts", ",".join(ADDRESSES), "-launcher", "ssh", "-launcher-exec", f"{self.folder}/agent"]
            # It would see that they are one, and take shared memory.
            where += ["-genv", "UCX_TLS", "tcp,self", "-genv", "UCX_NET_DEVICES", LINK]
        return [*self.enter(0), str(mpi / "mpirun"), *where, "-n", str(len(self.processes))]

    def limit(self, mbits: float) -> None:
        """From now on the link takes so many megabits a second, each way."""
        for nth in range(len(self.processes)):
            shape = ["tc", "qdisc", "replace", "dev", LINK, "root", "tbf", "rate", f"{mbits}mbit", "burst", "70kb", "limit", "64mb"]
            run(*self.enter(nth), *shape)


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


@contextlib.contextmanager
def two_hosts(folder: pathlib.Path, delay: float = 0.0) -> Iterator[Hosts]:
    """The two, while it is entered. What one sends is there after `delay` seconds.

    Raises an OSError or a CalledProcessError where the system does not let them be made.
    """
    with contextlib.ExitStack() as stack:
        processes = []
        for nth, address in enumerate(ADDRESSES):
            # MPICH looks for the link in /sys. What is said says that the namespaces are there.
            begin = f"mount -t sysfs none /sys && hostname host{nth} && echo && exec sleep infinity"
            command = ["unshare", "--net", "--uts", "--mount", "sh", "-c", begin]
            host = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL))
            stack.callback(host.kill)
            assert host.stdout
            if not host.stdout.readline():
                raise PermissionError("no namespaces can be made here")
            processes.append(host.pid)
            (folder / address).write_text(str(host.pid))
        first, second = (str(process) for process in processes)
        if delay:
            command = [sys.executable, str(pathlib.Path(__file__).with_name("relay.py")), first, second, LINK, str(delay)]
            relay = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True))
            stack.callback(os.killpg, relay.pid, signal.SIGKILL)
            assert relay.stdout
            if not relay.stdout.readline():
                raise PermissionError("no network devices can be made here")
        else:
            run("ip", "link", "add", LINK, "netns", first, "type", "veth", "peer", "name", LINK, "netns", second)
        hosts = Hosts(folder, processes)
        for nth, address in enumerate(ADDRESSES):
            for words in [f"addr add {address}/24 dev {LINK}", f"link set {LINK} up", "link set lo up"]:
                run(*hosts.enter(nth), "ip", *words.split())
        # The system takes up to a second to see that both ends are up; MPICH does not wait for it.
        for nth in range(len(ADDRESSES)):
            run(*hosts.enter(nth), "sh", "-c", f"until grep -qE 'up|unknown' /sys/class/net/{LINK}/operstate; do sleep 0.05; done")
        (folder / "hosts").write_text("".join(f"{address} slots=1\n" for address in ADDRESSES))
        (folder / "agent").write_text(AGENT)
        (folder / "agent").chmod(0o755)
        yield hosts
