//! Takes a model and text it is to recover, gives numbers: loss and accuracy on fixed masks, and which words it
//! recovers when each is masked alone. Drawing them is left to [`crate::plot`].

use candle_core::{D, DType, Device};
use candle_nn::ops::log_softmax;

use crate::batch::Batch;
use crate::corpus::Corpus;
use crate::encoder::{Encoder, Mode};
use crate::error::{Error, Result};
use crate::masking::Treatment;
use crate::tokenizer::Tokenizer;

/// How well a model predicts masked tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation {
    /// Mean cross-entropy of the masked tokens in nats.
    pub loss: f64,
    /// e to the loss: among how many equally likely tokens the model is undecided.
    pub perplexity: f64,
    /// Share of the masked tokens for which the right token is the most likely one.
    pub accuracy: f64,
    /// The number of masked tokens.
    pub masked: usize,
}

/// Evaluates without dropout on batches whose masks stay the same ([`crate::batch::DataLoader::fixed`]). Every masked
/// token weighs the same, whatever batch it is in.
///
/// # Errors
/// When there is no batch, or one does not fit the model.
pub fn evaluate(encoder: &Encoder, batches: &[Batch]) -> Result<Evaluation> {
    let (mut loss, mut correct, mut masked) = (0.0, 0, 0);
    for batch in batches {
        batch.check_targets()?;
        encoder.check_ids("targets", &batch.targets)?;
        for (scores, &target) in log_probabilities(encoder, batch)?.iter().zip(&batch.targets) {
            loss -= scores[target as usize];
            correct += usize::from(best(scores) == target as usize);
            masked += 1;
        }
    }
    if masked == 0 {
        return Err(Error::argument("batches", "at least one masked token", 0));
    }
    let loss = loss / masked as f64;
    Ok(Evaluation { loss, perplexity: loss.exp(), accuracy: correct as f64 / masked as f64, masked })
}

/// Whether a model recovers one word of a sentence from all the others.
#[derive(Clone, Debug, PartialEq)]
pub struct WordRecovery {
    /// The index of the sentence.
    pub sentence: usize,
    /// The word as the tokenizer spells it.
    pub word: String,
    /// What the model takes to be most likely there, piece by piece.
    pub predicted: String,
    /// The probability of the right word: the product over its pieces, which are masked together.
    pub probability: f64,
    /// Whether the prediction is right in every piece.
    pub recovered: bool,
}

/// The outcome of masking every word of some sentences alone.
#[derive(Clone, Debug, PartialEq)]
pub struct Recovery {
    /// All words, sentence by sentence.
    pub words: Vec<WordRecovery>,
}

impl Recovery {
    /// How many words are recovered.
    pub fn recovered(&self) -> usize {
        self.words.iter().filter(|word| word.recovered).count()
    }
}

/// Masks every word of every sentence of the corpus alone and asks the model for it.
///
/// # Errors
/// When a sentence is too long for the model.
pub fn recovery(encoder: &Encoder, tokenizer: &Tokenizer, corpus: &Corpus) -> Result<Recovery> {
    let mut words = Vec::new();
    for (sentence, text) in corpus.sentences().iter().enumerate() {
        let ids = tokenizer.encode(text)?;
        for word in tokenizer.words(&ids) {
            let mut input_ids = ids.clone();
            input_ids[word.clone()].fill(tokenizer.special().mask);
            let targets = ids[word.clone()].to_vec();
            let batch = Batch {
                offsets: vec![0, input_ids.len()],
                input_ids,
                masked_rows: word.clone().collect(),
                treatments: vec![Treatment::Mask; word.len()],
                targets,
            };
            encoder.check_ids("text", &batch.targets)?;
            let scores = log_probabilities(encoder, &batch)?;
            let predicted: Vec<u32> = scores.iter().map(|scores| best(scores) as u32).collect();
            let pieces = scores.iter().zip(&batch.targets);
            let log_probability: f64 = pieces.map(|(scores, &target)| scores[target as usize]).sum();
            words.push(WordRecovery {
                sentence,
                word: spell(tokenizer, &batch.targets),
                predicted: spell(tokenizer, &predicted),
                probability: log_probability.exp(),
                recovered: predicted == batch.targets,
            });
        }
    }
    Ok(Recovery { words })
}

/// log softmax of the logits at each masked row, in f64.
pub(crate) fn log_probabilities(encoder: &Encoder, batch: &Batch) -> Result<Vec<Vec<f64>>> {
    // Metal has no f64, so the logits come to the CPU first.
    let logits = encoder.logits(batch, Mode::Evaluate)?.to_device(&Device::Cpu)?.to_dtype(DType::F64)?; // [masked, vocab]
    Ok(log_softmax(&logits, D::Minus1)?.to_vec2()?)
}

/// The most likely token; of several, the first, as [`crate::predict::fill_mask`] has it.
fn best(scores: &[f64]) -> usize {
    (0..scores.len()).rev().max_by(|&a, &b| scores[a].total_cmp(&scores[b])).unwrap_or(0)
}

/// The pieces of a word put together.
fn spell(tokenizer: &Tokenizer, ids: &[u32]) -> String {
    let tokens = tokenizer.tokens(ids);
    let mut word = String::new();
    for (nth, token) in tokens.iter().enumerate() {
        word.push_str(if nth == 0 { token } else { token.strip_prefix("##").unwrap_or(token) });
    }
    word
}
