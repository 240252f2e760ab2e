//! The engine: forward and backward of the whole model by hand, on the CPU, in f32 or with products in bf16. One operation
//! a file, `forward` and `backward` side by side, in the order in which a batch meets them:
//!
//! ```text
//! embeddings -> layer_norm -> dropout -> linear -> attention -> gelu -> loss      over vector, matmul, gemm (large products)
//! factors (matrices, panels), bf16, native (one processor's instructions) -> matmul
//! share (of a batch) -> layers (weights), activations (in buffers), clock -> pass (the way through the model)
//! pass, owned (weights), pool, mail (threads) -> state -> Engine
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
mod owned;
mod pass;
pub(crate) mod pool;
mod share;
mod state;
mod vector;

#[cfg(test)]
mod slopes;

pub use crate::engine::clock::OperationTime;
pub use crate::engine::config::{EngineConfig, Precision};

use std::fmt;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, RwLock};

use candle_core::{DType, Device, Tensor};

use crate::engine::activations::Activations;
use crate::engine::buffer::Buffer;
use crate::engine::clock::Clock;
use crate::engine::layers::Layers;
use crate::engine::mail::post;
use crate::engine::owned::Owned;
use crate::engine::pool::{Pool, lock};
use crate::engine::share::{Attended, Share};
use crate::engine::state::{Parts, State, Step, Worker, write};
use crate::error::{Error, Result};
use crate::kernel::{self, check_interrupt};
use crate::model::config::ModelConfig;
use crate::model::encoder::{Encoded, Encoder, Mode, Score};
use crate::model::gradients::Gradients;
use crate::model::memory;
use crate::model::params::{Params, Table};
use crate::model::weights::{Numbers, Part, Rule, Values, Weights};
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
                scores: Vec::new(),
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

    /// Goes through the model with a batch that fits it, if the memory has room for it and for the numbers of what the caller
    /// returns. While the caller holds what is returned, nobody else does.
    fn run(&self, step: Step, batch: &Batch, mode: Mode, returned: usize) -> Result<MutexGuard<'_, State>> {
        check_interrupt()?;
        let mut state = lock(&self.state);
        state.share_out(batch, mode, &self.config, step, returned)?;
        state.run(&self.config, step);
        Ok(state)
    }
}

impl Encoder for Engine {
    fn config(&self) -> &ModelConfig {
        &self.config
    }

    fn go_to_background(&mut self) {
        lock(&self.state).pool.run(&|_| kernel::background());
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
        let state = self.run(Step::Loss, batch, mode, 0)?;
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
        let (masked, vocab) = (batch.masked_rows.len(), self.config.vocab);
        let state = self.run(Step::Logits, batch, mode, masked.saturating_mul(vocab))?;
        let mut logits = Vec::with_capacity(masked * vocab);
        for worker in &state.workers {
            logits.extend_from_slice(&lock(worker).activations.logits);
        }
        Ok(Tensor::from_vec(logits, (masked, vocab), &Device::Cpu)?)
    }

    fn score(&self, batch: &Batch) -> Result<Vec<Score>> {
        self.config.check(batch)?;
        self.config.check_targets(batch)?;
        let state = self.run(Step::Scores, batch, Mode::Evaluate, 0)?;
        Ok(state.workers.iter().flat_map(|worker| std::mem::take(&mut lock(worker).scores)).collect())
    }

    /// As the reference's, with 0 where that has padding's hidden states and attention.
    fn encode(&self, batch: &Batch, mode: Mode) -> Result<Encoded> {
        self.config.check(batch)?;
        let ModelConfig { d_model, heads, layers, .. } = self.config;
        let (sequences, seq) = (batch.sequences(), batch.longest());
        // Of a padded token whom it looks at in each head of each layer, and its hidden states before, between and after them.
        let states = d_model.saturating_mul(layers.saturating_add(1));
        let each = heads.saturating_mul(layers).saturating_mul(seq).saturating_add(states);
        let state = self.run(Step::Encode, batch, mode, sequences.saturating_mul(seq).saturating_mul(each))?;
        let mut hidden_states = vec![vec![0f32; sequences * seq * d_model]; layers + 1];
        let mut attention = vec![vec![0f32; sequences * heads * seq * seq]; layers];
        for worker in &state.workers {
            let Worker { activations, sequences, .. } = &*lock(worker);
            let share = Share::new(batch, sequences.clone());
            let each = share.each_attention(heads, Step::Encode.asked());
            for (sequence, Attended { keys, pairs, .. }) in sequences.clone().zip(each) {
                let length = keys.len();
                for (padded, kept) in hidden_states.iter_mut().zip(&activations.hidden) {
                    let from = &kept[keys.start * d_model..keys.end * d_model];
                    padded[sequence * seq * d_model..][..from.len()].copy_from_slice(from);
                }
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
        let after_layer = |values| Ok(Tensor::from_vec(values, (sequences * seq, d_model), &Device::Cpu)?);
        let hidden_states: Vec<Tensor> = hidden_states.into_iter().map(after_layer).collect::<Result<_>>()?;
        let attention = attention.into_iter().map(of_layer).collect::<Result<_>>()?;
        Ok(Encoded { hidden: hidden_states[layers].clone(), hidden_states, attention })
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
