//! Takes a text, gives predictions that anybody could make without a neural network: from how frequent each token is, and
//! from the tokens beside a gap.

use std::collections::BTreeMap;

use crate::analysis::predictor::{Predictor, each_row_of_weights};
use crate::error::Result;
use crate::text::batch::{Batch, check_ids};
use crate::text::masking::Masker;

/// Predicts a masked token from how frequent each token is, and from what is seen in its own place: what is left of a text
/// without its context.
///
/// ```text
/// P(w | s)  ∝  P(s | w, chosen)  P(w)      P(w) = (c(w) + 1) / (N + V)
/// ```
///
/// with w for the token, s for what is seen in its place, c(w) for how often w stands in the text, N for the number of all
/// its tokens and V for the size of the vocabulary.
///
/// ```
/// # use mlm_core::*;
/// # fn main() -> Result<()> {
/// let corpus = Corpus::from_lines(["the cake is a lie", "the fox", "the dog", "a fox"])?;
/// let tokenizer = Tokenizer::train(&corpus, &TokenizerConfig::new(1000))?;
/// let sequences = tokenizer.encode_corpus(&corpus, 32)?.sequences;
/// let masker = Masker::new(&tokenizer, Masking::always_mask())?;
/// let unigram = Unigram::fit(&sequences, &masker)?;
/// assert_eq!(fill_mask(&unigram, &tokenizer, "[MASK] dog", 1)?.filled, "the dog");
/// assert_eq!(fill_mask(&unigram, &tokenizer, "a [MASK]", 1)?.filled, "a the");
/// let neighbours = Neighbours::fit(&sequences, &masker)?;
/// assert_eq!(fill_mask(&neighbours, &tokenizer, "a [MASK]", 1)?.filled, "a fox");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Unigram {
    masker: Masker,
    /// P(w) `[vocab]`.
    probabilities: Vec<f64>,
}

impl Unigram {
    /// Counts the tokens of the sequences.
    ///
    /// # Errors
    /// When an id lies outside of the vocabulary of `masker`.
    pub fn fit<S: AsRef<[u32]>>(sequences: &[S], masker: &Masker) -> Result<Self> {
        let mut counts = vec![1.0; masker.vocab()];
        for sequence in sequences.iter().map(AsRef::as_ref) {
            check_ids(masker.vocab(), "sequences", sequence)?;
            sequence.iter().for_each(|&id| counts[id as usize] += 1.0);
        }
        let sum: f64 = counts.iter().sum();
        Ok(Self { masker: masker.clone(), probabilities: counts.into_iter().map(|count| count / sum).collect() })
    }

    /// Makes probabilities of a token in its context to weights of those where a chosen one is seen as `seen`.
    fn conclude(&self, seen: u32, probabilities: &mut [f64]) {
        let likelihood = self.masker.likelihood_where_chosen(seen);
        for (id, probability) in (0..).zip(probabilities) {
            let special = self.masker.is_special(id);
            *probability *= if special { 0.0 } else { likelihood.of(seen, id) };
        }
    }
}

impl Predictor for Unigram {
    fn vocab(&self) -> usize {
        self.masker.vocab()
    }

    fn each_row(&self, batch: &Batch, see: &mut dyn FnMut(&[f64])) -> Result<()> {
        each_row_of_weights(batch, self.vocab(), see, |row, probabilities| {
            probabilities.copy_from_slice(&self.probabilities);
            self.conclude(batch.input_ids[row], probabilities);
            Ok(())
        })
    }
}

/// Predicts a masked token from the tokens to its left and right, as they are seen, and from what is seen in its own place:
///
/// ```text
/// P(w | l, s, r)  ∝  P(s | w, chosen)  P(w | l)  P(r | w)
/// ```
///
/// with l and r for its neighbours. Where the left one is `[MASK]`, P(w) stands for P(w | l); where the right one is,
/// P(r | w) is left out. How probable a token is after another one is counted, discounted and interpolated with how
/// probable it is at all (Ney, Essen and Kneser 1994, "On structuring probabilistic dependences in stochastic language
/// modelling"; the discount is n₁ / (n₁ + 2 n₂), where n₁ and n₂ pairs of tokens are seen once and twice).
#[derive(Clone, Debug)]
pub struct Neighbours {
    unigram: Unigram,
    discount: f64,
    /// For each token, those that follow it.
    after: Vec<Beside>,
    /// For each token, those that come before it.
    before: Vec<Beside>,
}

