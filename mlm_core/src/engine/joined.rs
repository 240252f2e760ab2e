//! Sequences of which several workers have a part: takes the keys and values that each has computed for its own tokens, and
//! gives each those of all, for its queries to look at. On the way back it takes the gradients of all keys and values that come
//! from each worker's queries, and gives each worker their sums for its own tokens.
//!
//! Nobody may be on the way through the model meanwhile. What workers of other ranks have, these send before.

use std::mem;
use std::ops::Range;
use std::time::Instant;

use crate::engine::clock::Operation;
use crate::engine::communicator::{Exchange, PATIENCE, wait};
use crate::engine::pass::{add, numbers};
use crate::engine::share::Part;
use crate::engine::threads::{Threads, Tools, Work, Worker, read};
use crate::error::Result;

/// What workers of other ranks have of the sequences that this rank's workers have a part of.
#[derive(Debug, Default)]
pub(crate) struct Remote {
    /// Keys and values of all their tokens, in the order of the batch.
    keys_values: Exchange,
    /// For each part of a sequence that one of them has, in their order, the gradients of the keys and values of this rank's
    /// tokens that come from its queries.
    dkeys_values: Exchange,
}

impl Threads {
    /// Gets a layer's keys and values from other ranks, on the way forward or back.
    ///
    /// # Errors
    /// When another rank does not take part in it.
    pub(crate) fn exchange_keys(&mut self, backward: bool, layer: usize) -> Result<()> {
        let begun = Instant::now();
        let Self { ranks, work, .. } = self;
        let Some(ranks) = ranks.as_ref().filter(|_| work.is_cut_between_ranks()) else { return Ok(()) };
        let (columns, own) = (2 * work.config.d_model, work.rows_of(&work.own));
        let memory = mem::take(&mut work.remote.keys_values);
        let rows_of = |rank| work.rows_of(&ranks.workers_of(rank));
        let send = |other: usize, sent: &mut Vec<f32>| {
            let wanted = intersection(&own, &work.whole(&rows_of(other)));
            for worker in &work.workers {
                let Worker { activations, rows, .. } = &*read(worker);
                let wanted = from_row(&intersection(&wanted, rows), rows.start);
                sent.extend_from_slice(&activations.layers[layer].keys_values[numbers(&wanted, columns)]);
            }
        };
        let whole = work.whole(&own);
        let mut pending =
            ranks.communicator.send(memory, send, |other| intersection(&rows_of(other), &whole).len() * columns)?;
        work.remote.keys_values = wait(pending.as_mut(), PATIENCE)?;
        self.note_exchange(backward, begun);
        Ok(())
    }

    /// Gets the gradients of keys and values from other ranks.
    ///
    /// # Errors
    /// When another rank does not take part in it.
    pub(crate) fn exchange_gradients(&mut self) -> Result<()> {
        let begun = Instant::now();
        let Self { ranks, work, .. } = self;
        let Some(ranks) = ranks.as_ref().filter(|_| work.is_cut_between_ranks()) else { return Ok(()) };
        let (columns, own) = (2 * work.config.d_model, work.rows_of(&work.own));
        let memory = mem::take(&mut work.remote.dkeys_values);
        let send = |other: usize, sent: &mut Vec<f32>| {
            let theirs = work.rows_of(&ranks.workers_of(other));
            for (worker, nth) in work.workers.iter().zip(work.own.clone()) {
                let Worker { activations, .. } = &*read(worker);
                for Part { whole, cut, .. } in work.parts(nth) {
                    let place = after(&from_row(&intersection(&whole, &theirs), whole.start), cut.start);
                    sent.extend_from_slice(&activations.scratch.dcut[numbers(&place, columns)]);
                }
            }
        };
        let length = |other| {
            let parts = ranks.workers_of(other).flat_map(|worker| work.parts(worker));
            parts.map(|part| intersection(&part.whole, &own).len() * columns).sum()
        };
        let mut pending = ranks.communicator.send(memory, send, length)?;
        work.remote.dkeys_values = wait(pending.as_mut(), PATIENCE)?;
        self.note_exchange(true, begun);
        Ok(())
    }
}

