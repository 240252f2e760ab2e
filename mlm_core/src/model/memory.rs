//! Takes the size of a model, says whether the memory that is available has room for it, before anything is allocated:
//! an operating system that runs out of memory ends the notebook's kernel, and all variables are lost.

use sysinfo::{MemoryRefreshKind, RefreshKind, System};

use crate::error::{Error, Result};
use crate::model::config::ModelConfig;
use crate::text::batch::Batch;

/// So many bytes are there in any case; asking the system takes some 65 µs, a tenth of a step of the lab's model.
const SMALL: u64 = 1 << 24;

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
    if bytes(numbers) <= SMALL { Ok(()) } else { check_against(available(), argument, noun, numbers, what) }
}

/// As [`check`], where so many bytes are available.
fn check_against(
    available: Option<u64>,
    argument: &'static str,
    noun: &str,
    numbers: usize,
    what: impl Fn() -> String,
) -> Result<()> {
    if bytes(numbers) <= available.unwrap_or(u64::MAX) {
        return Ok(());
    }
    Err(too_large(argument, noun, numbers, available, what))
}

/// What makes a batch large.
pub(crate) fn describe(batch: &Batch) -> String {
    let (tokens, sequences) = (batch.tokens(), batch.sequences());
    let (longest, masked) = (batch.longest(), batch.masked_rows.len());
    format!("{tokens} tokens in {sequences} sequences of at most {longest}, {masked} masked")
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

    /// A model whose weights alone would fit, but not with all that training needs beside them.
    #[test]
    fn what_does_not_fit_is_refused_with_what_it_needs_and_what_there_is() {
        let (available, parameters) = (Some(1_000_000_000), 100_000_000);
        let check = |numbers| check_against(available, "config", "a model", numbers, || format!("{numbers} numbers"));
        check(parameters).unwrap();
        check(1_000_000_000 / 4).unwrap();
        let error = check(TRAINING * parameters).unwrap_err().to_string();
        for part in ["config", "a model that fits", "1.0 GB", "1.6 GB", "400000000 numbers"] {
            assert!(error.contains(part), "{error:?} does not say {part:?}");
        }
        check(1_000_000_000 / 4 + 1).unwrap_err();
        // A system that does not say how much there is refuses nothing.
        check_against(None, "config", "a model", usize::MAX, String::new).unwrap();
    }

    #[test]
    fn the_system_says_how_much_there_is() {
        let all =
            System::new_with_specifics(RefreshKind::nothing().with_memory(MemoryRefreshKind::everything())).unwrap();
        assert!(available().is_some_and(|available| available > 0 && available <= all.total_memory()));
    }
}
