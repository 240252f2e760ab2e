//! The engine: forward and backward of the whole model by hand, on the CPU, in f32 or with products in bf16. One operation
//! a file, `forward` and `backward` side by side, in the order in which a batch meets them:
//!
//! ```text
//! embeddings -> layer_norm -> dropout -> linear -> attention -> gelu -> loss      over vector, matmul, gemm (large products)
//! factors (matrices, panels), bf16, native (one processor's instructions) -> matmul
//! share (of a batch) -> layers (weights), activations (in buffers), clock -> pass (forward), backward (by blocks)
//! communicator -> ranks, tree (of sums) -> reduction (over ranks)
//! pass, backward, pool, ranks, tree -> threads -> joined (keys of several)
//! threads, reduction -> store (of weights): shared or, with owned and mail, copies
//! store -> Engine
//! layers, reduction, shared -> forecast (of several machines)
//! ```

mod activations;
mod attention;
mod backward;
mod bf16;
mod buffer;
mod clock;
pub(crate) mod communicator;
mod config;
mod copies;
mod dropout;
mod embeddings;
mod factors;
mod forecast;
mod gelu;
mod gemm;
mod joined;
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
pub(crate) mod ranks;
mod reduction;
mod share;
mod shared;
mod store;
mod threads;
mod tree;
mod vector;

#[cfg(test)]
mod slopes;

pub use crate::engine::clock::OperationTime;
pub use crate::engine::config::{EngineConfig, Precision};
pub use crate::engine::forecast::{Forecast, Network, StepTime};

use std::fmt;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use candle_core::{DType, Device, Tensor};

use crate::engine::communicator::Communicator;
use crate::engine::copies::Copies;
use crate::engine::pool::lock;
use crate::engine::ranks::{Ranks, halves, whole};
use crate::engine::reduction::Reduction;
use crate::engine::share::{Attended, Share};
use crate::engine::shared::Shared;
use crate::engine::store::Store;
use crate::engine::threads::{Step, Threads, Worker, read, write};
use crate::error::{Error, Result};
use crate::kernel::{self, check_interrupt};
use crate::model::config::ModelConfig;
use crate::model::encoder::{Encoded, Encoder, Mode, Score};
use crate::model::gradients::Gradients;
use crate::model::memory;
use crate::model::params::{Params, Table};
use crate::model::weights::{Rule, Values, Weights};
use crate::text::batch::Batch;

/// The most parameters of a model of which each thread has a copy, where there are several. With one copy for all, a step on
/// two threads (AMD Zen 3) takes 9 % less at 0.7 million parameters, 7 % at 1.4 and about the same at 5.3; at the lab's 0.1
/// million 13 % less, but it keeps its copies, for the machines on which [`mail`] was measured.
const SHARED: usize = 500_000;

/// The most threads of an engine: more than any computer has cores.
const THREADS: usize = 1_024;

/// Numbers that fit in the memory that a thread takes for itself, whatever it computes.
const THREAD: usize = 4_096;

/// The model of [`crate::Reference`] written by hand for the CPU, in f32, many times as fast: no padding, no memory
/// taken in a step once the largest batch has been seen, the sequences of a batch shared between threads, and in the last
/// layer only what the masked rows need.
///
/// Each thread goes through the model with its own tokens. In a small model it has its own copy of the weights, too, and
/// gradients of its own; a part of the weights belongs to it: it adds up all threads' gradients for these, updates them and
/// sends them to the others. In a model of more than half a million parameters all threads read the same weights, and each
/// computes a part of their gradients for the tokens of all threads; where sequences are few, several threads have a part of one.
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

/// What kind of an engine.
#[derive(Clone, Copy)]
struct Kind {
    /// All threads have the same weights, or each has a copy of them.
    shared: bool,
    /// Sequences may be cut between threads.
    may_cut: bool,
}

impl Kind {
    fn of(params: &Params, how: EngineConfig) -> Self {
        let is_large = params.len() > SHARED;
        // A small model takes so little time that its threads had better not wait for each other.
        Self { shared: how.threads == 1 || is_large, may_cut: is_large }
    }
}

/// What computes, where the weights are, and what has been done.
struct State {
    threads: Threads,
    store: Box<dyn Store>,
    /// A forward pass has left behind what backward needs.
    went_forward: bool,
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
    /// When that is none or more than 1,024, the memory has no room, or the system starts no threads.
    pub fn with_threads(params: &Params, threads: usize) -> Result<Self> {
        Self::with_config(params, EngineConfig { threads, ..EngineConfig::default() })
    }

    /// A model that computes as it is told.
    ///
    /// # Errors
    /// As [`Engine::with_threads`].
    pub fn with_config(params: &Params, how: EngineConfig) -> Result<Self> {
        Self::of_kind(params, how, Kind::of(params, how), None)
    }

