"""A training in the background of a kernel: what the class does to it loses nothing. `scripts/test` runs it."""

import contextlib
import os
import pathlib
import random
import re
import signal
import sys
import time

import pytest

from kernel_test import IMPORTS, processes, within_seconds

pytestmark = pytest.mark.xdist_group("two kernels")
PREPARE = IMPORTS + """
let corpus = Corpus::from_file("../data/five_sentences.txt", Layout::Lines)?.repeat(200)?;
let tokenizer = Tokenizer::train(&corpus, &TokenizerConfig::new(1000))?;
let train = tokenizer.encode_corpus(&corpus, 32)?.sequences;
let model = ModelConfig::new(tokenizer.vocab());
let texts = Texts { tokenizer, train, validation: Sequences::default(), grammar: None };
let short = TrainingConfig { epochs: 40, ..TrainingConfig::default() };
let long = TrainingConfig { epochs: 100_000, warmup: 1e-5, ..TrainingConfig::default() };
let back_end = BackEnd::Engine(EngineConfig { threads: 2, ..EngineConfig::default() });"""
STATE = 'println!("{:?} after {} steps", run.progress().state, run.progress().step);'


@pytest.fixture
def kernels(as_new):
    """Two, of which a test may kill one."""
    kernels = as_new(2)
    for kernel in kernels:
        kernel.expect(PREPARE)
    return kernels


def resume(folder, config="long"):
    return f'let run = Run::resume("{folder}", &texts, &model, &{config}, &back_end)?;'


def threads(kernel, name):
    """The processes of the kernel's threads with that name, one for each; Linux tells it."""
    if sys.platform != "linux":
        pytest.skip("counts threads as Linux shows them")
    found = []
    for pid, _, _ in processes(kernel.pid):
        for path in pathlib.Path(f"/proc/{pid}/task").glob("*/comm"):
            with contextlib.suppress(OSError):  # it has just ended
                found += [pid] * (path.read_text().strip() == name)
    return found


def has(kernel, count, name="mlm_core run"):
    """Whether it comes to have so many: a thread names itself when it first runs, and goes after it was joined."""
    return within_seconds(10, lambda: len(threads(kernel, name)) == count)


def test_the_same_cell_again_leaves_one_run(kernels, tmp_path):
    kernel = kernels[0]
    steps = []
    for _ in range(10):
        kernel.expect(resume(tmp_path / "run"))
        steps.append(int(re.search(r"after (\d+) steps", kernel.expect(STATE))[1]))
        succeeded, shown = kernel.run('panic!("on purpose");')
        assert not succeeded and "on purpose" in shown
        assert has(kernel, 1)
    assert steps == sorted(steps) and "Training" in kernel.expect(STATE)
    assert "the [MASK] is a lie" in kernel.expect(
        'markup::predictions(&fill_mask(&run.model()?, &texts.tokenizer, "the [MASK] is a lie", 3)?)'
    )
    assert "svg" in kernel.expect("run.plot()?")
    kernel.expect("drop(run);")
    assert has(kernel, 0)


def test_cells_go_before_a_training_in_the_background(kernels, tmp_path):
    kernel = kernels[0]
    kernel.expect(resume(tmp_path / "run"))
    kernel.expect('run.live("the [MASK] is a lie")?;')
    assert has(kernel, 1, "mlm_core live")
    # Of the engine of two threads, one is the run's own.
    named = {name: threads(kernel, name) for name in ["mlm_core run", "mlm_core 1", "mlm_core live"]}
    (cells,) = {pid for pids in named.values() for pid in pids}
    nice = {}
    for task in pathlib.Path(f"/proc/{cells}/task").iterdir():
        # proc_pid_stat(5): behind the name in brackets, which may hold anything, the 17th field is the niceness.
        nice.setdefault(int((task / "stat").read_text().rpartition(")")[2].split()[16]), []).append((task / "comm").read_text().strip())
    assert sorted(nice) == [0, 10] and sorted(nice[10]) == sorted(named)
    kernel.expect("drop(run);")


def test_kernels_have_a_run_each_and_do_not_share_one(kernels, tmp_path):
    for kernel, folder in zip(kernels, ["one", "other"], strict=True):
        kernel.expect(resume(tmp_path / folder))
    succeeded, shown = kernels[0].run(resume(tmp_path / "other").replace("let run", "let refused"))
    assert not succeeded and "one with a process at it" in shown
    for kernel in kernels:
        assert "Training" in kernel.expect(STATE)
        kernel.expect("drop(run);")


