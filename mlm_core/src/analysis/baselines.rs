//! Takes a text and the masks on which a model is tested, gives the losses that its own is to be seen against.

use std::fmt;

use ahash::AHashSet;
use serde::{Deserialize, Serialize};

use crate::analysis::counts::Neighbours;
use crate::analysis::evaluate::{Evaluation, evaluate};
use crate::analysis::floor::BayesFloor;
use crate::error::Result;
use crate::kernel::ProgressLine;
use crate::text::batch::Batch;
use crate::text::distinct::key;
use crate::text::masking::Masker;
use crate::text::sequences::Sequences;

/// In so many tokens, more or less, the pairs of neighbours are counted: nothing is to wait long for the first step.
const COUNTED_TOKENS: usize = 1 << 24;

/// After so many sequences there is a look at the stop button.
const LOOK: usize = 4096;

/// What can be said about some masked tokens without a neural network, from the least knowledge to all there is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Baselines {
    /// Of [`crate::Unigram`], which knows how frequent each token is.
    pub unigram: Evaluation,
    /// Of [`crate::Neighbours`], which sees the tokens beside a gap.
    pub neighbours: Evaluation,
    /// Of [`crate::BestNeighbours`], which sees the same tokens and knows what has written the text, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub best_neighbours: Option<Evaluation>,
    /// Of [`BayesFloor`], where it is known what has written the text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub floor: Option<Evaluation>,
}

impl fmt::Display for Baselines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "without a model: unigram {:.3}, neighbours {:.3}", self.unigram.loss, self.neighbours.loss)?;
        if let Some(best) = &self.best_neighbours {
            write!(f, ", neighbours at best {:.3}", best.loss)?;
        }
        match &self.floor {
            Some(floor) => write!(f, ", floor {:.3}", floor.loss),
            None => Ok(()),
        }
    }
}

impl Baselines {
    /// Counts in the training `sequences`, and predicts the masked tokens of `batches`, which `masker` has drawn. Copies of a
    /// sequence count once: a text that an epoch goes through ten times says no more about others than once. Of a large text,
    /// [`Self::counted`] says how much is read.
    ///
    /// # Errors
    /// When there is no batch, or one does not fit the vocabulary or the floor's grammar.
    pub fn measure(
        sequences: &Sequences,
        batches: &[Batch],
        masker: &Masker,
        floor: Option<&BayesFloor>,
    ) -> Result<Self> {
        let mut seen = AHashSet::new();
        let mut is_new = |ids: &Vec<u32>| {
            let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
            seen.insert(key(&bytes, 0))
        };
        let mut progress = ProgressLine::new("counting neighbours", sequences.len(), "sequences");
        let sample = sequences.iter().enumerate().step_by(step(sequences)).map(|(index, ids)| {
            if index.is_multiple_of(LOOK) {
                progress.at(index)?;
            }
            ids
        });
        let distinct = sample.filter(|ids| !ids.as_ref().is_ok_and(|ids| !is_new(ids)));
        let neighbours = Neighbours::fit_each(distinct, masker)?;
        progress.end();
        Ok(Self {
            unigram: evaluate(neighbours.unigram(), batches)?,
            neighbours: evaluate(&neighbours, batches)?,
            best_neighbours: floor.map(|floor| evaluate(&floor.best_neighbours(), batches)).transpose()?,
            floor: floor.map(|floor| evaluate(floor, batches)).transpose()?,
        })
    }

    /// How many of the `sequences` are counted in: all, up to 16 million tokens; else every second one, or every third, and so
    /// on, so that these have no more.
    pub fn counted(sequences: &Sequences) -> usize {
        sequences.len().div_ceil(step(sequences))
    }

    /// Of the way from the loss of the neighbours (0) down to the floor (1), the share that a model with this loss has gone;
    /// below 0, where it knows less than the neighbours do. None, where the floor is not known or not below them.
    pub fn gap_closed(&self, loss: f64) -> Option<f64> {
        let gap = self.neighbours.loss - self.floor.as_ref()?.loss;
        (gap > 0.0).then(|| (self.neighbours.loss - loss) / gap)
    }
}

/// Of so many sequences one is counted in.
fn step(sequences: &Sequences) -> usize {
    sequences.tokens().div_ceil(COUNTED_TOKENS).max(1)
}
