//! `mlm`: the library without a notebook.

use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget};

mod arguments;
mod bench;
mod eval;
mod fill_mask;
mod job;
mod machines;
mod plot;
mod ranks;
mod stories;
mod text;
mod train;

/// A masked language model from scratch.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Train(Box<train::Train>),
    Eval(eval::Eval),
    FillMask(fill_mask::FillMask),
    Plot(plot::Plot),
    Stories(stories::Stories),
    Bench(bench::Bench),
}

/// Why a command has not come to its end.
enum Failure {
    Error(String),
    /// By somebody who did not want to wait.
    Interrupted(String),
    /// By what all processes of a job know.
    Common(String),
}

impl Failure {
    /// The status of a process that Ctrl-C has ended.
    const INTERRUPTED: u8 = 130;
}

impl From<mlm_core::Error> for Failure {
    fn from(error: mlm_core::Error) -> Self {
        let reason = error.to_string();
        if let mlm_core::Error::Ranks(_) = error { Self::Common(reason) } else { Self::Error(reason) }
    }
}

/// How a program's long calls and its training show how far they are, where stderr is a terminal.
static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// The time between two lines about a long call where no terminal shows one that changes.
const LINE: Duration = Duration::from_millis(1500);

/// Shows how far long calls are.
fn show_progress() {
    let shown: Mutex<Option<(ProgressBar, Instant)>> = Mutex::default();
    mlm_core::show_progress(move |line, is_last| {
        let mut shown = shown.lock().unwrap_or_else(PoisonError::into_inner);
        let is_first = shown.is_none();
        let (bar, said) = shown.get_or_insert_with(|| (BARS.add(ProgressBar::new_spinner()), Instant::now()));
        if !bar.is_hidden() {
            bar.set_message(line.to_owned());
            bar.tick();
        } else if is_first || is_last || said.elapsed() >= LINE {
            note(line);
            *said = Instant::now();
        }
        if is_last {
            if !bar.is_hidden() {
                bar.println(line);
            }
            bar.finish_and_clear();
            *shown = None;
        }
    });
}

fn main() -> ExitCode {
    let command = Cli::parse().command;
    show_progress();
    end(match command {
        Command::Train(train) => return job::in_job(|job| train.run(job)),
        Command::Bench(bench) => return job::in_job(|job| bench.run(job)),
        Command::Eval(eval) => eval.run(),
        Command::FillMask(fill_mask) => fill_mask.run(),
        Command::Plot(plot) => plot.run().map_err(Failure::from),
        Command::Stories(stories) => stories.run().map_err(Failure::from),
    })
}

/// What a command came to.
fn end(outcome: Result<String, Failure>) -> ExitCode {
    let said = outcome.and_then(|text| write(&text));
    let (status, reason) = match said {
        Ok(_) => return ExitCode::SUCCESS,
        Err(Failure::Error(reason) | Failure::Common(reason)) => (ExitCode::FAILURE, reason),
        Err(Failure::Interrupted(reason)) => (ExitCode::from(Failure::INTERRUPTED), reason),
    };
    note(&format!("mlm: {reason}"));
    status
}

/// Another process speaks for this one.
static IS_SILENT: AtomicBool = AtomicBool::new(false);

/// From now on this process says nothing.
fn silence() {
    IS_SILENT.store(true, Ordering::Relaxed);
    BARS.set_draw_target(ProgressDrawTarget::hidden());
}

/// Text on stdout; returns whether somebody reads it. Who does not, as `head`, has enough.
fn write(text: &str) -> Result<bool, Failure> {
    if IS_SILENT.load(Ordering::Relaxed) {
        return Ok(true);
    }
    match io::stdout().write_all(text.as_bytes()).and_then(|()| io::stdout().flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Failure::Error(format!("cannot write: {error}"))),
    }
}

/// A line on stderr, whoever speaks for this process. Where nobody reads it any more, what it is about goes on.
fn say(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// A line on stderr.
fn note(line: &str) {
    if !IS_SILENT.load(Ordering::Relaxed) {
        say(line);
    }
}
