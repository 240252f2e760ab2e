//! `mlm train`: the loop of notebook 08 without a notebook, into a folder.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use mlm_core::*;
use serde_json::{Value, json};

use crate::arguments::{Compute, Shape};
use crate::job::Job;
use crate::text::{Text, changes, counts, counts_json, of_known_words, warn};
use crate::{BARS, Failure, note};

/// Train a masked language model on a text and write it into a folder that `transformers` loads.
///
/// Whatever interrupts it, the same command with --resume goes on from the last checkpoint and ends with the same weights.
#[derive(Args)]
#[command(
    after_help = "Example: mlm train --corpus data/five_sentences.txt --repeat 200 --validation 0 --out runs/lab"
)]
pub(crate) struct Train {
    #[command(flatten)]
    text: Text,
    /// The folder: an empty or a new one or, with --resume, that of the training to go on with
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Go on with the training in the folder; from the beginning, where there is none
    #[arg(long)]
    resume: bool,
    /// The grammar that has written the text, if one has: the smallest loss that a model can have is known then
    #[arg(long, value_name = "FILE")]
    grammar: Option<PathBuf>,
    /// A tokenizer to use, instead of learning one from the text: a folder, a tokenizer.json or a vocab.txt
    #[arg(long, value_name = "PATH", conflicts_with_all = ["vocab_size", "cased", "keep_accents", "max_word_length"])]
    tokenizer: Option<PathBuf>,
    /// Tokens that the vocabulary has at most
    #[arg(long, default_value_t = 1000)]
    vocab_size: usize,
    /// Tell upper and lower case apart, and letters with accents from those without
    #[arg(long)]
    cased: bool,
    /// Tell letters with accents from those without: in lower case, but with accents and vowel signs
    #[arg(long)]
    keep_accents: bool,
    /// Characters of the longest word that is read; a line of DNA, of a protein or of SMILES is one word
    #[arg(long, default_value_t = TokenizerConfig::new(0).max_word_length, value_name = "CHARACTERS")]
    max_word_length: usize,
    #[command(flatten)]
    shape: Shape,
    /// Tokens of the longest sequence, [CLS] and [SEP] included
    #[arg(long, default_value_t = ModelConfig::new(1).max_len)]
    max_len: usize,
    /// How often to go through the text
    #[arg(long, default_value_t = recipe().epochs)]
    epochs: usize,
    /// Sequences in a batch
    #[arg(long, default_value_t = recipe().batch_size)]
    batch_size: usize,
    /// The highest learning rate
    #[arg(long, default_value_t = recipe().lr)]
    lr: f64,
    /// The share of all steps over which the learning rate rises
    #[arg(long, default_value_t = recipe().warmup)]
    warmup: f64,
    #[arg(long, default_value_t = recipe().adamw.weight_decay)]
    weight_decay: f64,
    /// How fast the optimizer forgets the squares of gradients
    #[arg(long, default_value_t = recipe().adamw.beta2)]
    beta2: f64,
    /// What the weights are at the start
    #[arg(long, value_enum, default_value_t = recipe().initialization)]
    init: Initialization,
    /// Standard deviation of the initial weights
    #[arg(long, default_value_t = 0.05)]
    init_range: f64,
    /// The probability that a token is chosen to be recovered in training; the test has BERT's 15 % in any case
    #[arg(long, default_value_t = recipe().masking.rate)]
    mask_rate: f64,
    /// Choose all pieces of a word together
    #[arg(long)]
    whole_word: bool,
    /// How many copies of the text an epoch goes through
    #[arg(long, default_value_t = 1)]
    repeat: usize,
    /// The share of the sentences that is held back to test the model on; 0: none
    #[arg(long, default_value_t = 0.05)]
    validation: f64,
    /// All that is random follows from it
    #[arg(long, default_value_t = recipe().seed)]
    seed: u64,
    #[command(flatten)]
    compute: Compute,
    /// Seconds between two checkpoints; there is also one after each epoch that ends 2 seconds or more after the last
    #[arg(long, default_value_t = 30.0, value_name = "SECONDS")]
    checkpoint_seconds: f64,
    /// Print one JSON object as the last line
    #[arg(long)]
    json: bool,
}

/// What the options are where they are not given.
fn recipe() -> TrainingConfig {
    TrainingConfig::default()
}

/// The time between two lines of progress where no terminal shows a bar.
const LINE: Duration = Duration::from_secs(10);

