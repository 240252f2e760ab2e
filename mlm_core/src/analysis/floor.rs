//! Takes the grammar that wrote a text, gives the predictions that no model can better; adding up the grammar's sentences
//! is left to [`crate::analysis::inside`].

use candle_core::{Device, Tensor};

use crate::analysis::best_neighbours::BestNeighbours;
use crate::analysis::inside::{Inside, inside};
use crate::analysis::predictor::{Predictor, each_row_of_weights};
use crate::error::{Error, Result};
use crate::text::batch::Batch;
use crate::text::grammar::Grammar;
use crate::text::masking::{Masker, Masking};
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
/// let words = Corpus::from_lines(["the cat our dog eats fish meat ."])?;
/// let tokenizer = Tokenizer::train(&words, &TokenizerConfig::new(1000))?;
/// let floor = BayesFloor::new(&grammar, &tokenizer, Masking::always_mask())?;
/// let filled = fill_mask(&floor, &tokenizer, "The [MASK] eats [MASK].", 1)?;
/// assert_eq!(filled.filled, "The dog eats meat.");
/// assert!((filled.masks[0][0].probability - 0.6).abs() < 1e-9);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct BayesFloor {
    grammar: Grammar,
    masker: Masker,
    tokenizer: Tokenizer,
    /// The id of each word of the grammar; the same one, where the tokenizer does not tell words apart.
    ids: Vec<u32>,
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
        let masker = Masker::new(tokenizer, masking)?;
        Ok(Self { grammar: grammar.clone(), masker, tokenizer: tokenizer.clone(), ids })
    }

    /// How much each word of a sentence says about each other one, in nats `[seq, seq]`: in row i and column j, how much the
    /// best prediction of token i, from all the others, loses on average when j is hidden as well,
    ///
    /// ```text
    /// Σ P(w | all but i) log (P(w | all but i) / P(w | all but i and j))      over all words w
    /// ```
    ///
    /// the Kullback-Leibler divergence between the two predictions. 0 on the diagonal, and for `[CLS]` and `[SEP]`. It is what
    /// attention may be held against: where a model that knows the grammar has to look.
    ///
    /// ```
    /// # use mlm_core::*;
    /// # fn main() -> Result<()> {
    /// let grammar = Grammar::parse("feature N: one many\nsay: the [N cat cats] {near} [N sleeps sleep].\nnear: here | there")?;
    /// let words = Corpus::from_lines(["the cat cats here there sleeps sleep ."])?;
    /// let tokenizer = Tokenizer::train(&words, &TokenizerConfig::new(1000))?;
    /// let floor = BayesFloor::new(&grammar, &tokenizer, Masking::always_mask())?;
    /// let influence = floor.influence(&tokenizer.encode("The cats here sleep.")?)?.to_vec2::<f32>()?;
    /// // Of "sleep", `cats` says one bit, the number; `here` says nothing.
    /// assert!((influence[4][2] - 2f32.ln()).abs() < 1e-6 && influence[4][3].abs() < 1e-6);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// When the tokens are not a sentence of the grammar between `[CLS]` and `[SEP]`.
    pub fn influence(&self, ids: &[u32]) -> Result<Tensor> {
        let seq = ids.len();
        let whole = self.tokens(ids)?;
        let mut influence = vec![0f32; seq * seq];
        for hidden in 1..seq - 1 {
            let mut seen = ids.to_vec();
            seen[hidden] = self.masker.special().mask;
            for (position, (all, less)) in (1..).zip(whole.iter().zip(self.tokens(&seen)?)) {
                if position != hidden {
                    let parts = all.iter().zip(less).filter(|(p, _)| **p > 0.0).map(|(p, less)| p * (p / less).ln());
                    influence[position * seq + hidden] = parts.sum::<f64>().max(0.0) as f32;
                }
            }
        }
        Ok(Tensor::from_vec(influence, (seq, seq), &Device::Cpu)?)
    }

    /// The best predictions that there can be from the two tokens beside a gap alone.
    pub fn best_neighbours(&self) -> BestNeighbours {
        BestNeighbours::new(&self.grammar, &self.ids, &self.masker)
    }

    /// For each position between `[CLS]` and `[SEP]` the probability of each token there, given what is seen elsewhere
    /// `[positions, vocab]`.
    fn tokens(&self, seen: &[u32]) -> Result<Vec<Vec<f64>>> {
        let probabilities = |weights: &[f64]| {
            let (mut tokens, sum) = (vec![0.0; self.masker.vocab()], weights.iter().sum::<f64>());
            for (&id, weight) in self.ids.iter().zip(weights) {
                tokens[id as usize] += weight / sum;
            }
            tokens
        };
        Ok(self.context(seen)?.chunks_exact(self.ids.len()).map(probabilities).collect())
    }

    /// For each position between `[CLS]` and `[SEP]` and each word there, what all else that is seen says of it
    /// `[positions, words]`: the derivative of the sum over all sentences. Each sentence has one word at a position, so it does
    /// not depend on what is seen there.
    fn context(&self, seen: &[u32]) -> Result<Vec<f64>> {
        let special = self.masker.special();
        let sentence = match seen {
            [cls, sentence @ .., sep] if (*cls, *sep) == (special.cls, special.sep) => sentence,
            _ => return Err(self.not_a_sentence(seen)),
        };
        let weigh = |&seen: &u32| {
            let likelihood = self.masker.likelihood(seen);
            self.ids.iter().map(move |&id| likelihood.of(seen, id))
        };
        let Inside { sum, gradient } = inside(&self.grammar, &sentence.iter().flat_map(weigh).collect::<Vec<f64>>());
        if sum == 0.0 { Err(self.not_a_sentence(seen)) } else { Ok(gradient) }
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

    fn each_row(&self, batch: &Batch, see: &mut dyn FnMut(&[f64])) -> Result<()> {
        // The sequence of the last row, and what is known there.
        let mut known = (0..0, Vec::new());
        each_row_of_weights(batch, self.vocab(), see, |row, weights| {
            if !known.0.contains(&row) {
                let sequence = batch.rows_around(row);
                known = (sequence.clone(), self.context(&batch.input_ids[sequence])?);
            }
            let (sequence, context) = &known;
            if row == sequence.start || row + 1 == sequence.end {
                return Err(Error::argument("masked_rows", "positions between [CLS] and [SEP]", row));
            }
            let seen = batch.input_ids[row];
            let likelihood = self.masker.likelihood_where_chosen(seen);
            let context = &context[(row - sequence.start - 1) * self.ids.len()..];
            for (&id, context) in self.ids.iter().zip(context) {
                weights[id as usize] += likelihood.of(seen, id) * context;
            }
            if weights.iter().all(|&weight| weight == 0.0) {
                return Err(self.not_a_sentence(&batch.input_ids[sequence.clone()]));
            }
            Ok(())
        })
    }
}
