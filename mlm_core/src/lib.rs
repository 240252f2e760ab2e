//! A masked language model (BERT, about 114,000 parameters) pretrained from scratch, for notebooks in which a class
//! watches it learn.
//!
//! The folders follow the way of the data; a file uses only files of its own folder and of those before it:
//!
//! ```text
//! text       chunks, distinct, corpus, notation -> grammar -> tokenizer -> encode, sequences, windows -> masking -> batch
//! model      config, names -> params -> tensors, pretrained (files) -> encoder (what a back end can do) -> reference (in candle)
//! engine     the back end by hand: one operation a file
//! analysis   predictor -> counts, inside -> floor -> evaluate, predict -> baselines
//! training   optimizer, history -> checkpoint -> run (a training without a notebook) -> background (while a notebook goes on)
//! figures    plot, live, markup -> check
//! ```
//!
//! `kernel.rs` stands before them all: what a long call and a figure that changes need of the notebook's kernel.
//!
//! | step | types and functions |
//! | --- | --- |
//! | text | [`Corpus`], [`TextFiles`], [`Grammar`], [`Tokenizer`], [`Sequences`] |
//! | the task | [`Masking`], [`Masker`], [`Batch`], [`DataLoader`] |
//! | the model | [`ModelConfig`], [`Params`], [`Encoder`]: [`Reference`] or [`Engine`], [`Mode`], [`pick_device`] |
//! | in and out | `save_pretrained`, `from_pretrained` of [`Params`] and [`Tokenizer`]; `save`, `load` of [`History`] |
//! | training | [`Gradients`], [`AdamW`], [`Schedule`], [`History`]; [`Training`], which can be interrupted; [`Run`], in the background |
//! | what it has learned | [`evaluate`], [`recovery`], [`fill_mask`] |
//! | what it could have learned | [`Baselines`]: [`Unigram`], [`Neighbours`], [`BestNeighbours`], [`BayesFloor`] |
//! | to look at | [`plot`], [`markup`], [`Figure`]; [`Run::live`] and [`live()`], which change |
//! | exercises | [`Check`] |
//!
//! Shapes are made of these sizes: `batch` sequences of at most `seq` tokens, `tokens` of them in all and `masked` of them
//! to recover; a vocabulary of `vocab`; `d_model` numbers for a token between the `layers`, `heads` times `head_dim` of
//! them in attention and `d_ff` in the feed-forward block.
//!
//! The notebook owns the decisions (what is masked, the training loop, the learning rate), the library owns the
//! mechanics. Randomness is an argument: on one CPU the same generator gives the same numbers, bit for bit.
//!
//! ```
//! use mlm_core::rand::{SeedableRng, rngs::StdRng};
//! use mlm_core::*;
//!
//! # fn main() -> Result<()> {
//! let mut rng = StdRng::seed_from_u64(0);
//! let corpus = Corpus::from_lines(["the cake is a lie", "to be or not to be"])?;
//! let tokenizer = Tokenizer::train(&corpus, &TokenizerConfig::new(1000))?;
//! let config = ModelConfig::new(tokenizer.vocab());
//! let mut encoder = Engine::new(&Params::init(&config, &mut rng)?)?;
//! let mut gradients = Gradients::zeros(&encoder)?;
//! let mut optimizer = AdamW::new(&encoder, AdamWConfig::default())?;
//!
//! let masker = Masker::new(&tokenizer, Masking::default())?;
//! let loader = DataLoader::new(tokenizer.encode_corpus(&corpus, config.max_len)?.sequences, 2)?;
//! for batch in loader.epoch(&masker, &mut rng) {
//!     let loss = encoder.forward(&batch?, Mode::Train { dropout_seed: 0 })?;
//!     encoder.backward(&mut gradients)?;
//!     gradients.clip(1.0)?;
//!     optimizer.step(&mut encoder, &gradients, 1e-3)?;
//! }
//! let filled = fill_mask(&encoder, &tokenizer, "the [MASK] is a lie", 5)?;
//! assert_eq!(filled.masks[0].len(), 5);
//! # Ok(())
//! # }
//! ```
//!
//! A notebook reaches candle, tokenizers, plotters, rand and smartcore only through the re-exports below: with a copy of
//! its own for each cell, candle's automatic differentiation would silently give wrong gradients (see `Cargo.toml`).

// The modules are private: a notebook says `use mlm_core::*`, and a module called `text` would stand in for every
// variable of that name that is missing. Only those whose functions are called through them are public.
mod error;

mod files;

mod kernel;

mod vectors;

mod text;

mod model;

mod engine;

#[cfg(feature = "mpi")]
mod mpi;

mod analysis;

mod training;

mod figures;

pub use analysis::baselines::Baselines;
pub use analysis::best_neighbours::BestNeighbours;
pub use analysis::counts::{Neighbours, Unigram};
pub use analysis::evaluate::{Evaluation, Recovery, WordRecovery, evaluate, recovery};
pub use analysis::floor::BayesFloor;
pub use analysis::predict::{FilledMask, Prediction, fill_mask};
pub use analysis::predictor::{LogProbabilities, Predictor};
pub use analysis::scaling::PowerLaw;
pub use engine::communicator::{Communicator, Exchange, Pending};
pub use engine::{Engine, EngineConfig, Forecast, Network, OperationTime, Precision, StepTime};
pub use error::{Error, Result};
pub use figures::check::Check;
pub use figures::figure::Figure;
pub use figures::live::live;
pub use figures::{markup, plot};
pub use kernel::{attach_to_launcher, interrupt, show_progress};
pub use model::config::ModelConfig;
pub use model::device::pick_device;
pub use model::encoder::{Encoded, Encoder, Mode, Score};
pub use model::gradients::Gradients;
pub use model::initialization::Initialization;
pub use model::params::Params;
pub use model::reference::Reference;
pub use model::weights::Weights;
#[cfg(feature = "mpi")]
pub use mpi::Mpi;
pub use text::batch::{Batch, DataLoader, Epoch, IGNORED_LABEL, PaddedBatch};
pub use text::corpus::Corpus;
pub use text::coverage::Coverage;
pub use text::grammar::Grammar;
pub use text::masking::{MaskedTokens, Masker, Masking, Treatment};
pub use text::sentences::Sentences;
pub use text::sequences::Sequences;
pub use text::text_files::{Format, Layout, TextFiles};
pub use text::tokenizer::{SPECIAL_TOKENS, SpecialIds, Tokenizer};
pub use text::tokenizer_config::TokenizerConfig;
pub use text::windows::{EncodedCorpus, Packing};
pub use training::background::Run;
pub use training::history::{EpochRecord, History};
pub use training::optimizer::{AdamW, AdamWConfig, Schedule};
pub use training::preparation::{Preparation, PreparedTexts, Vocabulary};
pub use training::progress::{RunProgress, RunState};
pub use training::run::{BackEnd, Training, TrainingConfig, TrainingStep};
pub use training::texts::Texts;
pub use vectors::Vectors;

pub use candle_core;
pub use candle_nn;
pub use evcxr_runtime;
pub use plotters;
pub use rand;
#[cfg(feature = "notebook")]
pub use smartcore;
pub use tokenizers;