impl Train {
    /// What came of it, as text.
    pub(crate) fn run(&self, job: &Job) -> Result<String, Failure> {
        stop_on_interrupt()?;
        let back_end = self.compute.back_end(job)?;
        let prepared = match job.communicator() {
            None => self.prepare()?,
            Some(communicator) => {
                let of_first = if job.leads() { Some(self.prepare()?) } else { None };
                PreparedTexts::share(&self.out, of_first, communicator.as_ref())?
            }
        };
        let (texts, config) = self.texts(&prepared)?;
        let (validation, tested) = (texts.validation.len(), texts.tested());
        if tested < validation {
            let counted = Baselines::counted(&texts.train);
            note(&format!(
                "a large text: tested on {tested} of the {validation} validation sequences; unigrams and neighbours \
                 counted in {counted} of {} training sequences",
                texts.train.len()
            ));
        }
        let open = if self.resume { Training::resume } else { Training::start };
        let mut training = open(&self.out, &texts, &config, &self.training(), &back_end)?;
        SAVES.store(true, Ordering::Relaxed);
        let bar = bar(&training);
        if let Some(baselines) = training.history().baselines() {
            say(&bar, &baselines.to_string());
        }
        for record in training.history().records() {
            say(&bar, &self.line(record, &training, &prepared));
        }
        // When something was last said, and what came since.
        let (mut said, mut tokens, mut losses) = (Instant::now(), 0, Vec::new());
        while !training.is_finished() {
            let taken = training.step();
            if let Err(Error::Interrupted) = taken {
                training.save()?;
                bar.finish_and_clear();
                let (step, steps) = (training.step_number(), training.steps());
                return Err(Failure::Interrupted(format!(
                    "interrupted after step {step} of {steps}, which is saved; the same command with --resume goes on"
                )));
            }
            let TrainingStep { step, loss, tokens: more, epoch, .. } = taken?;
            tokens += more;
            losses.push(loss);
            bar.set_position(step as u64);
            if let Some(record) = &epoch {
                say(&bar, &self.line(record, &training, &prepared));
            }
            if said.elapsed() >= if bar.is_hidden() { LINE } else { LINE / 20 } {
                let speed = tokens as f64 / said.elapsed().as_secs_f64();
                let loss = losses.iter().sum::<f64>() / losses.len() as f64;
                bar.set_message(format!("loss {loss:.3}  {speed:.0} tokens/s"));
                if bar.is_hidden() {
                    say(&bar, &format!("step {step} of {}  {}", training.steps(), bar.message()));
                }
                (said, tokens) = (Instant::now(), 0);
                losses.clear();
            }
            training.save_after(if job.may_end() { 0.0 } else { self.checkpoint_seconds })?;
        }
        bar.finish_and_clear();
        Ok(self.outcome(&training, &prepared, tested)?)
    }

    /// The text, in two parts, cut to the length of the model.
    fn prepare(&self) -> Result<PreparedTexts, Failure> {
        let vocabulary = match &self.tokenizer {
            Some(path) => Vocabulary::Given(Tokenizer::load(path)?.into()),
            None => Vocabulary::Learned(self.tokenizer_config()),
        };
        let preparation = Preparation {
            text: self.text.open()?,
            validation: self.validation,
            seed: self.seed,
            vocabulary,
            packing: self.text.packing(),
            max_len: self.max_len,
            repeat: self.repeat,
        };
        let prepared = if self.resume { preparation.resume(&self.out) } else { preparation.start(&self.out) }?;
        let PreparedTexts { train, validation, .. } = &prepared;
        warn("training", train);
        note(&format!("training: {}", counts(train)));
        if let Some(changes) = changes(&train.coverage).filter(|_| self.tokenizer.is_none()) {
            note(&changes);
        }
        if self.validation > 0.0 {
            warn("validation", validation);
            note(&format!("validation: {}", counts(validation)));
        }
        Ok(prepared)
    }

    /// What the training reads, and the shape of the model.
    fn texts(&self, prepared: &PreparedTexts) -> Result<(Texts, ModelConfig)> {
        let PreparedTexts { tokenizer, train, validation } = prepared;
        let config = ModelConfig {
            initializer_range: self.init_range,
            pad: tokenizer.special().pad,
            ..self.shape.config(tokenizer.vocab(), self.max_len)
        };
        let texts = Texts {
            tokenizer: tokenizer.clone(),
            train: train.sequences.clone(),
            validation: validation.sequences.clone(),
            grammar: self.grammar.as_ref().map(Grammar::from_file).transpose()?,
        };
        Ok((texts, config))
    }

