//! Takes encoded texts and a folder, trains a model into it step by step, and goes on after any interruption as if there
//! had been none; what is shown meanwhile is left to those who ask for the steps.

use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use candle_core::{DType, Device};
use rand::rngs::StdRng;
use rand::seq::index;
use rand::{Rng, SeedableRng};
use serde::Serialize;
use serde_json::{Value, json};

use crate::analysis::baselines::Baselines;
use crate::analysis::evaluate::{Evaluation, evaluate};
use crate::analysis::floor::BayesFloor;
use crate::engine::communicator::Communicator;
use crate::engine::{Engine, EngineConfig};
use crate::error::{Error, Result};
use crate::files;
use crate::model::config::ModelConfig;
use crate::model::encoder::{Encoder, Mode};
use crate::model::gradients::Gradients;
use crate::model::initialization::Initialization;
use crate::model::params::Params;
use crate::model::reference::Reference;
use crate::model::weights::Values;
use crate::text::batch::{Batch, DataLoader};
use crate::text::masking::{Masker, Masking};
use crate::training::checkpoint::{Checkpoint, EpochSums, Progress, check_plan, digest};
use crate::training::curve::LossCurve;
use crate::training::folder;
use crate::training::history::{EpochRecord, History};
use crate::training::optimizer::{AdamW, AdamWConfig, Schedule};
use crate::training::ranks::{expect_same_numbers, share_checkpoint, share_numbers};
use crate::training::texts::{Texts, fingerprint};

/// The longest gradient that a step takes (Devlin et al. 2019, as in Google's code).
const MAX_NORM: f64 = 1.0;

/// So many seconds lie between the states that are written at the ends of epochs, however short these are.
const BETWEEN_EPOCHS: f64 = 2.0;

/// How many sequences are tested together. The masks depend on it, so it is the same for all trainings.
const TEST_BATCH: usize = 32;

/// On so many tokens, more or less, a model is tested: a text of any size has its first step soon.
const TESTED_TOKENS: usize = 1 << 17;

/// How a model is trained. The default is what a small model learns a few thousand sentences best with (`scripts/study` has
/// measured it), if its weights start with an `initializer_range` of 0.05. Lab 08 trains on its five sentences in a way of its
/// own.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TrainingConfig {
    /// How often training goes through the text.
    pub epochs: usize,
    /// Sequences in a batch.
    pub batch_size: usize,
    /// The highest learning rate, see [`Schedule`].
    pub lr: f64,
    /// The share of all steps over which the learning rate rises, from 0 to 1.
    pub warmup: f64,
    /// The optimizer.
    pub adamw: AdamWConfig,
    /// Which tokens are to be recovered.
    pub masking: Masking,
    /// What the weights are at the start.
    pub initialization: Initialization,
    /// Initial weights, order, masks and dropout follow from it.
    pub seed: u64,
}

impl Default for TrainingConfig {
    fn default() -> Self {
        Self {
            epochs: 10,
            batch_size: 16,
            lr: 4e-3,
            warmup: 0.1,
            adamw: AdamWConfig { beta2: 0.98, weight_decay: 0.1, ..AdamWConfig::default() },
            masking: Masking { rate: 0.4, ..Masking::default() },
            initialization: Initialization::Nearby,
            seed: 0,
        }
    }
}

/// What computes, see [`Encoder`].
#[derive(Clone, Debug)]
pub enum BackEnd {
    /// The [`Engine`].
    Engine(EngineConfig),
    /// The [`Engine`] of each of several processes, see [`Engine::with_communicator`]. All of them train with the same texts and
    /// settings; the first one alone reads and writes the training's folder.
    Ranks(EngineConfig, Arc<dyn Communicator>),
    /// The [`Reference`] in f32.
    Reference(Device),
}

impl BackEnd {
    fn encoder(&self, params: &Params) -> Result<Box<dyn Encoder>> {
        Ok(match self {
            Self::Engine(config) => Box::new(Engine::with_config(params, *config)?),
            Self::Ranks(config, communicator) => {
                Box::new(Engine::with_communicator(params, *config, Arc::clone(communicator))?)
            }
            Self::Reference(device) => Box::new(Reference::new(params, DType::F32, device)?),
        })
    }

