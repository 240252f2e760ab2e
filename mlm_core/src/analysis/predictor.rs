//! Takes masked batches, says how probable each token is in each gap: what a trained encoder, a baseline and the floor have
//! in common.

use candle_nn::ops::log_softmax;

use crate::error::Result;
use crate::kernel::check_interrupt;
use crate::model::encoder::{self, Encoder, Mode, Score};
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

    /// Calls a function for each masked row of a batch, in their order, with the natural logarithm of the probability of each
    /// token there `[vocab]`. Only one such row is in memory at a time.
    ///
    /// # Errors
    /// When the batch does not fit.
    fn each_row(&self, batch: &Batch, see: &mut dyn FnMut(&[f64])) -> Result<()>;

    /// Of each masked row, what is predicted for its target.
    ///
    /// # Errors
    /// When the batch does not fit, or has no targets; [`crate::Error::Interrupted`].
    fn scores(&self, batch: &Batch) -> Result<Vec<Score>> {
        check_interrupt()?;
        batch.check_targets()?;
        check_ids(self.vocab(), "targets", &batch.targets)?;
        let (mut scores, mut targets) = (Vec::with_capacity(batch.targets.len()), batch.targets.iter());
        self.each_row(batch, &mut |row| {
            let log_probability = targets.next().map_or(f64::NAN, |&target| row[target as usize]);
            scores.push(Score { log_probability, best: best(row) });
        })?;
        Ok(scores)
    }

    /// The logarithm of the probability of each token at all masked rows of a batch, at once: of the 30,522 tokens of BERT,
    /// 1 GB for 4,000 rows.
    ///
    /// # Errors
    /// When the batch does not fit.
    fn log_probabilities(&self, batch: &Batch) -> Result<LogProbabilities> {
        let vocab = self.vocab();
        let mut values = Vec::with_capacity(batch.masked_rows.len() * vocab);
        self.each_row(batch, &mut |row| values.extend_from_slice(row))?;
        Ok(LogProbabilities { values, vocab })
    }
}

/// Natural logarithms of probabilities `[masked, vocab]`.
#[derive(Clone, Debug, PartialEq)]
pub struct LogProbabilities {
    values: Vec<f64>,
    vocab: usize,
}

impl LogProbabilities {
    /// Those of each masked row `[vocab]`.
    pub fn rows(&self) -> impl Iterator<Item = &[f64]> {
        self.values.chunks_exact(self.vocab)
    }
}

/// The rows of weights that `write` writes for each masked row, over zeros: of each token, in proportion to its probability,
/// not all of them 0.
pub(crate) fn each_row_of_weights(
    batch: &Batch,
    vocab: usize,
    see: &mut dyn FnMut(&[f64]),
    mut write: impl FnMut(usize, &mut [f64]) -> Result<()>,
) -> Result<()> {
    batch.validate()?;
    check_ids(vocab, "input_ids", &batch.input_ids)?;
    let mut values = vec![0.0; vocab];
    for &row in &batch.masked_rows {
        values.fill(0.0);
        write(row, &mut values)?;
        let sum: f64 = values.iter().sum();
        values.iter_mut().for_each(|value| *value = (*value / sum).ln());
        see(&values);
    }
    Ok(())
}

/// The most likely token; of several, the first.
fn best(row: &[f64]) -> u32 {
    (0..row.len()).rev().max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap_or(0) as u32
}

impl<E: Encoder + ?Sized> Predictor for E {
    fn vocab(&self) -> usize {
        self.config().vocab
    }

    fn max_len(&self) -> usize {
        self.config().max_len
    }

    /// log softmax of the logits, in f64.
    fn each_row(&self, batch: &Batch, see: &mut dyn FnMut(&[f64])) -> Result<()> {
        let logits = self.logits(batch, Mode::Evaluate)?;
        for row in 0..logits.dim(0)? {
            see(&log_softmax(&encoder::row(&logits, row)?, 0)?.to_vec1()?);
        }
        Ok(())
    }

    fn scores(&self, batch: &Batch) -> Result<Vec<Score>> {
        self.score(batch)
    }
}
