//! The threads of an engine and what each of them has of a batch: takes a batch, shares it out, and goes through the model, or
//! a block of it, with the share of one thread. Where the weights lie is left to [`crate::engine::store`].

use std::fmt;
use std::mem;
use std::ops::{Range, RangeInclusive};
use std::sync::{Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Instant;

use smallvec::SmallVec;

use crate::engine::activations::{Activations, Joined};
use crate::engine::backward::Sums;
use crate::engine::buffer::{self, Buffer};
use crate::engine::clock::{Clock, Operation};
use crate::engine::config::{EngineConfig, Precision};
use crate::engine::joined::Remote;
use crate::engine::layers::{Block, Weights};
use crate::engine::linear::Room;
use crate::engine::pass::{Pass, add};
use crate::engine::pool::{Pool, lock};
use crate::engine::ranks::Ranks;
use crate::engine::share::{Asked, Part, Share, Size, split};
use crate::engine::tree;
use crate::error::Result;
use crate::model::config::ModelConfig;
use crate::model::encoder::{Mode, Score};
use crate::model::memory;
use crate::text::batch::Batch;

/// A way forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Encode,
    Logits,
    Scores,
    Loss,
}

impl Step {
    /// The ranks, if all of them take part in it, each with its share of the batch.
    pub(crate) fn shared_by(self, ranks: &Option<Ranks>) -> Option<&Ranks> {
        ranks.as_ref().filter(|_| matches!(self, Step::Scores | Step::Loss))
    }

    pub(crate) fn asked(self) -> Asked {
        if self == Step::Encode { Asked::All } else { Asked::Masked }
    }
}

/// One part of something for each thread; without taking memory for up to 16 of them.
pub(crate) type Parts<T> = SmallVec<[Mutex<T>; 16]>;

/// The threads.
#[derive(Debug)]
pub(crate) struct Threads {
    pool: Pool,
    precision: Precision,
    /// A sequence may be cut, and its parts given to several of them.
    may_cut: bool,
    pub(crate) ranks: Option<Ranks>,
    pub(crate) work: Work,
}

/// What they work on.
pub(crate) struct Work {
    pub(crate) config: ModelConfig,
    pub(crate) batch: Batch,
    mode: Mode,
    /// There is a sequence of which several workers have a part.
    is_cut: bool,
    /// For each worker of all ranks where its rows end.
    pub(crate) ends: Vec<usize>,
    /// Which of them are this rank's.
    pub(crate) own: Range<usize>,
    pub(crate) remote: Remote,
    pub(crate) workers: Vec<RwLock<Worker>>,
    pub(crate) tools: Vec<Mutex<Tools>>,
}

/// One thread's share of a batch, and what comes out of it. Two neighbouring lines come into a cache together, so it starts
/// at a multiple of two.
#[repr(align(128))]
#[derive(Debug, Default)]
pub(crate) struct Worker {
    pub(crate) activations: Activations,
    /// Its rows of the batch.
    pub(crate) rows: Range<usize>,
    /// The part of the batch's loss that comes from them.
    pub(crate) loss: f64,
    /// What is predicted for its masked rows.
    pub(crate) scores: Vec<Score>,
}

/// What a thread works with and no other one sees.
#[repr(align(128))]
#[derive(Debug)]
pub(crate) struct Tools {
    pub(crate) room: Room,
    pub(crate) joined: Joined,
    /// Gradients of some workers, to be added to those of others: for groups of each size, of which one at a time is needed.
    pub(crate) sums: Vec<Buffer>,
    pub(crate) clock: Clock,
}

impl fmt::Debug for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Work {{ {:?}, workers: {} }}", self.config, self.workers.len())
    }
}

impl Threads {
    /// # Errors
    /// When the system starts no threads.
    pub(crate) fn new(config: &ModelConfig, how: EngineConfig, may_cut: bool, ranks: Option<Ranks>) -> Result<Self> {
        let EngineConfig { threads, precision, vectors } = how;
        let worker = || RwLock::new(Worker { activations: Activations::new(config), ..Worker::default() });
        let tools = || {
            let sums = vec![Buffer::default(); tree::depth(threads)];
            Mutex::new(Tools { room: Room::new(precision), joined: Joined::default(), sums, clock: Clock::new() })
        };
        let work = Work {
            config: config.clone(),
            batch: Batch::with_gaps([], 0),
            mode: Mode::Evaluate,
            is_cut: false,
            ends: Vec::new(),
            own: 0..threads,
            remote: Remote::default(),
            workers: (0..threads).map(|_| worker()).collect(),
            tools: (0..threads).map(|_| tools()).collect(),
        };
        let may_cut = may_cut && (threads > 1 || ranks.is_some());
        Ok(Self { pool: Pool::new(threads, vectors)?, precision, may_cut, ranks, work })
    }

