//! Takes a text, gives the WordPiece vocabulary that is learned from it; what is done with one is left to
//! [`crate::text::tokenizer`].

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::panic::resume_unwind;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use ahash::AHashMap;
use compact_str::CompactString;
use rayon::prelude::*;
use tokenizers::AddedToken;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;

use crate::error::{Error, Result};
use crate::kernel::ProgressLine;
use crate::text::ascii;
use crate::text::chunks::{self, ChunkTable};
use crate::text::sentences::Sentences;
use crate::text::tokenizer::{CONTINUATION, SPECIAL_TOKENS, Tokenizer, bert, failed, words};
use crate::text::tokenizer_config::TokenizerConfig;

/// Words with how often each occurs, as the `tokenizers` crate takes them.
type Counts = AHashMap<CompactString, u64>;

impl Tokenizer {
    /// Learns a vocabulary of at most `vocab` tokens from the corpus: the special tokens, then its characters (at
    /// the start and inside of words), then the pieces that merging the most frequent neighbours gives, until the
    /// size is reached or every word of the corpus is one piece. The same corpus always gives the same ids.
    ///
    /// When there are more characters than `vocab` has room for, the most frequent ones are kept and words with
    /// others become `[UNK]`. So do words of more than `max_word_length` characters, and nothing is learned from them. Where there
    /// are more than half a million different words, the pieces are those of the most frequent ones.
    ///
    /// Source: Schuster and Nakajima 2012, "Japanese and Korean Voice Search", where the next merge is the one that raises
    /// the likelihood of the text most (Wu et al. 2016, section 4.1, on Google's translation system, refer to
    /// it). The `tokenizers` crate, used here, takes the most frequent pair.
    ///
    /// # Errors
    /// When `vocab` leaves no room beside the special tokens for one character, or all words are longer than the tokenizer
    /// would read.
    pub fn train(corpus: &dyn Sentences, config: &TokenizerConfig) -> Result<Self> {
        let &TokenizerConfig { vocab, max_word_length, .. } = config;
        let minimum = SPECIAL_TOKENS.len() + 2;
        if vocab < minimum {
            let expected =
                format!("at least {minimum} (the {} special tokens and one character)", SPECIAL_TOKENS.len());
            return Err(Error::argument("vocab", expected, vocab));
        }
        let normalizer = config.normalizer();
        let chunks = chunks::count(corpus)?;
        let (mut counts, too_long) = count_words(chunks, &normalizer, max_word_length)?;
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
        let trainer = BpeTrainer::builder()
            .vocab_size(vocab.min(most))
            .min_frequency(0)
            .show_progress(false)
            .special_tokens(pieces.into_iter().map(|piece| AddedToken::from(piece, true)).collect())
            .continuing_subword_prefix(CONTINUATION.to_owned())
            .build();
        let words = counts.len();
        let mut doing = format!("merging pieces to at most {vocab}");
        if words > MOST_WORDS {
            doing += &format!(", of the {MOST_WORDS} most frequent of {words} words");
        }
        let mut model = merge(trainer, scaled(most_frequent(counts, MOST_WORDS)), doing)?;
        model.max_input_chars_per_word = max_word_length;
        Self::from_inner(bert(model, normalizer)?, "the trained vocabulary")
    }
}

/// For each different word the trainer of the `tokenizers` crate takes some 500 bytes.
const MOST_WORDS: usize = 500_000;

/// So many of the words, the most frequent ones, ties broken by how they are spelled.
fn most_frequent(counts: Counts, most: usize) -> Counts {
    if counts.len() <= most {
        return counts;
    }
    let mut words: Vec<(CompactString, u64)> = counts.into_iter().collect();
    words.select_nth_unstable_by(most, |(word, count), (other, of_other)| {
        of_other.cmp(count).then_with(|| word.cmp(other))
    });
    words.truncate(most);
    words.into_iter().collect()
}

/// Half of what would be too much for the trainer: rounding adds to what is divided.
const LARGEST_PAIR: u64 = i32::MAX as u64 / 2;

/// The trainer counts pairs of pieces in 32 bits. No pair is as frequent as the two characters are that it joins.
fn scaled(mut counts: Counts) -> Counts {
    let mut pairs: AHashMap<(char, char), u64> = AHashMap::new();
    for (word, count) in &counts {
        word.chars().zip(word.chars().skip(1)).for_each(|pair| *pairs.entry(pair).or_default() += count);
    }
    let by = pairs.into_values().max().unwrap_or(0) / LARGEST_PAIR + 1;
    if by > 1 {
        counts.values_mut().for_each(|count| *count = count.div_ceil(by));
    }
    counts
}

/// What the trainer of the `tokenizers` crate learns, which does not say how far it is. When the stop button is pressed, nobody
/// waits for it.
fn merge(trainer: BpeTrainer, counts: Counts, doing: String) -> Result<WordPiece> {
    let (working, end) = mpsc::channel::<()>();
    let work = move || {
        let _working = working; // Until the thread ends, which the other side notices.
        let mut merged = BPE::default();
        trainer.do_train(&counts, &mut merged).map(|_| WordPiece::from_bpe(&merged))
    };
    let thread = thread::Builder::new().name("mlm_core vocabulary".to_owned()).spawn(work);
    let thread = thread.map_err(|source| Error::thread("that learns the vocabulary".to_owned(), source))?;
    let mut progress = ProgressLine::waiting(doing);
    while end.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
        progress.at(0)?;
    }
    progress.end();
    let merged = thread.join().unwrap_or_else(|panic| resume_unwind(panic)).map_err(failed)?;
    // A copy: the original lies behind all that its thread has freed, and keeps that from the system.
    Ok(merged.clone())
}

