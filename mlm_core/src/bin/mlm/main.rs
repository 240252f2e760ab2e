//! `mlm`: the library without a notebook.

use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand};
use indicatif::{MultiProgress, ProgressBar};

mod arguments;
mod bench;
mod eval;
mod fill_mask;
mod plot;
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
}

impl Failure {
    /// The status of a process that Ctrl-C has ended.
    const INTERRUPTED: u8 = 130;
}

impl From<mlm_core::Error> for Failure {
    fn from(error: mlm_core::Error) -> Self {
        Self::Error(error.to_string())
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
    show_progress();
    let outcome = match Cli::parse().command {
        Command::Train(train) => train.run(),
        Command::Eval(eval) => eval.run(),
        Command::FillMask(fill_mask) => fill_mask.run(),
        Command::Plot(plot) => plot.run().map_err(Failure::from),
        Command::Stories(stories) => stories.run().map_err(Failure::from),
        Command::Bench(bench) => bench.run().map_err(Failure::from),
    };
    let said = outcome.and_then(|text| write(&text));
    let (status, reason) = match said {
        Ok(_) => return ExitCode::SUCCESS,
        Err(Failure::Error(reason)) => (ExitCode::FAILURE, reason),
        Err(Failure::Interrupted(reason)) => (ExitCode::from(Failure::INTERRUPTED), reason),
    };
    note(&format!("mlm: {reason}"));
    status
}

/// Text on stdout; returns whether somebody reads it. Who does not, as `head`, has enough.
fn write(text: &str) -> Result<bool, Failure> {
    match io::stdout().write_all(text.as_bytes()).and_then(|()| io::stdout().flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Failure::Error(format!("cannot write: {error}"))),
    }
}

/// A line on stderr. Where nobody reads it any more, what it is about goes on.
fn note(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}
