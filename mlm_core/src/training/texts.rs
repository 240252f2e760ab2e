//! What a training reads.

use std::iter;

use crate::text::grammar::Grammar;
use crate::text::sequences::Sequences;
use crate::text::tokenizer::Tokenizer;
use crate::training::checkpoint::digest;

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
pub(crate) fn fingerprint(sequences: &Sequences) -> String {
    // Lengths keep apart what was cut differently.
    let numbers = sequences.iter().flat_map(|ids| iter::once(ids.len() as u32).chain(ids.iter().copied()));
    digest(numbers.map(u32::to_le_bytes))
}
