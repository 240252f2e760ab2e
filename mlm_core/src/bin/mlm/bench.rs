//! `mlm bench`: how fast a training step is, and how near to what the machine can do.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use mlm_core::candle_core::{DType, Device};
use mlm_core::rand::rngs::StdRng;
use mlm_core::rand::{Rng, SeedableRng};
use mlm_core::*;
use serde_json::json;

use crate::Failure;
use crate::arguments::{Compute, Shape};
use crate::job::{Job, of_ranks};
use crate::machines::{Machines, Measured};
use crate::ranks::Exchange;

/// Measure a full training step (mask draw, forward, backward, clipping, AdamW) on full-length random sequences.
#[derive(Args)]
#[command(after_help = "Example: mlm bench --d-model 128 --batch-size 32 --threads 2")]
pub(crate) struct Bench {
    /// Size of the vocabulary, 5 special tokens included
    #[arg(long, default_value_t = 1000)]
    vocab_size: usize,
    #[command(flatten)]
    shape: Shape,
    /// Sequences in a batch
    #[arg(long, default_value_t = 8)]
    batch_size: usize,
    /// Tokens of each sequence, [CLS] and [SEP] included
    #[arg(long, default_value_t = 32)]
    seq_len: usize,
    /// Steps to measure, after a tenth as many (at least 10) to warm up
    #[arg(long, default_value_t = 300)]
    steps: usize,
    #[command(flatten)]
    compute: Compute,
    /// What the engine rounds the factors of its large products to
    #[arg(long, value_enum, default_value_t = Precision::F32)]
    precision: Precision,
    #[command(flatten)]
    machines: Machines,
    /// Print one JSON object as the last line
    #[arg(long)]
    json: bool,
}

/// The parts of a step, in the order in which they pass.
const PARTS: [&str; 5] = ["mask draw", "forward", "backward", "clipping", "AdamW"];

/// What was measured.
struct Steps {
    /// For each step the moment at which it began, and those at which its parts ended.
    moments: Vec<[Instant; PARTS.len() + 1]>,
    /// Masked tokens of all steps.
    masked: usize,
}

impl Steps {
    /// How long the parts `from..to` of each step took.
    fn times(&self, from: usize, to: usize) -> impl Iterator<Item = Duration> {
        self.moments.iter().map(move |moments| moments[to] - moments[from])
    }

    fn mean(&self, from: usize, to: usize) -> Duration {
        self.times(from, to).sum::<Duration>().div_f64(self.moments.len() as f64)
    }

    fn median(&self) -> Duration {
        median(self.times(0, PARTS.len()).collect())
    }
}

