//! Takes to the launcher of the notebook's kernel what the kernel does not tell it: which cells fail, and displays that change;
//! and takes the stop button's word from there to long calls. `scripts/library.py` has the protocol. In another kernel nothing
//! happens; a program can say where long calls are shown, and end them.
//!
//! A cell that panics, or whose `?` fails, says so to evcxr in a line of its own on stdout. So stdout becomes a pipe whose
//! other end is read here, and every line goes on to evcxr.

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::error::{Error, Result};

/// What the launcher says to the processes that it starts: a port of this computer, and a secret.
const ADDRESS: &str = "MLM_KERNEL";
/// Set where evcxr runs cells, and in what these start.
const RUNS_CELLS: &str = "EVCXR_IS_RUNTIME";
const KERNEL: &str = "evcxr_jupyter";

/// The lines by which a cell speaks to evcxr.
const FAILED: [&[u8]; 2] = [b"EVCXR_ERROR_OCCURRED", b"EVCXR_PANIC_NOTIFICATION"];
const COMPLETE: &[u8] = b"EVCXR_EXECUTION_COMPLETE";

/// The launcher takes no longer line (in bytes).
const LONGEST_LINE: usize = 190_000;

/// How long the launcher may take to read; then it is done without.
const PATIENCE: Duration = Duration::from_secs(1);

/// When a long call says for the first time how far it is, and how often then.
const FIRST_LINE: Duration = Duration::from_secs(1);
const NEXT_LINE: Duration = Duration::from_millis(250);

static LAUNCHER: OnceLock<Option<Launcher>> = OnceLock::new();
static INTERRUPTED: AtomicBool = AtomicBool::new(false);
/// Whether the launcher has announced a cell. It does not know of what evcxr runs when it starts, whose output nobody takes.
static EXPECTED: AtomicBool = AtomicBool::new(false);

thread_local! {
    static IN_BACKGROUND: Cell<bool> = const { Cell::new(false) };
    /// What ends the calls of a thread in the background.
    static STOP: RefCell<Option<Arc<AtomicBool>>> = const { RefCell::new(None) };
}

/// Connects the process that runs a notebook's cells with the kernel's launcher, which calls this when it starts; calls that
/// the stop button can end do it too.
pub fn attach_to_launcher() {
    launcher();
}

