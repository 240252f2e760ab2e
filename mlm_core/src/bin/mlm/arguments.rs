//! The options that commands share: takes them, gives what the library wants.

use std::sync::Arc;

use clap::{Args, ValueEnum};
use mlm_core::candle_core::Device;
use mlm_core::*;

use crate::Failure;
use crate::job::Job;

/// The model of the lab, whose shape a model has where it is not told another.
fn lab() -> ModelConfig {
    ModelConfig::new(1)
}

/// The shape of a model.
#[derive(Args)]
pub(crate) struct Shape {
    /// Width of the hidden states
    #[arg(long, default_value_t = lab().d_model)]
    pub(crate) d_model: usize,
    #[arg(long, default_value_t = lab().layers)]
    pub(crate) layers: usize,
    #[arg(long, default_value_t = lab().heads)]
    heads: usize,
    /// Width of the feed-forward layer
    #[arg(long, default_value_t = lab().d_ff)]
    pub(crate) d_ff: usize,
    /// Probability of dropping a hidden unit or an attention weight
    #[arg(long, default_value_t = lab().hidden_dropout)]
    dropout: f64,
}

impl Shape {
    pub(crate) fn config(&self, vocab: usize, max_len: usize) -> ModelConfig {
        ModelConfig {
            d_model: self.d_model,
            layers: self.layers,
            heads: self.heads,
            d_ff: self.d_ff,
            max_len,
            hidden_dropout: self.dropout,
            attention_dropout: self.dropout,
            ..ModelConfig::new(vocab)
        }
    }
}

/// What computes.
#[derive(Args)]
pub(crate) struct Compute {
    /// Threads of the engine [default: all cores]
    #[arg(long)]
    threads: Option<usize>,
    #[arg(long, value_enum, default_value_t = Kind::Engine)]
    pub(crate) backend: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// By hand, on the CPU
    Engine,
    /// With candle, on the CPU, in f32
    Reference,
}

impl Compute {
    /// How many threads compute in this process.
    pub(crate) fn threads(&self, job: &Job) -> Result<usize, Failure> {
        job.threads(self.threads)
    }

    /// What computes, here or in the processes of a job.
    pub(crate) fn back_end(&self, job: &Job) -> Result<BackEnd, Failure> {
        let how = || Ok::<_, Failure>(EngineConfig { threads: self.threads(job)?, ..EngineConfig::default() });
        match (self.backend, job.communicator()) {
            (Kind::Engine, None) => Ok(BackEnd::Engine(how()?)),
            (Kind::Engine, Some(communicator)) => Ok(BackEnd::Ranks(how()?, Arc::clone(communicator))),
            (Kind::Reference, None) => Ok(BackEnd::Reference(Device::Cpu)),
            (Kind::Reference, Some(_)) => {
                Err(Failure::Common("the reference computes in one process; several want --backend engine".to_owned()))
            }
        }
    }
}