    fn communicator(&self) -> Option<Arc<dyn Communicator>> {
        match self {
            Self::Ranks(_, communicator) => Some(Arc::clone(communicator)),
            Self::Engine(_) | Self::Reference(_) => None,
        }
    }

    /// What of it the last bits of the weights follow from, on one machine.
    fn plan(&self) -> Value {
        match self {
            Self::Engine(EngineConfig { threads, precision, .. }) => {
                json!({"engine": {"threads": threads, "precision": format!("{precision:?}")}})
            }
            Self::Ranks(config, communicator) => {
                let threads = config.threads * communicator.ranks();
                Self::Engine(EngineConfig { threads, ..*config }).plan()
            }
            Self::Reference(device) => json!({"reference": format!("{:?}", device.location())}),
        }
    }
}

/// What a step of training did.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainingStep {
    /// Its number, counted from 1.
    pub step: usize,
    /// The loss of its batch in nats.
    pub loss: f64,
    /// Its learning rate.
    pub lr: f64,
    /// The tokens of its batch.
    pub tokens: usize,
    /// The record of the epoch that it ended, if it did.
    pub epoch: Option<EpochRecord>,
}

/// A training that writes its state into a folder: after each epoch of more than 2 seconds, at its end, and whenever
/// [`Training::save`] says so. Whatever ends the process, [`Training::resume`] goes on from the last state that was written, and
/// the weights are at the end, to the last bit, those of a training that nothing had interrupted: initial weights, order and
/// masks are functions of the seed, the epoch and the step.
///
/// The folder is at all times one that `transformers` loads, with the weights as they were last saved. Its `history.jsonl`
/// is what [`History::load`] reads, and `checkpoints/` has the last two states.
///
/// Whatever the masking that it trains with, it is tested on masks as BERT draws them ([`Masking::default`]), so that
/// trainings of all kinds can be compared, with each other and with their [`Baselines`].
///
/// ```
/// # use mlm_core::*;
/// # fn main() -> Result<()> {
/// # let folder = tempfile::tempdir().unwrap();
/// # let dir = &folder.path().join("run");
/// let corpus = Corpus::from_lines(["the cake is a lie", "to be or not to be", "a fox"])?;
/// let tokenizer = Tokenizer::train(&corpus, &TokenizerConfig::new(1000))?;
/// let model = ModelConfig::new(tokenizer.vocab());
/// let train = tokenizer.encode_corpus(&corpus, model.max_len)?.sequences;
/// let texts = Texts { tokenizer, train, validation: Sequences::default(), grammar: None };
/// let config = TrainingConfig { epochs: 2, ..TrainingConfig::default() };
/// let back_end = BackEnd::Engine(EngineConfig::default());
///
/// let mut training = Training::start(dir, &texts, &model, &config, &back_end)?;
/// training.step()?; // the power fails
/// drop(training);
/// let mut training = Training::resume(dir, &texts, &model, &config, &back_end)?;
/// while !training.is_finished() {
///     training.step()?;
/// }
/// assert_eq!(History::load(dir)?.records().len(), 2);
/// let trained = Params::from_pretrained(dir)?;
/// # Ok(())
/// # }
/// ```
pub struct Training {
    dir: PathBuf,
    /// Held until the training is dropped, so that no other one writes into the folder. A rank that is not the first has none,
    /// and leaves the folder alone.
    lock: Option<File>,
    communicator: Option<Arc<dyn Communicator>>,
    /// All that the course of the training follows from.
    plan: Value,
    seed: u64,
    encoder: Box<dyn Encoder>,
    gradients: Gradients,
    optimizer: AdamW,
    schedule: Schedule,
    steps: usize,
    loader: DataLoader,
    masker: Masker,
    validation: Vec<Batch>,
    /// The order of this epoch; empty where it has not been drawn.
    order: Vec<u32>,
    epoch: EpochSums,
    history: History,
    curve: LossCurve,
    /// A step that is taken, while its call has not returned.
    taken: Option<TrainingStep>,
    seconds: f64,
    /// When the state was last written.
    saved: Instant,
}

