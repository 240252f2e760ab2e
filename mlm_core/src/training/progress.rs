//! Takes a training that goes on, or what it has saved, says how far it is; drawing that is left to [`crate::figures::plot`].

use std::fmt;
use std::path::Path;

use crate::error::{Error, Result};
use crate::training::checkpoint::Checkpoint;
use crate::training::curve::LossCurve;
use crate::training::folder;
use crate::training::history::History;

/// What a [`Run`](crate::Run) is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunState {
    /// It takes steps, or evaluates an epoch.
    Training,
    /// It has taken the last step, and evaluated the last epoch.
    Finished,
    /// It was stopped, and is saved; [`Run::resume`](crate::Run::resume) goes on with it.
    Stopped,
    /// Something went wrong: each call says what.
    Failed,
}

/// How far a [`Run`](crate::Run) is. `Display` writes it in a line.
#[derive(Clone, Debug, PartialEq)]
pub struct RunProgress {
    /// What it is doing.
    pub state: RunState,
    /// Steps taken.
    pub step: usize,
    /// Steps in all.
    pub steps: usize,
    /// Steps of an epoch.
    pub steps_per_epoch: usize,
    /// The learning rate of the last step; none before the first one in this process.
    pub lr: Option<f64>,
    /// Tokens that went through training in a second, in the last seconds.
    pub tokens_per_second: Option<f64>,
    /// The time until the last step, at the speed of the last seconds.
    pub seconds_left: Option<f64>,
    /// What was measured in the epochs so far.
    pub history: History,
    pub(crate) curve: LossCurve,
}

impl fmt::Display for RunProgress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { state, step, steps, steps_per_epoch, .. } = self;
        write!(f, "step {step} of {steps}, epoch {:.1}", *step as f64 / *steps_per_epoch as f64)?;
        if let Some(loss) = self.loss() {
            write!(f, "  loss {loss:.3}")?;
        }
        if let Some(loss) = self.history.records().last().and_then(|record| record.validation_loss) {
            write!(f, "  validation {loss:.3}")?;
        }
        if let Some(closed) = self.history.gap_closed().filter(|&closed| closed > 0.0) {
            write!(f, "  {:.0} % of the gap closed", 100.0 * closed)?;
        }
        match state {
            RunState::Training => {
                if let Some(lr) = self.lr {
                    write!(f, "  learning rate {lr:.1e}")?;
                }
                if let Some(speed) = self.tokens_per_second {
                    write!(f, "  {speed:.0} tokens/s")?;
                }
                if let Some(left) = self.seconds_left {
                    write!(f, "  {left:.0} s left")?;
                }
                Ok(())
            }
            RunState::Finished => write!(f, "  finished"),
            RunState::Stopped => write!(f, "  stopped"),
            RunState::Failed => write!(f, "  failed"),
        }
    }
}

impl RunProgress {
    /// How far the training in a folder was when it was last saved, by whatever process.
    pub(crate) fn saved_in(dir: &Path) -> Result<Self> {
        let occupied = folder::is_occupied(dir)?;
        let folder = &folder::checkpoints(dir);
        let expected = "a training that this version has begun";
        let Some(Checkpoint { progress, .. }) = Checkpoint::latest(folder)? else {
            return Err(Error::content(folder, "checkpoints", expected, "none"));
        };
        let Some((steps, steps_per_epoch)) = progress.planned else {
            return Err(Error::content(folder, "the planned steps", expected, "none"));
        };
        let step = progress.steps as usize;
        let history = progress.history(dir)?;
        let seconds_left = (step > 0).then(|| progress.seconds * steps.saturating_sub(step) as f64 / step as f64);
        let state = match occupied {
            _ if step >= steps && progress.epoch.is_empty() => RunState::Finished,
            true => RunState::Training,
            false => RunState::Stopped,
        };
        let tokens_per_second = history.records().last().and_then(|record| record.tokens_per_second);
        let curve = progress.curve;
        Ok(Self { state, step, steps, steps_per_epoch, lr: None, tokens_per_second, seconds_left, history, curve })
    }

    /// The mean training loss over the last steps, in nats: of a twentieth of those taken, or of one where that is less.
    pub fn loss(&self) -> Option<f64> {
        let points = self.curve.points(self.step);
        let last = &points[points.len() - points.len().div_ceil(20)..];
        (!last.is_empty()).then(|| last.iter().map(|(_, loss)| loss).sum::<f64>() / last.len() as f64)
    }
}
