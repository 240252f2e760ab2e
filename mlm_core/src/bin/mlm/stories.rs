//! `mlm stories`: sentences drawn from a grammar.

use std::path::PathBuf;

use clap::Args;
use mlm_core::rand::SeedableRng;
use mlm_core::rand::rngs::StdRng;
use mlm_core::*;

/// Draw different sentences from a grammar and write them, one a line.
#[derive(Args)]
#[command(after_help = "Example: mlm stories --grammar data/stories.grammar > data/stories.txt")]
pub(crate) struct Stories {
    /// A file with the rules, as `data/stories.grammar`
    #[arg(long, value_name = "FILE")]
    grammar: PathBuf,
    /// How many sentences
    #[arg(long, default_value_t = 8000)]
    count: usize,
    /// Which sentences are drawn follows from it
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

impl Stories {
    /// The sentences.
    pub(crate) fn run(&self) -> Result<String> {
        let grammar = Grammar::from_file(&self.grammar)?;
        let corpus = grammar.sentences(self.count, &mut StdRng::seed_from_u64(self.seed))?;
        Ok(corpus.sentences().join("\n") + "\n")
    }
}