impl Bench {
    /// What was measured, as text.
    pub(crate) fn run(&self, job: &Job) -> Result<String, Failure> {
        let back_end = self.compute.back_end(job)?;
        if self.machines.are_asked_for() && !matches!(back_end, BackEnd::Engine(_)) {
            let expected = "one process with an engine".to_owned();
            let actual = if job.communicator().is_some() { "several processes" } else { "the reference" }.to_owned();
            return Err(Error::Argument { argument: "machines", expected, actual }.into());
        }
        let (threads, ranks) = match &back_end {
            BackEnd::Engine(how) => (how.threads, 1),
            BackEnd::Ranks(how, communicator) => (how.threads, communicator.ranks()),
            BackEnd::Reference(_) => (self.compute.threads(job)?, 1),
        };
        let mut rng = StdRng::seed_from_u64(0);
        let params = Params::init(&self.shape.config(self.vocab_size, self.seq_len), &mut rng)?;
        let sequences = self.sequences(&mut rng)?;
        let precision = format!("{:?}", self.precision).to_lowercase();
        let mut exchange = None;
        let (steps, operations) = match back_end {
            BackEnd::Engine(how) | BackEnd::Ranks(how, _) => {
                let how = EngineConfig { precision: self.precision, ..how };
                let mut engine = match job.communicator() {
                    Some(communicator) => Engine::with_communicator(&params, how, Arc::clone(communicator))?,
                    None => Engine::with_config(&params, how)?,
                };
                self.steps(&mut engine, &sequences, self.warm_up())?;
                engine.take_times();
                let (steps, operations) = (self.steps(&mut engine, &sequences, self.steps)?, engine.take_times());
                if let Some(communicator) = job.communicator() {
                    let of_steps = (self.steps, steps.mean(0, PARTS.len()));
                    exchange = Some(Exchange::measure(&mut engine, communicator, &operations, of_steps)?);
                }
                (steps, operations)
            }
            BackEnd::Reference(_) if self.precision != Precision::F32 => {
                let (expected, actual) = ("f32 with the reference".to_owned(), precision);
                return Err(Error::Argument { argument: "precision", expected, actual }.into());
            }
            BackEnd::Reference(_) => {
                let mut reference = Reference::new(&params, DType::F32, &Device::Cpu)?;
                self.steps(&mut reference, &sequences, self.warm_up())?;
                (self.steps(&mut reference, &sequences, self.steps)?, Vec::new())
            }
        };
        let forecast = self.forecast(&params, &steps, &operations, threads)?;
        let step = steps.median();
        let useful = self.operations(steps.masked as f64 / self.steps as f64);
        let (gflops, mut sgemm) = (useful / step.as_secs_f64() / 1e9, sgemm_gflops(threads));
        if let Some(communicator) = job.communicator() {
            sgemm = of_ranks(communicator, sgemm)?.iter().sum();
        }
        let tokens_per_second = (self.batch_size * self.seq_len) as f64 / step.as_secs_f64();
        let (back_end, parameters) = (format!("{:?}", self.compute.backend).to_lowercase(), params.len());
        if self.json {
            let mut outcome = json!({
                "backend": back_end,
                "precision": precision,
                "ranks": ranks,
                "threads": threads,
                "parameters": parameters,
                "ms_per_step_median": milliseconds(step),
                "tokens_per_second": tokens_per_second,
                "gflops": gflops,
                "sgemm_gflops": sgemm,
                "roofline_fraction": gflops / sgemm,
                "peak_rss_mb": peak_rss_mb(),
            });
            if let Some(exchange) = exchange {
                outcome["exchange"] = exchange.json();
            }
            if let Some(forecast) = forecast {
                outcome["forecast"] = self.machines.json(&forecast);
            }
            return Ok(format!("{outcome}\n"));
        }
        let of_ranks = if ranks > 1 { format!("ranks: {ranks}, ") } else { String::new() };
        let mut lines = vec![
            format!(
                "{back_end}, {precision}, {of_ranks}threads: {threads}, {parameters} parameters, {} x {} tokens",
                self.batch_size, self.seq_len
            ),
            format!("a step             {:8.3} ms (median of {})", milliseconds(step), self.steps),
            format!("tokens a second    {tokens_per_second:8.0}"),
            format!("useful operations  {gflops:8.1} GFLOP/s"),
            format!("products of 1024^3 {sgemm:8.1} GFLOP/s, of which a step reaches {:.0} %", 100.0 * gflops / sgemm),
        ];
        lines.extend(peak_rss_mb().map(|memory| format!("peak memory        {memory:8.1} MB")));
        lines.extend(exchange.iter().flat_map(Exchange::table));
        lines.push("\nms a step on average".to_owned());
        lines.push(format!("  {:16} {:>8} {:>8}", "", "forward", "backward"));
        for (name, forward, backward) in self.table(&steps, &operations, threads) {
            let share = (forward + backward).div_duration_f64(steps.mean(0, PARTS.len()));
            let [forward, backward] = [forward, backward].map(milliseconds);
            lines.push(format!("  {name:16} {forward:8.3} {backward:8.3} {:4.0} %", 100.0 * share));
        }
        lines.extend(forecast.iter().flat_map(|forecast| self.machines.table(forecast)));
        Ok(lines.join("\n") + "\n")
    }

