//! What every encoder can do, whichever back end computes it.

use candle_core::Tensor;

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

/// What the layers make of a batch.
#[derive(Clone, Debug)]
pub struct Encoded {
    /// The last layer's output, for the padded rectangle written out line by line `[batch * seq, d_model]`.
    pub hidden: Tensor,
    /// Each layer's attention probabilities `[batch, heads, seq, seq]`: from a query (row) to the keys (columns).
    pub attention: Vec<Tensor>,
}
