//! Takes the ids of sentences and what became of their characters, says how much of a text the tokenizer reads.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::text::tokenizer::{Changes, Tokenizer};

/// How many words of a text a vocabulary knows. `[UNK]` stands for each of the others: it is never masked, so no loss speaks
/// of them, and a perplexity is one of the rest of the text.
///
/// ```
/// # use mlm_core::*;
/// # fn main() -> Result<()> {
/// let tokenizer = Tokenizer::train(&Corpus::from_lines(["the fox", "a cat"])?, &TokenizerConfig::new(1000))?;
/// let text = Corpus::from_lines(["a fat cat", "ein Fuchs"])?;
/// let coverage = tokenizer.encode_corpus(&text, 32)?.coverage;
/// assert_eq!(coverage.to_string(), "2 of 5 words unknown (40.0 %)");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coverage {
    /// Words of the text as the tokenizer parts them; a punctuation mark is one, too, and a Chinese character.
    pub words: usize,
    /// Those that cannot be spelled with the vocabulary.
    pub unknown: usize,
    /// Those of the unknown that are longer than the tokenizer reads, see [`crate::TokenizerConfig::max_word_length`].
    pub too_long: usize,
    /// Letters of the text that are read as another case.
    pub lowered: usize,
    /// Accents, vowel signs and the like that are not read, see [`crate::TokenizerConfig::strip_accents`].
    pub stripped: usize,
    /// Characters without a shape that are not read: control characters, and those that say how others are written, such as the
    /// joiners of Persian and of Hindi. BERT's tokenizers read none, cased ones neither.
    pub invisible: usize,
    /// Other characters that no token stands for: what a `tokenizer.json` of another kind than BERT's says is not to be read.
    pub left_out: usize,
}

/// The share of unknown words that is worth a warning: where each would cost twice as much as one of the others, the loss of
/// the whole text would be 1 % higher than the one of the known words, which is what is reported.
const WORTH_A_WARNING: f64 = 0.01;

impl Coverage {
    /// Counts the words of a sentence that has these ids.
    pub(crate) fn add_sentence(&mut self, ids: &[u32], tokenizer: &Tokenizer) {
        let unk = tokenizer.special().unk;
        let unknown = ids.iter().filter(|&&id| id == unk).count();
        self.unknown += unknown;
        self.words += unknown + tokenizer.count_words(ids);
    }

    /// Counts what becomes of characters.
    pub(crate) fn add_changes(&mut self, changes: Changes) {
        let Changes { too_long, lowered, stripped, invisible, left_out } = changes;
        self.too_long += too_long;
        self.lowered += lowered;
        self.stripped += stripped;
        self.invisible += invisible;
        self.left_out += left_out;
    }

    /// The share of the words that are unknown.
    pub fn unknown_share(&self) -> f64 {
        self.unknown as f64 / self.words.max(1) as f64
    }

    /// What is to be said beside a loss over the text, if at least one word in a hundred is unknown, or something is left out:
    /// how many, and what to do.
    pub fn warning(&self) -> Option<String> {
        let way_out = if self.unknown_share() >= WORTH_A_WARNING {
            self.way_out()
        } else if self.left_out > 0 {
            "its tokenizer.json takes them away".to_owned()
        } else {
            return None;
        };
        Some(format!("{self}, so that no loss speaks of them; {way_out}"))
    }

    /// What is to be said beside what a model makes of the text: how much of it the model does not see, if there is anything.
    pub fn unseen(&self) -> Option<String> {
        (self.unknown + self.left_out > 0).then(|| format!("{self}, which the model does not see"))
    }

    /// What to do about unknown words.
    pub(crate) fn way_out(&self) -> String {
        let larger = "a larger vocabulary, or one that is learned from such text, knows more";
        let longer = "longer than the tokenizer reads, which its max_word_length says";
        match self.too_long {
            0 => larger.to_owned(),
            too_long if too_long == self.unknown => format!("they are {longer}"),
            too_long => format!("{too_long} of them are {longer}; {larger}"),
        }
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { words, unknown, left_out, .. } = self;
        write!(f, "{unknown} of {words} words unknown ({:.1} %)", 100.0 * self.unknown_share())?;
        if *left_out > 0 {
            write!(f, " and {left_out} characters left out")?;
        }
        Ok(())
    }
}
