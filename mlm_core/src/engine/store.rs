//! Where an engine keeps its weights and their gradients: takes the way through the model from [`crate::engine::threads`].

use crate::engine::threads::{Step, Threads};
use crate::model::weights::Rule;

/// The weights of an engine and their gradients.
pub(crate) trait Store: Send {
    /// One step forward on all threads.
    fn forward(&mut self, threads: &mut Threads, step: Step);

    /// The gradients of all weights, after a step to the loss; returns the root of the sum of their squares.
    fn backward(&mut self, threads: &mut Threads, gradients: &mut [f32]) -> f64;

    /// Lets a rule change the weights.
    fn update(&mut self, threads: &mut Threads, gradients: &[f32], moments: [&mut [f32]; 2], rule: Rule<'_>);

    /// Copies the weights.
    fn copy_to(&self, values: &mut [f32]);
}
