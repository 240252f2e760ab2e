//! The engine: forward and backward of the whole model by hand, on the CPU, in f32 or with products in bf16. One operation
//! a file, `forward` and `backward` side by side, in the order in which a batch meets them:
//!
//! ```text
//! embeddings -> layer_norm -> dropout -> linear -> attention -> gelu -> loss      over vector, matmul, gemm (large products)
//! factors (matrices, panels), bf16, native (one processor's instructions) -> matmul
//! share (of a batch), layers (weights), activations (in buffers), clock -> pass (the way through the model)
//! pass, pool, mail (threads) -> Engine
//! ```

mod activations;
mod attention;
mod bf16;
mod buffer;
mod clock;
mod config;
mod dropout;
mod embeddings;
mod factors;
mod gelu;
mod gemm;
mod layer_norm;
mod layers;
mod linear;
mod loss;
mod mail;
mod matmul;
mod native;
mod pass;
pub(crate) mod pool;
mod share;
mod vector;

#[cfg(test)]
mod slopes;

pub use crate::engine::clock::OperationTime;
pub use crate::engine::config::{EngineConfig, Precision};

use std::fmt;
use std::mem;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use candle_core::{DType, Device, Tensor};
use smallvec::SmallVec;

use crate::engine::activations::{Activations, Size};
use crate::engine::buffer::Buffer;
use crate::engine::clock::{Clock, Operation};
use crate::engine::layers::Layers;
use crate::engine::mail::post;
use crate::engine::pass::Pass;
use crate::engine::pool::{Pool, lock};
use crate::engine::share::{Asked, Attended, Share};
use crate::error::{Error, Result};
use crate::kernel::check_interrupt;
use crate::model::config::ModelConfig;
use crate::model::encoder::{Encoded, Encoder, Mode};
use crate::model::gradients::Gradients;
use crate::model::memory;
use crate::model::params::{Params, Table};
use crate::model::weights::{Numbers, Part, Rule, Values, Weights, squared_norm};
use crate::text::batch::Batch;

/// Numbers that a worker keeps for each parameter: its weight and gradient, one of them for the others, and the weight
/// copied twice for the products.
const WORKER: usize = 5;

/// The model of [`crate::Reference`] written by hand for the CPU, in f32, many times as fast: no padding, no memory
/// taken in a step once the largest batch has been seen, the sequences of a batch shared between threads, and in the last
/// layer only what the masked rows need.
///
/// Each thread goes through the model with its own sequences, its own copy of the weights and gradients of its own. A part
/// of the weights belongs to it: it adds up all threads' gradients for these, updates them and sends them to the others.
/// With the same seed and number of threads the same bits come out.
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
    threads: usize,
    state: Mutex<State>,
}

struct State {
    pool: Pool,
    workers: Vec<Mutex<Worker>>,
    owned: Owned,
    /// What each worker has for the others: for the weights that belong to it their values, for all others their
    /// gradients. Empty when there are no others.
    mail: Vec<RwLock<Buffer>>,
    batch: Batch,
    mode: Mode,
    /// Weights have changed since the workers copied them.
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

impl Step {
    fn asked(self) -> Asked {
        if self == Step::Encode { Asked::All } else { Asked::Masked }
    }
}

/// One thread's memory, which no other touches while it works. Two neighbouring lines come into a cache together, so it
/// starts at a multiple of two.
#[repr(align(128))]
struct Worker {
    weights: Buffer,
    gradients: Buffer,
    layers: Layers,
    activations: Activations,
    /// Its sequences of the batch.
    sequences: Range<usize>,
    /// The part of the batch's loss that comes from them.
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
        Self::with_config(params, EngineConfig::default())
    }

    /// A model that computes on so many threads, of which the calling one is the first.
    ///
    /// # Errors
    /// When that is none, the memory has no room, or the system starts no threads.
    pub fn with_threads(params: &Params, threads: usize) -> Result<Self> {
        Self::with_config(params, EngineConfig { threads, ..EngineConfig::default() })
    }