    /// A model that computes with the engines of other processes, its ranks, each of which has the same weights and is given the
    /// same batches. [`Encoder::forward`], [`Encoder::backward`] and [`Encoder::score`] take their shares of a batch and return
    /// when all ranks have called them, with what comes out of the whole; all else each does by itself. With so many ranks of so
    /// many threads the same bits come out as with one process of as many threads as all have together.
    ///
    /// # Errors
    /// As [`Engine::with_threads`].
    pub fn with_communicator(params: &Params, how: EngineConfig, communicator: Arc<dyn Communicator>) -> Result<Self> {
        Self::of_kind(params, how, Kind::of(params, how), Some(communicator))
    }

    fn of_kind(
        params: &Params,
        how: EngineConfig,
        Kind { shared, may_cut }: Kind,
        communicator: Option<Arc<dyn Communicator>>,
    ) -> Result<Self> {
        let EngineConfig { threads, .. } = how;
        if threads == 0 {
            return Err(Error::argument("threads", "at least 1", threads));
        }
        let parameters = params.len();
        let (numbers, times) = if shared {
            let numbers = shared::NUMBERS.saturating_mul(parameters).saturating_add(shared::sums(params, threads)?);
            (numbers, format!("each {} times", shared::NUMBERS))
        } else {
            let numbers = copies::NUMBERS.saturating_mul(parameters).saturating_mul(threads);
            (numbers, format!("each {} times for each thread", copies::NUMBERS))
        };
        let ranks = communicator.map(|communicator| Ranks::new(communicator, threads));
        let of_ranks = if ranks.is_some() { reduction::NUMBERS.saturating_mul(parameters) } else { 0 };
        let numbers = numbers.saturating_add(threads.saturating_mul(THREAD)).saturating_add(of_ranks);
        memory::check("threads", "an engine", numbers, || {
            format!("{parameters} parameters, {times}, {threads} threads")
        })?;
        if threads > THREADS {
            return Err(Error::argument("threads", format!("at most {THREADS}"), threads));
        }
        let reduction = ranks.clone().map(|ranks| Reduction::new(ranks, parameters));
        let store: Box<dyn Store> = match shared {
            true => Box::new(Shared::new(params, threads, reduction)?),
            false => Box::new(Copies::new(params, threads, reduction)?),
        };
        let threads_of_rank = Threads::new(params.config(), how, may_cut, ranks)?;
        let state = State { threads: threads_of_rank, store, went_forward: false };
        let (config, table) = (params.config().clone(), Arc::clone(params.table()));
        Ok(Self { config, table, threads, state: Mutex::new(state) })
    }

    /// The number of threads that it computes on.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// What the threads have spent their time with since the last call of this, all threads together. What a step takes
    /// beyond that they wait for each other. With other ranks, the last of it is the exchange with these: each thread's time
    /// in which nothing was computed because of it.
    pub fn take_times(&mut self) -> Vec<OperationTime> {
        let mut times: Vec<OperationTime> = Vec::new();
        for tools in &lock(&self.state).threads.work.tools {
            let tools = lock(tools);
            let of_thread = tools.clock.take();
            if times.is_empty() {
                times.extend(of_thread);
                continue;
            }
            for (time, of_thread) in times.iter_mut().zip(of_thread) {
                time.forward += of_thread.forward;
                time.backward += of_thread.backward;
            }
        }
        if lock(&self.state).threads.ranks.is_none() {
            times.pop();
        }
        times
    }

    /// How long the ranks take to tell each other the gradients of a step, where nothing is computed meanwhile. All of them
    /// call it.
    ///
    /// # Errors
    /// When another rank does not take part in it.
    pub fn time_exchange(&mut self) -> Result<Duration> {
        // Any number but 0, which the system would not give memory for before the exchange asks for it.
        let mut gradients = vec![1.0; self.table.parameters()];
        let State { threads, store, .. } = &mut *lock(&self.state);
        if let Some(ranks) = &threads.ranks {
            ranks.agree(Vec::new(), |_| 0)?;
        }
        let begun = Instant::now();
        store.exchange(&mut gradients)?;
        Ok(begun.elapsed())
    }

    /// Goes through the model with a batch that fits it, if the memory has room for it and for the numbers of what the caller
    /// returns. While the caller holds what is returned, nobody else does.
    fn run(&self, step: Step, batch: &Batch, mode: Mode, returned: usize) -> Result<MutexGuard<'_, State>> {
        let mut state = lock(&self.state);
        let State { threads, store, went_forward } = &mut *state;
        if step.shared_by(&threads.ranks).is_none() {
            // Ranks tell each other after the step, lest one ends before the others have begun.
            check_interrupt()?;
        }
        *went_forward = false;
        threads.share_out(batch, mode, step, returned)?;
        store.forward(threads, step)?;
        *went_forward = step == Step::Loss;
        Ok(state)
    }
}

