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
        let (rank, mut end) = (self.rank(), 0);
        let places: Vec<Range<usize>> = (0..self.count())
            .map(|other| {
                let start = end;
                end += lengths(other);
                start..end
            })
            .collect();
        let mut received = vec![0.0; end];
        received[places[rank].clone()].copy_from_slice(&own);
        let to = (0..self.count()).map(|other| if other == rank { 0..0 } else { 0..own.len() }).collect();
        let mut from = places;
        from[rank] = 0..0;
        let exchange = Exchange { sent: own, to, received, from };
        Ok(wait(self.communicator.begin(exchange)?.as_mut())?.received)
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