    /// A model that computes as it is told.
    ///
    /// # Errors
    /// As [`Engine::with_threads`].
    pub fn with_config(params: &Params, how: EngineConfig) -> Result<Self> {
        let EngineConfig { threads, precision, vectors } = how;
        if threads == 0 {
            return Err(Error::argument("threads", "at least 1", threads));
        }
        let parameters = params.len();
        let numbers = threads.saturating_mul(WORKER).saturating_mul(parameters);
        let what = || format!("{parameters} parameters, each {WORKER} times for each of {threads} threads");
        memory::check("threads", "an engine", numbers, what)?;
        let config = params.config().clone();
        let (mut workers, mut mail) = (Vec::with_capacity(threads), Vec::with_capacity(threads));
        for _ in 0..threads {
            workers.push(Mutex::new(Worker {
                weights: params.as_slice().into(),
                gradients: Buffer::zeros(parameters),
                layers: Layers::new(params)?,
                activations: Activations::new(&config, precision),
                sequences: 0..0,
                loss: 0.0,
                clock: Clock::new(),
            }));
            mail.push(RwLock::new(if threads == 1 { Buffer::default() } else { params.as_slice().into() }));
        }
        let state = State {
            pool: Pool::new(threads, vectors)?,
            workers,
            owned: Owned::new(parameters, threads),
            mail,
            batch: Batch::with_gaps([], 0),
            mode: Mode::Evaluate,
            stale: true,
            went_forward: false,
        };
        Ok(Self { config, table: Arc::clone(params.table()), threads, state: Mutex::new(state) })
    }