impl fmt::Debug for Training {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Training {{ {}, step {} of {} }}", self.dir.display(), self.step_number(), self.steps)
    }
}

impl Training {
    /// A training from the beginning, into a folder that is empty or does not exist.
    ///
    /// # Errors
    /// When there is something in the folder, it cannot be written to, or an argument does not fit the others.
    pub fn start(
        dir: impl AsRef<Path>,
        texts: &Texts,
        model: &ModelConfig,
        config: &TrainingConfig,
        back_end: &BackEnd,
    ) -> Result<Self> {
        Self::open(dir.as_ref(), false, texts, model, config, back_end)
    }

    /// Goes on with the training in a folder, from the beginning where there is none yet. An epoch whose evaluation was ended
    /// early is evaluated first; what that measures is in the [history](Self::history).
    ///
    /// # Errors
    /// As [`Self::start`]; when the training in the folder is another one, which differs in its texts, its tokenizer or a
    /// setting; when another process is at it; when its last checkpoint is damaged; [`Error::Interrupted`].
    pub fn resume(
        dir: impl AsRef<Path>,
        texts: &Texts,
        model: &ModelConfig,
        config: &TrainingConfig,
        back_end: &BackEnd,
    ) -> Result<Self> {
        Self::open(dir.as_ref(), true, texts, model, config, back_end)
    }

    fn open(
        dir: &Path,
        resume: bool,
        texts: &Texts,
        model: &ModelConfig,
        config: &TrainingConfig,
        back_end: &BackEnd,
    ) -> Result<Self> {
        let Texts { tokenizer, train, validation, grammar } = texts;
        let TrainingConfig { epochs, batch_size, lr, warmup, adamw, masking, initialization, seed } = config;
        if *epochs == 0 {
            return Err(Error::argument("epochs", "at least 1", epochs));
        }
        if !(0.0..=1.0).contains(warmup) {
            return Err(Error::argument("warmup", "a share of all steps, from 0 to 1", warmup));
        }
        if model.vocab < tokenizer.vocab() {
            let expected = format!("at least {}, the size of the tokenizer's vocabulary", tokenizer.vocab());
            return Err(Error::argument("vocab", expected, model.vocab));
        }
        let masker = Masker::new(tokenizer, masking.clone())?;
        let loader = DataLoader::new(train.clone(), *batch_size)?;
        let validation = if validation.is_empty() { Vec::new() } else { texts.validation_batches(*seed)? };
        let steps = epochs.saturating_mul(loader.batches());
        let schedule = Schedule::new(*lr, (warmup * steps as f64).round() as usize, steps)?;
        let plan = json!({
            "model": model,
            "training": config,
            "back_end": back_end.plan(),
            "texts": {
                "tokenizer": digest([tokenizer.to_json()?]),
                "train": fingerprint(train)?,
                "validation": fingerprint(&texts.validation)?,
            },
        });

        let mut params = Params::init(model, &mut generator(*seed, Draw::Weights, 0))?;
        if *initialization == Initialization::Nearby {
            params.look_nearby();
        }
        let communicator = back_end.communicator();
        let (lock, found) = match &communicator {
            None => {
                let (lock, found) = find(dir, resume, &plan, params.len())?;
                (Some(lock), found)
            }
            Some(communicator) => {
                communicator.expect_same(&plan)?;
                let (mut lock, mut found) = (None, None);
                if communicator.rank() == 0 {
                    found = Some(find(dir, resume, &plan, params.len()).map(|(held, found)| {
                        lock = Some(held);
                        found
                    }));
                }
                (lock, share_checkpoint(communicator.as_ref(), found)?)
            }
        };
        match (&found, &communicator) {
            (Some(Checkpoint { numbers: [weights, ..], .. }), _) => params.as_mut_slice().copy_from_slice(weights),
            // What is drawn goes through logarithms, whose last bits are the system's.
            (None, Some(communicator)) => share_numbers(communicator.as_ref(), params.as_mut_slice())?,
            (None, None) => {}
        }
        let encoder = back_end.encoder(&params)?;
        let mut training = Self {
            dir: dir.to_owned(),
            lock,
            communicator,
            plan,
            seed: *seed,
            gradients: Gradients::zeros(encoder.as_ref())?,
            optimizer: AdamW::new(encoder.as_ref(), adamw.clone())?,
            encoder,
            schedule,
            steps,
            loader,
            masker,
            validation,
            order: Vec::new(),
            epoch: EpochSums::default(),
            history: History::new(folder::name(dir)),
            curve: LossCurve::default(),
            taken: None,
            seconds: 0.0,
            saved: Instant::now(),
        };
        match found {
            Some(Checkpoint { progress, numbers: [_, first, second] }) => {
                training.optimizer.restore(progress.steps, [first, second].map(Values::F32))?;
                training.history = progress.history(dir)?;
                (training.epoch, training.curve, training.seconds) = (progress.epoch, progress.curve, progress.seconds);
                if training.is_epoch_open() {
                    training.end_epoch()?;
                    training.save()?;
                } else {
                    training.publish(&params)?;
                }
            }
            None => {
                if !training.validation.is_empty() && training.leads() {
                    let floor = |grammar| BayesFloor::new(grammar, tokenizer, Masking::default());
                    let floor = grammar.as_ref().map(floor).transpose()?;
                    let masker = Masker::new(tokenizer, Masking::default())?;
                    let baselines = Baselines::measure(train, &training.validation, &masker, floor.as_ref())?;
                    training.history.set_baselines(baselines);
                }
                if !training.validation.is_empty() {
                    let untrained = training.validated(EpochRecord::default())?;
                    training.history.push(untrained)?;
                }
                training.save()?;
            }
        }
        if training.leads() {
            tokenizer.save_pretrained(dir, model.max_len)?;
        }
        Ok(training)
    }