/// How often a call that waits looks at the stop button.
const LOOK: Duration = Duration::from_millis(100);

/// How often each word occurs; of those that are too long, how many there are.
fn count_words(
    mut chunks: Vec<ChunkTable<usize>>,
    normalizer: &BertNormalizer,
    max_word_length: usize,
) -> Result<(Counts, usize)> {
    let of_table = |chunks: ChunkTable<usize>| -> Result<(Counts, usize)> {
        let (mut counts, mut too_long, mut buffer) = (Counts::new(), 0, String::new());
        for (chunk, &count) in chunks.iter() {
            let mut add = |word: &str| {
                if word.chars().nth(max_word_length).is_some() {
                    too_long += count;
                } else {
                    *counts.entry(word.into()).or_default() += count as u64;
                }
            };
            match ascii::words(chunk, normalizer, &mut buffer) {
                Some(words) => words.for_each(add),
                None => words(chunk, Some(normalizer), Some(&BertPreTokenizer))?.iter().for_each(|word| add(word)),
            }
        }
        Ok((counts, too_long))
    };
    let total = chunks.iter().map(ChunkTable::len).sum();
    let mut progress = ProgressLine::new("normalizing", total, "distinct words");
    let (mut all, mut all_too_long, mut done) = (Counts::new(), 0, 0);
    while !chunks.is_empty() {
        progress.at(done)?;
        // What has been read is not needed any more.
        let tables = chunks.split_off(chunks.len().saturating_sub(rayon::current_num_threads()));
        done += tables.iter().map(ChunkTable::len).sum::<usize>();
        for of_table in tables.into_par_iter().map(of_table).collect::<Vec<_>>() {
            let (counts, too_long) = of_table?;
            counts.into_iter().for_each(|(word, count)| *all.entry(word).or_default() += count);
            all_too_long += too_long;
        }
    }
    progress.end();
    Ok((all, all_too_long))
}

/// The most frequent characters of the words, ties broken by code point, as many as `room` tokens allow: a character
/// takes one, and one more if it also stands inside of words.
fn alphabet(words: &Counts, room: usize) -> BTreeSet<char> {
    let inside: BTreeSet<char> = words.keys().flat_map(|word| word.chars().skip(1)).collect();
    let mut counts: HashMap<char, u64> = HashMap::new();
    for (word, count) in words {
        for c in word.chars() {
            *counts.entry(c).or_default() += count;
        }
    }
    let mut characters: Vec<(char, u64)> = counts.into_iter().collect();
    characters.sort_by_key(|&(c, count)| (Reverse(count), c));
    let mut taken = 0;
    let fits = |&(c, _): &(char, u64)| {
        taken += 1 + usize::from(inside.contains(&c));
        taken <= room
    };
    characters.into_iter().take_while(fits).map(|(c, _)| c).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_too_many_words_the_most_frequent_are_taken() {
        let counts = || {
            Counts::from_iter(
                [("b", 2), ("c", 7), ("a", 2), ("e", 1), ("d", 2)].map(|(word, count)| (word.into(), count)),
            )
        };
        assert_eq!(most_frequent(counts(), 5), counts());
        let three = most_frequent(counts(), 3);
        assert_eq!(three, Counts::from_iter([("c".into(), 7), ("a".into(), 2), ("b".into(), 2)]));
    }

    /// 2^32 would be counted as none, and 2^31 as fewer than that.
    #[test]
    fn counts_that_are_too_large_for_the_trainer_are_made_smaller() {
        let counts =
            |few: u64| Counts::from_iter([("abc".into(), 1 << 32), ("ade".into(), 1 << 31), ("ab".into(), few)]);
        let divided = scaled(counts(9));
        let largest = divided["abc"] + divided["ab"];
        assert!(largest <= 1 << 30 && divided["abc"] == 2 * divided["ade"], "{divided:?}");
        assert_eq!(divided["ab"], 2);
        let small = Counts::from_iter([("abc".into(), 1 << 29), ("ab".into(), 1)]);
        assert_eq!(scaled(small.clone()), small);
        let merged = |counts: Counts| {
            let trainer = BpeTrainer::builder().vocab_size(8).min_frequency(0).show_progress(false).build();
            let model = merge(trainer, scaled(counts), "merging".to_owned()).unwrap();
            let mut pieces: Vec<String> = tokenizers::Model::get_vocab(&model).into_keys().collect();
            pieces.sort_by_key(|piece| (Reverse(piece.len()), piece.clone()));
            pieces[..3].to_vec()
        };
        assert_eq!(
            merged(counts(9)),
            merged(Counts::from_iter([("abc".into(), 1 << 12), ("ade".into(), 1 << 11), ("ab".into(), 1)]))
        );
    }
}
