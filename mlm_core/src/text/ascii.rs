//! Takes a chunk of ASCII, gives its words as BERT's normalizer and pre-tokenizer would: of English text, these are most chunks,
//! and the `tokenizers` crate, which keeps track of where each letter comes from, takes ten times as long. It is the truth, and
//! asked wherever there is anything else than ASCII.

use tokenizers::normalizers::BertNormalizer;

/// The words of a chunk without white space, one after the other, in a buffer for several chunks; none if it is not ASCII.
pub(crate) fn words<'a>(
    chunk: &str,
    normalizer: &BertNormalizer,
    buffer: &'a mut String,
) -> Option<impl Iterator<Item = &'a str>> {
    if !chunk.is_ascii() {
        return None;
    }
    buffer.clear();
    let is_kept = |c: &char| !(normalizer.clean_text && c.is_ascii_control());
    buffer.extend(chunk.chars().filter(is_kept));
    if normalizer.lowercase {
        buffer.make_ascii_lowercase();
    }
    let mut rest = buffer.as_str();
    Some(std::iter::from_fn(move || {
        let is_mark = |c: char| c.is_ascii_punctuation();
        let end = if rest.starts_with(is_mark) { 1 } else { rest.find(is_mark).unwrap_or(rest.len()) };
        let (word, others) = rest.split_at(end);
        rest = others;
        Some(word).filter(|word| !word.is_empty())
    }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokenizers::pre_tokenizers::bert::BertPreTokenizer;

    use super::*;
    use crate::text::tokenizer;

    proptest! {
        #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.max(3000), ..ProptestConfig::default() })]

        #[test]
        fn they_are_those_of_the_tokenizers_crate(
            chunk in "[\x00-\x08\x0e-\x1f!-\x7f]{1,12}",
            clean_text: bool,
            handle_chinese_chars: bool,
            strip_accents: Option<bool>,
            lowercase: bool,
        ) {
            let normalizer = BertNormalizer::new(clean_text, handle_chinese_chars, strip_accents, lowercase);
            let expected = tokenizer::words(&chunk, Some(&normalizer), Some(&BertPreTokenizer)).unwrap();
            let mut buffer = String::from("from before");
            let words: Vec<&str> = words(&chunk, &normalizer, &mut buffer).unwrap().collect();
            prop_assert_eq!(words, expected);
        }
    }

    #[test]
    fn other_letters_are_left_to_the_tokenizers_crate() {
        assert!(words("é", &BertNormalizer::default(), &mut String::new()).is_none());
    }
}
