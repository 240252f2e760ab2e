"""The set-up and the launcher, without a kernel. `scripts/test` runs it."""

import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest
from jupyter_client.connect import write_connection_file

import execute
import kernel as launcher
from conftest import ROOT
from kernel_test import SCRIPTS, processes, within_seconds


def test_a_kernel_with_a_feature_does_not_load_the_library_without_it(tmp_path):
    """Unless the library was compiled with it, no kernel loads it when it starts."""
    code = """if True:
        import pathlib, sys
        import kernel
        kernel.STAMP, folder = map(pathlib.Path, sys.argv[1:])
        if not kernel.STAMP.exists():
            kernel.STAMP.write_text(kernel.fingerprint())
        kernel.configure(folder)
        print(kernel.LOAD_LIBRARY, kernel.fingerprint())
    """
    said, loads = {}, {}
    for features in ["", "cuda", "metal"]:
        folder = tmp_path / f"with {features}"
        command = [sys.executable, "-c", code, tmp_path / "stamp", folder]
        environment = {**os.environ, "MLM_LAB_FEATURES": features}
        done = subprocess.run(command, cwd=SCRIPTS, capture_output=True, text=True, check=True, env=environment)
        said[features], loads[features] = done.stdout, (folder / "config/prelude.rs").exists()
    assert loads == {"": True, "cuda": False, "metal": False}
    assert 'features = ["cuda"]' in said["cuda"] and 'features = ["metal"]' in said["metal"]
    assert len({line.split()[-1] for line in said.values()}) == 3, "the warm folder knows the features"


def test_the_library_is_compiled_anew_when_cargo_would_do_it(monkeypatch, tmp_path):
    """Where it is newer than its result, whatever its content. If setup did not do it, each kernel would."""
    monkeypatch.setattr(launcher, "ROOT", tmp_path)
    (tmp_path / "mlm_core/src/figures").mkdir(parents=True)
    (tmp_path / "Cargo.lock").touch()
    (tmp_path / "mlm_core/Cargo.toml").touch()
    for name in ("lib.rs", "figures/view.js"):
        file = tmp_path / "mlm_core/src" / name
        file.write_text("1")
        before = launcher.fingerprint()
        assert launcher.fingerprint() == before
        file.write_text("2")
        os.utime(file, (1, 1))
        changed = launcher.fingerprint()
        os.utime(file, (2, 2))
        assert len({before, changed, launcher.fingerprint()}) == 3, name


def test_a_kernel_cannot_change_the_folder_that_it_starts_from(monkeypatch, tmp_path):
    warm, folder = tmp_path / "warm", tmp_path / "kernel"
    monkeypatch.setattr(launcher, "WARM", warm)
    monkeypatch.setattr(launcher, "STAMP", tmp_path / "stamp")
    launcher.STAMP.touch()
    large, small = 100_000 * b"0", b"0"
    files = {"Cargo.lock": large, "target/deps/lib.rlib": large, "target/deps/lib.d": small}
    files |= {f"target/incremental/{crate}-1/code.bc": large for crate in ("ctx", "mlm_core")}
    for name, content in files.items():
        (warm / name).parent.mkdir(parents=True, exist_ok=True)
        (warm / name).write_bytes(content)
    (warm / launcher.CONNECTION).write_text("of the kernel that made the folder")
    folder.mkdir()
    (folder / launcher.CONNECTION).write_text("its own")
    launcher.seed(folder)
    assert (folder / launcher.CONNECTION).read_text() == "its own"
    (folder / launcher.CONNECTION).unlink()
    copied = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    assert files.keys() - copied.keys() == {"target/incremental/mlm_core-1/code.bc"}
    assert {name for name, path in copied.items() if path.samefile(warm / name)} == {"target/deps/lib.rlib"}


def test_the_ports_of_a_kernel_are_lent_to_nobody_else(monkeypatch):
    """Systems lend ports from 32768 on; evcxr ends where one of its own is taken before it listens."""
    ports = set(launcher.own_ports().values())
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", min(ports)))
        beside_taken = set(launcher.own_ports().values())
    another = os.getpid() + 1_000
    monkeypatch.setattr(os, "getpid", lambda: another)
    of_another = set(launcher.own_ports().values())
    assert [len(each) for each in (ports, beside_taken, of_another)] == [5, 5, 5]
    assert max(ports | beside_taken | of_another) < 32_768
    assert min(ports) not in beside_taken and not ports & of_another


def test_the_ports_that_jupyter_has_chosen_are_taken_before_the_folder_is_copied(tmp_path):
    connection, chosen = write_connection_file(str(tmp_path / "connection.json"))
    code = """if True:
        import socket, sys
        import kernel
        connection, *ports = sys.argv[1:]

        def seed(folder):
            for port in ports:
                socket.create_connection(("127.0.0.1", int(port))).close()
            sys.exit("it listens")

        kernel.seed = seed
        kernel.run(connection)
    """
    ports = [str(port) for name, port in chosen.items() if name.endswith("_port")]
    done = subprocess.run([sys.executable, "-c", code, connection, *ports], cwd=SCRIPTS, capture_output=True, text=True)
    assert len(ports) == 5 and done.stderr == "it listens\n"


