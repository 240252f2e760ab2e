//! Takes the size of a model, says whether the memory that is available has room for it, before anything is allocated:
//! an operating system that runs out of memory ends the notebook's kernel, and all variables are lost.

use sysinfo::{MemoryRefreshKind, RefreshKind, System};

use crate::error::{Error, Result};
use crate::model::config::ModelConfig;
use crate::text::batch::Batch;

/// How many numbers training keeps for each parameter: the weight, its gradient and the two moments of AdamW.
pub(crate) const TRAINING: usize = 4;

/// Makes room for one f32 number for each of `parameters` parameters, when `numbers` of them fit in the memory that is
/// available.
///
/// # Errors
/// When they do not; the error says how much is needed and how much there is.
pub(crate) fn reserve(config: &ModelConfig, parameters: usize, numbers: usize) -> Result<Vec<f32>> {
    let ModelConfig { vocab, d_model, layers, d_ff, max_len, .. } = config;
    let what = || {
        format!(
            "{numbers} numbers for each of {parameters} parameters: vocab {vocab}, d_model {d_model}, layers {layers}, \
             d_ff {d_ff}, max_len {max_len}"
        )
    };
    check("config", "a model", parameters.saturating_mul(numbers), what)?;
    let mut values = Vec::new();
    match values.try_reserve_exact(parameters) {
        Ok(()) => Ok(values),
        Err(_) => Err(too_large("config", "a model", parameters.saturating_mul(numbers), available(), what)),
    }
}

/// Checks that so many f32 numbers fit in the memory that is available.
///
/// # Errors
/// When they do not; the error names the argument to blame and says how much is needed, for `what`, and how much there is.
pub(crate) fn check(argument: &'static str, noun: &str, numbers: usize, what: impl Fn() -> String) -> Result<()> {
    let available = available();
    if bytes(numbers) <= available.unwrap_or(u64::MAX) {
        return Ok(());
    }
    Err(too_large(argument, noun, numbers, available, what))
}

/// What makes a batch large.
pub(crate) fn describe(batch: &Batch) -> String {
    let (tokens, longest, masked) = (batch.tokens(), batch.longest(), batch.masked_rows.len());
    format!("{tokens} tokens in sequences of at most {longest}, {masked} masked")
}

fn too_large(
    argument: &'static str,
    noun: &str,
    numbers: usize,
    available: Option<u64>,
    what: impl Fn() -> String,
) -> Error {
    let giga = |bytes: u64| bytes as f64 / 1e9;
    let available = available.map_or(String::new(), |bytes| format!(", {:.1} GB", giga(bytes)));
    let expected = format!("{noun} that fits in the memory that is available{available}");
    Error::argument(argument, expected, format!("{:.1} GB ({})", giga(bytes(numbers)), what()))
}

fn bytes(numbers: usize) -> u64 {
    (numbers as u64).saturating_mul(size_of::<f32>() as u64)
}

/// Bytes that can be allocated before the system, or the container that limits this process, runs out of memory;
/// unknown on systems that do not say.
fn available() -> Option<u64> {
    let memory = MemoryRefreshKind::nothing().with_ram();
    let system = System::new_with_specifics(RefreshKind::nothing().with_memory(memory)).ok()?;
    // Not `free_memory`, which counts the file cache as used.
    let container = system.cgroup_limits().map(|limits| limits.total_memory.saturating_sub(limits.rss));
    let available = system.available_memory();
    (available > 0).then(|| available.min(container.unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::params::Params;

    /// A model whose weights alone would fit, but not with all that training needs beside them.
    #[test]
    fn a_model_that_cannot_be_trained_is_refused_before_anything_is_allocated() {
        let Some(available) = available() else { return };
        let vocab = available as usize / 10 / (size_of::<f32>() * (ModelConfig::new(1).d_model + 1)) * 3;
        let config = ModelConfig::new(vocab);
        let error = Params::zeros(&config).map(|params| params.len()).unwrap_err().to_string();
        for part in ["config", "GB", "4 numbers", &format!("vocab {vocab}")] {
            assert!(error.contains(part), "{error:?} does not say {part:?}");
        }
    }
}
