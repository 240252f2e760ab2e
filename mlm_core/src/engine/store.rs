//! Where an engine keeps its weights and their gradients: takes the way through the model from [`crate::engine::threads`].

use std::sync::Mutex;

use crate::engine::clock::Operation;
use crate::engine::owned::Owned;
use crate::engine::pool::lock;
use crate::engine::threads::{Parts, Step, Threads};
use crate::error::Result;
use crate::model::weights::{Rule, squared_norm};

/// The weights of an engine and their gradients.
pub(crate) trait Store: Send {
    /// One step forward on all threads.
    ///
    /// # Errors
    /// When another rank does not take part in it.
    fn forward(&mut self, threads: &mut Threads, step: Step) -> Result<()>;

    /// The gradients of all weights, after a step to the loss; returns the root of the sum of their squares.
    ///
    /// # Errors
    /// When another rank does not take part in it.
    fn backward(&mut self, threads: &mut Threads, gradients: &mut [f32]) -> Result<f64>;

    /// What ranks tell each other on the way back, without the way back.
    ///
    /// # Errors
    /// When another rank does not take part in it.
    fn exchange(&mut self, gradients: &mut [f32]) -> Result<()>;

    /// Lets a rule change the weights.
    fn update(&mut self, threads: &mut Threads, gradients: &[f32], moments: [&mut [f32]; 2], rule: Rule<'_>);

    /// Copies the weights.
    fn copy_to(&self, values: &mut [f32]);
}

/// The root of the sum of squares of gradients. A part of them belongs to each of the workers, of all ranks, and the squares of
/// each part are added up by themselves, so that the last bits depend on the number of workers alone.
pub(crate) fn norm(threads: &mut Threads, gradients: &[f32], workers: usize) -> f64 {
    let length = Owned::new(gradients.len(), workers).length;
    let parts: Parts<_> = gradients.chunks(length).map(|part| Mutex::new((part, 0.0))).collect();
    threads.run(true, |nth, tools, work| {
        for part in parts.iter().skip(nth).step_by(work.threads()) {
            let (gradients, squares) = &mut *lock(part);
            *squares = squared_norm(gradients);
        }
        tools.clock.lap(Operation::Reduction);
    });
    parts.iter().map(|part| lock(part).1).sum::<f64>().sqrt()
}
