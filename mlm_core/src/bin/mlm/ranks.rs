//! What a step on several ranks costs beside what is computed: takes an engine after its steps, gives what `mlm bench` says of it.

use std::sync::Arc;
use std::time::Duration;

use mlm_core::{Communicator, Engine, Network, OperationTime};

use crate::Failure;

/// What ranks told each other in steps, and what is between them.
pub(crate) struct Exchange {
    /// What the gradients of a step take where nothing is computed meanwhile.
    pub(crate) alone: Duration,
    /// In a step on average, the time on the way back in which nothing was computed because of it.
    pub(crate) waiting: Duration,
    /// For each rank, the time of a step on average in which it did not wait for the others.
    pub(crate) computing: Vec<Duration>,
    /// What is between the ranks, as an exchange between all of them sees it.
    pub(crate) network: Network,
}

impl Exchange {
    /// Measures it; takes what the engine's threads have spent so many steps with, and how long such a step was. All ranks call
    /// it.
    pub(crate) fn measure(
        engine: &mut Engine,
        communicator: &Arc<dyn Communicator>,
        operations: &[OperationTime],
        (steps, step): (usize, Duration),
    ) -> Result<Self, Failure> {
        /// Exchanges that are timed.
        const TIMES: usize = 11;
        let waited = operations.iter().find(|time| time.operation == "exchange").expect("the engine is one of ranks");
        let in_a_step = |time: Duration| time.div_f64((engine.threads() * steps) as f64);
        let [forward, waiting] = [waited.forward, waited.backward].map(in_a_step);
        let computing = of_ranks(communicator, step.saturating_sub(forward + waiting).as_secs_f64())?;
        let computing = computing.into_iter().map(Duration::from_secs_f64).collect();
        let alone = median((0..TIMES).map(|_| engine.time_exchange()))?;
        Ok(Self { alone, waiting, computing, network: network(communicator)? })
    }

    /// How much of what it takes alone went on while something was computed.
    pub(crate) fn hidden(&self) -> f64 {
        1.0 - self.waiting.min(self.alone).div_duration_f64(self.alone)
    }
}

fn network(communicator: &Arc<dyn Communicator>) -> Result<Network, Failure> {
    /// Numbers that each rank sends: 8 MB.
    const NUMBERS: usize = 1 << 21;
    let others = communicator.ranks() - 1;
    let numbers = NUMBERS / others;
    let latency = median((0..201).map(|_| communicator.time(1)))?;
    let all = median((0..11).map(|_| communicator.time(numbers)))?;
    let bandwidth = (size_of::<f32>() * numbers * others) as f64 / all.saturating_sub(latency).as_secs_f64();
    Ok(Network { latency, bandwidth })
}

/// A number of each rank, in their order; takes this one's.
pub(crate) fn of_ranks(communicator: &Arc<dyn Communicator>, own: f64) -> Result<Vec<f64>, Failure> {
    let said = communicator.tell(&own.to_le_bytes())?;
    Ok(said.into_iter().filter_map(|bytes| bytes.try_into().ok()).map(f64::from_le_bytes).collect())
}

fn median(times: impl Iterator<Item = mlm_core::Result<Duration>>) -> Result<Duration, Failure> {
    let mut times = times.collect::<mlm_core::Result<Vec<Duration>>>()?;
    times.sort();
    Ok(times[times.len() / 2])
}
