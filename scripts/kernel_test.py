"""The kernel and its launcher, as a class meets them. `scripts/test` runs it."""

import concurrent.futures
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import time

import nbformat
import psutil
import pytest

import kernel as launcher
from conftest import ROOT, WARM, WITHOUT_NETWORK, digest
from execute import EXECUTED
from proxy import ENDED, NOT_LISTENING

SCRIPTS = ROOT / "scripts"
IMPORTS = ':dep mlm_core = { path = "../mlm_core" }\nuse mlm_core::*;\nuse mlm_core::candle_core::Var;'
FAILURES = ["Corpus::from_lines([] as [&str; 0])?;", 'panic!("on purpose");']


def versions(folder):
    """The packages of a Cargo.lock."""
    return set(re.findall(r'name = "(.+)"\nversion = "(.+)"', (folder / "Cargo.lock").read_text()))


def processes(group):
    """The living processes of a group: pid, parent and seconds of processor time."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):  # it has just ended, or is another user's
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                times = process.cpu_times()
                found.append((process.pid, process.ppid(), times.user + times.system))
    return found


def within_seconds(seconds, condition):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


@contextlib.contextmanager
def busy_cores():
    spinners = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2 * os.cpu_count())]
    try:
        yield
    finally:
        for spinner in spinners:
            spinner.kill()
            spinner.wait()


def test_gradients_of_variables_from_different_cells(kernel):
    kernel.expect(IMPORTS)
    kernel.expect("let device = pick_device(); let w = Var::new(&[1f32, 2., 3.], &device)?;")
    kernel.expect("let b = Var::new(&[10f32, 20., 30.], &device)?;")
    kernel.expect("let sum = (w.as_tensor() * b.as_tensor())?.affine(2.0, 0.0)?.sum_all()?;")
    kernel.expect("let slopes = sum.backward()?;")
    assert "[20.0, 40.0, 60.0]" in kernel.expect('println!("{:?}", slopes.get(&w).unwrap().to_vec1::<f32>()?);')
    assert "[2.0, 4.0, 6.0]" in kernel.expect('println!("{:?}", slopes.get(&b).unwrap().to_vec1::<f32>()?);')


def test_errors_are_sentences_and_keep_the_variables(kernel):
    kernel.expect(IMPORTS)
    kernel.expect('let corpus = Corpus::from_lines(["to be or not to be"])?;')
    succeeded, shown = kernel.run('let missing = Corpus::from_file("../data/missing.txt", Layout::Lines)?;')
    assert not succeeded and "cannot read ../data/missing.txt" in shown
    succeeded, shown = kernel.run('panic!("on purpose");')
    assert not succeeded and "on purpose" in shown
    succeeded, shown = kernel.run("corpus.no_such_method()")
    assert not succeeded and "no_such_method" in shown
    succeeded, shown = kernel.run("let model = ModelConfig { vocab: 90_000_000_000, ..ModelConfig::new(1) };\n"
                                  "Params::zeros(&model)?;")
    assert not succeeded and "fits in the memory" in shown
    assert "[1]" in kernel.expect('println!("[{}]", corpus.len());')


def test_after_clear_failed_cells_are_seen_to_fail(kernel):
    """The kernel has just been cleared; the process that runs its cells now has loaded no library by a cell."""
    succeeded, shown = kernel.run('panic!("on purpose");')
    assert not succeeded and "on purpose" in shown
    kernel.expect(IMPORTS)
    kernel.expect("let lines = [1u8];")
    kernel.clear()
    succeeded, shown = kernel.run('println!("{}", lines.len());')
    assert not succeeded and "cannot find value `lines`" in shown


def test_no_module_stands_in_for_a_missing_variable(kernel):
    kernel.expect(IMPORTS)
    sources = "".join(path.read_text() for path in (ROOT / "mlm_core/src").rglob("*.rs"))
    modules = re.findall(r"^(?:pub |pub\(crate\) )?mod (\w+);", sources, re.MULTILINE)
    variables = [name for name in modules if name not in ("markup", "plot")]
    assert "tokenizer" in variables
    succeeded, shown = kernel.run("\n".join(f"println!(\"{{}}\", {name}.len());" for name in variables))
    assert not succeeded and "cannot find value `tokenizer`" in shown
    assert "found module" not in shown


def test_a_failed_cell_is_seen_to_fail_however_busy_the_machine(kernel):
    kernel.expect(IMPORTS)
    # While the kernel passes on these lines it calls the cell done, and passes on what it says on stderr afterwards:
    # of cells that end so, half are taken for a success by whoever does not wait for that.
    lines = 'for line in 0..80 { println!("{line}"); }\n'
    codes = 4 * [lines + failure for failure in FAILURES] + 4 * FAILURES
    passed = [code for code in codes if kernel.run(code)[0]]
    with busy_cores():
        passed += [code for code in codes if kernel.run(code)[0]]
    assert passed == []


@pytest.mark.parametrize("failure", FAILURES)
def test_executing_a_notebook_stops_at_a_failed_cell(kernel, failure, tmp_path, capsys):
    path = tmp_path / "fails.ipynb"
    cells = [nbformat.v4.new_code_cell(source) for source in (IMPORTS, failure, 'println!("not reached");')]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    with busy_cores():
        assert not kernel.play(path)
    (EXECUTED / path.name).unlink()
    said = capsys.readouterr().out
    assert f"fails.ipynb: FAILED in the cell: {failure}" in said
    assert "not reached" not in said


@pytest.mark.parametrize("machine", [contextlib.nullcontext, busy_cores])
def test_all_that_a_cell_prints_arrives_in_order_before_the_next_one(kernel, machine, tmp_path):
    path = tmp_path / "prints.ipynb"
    sources = [IMPORTS, 'for line in 0..20_000 { println!("line {line}"); }', 'println!("the next cell");']
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources]), path)
    with machine():
        assert kernel.play(path)
    _, prints, after = nbformat.read(EXECUTED / path.name, as_version=4).cells
    (EXECUTED / path.name).unlink()
    (printed,) = [out.text for out in prints.outputs if out.output_type == "stream"]
    assert printed == "".join(f"line {line}\n" for line in range(20_000))
    assert [out.text for out in after.outputs] == ["the next cell\n"]


STOPPED = """\
let lines = Corpus::from_file("../data/five_sentences.txt", Layout::Lines)?;
let long = lines.repeat(1_000_000)?;
let distinct = Corpus::from_lines((0..600_000).map(|nth| format!("né{nth} ü{nth} ö{nth}")))?;
let line = Corpus::from_lines([distinct.sentences().join(" ")])?;
let tokenizer = Tokenizer::train(&lines, &TokenizerConfig::new(1000))?;
let model = ModelConfig::new(tokenizer.vocab());
let train = tokenizer.encode_corpus(&lines.repeat(200)?, 32)?.sequences;
let masker = Masker::new(&tokenizer, Masking::default())?;
let batches = DataLoader::new(train.clone(), 8)?.fixed(&masker, &mut StdRng::seed_from_u64(0))?;
let many = vec![batches[0].clone(); 200_000];
let mut engine = Engine::new(&Params::init(&model, &mut StdRng::seed_from_u64(0))?)?;
let texts = Texts { tokenizer: tokenizer.clone(), train, validation: Sequences::default(), grammar: None };
let config = TrainingConfig { epochs: 100_000, ..TrainingConfig::default() };
"""
# And what they say of how far they are.
LONG_CALLS = {
    'println!("begun"); loop { engine.forward(&batches[0], Mode::Evaluate)?; }': '"text": "begun',
    "evaluate(&engine, &many)?;": r"evaluating: \d+ of 200000 batches, \d+ %, \d+ s left",
    "recovery(&engine, &tokenizer, &lines.repeat(40_000)?)?;": r"recovering: \d+ of 1320000 words, \d+ %, \d+ s left",
    "tokenizer.encode_corpus(&distinct, 32)?;": r"encoding: \d+ of \d+ kB, \d+ %, \d+ s left",
    "tokenizer.encode_corpus(&line, 32)?;": r"encoding: \d+ of \d+ kB, \d+ %, \d+ s left",
    "Tokenizer::train(&distinct, &TokenizerConfig::new(1000))?;":
        r"normalizing: \d+ of 1800000 distinct words, \d+ %, \d+ s left",
    "run.wait()?;": r"step \d+ of",
}


def test_the_stop_button_ends_a_call_of_the_library_and_keeps_the_variables(kernel, tmp_path):
    kernel.expect(IMPORTS + "\nuse mlm_core::rand::{SeedableRng, rngs::StdRng};")
    kernel.expect(STOPPED)
    folder = json.dumps(str(tmp_path / "run"))
    kernel.expect(f"let run = Run::start({folder}, &texts, &model, &config, &BackEnd::Engine(EngineConfig::default()))?;")
    while_it_is_compiled = [("execution_count", "loop { engine.forward(&batches[0], Mode::Evaluate)?; }")]
    for says, code in while_it_is_compiled + [(says, code) for code, says in LONG_CALLS.items()]:
        succeeded, shown, seconds = kernel.run_until(says, code)
        assert seconds < 3, code
        assert not succeeded and "interrupted by the stop button" in shown, f"{code}\n{shown}"
        assert "[5000000 200000]" in kernel.expect('println!("[{} {}]", long.len(), many.len());')
    assert "Training" in kernel.expect('println!("{:?}", run.progress().state); drop(run);')


def test_the_stop_button_kills_what_does_not_hear_it_when_pressed_again(kernel):
    kernel.expect(IMPORTS)
    with kernel.stop_pressed_after(1), kernel.stop_pressed_after(5):
        succeeded, shown = kernel.run("loop {}")
    assert not succeeded and NOT_LISTENING in shown and ENDED in shown
    # The next process has the library as well.
    kernel.expect('let lines = Corpus::from_lines((0..3_000_000).map(|nth| format!("ü{nth}")))?;')
    with kernel.stop_pressed_after(1):
        succeeded, shown = kernel.run("Tokenizer::train(&lines, &TokenizerConfig::new(1000))?;")
    assert not succeeded and "interrupted by the stop button" in shown
    assert "[3000000]" in kernel.expect('println!("[{}]", lines.len());')


ENGINE = """\
let params = Params::init(&ModelConfig::new(40), &mut StdRng::seed_from_u64(0))?;
let mut engine = Engine::with_threads(&params, 2)?;
let batch = Batch { targets: vec![7], ..Batch::with_gaps([[2, 9, 4, 3].as_slice(), &[2, 8, 9, 10, 3]], 4) };
let mut gradients = Gradients::zeros(&engine)?;
let mut optimizer = AdamW::new(&engine, AdamWConfig::default())?;
"""
TRAIN = """\
for seed in 0..200 {
    engine.forward(&batch, Mode::Train { dropout_seed: seed })?;
    engine.backward(&mut gradients)?;
    optimizer.step(&mut engine, &gradients, 1e-3)?;
}
println!("loss {:?}", engine.forward(&batch, Mode::Evaluate)?);
"""


@pytest.mark.xdist_group("two kernels")
def test_an_engine_goes_on_after_a_panic_and_in_two_kernels_at_once(as_new):
    kernels = as_new(2)
    for kernel in kernels:
        kernel.expect(IMPORTS + "\nuse mlm_core::rand::{SeedableRng, rngs::StdRng};")
        kernel.expect(ENGINE)
        succeeded, shown = kernel.run('engine.forward(&batch, Mode::Evaluate)?; panic!("on purpose");')
        assert not succeeded and "on purpose" in shown
        # Outside of its vocabulary: an error of the library's.
        succeeded, shown = kernel.run("engine.forward(&Batch::with_gaps([[99].as_slice()], 99), Mode::Evaluate)?;")
        assert not succeeded and "99" in shown
    with concurrent.futures.ThreadPoolExecutor() as pool:
        first, second = pool.map(lambda kernel: kernel.expect(TRAIN), kernels)
    assert first == second and "loss 0." in first


@pytest.mark.xdist_group("two kernels")
def test_two_kernels_run_at_once_each_in_a_folder_of_its_own(as_new):
    first, second = as_new(2)
    assert first.folder != second.folder
    for each in (first, second):
        each.expect(IMPORTS)
    first.expect("let mine = 1u32;")
    second.expect("let mine = 2u32;")
    assert "mine is 1" in first.expect('println!("mine is {mine}");')
    assert "mine is 2" in second.expect('println!("mine is {mine}");')
    assert versions(second.folder) - versions(ROOT) == {("ctx", "1.0.0")}


@pytest.mark.xdist_group("two kernels")
@pytest.mark.ends_a_kernel
def test_a_busy_kernel_leaves_nothing_behind(as_new, warm):
    _, kernel = as_new(2)
    kernel.expect(IMPORTS)  # after that, nothing of its start is at work
    group = processes(kernel.pid)
    (cells,) = [pid for pid, parent, _ in group if parent in {child for child, of, _ in group if of == kernel.pid}]
    used = lambda: sum(seconds for pid, _, seconds in processes(kernel.pid) if pid == cells)
    before = used()
    kernel.client.execute("loop {}")
    assert within_seconds(60, lambda: used() >= before + 2), "the process that runs the cells is busy"
    kernel.end()
    assert within_seconds(20, lambda: not kernel.folder.exists() and processes(kernel.pid) == [])
    assert digest(WARM) == warm, "a kernel has changed the folder that the others start from"


STUB = """\
[package]
name = "mlm_core"
version = "0.1.0"
edition = "2024"

