//! Takes a [`Corpus`], gives the WordPiece vocabulary that is learned from it; what is done with one is left to
//! [`crate::text::tokenizer`].

use std::collections::{BTreeMap, BTreeSet, HashMap};

use tokenizers::models::wordpiece::{WordPiece, WordPieceTrainer};
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::{AddedToken, Trainer};

use crate::error::{Error, Result};
use crate::kernel::check_interrupt;
use crate::text::corpus::Corpus;
use crate::text::tokenizer::{CONTINUATION, SPECIAL_TOKENS, Tokenizer, bert, failed, words};
use crate::text::tokenizer_config::TokenizerConfig;

impl Tokenizer {
    /// Learns a vocabulary of at most `vocab` tokens from the corpus: the special tokens, then its characters (at
    /// the start and inside of words), then the pieces that merging the most frequent neighbours gives, until the
    /// size is reached or every word of the corpus is one piece. The same corpus always gives the same ids.
    ///
    /// When there are more characters than `vocab` has room for, the most frequent ones are kept and words with
    /// others become `[UNK]`. So do words of more than `max_word_length` characters, and nothing is learned from them.
    ///
    /// Source: Schuster and Nakajima 2012, "Japanese and Korean Voice Search", where the next merge is the one that raises
    /// the likelihood of the text most (Wu et al. 2016, section 4.1, on Google's translation system, refer to
    /// it). The `tokenizers` crate, used here, takes the most frequent pair.
    ///
    /// # Errors
    /// When `vocab` leaves no room beside the special tokens for one character, or all words are longer than the tokenizer
    /// would read.
    pub fn train(corpus: &Corpus, config: &TokenizerConfig) -> Result<Self> {
        let &TokenizerConfig { vocab, max_word_length, .. } = config;
        let minimum = SPECIAL_TOKENS.len() + 2;
        if vocab < minimum {
            let expected =
                format!("at least {minimum} (the {} special tokens and one character)", SPECIAL_TOKENS.len());
            return Err(Error::argument("vocab", expected, vocab));
        }
        let normalizer = config.normalizer();
        let mut too_long = 0;
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        let mut progress = corpus.progress("counting words", true);
        for (nth, (_, text)) in corpus.pieces(true).enumerate() {
            progress.at(nth)?;
            for word in words(text, Some(&normalizer), Some(&BertPreTokenizer))? {
                if word.chars().count() > max_word_length {
                    too_long += 1;
                } else {
                    *counts.entry(word).or_default() += 1;
                }
            }
        }
        progress.end();
        if counts.is_empty() {
            let expected = format!(
                "at least one word of at most {max_word_length} characters (a larger max_word_length takes longer ones: \
                 DNA, proteins)"
            );
            let actual =
                if too_long == 0 { "none".to_owned() } else { format!("{too_long} words, all of them longer") };
            return Err(Error::argument("corpus", expected, actual));
        }
        let alphabet = alphabet(&counts, vocab - SPECIAL_TOKENS.len());
        counts.retain(|word, _| word.chars().all(|c| alphabet.contains(&c)));
        // The trainer numbers inner characters (`##a`) in the order of a hash map, which differs from run to run, and
        // breaks ties between merges by these numbers. Handing it all first pieces in a fixed order, as if they were
        // special, makes the vocabulary the same each time.
        let mut pieces: Vec<String> = SPECIAL_TOKENS.map(String::from).to_vec();
        pieces.extend(alphabet.iter().map(char::to_string));
        let inner: BTreeSet<char> = counts.keys().flat_map(|word| word.chars().skip(1)).collect();
        pieces.extend(inner.iter().map(|c| format!("{CONTINUATION}{c}")));
        // More there cannot be: a merge takes two pieces of some word. The trainer makes room for as many as it is told.
        let most = pieces.len() + counts.keys().map(|word| word.chars().count()).sum::<usize>();
        let mut trainer = WordPieceTrainer::builder()
            .vocab_size(vocab.min(most))
            .min_frequency(0)
            .show_progress(false)
            .special_tokens(pieces.into_iter().map(|piece| AddedToken::from(piece, true)).collect())
            .build();
        let occurrences = counts.iter().flat_map(|(word, &count)| std::iter::repeat_n(word.as_str(), count));
        trainer.feed(occurrences, |word| Ok(vec![word.to_owned()])).map_err(failed)?;
        check_interrupt()?;
        let mut model = WordPiece::default();
        trainer.train(&mut model).map_err(failed)?;
        model.max_input_chars_per_word = max_word_length;
        Self::from_inner(bert(model, normalizer)?, "the trained vocabulary")
    }
}

/// The most frequent characters of the words, ties broken by code point, as many as `room` tokens allow: a character
/// takes one, and one more if it also stands inside of words.
fn alphabet(words: &BTreeMap<String, usize>, room: usize) -> BTreeSet<char> {
    let inside: BTreeSet<char> = words.keys().flat_map(|word| word.chars().skip(1)).collect();
    let mut counts: HashMap<char, usize> = HashMap::new();
    for (word, count) in words {
        for c in word.chars() {
            *counts.entry(c).or_default() += count;
        }
    }
    let mut characters: Vec<(char, usize)> = counts.into_iter().collect();
    characters.sort_by_key(|&(c, count)| (std::cmp::Reverse(count), c));
    let mut taken = 0;
    let fits = |&(c, _): &(char, usize)| {
        taken += 1 + usize::from(inside.contains(&c));
        taken <= room
    };
    characters.into_iter().take_while(fits).map(|(c, _)| c).collect()
}