/// Ends, in a program, what the stop button ends in a notebook: calls of training, evaluation, recovery, encoding, and others that
/// take long fail with [`Error::Interrupted`], those that are going on and all that follow. A [`crate::Run`] goes on; a
/// [`crate::Training`] can still be saved.
pub fn interrupt() {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

/// An error where the stop button was pressed since the cell began or somebody has called [`interrupt`]; in a thread
/// [in the background](background), where what ends that one is set.
pub(crate) fn check_interrupt() -> Result<()> {
    launcher(); // or else nobody would hear the button
    let is_interrupted = if IN_BACKGROUND.get() {
        STOP.with_borrow(|stop| stop.as_ref().is_some_and(|stop| stop.load(Ordering::Relaxed)))
    } else {
        INTERRUPTED.load(Ordering::Relaxed)
    };
    if is_interrupted { Err(Error::Interrupted) } else { Ok(()) }
}

/// Says what ends the long calls of this thread once it is in the background.
pub(crate) fn stopped_by(stop: &Arc<AtomicBool>) {
    STOP.set(Some(Arc::clone(stop)));
}

/// Says that this thread goes on when the stop button ends a cell, and that others go first where cores are scarce.
pub(crate) fn background() {
    IN_BACKGROUND.set(true);
    // On Linux it is the niceness of the thread that calls, elsewhere that of the whole process.
    #[cfg(target_os = "linux")]
    let _ = rustix::process::setpriority_process(None, NICENESS);
}

/// Of threads in the background. At 10, not 0, one has a tenth of a core that another thread wants, too (sched(7): each level is a
/// factor of 1.25).
#[cfg(target_os = "linux")]
const NICENESS: i32 = 10;

/// Something below a cell that changes while later ones run.
pub(crate) struct Display {
    name: String,
}

impl Display {
    /// Shows text by MIME type below the cell that runs; `None` where there is no launcher. If the process ends before the next
    /// [`Self::update`], `lost` is added to it.
    pub(crate) fn show(data: Value, lost: Option<&str>) -> Option<Self> {
        static DISPLAYS: AtomicUsize = AtomicUsize::new(0);
        let launcher = launcher()?;
        let number = DISPLAYS.fetch_add(1, Ordering::Relaxed);
        let name = format!("mlm_core-{}-{number}", std::process::id());
        launcher.say(&json!({ "display": name, "data": data, "lost": lost, "new": true }));
        Some(Self { name })
    }

    /// Takes the place of what it showed.
    pub(crate) fn update(&self, data: Value, lost: Option<&str>) {
        if let Some(launcher) = launcher() {
            launcher.say(&json!({ "display": self.name, "data": data, "lost": lost }));
        }
    }
}

/// A function that shows a line, and whether it is the last one of its call.
type Show = Box<dyn Fn(&str, bool) + Send + Sync>;

/// What shows lines in a program.
static SHOW: OnceLock<Show> = OnceLock::new();

/// Lets a program show how far a long call is, as a notebook does below the cell. `show` is given a line four times a second,
/// from the second second of the call on, and one more with `true` when the call ends. The first function that is given here
/// stays.
///
/// ```
/// mlm_core::show_progress(|line, _is_last| eprintln!("{line}"));
/// ```
pub fn show_progress(show: impl Fn(&str, bool) + Send + Sync + 'static) {
    let _ = SHOW.set(Box::new(show));
}

/// A line that says how far a long call is, below a cell or where [`show_progress`] says: where it takes more than a second, and
/// not in the background. Dropped, it says how long the call has taken.
pub(crate) struct ProgressLine {
    doing: String,
    /// How much there is to do, and the unit; none where nobody knows how much is done.
    total: Option<(usize, &'static str)>,
    start: Instant,
    shown: Option<Shown>,
}

struct Shown {
    display: Option<Display>,
    last: Instant,
}

impl ProgressLine {
    /// Of doing something with so many of a unit.
    pub(crate) fn new(doing: impl Into<String>, total: usize, unit: &'static str) -> Self {
        Self { doing: doing.into(), total: Some((total, unit)), start: Instant::now(), shown: None }
    }

    /// Of something that does not tell how far it is.
    pub(crate) fn waiting(doing: impl Into<String>) -> Self {
        Self { doing: doing.into(), total: None, start: Instant::now(), shown: None }
    }

    /// So many are done. An error where the call is to end, see [`check_interrupt`].
    pub(crate) fn at(&mut self, done: usize) -> Result<()> {
        check_interrupt()?;
        self.note(done);
        Ok(())
    }

    /// So many are done, in a call that ends where what it calls does.
    pub(crate) fn note(&mut self, done: usize) {
        let elapsed = self.start.elapsed();
        let is_unseen = IN_BACKGROUND.get() || (launcher().is_none() && SHOW.get().is_none());
        if is_unseen
            || elapsed < FIRST_LINE
            || self.shown.as_ref().is_some_and(|shown| shown.last.elapsed() < NEXT_LINE)
        {
            return;
        }
        let (doing, seconds) = (&self.doing, elapsed.as_secs_f64());
        let line = match self.total {
            Some((total, unit)) => {
                let left = seconds * (total as f64 / done.max(1) as f64 - 1.0);
                let percent = 100 * done / total.max(1);
                format!("{doing}: {done} of {total} {unit}, {percent} %, {left:.0} s left")
            }
            None => format!("{doing}: {seconds:.0} s"),
        };
        self.show(&line, false);
    }

    /// All are done.
    pub(crate) fn end(mut self) {
        if let (Some(_), Some((total, unit))) = (&self.shown, self.total) {
            let (doing, seconds) = (&self.doing, self.start.elapsed().as_secs_f64());
            self.show(&format!("{doing}: {total} {unit} in {seconds:.1} s"), true);
            self.shown = None;
        }
    }

    fn show(&mut self, line: &str, is_last: bool) {
        let data = json!({ "text/plain": line });
        let display = match self.shown.take() {
            Some(Shown { display: Some(display), .. }) => {
                display.update(data, None);
                Some(display)
            }
            _ if launcher().is_some() => Display::show(data, None),
            _ => {
                if let Some(show) = SHOW.get() {
                    show(line, is_last);
                }
                None
            }
        };
        self.shown = Some(Shown { display, last: Instant::now() });
    }
}

/// Of a call that has not come to its end.
impl Drop for ProgressLine {
    fn drop(&mut self) {
        if self.shown.is_some() {
            let (doing, seconds) = (&self.doing, self.start.elapsed().as_secs_f64());
            self.show(&format!("{doing}: {seconds:.1} s"), true);
        }
    }
}

struct Launcher {
    /// None when it has gone.
    connection: Mutex<Option<TcpStream>>,
}

fn launcher() -> Option<&'static Launcher> {
    LAUNCHER.get_or_init(|| attach().ok().flatten()).as_ref()
}

/// Nothing where there is no launcher, or it does not answer.
fn attach() -> io::Result<Option<Launcher>> {
    // A program that a cell starts has the variables too, but not the kernel's name.
    let program = std::env::current_exe()?;
    if std::env::var_os(RUNS_CELLS).is_none() || program.file_stem() != Some(Path::new(KERNEL).as_os_str()) {
        return Ok(None);
    }
    let Ok(address) = std::env::var(ADDRESS) else { return Ok(None) };
    let Some((port, secret)) = address.split_once(' ') else { return Ok(None) };
    let Ok(port) = port.parse() else { return Ok(None) };
    let mut connection = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    connection.set_nodelay(true)?;
    connection.set_write_timeout(Some(PATIENCE))?;
    connection.write_all(format!("{secret}\n").as_bytes())?;
    let words = connection.try_clone()?;
    thread::Builder::new().name("mlm_core kernel".to_owned()).spawn(move || listen(words))?;
    read_stdout()?;
    Ok(Some(Launcher { connection: Mutex::new(Some(connection)) }))
}

impl Launcher {
    /// Unless it is too long; a figure then stays as it is.
    fn say(&self, message: &Value) {
        let line = format!("{message}\n");
        if line.len() > LONGEST_LINE {
            return;
        }
        let mut connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(open) = connection.as_mut() else { return };
        if open.write_all(line.as_bytes()).is_err() {
            // Perhaps in the middle of a line.
            let _ = open.shutdown(Shutdown::Both);
            *connection = None;
        }
    }
}

/// Takes what the launcher says.
fn listen(words: TcpStream) {
    for word in BufReader::new(words).lines().map_while(io::Result::ok) {
        match word.as_str() {
            "cell" => {
                INTERRUPTED.store(false, Ordering::Relaxed);
                EXPECTED.store(true, Ordering::Relaxed);
            }
            "interrupt" => INTERRUPTED.store(true, Ordering::Relaxed),
            _ => {}
        }
    }
}

/// Puts a pipe over stdout.
#[cfg(unix)]
fn read_stdout() -> io::Result<()> {
    let evcxr = File::from(rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdout(), 3)?);
    let (reader, writer) = io::pipe()?;
    rustix::stdio::dup2_stdout(writer)?;
    let work = move || pass_on(reader, evcxr, end_of_cell);
    thread::Builder::new().name("mlm_core stdout".to_owned()).spawn(work)?;
    Ok(())
}

