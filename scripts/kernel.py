"""The Rust kernel as this repository runs it.

    kernel.py install            write the kernelspec `rust` into the virtual environment
    kernel.py warm               compile the library once, in .lab/warm, for all kernels to start from
    kernel.py run CONNECTION     run a kernel (Jupyter calls this)

A kernel compiles each cell, and before the first one everything that the notebook depends on: two minutes and more. So each
kernel gets a build folder of its own, made from the warm one in an instant, and removed when the kernel ends. And it
loads the library, and what it needs to infer the types of variables, while it starts: that takes 10 to 30 seconds, which
would otherwise be spent in the first two cells, when the student is waiting.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import pathlib
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from typing import IO, Any, NoReturn

from jupyter_client.connect import write_connection_file

from proxy import Proxy

ROOT = pathlib.Path(__file__).resolve().parent.parent
LAB = ROOT / ".lab"
WARM = LAB / "warm"
STAMP = LAB / "warm.stamp"
KERNELS = LAB / "kernels"
SPEC = pathlib.Path(sys.prefix) / "share/jupyter/kernels/rust"
HOST = re.sub(r"[^A-Za-z0-9]", "_", platform.node())

# Set where the kernel is to compile in the warm folder itself.
IN_WARM_FOLDER = "MLM_LAB_WARM"
# In a kernel's folder, how the launcher and evcxr speak with each other.
CONNECTION = "connection.json"
# How the kernels compile. The library gets all optimisations; the code of a cell gets none, which halves the time that a
# cell takes to compile and costs nothing where the library does the work. For a loop of one's own: `:opt 3`.
CARGO_CONFIG = """\
[profile.dev]
overflow-checks = false
debug-assertions = false

[profile.dev.package."*"]
opt-level = 3
"""
KERNEL_CONFIG = """\
[evcxr]
opt_level = "0"
"""
# Features of the library that the notebooks use: `cuda` or `metal`; see README.md.
FEATURES = os.environ.get("MLM_LAB_FEATURES", "").split()


def quoted(value: str | list[str]) -> str:
    """Strings as Rust and TOML write them. Letters outside ASCII stay: Rust does not know JSON's `\\u00e9`."""
    return json.dumps(value, ensure_ascii=False)


# What a kernel runs when it starts. It has then built a crate without dependencies already, whereby cargo emptied the
# lock file, as with each cell before the library is loaded; put back, it keeps the kernel to the versions that the
# repository was tested with, and off the network.
RESTORE_LOCK = "std::fs::copy({source}, {target}).unwrap();\n"
# Cargo looks at everything again where the notebook's own line says something else, `features = []` included.
WITH_FEATURES = f", features = {quoted(FEATURES)}" if FEATURES else ""
LOAD_LIBRARY = f":dep mlm_core = {{ path = {quoted(str(ROOT / 'mlm_core'))}{WITH_FEATURES} }}\n"
# The variable makes the kernel load its type inference; it does not outlive the line.
LOAD_INFERENCE = "let ready = vec![0u8]; drop(ready);\n"
ATTACH = "mlm_core::attach_to_launcher();\n"
# The kernel would read the sources of the standard library for the crate without dependencies, and once more with ours: three
# seconds. Until it loads ours they seem to lie in an empty folder; when that has gone, the kernel finds them itself.
FIND_STANDARD_LIBRARY = "std::fs::remove_dir_all({empty}).unwrap();\n"


def install() -> None:
    SPEC.mkdir(parents=True, exist_ok=True)
    spec = {
        "argv": [sys.executable, str(pathlib.Path(__file__).resolve()), "run", "{connection_file}"],
        "display_name": "Rust",
        "language": "rust",
        "interrupt_mode": "message",
    }
    (SPEC / "kernel.json").write_text(json.dumps(spec, indent=2) + "\n", encoding="utf-8")
    # Cargo reads it in all folders below.
    (LAB / ".cargo").mkdir(exist_ok=True)
    (LAB / ".cargo/config.toml").write_text(CARGO_CONFIG)
    # JupyterLab asks on its first start whether it may fetch news; a class need not answer.
    settings = pathlib.Path(sys.prefix) / "etc/jupyter/labconfig/page_config.json"
    settings.parent.mkdir(parents=True, exist_ok=True)
    settings.write_text('{ "disabledExtensions": { "@jupyterlab/apputils-extension:announcements": true } }\n')