/// The tokens that stand beside one, with how often they do.
#[derive(Clone, Debug, Default)]
struct Beside {
    tokens: Vec<(u32, f64)>,
    count: f64,
}

impl Beside {
    fn push(&mut self, token: u32, count: f64) {
        self.tokens.push((token, count));
        self.count += count;
    }
}

impl Neighbours {
    /// Counts the pairs of neighbours in the sequences, `[CLS]` and `[SEP]` included.
    ///
    /// # Errors
    /// When an id lies outside of the vocabulary of `masker`.
    pub fn fit<S: AsRef<[u32]>>(sequences: &[S], masker: &Masker) -> Result<Self> {
        let unigram = Unigram::fit(sequences, masker)?;
        let mut counts: BTreeMap<(u32, u32), f64> = BTreeMap::new();
        for pair in sequences.iter().flat_map(|sequence| sequence.as_ref().windows(2)) {
            *counts.entry((pair[0], pair[1])).or_default() += 1.0;
        }
        let seen = |times: f64| counts.values().filter(|&&count| count == times).count() as f64;
        let (once, twice) = (seen(1.0), seen(2.0));
        // Where no pair is seen just once, nothing says how likely a new one is: half a pair is a guess.
        let discount = if once > 0.0 { once / (once + 2.0 * twice) } else { 0.5 };
        let mut after = vec![Beside::default(); masker.vocab()];
        let mut before = after.clone();
        for ((left, right), count) in counts {
            after[left as usize].push(right, count);
            before[right as usize].push(left, count);
        }
        Ok(Self { unigram, discount, after, before })
    }

    /// The share of the probability after a token that its discounted pairs leave to all tokens.
    fn left_over(&self, token: usize) -> f64 {
        let Beside { tokens, count } = &self.after[token];
        if tokens.is_empty() { 1.0 } else { self.discount * tokens.len() as f64 / count }
    }

    /// P(w | left) for each token w.
    fn write_after(&self, left: u32, probabilities: &mut [f64]) {
        let left_over = self.left_over(left as usize);
        for (probability, alone) in probabilities.iter_mut().zip(&self.unigram.probabilities) {
            *probability = left_over * alone;
        }
        let Beside { tokens, count } = &self.after[left as usize];
        for (token, times) in tokens {
            probabilities[*token as usize] += (times - self.discount) / count;
        }
    }

    /// Multiplies with P(right | w) for each token w.
    fn times_before(&self, right: u32, probabilities: &mut [f64]) {
        let alone = self.unigram.probabilities[right as usize];
        let mut factors: Vec<f64> = (0..probabilities.len()).map(|token| self.left_over(token) * alone).collect();
        for (token, times) in &self.before[right as usize].tokens {
            factors[*token as usize] += (times - self.discount) / self.after[*token as usize].count;
        }
        probabilities.iter_mut().zip(factors).for_each(|(probability, factor)| *probability *= factor);
    }
}

impl Predictor for Neighbours {
    fn vocab(&self) -> usize {
        self.unigram.vocab()
    }

    fn each_row(&self, batch: &Batch, see: &mut dyn FnMut(&[f64])) -> Result<()> {
        let mask = self.unigram.masker.special().mask;
        // What is seen before an end of a sequence, and after it, are no neighbours.
        let is_end = |row: usize| batch.offsets.binary_search(&row).is_ok();
        let seen = |row: usize| Some(batch.input_ids[row]).filter(|&id| id != mask);
        each_row_of_weights(batch, self.vocab(), see, |row, probabilities| {
            match if is_end(row) { None } else { seen(row - 1) } {
                Some(left) => self.write_after(left, probabilities),
                None => probabilities.copy_from_slice(&self.unigram.probabilities),
            }
            if let Some(right) = if is_end(row + 1) { None } else { seen(row + 1) } {
                self.times_before(right, probabilities);
            }
            self.unigram.conclude(batch.input_ids[row], probabilities);
            Ok(())
        })
    }
}
