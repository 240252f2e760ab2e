//! Text that is longer than the model: nothing of it is lost.

use mlm_core::*;
use proptest::prelude::*;

use crate::{assert_says, message, pieces};

/// Sentences of words that fall into one piece or several, and some that are unknown.
fn sentences() -> impl Strategy<Value = Vec<String>> {
    let word =
        prop_oneof![Just("play"), Just("replaying"), Just("worked"), Just("!"), Just("\u{4e2d}"), Just("[MASK]")];
    let sentence = proptest::collection::vec(word, 1..30).prop_map(|words| words.join(" "));
    proptest::collection::vec(sentence, 1..8)
}

/// The tokens between `[CLS]` and `[SEP]`.
fn inner<'a>(ids: &'a [u32], tokenizer: &Tokenizer) -> &'a [u32] {
    let SpecialIds { cls, sep, .. } = tokenizer.special();
    assert_eq!((ids.first(), ids.last()), (Some(&cls), Some(&sep)));
    &ids[1..ids.len() - 1]
}

/// What can be masked of some tokens; the rest of the text may be left out where nothing else is in a sequence.
fn maskable<'a>(ids: impl IntoIterator<Item = &'a u32>, tokenizer: &Tokenizer) -> Vec<u32> {
    ids.into_iter().copied().filter(|&id| !tokenizer.special().contains(id)).collect()
}

proptest! {
    #[test]
    fn sequences_are_short_enough_and_hold_the_whole_text(sentences in sentences(), max_len in 3usize..40) {
        let tokenizer = pieces().unwrap();
        let corpus = Corpus::from_lines(&sentences).unwrap();
        let whole: Vec<Vec<u32>> = sentences.iter().map(|text| tokenizer.encode(text).unwrap()).collect();
        let text = maskable(whole.iter().flatten(), &tokenizer);
        if text.is_empty() {
            assert_says(&message(tokenizer.encode_corpus(&corpus, max_len)), &["corpus", "at least one word"]);
            assert_says(&message(tokenizer.encode_windows(&corpus, max_len)), &["corpus", "at least one word"]);
            return Ok(());
        }
        let each = tokenizer.encode_corpus(&corpus, max_len).unwrap();
        let filled = tokenizer.encode_windows(&corpus, max_len).unwrap();
        for encoded in [&each, &filled] {
            let sequences = encoded.sequences.to_vec().unwrap();
            prop_assert!(sequences.iter().all(|ids| ids.len() <= max_len));
            prop_assert_eq!(&maskable(sequences.iter().flatten(), &tokenizer), &text);
        }
        prop_assert_eq!(each.cut, whole.iter().filter(|ids| ids.len() > max_len).count());
    }

    #[test]
    fn no_word_is_cut_that_fits(sentences in sentences(), max_len in 10usize..40) {
        // The longest word has six pieces.
        let tokenizer = pieces().unwrap();
        let corpus = Corpus::from_lines(sentences.iter().map(String::as_str).chain(["play"])).unwrap();
        let each = tokenizer.encode_corpus(&corpus, max_len).unwrap();
        let filled = tokenizer.encode_windows(&corpus, max_len).unwrap();
        for ids in each.sequences.iter().chain(filled.sequences.iter()) {
            prop_assert!(!tokenizer.continues_word(inner(&ids.unwrap(), &tokenizer)[0]));
        }
        if filled.skipped == 0 {
            for pair in filled.sequences.to_vec().unwrap().windows(2) {
                let next = inner(&pair[1], &tokenizer);
                let word = 1 + next[1..].iter().take_while(|&&id| tokenizer.continues_word(id)).count();
                prop_assert!(pair[0].len() + word > max_len, "a window had room for the next word");
            }
        }
    }
}

#[test]
fn a_sentence_is_cut_into_parts_of_about_the_same_length() {
    let tokenizer = pieces().unwrap();
    let corpus = Corpus::from_lines(["play ".repeat(31)]).unwrap();
    let encoded = tokenizer.encode_corpus(&corpus, 32).unwrap();
    let lengths: Vec<usize> = encoded.sequences.iter().map(|ids| ids.unwrap().len()).collect();
    assert_eq!((lengths, encoded.cut), (vec![18, 17], 1));
    let filled = tokenizer.encode_windows(&Corpus::from_lines(["play play", "play"]).unwrap(), 4).unwrap();
    assert_eq!((filled.sequences.len(), filled.cut), (2, 0));
    let filled = tokenizer.encode_windows(&Corpus::from_lines(["play", "play play"]).unwrap(), 4).unwrap();
    assert_eq!((filled.sequences.len(), filled.cut), (2, 1));
}

#[test]
fn a_word_that_is_longer_than_the_model_is_cut() {
    let tokenizer = pieces().unwrap();
    let word = "replaying";
    let ids = tokenizer.encode(word).unwrap();
    let encoded = tokenizer.encode_corpus(&Corpus::from_lines([word]).unwrap(), 3).unwrap();
    assert_eq!(encoded.sequences.len(), ids.len() - 2);
    for max_len in [0, 2] {
        let corpus = Corpus::from_lines([word]).unwrap();
        assert_says(&message(tokenizer.encode_corpus(&corpus, max_len)), &["max_len", "at least 3"]);
        assert_says(&message(tokenizer.encode_windows(&corpus, max_len)), &["max_len", "at least 3"]);
    }
}

/// It is read in pieces, of 16 kB each.
#[test]
fn a_line_as_long_as_a_book_gives_what_its_sentences_give() {
    let sentences = ["he plays \u{3c9}", "She works!", "\u{e9}\u{4e2d} they play [MASK] e\u{301}", "words"];
    let lines: Vec<&str> = sentences.into_iter().cycle().take(5000).collect();
    let (lines, line) = (Corpus::from_lines(&lines).unwrap(), Corpus::from_lines([lines.join(" ")]).unwrap());
    let config = TokenizerConfig::new(60);
    let tokenizer = Tokenizer::train(&lines, &config).unwrap();
    let of_line = Tokenizer::train(&line, &config).unwrap();
    let all: Vec<u32> = (0..tokenizer.vocab() as u32).collect();
    assert_eq!(of_line.tokens(&all), tokenizer.tokens(&all));
    let [of_lines, of_line] = [&lines, &line].map(|corpus| tokenizer.encode_windows(corpus, 32).unwrap());
    assert_eq!(of_line.sequences, of_lines.sequences);
    assert_eq!(of_line.coverage, of_lines.coverage);
    let ids = tokenizer.encode(&line.sentences()[0]).unwrap();
    let whole = tokenizer.encode_corpus(&line, ids.len()).unwrap();
    assert_eq!((whole.sequences.get(0).unwrap(), whole.cut), (ids, 0));
}
