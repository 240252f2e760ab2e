//! Takes a training that goes on, shows a [`Figure`] of it that changes while later cells run; what is in it is left to
//! [`crate::figures::plot`] and [`crate::figures::markup`].

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use html_escape::encode_text;
use serde_json::{Value, json};

use crate::analysis::predict::fill_mask;
use crate::engine::Engine;
use crate::engine::pool::lock;
use crate::error::{Error, Result};
use crate::figures::figure::Figure;
use crate::figures::{markup, plot};
use crate::kernel::{self, Display};
use crate::model::params::Params;
use crate::text::tokenizer::Tokenizer;
use crate::training::background::{Run, Shared};
use crate::training::checkpoint::Checkpoint;
use crate::training::folder;
use crate::training::progress::RunProgress;

/// The time between two states of the figure is at least this, and so many times what it takes to draw one: the training needs
/// the cores.
const PAUSE: Duration = Duration::from_secs(1);
const REST: u32 = 50;

/// How many guesses for a gap are shown.
const GUESSES: usize = 3;

/// How often the training in a folder has been shown. A cell that is run again must not leave its figure's thread behind.
static SHOWN: Mutex<BTreeMap<PathBuf, usize>> = Mutex::new(BTreeMap::new());

impl Run {
    /// Shows the losses so far, how far it is and what the model puts into the gaps of `probe`, and changes that about once a
    /// second until the run ends, whatever cells run meanwhile. It moves in one place: where it is shown again, the figure of
    /// before stays as it is. Without this repository's kernel it is a figure of now.
    ///
    /// # Errors
    /// When the training has failed; when `probe` has no `[MASK]`, or is too long for the model.
    pub fn live(&self, probe: &str) -> Result<()> {
        if let Some(thread) = show(Source::Run(self.shared()), probe)? {
            self.shown_by(thread);
        }
        Ok(())
    }
}

/// As [`Run::live`], of the training in a folder that another process is at, a terminal's `mlm train` for example: whenever it
/// is saved, which is after each epoch of more than 2 seconds and at least every 30.
///
/// # Errors
/// When there is no training in the folder; when `probe` has no `[MASK]`, or is too long for the model.
pub fn live(dir: impl AsRef<Path>, probe: &str) -> Result<()> {
    show(Source::Folder { dir: dir.as_ref().to_owned(), seen: None }, probe).map(drop)
}

/// Shows a training, and what comes of it in a thread.
fn show(source: Source, probe: &str) -> Result<Option<JoinHandle<()>>> {
    let start = Instant::now();
    let tokenizer = Tokenizer::from_pretrained(source.dir())?;
    let mut follower = Follower { source, tokenizer, probe: probe.to_owned(), shown: 0 };
    let ended = follower.source.has_ended()?;
    let state = follower.state()?;
    let Some(display) = Display::show(state.data(), (!ended).then(|| follower.lost()).as_deref()) else {
        state.figure.evcxr_display();
        return Ok(None);
    };
    if ended {
        return Ok(None);
    }
    follower.shown = {
        let mut shown = lock(&SHOWN);
        let times = shown.entry(follower.source.dir().to_owned()).or_default();
        *times += 1;
        *times
    };
    let pause = rest(start);
    let thread = thread::Builder::new().name("mlm_core live".to_owned());
    let thread = thread.spawn(move || follower.follow(&display, state, pause));
    Ok(Some(thread.map_err(|source| Error::thread("a live figure", source))?))
}

/// Where the training is. It does not keep it going.
enum Source {
    Run(Arc<Shared>),
    Folder {
        dir: PathBuf,
        /// The step of the checkpoint that has been waited for.
        seen: Option<u32>,
    },
}

impl Source {
    fn dir(&self) -> &Path {
        match self {
            Self::Run(run) => run.dir(),
            Self::Folder { dir, .. } => dir,
        }
    }

    /// How far it is, and the weights then.
    fn now(&self) -> Result<(RunProgress, Params)> {
        match self {
            Self::Run(run) => {
                let params = run.params()?;
                Ok((run.progress(), params))
            }
            Self::Folder { dir, .. } => Ok((RunProgress::saved_in(dir)?, Params::from_pretrained(dir)?)),
        }
    }

    fn has_ended(&self) -> Result<bool> {
        match self {
            Self::Run(run) => Ok(run.ends_within(Duration::ZERO)),
            Self::Folder { dir, .. } => Ok(!folder::is_occupied(dir)?),
        }
    }

    /// Waits that long, and then until there is something new; returns whether that is the end, for which it does not wait.
    fn wait(&mut self, time: Duration) -> Result<bool> {
        match self {
            Self::Run(run) => Ok(run.ends_within(time)),
            Self::Folder { dir, seen } => loop {
                thread::sleep(time);
                // In this order: what is saved last is there when the folder is free.
                let ended = !folder::is_occupied(dir)?;
                let latest = Checkpoint::latest_step(&folder::checkpoints(dir))?;
                if ended || latest != *seen {
                    *seen = latest;
                    return Ok(ended);
                }
            },
        }
    }
}

/// What draws a training.
struct Follower {
    source: Source,
    tokenizer: Tokenizer,
    probe: String,
    /// Which one it is of those that have drawn this training.
    shown: usize,
}

/// A figure, and what it says in a line.
struct State {
    figure: Figure,
    line: String,
}

impl Follower {
    /// Draws until the training has ended or is shown elsewhere, for the last time then.
    fn follow(mut self, display: &Display, mut state: State, mut pause: Duration) {
        kernel::background();
        let mut ended = false;
        while !ended {
            let news = self.source.wait(pause);
            let start = Instant::now();
            let drawn = news.and_then(|has_ended| {
                ended = has_ended;
                self.state()
            });
            state = drawn.unwrap_or_else(|error| {
                ended = true;
                state.with(error.to_string())
            });
            if lock(&SHOWN)[self.source.dir()] != self.shown {
                ended = true;
                state = state.with("It goes on below the cell that has shown it last.".to_owned());
            }
            display.update(state.data(), (!ended).then(|| self.lost()).as_deref());
            pause = rest(start);
        }
    }

    fn state(&self) -> Result<State> {
        let (progress, params) = self.source.now()?;
        let guesses = fill_mask(&Engine::with_threads(&params, 1)?, &self.tokenizer, &self.probe, GUESSES)?;
        let line = progress.to_string();
        let figure = [plot::progress(&[&progress])?, paragraph(&line), markup::predictions(&guesses)];
        Ok(State { figure: Figure::stack(figure), line })
    }

    /// What is to be read where it ends without a last state.
    fn lost(&self) -> String {
        match &self.source {
            Source::Run(run) => {
                let dir = run.dir();
                format!(
                    "The kernel has ended, and the training with it. Run::resume({dir:?}, …) goes on from its last state."
                )
            }
            Source::Folder { dir, .. } => {
                format!("The kernel has ended. The training in {} is another process's.", dir.display())
            }
        }
    }
}

impl State {
    /// With something more to say.
    fn with(self, said: String) -> Self {
        Self { figure: Figure::stack([self.figure, paragraph(&said)]), line: said }
    }

    fn data(&self) -> Value {
        json!({ "text/html": self.figure.to_output(), "text/plain": self.line })
    }
}

fn paragraph(text: &str) -> Figure {
    Figure::html(format!("<div style=\"margin: 4px 0; white-space: pre-wrap\">{}</div>", encode_text(text)))
}

/// The pause after a state that was begun then.
fn rest(start: Instant) -> Duration {
    PAUSE.max(REST * start.elapsed())
}