    fn tokenizer_config(&self) -> TokenizerConfig {
        TokenizerConfig {
            lowercase: !self.cased,
            strip_accents: !self.cased && !self.keep_accents,
            max_word_length: self.max_word_length,
            ..TokenizerConfig::new(self.vocab_size)
        }
    }

    fn training(&self) -> TrainingConfig {
        TrainingConfig {
            epochs: self.epochs,
            batch_size: self.batch_size,
            lr: self.lr,
            warmup: self.warmup,
            adamw: AdamWConfig { beta2: self.beta2, weight_decay: self.weight_decay, ..recipe().adamw },
            masking: Masking { rate: self.mask_rate, whole_word: self.whole_word, ..recipe().masking },
            initialization: self.init,
            seed: self.seed,
        }
    }

    /// What was measured in an epoch.
    fn line(&self, record: &EpochRecord, training: &Training, prepared: &PreparedTexts) -> String {
        let mut line = format!("epoch {} of {}", record.epoch, self.epochs);
        if let Some(loss) = record.train_loss {
            line += &format!("  loss {loss:.3}");
        }
        if let Some(loss) = record.validation_loss {
            let of = of_known_words(&prepared.validation.coverage);
            line += &format!("  validation {loss:.3}, perplexity {:.1}{of}", loss.exp());
            let closed = training.history().baselines().and_then(|baselines| baselines.gap_closed(loss));
            if let Some(closed) = closed.filter(|&closed| closed > 0.0) {
                line += &format!(", {:.1} % of the gap closed", 100.0 * closed);
            }
        }
        if let Some(accuracy) = record.masked_accuracy {
            line += &format!(", {:.1} % recovered", 100.0 * accuracy);
        }
        if let Some(speed) = record.tokens_per_second {
            line += &format!("  {speed:.0} tokens/s");
        }
        line
    }

    fn outcome(&self, training: &Training, prepared: &PreparedTexts, tested: usize) -> Result<String> {
        let parameters = training.encoder().params()?.len();
        if !self.json {
            let seconds = training.seconds();
            return Ok(format!("{}: {parameters} parameters, trained in {seconds:.1} s\n", self.out.display()));
        }
        let epochs: Vec<Value> = (training.history().records().iter())
            .map(|record| {
                json!({
                    "epoch": record.epoch,
                    "train_loss": record.train_loss,
                    "validation_loss": record.validation_loss,
                    "perplexity": record.validation_loss.map(f64::exp),
                    "masked_accuracy": record.masked_accuracy,
                    "tokens_per_second": record.tokens_per_second,
                })
            })
            .collect();
        let outcome = json!({
            "parameters": parameters,
            "training_text": counts_json(&prepared.train),
            "validation_text": (self.validation > 0.0).then(|| counts_json(&prepared.validation)),
            "tested_sequences": tested,
            "baselines": training.history().baselines(),
            "epochs": epochs,
            "train_seconds": training.seconds(),
        });
        Ok(format!("{outcome}\n"))
    }
}

/// There is a training that saves itself before the program ends.
static SAVES: AtomicBool = AtomicBool::new(false);

/// A first Ctrl-C (or a request to terminate) lets the step end, but no evaluation, and the training save itself. A second one
/// does not wait, nor does one before there is a training.
fn stop_on_interrupt() -> Result<(), Failure> {
    let on_signal = || {
        if SAVES.swap(false, Ordering::Relaxed) {
            interrupt();
            return;
        }
        note("mlm: interrupted; the same command with --resume goes on from what is saved, or begins anew");
        std::process::exit(Failure::INTERRUPTED.into());
    };
    ctrlc::set_handler(on_signal).map_err(|error| Failure::Error(error.to_string()))
}

/// How far the training is, on stderr; hidden where that is no terminal.
fn bar(training: &Training) -> ProgressBar {
    let style = ProgressStyle::with_template("{wide_bar} step {pos} of {len}  {msg}  {eta} left")
        .expect("a template without mistakes");
    let bar = BARS.add(ProgressBar::new(training.steps() as u64)).with_style(style);
    bar.set_position(training.step_number() as u64);
    bar.reset_eta();
    bar
}

/// A line on stderr, above the bar where there is one.
fn say(bar: &ProgressBar, line: &str) {
    if bar.is_hidden() {
        note(line);
    } else {
        bar.println(line);
    }
}