    /// The number of threads that it computes on.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// What the threads have spent their time with since the last call of this, all threads together. What a step takes
    /// beyond that they wait for each other.
    pub fn take_times(&mut self) -> Vec<OperationTime> {
        let state = lock(&self.state);
        let mut workers = state.workers.iter();
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
    fn run(&self, step: Step, batch: &Batch, mode: Mode) -> Result<MutexGuard<'_, State>> {
        check_interrupt()?;
        let mut state = lock(&self.state);
        state.went_forward = false;
        copy(batch, &mut state.batch);
        state.mode = mode;
        state.share_out(&self.config, step)?;
        state.run(&self.config, step);
        state.went_forward = step == Step::Loss;
        Ok(state)
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

impl State {
    /// Gives each worker neighbouring sequences, about the same number of tokens for each, and the memory for them.
    fn share_out(&mut self, config: &ModelConfig, step: Step) -> Result<()> {
        let Self { workers, batch, .. } = self;
        let (tokens, sequences, threads) = (batch.tokens(), batch.sequences(), workers.len());
        let (mut start, mut missing) = (0, 0usize);
        let mut sizes: SmallVec<[Size; 16]> = SmallVec::new();
        for (nth, worker) in workers.iter().enumerate() {
            // The boundary between two sequences that is nearest to the worker's even share.
            let ideal = tokens * (nth + 1) / threads;
            let above = batch.offsets.partition_point(|&offset| offset < ideal).min(sequences);
            let below = above.saturating_sub(1);
            let nearest =
                if batch.offsets[above] - ideal < ideal - batch.offsets[below].min(ideal) { above } else { below };
            let end = if nth + 1 == threads { sequences } else { nearest.max(start) };
            let mut worker = lock(worker);
            worker.sequences = start..end;
            let size = Share::new(batch, start..end).size(step.asked());
            missing = missing.saturating_add(worker.activations.missing(config, size));
            sizes.push(size);
            start = end;
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
    fn run(&mut self, config: &ModelConfig, step: Step) {
        let Self { pool, workers, owned, mail, batch, mode, stale, .. } = self;
        pool.run(&|nth| {
            let Worker { weights, gradients, layers, activations, sequences, loss, clock } = &mut *lock(&workers[nth]);
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
                _ if idle => *loss = 0.0,
                step => {
                    pass.encode(activations);
                    if step != Step::Encode {
                        pass.head(activations);
                    }
                    if step == Step::Loss {
                        *loss = pass.loss(activations);
                    }
                }
            }
        });
        *stale = false;
    }

    /// Adds up the workers' gradients; returns the root of the sum of their squares.
    fn reduce(&mut self, sum: &mut [f32]) -> f64 {
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

/// Which weights belong to which worker: to each as many, in whole lines of a cache.
#[derive(Clone, Copy, Debug)]
struct Owned {
    weights: usize,
    workers: usize,
    /// How many belong to one; fewer, or none, to the last ones.
    length: usize,
}

impl Owned {
    fn new(weights: usize, workers: usize) -> Self {
        Self { weights, workers, length: weights.div_ceil(workers).next_multiple_of(16) }
    }

    fn by(self, worker: usize) -> Range<usize> {
        self.weights.min(worker * self.length)..self.weights.min((worker + 1) * self.length)
    }

    fn others(self, worker: usize) -> impl Iterator<Item = usize> {
        (0..self.workers).filter(move |&other| other != worker)
    }
}

/// One part of something for each thread; without taking memory for up to 16 of them.
type Parts<T> = SmallVec<[Mutex<T>; 16]>;

impl Encoder for Engine {
    fn config(&self) -> &ModelConfig {
        &self.config
    }

    fn params(&self) -> Result<Params> {
        let State { workers, owned, .. } = &*lock(&self.state);
        let mut params = Params::zeros_with_room(&self.config, 1)?;
        for (nth, worker) in workers.iter().enumerate() {
            params.as_mut_slice()[owned.by(nth)].copy_from_slice(&lock(worker).weights[owned.by(nth)]);
        }
        Ok(params)
    }

    fn forward(&mut self, batch: &Batch, mode: Mode) -> Result<f64> {
        self.config.check(batch)?;
        self.config.check_targets(batch)?;
        let state = self.run(Step::Loss, batch, mode)?;
        Ok(state.workers.iter().map(|worker| lock(worker).loss).sum())
    }

    fn backward(&mut self, gradients: &mut Gradients) -> Result<()> {
        let Values::F32(sum) = gradients.values_mut(self)? else { unreachable!("an engine computes in f32") };
        let mut state = lock(&self.state);
        if !mem::take(&mut state.went_forward) {
            return Err(Error::NoForward);
        }
        state.run(&self.config, Step::Backward);
        let norm = state.reduce(sum);
        gradients.note_norm(norm);
        Ok(())
    }

    fn logits(&self, batch: &Batch, mode: Mode) -> Result<Tensor> {
        batch.check_masked()?;
        self.config.check(batch)?;
        let state = self.run(Step::Logits, batch, mode)?;
        let (masked, vocab) = (batch.masked_rows.len(), self.config.vocab);
        let mut logits = Vec::with_capacity(masked * vocab);
        for worker in &state.workers {
            logits.extend_from_slice(&lock(worker).activations.logits);
        }
        Ok(Tensor::from_vec(logits, (masked, vocab), &Device::Cpu)?)
    }

    /// As the reference's, with 0 where that has padding's hidden states and attention.
    fn encode(&self, batch: &Batch, mode: Mode) -> Result<Encoded> {
        self.config.check(batch)?;
        let state = self.run(Step::Encode, batch, mode)?;
        let ModelConfig { d_model, heads, layers, .. } = self.config;
        let (sequences, seq) = (batch.sequences(), batch.longest());
        let mut hidden = vec![0f32; sequences * seq * d_model];
        let mut attention = vec![vec![0f32; sequences * heads * seq * seq]; layers];
        for worker in &state.workers {
            let Worker { activations, sequences, .. } = &*lock(worker);
            let share = Share::new(batch, sequences.clone());
            let each = share.each_attention(heads, Step::Encode.asked());
            for (sequence, Attended { keys, pairs, .. }) in sequences.clone().zip(each) {
                let length = keys.len();
                let from = &activations.hidden[layers][keys.start * d_model..keys.end * d_model];
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

    fn update(&mut self, gradients: &Values, moments: &mut [Values; 2], rule: Rule<'_>) -> Result<()> {
        let (Values::F32(gradients), [Values::F32(first), Values::F32(second)]) = (gradients, moments) else {
            unreachable!("an engine computes in f32, and so does its optimizer");
        };
        let State { pool, workers, owned, mail, stale, went_forward, .. } = &mut *lock(&self.state);
        let moments = first.chunks_mut(owned.length).zip(second.chunks_mut(owned.length));
        let moments: Parts<_> = moments.map(|part| Mutex::new(Some(part))).collect();
        pool.run(&|nth| {
            let Some((first, second)) = moments.get(nth).and_then(|part| lock(part).take()) else { return };
            let weights = &mut lock(&workers[nth]).weights[owned.by(nth)];
            let (start, gradients) = (owned.by(nth).start, &gradients[owned.by(nth)]);
            rule(Part::F32(Numbers { start, weights, gradients, moments: [first, second] }));
            if workers.len() > 1 {
                post(weights, &mut write(&mail[nth])[owned.by(nth)]);
            }
        });
        (*stale, *went_forward) = (true, false);
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
