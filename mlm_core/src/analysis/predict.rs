//! Takes a text with gaps, gives the tokens that the model would fill them with; showing them is left to
//! [`crate::figures::markup`].

use crate::analysis::predictor::Predictor;
use crate::error::{Error, Result};
use crate::text::batch::Batch;
use crate::text::tokenizer::Tokenizer;

/// A token that may fill a gap.
#[derive(Clone, Debug, PartialEq)]
pub struct Prediction {
    /// Its id.
    pub id: u32,
    /// How the tokenizer writes it.
    pub token: String,
    /// The probability that the model gives it there.
    pub probability: f64,
}

/// The predictions for a text with gaps.
#[derive(Clone, Debug, PartialEq)]
pub struct FilledMask {
    /// The text as it was given.
    pub text: String,
    /// The text with the most likely token in each gap, as the tokenizer spells it.
    pub filled: String,
    /// For each `[MASK]`, the most likely tokens, the best first; never empty.
    pub masks: Vec<Vec<Prediction>>,
}

/// Predicts the token under every `[MASK]` of a text and returns the `top_k` most likely ones, but for those of probability
/// 0. Of several gaps each is filled while the others are still `[MASK]`: the predictions are independent of each other.
///
/// ```
/// # use mlm_core::{rand::{SeedableRng, rngs::StdRng}, *};
/// # fn main() -> Result<()> {
/// let tokenizer = Tokenizer::train(&Corpus::from_lines(["the cake is a lie"])?, 1000, true)?;
/// let params = Params::init(&ModelConfig::new(tokenizer.vocab()), &mut StdRng::seed_from_u64(0))?;
/// let encoder = Engine::new(&params)?;
/// let filled = fill_mask(&encoder, &tokenizer, "the [MASK] is a [MASK]", 3)?;
/// assert_eq!(filled.masks.iter().map(Vec::len).collect::<Vec<_>>(), [3, 3]);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// When the text has no `[MASK]`, is too long for the model, or `top_k` is 0.
pub fn fill_mask(
    predictor: &(impl Predictor + ?Sized),
    tokenizer: &Tokenizer,
    text: &str,
    top_k: usize,
) -> Result<FilledMask> {
    if top_k == 0 {
        return Err(Error::argument("top_k", "at least 1", top_k));
    }
    let mut ids = tokenizer.encode(text)?;
    let max_len = predictor.max_len();
    if ids.len() > max_len {
        let expected = format!("at most {max_len} tokens with [CLS] and [SEP], the longest that the model reads");
        return Err(Error::argument("text", expected, ids.len()));
    }
    let batch = Batch::with_gaps([ids.as_slice()], tokenizer.special().mask);
    if batch.masked_rows.is_empty() {
        return Err(Error::argument("text", "at least one [MASK]", format!("{text:?}")));
    }
    let mut masks = Vec::with_capacity(batch.masked_rows.len());
    for (scores, &row) in predictor.log_probabilities(&batch)?.rows().zip(&batch.masked_rows) {
        let mut order: Vec<usize> = (0..scores.len()).collect();
        order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
        order.truncate(top_k);
        let best = order[0];
        order.retain(|&id| id == best || scores[id] != f64::NEG_INFINITY);
        ids[row] = best as u32;
        masks.push(
            (order.into_iter())
                .map(|id| Prediction {
                    id: id as u32,
                    token: tokenizer.token(id as u32),
                    probability: scores[id].exp(),
                })
                .collect(),
        );
    }
    Ok(FilledMask { text: text.to_owned(), filled: tokenizer.decode(&ids)?, masks })
}
