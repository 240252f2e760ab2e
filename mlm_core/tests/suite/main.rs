//! The tests of the crate as its users see it, a module a concept. What needs a notebook kernel is in scripts/.

mod background;
mod batch;
#[path = "../command/mod.rs"]
mod command;
mod corpus;
mod coverage;
mod engine;
mod figures;
mod goldens;
mod gradients;
mod grammar;
mod history;
mod lab;
mod masking;
mod model;
mod preparation;
mod pretrained;
mod ranks;
mod tokenizer;
mod training;
mod windows;

use mlm_core::candle_core::{DType, Tensor};
use mlm_core::rand::rngs::StdRng;
use mlm_core::rand::{Rng, SeedableRng};
use mlm_core::{Batch, Corpus, Gradients, Layout, ModelConfig, Params, Result, Tokenizer, TokenizerConfig, Treatment};

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
    Tokenizer::train(&corpus, &TokenizerConfig::new(60))
}

/// A model of at most the given sizes with weights of which none is 0 or 1, and a ragged batch for it, in which tokens
/// come more than once and some sequences may have no masked row.
fn random_model(rng: &mut StdRng, largest: &ModelConfig, dropout: f64) -> (Params, Batch) {
    let heads = rng.random_range(1..=largest.heads);
    let config = ModelConfig {
        d_model: heads * rng.random_range(1..=largest.head_dim()),
        layers: rng.random_range(1..=largest.layers),
        heads,
        d_ff: rng.random_range(1..=largest.d_ff),
        max_len: rng.random_range(3..=largest.max_len),
        hidden_dropout: dropout,
        attention_dropout: dropout,
        ..ModelConfig::new(rng.random_range(6..=largest.vocab))
    };
    let mut params = Params::zeros(&config).unwrap();
    let names: Vec<String> = params.names().map(str::to_owned).collect();
    for name in names {
        let center = if name.ends_with("LayerNorm.weight") { 1.0 } else { 0.0 };
        let size = params.get(&name).unwrap().len();
        let values: Vec<f32> = (0..size).map(|_| center + rng.random_range(-0.5..0.5)).collect();
        params.set(&name, &values).unwrap();
    }
    let mut batch = Batch::with_gaps([], 0);
    let rate = rng.random_range(0.0..1.0);
    for _ in 0..rng.random_range(1..5) {
        for _ in 0..rng.random_range(1..=config.max_len) {
            if rng.random_bool(rate) {
                batch.masked_rows.push(batch.input_ids.len());
            }
            batch.input_ids.push(rng.random_range(0..config.vocab as u32));
        }
        batch.offsets.push(batch.input_ids.len());
    }
    if batch.masked_rows.is_empty() {
        batch.masked_rows.push(rng.random_range(0..batch.input_ids.len()));
    }
    let masked = batch.masked_rows.len();
    batch.targets = (0..masked).map(|_| rng.random_range(0..config.vocab as u32)).collect();
    batch.treatments = vec![Treatment::Mask; masked];
    (params, batch)
}

/// All numbers of a tensor.
fn flat(tensor: &Tensor) -> Vec<f64> {
    tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// The largest distance of a number from 0.
fn largest(values: &[f64]) -> f64 {
    values.iter().fold(0.0, |largest, value| value.abs().max(largest))
}

/// Asserts that no value is further from the expected one than `tolerance` times `scale`.
#[track_caller]
fn assert_close(name: &str, ours: &[f64], expected: &[f64], scale: f64, tolerance: f64) {
    assert_eq!(ours.len(), expected.len(), "{name}");
    let differences: Vec<f64> = ours.iter().zip(expected).map(|(a, b)| a - b).collect();
    let error = largest(&differences) / scale;
    assert!(error <= tolerance, "{name}: relative error {error:e}, allowed {tolerance:e}");
}

/// Asserts that gradients equal the expected ones, tensor by tensor, each error measured against the largest number of its
/// tensor. Where that is nearly 0 beside the largest gradient of the model it is a difference of larger numbers, and the
/// error is measured against a hundredth of that one: a key's bias has none by symmetry (softmax does not change when all
/// scores move together), and a query has little in sequences of one or two tokens.
#[track_caller]
fn assert_gradients(gradients: &Gradients, expected: impl Fn(&str) -> Vec<f64>, tolerance: f64) {
    let floor = 0.01 * gradients.names().map(|name| largest(&expected(name))).fold(0.0, f64::max);
    for name in gradients.names() {
        let expected = expected(name);
        assert_close(name, &flat(&gradients.get(name).unwrap()), &expected, largest(&expected).max(floor), tolerance);
    }
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