def test_the_sweep_takes_the_folders_of_dead_kernels_of_this_computer_only(monkeypatch, tmp_path):
    monkeypatch.setattr(launcher, "KERNELS", tmp_path)
    alive, lock = launcher.claim()
    dead, forgotten = launcher.claim()
    forgotten.close()
    foreign = tmp_path / "elsewhere-1-abc"
    foreign.mkdir()
    foreign.with_suffix(".lock").touch()
    for folder in (alive, dead, foreign):
        (folder / "file").touch()
    launcher.sweep()
    lock.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [alive.name, f"{alive.name}.lock", foreign.name, f"{foreign.name}.lock"]
    )


def test_a_launcher_whose_parent_dies_while_it_starts_ends_too(tmp_path):
    before = set(launcher.KERNELS.glob("*.lock"))
    # Starts the launcher as the leader of a group, as Jupyter does, waits until it makes its folder, and dies.
    parent = """if True:
        import os, pathlib, subprocess, sys, time
        launcher, kernels, connection = sys.argv[1:]
        child = subprocess.Popen([sys.executable, launcher, "run", connection], stdout=sys.stderr, start_new_session=True)
        while not list(pathlib.Path(kernels).glob(f"*-{child.pid}-*.lock")):
            time.sleep(0.001)
        print(child.pid)
    """
    connection, _ = write_connection_file(str(tmp_path / "connection.json"))
    command = [sys.executable, "-c", parent, SCRIPTS / "kernel.py", launcher.KERNELS, connection]
    pid = int(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
    try:
        assert within_seconds(20, lambda: processes(pid) == [])
        assert within_seconds(20, lambda: set(launcher.KERNELS.glob("*.lock")) <= before)
    finally:
        for left, _, _ in processes(pid):
            os.kill(left, signal.SIGKILL)


def copy_checkout(target):
    """The repository without what was built in it."""
    shutil.copytree(ROOT, target, ignore=shutil.ignore_patterns(".git", ".lab", "target", "__pycache__"))
    (target / ".lab/bin").mkdir(parents=True)
    return target


def test_a_notebook_that_fails_makes_the_command_fail(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["execute.py"])
    monkeypatch.setattr(execute, "execute", lambda path, write, solutions: not path.name.startswith("09"))
    with pytest.raises(SystemExit) as end:
        execute.main()
    assert end.value.code == 1


def test_help_is_an_answer():
    help = subprocess.run([SCRIPTS / "lab", "--help"], capture_output=True, text=True)
    assert (help.returncode, help.stderr) == (0, "") and "--execute" in help.stdout
    unknown = subprocess.run([SCRIPTS / "lab", "--nonsense"], capture_output=True, text=True)
    assert (unknown.returncode, unknown.stdout) == (2, "") and "--execute" in unknown.stderr


def test_a_second_set_up_waits_for_the_first():
    with (launcher.LAB / "setup.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        second = subprocess.Popen([SCRIPTS / "setup", "--cold"], stdout=subprocess.PIPE, text=True)
        assert "waiting for another set-up" in second.stdout.readline()
        time.sleep(1)
        assert second.poll() is None
    assert second.wait(timeout=60) == 0


@pytest.fixture
def bare_setup(tmp_path):
    """Runs the set-up of a checkout with nothing in it; what it would install, stubs note down."""
    checkout = copy_checkout(tmp_path / "checkout")
    (checkout / ".lab/.crates.toml").write_text('"evcxr_jupyter 0.22.0 (registry)" = ["evcxr_jupyter"]\n')
    stubs = tmp_path / "stubs"
    home = tmp_path / "cargo"
    (home / "bin").mkdir(parents=True)
    stubs.mkdir()
    log = tmp_path / "log"
    python = f"""#!/bin/sh
        echo "python3 $*" >> {log}
        case "$1 $2" in
        "-m venv") mkdir -p "$3/bin" && ln -s {stubs}/python "$3/bin/python" ;;
        "-c "*import*) exec {sys.executable} "$@" ;;
        "--version ") exec {sys.executable} "$@" ;;
        esac
    """
    cargo = f"""#!/bin/sh
        case "$*" in
        "install --list") [ ! -x {home}/bin/evcxr_jupyter ] || echo "evcxr_jupyter v0.22.0:" ;;
        *) echo "cargo $*" >> {log} ;;
        esac
    """
    for name, script in (("python3", python), ("python", python), ("cargo", cargo)):
        (stubs / name).write_text(script)
        (stubs / name).chmod(0o755)

    def run():
        log.write_text("")
        environment = {**os.environ, "PATH": f"{stubs}:{os.environ['PATH']}", "CARGO_HOME": str(home)}
        environment = {name: value for name, value in environment.items() if name not in ("MLM_LAB_LOCK", "CARGO_INSTALL_ROOT")}
        done = subprocess.run([checkout / "scripts/setup"], capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stdout + done.stderr
        return log.read_text()

    return run, checkout / ".lab", home


def test_a_virtual_environment_whose_python_has_gone_is_made_anew(bare_setup):
    run, lab, _ = bare_setup
    assert "-m venv" in run()
    assert "-m venv" not in run()
    (lab / "venv/bin/python").unlink()
    (lab / "venv/bin/python").symlink_to("/no/such/python")
    assert "-m venv" in run()


def test_a_kernel_that_the_user_has_is_used_as_it_is(bare_setup):
    run, lab, home = bare_setup
    assert "cargo install" not in run(), "the kernel is there already"
    own = home / "bin/evcxr_jupyter"
    own.write_text("")
    own.chmod(0o755)
    assert "cargo install" not in run()
    assert (lab / "bin/evcxr_jupyter").resolve() == own.resolve()
    own.unlink()
    assert "cargo install evcxr_jupyter --version 0.22.0" in run(), "the user has removed it"
