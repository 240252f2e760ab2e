//! Adds up the gradients of all ranks, block by block while the way back goes on: takes the sums over this rank's workers, gives
//! those over all workers.
//!
//! Some neighbouring gradients, a bucket, are cut into as many slices as there are ranks. Each rank sends each other one its sums
//! for that one's slice, adds up those that it gets for its own in the order of [`crate::engine::tree`], and sends the totals to
//! all (Rabenseifner 2004, "Optimization of Collective Reduction Operations"). The bits are those of one process with as many
//! workers. Where a rank has 1, 2, 4, 8 ... of them, nobody sends or receives more than about two numbers for each gradient,
//! however many ranks there are; otherwise a rank's workers are several groups of the tree, and each group's sums are sent.

use std::mem;
use std::ops::Range;

use smallvec::SmallVec;

use crate::engine::buffer::Buffer;
use crate::engine::communicator::{Exchange, PATIENCE, Pending, wait};
use crate::engine::ranks::Ranks;
use crate::engine::tree::{self, Group};
use crate::error::Result;

/// Numbers for each gradient, sent and received.
pub(crate) const NUMBERS: usize = 2;

/// So many gradients are worth exchanges of their own, 1 MB, if not more are for each rank to get a [slice](SLICE).
const BUCKET: usize = 1 << 18;

/// So many are worth a message: 64 kB.
const SLICE: usize = 1 << 14;

/// Slices end where a line of a cache does.
const LINE: usize = 16;

/// The sums over this rank's workers, and how far they are on their way to the totals.
pub(crate) struct Reduction {
    ranks: Ranks,
    /// The groups of workers whose gradients each rank adds up by itself, in the order of the ranks.
    groups: Vec<Vec<Range<usize>>>,
    /// The sums over this rank's groups, but for the first one, whose sums are where the totals will be.
    others: Vec<Buffer>,
    /// The gradients whose sums are there and not yet under way.
    ready: Range<usize>,
    buckets: Vec<Bucket>,
    /// Memory of exchanges that are over.
    spare: Vec<Exchange>,
}

/// Gradients that are under way.
struct Bucket {
    range: Range<usize>,
    stage: Stage,
    pending: Box<dyn Pending>,
    /// The exchange, when it is over.
    over: Option<Exchange>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The sums go to the ranks that add them up.
    Sums,
    /// The totals go to all.
    Totals,
    Done,
}

impl Bucket {
    /// Lets the exchange go on; returns whether it is over.
    fn look(&mut self) -> Result<bool> {
        if self.over.is_none() {
            self.over = self.pending.test()?;
        }
        Ok(self.over.is_some())
    }

    fn wait(&mut self) -> Result<Exchange> {
        match self.over.take() {
            Some(exchange) => Ok(exchange),
            None => wait(self.pending.as_mut(), PATIENCE),
        }
    }
}

impl Reduction {
    /// For so many gradients.
    pub(crate) fn new(ranks: Ranks, gradients: usize) -> Self {
        let groups: Vec<_> =
            (0..ranks.count()).map(|rank| tree::within(0..ranks.workers(), &ranks.workers_of(rank))).collect();
        let others = (1..groups[ranks.rank()].len()).map(|_| Buffer::zeros(gradients)).collect();
        Self { ranks, groups, others, ready: 0..0, buckets: Vec::new(), spare: Vec::new() }
    }

    /// This rank's groups, of its workers as it counts them.
    pub(crate) fn groups(&self) -> SmallVec<[Range<usize>; 4]> {
        let first = self.ranks.workers_of(self.ranks.rank()).start;
        self.groups[self.ranks.rank()].iter().map(|group| group.start - first..group.end - first).collect()
    }

    /// Where the sums over one of these groups are to be: those over the first one where the totals will.
    pub(crate) fn sums<'a>(&'a mut self, group: usize, gradients: &'a mut [f32]) -> &'a mut [f32] {
        if group == 0 { gradients } else { &mut self.others[group - 1] }
    }

    /// The workers of all ranks.
    pub(crate) fn workers(&self) -> usize {
        self.ranks.workers()
    }

    /// How many gradients are worth exchanges of their own.
    pub(crate) fn bucket(&self) -> usize {
        bucket(self.ranks.count())
    }

    /// Before the way back.
    pub(crate) fn start(&mut self, gradients: usize) {
        // If the one before has ended early, so has the training.
        self.buckets.clear();
        self.ready = gradients..gradients;
    }

    /// The sums of some gradients are there; those of all that lie behind them were there before.
    pub(crate) fn add(&mut self, range: Range<usize>, gradients: &mut [f32]) -> Result<()> {
        self.ready.start = range.start;
        if self.ready.len() < self.bucket() && self.ready.start > 0 {
            return Ok(());
        }
        let range = mem::replace(&mut self.ready, range.start..range.start);
        let pending = self.send_sums(&range, gradients)?;
        self.buckets.push(Bucket { range, stage: Stage::Sums, pending, over: None });
        // All ranks begin their exchanges in the same order, so it may not depend on which one is over first.
        if let Some(before) = self.buckets.len().checked_sub(2) {
            self.send_totals(before, gradients)?;
        }
        self.look(gradients)
    }