def fingerprint() -> str:
    """Changes when the warm folder must be compiled anew. Cargo compiles what is newer than its result, also when its content
    is the same, as after a change that was taken back; if setup did not, each kernel would."""
    digest = hashlib.sha256()
    sources = sorted(path for path in (ROOT / "mlm_core/src").rglob("*") if path.is_file())
    for file in [ROOT / "Cargo.lock", ROOT / "mlm_core/Cargo.toml", *sources]:
        digest.update(f"{file.relative_to(ROOT)} {file.stat().st_mtime_ns} ".encode() + file.read_bytes() + b"\0")
    digest.update(json.dumps([CARGO_CONFIG, KERNEL_CONFIG, RESTORE_LOCK, LOAD_LIBRARY, LOAD_INFERENCE]).encode())
    digest.update(subprocess.run(["rustc", "-vV"], capture_output=True, check=True).stdout)
    kernel = (LAB / "bin/evcxr_jupyter").resolve()
    digest.update(f"{kernel} {kernel.stat().st_size} {kernel.stat().st_mtime_ns}".encode())
    return digest.hexdigest()


def is_warm(current: str) -> bool:
    return STAMP.exists() and STAMP.read_text() == current


def warm() -> None:
    current = fingerprint()
    if is_warm(current):
        return
    from jupyter_client.manager import KernelManager

    STAMP.unlink(missing_ok=True)
    WARM.mkdir(parents=True, exist_ok=True)
    print("setup: compiling the library for the notebooks (2 to 9 minutes on 2 cores, once)", flush=True)
    done = threading.Event()
    progress = threading.Thread(target=show_progress, args=(done,))
    progress.start()
    manager = KernelManager(kernel_name="rust")
    output: list[Any] = []
    try:
        manager.start_kernel(cwd=ROOT / "notebooks", env={**os.environ, IN_WARM_FOLDER: "1"})
        client = manager.blocking_client()
        client.start_channels()
        client.wait_for_ready(timeout=300)
        reply = client.execute_interactive(
            LOAD_LIBRARY + LOAD_INFERENCE,
            timeout=None,
            allow_stdin=False,
            output_hook=lambda message: output.append(message["content"]),
        )
        client.stop_channels()
    finally:
        done.set()
        progress.join()
        manager.shutdown_kernel(now=True)
    if reply["content"]["status"] != "ok":
        sys.exit(f"setup: the kernel could not load the library:\n{json.dumps(output, indent=2)}")
    STAMP.write_text(current)


def show_progress(done: threading.Event) -> None:
    """Says how many crates are compiled: in place on a terminal, else a line now and then."""
    in_place = sys.stdout.isatty()
    start = time.monotonic()
    while not done.wait(1 if in_place else 15):
        planned = {path.name.rsplit("-", 1)[0] for path in WARM.glob("target/**/.fingerprint/*")}
        compiled = {path.stem.rsplit("-", 1)[0] for path in WARM.glob("target/**/deps/lib*.*") if path.suffix != ".d"}
        line = f"setup: {len(compiled)} of about {len(planned)} crates, {time.monotonic() - start:.0f} s"
        print(f"\r{line} " if in_place else line, end="" if in_place else "\n", flush=True)
    if in_place:
        print()


def run(connection_file: str) -> NoReturn:
    parent = os.getppid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))
    folder = WARM
    lock: IO[bytes] | None = None
    kernel: subprocess.Popen[bytes] | None = None
    proxy: Proxy | None = None
    try:
        if IN_WARM_FOLDER not in os.environ:
            folder, lock = claim()
        front = json.loads(pathlib.Path(connection_file).read_text(encoding="utf-8"))
        own_file, back = write_connection_file(str(folder / CONNECTION), key=front["key"].encode(), **own_ports())
        # Before the copy: the ports that Jupyter has chosen are free to be lent to others until something listens there.
        proxy = Proxy(front, back, lambda: attach(folder))
        if lock:
            sweep()
            seed(folder)
        kernel = subprocess.Popen(
            [LAB / "bin/evcxr_jupyter", "--control_file", own_file],
            env={**os.environ, **configure(folder), **proxy.environment()},
            stdout=subprocess.DEVNULL,
        )
        # When the parent is another, Jupyter died without ending its kernels.
        proxy.serve(lambda: kernel.poll() is None and os.getppid() == parent)
        sys.exit(kernel.poll())
    finally:
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        if proxy:
            proxy.close()
        if kernel:
            end_group(kernel)
        if lock:
            # In a session of its own: Jupyter kills a kernel that takes more than a few seconds to end.
            subprocess.Popen(["rm", "-rf", folder, lock.name], start_new_session=True)


def own_ports() -> dict[str, Any]:
    """Ports for evcxr, which takes them a while later and ends where one is taken by then. A free port that a system lends may
    be lent again, to another kernel or a connection, as soon as it is let go; so these lie below all that systems lend (Linux:
    from 32768 on, others from 49152), and kernels that start at the same time look for theirs in different places."""
    names = ["shell_port", "iopub_port", "stdin_port", "control_port", "hb_port"]
    ports: dict[str, Any] = {}
    for port in range(20_000 + len(names) * os.getpid() % 10_000, 32_768):
        with contextlib.suppress(OSError), socket.socket() as trial:
            trial.bind(("127.0.0.1", port))
            ports[names[len(ports)]] = port
        if len(ports) == len(names):
            break
    return ports


