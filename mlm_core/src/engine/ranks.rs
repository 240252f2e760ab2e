//! An engine's place among the ranks: takes a communicator, says which of all workers are its own, and gathers what each rank
//! says. The gradients of all are added up in [`crate::engine::reduction`].

use std::hint;
use std::ops::Range;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::engine::communicator::{Communicator, Exchange, Pending};
use crate::error::{Error, Result};
use crate::kernel::check_interrupt;

/// How long a rank looks for what others send before it lets somebody else have its core.
const SPINNING: Duration = Duration::from_micros(100);

/// How long it waits once it has been interrupted. Others may not be there any more, and whoever interrupts a rank may end it
/// soon after.
const INTERRUPTED: Duration = Duration::from_millis(100);

/// How long it waits at all. A rank that writes a large model to a slow disk is late, too.
const PATIENCE: Duration = Duration::from_secs(300);

/// Where an engine stands among the ranks, each with as many workers.
#[derive(Clone, Debug)]
pub(crate) struct Ranks {
    pub(crate) communicator: Arc<dyn Communicator>,
    /// The workers of a rank.
    workers: usize,
}

impl Ranks {
    pub(crate) fn new(communicator: Arc<dyn Communicator>, workers: usize) -> Self {
        Self { communicator, workers }
    }

    pub(crate) fn rank(&self) -> usize {
        self.communicator.rank()
    }

    pub(crate) fn count(&self) -> usize {
        self.communicator.ranks()
    }

    /// Which of all workers belong to a rank.
    pub(crate) fn workers_of(&self, rank: usize) -> Range<usize> {
        rank * self.workers..(rank + 1) * self.workers
    }

    /// How many workers all ranks have together.
    pub(crate) fn workers(&self) -> usize {
        self.count() * self.workers
    }

    /// What each rank has, as [`Ranks::gather`] gives it, after a step in which no rank was interrupted. All ranks come to the same
    /// end.
    ///
    /// # Errors
    /// [`Error::Interrupted`], and as [`wait`].
    pub(crate) fn agree(&self, mut own: Vec<f32>, lengths: impl Fn(usize) -> usize) -> Result<Vec<f32>> {
        let is_interrupted = check_interrupt().is_err();
        own.push(f32::from(u8::from(is_interrupted)));
        let gathered = self.gather(own, |rank| lengths(rank) + 1)?;
        let (mut all, mut rest, mut goes_on) = (Vec::with_capacity(gathered.len()), gathered.as_slice(), true);
        for rank in 0..self.count() {
            let (of_rank, behind) = rest.split_at(lengths(rank));
            all.extend_from_slice(of_rank);
            goes_on &= behind[0] == 0.0;
            rest = &behind[1..];
        }
        if goes_on { Ok(all) } else { Err(Error::Interrupted) }
    }

    /// What each rank has, one after the other: takes what this one has, and how much it is of each.
    ///
    /// # Errors
    /// As [`wait`].
    fn gather(&self, own: Vec<f32>, lengths: impl Fn(usize) -> usize) -> Result<Vec<f32>> {
        let send = |_: usize, sent: &mut Vec<f32>| sent.extend_from_slice(&own);
        let mut pending = self.begin(Exchange::default(), send, &lengths)?;
        let Exchange { mut received, from, .. } = wait(pending.as_mut())?;
        let place = from[self.rank()].start;
        received.splice(place..place, own);
        Ok(received)
    }

    /// Begins an exchange, in the memory of one that is over: `send` appends what another rank is to get, `length` says how much
    /// that one sends.
    ///
    /// # Errors
    /// When the connection fails.
    pub(crate) fn begin(
        &self,
        memory: Exchange,
        mut send: impl FnMut(usize, &mut Vec<f32>),
        length: impl Fn(usize) -> usize,
    ) -> Result<Box<dyn Pending>> {
        let Exchange { mut sent, mut to, mut received, mut from } = memory;
        sent.clear();
        to.clear();
        from.clear();
        let (rank, mut end) = (self.rank(), 0);
        for other in 0..self.count() {
            let places = (sent.len(), end);
            if other != rank {
                send(other, &mut sent);
                end += length(other);
            }
            to.push(places.0..sent.len());
            from.push(places.1..end);
        }
        received.resize(end, 0.0);
        self.communicator.begin(Exchange { sent, to, received, from })
    }
}

/// A number in two.
pub(crate) fn halves(number: f64) -> [f32; 2] {
    let bits = number.to_bits();
    [f32::from_bits((bits >> 32) as u32), f32::from_bits(bits as u32)]
}

/// The number that two are the [`halves`] of.
pub(crate) fn whole([high, low]: [f32; 2]) -> f64 {
    f64::from_bits(u64::from(high.to_bits()) << 32 | u64::from(low.to_bits()))
}

/// Waits for the end of an exchange.
///
/// # Errors
/// When the connection fails, or another rank does not take part in it; [`Error::Interrupted`].
pub(crate) fn wait(pending: &mut dyn Pending) -> Result<Exchange> {
    let start = Instant::now();
    loop {
        if let Some(exchange) = pending.test()? {
            return Ok(exchange);
        }
        let waited = start.elapsed();
        if waited < SPINNING {
            hint::spin_loop();
            continue;
        }
        thread::yield_now();
        if waited > INTERRUPTED {
            check_interrupt()?;
        }
        if waited > PATIENCE {
            return Err(Error::NoRank { seconds: PATIENCE.as_secs() });
        }
    }
}
