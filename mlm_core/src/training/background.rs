//! Takes a training, takes its steps in a thread of its own while the caller goes on, and tells at any time how far it is.

use std::any::Any;
use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::engine::Engine;
use crate::engine::pool::lock;
use crate::error::{Error, Result};
use crate::kernel;
use crate::model::config::ModelConfig;
use crate::model::params::Params;
use crate::training::progress::{RunProgress, RunState};
use crate::training::run::{BackEnd, Training, TrainingConfig, TrainingStep};
use crate::training::texts::Texts;

/// The time between two states that are written: what a power failure costs at most.
const AUTOSAVE_SECONDS: f64 = 30.0;

/// The time over which the speed is measured, and between two lines of [`Run::wait`].
const WINDOW: Duration = Duration::from_secs(2);

/// The time between two looks of [`Run::wait`] at the stop button.
const GLANCE: Duration = Duration::from_millis(100);

/// The runs of this process that have not ended.
static RUNS: Mutex<Vec<Weak<Shared>>> = Mutex::new(Vec::new());

/// A [`Training`] in the background: the cell that starts it returns at once, and the next cells look at it while it goes on.
/// It saves itself every 30 seconds, after each epoch of more than 2 and when it is stopped. Dropping it stops it.
///
/// ```
/// # use mlm_core::*;
/// # fn main() -> Result<()> {
/// # let folder = tempfile::tempdir().unwrap();
/// # let dir = &folder.path().join("run");
/// # let corpus = Corpus::from_lines(["the cake is a lie", "to be or not to be", "a fox"])?;
/// # let tokenizer = Tokenizer::train(&corpus, &TokenizerConfig::new(1000))?;
/// # let model = ModelConfig::new(tokenizer.vocab());
/// # let train = tokenizer.encode_corpus(&corpus, model.max_len)?.sequences;
/// # let texts = Texts { tokenizer, train, validation: Sequences::default(), grammar: None };
/// # let config = TrainingConfig { epochs: 50, ..TrainingConfig::default() };
/// # let back_end = BackEnd::Engine(EngineConfig::default());
/// let run = Run::start(dir, &texts, &model, &config, &back_end)?;
/// println!("{}", run.progress()); // step 3 of 50 …
/// let half_trained = fill_mask(&run.model()?, &texts.tokenizer, "the [MASK] is a lie", 5)?;
/// run.stop()?;
///
/// let run = Run::resume(dir, &texts, &model, &config, &back_end)?; // where it was stopped
/// let trained: Engine = run.wait()?;
/// # Ok(())
/// # }
/// ```
pub struct Run {
    shared: Arc<Shared>,
    /// The one that trains, and those that show it.
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// What the thread and the others tell each other.
pub(crate) struct Shared {
    dir: PathBuf,
    stop: Arc<AtomicBool>,
    state: Mutex<State>,
    ended: Condvar,
}

/// The state that a training has ended in, and its last weights.
type Ended = (RunState, Params);

struct State {
    progress: RunProgress,
    /// Those who wait for the weights after this step.
    askers: Vec<Sender<Result<Params>>>,
    /// The last weights, or why there are none.
    end: Option<Result<Params>>,
}

impl fmt::Debug for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Run {{ {}, {} }}", self.shared.dir.display(), self.progress())
    }
}

impl Run {
    /// A training from the beginning, see [`Training::start`].
    ///
    /// # Errors
    /// As [`Training::start`]; when the system starts no thread.
    pub fn start(
        dir: impl AsRef<Path>,
        texts: &Texts,
        model: &ModelConfig,
        config: &TrainingConfig,
        back_end: &BackEnd,
    ) -> Result<Self> {
        Self::spawn(Training::start(dir, texts, model, config, back_end)?)
    }

    /// Goes on with the training in a folder, from the beginning where there is none yet, see [`Training::resume`]. A run of
    /// this process that is at it is stopped first: a cell can be run again.
    ///
    /// # Errors
    /// As [`Training::resume`]; when the system starts no thread.
    pub fn resume(
        dir: impl AsRef<Path>,
        texts: &Texts,
        model: &ModelConfig,
        config: &TrainingConfig,
        back_end: &BackEnd,
    ) -> Result<Self> {
        stop_in(dir.as_ref());
        Self::spawn(Training::resume(dir, texts, model, config, back_end)?)
    }