def configure(folder: pathlib.Path) -> dict[str, str]:
    """Writes how the kernel of a folder starts; returns the environment that it needs."""
    config = folder / "config"
    config.mkdir(parents=True, exist_ok=True)
    (config / "evcxr.toml").write_text(KERNEL_CONFIG)
    # A start-up of our own instead of the user's, which could add dependencies.
    environment = {"EVCXR_TMPDIR": str(folder), "EVCXR_CONFIG_DIR": str(config)}
    lock = [quoted(str(place / "Cargo.lock")) for place in (ROOT, folder)]
    start = RESTORE_LOCK.format(source=lock[0], target=lock[1])
    # When the library has changed since the warm folder was made, the notebook's `:dep` compiles it and shows its errors.
    if folder != WARM and is_warm(fingerprint()):
        (config / "prelude.rs").write_text(LOAD_LIBRARY + LOAD_INFERENCE + ATTACH, encoding="utf-8")
        empty = config / "standard_library"
        (empty / "core").mkdir(parents=True)  # what rust-analyzer knows it by
        start += FIND_STANDARD_LIBRARY.format(empty=quoted(str(empty)))
        environment["RUST_SRC_PATH"] = str(empty)
    (config / "init.evcxr").write_text(start, encoding="utf-8")
    return environment


def attach(folder: pathlib.Path) -> str:
    """What connects the library where no prelude has done it: it has changed since the set-up, or after `:clear`."""
    lock = folder / "Cargo.lock"
    with contextlib.suppress(OSError):  # without it cargo looks for versions itself
        if '"mlm_core"' not in lock.read_text(encoding="utf-8"):  # else it may have packages of the notebook's own as well
            shutil.copyfile(ROOT / "Cargo.lock", lock)
    return LOAD_LIBRARY + ATTACH


def end_group(kernel: subprocess.Popen[bytes]) -> None:
    """Ends the kernel and the process that runs the cells, which would finish its cell first, however long it takes.
    Jupyter starts each kernel in a process group of its own."""
    kernel.kill()
    kernel.wait()
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpgrp(), signal.SIGTERM)


def claim() -> tuple[pathlib.Path, IO[bytes]]:
    """Makes a folder for a kernel, and a lock file beside it that is held as long as the kernel runs."""
    KERNELS.mkdir(exist_ok=True)
    while True:
        lock = tempfile.NamedTemporaryFile(dir=KERNELS, prefix=f"{HOST}-{os.getpid()}-", suffix=".lock", delete=False)
        hold(lock)
        if pathlib.Path(lock.name).exists():  # else another kernel has swept it away before it was held
            folder = pathlib.Path(lock.name).with_suffix("")
            folder.mkdir()
            return folder, lock


def hold(lock: IO[Any]) -> bool:
    """Takes a lock that the system gives back when the process ends; returns whether nobody else has it."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except OSError:
        return False


def seed(folder: pathlib.Path) -> None:
    """Copies the warm folder. Large files of the compiler are linked, not copied: it replaces a file when it changes. Cargo
    writes over its own notes, which are small, and the compiler over what it keeps for its next run, so these must be copies;
    what it keeps of the library is left out, for it is large, and no cell needs it, and so is where the warm kernel listened."""
    if not STAMP.exists():  # not made yet, or just being made
        return
    target = str(WARM / "target")

    def copy(source: str, copied: str) -> None:
        is_result = source.startswith(target) and "/incremental/" not in source.removeprefix(target)
        if is_result and pathlib.Path(source).stat().st_size > 65536:
            try:
                os.link(source, copied)
                return
            except OSError:  # a file system without links
                pass
        shutil.copy2(source, copied)

    def leave_out(place: str, names: list[str]) -> list[str]:
        kept_by_compiler = place.endswith("/incremental")
        return [name for name in names if name == CONNECTION or (kept_by_compiler and name.startswith("mlm_core-"))]

    shutil.copytree(WARM, folder, copy_function=copy, ignore=leave_out, symlinks=True, dirs_exist_ok=True)


def sweep() -> None:
    """Removes the folders of kernels that were killed before they could do it. Those of another computer that shares
    the folder stay: whether it holds their locks cannot be seen from everywhere."""
    for path in KERNELS.glob(f"{HOST}-*.lock"):
        try:
            lock = path.open()
        except OSError:  # its kernel has just ended
            continue
        with lock:
            if hold(lock):
                shutil.rmtree(path.with_suffix(""), ignore_errors=True)
                path.unlink(missing_ok=True)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["install"]:
            install()
        case ["warm"]:
            warm()
        case ["run", connection_file]:
            run(connection_file)
        case _:
            sys.exit(__doc__)
