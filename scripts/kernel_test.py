"""The kernel, its launcher and the set-up, as a class meets them. `scripts/test` runs it."""

import concurrent.futures
import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import kernel as launcher
import nbformat
import psutil
import pytest
from conftest import ROOT
from jupyter_client.connect import write_connection_file
from proxy import ENDED, NOT_LISTENING

SCRIPTS = ROOT / "scripts"
WARM = ROOT / ".lab/warm"
IMPORTS = ':dep mlm_core = { path = "../mlm_core" }\nuse mlm_core::*;\nuse mlm_core::candle_core::Var;'
FAILURES = ["Corpus::from_lines([] as [&str; 0])?;", 'panic!("on purpose");']


def digest(folder):
    """The content of all files below a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


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
def test_executing_a_notebook_stops_at_a_failed_cell(failure, tmp_path):
    path = tmp_path / "fails.ipynb"
    cells = [nbformat.v4.new_code_cell(source) for source in (IMPORTS, failure, 'println!("not reached");')]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    command = [sys.executable, SCRIPTS / "execute.py", path]
    with busy_cores():
        outcome = subprocess.run(command, capture_output=True, text=True)
    (ROOT / "target/notebooks" / path.name).unlink()
    assert outcome.returncode == 1, outcome.stdout
    assert f"fails.ipynb: FAILED in the cell: {failure}" in outcome.stdout
    assert "not reached" not in outcome.stdout


STOPPED = """\
let lines = Corpus::from_file("../data/five_sentences.txt", Layout::Lines)?;
let long = lines.repeat(1_000_000)?;
let tokenizer = Tokenizer::train(&lines, 1000, true)?;
let model = ModelConfig::new(tokenizer.vocab());
let train = tokenizer.encode_corpus(&lines.repeat(200)?, 32)?.sequences;
let masker = Masker::new(&tokenizer, Masking::default())?;
let batches = DataLoader::new(train.clone(), 8)?.fixed(&masker, &mut StdRng::seed_from_u64(0))?;
let many = vec![batches[0].clone(); 200_000];
let mut engine = Engine::new(&Params::init(&model, &mut StdRng::seed_from_u64(0))?)?;
let texts = Texts { tokenizer: tokenizer.clone(), train, validation: Vec::new(), grammar: None };
let config = TrainingConfig { epochs: 100_000, ..TrainingConfig::default() };
"""
# And what they say of how far they are.
LONG_CALLS = {
    'println!("begun"); loop { engine.forward(&batches[0], Mode::Evaluate)?; }': '"text": "begun',
    "evaluate(&engine, &many)?;": r"evaluating: \d+ of 200000 batches, \d+ %, \d+ s left",
    "recovery(&engine, &tokenizer, &lines.repeat(40_000)?)?;": r"recovering: \d+ of 1320000 words, \d+ %, \d+ s left",
    "tokenizer.encode_corpus(&long, 32)?;": r"encoding: \d+ of 5000000 sentences, \d+ %, \d+ s left",
    "Tokenizer::train(&long, 1000, true)?;": r"counting words: \d+ of 5000000 sentences, \d+ %, \d+ s left",
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


def test_the_stop_button_kills_what_does_not_hear_it_when_pressed_again(start_kernel):
    kernel = start_kernel()
    kernel.expect(IMPORTS)
    with kernel.stop_pressed_after(1), kernel.stop_pressed_after(5):
        succeeded, shown = kernel.run("loop {}")
    assert not succeeded and NOT_LISTENING in shown and ENDED in shown
    # The next process has the library as well.
    kernel.expect('let lines = Corpus::from_lines(["a"])?.repeat(20_000_000)?;')
    with kernel.stop_pressed_after(1):
        succeeded, shown = kernel.run("Tokenizer::train(&lines, 1000, true)?;")
    assert not succeeded and "interrupted by the stop button" in shown
    assert "[20000000]" in kernel.expect('println!("[{}]", lines.len());')


def test_a_kernel_works_without_a_network(start_kernel):
    kernel = start_kernel(CARGO_HTTP_PROXY="127.0.0.1:9")  # where nobody listens
    kernel.expect(IMPORTS)
    assert "[2]" in kernel.expect('println!("[{}]", Corpus::from_lines(["a", "b"])?.len());')


def test_a_busy_kernel_leaves_nothing_behind(start_kernel):
    kernel = start_kernel()
    group = processes(kernel.pid)
    (cells,) = [pid for pid, parent, _ in group if parent in {child for child, of, _ in group if of == kernel.pid}]
    used = lambda: sum(seconds for pid, _, seconds in processes(kernel.pid) if pid == cells)
    before = used()
    kernel.client.execute("loop {}")
    assert within_seconds(60, lambda: used() >= before + 2), "the process that runs the cells is busy"
    kernel.end()
    assert within_seconds(20, lambda: not kernel.folder.exists() and processes(kernel.pid) == [])


def test_two_kernels_run_at_once_each_in_a_folder_of_its_own_that_goes_with_it(start_kernel):
    warm = digest(WARM)
    kernels = first, second = start_kernel(), start_kernel()
    assert first.folder != second.folder
    for kernel in kernels:
        kernel.expect(IMPORTS)
    first.expect("let mine = 1u32;")
    second.expect("let mine = 2u32;")
    assert "mine is 1" in first.expect('println!("mine is {mine}");')
    assert "mine is 2" in second.expect('println!("mine is {mine}");')
    assert versions(first.folder) - versions(ROOT) == {("ctx", "1.0.0")}
    for kernel in kernels:
        kernel.end()
    assert within_seconds(20, lambda: not first.folder.exists() and not second.folder.exists())
    assert digest(WARM) == warm, "a kernel has changed the folder that the others start from"


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


def test_an_engine_goes_on_after_a_panic_and_in_two_kernels_at_once(start_kernel):
    kernels = start_kernel(), start_kernel()
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


def copy_checkout(target):
    """The repository without what was built in it."""
    shutil.copytree(ROOT, target, ignore=shutil.ignore_patterns(".git", ".lab", "target", "__pycache__"))
    (target / ".lab/bin").mkdir(parents=True)
    return target


def test_a_checkout_may_lie_in_a_folder_with_letters_of_any_language(start_kernel, tmp_path):
    checkout = copy_checkout(tmp_path / "Téléchargements/実験")
    (checkout / ".lab/bin/evcxr_jupyter").symlink_to(launcher.LAB / "bin/evcxr_jupyter")
    shutil.copytree(launcher.LAB / ".cargo", checkout / ".lab/.cargo")
    launcher.seed(checkout / ".lab/warm")
    stamp = "import kernel; kernel.STAMP.write_text(kernel.fingerprint())"
    subprocess.run([sys.executable, "-c", stamp], cwd=checkout / "scripts", check=True)
    kernel = start_kernel(root=checkout)
    assert (kernel.folder / "config/prelude.rs").exists()
    kernel.expect(IMPORTS)
    assert "[5]" in kernel.expect(
        'println!("[{}]", Corpus::from_file("../data/five_sentences.txt", Layout::Lines)?.len());'
    )


def test_a_kernel_with_a_feature_does_not_load_the_library_without_it(start_kernel):
    kernel = start_kernel(MLM_LAB_FEATURES="metal")
    assert not (kernel.folder / "config/prelude.rs").exists()
    code = "import kernel; print(kernel.LOAD_LIBRARY, kernel.fingerprint())"
    lines = {
        subprocess.run(
            [sys.executable, "-c", code], cwd=SCRIPTS, capture_output=True, text=True, check=True,
            env={**os.environ, "MLM_LAB_FEATURES": features},
        ).stdout
        for features in ["", "cuda", "metal"]
    }
    assert len(lines) == 3 and any('features = ["cuda"]' in line for line in lines)
    assert len({line.split()[-1] for line in lines}) == 3, "the warm folder knows the features"


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


def test_help_is_an_answer():
    help = subprocess.run([SCRIPTS / "lab", "--help"], capture_output=True, text=True)
    assert (help.returncode, help.stderr) == (0, "") and "--execute" in help.stdout
    unknown = subprocess.run([SCRIPTS / "lab", "--nonsense"], capture_output=True, text=True)
    assert (unknown.returncode, unknown.stdout) == (2, "") and "--execute" in unknown.stderr


def test_a_second_set_up_waits_for_the_first():
    with open(launcher.LAB / "setup.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        second = subprocess.Popen([SCRIPTS / "setup"], stdout=subprocess.PIPE, text=True)
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