impl Encoder for Engine {
    fn config(&self) -> &ModelConfig {
        &self.config
    }

    fn go_to_background(&mut self) {
        lock(&self.state).threads.run(false, |_, _, _| kernel::background());
    }

    fn params(&self) -> Result<Params> {
        let mut params = Params::zeros_with_room(&self.config, 1)?;
        lock(&self.state).store.copy_to(params.as_mut_slice());
        Ok(params)
    }

    fn forward(&mut self, batch: &Batch, mode: Mode) -> Result<f64> {
        self.config.check(batch)?;
        self.config.check_targets(batch)?;
        let mut state = self.run(Step::Loss, batch, mode, 0)?;
        let State { threads, went_forward, .. } = &mut *state;
        let losses = threads.work.workers.iter().map(|worker| read(worker).loss);
        let Some(ranks) = &threads.ranks else { return Ok(losses.sum()) };
        let begun = Instant::now();
        let gathered = ranks.agree(losses.flat_map(halves).collect(), |_| 2 * self.threads);
        threads.note_exchange(false, begun);
        *went_forward = gathered.is_ok();
        Ok(gathered?.as_chunks().0.iter().map(|&of_worker| whole(of_worker)).sum())
    }

    fn backward(&mut self, gradients: &mut Gradients) -> Result<()> {
        let Values::F32(sum) = gradients.values_mut(self)? else { unreachable!("an engine computes in f32") };
        let State { threads, store, went_forward } = &mut *lock(&self.state);
        if !mem::take(went_forward) {
            return Err(Error::NoForward);
        }
        let norm = store.backward(threads, sum)?;
        gradients.note_norm(norm);
        Ok(())
    }

    fn logits(&self, batch: &Batch, mode: Mode) -> Result<Tensor> {
        batch.check_masked()?;
        self.config.check(batch)?;
        let (masked, vocab) = (batch.masked_rows.len(), self.config.vocab);
        let state = self.run(Step::Logits, batch, mode, masked.saturating_mul(vocab))?;
        let mut logits = Vec::with_capacity(masked * vocab);
        for worker in &state.threads.work.workers {
            logits.extend_from_slice(&read(worker).activations.logits);
        }
        Ok(Tensor::from_vec(logits, (masked, vocab), &Device::Cpu)?)
    }

