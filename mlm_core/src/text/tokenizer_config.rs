//! How a tokenizer reads text: what of it it takes to be the same, and how long a word may be.

use serde::Serialize;
use tokenizers::normalizers::BertNormalizer;

/// What a vocabulary is learned with, and what its tokenizer makes of a text before it looks for words in it. [`Self::new`] is
/// BERT's uncased tokenizer (Devlin et al. 2019; `do_lower_case`, `strip_accents` and `max_input_chars_per_word` in
/// `transformers`), [`Self::cased`] its cased one.
///
/// ```
/// # use mlm_core::*;
/// # fn main() -> Result<()> {
/// let corpus = Corpus::from_lines(["El año pasado", "un ano"])?;
/// let words = |config: &TokenizerConfig| -> Result<Vec<String>> {
///     let tokenizer = Tokenizer::train(&corpus, config)?;
///     Ok(tokenizer.tokens(&tokenizer.encode("El año")?[1..3]))
/// };
/// assert_eq!(words(&TokenizerConfig::new(100))?, ["el", "ano"]);
/// assert_eq!(words(&TokenizerConfig { strip_accents: false, ..TokenizerConfig::new(100) })?, ["el", "año"]);
/// assert_eq!(words(&TokenizerConfig::cased(100))?, ["El", "año"]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TokenizerConfig {
    /// Tokens that the vocabulary has at most, the special ones included.
    pub vocab: usize,
    /// Whether upper case is read as lower case.
    pub lowercase: bool,
    /// Whether nonspacing marks (Unicode's category Mn) are left out. These are accents; but also many vowel signs of Hindi
    /// and Thai, the points of Hebrew and Arabic, and what makes a Japanese ハ a パ. Korean syllables are parted into their letters.
    pub strip_accents: bool,
    /// The characters of the longest word that is read; a longer one is `[UNK]`. A line of DNA or of a protein is one word.
    pub max_word_length: usize,
}

impl TokenizerConfig {
    /// Neither case nor accents, as in `bert-base-uncased`.
    pub fn new(vocab: usize) -> Self {
        Self { vocab, lowercase: true, strip_accents: true, max_word_length: 100 }
    }

    /// Text as it stands, as in `bert-base-cased`.
    pub fn cased(vocab: usize) -> Self {
        Self { lowercase: false, strip_accents: false, ..Self::new(vocab) }
    }

    /// BERT's clean-up: control characters out, spaces around Chinese characters, and what the settings say.
    pub(crate) fn normalizer(&self) -> BertNormalizer {
        // Where accents go with case, as in BERT, it need not be said.
        let strip_accents = (self.strip_accents != self.lowercase).then_some(self.strip_accents);
        BertNormalizer::new(true, true, strip_accents, self.lowercase)
    }
}
