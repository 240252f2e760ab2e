//! Takes the grammar that wrote a text, gives the predictions that no model can better; adding up the grammar's sentences
//! is left to [`crate::analysis::inside`].

use std::collections::HashMap;

use crate::analysis::inside::{Inside, inside};
use crate::analysis::predictor::{LogProbabilities, Predictor};
use crate::error::{Error, Result};
use crate::text::batch::Batch;
use crate::text::grammar::Grammar;
use crate::text::masking::{Likelihood, Masker, Masking};
use crate::text::tokenizer::Tokenizer;

/// The best predictions that there can be of masked words in the sentences of a [`Grammar`]: the exact probability of each
/// word, given all that can be seen. Nothing has a smaller expected loss, or is right more often.
///
/// With BERT's masking, a word that can be seen may have been put there at random, and nobody knows which. The best
/// prediction for a position counts only where it was chosen, so it is made as if that were known of this position; of
/// each other one that is not `[MASK]` it is open whether it was chosen. With w for what stood in a sentence, s for what is
/// seen in its place and c_i for "i was chosen", this is
///
/// ```text
/// P(w_i | s, c_i)  ∝  P(s_i | w_i, c_i)  Σ P(w) Π P(s_j | w_j)      over all sentences w with this w_i, and all j ≠ i
/// ```
///
/// where P(s_j | w_j) follows from the rate and the shares of [`Masking`]. It leaves out two rare things: that a batch
/// without a chosen word gets one, and, where sentences are drawn until they differ, that none comes twice.
///
/// ```
/// # use mlm_core::*;
/// # fn main() -> Result<()> {
/// let grammar = Grammar::parse("who: {cat} eats fish. | 3 {dog} eats meat.\ncat: the cat\ndog: the dog | our dog")?;
/// let tokenizer = Tokenizer::train(&Corpus::from_lines(["the cat our dog eats fish meat ."])?, 1000, true)?;
/// let floor = BayesFloor::new(&grammar, &tokenizer, Masking::always_mask())?;
/// let filled = fill_mask(&floor, &tokenizer, "The [MASK] eats [MASK].", 1)?;
/// assert_eq!(filled.filled, "the dog eats meat.");
/// assert!((filled.masks[0][0].probability - 0.6).abs() < 1e-9);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct BayesFloor {
    grammar: Grammar,
    masker: Masker,
    tokenizer: Tokenizer,
    /// The id of each word of the grammar.
    ids: Vec<u32>,
    /// The words that an id stands for: more than one, where the tokenizer does not tell them apart.
    words: HashMap<u32, Vec<usize>>,
}

impl BayesFloor {
    /// # Errors
    /// When the tokenizer does not have each word of the grammar as one token, or the settings of `masking` are out of range
    /// or do not add up.
    pub fn new(grammar: &Grammar, tokenizer: &Tokenizer, masking: Masking) -> Result<Self> {
        let unknown = tokenizer.special().unk;
        let ids = (grammar.words().iter())
            .map(|word| match tokenizer.encode(word)?.as_slice() {
                &[_, id, _] if id != unknown => Ok(id),
                ids => {
                    let expected = "a vocabulary in which each word of the grammar is one token (train it on the grammar's \
                                    sentences, with room for all their words)";
                    let actual = format!("{} for {word:?}", tokenizer.tokens(&ids[1..ids.len() - 1]).join(" "));
                    Err(Error::argument("tokenizer", expected, actual))
                }
            })
            .collect::<Result<Vec<u32>>>()?;
        let mut words: HashMap<u32, Vec<usize>> = HashMap::new();
        for (word, &id) in ids.iter().enumerate() {
            words.entry(id).or_default().push(word);
        }
        let masker = Masker::new(tokenizer, masking)?;
        Ok(Self { grammar: grammar.clone(), masker, tokenizer: tokenizer.clone(), ids, words })
    }

    /// `weights[word] = likelihood of what is seen, by the word`
    fn weigh(&self, seen: u32, Likelihood { same, other }: Likelihood, weights: &mut [f64]) {
        weights.fill(other);
        for &word in self.words.get(&seen).into_iter().flatten() {
            weights[word] = same;
        }
    }

    /// Writes the predictions at the masked rows of a sequence, `[masked, vocab]`.
    fn predict(&self, seen: &[u32], masked: &[usize], predictions: &mut [f64]) -> Result<()> {
        let words = self.ids.len();
        let special = self.masker.special();
        let [cls, sentence @ .., sep] = seen else {
            return Err(self.not_a_sentence(seen));
        };
        if (*cls, *sep) != (special.cls, special.sep) {
            return Err(self.not_a_sentence(seen));
        }
        let mut weights = vec![0.0; sentence.len() * words];
        for (&seen, weights) in sentence.iter().zip(weights.chunks_exact_mut(words)) {
            self.weigh(seen, self.masker.likelihood(seen), weights);
        }
        let Inside { sum, gradient } = inside(&self.grammar, &weights);
        if sum == 0.0 {
            return Err(self.not_a_sentence(seen));
        }
        // Each sentence has one word at a position, so the gradient there does not depend on the weights there.
        for (&row, predictions) in masked.iter().zip(predictions.chunks_exact_mut(self.vocab())) {
            let position = row.wrapping_sub(1);
            if position >= sentence.len() {
                return Err(Error::argument("masked_rows", "positions between [CLS] and [SEP]", row));
            }
            let weights = &mut weights[..words];
            self.weigh(seen[row], self.masker.likelihood_where_chosen(seen[row]), weights);
            predictions.fill(0.0);
            for ((&id, weight), slope) in self.ids.iter().zip(weights).zip(&gradient[position * words..]) {
                predictions[id as usize] += *weight * slope;
            }
            let sum: f64 = predictions.iter().sum();
            if sum == 0.0 {
                return Err(self.not_a_sentence(seen));
            }
            predictions.iter_mut().for_each(|prediction| *prediction = (*prediction / sum).ln());
        }
        Ok(())
    }

    fn not_a_sentence(&self, seen: &[u32]) -> Error {
        let seen = self.tokenizer.tokens(seen).join(" ");
        Error::argument("batches", "whole sentences of the grammar, masked with the floor's own settings", seen)
    }
}

impl Predictor for BayesFloor {
    fn vocab(&self) -> usize {
        self.masker.vocab()
    }

    fn max_len(&self) -> usize {
        // That of its longest sentence, [CLS] and [SEP].
        self.grammar.longest() + 2
    }

    fn log_probabilities(&self, batch: &Batch) -> Result<LogProbabilities> {
        batch.validate()?;
        let vocab = self.vocab();
        let mut values = vec![0.0; batch.masked_rows.len() * vocab];
        let (mut rest, mut rows) = (values.as_mut_slice(), batch.masked_rows.as_slice());
        for ends in batch.offsets.windows(2) {
            let (here, later) = rows.split_at(rows.partition_point(|&row| row < ends[1]));
            let (predictions, others) = rest.split_at_mut(here.len() * vocab);
            if !here.is_empty() {
                let masked: Vec<usize> = here.iter().map(|row| row - ends[0]).collect();
                self.predict(&batch.input_ids[ends[0]..ends[1]], &masked, predictions)?;
            }
            (rows, rest) = (later, others);
        }
        Ok(LogProbabilities { values, vocab })
    }
}
