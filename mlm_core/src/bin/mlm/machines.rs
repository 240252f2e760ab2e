//! What a step would take on several machines like this one: takes a forecast, gives the table of `mlm bench --machines`.

use std::num::NonZeroUsize;
use std::time::Duration;

use clap::Args;
use mlm_core::*;
use serde_json::{Value, json};

use crate::bench::milliseconds;

/// On which machines.
#[derive(Args)]
pub(crate) struct Machines {
    /// Forecast the step on so many machines like this one, each with one process
    #[arg(long, value_name = "N,N,...", value_delimiter = ',')]
    machines: Vec<NonZeroUsize>,
    /// Gbit/s from and to each of them: of one network, or of several to compare
    #[arg(long, value_name = "GBITS,...", default_value = "10", value_delimiter = ',')]
    #[arg(requires = "machines", value_parser = positive)]
    gbits: Vec<f64>,
    /// Microseconds until the first byte is there
    #[arg(long, default_value_t = 50.0, requires = "machines", value_parser = positive)]
    latency_us: f64,
}

/// What was measured on this machine.
pub(crate) struct Measured {
    pub(crate) forecast: Forecast,
    pub(crate) batch_size: usize,
    pub(crate) threads: usize,
}

/// On a number of machines, with the same batch and with one that grows with them: a step, and how much of the time of all
/// machines is not lost.
struct Row {
    machines: usize,
    same: (Duration, f64),
    growing: (Duration, f64),
}

impl Machines {
    pub(crate) fn are_asked_for(&self) -> bool {
        !self.machines.is_empty()
    }

    fn rows(&self, measured: &Measured, gbits: f64) -> impl Iterator<Item = Row> {
        let &Measured { ref forecast, batch_size, threads } = measured;
        let latency = Duration::try_from_secs_f64(self.latency_us / 1e6).unwrap_or(Duration::MAX);
        let network = Network { latency, bandwidth: gbits * 1e9 / 8.0 };
        let one = forecast.step(1, 1.0, network);
        self.machines.iter().map(move |machines| {
            let machines = machines.get();
            let same = forecast.step(machines, share(batch_size, threads, machines), network);
            let growing = forecast.step(machines, 1.0, network);
            let efficiency = one.div_duration_f64(same) / machines as f64;
            Row { machines, same: (same, efficiency), growing: (growing, one.div_duration_f64(growing)) }
        })
    }

    /// The forecast as lines.
    pub(crate) fn table(&self, measured: &Measured) -> Vec<String> {
        let batch_size = measured.batch_size;
        let mut lines = Vec::new();
        for &gbits in &self.gbits {
            lines.extend([
                format!("\nforecast for machines like this one, {gbits} Gbit/s, {} us", self.latency_us),
                format!(
                    "  {:>8}  {:^21}  {:^21}",
                    "",
                    format!("batch: {batch_size}"),
                    format!("batch: {batch_size} each")
                ),
                format!("  {0:>8}  {1:>10} {2:>10}  {1:>10} {2:>10}", "machines", "ms a step", "efficiency"),
            ]);
            lines.extend(self.rows(measured, gbits).map(|Row { machines, same, growing }| {
                let [same, growing] = [same, growing]
                    .map(|(step, efficiency)| format!("{:>10.3} {:>8.0} %", milliseconds(step), 100.0 * efficiency));
                format!("  {machines:>8}  {same}  {growing}")
            }));
        }
        lines
    }

    /// The forecast as JSON.
    pub(crate) fn json(&self, measured: &Measured) -> Value {
        let rows = self.gbits.iter().flat_map(|&gbits| self.rows(measured, gbits).map(move |row| (gbits, row)));
        let rows = rows.map(|(gbits, Row { machines, same, growing })| {
            json!({
                "gbits": gbits,
                "machines": machines,
                "same_batch_ms": milliseconds(same.0),
                "same_batch_efficiency": same.1,
                "growing_batch_ms": milliseconds(growing.0),
                "growing_batch_efficiency": growing.1,
            })
        });
        rows.collect()
    }
}

/// How much of what one machine does is left to do for each of several: all wait for the thread with the most sequences. Where
/// there are more threads than sequences, a large model's are cut, at a price that is not forecast: the others are taken for idle.
fn share(batch_size: usize, threads: usize, machines: usize) -> f64 {
    let most = |machines: usize| batch_size.div_ceil(machines.saturating_mul(threads)) as f64;
    most(machines) / most(1)
}

fn positive(text: &str) -> std::result::Result<f64, String> {
    match text.parse() {
        Ok(number) if number > 0.0 && f64::is_finite(number) => Ok(number),
        _ => Err("expected a positive number".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::share;

    #[test]
    fn no_thread_has_less_than_a_sequence() {
        for (machines, expected) in [(1, 1.0), (8, 0.125), (16, 0.0625), (64, 0.0625), (usize::MAX, 0.0625)] {
            assert_eq!(share(32, 2, machines), expected, "{machines}");
        }
        assert_eq!(share(3, 1, 2), 2.0 / 3.0);
    }
}
