//! The engine: forward and backward of the whole model by hand, on the CPU in f32. One operation a file, `forward` and
//! `backward` side by side, in the order in which a batch meets them:
//!
//! ```text
//! embeddings -> layer_norm -> dropout -> linear -> attention -> gelu -> loss      over vector and matmul
//! layers (weights), activations (memory), clock -> pass (the way through the model) -> pool (threads) -> Engine
//! ```

mod activations;
mod attention;
mod clock;
mod dropout;
mod embeddings;
mod gelu;
mod layer_norm;
mod layers;
mod linear;
mod loss;
mod matmul;
mod pass;
mod pool;
mod vector;

#[cfg(test)]
mod slopes;

pub use crate::engine::clock::OperationTime;

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use candle_core::{DType, Device, Tensor};

use crate::engine::activations::Activations;
use crate::engine::clock::{Clock, Operation};
use crate::engine::layers::Layers;
use crate::engine::pass::Share;
use crate::engine::pool::{Pool, cores, lock};
use crate::error::{Error, Result};
use crate::model::config::ModelConfig;
use crate::model::encoder::{Encoded, Encoder, Mode};
use crate::model::gradients::Gradients;
use crate::model::memory;
use crate::model::params::{Params, Table};
use crate::model::weights::{Values, Weights, WeightsMut};
use crate::text::batch::Batch;

/// Numbers that a worker keeps for each parameter: its gradient, and the weight copied twice for the products.
const WORKER: usize = 3;

/// The model of [`crate::Reference`] written by hand for the CPU, in f32, many times as fast: no padding, no memory
/// taken in a step once the largest batch has been seen, the sequences of a batch shared between threads.
///
/// Each thread goes through the model with its own sequences and has gradients of its own, which are then added up in the
/// threads' order: with the same seed and number of threads the same bits come out.
///
/// ```
/// # use mlm_core::{rand::{SeedableRng, rngs::StdRng}, *};
/// # fn main() -> Result<()> {
/// let params = Params::init(&ModelConfig::new(40), &mut StdRng::seed_from_u64(0))?;
/// let engine = Engine::new(&params)?; // Engine::with_threads(&params, 2)? takes two, whatever the machine has
/// let batch = Batch::with_gaps([[2, 4, 17, 3].as_slice()], 4);
/// assert_eq!(engine.logits(&batch, Mode::Evaluate)?.dims(), [1, 40]);
/// # Ok(())
/// # }
/// ```
pub struct Engine {
    config: ModelConfig,
    table: Arc<Table>,
    shared: Arc<Shared>,
    pool: Mutex<Pool>,
}

/// What the threads share.
struct Shared {
    weights: RwLock<Params>,
    task: RwLock<Task>,
    workers: Vec<Mutex<Worker>>,
}

/// What the threads are to do.
struct Task {
    step: Step,
    mode: Mode,
    batch: Batch,
    /// Each worker's sequences.
    shares: Vec<Range<usize>>,
    /// The weights have changed since the workers copied them.
    stale: bool,
    /// A forward pass has left behind what backward needs.
    went_forward: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Encode,
    Logits,
    Loss,
    Backward,
}

/// One thread's memory.
struct Worker {
    layers: Layers,
    activations: Activations,
    gradients: Vec<f32>,
    /// The part of the batch's loss that comes from its sequences.
    loss: f64,
    clock: Clock,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Engine {{ {:?}, threads: {} }}", self.config, self.threads())
    }
}

impl Engine {
    /// A model with a copy of the given weights, on all cores of the machine.
    ///
    /// # Errors
    /// When the memory has no room for it, or the system starts no threads.
    pub fn new(params: &Params) -> Result<Self> {
        Self::with_threads(params, cores())
    }

    /// A model that computes on so many threads, of which the calling one is the first.
    ///
    /// # Errors
    /// When that is none, the memory has no room, or the system starts no threads.
    pub fn with_threads(params: &Params, threads: usize) -> Result<Self> {
        if threads == 0 {
            return Err(Error::argument("threads", "at least 1", threads));
        }
        let parameters = params.len();
        let numbers = threads.saturating_mul(WORKER).saturating_add(1).saturating_mul(parameters);
        let what =
            || format!("{parameters} parameters, each {WORKER} times for each of {threads} threads, and once more");
        memory::check("threads", "an engine", numbers, what)?;
        let config = params.config().clone();
        let mut workers = Vec::with_capacity(threads);
        for _ in 0..threads {
            let (layers, activations) = (Layers::new(params)?, Activations::new(&config));
            workers.push(Mutex::new(Worker {
                layers,
                activations,
                gradients: vec![0.0; parameters],
                loss: 0.0,
                clock: Clock::new(),
            }));
        }
        let task = Task {
            step: Step::Encode,
            mode: Mode::Evaluate,
            batch: Batch::with_gaps([], 0),
            shares: vec![0..0; threads],
            stale: true,
            went_forward: false,
        };
        let shared = Arc::new(Shared { weights: RwLock::new(params.clone()), task: RwLock::new(task), workers });
        let of_threads = Arc::clone(&shared);
        let pool = Pool::new(threads, Arc::new(move |nth| of_threads.work(nth)))?;
        Ok(Self { config, table: Arc::clone(params.table()), shared, pool: Mutex::new(pool) })
    }