[lib]
crate-type = ["lib", "dylib"]

[dependencies]
itoa = "1"
"""

STUB_SOURCE = """\
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
static ATTACHED: AtomicBool = AtomicBool::new(false);
pub fn attach_to_launcher() { ATTACHED.store(true, Relaxed) }
pub fn is_attached() -> bool { ATTACHED.load(Relaxed) }
pub fn place() -> &'static str { file!() }
"""


def test_a_checkout_may_lie_in_a_folder_with_letters_of_any_language(start_kernel, tmp_path):
    checkout = tmp_path / "Téléchargements/実験"
    shutil.copytree(SCRIPTS, checkout / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
    (checkout / "notebooks").mkdir()
    (checkout / ".lab/warm").mkdir(parents=True)
    (checkout / ".lab/bin").mkdir()
    (checkout / ".lab/bin/evcxr_jupyter").symlink_to(launcher.LAB / "bin/evcxr_jupyter")
    # In the library's place something that takes no time to compile.
    (checkout / "mlm_core/src").mkdir(parents=True)
    (checkout / "mlm_core/Cargo.toml").write_text(STUB)
    (checkout / "mlm_core/src/lib.rs").write_text(STUB_SOURCE)
    shutil.copy(ROOT / "Cargo.lock", checkout)
    stamp = "import kernel; kernel.STAMP.write_text(kernel.fingerprint())"
    subprocess.run([sys.executable, "-c", stamp], cwd=checkout / "scripts", check=True)
    kernel = start_kernel(root=checkout, **WITHOUT_NETWORK)
    assert (kernel.folder / "config/prelude.rs").exists()
    kernel.expect(':dep mlm_core = { path = "../mlm_core" }\nuse mlm_core::*;')
    assert f"[{checkout}/mlm_core/src/lib.rs]" in kernel.expect('println!("[{}]", place());')
    # As where the library has changed since the set-up: no prelude has loaded it, and cargo has emptied the lock file.
    kernel.clear()
    kernel.expect('println!("without the library");')
    assert versions(kernel.folder) == {("ctx", "1.0.0")}
    assert "[true]" in kernel.expect(':dep mlm_core = { path = "../mlm_core" }\nprintln!("[{}]", mlm_core::is_attached());')
    assert versions(kernel.folder) - versions(ROOT) == {("ctx", "1.0.0")}