    /// Whether this process reads and writes the folder: where there are several, the first.
    fn leads(&self) -> bool {
        self.lock.is_some()
    }

    /// The folder.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The number of steps taken, those before an interruption included.
    pub fn step_number(&self) -> usize {
        self.optimizer.steps() as usize
    }

    /// The number of steps in all epochs together.
    pub fn steps(&self) -> usize {
        self.steps
    }

    /// The number of steps in an epoch.
    pub fn steps_per_epoch(&self) -> usize {
        self.loader.batches()
    }

    /// Whether the last step has been taken, and the last epoch evaluated.
    pub fn is_finished(&self) -> bool {
        self.step_number() >= self.steps && !self.is_epoch_open()
    }

    /// Whether the last step of an epoch has been taken, and the epoch is not in the history yet.
    fn is_epoch_open(&self) -> bool {
        !self.epoch.is_empty() && self.step_number().is_multiple_of(self.loader.batches())
    }

    /// How long the training has taken, in seconds, without the time between an interruption and the state before it that
    /// was written.
    pub fn seconds(&self) -> f64 {
        self.seconds
    }

    /// The epochs so far.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// The losses of the steps so far.
    pub(crate) fn curve(&self) -> &LossCurve {
        &self.curve
    }

    /// See [`Encoder::go_to_background`].
    pub(crate) fn go_to_background(&mut self) {
        self.encoder.go_to_background();
    }

    /// The model as it is now.
    pub fn encoder(&self) -> &dyn Encoder {
        self.encoder.as_ref()
    }

    /// Takes one step: forward, backward, clipping to 1, update. The last one of an epoch evaluates the model, adds to the
    /// history, and saves, if that was not done in the last 2 seconds. Where the evaluation ends early, as when the stop button is
    /// pressed then, the step stays taken, and the next call goes on with it.
    ///
    /// # Errors
    /// After the last step; when the loss is not finite; when the state cannot be written; [`Error::Interrupted`].
    pub fn step(&mut self) -> Result<TrainingStep> {
        if self.taken.is_none() {
            self.taken = Some(self.update()?);
        }
        let epoch = if self.is_epoch_open() { Some(self.end_epoch()?) } else { None };
        let taken = self.taken.take().expect("taken above");
        if self.is_finished() {
            self.save()?;
        } else if epoch.is_some() {
            self.save_after(BETWEEN_EPOCHS)?;
        }
        Ok(TrainingStep { epoch, ..taken })
    }

