//! Sequences of which several workers have a part: takes the keys and values that each has computed for its own tokens, and
//! gives each those of all, for its queries to look at. On the way back it takes the gradients of all keys and values that come
//! from each worker's queries, and gives each worker their sums for its own tokens.
//!
//! Nobody may be on the way through the model meanwhile.

use std::ops::Range;

use crate::engine::clock::Operation;
use crate::engine::pass::{add, numbers};
use crate::engine::share::{Part, Share};
use crate::engine::threads::{Tools, Work, Worker, read};

impl Work {
    /// Copies a layer's keys and values from all workers that have a part of the same sequences as this one.
    pub(crate) fn join_keys(&self, nth: usize, layer: usize, tools: &mut Tools) {
        let Tools { joined, clock, .. } = tools;
        let columns = 2 * self.config.d_model;
        for Part { whole, cut, .. } in self.parts(nth) {
            for worker in &self.workers {
                let Worker { activations, rows, .. } = &*read(worker);
                let part = whole.start.max(rows.start)..whole.end.min(rows.end);
                if part.start < part.end {
                    let theirs = &activations.layers[layer].keys_values[numbers(&from(&part, rows.start), columns)];
                    let place = after(&from(&part, whole.start), cut.start);
                    joined.keys_values[numbers(&place, columns)].copy_from_slice(theirs);
                }
            }
        }
        clock.lap(Operation::Attention);
    }

    /// Adds up, in the order of the workers, the gradients of keys and values for a worker's own tokens of these sequences.
    pub(crate) fn join_gradients(&self, nth: usize, tools: &mut Tools) {
        let Tools { joined, clock, .. } = tools;
        let columns = 2 * self.config.d_model;
        for Part { whole, tokens, cut } in self.parts(nth) {
            let own = from(&tokens, whole.start);
            let sums = &mut joined.dkeys_values[numbers(&after(&own, cut.start), columns)];
            sums.fill(0.0);
            for (other, worker) in self.workers.iter().enumerate() {
                for part in self.parts(other).filter(|part| part.whole == whole) {
                    let theirs = numbers(&after(&own, part.cut.start), columns);
                    add(sums, &read(worker).activations.scratch.dcut[theirs]);
                }
            }
        }
        clock.lap(Operation::Attention);
    }

    fn parts(&self, nth: usize) -> impl Iterator<Item = Part> {
        Share::new(&self.batch, read(&self.workers[nth]).rows.clone()).parts()
    }
}

/// Rows as they are counted from the one at `start`.
fn from(rows: &Range<usize>, start: usize) -> Range<usize> {
    rows.start - start..rows.end - start
}

/// Rows that come after so many others.
fn after(rows: &Range<usize>, others: usize) -> Range<usize> {
    others + rows.start..others + rows.end
}