#[cfg(not(unix))]
fn read_stdout() -> io::Result<()> {
    Ok(())
}

/// Passes lines on until there are none, or nobody takes them. Before one that ends a cell, tells whether the cell failed, and
/// passes on the line that it gets.
fn pass_on(lines: impl Read, evcxr: impl Write, mut end_of_cell: impl FnMut(bool) -> String) {
    let (mut lines, mut evcxr) = (BufReader::new(lines), BufWriter::new(evcxr));
    let (mut line, mut failed) = (Vec::new(), false);
    while lines.read_until(b'\n', &mut line).is_ok_and(|bytes| bytes > 0) {
        let text = line.trim_ascii_end();
        if FAILED.contains(&text) {
            failed = true;
        } else if text == COMPLETE {
            let fence = end_of_cell(failed);
            line.splice(..0, fence.into_bytes());
            failed = false;
        }
        let all_come = !lines.buffer().contains(&b'\n');
        if evcxr.write_all(&line).and_then(|()| if all_come { evcxr.flush() } else { Ok(()) }).is_err() {
            return;
        }
        line.clear();
    }
}

/// Tells the launcher how a cell has ended, and by which line its output does, so that it can wait for all of it; writes the
/// line to stderr, and gives it.
fn end_of_cell(failed: bool) -> String {
    if !EXPECTED.load(Ordering::Relaxed) {
        return String::new();
    }
    static CELLS: AtomicUsize = AtomicUsize::new(0);
    let number = CELLS.fetch_add(1, Ordering::Relaxed);
    let fence = format!("mlm_core: end of cell {number} of process {}", std::process::id());
    if let Some(launcher) = launcher() {
        launcher.say(&json!({ "cell": if failed { "failed" } else { "ok" }, "fence": fence }));
    }
    let line = format!("{fence}\n");
    // In one piece, lest another thread's line gets in between.
    let _ = io::stderr().write_all(line.as_bytes());
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_go_on_as_they_are_and_failures_are_told_at_the_end_of_their_cell() {
        let cells = ["one\nEVCXR_EXECUTION_COMPLETE\n", "EVCXR_ERROR_OCCURRED\ntwo\nEVCXR_EXECUTION_COMPLETE\n"];
        let more =
            ["say EVCXR_PANIC_NOTIFICATION\n\nEVCXR_EXECUTION_COMPLETE\n", "EVCXR_PANIC_NOTIFICATION\nwithout an end"];
        let text = [cells, more].concat().concat().repeat(300);
        let (mut passed, mut ends) = (Vec::new(), Vec::new());
        pass_on(text.as_bytes(), &mut passed, |failed| {
            ends.push(failed);
            "the end\n".to_owned()
        });
        let expected = text.replace("EVCXR_EXECUTION_COMPLETE", "the end\nEVCXR_EXECUTION_COMPLETE");
        assert_eq!(String::from_utf8(passed).unwrap(), expected);
        // A panic that no end follows belongs to the next one, as a text that is not at the end of its line hides one.
        assert_eq!(ends[..3], [false, true, false]);
        assert_eq!(ends.len(), 900);
    }
}
