//! Takes a text with gaps, gives the tokens that the model would fill them with; showing them is left to
//! [`crate::figures::markup`].

use std::ops::Range;

use crate::analysis::predictor::Predictor;
use crate::error::{Error, Result};
use crate::text::batch::Batch;
use crate::text::corpus::Corpus;
use crate::text::coverage::Coverage;
use crate::text::tokenizer::{CONTINUATION, SpecialIds, Tokenizer};

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
    /// The text with the most likely token in each gap; all else of it as it was given.
    pub filled: String,
    /// For each `[MASK]`, the most likely tokens, the best first; never empty.
    pub masks: Vec<Vec<Prediction>>,
    /// How much of the text the model sees.
    pub coverage: Coverage,
}

/// Predicts the token under every `[MASK]` of a text and returns the `top_k` most likely ones, but for those of probability
/// 0. Of several gaps each is filled while the others are still `[MASK]`: the predictions are independent of each other.
///
/// ```
/// # use mlm_core::{rand::{SeedableRng, rngs::StdRng}, *};
/// # fn main() -> Result<()> {
/// let tokenizer = Tokenizer::train(&Corpus::from_lines(["the cake is a lie"])?, &TokenizerConfig::new(1000))?;
/// let params = Params::init(&ModelConfig::new(tokenizer.vocab()), &mut StdRng::seed_from_u64(0))?;
/// let encoder = Engine::new(&params)?;
/// let filled = fill_mask(&encoder, &tokenizer, "the [MASK] is a [MASK]", 3)?;
/// assert_eq!(filled.masks.iter().map(Vec::len).collect::<Vec<_>>(), [3, 3]);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// When the text has no `[MASK]`, has `[CLS]` or `[SEP]`, or is too long for the model; when `top_k` is 0, or the tokenizer has
/// more tokens than the model; when the model computes something that is no number.
pub fn fill_mask(
    predictor: &(impl Predictor + ?Sized),
    tokenizer: &Tokenizer,
    text: &str,
    top_k: usize,
) -> Result<FilledMask> {
    if top_k == 0 {
        return Err(Error::argument("top_k", "at least 1", top_k));
    }
    tokenizer.check_fits(predictor.vocab())?;
    let (ids, places) = tokenizer.encode_with_places(text)?;
    let SpecialIds { cls, sep, .. } = tokenizer.special();
    if ids.len() > 2 && ids[1..ids.len() - 1].iter().any(|&id| id == cls || id == sep) {
        return Err(Error::argument("text", "no [CLS] and [SEP] in it, which are put around it", format!("{text:?}")));
    }
    let max_len = predictor.max_len();
    if ids.len() > max_len {
        let expected = format!("at most {max_len} tokens with [CLS] and [SEP], the longest that the model reads");
        return Err(Error::argument("text", expected, ids.len()));
    }
    let batch = Batch::with_gaps([ids.as_slice()], tokenizer.special().mask);
    if batch.masked_rows.is_empty() {
        return Err(Error::argument("text", "at least one [MASK]", format!("{text:?}")));
    }
    let mut masks: Vec<Vec<Prediction>> = Vec::with_capacity(batch.masked_rows.len());
    predictor.each_row(&batch, &mut |scores| {
        let mut order: Vec<usize> = (0..scores.len()).collect();
        order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
        order.truncate(top_k);
        let best = order[0];
        order.retain(|&id| id == best || scores[id] != f64::NEG_INFINITY);
        masks.push(
            (order.into_iter())
                .map(|id| Prediction {
                    id: id as u32,
                    token: tokenizer.token(id as u32),
                    probability: scores[id].exp(),
                })
                .collect(),
        );
    })?;
    if masks.iter().flatten().any(|prediction| prediction.probability.is_nan()) {
        return Err(Error::argument(
            "predictor",
            "probabilities (its weights are too large to compute with)",
            f64::NAN,
        ));
    }
    let coverage = tokenizer.encode_sentences(&Corpus::from_lines([text])?, |_| Ok(()))?;
    let gaps = batch.masked_rows.iter().map(|&row| &places[row]);
    let filled = fill(text, gaps.zip(masks.iter().map(|predictions| predictions[0].token.as_str())));
    let filled = filled.ok_or_else(|| Error::Tokenizer("it does not say where the gaps of the text are".to_owned()))?;
    Ok(FilledMask { text: text.to_owned(), filled, masks, coverage })
}

/// A text with a token in each of its gaps, which stand where the ranges say, in bytes, but for white space around them; none,
/// if they are no parts of it one after the other. A piece that continues a word (`##ing`) joins the one before it.
fn fill<'a>(text: &str, gaps: impl IntoIterator<Item = (&'a Range<usize>, &'a str)>) -> Option<String> {
    let (mut filled, mut end) = (String::with_capacity(text.len()), 0);
    for (gap, token) in gaps {
        let place = text.get(gap.clone())?;
        let start = gap.end - place.trim_start().len();
        filled += text.get(end..start)?;
        match token.strip_prefix(CONTINUATION) {
            Some(piece) => {
                filled.truncate(filled.trim_end().len());
                filled += piece;
            }
            None => filled += token,
        }
        end = gap.start + place.trim_end().len();
    }
    Some(filled + text.get(end..)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(text: &str, tokens: &[&str]) -> Option<String> {
        let gaps: Vec<Range<usize>> = text.match_indices("[MASK]").map(|(at, gap)| at..at + gap.len()).collect();
        fill(text, gaps.iter().zip(tokens.iter().copied()))
    }

    #[test]
    fn only_the_gaps_are_filled() {
        let text = "It's  a [MASK], isn't it? \u{ab}[MASK]\u{bb} e\u{301}";
        assert_eq!(filled(text, &["cake", "lie"]).unwrap(), "It's  a cake, isn't it? \u{ab}lie\u{bb} e\u{301}");
        assert_eq!(filled("we play [MASK] [MASK] now", &["##ing", "##s"]).unwrap(), "we playings now");
    }

    /// As a tokenizer says it whose `[MASK]` takes the white space around it (`lstrip`, `rstrip`).
    #[test]
    fn white_space_around_a_gap_stays() {
        assert_eq!(fill("a [MASK]  b", [(&(1..10), "x")]).unwrap(), "a x  b");
    }

    #[test]
    fn a_gap_that_is_no_part_of_the_text_is_none() {
        for gap in [1..2, 3..9, 9..9] {
            assert_eq!(fill("a\u{e9}b", [(&gap, "x")]), None, "{gap:?}");
        }
        assert_eq!(fill("abc", [(&(1..2), "x"), (&(0..1), "y")]), None);
    }
}
