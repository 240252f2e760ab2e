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
    /// Gbit/s from and to each of them
    #[arg(long, default_value_t = 10.0, requires = "machines", value_parser = positive)]
    gbits: f64,
    /// Microseconds until the first byte is there
    #[arg(long, default_value_t = 50.0, requires = "machines", value_parser = positive)]
    latency_us: f64,
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

    fn rows(&self, forecast: &Forecast) -> impl Iterator<Item = Row> {
        let network =
            Network { latency: Duration::from_secs_f64(self.latency_us / 1e6), bandwidth: self.gbits * 1e9 / 8.0 };
        let one = forecast.step(1, 1.0, network);
        self.machines.iter().map(move |machines| {
            let machines = machines.get();
            let same = forecast.step(machines, 1.0 / machines as f64, network);
            let growing = forecast.step(machines, 1.0, network);
            let efficiency = one.div_duration_f64(same) / machines as f64;
            Row { machines, same: (same, efficiency), growing: (growing, one.div_duration_f64(growing)) }
        })
    }

    /// The forecast for a batch of so many sequences, as lines.
    pub(crate) fn table(&self, forecast: &Forecast, batch_size: usize) -> Vec<String> {
        let mut lines = vec![
            format!("\nforecast for machines like this one, {} Gbit/s, {} us", self.gbits, self.latency_us),
            format!("  {:>8}  {:^21}  {:^21}", "", format!("batch: {batch_size}"), format!("batch: {batch_size} each")),
            format!("  {0:>8}  {1:>10} {2:>10}  {1:>10} {2:>10}", "machines", "ms a step", "efficiency"),
        ];
        lines.extend(self.rows(forecast).map(|Row { machines, same, growing }| {
            let [same, growing] = [same, growing]
                .map(|(step, efficiency)| format!("{:>10.3} {:>8.0} %", milliseconds(step), 100.0 * efficiency));
            format!("  {machines:>8}  {same}  {growing}")
        }));
        lines
    }

    /// The forecast as JSON.
    pub(crate) fn json(&self, forecast: &Forecast) -> Value {
        let rows = self.rows(forecast).map(|Row { machines, same, growing }| {
            json!({
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

fn positive(text: &str) -> std::result::Result<f64, String> {
    match text.parse() {
        Ok(number) if number > 0.0 && f64::is_finite(number) => Ok(number),
        _ => Err("expected a positive number".to_owned()),
    }
}
