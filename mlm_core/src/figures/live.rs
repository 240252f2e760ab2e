//! Takes a [`Run`], shows a [`Figure`] of it that changes while later cells run; what is in it is left to
//! [`crate::figures::plot`] and [`crate::figures::markup`].

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use html_escape::encode_text;
use serde_json::{Value, json};

use crate::analysis::predict::fill_mask;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::figures::figure::Figure;
use crate::figures::{markup, plot};
use crate::kernel::{self, Display};
use crate::text::tokenizer::Tokenizer;
use crate::training::background::{Run, Shared};

/// The time between two states of the figure is at least this, and so many times what it takes to draw one: the training needs
/// the cores.
const PAUSE: Duration = Duration::from_secs(1);
const REST: u32 = 50;

/// How many guesses for a gap are shown.
const GUESSES: usize = 3;

impl Run {
    /// Shows the losses so far, how far it is and what the model puts into the gaps of `probe`, and changes that about once a
    /// second until the run ends, whatever cells run meanwhile. Without this repository's kernel it is a figure of now.
    ///
    /// # Errors
    /// When the training has failed; when `probe` has no `[MASK]`, or is too long for the model.
    pub fn live(&self, probe: &str) -> Result<()> {
        let run = self.shared();
        let tokenizer = Tokenizer::from_pretrained(run.dir())?;
        let follower = Follower { run, tokenizer, probe: probe.to_owned() };
        let start = Instant::now();
        let ended = follower.run.ends_within(Duration::ZERO);
        let state = follower.state()?;
        let Some(display) = Display::show(state.data(), (!ended).then(|| follower.lost()).as_deref()) else {
            state.figure.evcxr_display();
            return Ok(());
        };
        if ended {
            return Ok(());
        }
        let pause = rest(start);
        let thread = thread::Builder::new().name("mlm_core live".to_owned());
        let thread = thread.spawn(move || follower.follow(&display, state, pause));
        self.shown_by(thread.map_err(|error| Error::argument("live", "a thread that the system starts", error))?);
        Ok(())
    }
}

/// What draws a run, but does not keep it going.
struct Follower {
    run: Arc<Shared>,
    tokenizer: Tokenizer,
    probe: String,
}

/// A figure, and what it says in a line.
struct State {
    figure: Figure,
    line: String,
}

impl Follower {
    /// Draws until the run has ended, for the last time then.
    fn follow(&self, display: &Display, mut state: State, mut pause: Duration) {
        kernel::background();
        let mut ended = false;
        while !ended {
            ended = self.run.ends_within(pause);
            let start = Instant::now();
            state = self.state().unwrap_or_else(|error| {
                let said = error.to_string();
                State { figure: Figure::stack([state.figure.clone(), paragraph(&said)]), line: said }
            });
            display.update(state.data(), (!ended).then(|| self.lost()).as_deref());
            pause = rest(start);
        }
    }

    fn state(&self) -> Result<State> {
        let model = Engine::with_threads(&self.run.params()?, 1)?;
        let guesses = fill_mask(&model, &self.tokenizer, &self.probe, GUESSES)?;
        let progress = self.run.progress();
        let line = progress.to_string();
        let figure = [plot::progress(&[&progress])?, paragraph(&line), markup::predictions(&guesses)];
        Ok(State { figure: Figure::stack(figure), line })
    }

    /// What is to be read where it ends without a last state.
    fn lost(&self) -> String {
        let dir = self.run.dir();
        format!("The kernel has ended, and the training with it. Run::resume({dir:?}, …) goes on from its last state.")
    }
}

impl State {
    fn data(&self) -> Value {
        json!({ "text/html": self.figure.to_html(), "text/plain": self.line })
    }
}

fn paragraph(text: &str) -> Figure {
    Figure::html(format!("<div style=\"margin: 4px 0; white-space: pre-wrap\">{}</div>", encode_text(text)))
}

/// The pause after a state that was begun then.
fn rest(start: Instant) -> Duration {
    PAUSE.max(REST * start.elapsed())
}
