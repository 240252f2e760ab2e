//! How long a step would take on several machines: takes how long it takes on one and what is between them, goes through the way
//! back and what is exchanged meanwhile in the order of [`crate::engine::shared`] and [`crate::engine::reduction`].

use std::time::Duration;

use crate::engine::layers::{Block, Layers};
use crate::engine::reduction;
use crate::engine::{SHARED, shared};
use crate::error::Result;
use crate::model::params::Params;

/// What is between machines, each of which has a line of its own.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Network {
    /// Until the first number of an exchange is there.
    pub latency: Duration,
    /// Bytes a second that each machine sends, while it receives as many.
    pub bandwidth: f64,
}

/// What each message of an exchange takes beside its bytes, of which there are as many as other machines: about what a TCP message
/// takes the system.
const MESSAGE: Duration = Duration::from_micros(5);

/// Bytes of a message above which the other machine is asked first, which answers when it wants it: those of Open MPI over TCP.
const EAGER: f64 = 65_536.0;

/// What a gradient takes the thread that copies it for the others, adds theirs up and copies the totals, and the system that sends
/// and receives it: 5.3 million of them took 12 ms (TCP, AMD Zen 4).
const HANDLING: Duration = Duration::from_nanos(2);

/// Where the time of a step goes on one machine.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StepTime {
    /// The way forward, and what else is done for each token.
    pub forward: Duration,
    /// The way back.
    pub backward: Duration,
    /// What is done for each weight, whatever the batch: copying it for the products, clipping its gradient, AdamW.
    pub weights: Duration,
}

/// How long a step would take on several machines, see [`Forecast::step`].
///
/// ```
/// # use std::time::Duration;
/// # use mlm_core::{rand::{SeedableRng, rngs::StdRng}, *};
/// # fn main() -> Result<()> {
/// let params = Params::init(&ModelConfig::new(1000), &mut StdRng::seed_from_u64(0))?;
/// let [forward, backward, weights] = [4, 8, 1].map(Duration::from_millis);
/// let forecast = Forecast::new(&params, 1024, 300, StepTime { forward, backward, weights })?;
/// let network = Network { latency: Duration::from_micros(50), bandwidth: 1e9 / 8.0 };
/// // 0.7 MB are sent to 7 others and come back in a step of 13 ms: 12 ms more, at 1 Gbit/s.
/// let step = forecast.step(8, 1.0, network).as_secs_f64();
/// assert!((0.020..0.027).contains(&step), "{step}");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Forecast {
    time: StepTime,
    blocks: Vec<Work>,
    is_large: bool,
}

/// The way back through a block.
#[derive(Clone, Copy, Debug)]
struct Work {
    /// Its gradients.
    count: usize,
    /// How much of the whole way back it takes to get through it, and to compute its gradients after that.
    through: f64,
    gradients: f64,
}

/// What connects a machine with the others.
struct Line {
    machines: usize,
    network: Network,
    /// Till when it is taken.
    taken: f64,
}

impl Line {
    /// When so many gradients that are there from some time on have been told to all others, as theirs have to this machine.
    fn send(&mut self, from: f64, gradients: usize) -> f64 {
        let others = (self.machines - 1) as f64;
        let latency = self.network.latency.as_secs_f64();
        let message = (size_of::<f32>() * gradients) as f64 / self.machines as f64;
        let asked = if message > EAGER { 2.0 * latency } else { 0.0 };
        self.taken = self.taken.max(from + asked) + others * (MESSAGE.as_secs_f64() + message / self.network.bandwidth);
        self.taken + latency
    }
}

/// The longest there is, for more seconds than it has.
fn duration(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
}

impl Forecast {
    /// For a model, from a step with so many tokens and masked ones among them.
    ///
    /// # Errors
    /// When the weights lack one that a model has.
    pub fn new(params: &Params, tokens: usize, masked: usize, time: StepTime) -> Result<Self> {
        let layers = Layers::new(params)?;
        let products = |block| layers.products(block, tokens, masked) as f64;
        let decoder = products(Block::Embeddings);
        let through = |block| match block {
            Block::Embeddings => 0.0,
            Block::Layer(_) => products(block),
            Block::Head => products(block) + decoder,
        };
        let blocks = || Block::back(layers.layers.len());
        let all: f64 = blocks().map(|block| through(block) + products(block)).sum();
        let blocks = blocks().map(|block| Work {
            count: layers.range(block).len(),
            through: through(block) / all,
            gradients: products(block) / all,
        });
        Ok(Self { time, blocks: blocks.collect(), is_large: params.len() > SHARED })
    }