    /// What the step would take on the machines that are asked for, if any are.
    fn forecast(
        &self,
        params: &Params,
        steps: &Steps,
        operations: &[OperationTime],
        threads: usize,
    ) -> Result<Option<Measured>> {
        if !self.machines.are_asked_for() {
            return Ok(None);
        }
        let of_operation = |name| operations.iter().find(|time| time.operation == name).map(|time| time.forward);
        let packing = of_operation("packing").unwrap_or_default().div_f64((threads * self.steps) as f64);
        let time = StepTime {
            forward: steps.mean(0, 2).saturating_sub(packing),
            backward: steps.mean(2, 3),
            weights: packing + steps.mean(3, 5),
        };
        let (tokens, masked) = (self.batch_size * self.seq_len, steps.masked / self.steps);
        let forecast = Forecast::new(params, tokens, masked, time)?;
        Ok(Some(Measured { forecast, batch_size: self.batch_size, threads }))
    }

    fn warm_up(&self) -> usize {
        (self.steps / 10).max(10)
    }

    /// Takes `count` steps.
    fn steps(&self, encoder: &mut dyn Encoder, sequences: &[Vec<u32>], count: usize) -> Result<Steps> {
        let mut rng = StdRng::seed_from_u64(1);
        let masker = Masker::without_tokenizer(self.vocab_size, SPECIAL, Masking::default())?;
        let mut gradients = Gradients::zeros(encoder)?;
        let mut optimizer = AdamW::new(encoder, AdamWConfig::default())?;
        // A batch with everything masked first, so that no later one needs more memory.
        let all = Masking { rate: 1.0, ..Masking::default() };
        let all = Masker::without_tokenizer(self.vocab_size, SPECIAL, all)?;
        let mut batch = Batch::masked(sequences.iter().map(Vec::as_slice), &all, &mut rng)?;
        encoder.forward(&batch, Mode::Evaluate)?;

        let mut steps = Steps { moments: Vec::with_capacity(count), masked: 0 };
        for nth in 0..count {
            let start = Instant::now();
            batch.mask_again(sequences.iter().map(Vec::as_slice), &masker, &mut rng)?;
            let masks_drawn = Instant::now();
            black_box(encoder.forward(&batch, Mode::Train { dropout_seed: nth as u64 })?);
            let went_forward = Instant::now();
            encoder.backward(&mut gradients)?;
            let went_backward = Instant::now();
            gradients.clip(1.0)?;
            let clipped = Instant::now();
            optimizer.step(encoder, &gradients, 1e-3)?;
            steps.moments.push([start, masks_drawn, went_forward, went_backward, clipped, Instant::now()]);
            steps.masked += batch.masked_rows.len();
        }
        Ok(steps)
    }

    /// For each operation its mean times in a step, forward and backward. Those of the engine are the means of its
    /// threads, and what they leave of a step they waited.
    fn table(
        &self,
        steps: &Steps,
        operations: &[OperationTime],
        threads: usize,
    ) -> Vec<(&'static str, Duration, Duration)> {
        let mean = |nth: usize| steps.mean(nth, nth + 1);
        let (mut forward, mut backward) = (mean(1), mean(2));
        let mut rows = vec![(PARTS[0], mean(0), Duration::ZERO)];
        for time in operations {
            let [there, back] = [time.forward, time.backward].map(|time| time.div_f64((threads * self.steps) as f64));
            rows.push((time.operation, there, back));
            forward = forward.saturating_sub(there);
            backward = backward.saturating_sub(back);
        }
        rows.push((if operations.is_empty() { "candle" } else { "waiting" }, forward, backward));
        rows.extend([3, 4].map(|nth| (PARTS[nth], Duration::ZERO, mean(nth))));
        rows
    }

    fn sequences(&self, rng: &mut StdRng) -> Result<Vec<Vec<u32>>> {
        let SpecialIds { cls, sep, mask, .. } = SPECIAL;
        for (argument, value, least) in [
            ("vocab-size", self.vocab_size, mask as usize + 2),
            ("batch-size", self.batch_size, 1),
            ("seq-len", self.seq_len, 3),
            ("steps", self.steps, 1),
        ] {
            if value < least {
                return Err(Error::Argument {
                    argument,
                    expected: format!("at least {least}"),
                    actual: value.to_string(),
                });
            }
        }
        let mut word = || rng.random_range(mask + 1..self.vocab_size as u32);
        Ok((0..self.batch_size)
            .map(|_| [vec![cls], (2..self.seq_len).map(|_| word()).collect(), vec![sep]].concat())
            .collect())
    }

