//! A copy of the weights for each thread: takes the threads, lets each go through the model on its own. Nobody waits for
//! another before the gradients are added up, which is what makes small models fast; memory grows with the threads.
//!
//! A part of the weights belongs to each thread: it adds up all threads' gradients for these, updates them and sends them to
//! the others.

use std::sync::{Mutex, RwLock};
use std::time::Instant;

use smallvec::{SmallVec, smallvec};

use crate::engine::backward::Sums;
use crate::engine::buffer::Buffer;
use crate::engine::clock::Operation;
use crate::engine::layers::{Block, Layers, Weights};
use crate::engine::mail::post;
use crate::engine::owned::Owned;
use crate::engine::pool::lock;
use crate::engine::reduction::Reduction;
use crate::engine::store::{self, Store};
use crate::engine::threads::{Parts, Step, Threads, read, write};
use crate::engine::tree::{self, Group};
use crate::error::Result;
use crate::model::params::Params;
use crate::model::weights::{Numbers, Part, Rule, squared_norm};

/// Numbers that a thread keeps for each parameter: its weight and gradient, one of them for the others, and the weight
/// copied twice for the products.
pub(crate) const NUMBERS: usize = 5;

/// The weights and gradients of all threads.
pub(crate) struct Copies {
    copies: Vec<Mutex<Copy>>,
    owned: Owned,
    /// What each thread has for the others: for the weights that belong to it their values, for all others their gradients.
    mail: Vec<RwLock<Buffer>>,
    /// Weights have changed since the threads copied them.
    stale: bool,
    reduction: Option<Reduction>,
}

/// One thread's memory, which no other touches. Two neighbouring lines come into a cache together, so it starts at a multiple
/// of two.
#[repr(align(128))]
struct Copy {
    weights: Buffer,
    gradients: Buffer,
    layers: Layers,
}

impl Copies {
    pub(crate) fn new(params: &Params, threads: usize, reduction: Option<Reduction>) -> Result<Self> {
        let (mut copies, mut mail) = (Vec::with_capacity(threads), Vec::with_capacity(threads));
        for _ in 0..threads {
            let (weights, gradients) = (params.as_slice().into(), Buffer::zeros(params.len()));
            copies.push(Mutex::new(Copy { weights, gradients, layers: Layers::new(params)? }));
            mail.push(RwLock::new(params.as_slice().into()));
        }
        Ok(Self { copies, owned: Owned::new(params.len(), threads), mail, stale: true, reduction })
    }
}

impl Store for Copies {
    fn forward(&mut self, threads: &mut Threads, step: Step) -> Result<()> {
        let Self { copies, owned, mail, stale, .. } = self;
        let precision = threads.precision();
        threads.run(false, |nth, tools, work| {
            let Copy { weights, layers, .. } = &mut *lock(&copies[nth]);
            if *stale {
                for other in owned.others(nth) {
                    weights[owned.by(other)].copy_from_slice(&read(&mail[other])[owned.by(other)]);
                }
                tools.clock.lap(Operation::Mail);
                for panel in layers.panels(weights, precision) {
                    panel.fill(&mut tools.room);
                }
                tools.clock.lap(Operation::Packing);
            }
            work.forward(nth, step, work.stages(), Weights { values: weights, layers }, tools);
        });
        *stale = false;
        Ok(())
    }

    fn backward(&mut self, threads: &mut Threads, gradients: &mut [f32]) -> Result<f64> {
        let Self { copies, owned, mail, reduction, .. } = self;
        threads.run(true, |nth, tools, work| {
            let Copy { weights, gradients, layers } = &mut *lock(&copies[nth]);
            let weights = Weights { values: weights, layers };
            for block in Block::back(layers.layers.len()) {
                work.back(nth, block, weights, tools);
                let range = layers.range(block);
                let mut sums = Sums { start: range.start, values: &mut gradients[range] };
                work.gradients(nth..nth + 1, block, weights, &mut sums, tools);
            }
            for other in owned.others(nth) {
                post(&gradients[owned.by(other)], &mut write(&mail[nth])[owned.by(other)]);
            }
            tools.clock.lap(Operation::Mail);
        });
        // Without ranks there is one group, of all threads.
        let groups = reduction.as_ref().map_or_else(|| smallvec![0..copies.len()], Reduction::groups);
        let mut squared = 0.0;
        for (nth_group, group) in groups.into_iter().enumerate() {
            let sums = match reduction {
                Some(reduction) => reduction.sums(nth_group, gradients),
                None => &mut *gradients,
            };
            let parts: Parts<_> = sums.chunks_mut(owned.length).map(|part| Mutex::new((part, 0.0))).collect();
            threads.run(true, |nth, tools, _| {
                let Some(part) = parts.get(nth) else { return };
                let ((sums, squares), own) = (&mut *lock(part), &lock(&copies[nth]).gradients);
                let mail: SmallVec<[_; 16]> = mail.iter().map(read).collect();
                let of_group: SmallVec<[Group<'_>; 16]> = (group.clone())
                    .map(|worker| {
                        let sums = if worker == nth { own } else { &*mail[worker] };
                        Group { workers: worker..worker + 1, sums: &sums[owned.by(nth)] }
                    })
                    .collect();
                tree::add_up(&of_group, sums);
                *squares = squared_norm(sums);
                tools.clock.lap(Operation::Reduction);
            });
            squared = parts.iter().map(|part| lock(part).1).sum();
        }
        let Some(reduction) = reduction else { return Ok(f64::sqrt(squared)) };
        let begun = Instant::now();
        reduction.add_all(gradients)?;
        threads.note_exchange(true, begun);
        Ok(store::norm(threads, gradients, reduction.workers()))
    }

    fn exchange(&mut self, gradients: &mut [f32]) -> Result<()> {
        self.reduction.as_mut().map_or(Ok(()), |reduction| reduction.add_all(gradients))
    }

    fn update(&mut self, threads: &mut Threads, gradients: &[f32], moments: [&mut [f32]; 2], rule: Rule<'_>) {
        let Self { copies, owned, mail, stale, .. } = self;
        let [first, second] = moments.map(|moments| moments.chunks_mut(owned.length));
        let moments: Parts<_> = first.zip(second).map(|part| Mutex::new(Some(part))).collect();
        threads.run(true, |nth, _, _| {
            let Some((first, second)) = moments.get(nth).and_then(|part| lock(part).take()) else { return };
            let weights = &mut lock(&copies[nth]).weights[owned.by(nth)];
            let (start, gradients) = (owned.by(nth).start, &gradients[owned.by(nth)]);
            rule(Part::F32(Numbers { start, weights, gradients, moments: [first, second] }));
            post(weights, &mut write(&mail[nth])[owned.by(nth)]);
        });
        *stale = true;
    }

    fn copy_to(&self, values: &mut [f32]) {
        for (nth, copy) in self.copies.iter().enumerate() {
            values[self.owned.by(nth)].copy_from_slice(&lock(copy).weights[self.owned.by(nth)]);
        }
    }
}
