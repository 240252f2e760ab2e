//! Takes a text, gives predictions that anybody could make without a neural network: from how frequent each token is, and
//! from the tokens beside a gap.

use ahash::AHashMap;

use crate::analysis::predictor::{Predictor, each_row_of_weights};
use crate::error::Result;
use crate::text::batch::{Batch, check_ids};
use crate::text::masking::Masker;
use crate::text::sequences::Sequences;

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
    pub fn fit(sequences: &Sequences, masker: &Masker) -> Result<Self> {
        let mut counts = vec![0; masker.vocab()];
        for ids in sequences.iter() {
            count_ids(&ids?, &mut counts)?;
        }
        Ok(Self::of_counts(&counts, masker))
    }

    /// From how often each token stands in a text.
    fn of_counts(counts: &[usize], masker: &Masker) -> Self {
        let sum = (counts.iter().sum::<usize>() + counts.len()) as f64;
        let probabilities = counts.iter().map(|&count| (count + 1) as f64 / sum).collect();
        Self { masker: masker.clone(), probabilities }
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

/// Adds the tokens of a sequence to how often each has been seen.
fn count_ids(ids: &[u32], counts: &mut [usize]) -> Result<()> {
    check_ids(counts.len(), "sequences", ids)?;
    ids.iter().for_each(|&id| counts[id as usize] += 1);
    Ok(())
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
    pub fn fit(sequences: &Sequences, masker: &Masker) -> Result<Self> {
        Self::fit_each(sequences.iter(), masker)
    }

    /// As [`Self::fit`], with what an iterator gives.
    pub(crate) fn fit_each(sequences: impl Iterator<Item = Result<Vec<u32>>>, masker: &Masker) -> Result<Self> {
        let mut tokens = vec![0; masker.vocab()];
        let mut counts: AHashMap<[u32; 2], usize> = AHashMap::new();
        for ids in sequences {
            let ids = ids?;
            count_ids(&ids, &mut tokens)?;
            for &pair in ids.array_windows() {
                *counts.entry(pair).or_default() += 1;
            }
        }
        let mut counts: Vec<_> = counts.into_iter().collect();
        counts.sort_unstable();
        let seen = |times: usize| counts.iter().filter(|&&(_, count)| count == times).count() as f64;
        let (once, twice) = (seen(1), seen(2));
        // Where no pair is seen just once, nothing says how likely a new one is: half a pair is a guess.
        let discount = if once > 0.0 { once / (once + 2.0 * twice) } else { 0.5 };
        let mut after = vec![Beside::default(); masker.vocab()];
        let mut before = after.clone();
        for ([left, right], count) in counts {
            after[left as usize].push(right, count as f64);
            before[right as usize].push(left, count as f64);
        }
        Ok(Self { unigram: Unigram::of_counts(&tokens, masker), discount, after, before })
    }

    /// What it knows without the neighbours.
    pub(crate) fn unigram(&self) -> &Unigram {
        &self.unigram
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
