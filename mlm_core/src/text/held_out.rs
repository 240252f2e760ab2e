//! Takes the sentences of a text, says which of them are held back to test a model on.

use std::ops::ControlFlow;

use ahash::AHashSet;
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::text::distinct::key;
use crate::text::sentences::{Sentences, sentences};

/// With more distinct sentences than these, nobody knows them all at once.
const MOST: usize = 1 << 20;

/// Some of the distinct sentences of a text, upper and lower case alike: copies of one are all among them, or none is.
#[derive(Debug)]
pub(crate) enum HeldOut {
    /// Those with these keys.
    These(AHashSet<u128>),
    /// Those whose key with this seed is smaller.
    Below { seed: u64, key: u128 },
}

impl HeldOut {
    /// Draws a share of the distinct sentences, at least one and not all; of more than a million each for itself, so that their
    /// number is near that share of all.
    ///
    /// # Errors
    /// When `validation` is not between 0 and 1, or there are fewer than two distinct sentences.
    pub(crate) fn draw(corpus: &dyn Sentences, validation: f64, rng: &mut StdRng) -> Result<Self> {
        if !(validation > 0.0 && validation < 1.0) {
            return Err(Error::argument("validation", "a fraction above 0 and below 1", validation));
        }
        let Some(mut distinct) = distinct(corpus)? else {
            return Ok(Self::Below { seed: rng.random(), key: (validation * 2f64.powi(128)) as u128 });
        };
        if distinct.len() < 2 {
            let expected = "at least 2 distinct sentences, one of them to be held back (--validation 0 holds none back; where a line \
                            is running text, Layout::Prose, --split prose, finds its sentences)";
            return Err(Error::argument("corpus", expected, distinct.len()));
        }
        let held_out = ((distinct.len() as f64 * validation).round() as usize).clamp(1, distinct.len() - 1);
        distinct.shuffle(rng);
        Ok(Self::These(distinct.into_iter().take(held_out).collect()))
    }

    pub(crate) fn has(&self, sentence: &str) -> bool {
        match self {
            Self::These(keys) => keys.contains(&key_of(sentence, 0)),
            Self::Below { seed, key } => key_of(sentence, *seed) < *key,
        }
    }
}

fn key_of(sentence: &str, seed: u64) -> u128 {
    key(sentence.to_lowercase().as_bytes(), seed)
}

/// The keys of all distinct sentences in the order of their first copies; none, if there are too many.
fn distinct(corpus: &dyn Sentences) -> Result<Option<Vec<u128>>> {
    let (mut seen, mut distinct) = (AHashSet::new(), Vec::new());
    corpus.each_round("looking for copies", |texts, _| {
        let of_text = |text: &String| sentences(text).map(|sentence| key_of(sentence, 0)).collect();
        let keys: Vec<Vec<u128>> = texts.par_iter().map(of_text).collect();
        distinct.extend(keys.into_iter().flatten().filter(|&key| seen.insert(key)));
        Ok(if distinct.len() > MOST { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    })?;
    Ok(Some(distinct).filter(|distinct| distinct.len() <= MOST))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of more sentences than a test can have.
    #[test]
    fn a_share_of_many_sentences_is_held_back_copies_together() {
        let held_out = HeldOut::Below { seed: 7, key: (0.05 * 2f64.powi(128)) as u128 };
        let held = (0..100_000).filter(|nth| held_out.has(&format!("Sentence {nth}"))).collect::<Vec<_>>();
        assert!((4800..5200).contains(&held.len()), "{} of 100,000 at 5 %", held.len());
        assert!(held.iter().all(|nth| held_out.has(&format!("SENTENCE {nth}"))));
        let other = HeldOut::Below { seed: 8, key: (0.05 * 2f64.powi(128)) as u128 };
        assert!(held.iter().filter(|nth| other.has(&format!("Sentence {nth}"))).count() < 400);
    }
}
