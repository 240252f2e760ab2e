//! Processes that train one model together, its ranks: what an engine asks of whatever connects them. It takes numbers for the
//! other ranks and gives theirs; what these are is left to [`crate::engine::ranks`].

use std::fmt;
use std::ops::Range;

use crate::error::Result;

/// What connects the processes that an [`Engine`](crate::Engine) computes on, see [`Engine::with_communicator`]. With the
/// feature `mpi`, [`Mpi`](crate::Mpi) is one.
///
/// [`Engine::with_communicator`]: crate::Engine::with_communicator
pub trait Communicator: fmt::Debug + Send + Sync {
    /// The number of this process, counted from 0.
    fn rank(&self) -> usize;

    /// How many there are.
    fn ranks(&self) -> usize;

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