    /// How long a step would take on so many machines like this one, with `share` of the batch on the one that has most of it:
    /// `1.0` for as much as here and a batch that grows with them, `1.0 / machines` for the same batch in even shares.
    pub fn step(&self, machines: usize, share: f64, network: Network) -> Duration {
        let StepTime { forward, backward, weights } = self.time;
        let [forward, backward] = [forward, backward].map(|time| share * time.as_secs_f64());
        if machines <= 1 || share.is_nan() {
            return duration(forward + backward).saturating_add(weights);
        }
        let mut line = Line { machines, network, taken: 0.0 };
        // The machine's own time, after the loss.
        let mut now = line.send(forward, 1);
        // When the exchange of a bucket's sums is over, and how many they are.
        let mut before: Option<(f64, usize)> = None;
        for (gradients, computing) in self.buckets(reduction::bucket(machines)) {
            now += backward * computing + HANDLING.as_secs_f64() * gradients as f64;
            let sums = (line.send(now, gradients), gradients);
            if let Some((over, gradients)) = before.replace(sums) {
                now = now.max(over);
                line.send(now, gradients);
            }
        }
        let over = before.map_or(now, |(over, gradients)| line.send(now.max(over), gradients));
        duration(over).saturating_add(weights)
    }

    /// The gradients that are exchanged together, as they come, and how much of the way back they take.
    fn buckets(&self, least: usize) -> Vec<(usize, f64)> {
        let mut pieces = Vec::new();
        for &Work { count, through, gradients } in &self.blocks {
            let parts = shared::pieces(count, least);
            for nth in 0..parts {
                let through = if nth == 0 { through } else { 0.0 };
                let piece = count * (nth + 1) / parts - count * nth / parts;
                pieces.push((piece, through + gradients / parts as f64));
            }
        }
        let mut buckets = Vec::new();
        let mut ready = (0, 0.0);
        let last = pieces.len() - 1;
        for (nth, (count, computing)) in pieces.into_iter().enumerate() {
            ready = (ready.0 + count, ready.1 + computing);
            // Those of a small model all go when all are there.
            if nth == last || self.is_large && ready.0 >= least {
                buckets.push(ready);
                ready = (0, 0.0);
            }
        }
        buckets
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::config::ModelConfig;

    const TIME: StepTime = StepTime {
        forward: Duration::from_millis(80),
        backward: Duration::from_millis(160),
        weights: Duration::from_millis(7),
    };

    fn forecasts() -> [(usize, Forecast); 2] {
        let large = ModelConfig { d_model: 256, d_ff: 1024, ..ModelConfig::new(8000) };
        [ModelConfig::new(1000), large].map(|config| {
            let params = Params::zeros(&config).unwrap();
            (params.len(), Forecast::new(&params, 2048, 300, TIME).unwrap())
        })
    }

    #[test]
    fn every_gradient_is_exchanged_and_all_of_the_way_back_counted() {
        for (parameters, forecast) in forecasts() {
            for machines in [2, 7, 1000] {
                let buckets = forecast.buckets(reduction::bucket(machines));
                assert_eq!(buckets.iter().map(|bucket| bucket.0).sum::<usize>(), parameters);
                let computing: f64 = buckets.iter().map(|bucket| bucket.1).sum();
                assert!((computing - 1.0).abs() < 1e-9, "{computing}");
                assert_eq!(buckets.len() > 2, forecast.is_large && machines < 100, "{buckets:?}");
            }
        }
    }

    /// What one machine computes, or what the network takes, whichever it is that nothing else hides.
    #[test]
    fn a_step_takes_what_it_waits_for() {
        let network = |bandwidth| Network { latency: Duration::from_micros(20), bandwidth };
        for (parameters, forecast) in forecasts() {
            assert_eq!(forecast.step(1, 1.0, network(1e9)), Duration::from_millis(247));
            for machines in [2, 8, 32] {
                let share = 1.0 / machines as f64;
                let fast = forecast.step(machines, share, network(1e15)).as_secs_f64();
                let computed = 0.240 * share + 0.007 + 2e-9 * parameters as f64;
                assert!((computed..computed + 0.01).contains(&fast), "{machines}: {fast} where it computes {computed}");
                let slow = forecast.step(machines, share, network(1e6)).as_secs_f64();
                let sent = 8e-6 * parameters as f64 * (1.0 - share);
                assert!((sent..1.02 * sent + computed).contains(&slow), "{machines}: {slow} where it sends {sent}");
                let growing = forecast.step(machines, 1.0, network(1e8)).as_secs_f64();
                assert!(growing > 0.247 && growing < 0.247 + 8e-8 * parameters as f64 + 0.02, "{machines}: {growing}");
            }
            // The loss, and gradients that are asked for before they are sent, there and back.
            let far = Network { latency: Duration::from_millis(100), bandwidth: 1e15 };
            let waits = forecast.step(2, 0.5, far).as_secs_f64() - forecast.step(2, 0.5, network(1e15)).as_secs_f64();
            assert!((0.699..0.701).contains(&waits) || forecast.is_large && waits > 0.7, "{waits}");
            assert_eq!(forecast.step(2, f64::NAN, network(1e9)), Duration::MAX);
        }
    }
}