    fn score(&self, batch: &Batch) -> Result<Vec<Score>> {
        self.config.check(batch)?;
        self.config.check_targets(batch)?;
        let state = self.run(Step::Scores, batch, Mode::Evaluate, 0)?;
        let Threads { ranks, work, .. } = &state.threads;
        let scores: Vec<Score> = work.workers.iter().flat_map(|worker| mem::take(&mut write(worker).scores)).collect();
        let Some(ranks) = ranks else { return Ok(scores) };
        /// Numbers of a score.
        const NUMBERS: usize = 3;
        let numbers = scores.iter().flat_map(|&Score { log_probability, best }| {
            let [high, low] = halves(log_probability);
            [high, low, f32::from_bits(best)]
        });
        let begun = Instant::now();
        let gathered = ranks.agree(numbers.collect(), |rank| NUMBERS * work.masked_of(&ranks.workers_of(rank)))?;
        state.threads.note_exchange(false, begun);
        let scores = gathered
            .as_chunks::<NUMBERS>()
            .0
            .iter()
            .map(|&[high, low, best]| Score { log_probability: whole([high, low]), best: best.to_bits() });
        Ok(scores.collect())
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
        for worker in &state.threads.work.workers {
            let Worker { activations, rows, .. } = &*read(worker);
            let share = Share::new(batch, rows.clone());
            for Attended { whole, tokens, keys, pairs, .. } in share.each_attention(heads, Step::Encode.asked()) {
                let sequence = batch.offsets.partition_point(|&offset| offset < whole.start);
                let (length, first) = (whole.len(), tokens.start - whole.start);
                for (padded, kept) in hidden_states.iter_mut().zip(&activations.hidden) {
                    let from = &kept[keys.start * d_model..keys.end * d_model];
                    padded[(sequence * seq + first) * d_model..][..from.len()].copy_from_slice(from);
                }
                for (padded, kept) in attention.iter_mut().zip(&activations.layers) {
                    for (row, from) in kept.probabilities[pairs.clone()].chunks_exact(length).enumerate() {
                        let (head, query) = (row / keys.len(), first + row % keys.len());
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
        let [first, second] = [first, second].map(Vec::as_mut_slice);
        let State { threads, store, went_forward } = &mut *lock(&self.state);
        store.update(threads, gradients, [first, second], rule);
        *went_forward = false;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;
    use crate::model::weights::{Numbers, Part};
    use crate::text::masking::Treatment;

    /// Sequences of random tokens, of which a third are masked: often fewer than there are threads.
    fn random_batch(rng: &mut StdRng, config: &ModelConfig) -> Batch {
        let mut batch = Batch::with_gaps([], 0);
        for _ in 0..rng.random_range(1..6) {
            for _ in 0..rng.random_range(1..=config.max_len) {
                if batch.masked_rows.is_empty() || rng.random_bool(0.3) {
                    batch.masked_rows.push(batch.tokens());
                    batch.targets.push(rng.random_range(0..config.vocab as u32));
                    batch.treatments.push(Treatment::Mask);
                }
                batch.input_ids.push(rng.random_range(0..config.vocab as u32));
            }
            batch.offsets.push(batch.tokens());
        }
        batch
    }

    /// Gradients and, after some steps, weights, against those that each thread computes with its own copy.
    #[test]
    fn threads_with_the_same_weights_learn_what_threads_with_copies_do() {
        let mut rng = StdRng::seed_from_u64(0);
        let mut cut = 0;
        for round in 0..24 {
            let heads = rng.random_range(1..4);
            let config = ModelConfig {
                d_model: heads * rng.random_range(1..20),
                heads,
                layers: rng.random_range(1..4),
                d_ff: rng.random_range(1..150),
                max_len: rng.random_range(1..90),
                hidden_dropout: if round % 2 == 0 { 0.1 } else { 0.0 },
                ..ModelConfig::new(rng.random_range(6..300))
            };
            let params = Params::init(&config, &mut rng).unwrap();
            let batches: Vec<Batch> = (0..3).map(|_| random_batch(&mut rng, &config)).collect();
            let precision = if round % 3 == 0 { Precision::Bf16 } else { Precision::F32 };
            let how = EngineConfig { threads: rng.random_range(2..9), precision, ..EngineConfig::default() };
            let mut learn = |shared| {
                let mut engine = Engine::of_kind(&params, how, Kind { shared, may_cut: shared }, None).unwrap();
                let mut gradients = Gradients::zeros(&engine).unwrap();
                let mut moments = [(); 2].map(|()| Values::zeros(DType::F32, params.len()).unwrap());
                let (mut losses, mut all, mut is_cut) = (Vec::new(), Vec::new(), false);
                for (seed, batch) in batches.iter().enumerate() {
                    losses.push(engine.forward(batch, Mode::Train { dropout_seed: seed as u64 }).unwrap());
                    is_cut |= lock(&engine.state).threads.work.is_cut();
                    engine.backward(&mut gradients).unwrap();
                    let (Values::F32(values), _) = gradients.values() else { unreachable!() };
                    all.push((values.clone(), gradients.norm()));
                    let descend = |part: Part<'_>| {
                        let Part::F32(Numbers { weights, gradients, .. }) = part else { unreachable!() };
                        weights.iter_mut().zip(gradients).for_each(|(weight, gradient)| *weight -= 0.01 * gradient);
                    };
                    engine.update(gradients.values().0, &mut moments, &descend).unwrap();
                }
                cut += usize::from(is_cut);
                (losses, all, engine.params().unwrap(), is_cut)
            };
            let (ours, theirs) = (learn(true), learn(false));
            assert_eq!(ours, learn(true), "the same bits, round {round}");
            if !ours.3 {
                assert_eq!(ours, theirs, "the same bits, round {round}");
                continue;
            }
            let (our_loss, their_loss) = (ours.0[0], theirs.0[0]);
            assert!(
                (our_loss - their_loss).abs() < 1e-12,
                "the way forward, round {round}: {our_loss}, not {their_loss}"
            );
            let close = |ours: f64, theirs: f64, scale: f64| (ours - theirs).abs() <= 1e-5 * scale + 1e-7;
            for (&ours, &theirs) in ours.2.as_slice().iter().zip(theirs.2.as_slice()) {
                assert!(close(ours.into(), theirs.into(), 1.0), "round {round}, a weight: {ours}, not {theirs}");
            }
            for (nth, ((ours, norm), (theirs, their_norm))) in ours.1.iter().zip(&theirs.1).enumerate() {
                // From the second step on from weights that differ in their last digits.
                let least = if nth == 0 { 1.0 } else { 100.0 };
                assert!(close(*norm, *their_norm, least * their_norm), "round {round}: {norm}, not {their_norm}");
                for (at, (&ours, &theirs)) in ours.iter().zip(theirs).enumerate() {
                    let scale = least * their_norm;
                    assert!(close(ours.into(), theirs.into(), scale), "round {round}, {at}: {ours}, not {theirs}");
                }
            }
        }
        assert!((10..40).contains(&cut), "sequences cut in {cut} of 48 trainings");
    }
}
