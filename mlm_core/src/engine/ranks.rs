//! An engine's place among the ranks: takes a communicator, says which of all workers are its own, and gathers what each rank
//! says. The gradients of all are added up in [`crate::engine::reduction`].

use std::ops::Range;
use std::sync::Arc;

use crate::engine::communicator::{Communicator, PATIENCE, pieces};
use crate::error::{Error, Result};
use crate::kernel::check_interrupt;

/// Where an engine stands among the ranks, each with as many workers.
#[derive(Clone, Debug)]
pub(crate) struct Ranks {
    pub(crate) communicator: Arc<dyn Communicator>,
    /// The workers of a rank.
    workers: usize,
}

impl Ranks {
    pub(crate) fn new(communicator: Arc<dyn Communicator>, workers: usize) -> Self {
        Self { communicator, workers }
    }

    pub(crate) fn rank(&self) -> usize {
        self.communicator.rank()
    }

    pub(crate) fn count(&self) -> usize {
        self.communicator.ranks()
    }

    /// Which of all workers belong to a rank.
    pub(crate) fn workers_of(&self, rank: usize) -> Range<usize> {
        rank * self.workers..(rank + 1) * self.workers
    }

    /// How many workers all ranks have together.
    pub(crate) fn workers(&self) -> usize {
        self.count() * self.workers
    }

    /// What each rank has, one after the other, after a step in which no rank was interrupted. All ranks come to the same
    /// end.
    ///
    /// # Errors
    /// [`Error::Interrupted`], and when another rank does not take part in it.
    pub(crate) fn agree(&self, mut own: Vec<f32>, lengths: impl Fn(usize) -> usize) -> Result<Vec<f32>> {
        let is_interrupted = check_interrupt().is_err();
        own.push(f32::from(u8::from(is_interrupted)));
        let gathered = self.communicator.gather(own, |rank| lengths(rank) + 1, PATIENCE)?;
        let mut all = Vec::with_capacity(gathered.len());
        for of_rank in pieces(&gathered, (0..self.count()).map(|rank| lengths(rank) + 1)) {
            let [own @ .., 0.0] = of_rank else { return Err(Error::Interrupted) };
            all.extend_from_slice(own);
        }
        Ok(all)
    }
}

/// A number in two.
pub(crate) fn halves(number: f64) -> [f32; 2] {
    let bits = number.to_bits();
    [f32::from_bits((bits >> 32) as u32), f32::from_bits(bits as u32)]
}

/// The number that two are the [`halves`] of.
pub(crate) fn whole([high, low]: [f32; 2]) -> f64 {
    f64::from_bits(u64::from(high.to_bits()) << 32 | u64::from(low.to_bits()))
}
