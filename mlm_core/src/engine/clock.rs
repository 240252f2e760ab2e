//! Where the time goes: takes the moments at which operations end, gives the time that each kind of operation took,
//! forward and backward.

use std::cell::Cell;
use std::time::{Duration, Instant};

/// The kinds of operations that are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    /// Sending gradients to other threads, receiving weights from them.
    Mail,
    /// Copying changed weights into panels.
    Packing,
    Embeddings,
    /// All products with a weight, the decoder's too.
    Linear,
    Attention,
    /// With the residual sum before it.
    LayerNorm,
    Gelu,
    Dropout,
    /// With the choice of the masked rows.
    Loss,
    /// Adding up the threads' gradients.
    Reduction,
    /// What the engines of several processes tell each other, where nothing is computed meanwhile.
    Exchange,
}

impl Operation {
    /// In the order of the variants.
    const NAMES: [&str; 11] = [
        "mail",
        "packing",
        "embeddings",
        "linear",
        "attention",
        "LayerNorm",
        "GELU",
        "dropout",
        "loss",
        "reduction",
        "exchange",
    ];
}

/// The time that one kind of operation took, see [`crate::Engine::take_times`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OperationTime {
    /// Its name.
    pub operation: &'static str,
    /// Its time on the way forward.
    pub forward: Duration,
    /// Its time on the way back.
    pub backward: Duration,
}

/// One thread's stopwatch. A look at it takes some 20 ns, the shortest operation many times as long.
#[derive(Debug)]
pub(crate) struct Clock {
    last: Cell<Instant>,
    /// 1 on the way back, else 0.
    direction: Cell<usize>,
    times: [[Cell<Duration>; 2]; Operation::NAMES.len()],
}

impl Clock {
    pub(crate) fn new() -> Self {
        Self { last: Cell::new(Instant::now()), direction: Cell::new(0), times: Default::default() }
    }

    /// From now on the time counts, for the way forward or back.
    pub(crate) fn start(&self, backward: bool) {
        self.last.set(Instant::now());
        self.direction.set(usize::from(backward));
    }

    /// The time since the start or the last lap was the operation's.
    pub(crate) fn lap(&self, operation: Operation) {
        let now = Instant::now();
        let time = &self.times[operation as usize][self.direction.get()];
        time.set(time.get() + (now - self.last.replace(now)));
    }

    /// A thread that stands still for so long does so for an operation of another one.
    pub(crate) fn add(&self, operation: Operation, backward: bool, duration: Duration) {
        let time = &self.times[operation as usize][usize::from(backward)];
        time.set(time.get() + duration);
    }

    /// The times since they were taken last.
    pub(crate) fn take(&self) -> impl Iterator<Item = OperationTime> {
        Operation::NAMES.into_iter().zip(&self.times).map(|(operation, [forward, backward])| OperationTime {
            operation,
            forward: forward.take(),
            backward: backward.take(),
        })
    }
}
