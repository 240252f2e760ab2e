//! Takes a model, or what else predicts, and text that it is to recover, gives numbers: loss and accuracy on fixed masks, and which words it
//! recovers when each is masked alone. Drawing them is left to [`crate::figures::plot`].

use serde::{Deserialize, Serialize};

use crate::analysis::predictor::Predictor;
use crate::error::{Error, Result};
use crate::kernel::ProgressLine;
use crate::model::encoder::Score;
use crate::text::batch::Batch;
use crate::text::corpus::Corpus;
use crate::text::masking::Treatment;
use crate::text::tokenizer::{CONTINUATION, Tokenizer};

/// How well a model, or another [`Predictor`], predicts masked tokens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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

/// Evaluates without dropout on batches whose masks stay the same ([`crate::DataLoader::fixed`]). Every masked
/// token weighs the same, whatever batch it is in.
///
/// # Errors
/// When there is no batch, or one does not fit the model; when the loss is no number, as that of a training that has diverged.
pub fn evaluate(predictor: &(impl Predictor + ?Sized), batches: &[Batch]) -> Result<Evaluation> {
    let (mut loss, mut correct, mut masked) = (0.0, 0, 0);
    let mut progress = ProgressLine::new("evaluating", batches.len(), "batches");
    for (nth, batch) in batches.iter().enumerate() {
        // What predicts knows when to end: an engine on several ranks on all of them at once.
        progress.note(nth);
        for (score, &target) in predictor.scores(batch)?.iter().zip(&batch.targets) {
            loss -= score.log_probability;
            correct += usize::from(score.best == target);
            masked += 1;
        }
    }
    progress.end();
    if masked == 0 {
        return Err(Error::argument("batches", "at least one masked token", 0));
    }
    let loss: f64 = loss / masked as f64;
    if loss.is_nan() {
        return Err(Error::argument("loss", "a number (its weights are too large to compute with)", loss));
    }
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

/// How many sequences go through the model together; with all of a large text at once, memory would run out.
const RECOVERY_BATCH: usize = 32;

/// Masks every word of every sentence of the corpus alone and asks the model for it. A sentence that is too long for
/// the model is cut, as in [`Tokenizer::encode_corpus`], and a word is to be guessed from its part of it.
///
/// ```
/// # use mlm_core::{rand::{SeedableRng, rngs::StdRng}, *};
/// # fn main() -> Result<()> {
/// let corpus = Corpus::from_lines(["the cake is a lie", "a fox"])?;
/// let tokenizer = Tokenizer::train(&corpus, &TokenizerConfig::new(1000))?;
/// let params = Params::init(&ModelConfig::new(tokenizer.vocab()), &mut StdRng::seed_from_u64(0))?;
/// let recovery = recovery(&Engine::new(&params)?, &tokenizer, &corpus)?;
/// assert_eq!((recovery.words.len(), recovery.words[6].word.as_str()), (7, "fox"));
/// println!("{} of {} recovered", recovery.recovered(), recovery.words.len());
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// When the tokenizer's vocabulary is larger than the model's.
pub fn recovery(predictor: &(impl Predictor + ?Sized), tokenizer: &Tokenizer, corpus: &Corpus) -> Result<Recovery> {
    tokenizer.check_fits(predictor.vocab())?;
    let (mut sequences, mut tasks) = (Vec::with_capacity(corpus.len()), Vec::new());
    for (sentence, windows) in tokenizer.windows_of_sentences(corpus, predictor.max_len())?.into_iter().enumerate() {
        for ids in windows {
            tasks.extend(tokenizer.words(&ids).into_iter().map(|word| (sentence, sequences.len(), word)));
            sequences.push(ids);
        }
    }
    let mut words = Vec::with_capacity(tasks.len());
    let mut progress = ProgressLine::new("recovering", tasks.len(), "words");
    for tasks in tasks.chunks(RECOVERY_BATCH) {
        progress.at(words.len())?;
        let mut batch = Batch::with_gaps([], tokenizer.special().mask);
        for (_, sequence, word) in tasks {
            let ids = &sequences[*sequence];
            let start = batch.tokens();
            batch.input_ids.extend_from_slice(ids);
            batch.offsets.push(batch.tokens());
            for position in word.clone() {
                batch.input_ids[start + position] = tokenizer.special().mask;
                batch.masked_rows.push(start + position);
                batch.targets.push(ids[position]);
                batch.treatments.push(Treatment::Mask);
            }
        }
        let mut scores = predictor.scores(&batch)?.into_iter();
        for (sentence, sequence, word) in tasks {
            let targets = &sequences[*sequence][word.clone()];
            let scores: Vec<Score> = scores.by_ref().take(targets.len()).collect();
            let predicted: Vec<u32> = scores.iter().map(|score| score.best).collect();
            let log_probability: f64 = scores.iter().map(|score| score.log_probability).sum();
            words.push(WordRecovery {
                sentence: *sentence,
                word: spell(tokenizer, targets),
                predicted: spell(tokenizer, &predicted),
                probability: log_probability.exp(),
                recovered: predicted == targets,
            });
        }
    }
    progress.end();
    Ok(Recovery { words })
}

/// The pieces of a word put together.
fn spell(tokenizer: &Tokenizer, ids: &[u32]) -> String {
    let tokens = tokenizer.tokens(ids);
    let mut word = String::new();
    for (nth, token) in tokens.iter().enumerate() {
        word.push_str(if nth == 0 { token } else { token.strip_prefix(CONTINUATION).unwrap_or(token) });
    }
    word
}