impl Work {
    /// Copies a layer's keys and values from all workers that have a part of the same sequences as this one.
    pub(crate) fn join_keys(&self, nth: usize, layer: usize, tools: &mut Tools) {
        let Tools { joined, clock, .. } = tools;
        let columns = 2 * self.config.d_model;
        let own = self.rows_of(&self.own);
        for Part { whole, cut, .. } in self.parts(self.own.start + nth) {
            let mut join = |part: &Range<usize>, theirs: &[f32]| {
                let place = after(&from_row(part, whole.start), cut.start);
                joined.keys_values[numbers(&place, columns)].copy_from_slice(theirs);
            };
            for worker in &self.workers {
                let Worker { activations, rows, .. } = &*read(worker);
                let part = intersection(&whole, rows);
                let theirs = numbers(&from_row(&part, rows.start), columns);
                join(&part, &activations.layers[layer].keys_values[theirs]);
            }
            // Of other ranks there are the rows before this one's, then those behind.
            let (remote, before) = (&self.remote.keys_values.received, self.whole(&own).start..own.start);
            let part = intersection(&whole, &before);
            join(&part, &remote[numbers(&from_row(&part, before.start), columns)]);
            let part = intersection(&whole, &(own.end..self.batch.tokens()));
            join(&part, &remote[numbers(&after(&from_row(&part, own.end), before.len()), columns)]);
        }
        clock.lap(Operation::Attention);
    }

    /// Adds up, in the order of the workers, the gradients of keys and values for a worker's own tokens of these sequences.
    pub(crate) fn join_gradients(&self, nth: usize, tools: &mut Tools) {
        let Tools { joined, clock, .. } = tools;
        let columns = 2 * self.config.d_model;
        let of_rank = self.rows_of(&self.own);
        for Part { whole, tokens, cut } in self.parts(self.own.start + nth) {
            let own = from_row(&tokens, whole.start);
            let sums = &mut joined.dkeys_values[numbers(&after(&own, cut.start), columns)];
            sums.fill(0.0);
            let mut received = 0;
            for other in 0..self.ends.len() {
                for part in self.parts(other) {
                    let is_same = part.whole == whole;
                    if self.own.contains(&other) {
                        if is_same {
                            let theirs = numbers(&after(&own, part.cut.start), columns);
                            add(sums, &read(&self.workers[other - self.own.start]).activations.scratch.dcut[theirs]);
                        }
                        continue;
                    }
                    let rows = intersection(&part.whole, &of_rank);
                    if is_same {
                        let theirs = numbers(&after(&from_row(&tokens, rows.start), received), columns);
                        add(sums, &self.remote.dkeys_values.received[theirs]);
                    }
                    received += rows.len();
                }
            }
        }
        clock.lap(Operation::Attention);
    }

    /// Whether there is a sequence of which workers of several ranks have a part.
    fn is_cut_between_ranks(&self) -> bool {
        self.ends.chunks(self.own.len()).any(|ends| self.batch.offsets.binary_search(&ends[ends.len() - 1]).is_err())
    }

    /// The rows of the sequences that some rows are of.
    fn whole(&self, rows: &Range<usize>) -> Range<usize> {
        if rows.is_empty() {
            return rows.clone();
        }
        let offsets = &self.batch.offsets;
        let start = offsets[offsets.partition_point(|&offset| offset <= rows.start) - 1];
        start..offsets[offsets.partition_point(|&offset| offset < rows.end)]
    }
}

/// Rows as they are counted from the one at `start`; none, if there are none.
fn from_row(rows: &Range<usize>, start: usize) -> Range<usize> {
    if rows.is_empty() { 0..0 } else { rows.start - start..rows.end - start }
}

/// Rows that come after so many others.
fn after(rows: &Range<usize>, others: usize) -> Range<usize> {
    others + rows.start..others + rows.end
}

/// Rows that are in both.
fn intersection(rows: &Range<usize>, others: &Range<usize>) -> Range<usize> {
    let start = rows.start.max(others.start);
    start..rows.end.min(others.end).max(start)
}
