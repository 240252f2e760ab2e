"""Trainings of several processes, with each MPI that `scripts/mpi` has installed. `scripts/test` runs it."""

import contextlib
import filecmp
import os
import pathlib
import random
import signal
import subprocess
import time

import pytest

from conftest import ROOT
from hosts import AS_ROOT, two_hosts

# Open MPI starts no more processes than there are cores unless it is told to.
ENVIRONMENT = {
    **os.environ,
    **AS_ROOT,
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    "PRTE_MCA_hwloc_default_binding_policy": "none",
}
STORIES = ["--corpus", str(ROOT / "data/stories.txt"), "--vocab-size", "1200", "--batch-size", "32", "--validation", "0.02"]
FIVE = ["--corpus", str(ROOT / "data/five_sentences.txt"), "--batch-size", "5", "--validation", "0"]
LAB = [*FIVE, "--repeat", "200"]


@pytest.fixture(scope="module", params=["openmpi", "mpich"])
def mpi(request):
    """The folder with mpirun and an mlm that is made for it."""
    if not (ROOT / ".lab" / request.param / "bin/mpirun").exists():
        pytest.skip(f"no {request.param}: MPI={request.param} scripts/mpi --build installs it")
    built = subprocess.run([ROOT / "scripts/mpi", "--build"], env={**ENVIRONMENT, "MPI": request.param}, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return pathlib.Path(built.stdout.splitlines()[0]).parent


def train(mpi, ranks, threads, out, *options):
    """The command of a training."""
    launcher = [mpi / "mpirun", "-n", str(ranks)] if ranks > 1 else []
    return [*launcher, mpi / "mlm", "train", "--threads", str(threads), "--out", out, *options]


def run(command, **options):
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=120, **options)


def same_models(*runs):
    return all(filecmp.cmp(runs[0] / "model.safetensors", run / "model.safetensors", shallow=False) for run in runs)


@pytest.mark.parametrize("text", [STORIES, LAB], ids=["stories", "lab"])
def test_all_shapes_of_four_threads_have_the_same_bits(mpi, text, tmp_path):
    runs = []
    for ranks, threads in [(1, 4), (2, 2), (4, 1)]:
        runs.append(tmp_path / f"{ranks}x{threads}")
        done = run(train(mpi, ranks, threads, runs[-1], *text, "--epochs", "1"))
        assert done.returncode == 0, done.stderr
    assert same_models(*runs)


def processes(mpi, out):
    """Those of the ranks that train into a folder."""
    found = subprocess.run(["pgrep", "-f", f"^{mpi}/mlm train.*{out}"], capture_output=True, text=True, check=True)
    return [int(process) for process in found.stdout.split()]


def test_a_large_text_is_read_where_the_first_rank_has_put_it(mpi, tmp_path):
    text = tmp_path / "large.txt"
    text.write_bytes(80 * (ROOT / "data/stories.txt").read_bytes())
    options = ["--corpus", text, "--validation", "0.01", "--epochs", "1", "--batch-size", "256", "--d-model", "32", "--layers", "1"]
    one, two = tmp_path / "one", tmp_path / "two"
    for ranks, threads, out in [(1, 2, one), (2, 1, two)]:
        done = run(train(mpi, ranks, threads, out, *options))
        assert done.returncode == 0, done.stderr
    assert (two / "texts/train.ids").exists()
    assert same_models(one, two)


def checkpoints(out):
    return len(list((out / "checkpoints").glob("*.safetensors")))


def wait_for(condition):
    until = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < until, "it has not come about"
        time.sleep(0.01)


@pytest.mark.parametrize("signalled", [signal.SIGKILL, signal.SIGINT], ids=["killed", "interrupted"])
def test_what_ends_one_ends_all_and_the_training_goes_on(mpi, signalled, tmp_path):
    options = [*LAB, "--epochs", "8", "--checkpoint-seconds", "0.1"]
    whole, ended = tmp_path / "whole", tmp_path / "ended"
    assert run(train(mpi, 2, 1, whole, *options)).returncode == 0
    command = train(mpi, 2, 1, ended, *options)
    with subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as training:
        assert training.stderr
        assert any(line.startswith("epoch 1 ") for line in training.stderr)
        # A rank dies, or somebody presses Ctrl-C.
        ranks = processes(mpi, ended)
        os.kill(random.choice(ranks) if signalled == signal.SIGKILL else training.pid, signalled)
        moment = time.monotonic()
        training.communicate(timeout=10)
        assert training.returncode != 0
        assert time.monotonic() - moment < 5
    wait_for(lambda: not any(pathlib.Path(f"/proc/{rank}").exists() for rank in ranks))
    resumed = run([*command, "--resume"])
    assert resumed.returncode == 0, resumed.stderr
    assert same_models(whole, ended)


def test_ranks_that_are_told_to_continue_save(mpi, tmp_path):
    out = tmp_path / "run"
    # Within this epoch nothing else makes them save.
    command = train(mpi, 2, 1, out, *FIVE, "--repeat", "100000", "--epochs", "1", "--checkpoint-seconds", "1000")
    with subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.DEVNULL) as training:
        try:
            wait_for(lambda: checkpoints(out) == 1)
            for rank in processes(mpi, out):
                os.kill(rank, signal.SIGCONT)
            wait_for(lambda: checkpoints(out) == 2)
            assert training.poll() is None
        finally:
            training.terminate()


def test_ranks_with_other_options_are_refused_by_the_first_one(mpi, tmp_path):
    one, other = (train(mpi, 1, 1, tmp_path / "run", *LAB, "--lr", rate) for rate in ["1e-3", "2e-3"])
    refused = run([mpi / "mpirun", "-n", "1", *one, "--dropout", "0", ":", "-n", "1", *other])
    assert refused.returncode != 0
    (said,) = [line for line in refused.stderr.splitlines() if "mlm: " in line]
    assert "rank 1 on " in said
    assert '--dropout nothing where it was "0", --lr "2e-3" where it was "1e-3"' in said
    assert not (tmp_path / "run").exists()


def test_two_machines_have_the_bits_of_one(mpi, tmp_path):
    options = [*LAB, "--epochs", "2"]
    one, two = tmp_path / "one", tmp_path / "two"
    assert run(train(mpi, 1, 2, one, *options)).returncode == 0
    with contextlib.ExitStack() as stack:
        try:
            hosts = stack.enter_context(two_hosts(tmp_path))
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"no namespaces to make two machines of: {error}")
        done = run([*hosts.mpirun(mpi), *train(mpi, 1, 1, two, *options)])
    assert done.returncode == 0, done.stderr
    assert same_models(one, two)