    /// What they multiply in.
    pub(crate) fn precision(&self) -> Precision {
        self.precision
    }

    /// Runs a function on all threads: takes the thread's number, its tools and what all have in common. The time that passes
    /// on a thread's clock counts, for the way forward or back.
    pub(crate) fn run(&mut self, backward: bool, function: impl Fn(usize, &mut Tools, &Work) + Sync) {
        let Self { pool, work, .. } = self;
        pool.run(&|nth| {
            let tools = &mut *lock(&work.tools[nth]);
            tools.clock.start(backward);
            function(nth, tools, work);
        });
    }

    /// An exchange with other ranks that has begun at this moment is over, for the way forward or back; the threads have waited
    /// for it.
    pub(crate) fn note_exchange(&self, backward: bool, begun: Instant) {
        let duration = begun.elapsed();
        self.work.tools.iter().for_each(|tools| lock(tools).clock.add(Operation::Exchange, backward, duration));
    }

    /// Gives each worker its rows of a batch, and the memory for them, if there is as much, and for the numbers of what the step
    /// is to return.
    pub(crate) fn share_out(&mut self, batch: &Batch, mode: Mode, step: Step, returned: usize) -> Result<()> {
        let may_cut = self.may_cut;
        let Work { config, batch: of_threads, mode: of_batch, is_cut, ends, own, workers, tools, .. } = &mut self.work;
        // A share has a part of two sequences at most. There is memory for these also where they are whole, lest a later batch
        // takes some.
        let cut = if may_cut { batch.tokens().min(2 * batch.longest()) } else { 0 };
        let mut missing = returned;
        let mut sizes: SmallVec<[Size; 16]> = SmallVec::new();
        // The ranks share a step to the loss; what somebody asks of one of them that one computes by itself.
        let all;
        (all, *own) = match step.shared_by(&self.ranks) {
            Some(ranks) => (ranks.workers(), ranks.workers_of(ranks.rank())),
            _ => (workers.len(), 0..workers.len()),
        };
        *is_cut = false;
        ends.clear();
        for (nth, rows) in split(&batch.offsets, all, may_cut).enumerate() {
            *is_cut |= batch.offsets.binary_search(&rows.end).is_err();
            ends.push(rows.end);
            if !own.contains(&nth) {
                continue;
            }
            let size = Share::new(batch, rows.clone()).size(step.asked());
            let mut worker = write(&workers[nth - own.start]);
            worker.rows = rows;
            missing = missing.saturating_add(buffer::missing(worker.activations.buffers(config, size, cut)));
            sizes.push(size);
        }
        // A thread may have to do with the tokens of any other.
        let most = sizes.iter().map(|size| size.tokens).max().unwrap_or(0);
        for tools in tools.iter() {
            let Tools { room, joined, .. } = &mut *lock(tools);
            let needs = room.buffers(config, most).into_iter().chain(joined.buffers(config, cut));
            missing = missing.saturating_add(buffer::missing(needs));
        }
        if missing > 0 {
            memory::check("batch", "a batch", missing, || memory::describe(batch))?;
        }
        for ((worker, tools), size) in workers.iter().zip(tools).zip(sizes) {
            buffer::fit(write(worker).activations.buffers(config, size, cut));
            let Tools { room, joined, .. } = &mut *lock(tools);
            buffer::fit(room.buffers(config, most));
            buffer::fit(joined.buffers(config, cut));
        }
        copy(batch, of_threads);
        *of_batch = mode;
        Ok(())
    }
}

impl Work {
    /// The number of threads.
    pub(crate) fn threads(&self) -> usize {
        self.tools.len()
    }

    /// The tokens of the batch, and how many of them are masked.
    pub(crate) fn tokens(&self) -> (usize, usize) {
        (self.batch.tokens(), self.batch.masked_rows.len())
    }

    /// The rows of some neighbours among the workers of all ranks.
    pub(crate) fn rows_of(&self, workers: &Range<usize>) -> Range<usize> {
        workers.start.checked_sub(1).map_or(0, |before| self.ends[before])..self.ends[workers.end - 1]
    }

    /// How many masked rows they have.
    pub(crate) fn masked_of(&self, workers: &Range<usize>) -> usize {
        Share::new(&self.batch, self.rows_of(workers)).asked(Asked::Masked).len()
    }

    /// The parts of sequences that a worker, of any rank, has, but for whole ones.
    pub(crate) fn parts(&self, nth: usize) -> impl Iterator<Item = Part> {
        Share::new(&self.batch, self.rows_of(&(nth..nth + 1))).parts()
    }

    /// Whether there is a sequence of which several workers have a part. Its keys and values, and their gradients, have to be
    /// [joined](crate::engine::joined) then before they are needed.
    pub(crate) fn is_cut(&self) -> bool {
        self.is_cut
    }