def follow(kernel, code, until=None, count=None):
    """Runs a cell; returns the states of displays that come while other cells run: so many, or up to one that says so."""
    kernel.client.execute(code)
    states = []
    while len(states) != count and not (until and states and until in states[-1]["content"]["data"]["text/plain"]):
        message = kernel.client.get_iopub_msg(timeout=60)
        if message["msg_type"] in ("display_data", "update_display_data"):
            states.append(message)
            kernel.client.execute(f"let later = {len(states)};")
    return states


def test_a_live_figure_changes_while_later_cells_run(kernels, tmp_path):
    kernel = kernels[0]
    kernel.expect(resume(tmp_path / "run"))
    states = follow(kernel, 'run.live("the [MASK] is a lie")?;', count=7)
    lines = [state["content"]["data"]["text/plain"] for state in states]
    assert all("learning rate" in line and "tokens/s" in line for line in lines[2:]), lines
    states += follow(kernel, "drop(run);", until="stopped")
    assert [state["msg_type"] for state in states] == ["display_data"] + ["update_display_data"] * (len(states) - 1)
    assert len({state["content"]["transient"]["display_id"] for state in states}) == 1
    steps = [int(re.match(r"step (\d+) of", state["content"]["data"]["text/plain"])[1]) for state in states]
    assert steps == sorted(steps) and len(set(steps)) > 5, steps
    figures = [state["content"]["data"]["text/html"] for state in states]
    assert all("<svg" not in figure and "cake" in figure and len(figure) < 100_000 for figure in figures[1:])
    assert "Run::resume" not in figures[-1]
    kernel.expect(resume(tmp_path / "short", "short"))
    last = follow(kernel, 'run.live("the [MASK] is a lie")?;', until="finished")[-1]
    assert "cake" in last["content"]["data"]["text/html"]
    # It shows what has ended, too, and moves in one place.
    (_,) = follow(kernel, 'run.live("the [MASK] is a lie")?;', until="finished")
    kernel.expect(resume(tmp_path / "long"))
    for _ in range(5):
        kernel.expect('run.live("the [MASK] is a lie")?;')
    time.sleep(2)
    assert has(kernel, 1) and has(kernel, 1, "mlm_core live")
    succeeded, shown = kernel.run('run.live("no gap")?;')
    assert not succeeded and "[MASK]" in shown
    kernel.expect("drop(run);")


def test_a_notebook_watches_the_training_of_another_process(kernels, tmp_path):
    kernel, another = kernels
    folder = tmp_path / "run"
    another.expect(resume(folder))
    states = follow(kernel, f'live("{folder}", "the [MASK] is a lie")?;', count=5)
    lines = [state["content"]["data"]["text/plain"] for state in states]
    assert all("tokens/s" in line for line in lines[2:]), lines
    another.expect("drop(run);")
    follow(kernel, "", until="stopped")
    another.expect(resume(tmp_path / "short", "short"))
    follow(kernel, f'live("{tmp_path / "short"}", "the [MASK] is a lie")?;', until="finished")
    succeeded, shown = kernel.run('live("nowhere", "the [MASK]")?;')
    assert not succeeded and "nowhere" in shown


def test_a_live_figure_says_how_to_go_on_when_its_process_is_killed(kernels, tmp_path):
    kernel, another = kernels
    another.expect(resume(tmp_path / "run"))
    another.expect('run.live("the [MASK] is a lie")?;')
    assert has(another, 1, "mlm_core live")
    (cells,) = threads(another, "mlm_core live")
    os.kill(cells, signal.SIGKILL)
    shown = ""
    while "update_display_data" not in shown or "Run::resume" not in shown:
        message = another.client.get_iopub_msg(timeout=60)
        shown = f"{message['msg_type']} {message['content']}"
    assert str(tmp_path / "run") in shown
    kernel.expect(resume(tmp_path / "run"))
    kernel.expect("drop(run);")
    # The next process starts without variables.
    another.run("0")
    another.expect(PREPARE)


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
    assert {path.name for path in whole.iterdir()} == {path.name for path in killed.iterdir()}
