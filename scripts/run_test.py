"""A training in the background of a kernel: what the class does to it loses nothing. `scripts/test` runs it."""

import os
import pathlib
import random
import re
import signal
import sys
import time

import psutil
import pytest
from conftest import Kernel
from kernel_test import IMPORTS, processes

PREPARE = IMPORTS + """
let corpus = Corpus::from_file("../data/five_sentences.txt", Layout::Lines)?.repeat(200)?;
let tokenizer = Tokenizer::train(&corpus, 1000, true)?;
let train = tokenizer.encode_corpus(&corpus, 32)?.sequences;
let model = ModelConfig::new(tokenizer.vocab());
let texts = Texts { tokenizer, train, validation: Vec::new() };
let short = TrainingConfig { epochs: 40, ..TrainingConfig::default() };
let long = TrainingConfig { epochs: 100_000, ..TrainingConfig::default() };
let back_end = BackEnd::Engine(EngineConfig { threads: 2, ..EngineConfig::default() });"""
STATE = 'println!("{:?} after {} steps", run.progress().state, run.progress().step);'


@pytest.fixture(scope="module")
def kernels():
    """Two kernels, of which the last test kills one."""
    kernels = []
    try:
        for _ in range(2):
            kernels.append(Kernel())
            kernels[-1].expect(PREPARE)
        yield kernels
    finally:
        for kernel in kernels:
            kernel.end()


def resume(folder, config="long"):
    return f'let run = Run::resume("{folder}", &texts, &model, &{config}, &back_end)?;'


def runs(kernel):
    """How many threads of the kernel's processes are runs; Linux tells their names."""
    if sys.platform != "linux":
        pytest.skip("counts threads as Linux shows them")
    names = []
    for pid, _, _ in processes(kernel.pid):
        for thread in psutil.Process(pid).threads():
            names.append(pathlib.Path(f"/proc/{pid}/task/{thread.id}/comm").read_text().strip())
    return names.count("mlm_core run")


def test_the_same_cell_again_leaves_one_run(kernels, tmp_path):
    kernel = kernels[0]
    steps = []
    for _ in range(10):
        kernel.expect(resume(tmp_path / "run"))
        steps.append(int(re.search(r"after (\d+) steps", kernel.expect(STATE))[1]))
        succeeded, shown = kernel.run('panic!("on purpose");')
        assert not succeeded and "on purpose" in shown
        assert runs(kernel) == 1
    assert steps == sorted(steps) and "Training" in kernel.expect(STATE)
    assert "the [MASK] is a lie" in kernel.expect(
        'markup::predictions(&fill_mask(&run.model()?, &texts.tokenizer, "the [MASK] is a lie", 3)?)'
    )
    assert "svg" in kernel.expect("run.plot()?")
    kernel.expect("drop(run);")
    assert runs(kernel) == 0


def test_kernels_have_a_run_each_and_do_not_share_one(kernels, tmp_path):
    for kernel, folder in zip(kernels, ["one", "other"]):
        kernel.expect(resume(tmp_path / folder))
    succeeded, shown = kernels[0].run(resume(tmp_path / "other").replace("let run", "let refused"))
    assert not succeeded and "one with a process at it" in shown
    for kernel in kernels:
        assert "Training" in kernel.expect(STATE)
        kernel.expect("drop(run);")


def test_a_killed_kernel_costs_nothing_but_time(kernels, tmp_path):
    kernel, another = kernels
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    kernel.expect(resume(whole, "short"))
    assert "finished" in kernel.expect("run.wait()?;")
    another.expect(resume(killed, "short"))
    time.sleep(random.uniform(0, 0.7))
    os.killpg(another.pid, signal.SIGKILL)
    kernel.expect(resume(killed, "short"))
    assert "finished" in kernel.expect("run.wait()?;")
    for file in ["model.safetensors", "config.json", "tokenizer.json"]:
        assert (whole / file).read_bytes() == (killed / file).read_bytes()
    assert sorted(os.listdir(whole)) == sorted(os.listdir(killed))
