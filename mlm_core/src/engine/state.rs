//! The threads of an engine and what they have in common: takes a batch, shares it out, takes a step on all threads, adds up
//! what each of them found.

use std::ops::Range;
use std::sync::{Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use smallvec::SmallVec;

use crate::engine::activations::Activations;
use crate::engine::buffer::Buffer;
use crate::engine::clock::{Clock, Operation};
use crate::engine::layers::Layers;
use crate::engine::mail::post;
use crate::engine::owned::Owned;
use crate::engine::pass::{self, Pass};
use crate::engine::pool::{Pool, lock};
use crate::engine::share::{Asked, Share, Size, split};
use crate::error::Result;
use crate::model::config::ModelConfig;
use crate::model::encoder::{Mode, Score};
use crate::model::memory;
use crate::model::weights::squared_norm;
use crate::text::batch::Batch;

pub(crate) struct State {
    pub(crate) pool: Pool,
    pub(crate) workers: Vec<Mutex<Worker>>,
    pub(crate) owned: Owned,
    /// What each worker has for the others: for the weights that belong to it their values, for all others their
    /// gradients. Empty when there are no others.
    pub(crate) mail: Vec<RwLock<Buffer>>,
    pub(crate) batch: Batch,
    pub(crate) mode: Mode,
    /// Weights have changed since the workers copied them.
    pub(crate) stale: bool,
    /// A forward pass has left behind what backward needs.
    pub(crate) went_forward: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Encode,
    Logits,
    Scores,
    Loss,
    Backward,
}

impl Step {
    pub(crate) fn asked(self) -> Asked {
        if self == Step::Encode { Asked::All } else { Asked::Masked }
    }
}

/// One thread's memory, which no other touches while it works. Two neighbouring lines come into a cache together, so it
/// starts at a multiple of two.
#[repr(align(128))]
pub(crate) struct Worker {
    pub(crate) weights: Buffer,
    pub(crate) gradients: Buffer,
    pub(crate) layers: Layers,
    pub(crate) activations: Activations,
    /// Its sequences of the batch.
    pub(crate) sequences: Range<usize>,
    /// The part of the batch's loss that comes from them.
    pub(crate) loss: f64,
    /// What is predicted for its masked rows.
    pub(crate) scores: Vec<Score>,
    pub(crate) clock: Clock,
}

/// One part of something for each thread; without taking memory for up to 16 of them.
pub(crate) type Parts<T> = SmallVec<[Mutex<T>; 16]>;

/// Copies a batch into the memory of another.
fn copy(batch: &Batch, to: &mut Batch) {
    let Batch { input_ids, offsets, masked_rows, targets, treatments } = to;
    input_ids.clone_from(&batch.input_ids);
    offsets.clone_from(&batch.offsets);
    masked_rows.clone_from(&batch.masked_rows);
    targets.clone_from(&batch.targets);
    treatments.clone_from(&batch.treatments);
}

impl State {
    /// Gives each worker its sequences of a batch, and the memory for them, if there is as much, and for the numbers of what
    /// the step is to return.
    pub(crate) fn share_out(
        &mut self,
        batch: &Batch,
        mode: Mode,
        config: &ModelConfig,
        step: Step,
        returned: usize,
    ) -> Result<()> {
        self.went_forward = false;
        copy(batch, &mut self.batch);
        self.mode = mode;
        let Self { workers, batch, .. } = self;
        let mut missing = returned;
        let mut sizes: SmallVec<[Size; 16]> = SmallVec::new();
        for (worker, sequences) in workers.iter().zip(split(&batch.offsets, workers.len())) {
            let mut worker = lock(worker);
            worker.sequences = sequences.clone();
            let size = Share::new(batch, sequences).size(step.asked());
            missing = missing.saturating_add(worker.activations.missing(config, size));
            sizes.push(size);
        }
        if missing > 0 {
            memory::check("batch", "a batch", missing, || memory::describe(batch))?;
        }
        for (worker, size) in workers.iter().zip(sizes) {
            lock(worker).activations.fit(config, size);
        }
        Ok(())
    }

    /// Takes one step on all threads.
    pub(crate) fn run(&mut self, config: &ModelConfig, step: Step) {
        let Self { pool, workers, owned, mail, batch, mode, stale, went_forward } = self;
        pool.run(&|nth| {
            let Worker { weights, gradients, layers, activations, sequences, loss, scores, clock } =
                &mut *lock(&workers[nth]);
            clock.start(step == Step::Backward);
            if *stale {
                for other in owned.others(nth) {
                    weights[owned.by(other)].copy_from_slice(&read(&mail[other])[owned.by(other)]);
                }
                clock.lap(Operation::Mail);
                layers.pack(weights, &mut activations.scratch.linear);
                clock.lap(Operation::Packing);
            }
            let idle = Range::is_empty(sequences);
            let share = Share::new(batch, sequences.clone());
            let pass = Pass { config, mode: *mode, share, asked: step.asked(), weights, layers, clock };
            match step {
                Step::Backward => {
                    if idle {
                        gradients.fill(0.0);
                    } else {
                        pass.backward(activations, gradients);
                    }
                    for other in owned.others(nth) {
                        post(&gradients[owned.by(other)], &mut write(&mail[nth])[owned.by(other)]);
                    }
                    clock.lap(Operation::Mail);
                }
                _ if idle => {
                    *loss = 0.0;
                    scores.clear();
                }
                step => {
                    pass.encode(activations);
                    if step != Step::Encode {
                        pass.head(activations);
                    }
                    match step {
                        Step::Loss => *loss = pass.loss(activations),
                        Step::Scores => *scores = pass.scores(activations),
                        _ => {}
                    }
                }
            }
        });
        *stale = false;
        *went_forward = step == Step::Loss;
    }

    /// Adds up the workers' gradients; returns the root of the sum of their squares.
    pub(crate) fn reduce(&mut self, sum: &mut [f32]) -> f64 {
        let Self { pool, workers, owned, mail, .. } = self;
        let parts: Parts<_> = sum.chunks_mut(owned.length).map(|part| Mutex::new((part, 0.0))).collect();
        pool.run(&|nth| {
            let Some(part) = parts.get(nth) else { return };
            let (sum, squares) = &mut *lock(part);
            let Worker { gradients, clock, .. } = &*lock(&workers[nth]);
            clock.start(true);
            sum.copy_from_slice(&gradients[owned.by(nth)]);
            for other in owned.others(nth) {
                pass::add(sum, &read(&mail[other])[owned.by(nth)]);
            }
            *squares = squared_norm(sum);
            clock.lap(Operation::Reduction);
        });
        parts.iter().map(|part| lock(part).1).sum::<f64>().sqrt()
    }
}

/// A panic leaves nothing half done in a lock that the next pass would not do anew.
fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}