    /// Takes a step.
    fn update(&mut self) -> Result<TrainingStep> {
        let start = Instant::now();
        let step = self.step_number();
        let lr = self.schedule.lr(step)?;
        let batch = self.batch(step)?;
        let dropout_seed = generator(self.seed, Draw::Dropout, step).random();
        let loss = expect_finite(step, self.encoder.forward(&batch, Mode::Train { dropout_seed })?)?;
        self.encoder.backward(&mut self.gradients)?;
        self.gradients.clip(MAX_NORM)?;
        self.optimizer.step(self.encoder.as_mut(), &self.gradients, lr)?;
        self.curve.push(loss);
        self.epoch.loss += loss;
        self.epoch.tokens += batch.tokens();
        let seconds = start.elapsed().as_secs_f64();
        self.epoch.seconds += seconds;
        self.seconds += seconds;
        Ok(TrainingStep { step: step + 1, loss, lr, tokens: batch.tokens(), epoch: None })
    }

    /// The batch of a step.
    fn batch(&mut self, step: usize) -> Result<Batch> {
        let (epoch, nth) = (step / self.loader.batches(), step % self.loader.batches());
        if nth == 0 || self.order.is_empty() {
            self.order = self.loader.order(&mut generator(self.seed, Draw::Order, epoch));
        }
        let mut rng = generator(self.seed, Draw::Masks, step);
        self.loader.batch(&self.order, nth, &self.masker, &mut rng).expect("a batch of the epoch")
    }

    /// Evaluates the model and adds the epoch to the history.
    fn end_epoch(&mut self) -> Result<EpochRecord> {
        let start = Instant::now();
        let steps = self.step_number();
        if let Some(communicator) = &self.communicator {
            expect_same_numbers(communicator.as_ref(), "weights", self.encoder.params()?.as_slice())?;
        }
        if steps == self.steps {
            // No other step will notice what the last one has done.
            let batch = self.batch(steps - 1)?;
            expect_finite(steps - 1, self.encoder.forward(&batch, Mode::Evaluate)?)?;
        }
        let EpochSums { loss, tokens, seconds } = self.epoch;
        let record = self.validated(EpochRecord {
            epoch: steps / self.loader.batches(),
            train_loss: Some(loss / self.loader.batches() as f64),
            tokens_per_second: Some(tokens as f64 / seconds),
            ..EpochRecord::default()
        })?;
        self.history.push(record.clone())?;
        self.epoch = EpochSums::default();
        self.seconds += start.elapsed().as_secs_f64();
        Ok(record)
    }

    /// The record with what validation measures, if there is any.
    fn validated(&self, record: EpochRecord) -> Result<EpochRecord> {
        if self.validation.is_empty() {
            return Ok(record);
        }
        let Evaluation { loss, accuracy, .. } = evaluate(self.encoder.as_ref(), &self.validation)?;
        Ok(EpochRecord { validation_loss: Some(loss), masked_accuracy: Some(accuracy), ..record })
    }

    /// Writes the state, and the model with its history.
    ///
    /// # Errors
    /// When it cannot be written; the last state that was is still there then.
    pub fn save(&mut self) -> Result<()> {
        if !self.leads() {
            return Ok(());
        }
        let params = self.encoder.params()?;
        let [Values::F32(first), Values::F32(second)] = self.optimizer.moments() else {
            return Err(Error::argument("back_end", "one that computes in f32", "f64"));
        };
        let progress = Progress {
            plan: self.plan.clone(),
            steps: self.optimizer.steps(),
            seconds: self.seconds,
            epoch: self.epoch.clone(),
            records: self.history.records().to_vec(),
            baselines: self.history.baselines().cloned(),
            curve: self.curve.clone(),
            planned: Some((self.steps, self.steps_per_epoch())),
        };
        Checkpoint::save(&folder::checkpoints(&self.dir), &progress, [params.as_slice(), first, second])?;
        self.publish(&params)?;
        self.saved = Instant::now();
        Ok(())
    }