    /// The floating-point operations of a step that none could do without: 2 for each product of two numbers and its sum,
    /// in the matrix products forward, and twice as many backward (one product for the gradient of each factor). Per token
    /// and layer these are keys and values; per query and layer, which in the last one are the masked rows, two projections, the
    /// feed-forward block, and the scores and contexts of attention; per masked row the transform and the decoder.
    fn operations(&self, masked: f64) -> f64 {
        let [d_model, d_ff, seq] = [self.shape.d_model, self.shape.d_ff, self.seq_len].map(|size| size as f64);
        let (tokens, layers) = ((self.batch_size * self.seq_len) as f64, self.shape.layers as f64);
        let key_value = 2.0 * d_model * d_model;
        let query = 2.0 * d_model * d_model + 2.0 * d_model * d_ff + 2.0 * seq * d_model;
        let head = d_model * d_model + d_model * self.vocab_size as f64;
        3.0 * 2.0 * (tokens * layers * key_value + (tokens * (layers - 1.0) + masked) * query + masked * head)
    }
}

const SPECIAL: SpecialIds = SpecialIds { pad: 0, unk: 1, cls: 2, sep: 3, mask: 4 };

/// Of one time at least.
pub(crate) fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

pub(crate) fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// The speed of products of two matrices of 1024 x 1024 numbers, by `gemm`, the library that candle multiplies with: the
/// best of as many as fit in a second, so that nothing else that the machine did counts.
#[allow(unsafe_code)]
fn sgemm_gflops(threads: usize) -> f64 {
    const SIZE: usize = 1024;
    let (left, right, mut product) = (vec![0.1f32; SIZE * SIZE], vec![0.1f32; SIZE * SIZE], vec![0f32; SIZE * SIZE]);
    let parallelism = if threads == 1 { gemm::Parallelism::None } else { gemm::Parallelism::Rayon(threads) };
    let mut best = Duration::MAX;
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(1) {
        let start = Instant::now();
        let step = SIZE as isize;
        // SAFETY: each pointer is to SIZE rows of SIZE numbers, which the strides do not leave.
        unsafe {
            gemm::gemm(
                SIZE,
                SIZE,
                SIZE,
                product.as_mut_ptr(),
                1,
                step,
                false,
                left.as_ptr(),
                1,
                step,
                right.as_ptr(),
                1,
                step,
                0.0,
                1.0,
                false,
                false,
                false,
                parallelism,
            );
        }
        best = best.min(start.elapsed());
    }
    black_box(&product);
    2.0 * (SIZE as f64).powi(3) / best.as_secs_f64() / 1e9
}

/// The most memory that the process has held, where the system says it.
fn peak_rss_mb() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<f64>().ok()? / 1024.0)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use crate::{Cli, Command};

    /// Each product of a forward pass by its three sizes. Nothing but the products is counted, and backward takes two of the
    /// same for each.
    #[test]
    fn operations_are_those_of_all_products() {
        let Command::Bench(bench) = Cli::parse_from(["mlm", "bench"]).command else { unreachable!() };
        let masked = 38;
        let a_layer = |queries: usize| {
            [
                [256, 64, 64],     // keys
                [256, 64, 64],     // values
                [queries, 64, 64], // queries
                [queries, 64, 32], // scores: 4 heads of 16 for each of 32 keys
                [queries, 32, 64], // contexts
                [queries, 64, 64], // output
                [queries, 64, 256],
                [queries, 256, 64],
            ]
        };
        let products = [a_layer(256).as_slice(), &a_layer(masked), &[[masked, 64, 64], [masked, 64, 1000]]].concat();
        let forward: usize = products.iter().map(|[rows, depth, columns]| 2 * rows * depth * columns).sum();
        assert_eq!(bench.operations(masked as f64), 3.0 * forward as f64);
    }
}
