//! Processes that train one model together, its ranks: what an engine asks of whatever connects them, and what follows from that.
//! It takes numbers for the other ranks and gives theirs; what these are is left to others.

use std::fmt;
use std::hint;
use std::ops::Range;
use std::process;
use std::thread;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};

/// How long a rank looks for what others send before it lets somebody else have its core.
const SPINNING: Duration = Duration::from_micros(100);

/// How long it keeps looking then, before it sleeps in between.
const LOOKING: Duration = Duration::from_secs(1);

/// How long it waits for the others in a step. One that writes a large model to a slow disk is late, too.
pub(crate) const PATIENCE: Duration = Duration::from_secs(300);

/// What connects the processes that an [`Engine`](crate::Engine) computes on, see
/// [`Engine::with_communicator`](crate::Engine::with_communicator); with the feature `mpi` of this crate, `Mpi` does.
pub trait Communicator: fmt::Debug + Send + Sync {
    /// The number of this process, counted from 0.
    fn rank(&self) -> usize;

    /// How many there are.
    fn ranks(&self) -> usize;

    /// The machine that this process is on, for messages.
    fn host(&self) -> String {
        "this machine".to_owned()
    }

    /// Ends all ranks, this one with a status, whatever they are doing; or this one only, where it cannot.
    fn abort(&self, status: u8) -> ! {
        process::exit(status.into())
    }

    /// Begins to send numbers to other ranks and to receive theirs, and does not wait. All ranks begin the same exchanges in the
    /// same order, each with the lengths that the others expect.
    ///
    /// # Errors
    /// When the connection fails.
    fn begin(&self, exchange: Exchange) -> Result<Box<dyn Pending>>;
}

/// Numbers that go from each rank to each other one.
#[derive(Debug, Default)]
pub struct Exchange {
    /// What this rank sends.
    pub sent: Vec<f32>,
    /// For each rank which of these are for it, perhaps some that others get, too; none for this one.
    pub to: Vec<Range<usize>>,
    /// What this rank receives.
    pub received: Vec<f32>,
    /// For each rank where its numbers come among these; nothing from this one.
    pub from: Vec<Range<usize>>,
}

/// An exchange that is under way.
pub trait Pending: Send {
    /// Lets it go on, as far as it can without waiting; gives it back when everything is sent and received, once.
    ///
    /// # Errors
    /// When the connection fails.
    fn test(&mut self) -> Result<Option<Exchange>>;
}

impl dyn Communicator + '_ {
    /// What each rank says, in their order. One may have read a text for hours before it has something to say.
    ///
    /// # Errors
    /// When the connection fails, or another rank does not take part in it.
    pub fn tell(&self, own: &[u8]) -> Result<Vec<Vec<u8>>> {
        self.tell_within(own, Duration::MAX)
    }

    /// As [`tell`](Self::tell), where all have something to say within a time.
    ///
    /// # Errors
    /// As [`wait`].
    pub(crate) fn tell_within(&self, own: &[u8], patience: Duration) -> Result<Vec<Vec<u8>>> {
        // Four bytes in each number, whatever number that is.
        let number = |bytes: &[u8]| {
            let mut four = [0; 4];
            four[..bytes.len()].copy_from_slice(bytes);
            f32::from_bits(u32::from_le_bytes(four))
        };
        let lengths = self.gather(vec![f32::from_bits(own.len() as u32)], |_| 1, patience)?;
        let lengths: Vec<usize> = lengths.iter().map(|length| length.to_bits() as usize).collect();
        let said = self.gather(own.chunks(4).map(number).collect(), |rank| lengths[rank].div_ceil(4), PATIENCE)?;
        let of_ranks = pieces(&said, lengths.iter().map(|length| length.div_ceil(4)));
        let bytes = of_ranks.zip(&lengths).map(|(of_rank, &length)| {
            of_rank.iter().flat_map(|number| number.to_bits().to_le_bytes()).take(length).collect()
        });
        Ok(bytes.collect())
    }

    /// How long an exchange takes in which each rank has so many numbers for each other one. All call it.
    ///
    /// # Errors
    /// When the connection fails, or another rank does not take part in it.
    pub fn time(&self, numbers: usize) -> Result<Duration> {
        // They begin together.
        self.gather(vec![0.0], |_| 1, PATIENCE)?;
        let send = |_: usize, sent: &mut Vec<f32>| sent.resize(sent.len() + numbers, 0.0);
        let begun = Instant::now();
        let mut pending = self.send(Exchange::default(), send, |_| numbers)?;
        wait(pending.as_mut(), PATIENCE)?;
        Ok(begun.elapsed())
    }

    /// What each rank has, one after the other: takes what this one has, how much it is of each, and how long to wait for it.
    ///
    /// # Errors
    /// As [`wait`].
    pub(crate) fn gather(
        &self,
        own: Vec<f32>,
        lengths: impl Fn(usize) -> usize,
        patience: Duration,
    ) -> Result<Vec<f32>> {
        let send = |_: usize, sent: &mut Vec<f32>| sent.extend_from_slice(&own);
        let mut pending = self.send(Exchange::default(), send, &lengths)?;
        let Exchange { mut received, from, .. } = wait(pending.as_mut(), patience)?;
        let place = from[self.rank()].start;
        received.splice(place..place, own);
        Ok(received)
    }

    /// Begins an exchange, in the memory of one that is over: `send` appends what another rank is to get, `length` says how much
    /// that one sends.
    ///
    /// # Errors
    /// When the connection fails.
    pub(crate) fn send(
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
        for other in 0..self.ranks() {
            let places = (sent.len(), end);
            if other != rank {
                send(other, &mut sent);
                end += length(other);
            }
            to.push(places.0..sent.len());
            from.push(places.1..end);
        }
        received.resize(end, 0.0);
        self.begin(Exchange { sent, to, received, from })
    }
}

/// Parts of such lengths, one after the other.
pub(crate) fn pieces<T>(mut all: &[T], lengths: impl IntoIterator<Item = usize>) -> impl Iterator<Item = &[T]> {
    lengths.into_iter().map(move |length| {
        let (piece, rest) = all.split_at(length);
        all = rest;
        piece
    })
}

/// Waits for the end of an exchange.
///
/// # Errors
/// When the connection fails, or another rank does not take part in it.
pub(crate) fn wait(pending: &mut dyn Pending, patience: Duration) -> Result<Exchange> {
    let start = Instant::now();
    loop {
        if let Some(exchange) = pending.test()? {
            return Ok(exchange);
        }
        match start.elapsed() {
            waited if waited < SPINNING => hint::spin_loop(),
            waited if waited < LOOKING => thread::yield_now(),
            waited if waited < patience => thread::sleep(Duration::from_millis(1)),
            waited => return Err(Error::NoRank { seconds: waited.as_secs() }),
        }
    }
}