    /// The number of threads that it computes on.
    pub fn threads(&self) -> usize {
        self.shared.workers.len()
    }

    /// What the threads have spent their time with since the last call of this, all threads together. What a step takes
    /// beyond that they wait for each other.
    pub fn take_times(&mut self) -> Vec<OperationTime> {
        let mut workers = self.shared.workers.iter();
        let mut times: Vec<_> = workers.next().map(|worker| lock(worker).clock.take().collect()).unwrap_or_default();
        for worker in workers {
            for (time, of_worker) in times.iter_mut().zip(lock(worker).clock.take()) {
                time.forward += of_worker.forward;
                time.backward += of_worker.backward;
            }
        }
        times
    }

    /// Goes through the model with a batch that fits it. While the caller holds what is returned, nobody else does.
    fn run(&self, step: Step, batch: &Batch, mode: Mode) -> Result<MutexGuard<'_, Pool>> {
        let Self { config, shared, .. } = self;
        let mut pool = lock(&self.pool);
        let mut task = write(&shared.task);
        let Task { shares, batch: kept, .. } = &mut *task;
        share_out(batch, shares);
        copy(batch, kept);
        (task.step, task.mode, task.went_forward) = (step, mode, false);
        shared.make_room(config, &task)?;
        drop(task);
        pool.run();
        let mut task = write(&shared.task);
        (task.stale, task.went_forward) = (false, step == Step::Loss);
        drop(task);
        Ok(pool)
    }
}

/// Copies a batch into the memory of another.
fn copy(batch: &Batch, to: &mut Batch) {
    let Batch { input_ids, offsets, masked_rows, targets, treatments } = to;
    input_ids.clone_from(&batch.input_ids);
    offsets.clone_from(&batch.offsets);
    masked_rows.clone_from(&batch.masked_rows);
    targets.clone_from(&batch.targets);
    treatments.clone_from(&batch.treatments);
}

impl Shared {
    /// Gives the workers the memory that the task needs.
    fn make_room(&self, config: &ModelConfig, task: &Task) -> Result<()> {
        let mut missing: usize = 0;
        for (nth, worker) in self.workers.iter().enumerate() {
            let Worker { activations, clock, .. } = &mut *lock(worker);
            missing = missing.saturating_add(activations.missing(config, task.share(config, nth, clock).size()));
        }
        if missing > 0 {
            memory::check("batch", "a batch", missing, || memory::describe(&task.batch))?;
        }
        for (nth, worker) in self.workers.iter().enumerate() {
            let Worker { activations, clock, .. } = &mut *lock(worker);
            activations.fit(config, task.share(config, nth, clock).size());
        }
        Ok(())
    }

    /// One thread's part of the task.
    fn work(&self, nth: usize) {
        let (task, weights) = (read(&self.task), read(&self.weights));
        let Worker { layers, activations, gradients, loss, clock } = &mut *lock(&self.workers[nth]);
        let (config, weights) = (weights.config(), weights.as_slice());
        clock.start(task.step == Step::Backward);
        if task.stale {
            layers.pack(weights);
            clock.lap(Operation::Packing);
        }
        let share = task.share(config, nth, clock);
        if share.sequences.is_empty() {
            gradients.fill(0.0);
            *loss = 0.0;
            return;
        }
        match task.step {
            Step::Backward => pass::backward(share, weights, layers, activations, gradients),
            step => {
                pass::encode(share, weights, layers, activations);
                if step != Step::Encode {
                    pass::head(share, weights, layers, activations);
                }
                if step == Step::Loss {
                    *loss = pass::loss(share, activations);
                }
            }
        }
    }
}

impl Task {
    fn share<'a>(&'a self, config: &'a ModelConfig, nth: usize, clock: &'a Clock) -> Share<'a> {
        Share { config, mode: self.mode, batch: &self.batch, sequences: &self.shares[nth], clock }
    }
}