    /// The stages of a step forward: the first one goes to the keys of the first layer, the next ones from a layer's keys to those
    /// of the next, the last one to the end.
    pub(crate) fn stages(&self) -> RangeInclusive<usize> {
        0..=self.config.layers
    }

    /// Some [stages](Self::stages) of a step forward with a worker's share of the batch.
    pub(crate) fn forward(
        &self,
        nth: usize,
        step: Step,
        stages: RangeInclusive<usize>,
        weights: Weights<'_>,
        tools: &mut Tools,
    ) {
        let Worker { activations, rows, loss, scores } = &mut *write(&self.workers[nth]);
        let Tools { room, joined, clock, .. } = tools;
        if Range::is_empty(rows) {
            *loss = 0.0;
            scores.clear();
            return;
        }
        let pass = self.pass(rows, step.asked(), weights, clock);
        for stage in stages {
            match stage.checked_sub(1) {
                None => pass.embed(activations),
                Some(layer) => pass.attend(layer, activations, &joined.keys_values, room),
            }
            if stage < self.config.layers {
                pass.project(stage, activations, room);
            } else {
                if step != Step::Encode {
                    pass.head(activations, room);
                }
                match step {
                    Step::Loss => *loss = pass.loss(activations),
                    Step::Scores => *scores = pass.scores(activations),
                    Step::Encode | Step::Logits => {}
                }
            }
        }
    }

    /// Back through a block with a worker's share of the batch.
    pub(crate) fn back(&self, nth: usize, block: Block, weights: Weights<'_>, tools: &mut Tools) {
        match block {
            Block::Head => self.with_share(nth, weights, tools, |pass, activations, _, room| {
                pass.back_from_head(activations, room);
            }),
            Block::Layer(layer) => {
                self.back_to_keys(nth, layer, weights, tools);
                self.back_from_keys(nth, layer, weights, tools);
            }
            Block::Embeddings => self.with_share(nth, weights, tools, |pass, activations, _, _| {
                pass.back_to_embeddings(activations);
            }),
        }
    }

    /// Back through a layer as far as its keys and values.
    pub(crate) fn back_to_keys(&self, nth: usize, layer: usize, weights: Weights<'_>, tools: &mut Tools) {
        self.with_share(nth, weights, tools, |pass, activations, joined, room| {
            pass.back_to_keys(layer, activations, &joined.keys_values, room);
        });
    }

    /// Back from there to the layer's input.
    pub(crate) fn back_from_keys(&self, nth: usize, layer: usize, weights: Weights<'_>, tools: &mut Tools) {
        self.with_share(nth, weights, tools, |pass, activations, joined, room| {
            pass.back_from_keys(layer, activations, &joined.dkeys_values, room);
        });
    }

    /// Some of the way back with a worker's share of the batch, if it has any.
    fn with_share(
        &self,
        nth: usize,
        weights: Weights<'_>,
        tools: &mut Tools,
        back: impl FnOnce(Pass<'_>, &mut Activations, &Joined, &mut Room),
    ) {
        let Worker { activations, rows, .. } = &mut *write(&self.workers[nth]);
        let Tools { room, joined, clock, .. } = tools;
        if !Range::is_empty(rows) {
            back(self.pass(rows, Asked::Masked, weights, clock), activations, joined, room);
        }
    }

    /// Gradients of some of a block's weights, from what these workers have left behind on the way back through it: of each,
    /// added up as [`crate::engine::tree`] says.
    pub(crate) fn gradients(
        &self,
        workers: Range<usize>,
        block: Block,
        weights: Weights<'_>,
        sums: &mut Sums<'_>,
        tools: &mut Tools,
    ) {
        let Some([first, second]) = tree::groups(&workers) else {
            let Worker { activations, rows, .. } = &*read(&self.workers[workers.start]);
            if rows.is_empty() {
                sums.values.fill(0.0);
            } else {
                let pass = self.pass(rows, Asked::Masked, weights, &tools.clock);
                pass.gradients(block, activations, sums, &mut tools.room);
            }
            return;
        };
        self.gradients(first, block, weights, sums, tools);
        let mut others = mem::take(&mut tools.sums[tree::depth(second.len())]);
        let values = others.room(sums.values.len());
        self.gradients(second.clone(), block, weights, &mut Sums { start: sums.start, values }, tools);
        add(sums.values, values);
        tools.clock.lap(Operation::Reduction);
        tools.sums[tree::depth(second.len())] = others;
    }

    fn pass<'a>(&'a self, rows: &Range<usize>, asked: Asked, weights: Weights<'a>, clock: &'a Clock) -> Pass<'a> {
        let share = Share::new(&self.batch, rows.clone());
        Pass { config: &self.config, mode: self.mode, share, asked, weights, clock }
    }
}

/// A panic leaves nothing half done in a lock that the next pass would not do anew.
pub(crate) fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
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
