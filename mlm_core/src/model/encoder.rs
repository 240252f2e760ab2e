//! What every encoder can do, whichever back end computes it: [`crate::Reference`] with candle, on any device, in f32
//! or f64; [`crate::Engine`] by hand, on the CPU, in f32.

use std::fmt;

use candle_core::{DType, Device, Tensor};

use crate::error::Result;
use crate::kernel;
use crate::model::config::ModelConfig;
use crate::model::gradients::Gradients;
use crate::model::params::Params;
use crate::model::weights::Weights;
use crate::text::batch::Batch;

/// Whether units are dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Dropout with the probabilities of the configuration; the seed decides which units, so take a new one each step.
    Train {
        /// The seed of the step's dropout.
        dropout_seed: u64,
    },
    /// No dropout.
    Evaluate,
}

/// What is predicted for a masked token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Score {
    /// The natural logarithm of the probability of the right token.
    pub log_probability: f64,
    /// The most likely token; of several, the first.
    pub best: u32,
}

/// A row of logits `[vocab]`, in f64. Metal has none, so that it comes to the CPU first.
pub(crate) fn row(logits: &Tensor, nth: usize) -> Result<Tensor> {
    Ok(logits.get(nth)?.to_device(&Device::Cpu)?.to_dtype(DType::F64)?)
}

/// What the layers make of a batch.
#[derive(Clone, Debug)]
pub struct Encoded {
    /// The last layer's output, for the padded rectangle written out line by line `[batch * seq, d_model]`.
    pub hidden: Tensor,
    /// What goes into each layer, and at the end what comes out of the last one: `layers + 1` times as `hidden`. The first is
    /// what the embeddings give.
    pub hidden_states: Vec<Tensor>,
    /// Each layer's attention probabilities `[batch, heads, seq, seq]`: from a query (row) to the keys (columns).
    pub attention: Vec<Tensor>,
}

/// BERT with the masked language modeling head, to be trained and asked. Functions take `&dyn Encoder`, so that a
/// notebook changes the back end in one line. Sealed by [`Weights`]: [`crate::Engine`] and [`crate::Reference`] are all
/// encoders that there are.
///
/// ```
/// # use mlm_core::{candle_core::{DType, Device}, rand::{SeedableRng, rngs::StdRng}, *};
/// # fn main() -> Result<()> {
/// fn one_step(encoder: &mut dyn Encoder, batch: &Batch) -> Result<f64> {
///     let mut gradients = Gradients::zeros(encoder)?;
///     let mut optimizer = AdamW::new(encoder, AdamWConfig::default())?;
///     let loss = encoder.forward(batch, Mode::Train { dropout_seed: 0 })?;
///     encoder.backward(&mut gradients)?;
///     optimizer.step(encoder, &gradients, 1e-3)?;
///     Ok(loss)
/// }
///
/// let params = Params::init(&ModelConfig::new(40), &mut StdRng::seed_from_u64(0))?;
/// let mut batch = Batch::with_gaps([[2, 4, 17, 3].as_slice()], 4);
/// batch.targets = vec![9];
/// let fast = one_step(&mut Engine::new(&params)?, &batch)?;
/// let exact = one_step(&mut Reference::new(&params, DType::F64, &Device::Cpu)?, &batch)?;
/// assert!((fast - exact).abs() < 1e-5);
/// # Ok(())
/// # }
/// ```
pub trait Encoder: Weights + fmt::Debug + Send {
    /// The shape of the model.
    fn config(&self) -> &ModelConfig;

    /// A copy of the weights as they are now, in f32.
    ///
    /// # Errors
    /// When the memory has no room, or the device fails.
    fn params(&self) -> Result<Params>;

    /// The mean over the masked rows of the cross-entropy between the model's prediction and the right token, in nats.
    /// Keeps what [`Encoder::backward`] needs.
    ///
    /// # Errors
    /// When the batch does not fit the model, or has no targets.
    fn forward(&mut self, batch: &Batch, mode: Mode) -> Result<f64>;

    /// The gradients of the loss that [`Encoder::forward`] has just computed.
    ///
    /// # Errors
    /// When there is none, or `gradients` belong to another model.
    fn backward(&mut self, gradients: &mut Gradients) -> Result<()>;

    /// Says that the calling thread and those that compute for it work in the background: on Linux, whoever else wants the
    /// cores goes first. There is no way back. A [`crate::Run`] does so, so that cells are as fast as without it.
    fn go_to_background(&mut self) {
        kernel::background();
    }

    /// The scores of each token of the vocabulary at the masked rows, before the softmax `[masked, vocab]`.
    ///
    /// # Errors
    /// When the batch does not fit the model.
    fn logits(&self, batch: &Batch, mode: Mode) -> Result<Tensor>;

    /// Of each masked row, what is predicted for its target, without dropout. Takes no more memory than [`Encoder::forward`].
    ///
    /// # Errors
    /// When the batch does not fit the model, or has no targets.
    fn score(&self, batch: &Batch) -> Result<Vec<Score>>;

    /// The hidden states and the attention probabilities of a batch.
    ///
    /// # Errors
    /// When the batch does not fit the model.
    fn encode(&self, batch: &Batch, mode: Mode) -> Result<Encoded>;
}
