//! How an engine computes.

use crate::engine::pool::cores;
use crate::vectors::Vectors;

/// How an [`crate::Engine`] computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EngineConfig {
    /// On how many threads, of which the calling one is the first; all cores of the machine if nothing else is said.
    pub threads: usize,
    /// What it rounds factors to.
    pub precision: Precision,
    /// How many numbers at a time.
    pub vectors: Vectors,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self { threads: cores(), precision: Precision::default(), vectors: Vectors::default() }
    }
}

/// What an [`crate::Engine`] rounds the factors of its large products to. Weights, sums, LayerNorm, attention, loss and
/// optimizer are in f32 either way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub enum Precision {
    /// Not at all.
    #[default]
    F32,
    /// To bf16, which reaches as far as f32 but has only 8 binary digits. Where instructions made for it (AVX-512 BF16)
    /// are fast, on AMD's processors since Zen 4, a step of a small model is 1.3 times as fast, that of a large one 1.6
    /// times; on an Intel Xeon it takes a third to a half longer, without such instructions twice as long.
    Bf16,
}
