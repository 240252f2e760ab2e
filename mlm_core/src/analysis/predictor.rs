//! Takes masked batches, says how probable each token is in each gap: what a trained encoder, a baseline and the floor have
//! in common.

use candle_core::{D, DType, Device};
use candle_nn::ops::log_softmax;

use crate::error::Result;
use crate::model::encoder::{Encoder, Mode};
use crate::text::batch::{Batch, check_ids};

/// What can be asked how probable a token is: each [`Encoder`], the baselines [`crate::Unigram`] and [`crate::Neighbours`],
/// and [`crate::BayesFloor`], which knows the truth. [`crate::evaluate`], [`crate::recovery`] and [`crate::fill_mask`] take
/// any of them.
pub trait Predictor {
    /// The size of the vocabulary.
    fn vocab(&self) -> usize;

    /// The longest sequence that it reads, `[CLS]` and `[SEP]` included; any, where nothing else is said.
    fn max_len(&self) -> usize {
        usize::MAX
    }

    /// The logarithm of the probability of each token at the masked rows of a batch.
    ///
    /// # Errors
    /// When the batch does not fit.
    fn log_probabilities(&self, batch: &Batch) -> Result<LogProbabilities>;
}

/// Natural logarithms of probabilities `[masked, vocab]`.
#[derive(Clone, Debug, PartialEq)]
pub struct LogProbabilities {
    pub(crate) values: Vec<f64>,
    pub(crate) vocab: usize,
}

impl LogProbabilities {
    /// Those of the weights that `write` writes for each masked row, over zeros: of each token, in proportion to its
    /// probability, not all of them 0.
    pub(crate) fn fill(
        batch: &Batch,
        vocab: usize,
        mut write: impl FnMut(usize, &mut [f64]) -> Result<()>,
    ) -> Result<Self> {
        batch.validate()?;
        check_ids(vocab, "input_ids", &batch.input_ids)?;
        let mut values = vec![0.0; batch.masked_rows.len() * vocab];
        for (&row, values) in batch.masked_rows.iter().zip(values.chunks_exact_mut(vocab)) {
            write(row, values)?;
            let sum: f64 = values.iter().sum();
            values.iter_mut().for_each(|value| *value = (*value / sum).ln());
        }
        Ok(Self { values, vocab })
    }

    /// Those of each masked row `[vocab]`.
    pub fn rows(&self) -> impl Iterator<Item = &[f64]> {
        self.values.chunks_exact(self.vocab)
    }
}

impl<E: Encoder + ?Sized> Predictor for E {
    fn vocab(&self) -> usize {
        self.config().vocab
    }

    fn max_len(&self) -> usize {
        self.config().max_len
    }

    /// log softmax of the logits, in f64.
    fn log_probabilities(&self, batch: &Batch) -> Result<LogProbabilities> {
        // Metal has no f64, so the logits come to the CPU first.
        let logits = self.logits(batch, Mode::Evaluate)?.to_device(&Device::Cpu)?.to_dtype(DType::F64)?;
        let values = log_softmax(&logits, D::Minus1)?.flatten_all()?.to_vec1()?;
        Ok(LogProbabilities { values, vocab: self.config().vocab })
    }
}
