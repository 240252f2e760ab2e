//! What a step on several ranks costs beside what is computed: takes an engine after its steps, gives what `mlm bench` says of it.

use std::sync::Arc;
use std::time::Duration;

use mlm_core::{Communicator, Engine, Network, OperationTime};
use serde_json::{Value, json};

use crate::Failure;
use crate::bench::{median, milliseconds};
use crate::job::of_ranks;

/// What ranks told each other in steps, and what is between them.
pub(crate) struct Exchange {
    /// What the gradients of a step take where nothing is computed meanwhile.
    alone: Duration,
    /// In a step on average, the time on the way back in which nothing was computed because of it.
    waiting: Duration,
    /// For each rank, the time of a step on average in which it did not wait for the others.
    computing: Vec<Duration>,
    /// What is between the ranks, as an exchange between all of them sees it.
    network: Network,
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
        let alone = typical(communicator, (0..TIMES).map(|_| engine.time_exchange()))?;
        Ok(Self { alone, waiting, computing, network: network(communicator)? })
    }

    /// How much of what it takes alone went on while something was computed.
    fn hidden(&self) -> f64 {
        1.0 - self.waiting.min(self.alone).div_duration_f64(self.alone)
    }

    /// It as lines.
    pub(crate) fn table(&self) -> Vec<String> {
        let Self { alone, waiting, computing, network: Network { latency, bandwidth } } = self;
        let of_rank = |&rank: &usize| computing[rank];
        let [fastest, slowest] = [(0..computing.len()).min_by_key(of_rank), (0..computing.len()).max_by_key(of_rank)]
            .map(Option::unwrap_or_default);
        let ms = |time: &Duration| milliseconds(*time);
        vec![
            format!(
                "exchange           {:8.3} ms alone; the way back waits {:.3} ms for it: {:.0} % are hidden",
                ms(alone),
                ms(waiting),
                100.0 * self.hidden()
            ),
            format!(
                "computing          {:8.3} ms (rank {fastest}) to {:.3} ms (rank {slowest})",
                ms(&computing[fastest]),
                ms(&computing[slowest])
            ),
            format!(
                "network            {:8.3} ms until a number is there, {:.2} Gbit/s from and to each rank",
                ms(latency),
                8.0 * bandwidth / 1e9
            ),
        ]
    }

    /// It as JSON.
    pub(crate) fn json(&self) -> Value {
        let Self { alone, waiting, computing, network: Network { latency, bandwidth } } = self;
        json!({
            "alone_ms": milliseconds(*alone),
            "waiting_ms": milliseconds(*waiting),
            "hidden": self.hidden(),
            "computing_ms": computing.iter().map(|&time| milliseconds(time)).collect::<Vec<_>>(),
            "latency_us": 1e3 * milliseconds(*latency),
            "bytes_per_second": bandwidth,
        })
    }
}

fn network(communicator: &Arc<dyn Communicator>) -> Result<Network, Failure> {
    /// Numbers that each rank sends: 8 MB.
    const NUMBERS: usize = 1 << 21;
    let others = communicator.ranks() - 1;
    let numbers = NUMBERS / others;
    let latency = typical(communicator, (0..201).map(|_| communicator.time(1)))?;
    let all = typical(communicator, (0..11).map(|_| communicator.time(numbers)))?;
    let bandwidth = (size_of::<f32>() * numbers * others) as f64 / all.saturating_sub(latency).as_secs_f64();
    Ok(Network { latency, bandwidth })
}

/// The median of what each rank has measured, on average over the ranks: what one has begun before another one seems longer to it.
fn typical(
    communicator: &Arc<dyn Communicator>,
    times: impl Iterator<Item = mlm_core::Result<Duration>>,
) -> Result<Duration, Failure> {
    let own = median(times.collect::<mlm_core::Result<_>>()?);
    let all = of_ranks(communicator, own.as_secs_f64())?;
    Ok(Duration::from_secs_f64(all.iter().sum::<f64>() / all.len() as f64))
}
