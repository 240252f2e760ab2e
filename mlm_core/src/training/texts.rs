//! What a training reads.

use std::iter;

use sha2::{Digest, Sha256};

use crate::error::Result;
use crate::text::grammar::Grammar;
use crate::text::sequences::Sequences;
use crate::text::tokenizer::Tokenizer;
use crate::training::checkpoint::hexadecimal;

/// The texts of a training: sequences of ids, see [`Tokenizer::encode_corpus`].
#[derive(Clone, Debug)]
pub struct Texts {
    /// What the ids stand for.
    pub tokenizer: Tokenizer,
    /// What the model learns from.
    pub train: Sequences,
    /// What it is tested on after each epoch; none, if nothing is.
    pub validation: Sequences,
    /// What has written both, where that is known: then so is the smallest loss that a model can have.
    pub grammar: Option<Grammar>,
}

/// A digest of sequences of ids.
pub(crate) fn fingerprint(sequences: &Sequences) -> Result<String> {
    let (mut digest, mut bytes) = (Sha256::new(), Vec::new());
    sequences.each(|ids| {
        bytes.clear();
        // Lengths keep apart what was cut differently.
        let numbers = iter::once(ids.len() as u32).chain(ids.iter().copied());
        numbers.for_each(|number| bytes.extend(number.to_le_bytes()));
        digest.update(&bytes);
    })?;
    Ok(hexadecimal(digest))
}