    /// Writes the state if it was last written so many seconds ago.
    ///
    /// # Errors
    /// As [`Self::save`].
    pub fn save_after(&mut self, seconds: f64) -> Result<()> {
        if self.saved.elapsed().as_secs_f64() >= seconds { self.save() } else { Ok(()) }
    }

    /// Writes what others read.
    fn publish(&self, params: &Params) -> Result<()> {
        if !self.leads() {
            return Ok(());
        }
        params.save_pretrained(&self.dir)?;
        if self.history.records().is_empty() { Ok(()) } else { self.history.save(&self.dir) }
    }
}

impl Texts {
    /// The validation sequences in batches of 32, masked as in BERT, as a training with this seed is tested on them after each
    /// epoch: for whoever wants to measure something else on the same masks. Of a large text they are a sample, of
    /// [`Self::tested`] sequences, which the seed draws.
    ///
    /// # Errors
    /// When there are no validation sequences.
    pub fn validation_batches(&self, seed: u64) -> Result<Vec<Batch>> {
        let masker = Masker::new(&self.tokenizer, Masking::default())?;
        let (all, tested) = (self.validation.len(), self.tested());
        let sequences = if tested == all {
            self.validation.clone()
        } else {
            let mut sample = index::sample(&mut generator(seed, Draw::Sample, 0), all, tested).into_vec();
            sample.sort_unstable();
            sample.into_iter().map(|nth| self.validation.get(nth)).collect::<Result<Vec<_>>>()?.into()
        };
        let loader = DataLoader::new(sequences, TEST_BATCH)?;
        loader.fixed(&masker, &mut generator(seed, Draw::Validation, 0))
    }

    /// How many of the validation sequences a training is tested on: all, up to 131,072 tokens; else so many as have about that
    /// many together. A mean loss over the 20,000 of them that are masked is known to 0.03 nats, or better.
    pub fn tested(&self) -> usize {
        let (sequences, tokens) = (self.validation.len(), self.validation.tokens());
        if tokens <= TESTED_TOKENS { sequences } else { (sequences * TESTED_TOKENS / tokens).max(1) }
    }
}

/// Takes hold of the folder of a training; gives its latest checkpoint, if it is one of this training.
fn find(dir: &Path, resume: bool, plan: &Value, parameters: usize) -> Result<(File, Option<Checkpoint>)> {
    let lock = folder::occupy(dir)?;
    let checkpoints = folder::checkpoints(dir);
    files::create_folder(&checkpoints)?;
    files::remove_partial(&checkpoints)?;
    if !resume {
        Checkpoint::check_none(dir)?;
    }
    let found = Checkpoint::latest(&checkpoints)?;
    if let Some(Checkpoint { progress, numbers: [weights, ..] }) = &found {
        check_plan(dir, &progress.plan, plan)?;
        if weights.len() != parameters {
            return Err(Error::content(&checkpoints, "weights", parameters.to_string(), weights.len()));
        }
    }
    Ok((lock, found))
}

/// What numbers are drawn for: each has a generator of its own.
#[derive(Clone, Copy)]
enum Draw {
    Weights,
    Validation,
    /// Of an epoch.
    Order,
    /// Of a step.
    Masks,
    /// Of a step.
    Dropout,
    /// Of the validation sequences.
    Sample,
}

/// The generator of what is drawn for the `nth` time: a function of these three numbers and of nothing before.
fn generator(seed: u64, draw: Draw, nth: usize) -> StdRng {
    let mut key = [0; 32];
    for (bytes, number) in key.as_chunks_mut().0.iter_mut().zip([seed, draw as u64, nth as u64]) {
        *bytes = number.to_le_bytes();
    }
    StdRng::from_seed(key)
}

/// The loss that is computed after so many steps, if it is one.
fn expect_finite(steps: usize, loss: f64) -> Result<f64> {
    if !loss.is_finite() {
        let expected =
            format!("a finite number at step {} (try a smaller learning rate, in another folder)", steps + 1);
        return Err(Error::argument("loss", expected, loss));
    }
    Ok(loss)
}