    fn spawn(training: Training) -> Result<Self> {
        let dir = training.dir();
        let progress = RunProgress {
            state: RunState::Training,
            step: training.step_number(),
            steps: training.steps(),
            steps_per_epoch: training.steps_per_epoch(),
            lr: None,
            tokens_per_second: None,
            seconds_left: None,
            history: training.history().clone(),
            curve: training.curve().clone(),
        };
        let shared = Arc::new(Shared {
            dir: fs::canonicalize(dir).map_err(|source| Error::reading(dir, source))?,
            stop: Arc::default(),
            state: Mutex::new(State { progress, askers: Vec::new(), end: None }),
            ended: Condvar::new(),
        });
        let run = Self::of(shared, |shared| shared.work(training))?;
        let mut runs = lock(&RUNS);
        runs.retain(|run| run.strong_count() > 0);
        runs.push(Arc::downgrade(&run.shared));
        Ok(run)
    }

    fn of(shared: Arc<Shared>, work: impl FnOnce(&Shared) -> Result<Ended> + Send + 'static) -> Result<Self> {
        let others = Arc::clone(&shared);
        let thread = thread::Builder::new().name("mlm_core run".to_owned()).spawn(move || {
            shared.end(match catch_unwind(AssertUnwindSafe(|| work(&shared))) {
                Ok(result) => result,
                Err(panic) => Err(Error::Panic(said(panic.as_ref()))),
            });
        });
        let thread = thread.map_err(|source| Error::thread("a training in the background", source))?;
        Ok(Self { shared: others, threads: Mutex::new(vec![thread]) })
    }

    /// Adds a thread that shows what there is until the run has ended.
    pub(crate) fn shown_by(&self, thread: JoinHandle<()>) {
        lock(&self.threads).push(thread);
    }

    /// How far it is.
    pub fn progress(&self) -> RunProgress {
        self.shared.progress()
    }

    /// What can be asked of it by those who do not keep it going.
    pub(crate) fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    /// The model as it is after the step that is being taken.
    ///
    /// # Errors
    /// When the training has failed, or the memory has no room.
    pub fn model(&self) -> Result<Engine> {
        Engine::new(&self.shared.params()?)
    }

    /// Ends it after the step that is being taken, or in the evaluation of an epoch, saves it, and returns the model.
    ///
    /// # Errors
    /// When the training has failed, or cannot be saved.
    pub fn stop(&self) -> Result<Engine> {
        self.shared.stop();
        self.join()
    }

    /// Waits until it ends, prints every two seconds how far it is, and returns the model. The stop button ends the waiting,
    /// and the training goes on.
    ///
    /// # Errors
    /// When the training fails; [`Error::Interrupted`].
    pub fn wait(&self) -> Result<Engine> {
        let mut state = lock(&self.shared.state);
        let mut said: Option<Instant> = None;
        while state.end.is_none() {
            kernel::check_interrupt()?;
            if said.is_none_or(|said| said.elapsed() >= WINDOW) {
                say(&state.progress);
                said = Some(Instant::now());
            }
            state = self.shared.ended.wait_timeout(state, GLANCE).unwrap_or_else(PoisonError::into_inner).0;
        }
        say(&state.progress);
        drop(state);
        self.join()
    }

    /// The model, once the threads have ended.
    fn join(&self) -> Result<Engine> {
        self.end_threads();
        Engine::new(&self.shared.last()?)
    }

    fn end_threads(&self) {
        for thread in lock(&self.threads).drain(..) {
            // The panics of the one that trains have been caught.
            let _ = thread.join();
        }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.shared.stop();
        self.end_threads();
    }
}

impl Shared {
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn progress(&self) -> RunProgress {
        lock(&self.state).progress.clone()
    }

    /// The weights after the step that is being taken.
    pub(crate) fn params(&self) -> Result<Params> {
        let answer = {
            let (asker, answer) = mpsc::channel();
            let mut state = lock(&self.state);
            if state.end.is_none() {
                state.askers.push(asker);
            }
            answer
        };
        // Without an asker, it has ended.
        answer.recv().unwrap_or_else(|_| self.last())
    }

    /// Waits until it ends, but no longer than that; returns whether it has.
    pub(crate) fn ends_within(&self, time: Duration) -> bool {
        let going_on = |state: &mut State| state.end.is_none();
        let waited = self.ended.wait_timeout_while(lock(&self.state), time, going_on);
        waited.unwrap_or_else(PoisonError::into_inner).0.end.is_some()
    }

    fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// The loop of notebook 08. The folder is free when it returns.
    fn work(&self, mut training: Training) -> Result<Ended> {
        training.go_to_background();
        kernel::stopped_by(&self.stop);
        let begun = training.step_number();
        // When the speed was last measured, the step and the tokens since then.
        let (mut measured, mut first, mut tokens) = (Instant::now(), begun, 0);
        while !training.is_finished() {
            let TrainingStep { step, loss, lr, tokens: more, epoch } = match training.step() {
                Err(Error::Interrupted) => break,
                taken => taken?,
            };
            tokens += more;
            let mut state = lock(&self.state);
            let progress = &mut state.progress;
            (progress.step, progress.lr) = (step, Some(lr));
            progress.curve.push(loss);
            if epoch.is_some() {
                progress.history = training.history().clone();
            }
            let elapsed = measured.elapsed();
            if elapsed >= WINDOW || first == begun {
                let seconds = elapsed.as_secs_f64();
                progress.tokens_per_second = Some(tokens as f64 / seconds);
                progress.seconds_left = Some((training.steps() - step) as f64 * seconds / (step - first) as f64);
            }
            if elapsed >= WINDOW {
                (measured, first, tokens) = (Instant::now(), step, 0);
            }
            for asker in state.askers.drain(..) {
                let _ = asker.send(training.encoder().params()); // nobody, if the cell has been given up
            }
            drop(state);
            training.save_after(AUTOSAVE_SECONDS)?;
        }
        let mut end = RunState::Finished;
        if !training.is_finished() {
            end = RunState::Stopped;
            // Its last step has perhaps been taken by a call that ended in an evaluation.
            let progress = &mut lock(&self.state).progress;
            (progress.step, progress.curve) = (training.step_number(), training.curve().clone());
            training.save()?;
        }
        Ok((end, training.encoder().params()?))
    }

    fn end(&self, end: Result<Ended>) {
        let mut state = lock(&self.state);
        let (end, params) = match end {
            Ok((end, params)) => (end, Ok(params)),
            Err(error) => (RunState::Failed, Err(error)),
        };
        (state.progress.state, state.end) = (end, Some(params));
        state.askers.clear();
        self.ended.notify_all();
    }

    /// Its state, once it has ended.
    fn wait(&self) -> MutexGuard<'_, State> {
        let going_on = |state: &mut State| state.end.is_none();
        self.ended.wait_while(lock(&self.state), going_on).unwrap_or_else(PoisonError::into_inner)
    }

    /// The last weights, once it has ended.
    fn last(&self) -> Result<Params> {
        let state = self.wait();
        match state.end.as_ref().expect("waited for it") {
            Ok(params) => Ok(params.clone()),
            Err(error) => {
                let (dir, source) = (self.dir.clone(), Box::new(error.clone()));
                Err(Error::Run { dir, step: state.progress.step, source })
            }
        }
    }
}

/// A line on stdout. Where nobody reads it, the waiting goes on.
fn say(progress: &RunProgress) {
    let _ = writeln!(io::stdout(), "{progress}");
}

/// Stops the runs of this process in a folder, and waits until they have ended.
fn stop_in(dir: &Path) {
    let Ok(dir) = fs::canonicalize(dir) else { return };
    let runs: Vec<_> = lock(&RUNS).iter().filter_map(Weak::upgrade).filter(|run| run.dir == dir).collect();
    for run in runs {
        run.stop();
        drop(run.wait());
    }
}

/// What a panic says.
fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("without a message").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::training::curve::LossCurve;
    use crate::training::history::History;

    #[test]
    fn a_panic_in_the_thread_is_an_error_in_the_next_call() {
        let progress = RunProgress {
            state: RunState::Training,
            step: 7,
            steps: 10,
            steps_per_epoch: 5,
            lr: None,
            tokens_per_second: None,
            seconds_left: None,
            history: History::new("run"),
            curve: LossCurve::default(),
        };
        let state = Mutex::new(State { progress, askers: Vec::new(), end: None });
        let (dir, stop, ended) = (PathBuf::from("runs/mine"), Arc::default(), Condvar::new());
        let run = Run::of(Arc::new(Shared { dir, stop, state, ended }), |shared| {
            while lock(&shared.state).askers.is_empty() {
                thread::yield_now(); // until somebody waits for an answer
            }
            panic!("out of {}", "luck")
        });
        let run = run.unwrap();
        for error in [run.model().unwrap_err(), run.wait().unwrap_err(), run.stop().unwrap_err()] {
            let says = error.to_string();
            assert!(says.starts_with("the training in runs/mine ended after step 7: a panic: out of luck"), "{says}");
            assert!(matches!(&error, Error::Run { source, .. } if matches!(**source, Error::Panic(_))));
        }
        assert_eq!(run.progress().state, RunState::Failed);
    }
}