    /// All that there is at once.
    pub(crate) fn add_all(&mut self, gradients: &mut [f32]) -> Result<()> {
        self.start(gradients.len());
        self.add(0..gradients.len(), gradients)?;
        self.finish(gradients)
    }

    /// Lets what is under way go on.
    fn look(&mut self, gradients: &mut [f32]) -> Result<()> {
        for nth in 0..self.buckets.len() {
            if self.buckets[nth].stage != Stage::Done
                && self.buckets[nth].look()?
                && self.buckets[nth].stage == Stage::Totals
            {
                self.take_totals(nth, gradients)?;
            }
        }
        Ok(())
    }

    /// Waits until all gradients are the totals.
    pub(crate) fn finish(&mut self, gradients: &mut [f32]) -> Result<()> {
        if let Some(last) = self.buckets.len().checked_sub(1) {
            self.send_totals(last, gradients)?;
        }
        for nth in 0..self.buckets.len() {
            if self.buckets[nth].stage == Stage::Totals {
                self.take_totals(nth, gradients)?;
            }
        }
        Ok(())
    }

    fn send_sums(&mut self, bucket: &Range<usize>, gradients: &[f32]) -> Result<Box<dyn Pending>> {
        let (rank, ranks) = (self.ranks.rank(), self.ranks.count());
        let send = |other: usize, sent: &mut Vec<f32>| {
            let slice = slice(bucket, other, ranks);
            sent.extend_from_slice(&gradients[slice.clone()]);
            self.others.iter().for_each(|sums| sent.extend_from_slice(&sums[slice.clone()]));
        };
        let own = slice(bucket, rank, ranks).len();
        self.ranks.communicator.send(self.spare.pop().unwrap_or_default(), send, |other| own * self.groups[other].len())
    }

    /// Adds up the sums for this rank's slice of a bucket.
    fn send_totals(&mut self, nth: usize, gradients: &mut [f32]) -> Result<()> {
        let exchange = self.buckets[nth].wait()?;
        let (rank, ranks, bucket) = (self.ranks.rank(), self.ranks.count(), self.buckets[nth].range.clone());
        let own = slice(&bucket, rank, ranks);
        let Exchange { sent: mut totals, mut to, mut received, mut from } = exchange;
        totals.resize(own.len(), 0.0);
        {
            let mut groups: SmallVec<[Group<'_>; 16]> = SmallVec::new();
            for (other, workers) in self.groups.iter().enumerate() {
                for (nth, workers) in workers.iter().enumerate() {
                    let sums = match nth.checked_sub(1) {
                        _ if other != rank => &received[from[other].start + nth * own.len()..][..own.len()],
                        None => &gradients[own.clone()],
                        Some(nth) => &self.others[nth][own.clone()],
                    };
                    groups.push(Group { workers: workers.clone(), sums });
                }
            }
            tree::add_up(&groups, &mut totals);
        }
        gradients[own].copy_from_slice(&totals);
        let mut end = 0;
        for other in 0..ranks {
            let length = if other == rank { 0 } else { slice(&bucket, other, ranks).len() };
            to[other] = if other == rank { 0..0 } else { 0..totals.len() };
            from[other] = end..end + length;
            end += length;
        }
        received.resize(end, 0.0);
        let pending = self.ranks.communicator.begin(Exchange { sent: totals, to, received, from })?;
        self.buckets[nth] = Bucket { range: bucket, stage: Stage::Totals, pending, over: None };
        Ok(())
    }

    /// Takes the totals of the other ranks' slices.
    fn take_totals(&mut self, nth: usize, gradients: &mut [f32]) -> Result<()> {
        let exchange = self.buckets[nth].wait()?;
        for (other, place) in exchange.from.iter().enumerate().filter(|&(other, _)| other != self.ranks.rank()) {
            let slice = slice(&self.buckets[nth].range, other, self.ranks.count());
            gradients[slice].copy_from_slice(&exchange.received[place.clone()]);
        }
        self.buckets[nth].stage = Stage::Done;
        self.spare.push(exchange);
        Ok(())
    }
}

/// How many gradients are worth exchanges of their own between so many ranks.
pub(crate) fn bucket(ranks: usize) -> usize {
    BUCKET.max(SLICE * ranks)
}

/// The slice of a bucket that a rank adds up.
fn slice(bucket: &Range<usize>, rank: usize, ranks: usize) -> Range<usize> {
    let end = |nth: usize| match nth == ranks {
        true => bucket.end,
        false => bucket.start + bucket.len() * nth / ranks / LINE * LINE,
    };
    end(rank)..end(rank + 1)
}
