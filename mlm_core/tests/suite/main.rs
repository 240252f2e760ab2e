//! The tests of the crate as its users see it, a module a concept. What needs a notebook kernel is in scripts/.

mod batch;
mod corpus;
mod figures;
mod goldens;
mod gradients;
mod lab;
mod masking;
mod model;
mod tokenizer;

use mlm_core::rand::SeedableRng;
use mlm_core::rand::rngs::StdRng;
use mlm_core::{Corpus, Layout, Result, Tokenizer};

/// A generator with a fixed start.
fn seeded(seed: u64) -> StdRng {
    StdRng::seed_from_u64(seed)
}

/// The five sentences of the lab, as they stand in data/.
fn five_sentences() -> Result<Corpus> {
    Corpus::from_file(concat!(env!("CARGO_MANIFEST_DIR"), "/../data/five_sentences.txt"), Layout::Lines)
}

/// A vocabulary in which longer words fall into pieces.
fn pieces() -> Result<Tokenizer> {
    let corpus = Corpus::from_lines(["play playing played player", "he plays, she replays!", "work working worked"])?;
    Tokenizer::train(&corpus, 60, true)
}

/// The message of an error that must come.
fn message<T: std::fmt::Debug>(result: Result<T>) -> String {
    match result {
        Ok(value) => panic!("expected an error, got {value:?}"),
        Err(error) => error.to_string(),
    }
}

/// Asserts that a message names all that the user needs.
#[track_caller]
fn assert_says(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "{message:?} does not say {part:?}");
    }
}