/// Gives each worker neighbouring sequences, about the same number of tokens for each.
fn share_out(batch: &Batch, shares: &mut [Range<usize>]) {
    let (tokens, sequences, workers) = (batch.tokens(), batch.sequences(), shares.len());
    let mut start = 0;
    for (nth, share) in shares.iter_mut().enumerate() {
        // The boundary between two sequences that is nearest to the worker's even share.
        let ideal = tokens * (nth + 1) / workers;
        let above = batch.offsets.partition_point(|&offset| offset < ideal).min(sequences);
        let below = above.saturating_sub(1);
        let nearest =
            if batch.offsets[above] - ideal < ideal - batch.offsets[below].min(ideal) { above } else { below };
        let end = if nth + 1 == workers { sequences } else { nearest.max(start) };
        *share = start..end;
        start = end;
    }
}

impl Encoder for Engine {
    fn config(&self) -> &ModelConfig {
        &self.config
    }

    fn params(&self) -> Result<Params> {
        Ok(read(&self.shared.weights).clone())
    }

    fn forward(&mut self, batch: &Batch, mode: Mode) -> Result<f64> {
        self.config.check(batch)?;
        self.config.check_targets(batch)?;
        let _pool = self.run(Step::Loss, batch, mode)?;
        Ok(self.shared.workers.iter().map(|worker| lock(worker).loss).sum())
    }

    fn backward(&mut self, gradients: &mut Gradients) -> Result<()> {
        let Values::F32(sum) = gradients.values_mut(self)? else { unreachable!("an engine computes in f32") };
        let mut pool = lock(&self.pool);
        let mut task = write(&self.shared.task);
        if !task.went_forward {
            return Err(Error::NoForward);
        }
        (task.step, task.went_forward) = (Step::Backward, false);
        drop(task);
        pool.run();
        let first = lock(&self.shared.workers[0]);
        first.clock.start(true);
        sum.copy_from_slice(&first.gradients);
        for worker in &self.shared.workers[1..] {
            pass::add(sum, &lock(worker).gradients);
        }
        first.clock.lap(Operation::Reduction);
        Ok(())
    }

    fn logits(&self, batch: &Batch, mode: Mode) -> Result<Tensor> {
        batch.check_masked()?;
        self.config.check(batch)?;
        let _pool = self.run(Step::Logits, batch, mode)?;
        let (masked, vocab) = (batch.masked_rows.len(), self.config.vocab);
        let mut logits = Vec::with_capacity(masked * vocab);
        for worker in &self.shared.workers {
            logits.extend_from_slice(&lock(worker).activations.logits);
        }
        Ok(Tensor::from_vec(logits, (masked, vocab), &Device::Cpu)?)
    }

    /// As the reference's, with 0 where that has padding's hidden states and attention.
    fn encode(&self, batch: &Batch, mode: Mode) -> Result<Encoded> {
        self.config.check(batch)?;
        let _pool = self.run(Step::Encode, batch, mode)?;
        let ModelConfig { d_model, heads, layers, .. } = self.config;
        let (sequences, seq) = (batch.sequences(), batch.longest());
        let mut hidden = vec![0f32; sequences * seq * d_model];
        let mut attention = vec![vec![0f32; sequences * heads * seq * seq]; layers];
        let task = read(&self.shared.task);
        for (nth, worker) in self.shared.workers.iter().enumerate() {
            let Worker { activations, clock, .. } = &*lock(worker);
            let share = task.share(&self.config, nth, clock);
            for (sequence, (_, rows, pairs)) in share.sequences.clone().zip(share.each_attention()) {
                let length = rows.len();
                let from = &activations.hidden[layers][rows.start * d_model..rows.end * d_model];
                hidden[sequence * seq * d_model..][..from.len()].copy_from_slice(from);
                for (padded, kept) in attention.iter_mut().zip(&activations.layers) {
                    for (row, from) in kept.probabilities[pairs.clone()].chunks_exact(length).enumerate() {
                        let (head, query) = (row / length, row % length);
                        let to = ((sequence * heads + head) * seq + query) * seq;
                        padded[to..][..length].copy_from_slice(from);
                    }
                }
            }
        }
        let of_layer = |values| Ok(Tensor::from_vec(values, (sequences, heads, seq, seq), &Device::Cpu)?);
        let hidden = Tensor::from_vec(hidden, (sequences * seq, d_model), &Device::Cpu)?;
        Ok(Encoded { hidden, attention: attention.into_iter().map(of_layer).collect::<Result<_>>()? })
    }
}

impl Weights for Engine {
    fn table(&self) -> &Arc<Table> {
        &self.table
    }

    fn dtype(&self) -> DType {
        DType::F32
    }

    fn update(&mut self, rule: &mut dyn FnMut(WeightsMut<'_>)) -> Result<()> {
        rule(WeightsMut::F32(write(&self.shared.weights).as_mut_slice()));
        let mut task = write(&self.shared.task);
        (task.stale, task.went_forward) = (true, false);
        Ok(())
    }
}

/// A panic leaves nothing half done in a lock that the next pass would not do anew.
fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}
