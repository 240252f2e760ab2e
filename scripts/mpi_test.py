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
LAB = ["--corpus", str(ROOT / "data/five_sentences.txt"), "--repeat", "200", "--batch-size", "5", "--validation", "0"]


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


def test_a_rank_that_is_killed_ends_the_others_and_the_training_goes_on(mpi, tmp_path):
    options = [*LAB, "--epochs", "8", "--checkpoint-seconds", "0.1"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert run(train(mpi, 2, 1, whole, *options)).returncode == 0
    command = train(mpi, 2, 1, killed, *options)
    with subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as training:
        assert training.stderr
        assert any(line.startswith("epoch 1 ") for line in training.stderr)
        ranks = subprocess.run(["pgrep", "-f", f"^{mpi}/mlm train.*{killed}"], capture_output=True, text=True, check=True)
        os.kill(int(random.choice(ranks.stdout.split())), signal.SIGKILL)
        begun = time.monotonic()
        training.communicate(timeout=10)
        assert training.returncode != 0
        assert time.monotonic() - begun < 5
    resumed = run([*command, "--resume"])
    assert resumed.returncode == 0, resumed.stderr
    assert same_models(whole, killed)


def test_ranks_with_other_options_are_refused_by_the_first_one(mpi, tmp_path):
    one, other = (train(mpi, 1, 1, tmp_path / "run", *LAB, "--lr", rate) for rate in ["1e-3", "2e-3"])
    refused = run([mpi / "mpirun", "-n", "1", *one, ":", "-n", "1", *other])
    assert refused.returncode != 0
    (said,) = [line for line in refused.stderr.splitlines() if "mlm: " in line]
    assert "rank 1 on " in said
    assert '--lr "2e-3" where it was "1e-3"' in said
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
