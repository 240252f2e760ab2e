//! What a vocabulary does not know is counted, said, and left in the text.

use mlm_core::*;
use proptest::prelude::*;

use crate::{assert_says, message, pieces, seeded};

fn coverage(tokenizer: &Tokenizer, lines: &[&str]) -> Coverage {
    let corpus = Corpus::from_lines(lines).unwrap();
    let coverage = tokenizer.encode_corpus(&corpus, 32).unwrap().coverage;
    assert_eq!(tokenizer.encode_windows(&corpus, 5).unwrap().coverage, coverage, "however the text is cut");
    coverage
}

#[test]
fn unknown_words_are_counted_also_where_their_sequence_is_left_out() {
    let tokenizer = pieces().unwrap();
    let known = coverage(&tokenizer, &["he replays!", "she [MASK] works"]);
    assert_eq!(known, Coverage { words: 5, ..Coverage::default() });
    assert_eq!(known.warning(), None);
    let long = "play".repeat(26);
    let some = coverage(&tokenizer, &["he plays", "\u{4e2d}\u{6587}", "\u{200b}", "she \u{3c9}\u{3c9}", &long]);
    assert_eq!(some, Coverage { words: 7, unknown: 4, too_long: 1, invisible: 1, ..Coverage::default() });
    assert_eq!(some.unknown_share(), 4.0 / 7.0);
    let warning = some.warning().unwrap();
    assert_says(&warning, &["4 of 7 words unknown (57.1 %)", "1 of them are longer", "larger vocabulary"]);
}

#[test]
fn what_the_tokenizer_makes_of_letters_is_counted() {
    let lines = ["\u{c1}rbol A", "e\u{301}", "\u{92e}\u{947}\u{902} \u{92e}\u{948}\u{902}", "\u{d55c}"];
    let corpus = Corpus::from_lines(lines).unwrap();
    let changes = |config: TokenizerConfig| {
        let tokenizer = Tokenizer::train(&corpus, &config).unwrap();
        let Coverage { lowered, stripped, .. } = coverage(&tokenizer, &lines);
        (lowered, stripped)
    };
    assert_eq!(changes(TokenizerConfig::new(100)), (2, 6));
    assert_eq!(changes(TokenizerConfig { strip_accents: false, ..TokenizerConfig::new(100) }), (2, 0));
    assert_eq!(changes(TokenizerConfig { lowercase: false, ..TokenizerConfig::new(100) }), (0, 6));
    assert_eq!(changes(TokenizerConfig::cased(100)), (0, 0));

    let invisible = |text: &str, config: TokenizerConfig| {
        let tokenizer = Tokenizer::train(&Corpus::from_lines([text]).unwrap(), &config).unwrap();
        coverage(&tokenizer, &[text]).invisible
    };
    for config in [TokenizerConfig::new(100), TokenizerConfig::cased(100)] {
        assert_eq!(invisible("\u{645}\u{6cc}\u{200c}\u{62e}\u{648}\u{627}\u{647}\u{645}", config.clone()), 1);
        assert_eq!(invisible("a\u{7}b", config.clone()), 1);
        assert_eq!(invisible("a\u{200b}b\u{a0}c \u{e9}", config), 1, "a space of another kind is none of them");
    }
}

/// By a `tokenizer.json` of another kind than BERT's.
#[test]
fn what_a_tokenizer_takes_away_is_counted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    pieces().unwrap().save(&path).unwrap();
    let bert: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let coverage = |part: &str, value: serde_json::Value| {
        let mut json = bert.clone();
        json[part] = value;
        std::fs::write(&path, json.to_string()).unwrap();
        coverage(&Tokenizer::from_file(&path).unwrap(), &["he 1234 plays", "she [MASK], \u{e9}56 works!"])
    };
    let split = serde_json::json!({ "type": "Split", "pattern": { "Regex": "[0-9]+" }, "behavior": "Removed", "invert": false });
    let words = serde_json::json!({ "type": "BertPreTokenizer" });
    let removes = serde_json::json!({ "type": "Sequence", "pretokenizers": [split, words] });
    let replaces = serde_json::json!({ "type": "Replace", "pattern": { "Regex": "[0-9]" }, "content": "" });
    for removed in [coverage("pre_tokenizer", removes), coverage("normalizer", replaces)] {
        assert_eq!((removed.words, removed.left_out), (7, 6));
        assert_says(&removed.to_string(), &["of 7 words unknown", "and 6 characters left out"]);
        assert!(removed.warning().is_some());
    }
    let spaces = coverage("pre_tokenizer", serde_json::json!({ "type": "WhitespaceSplit" }));
    assert_eq!(spaces.left_out, 0);
}

#[test]
fn one_unknown_word_in_a_hundred_is_worth_a_warning() {
    let warning = |known: usize| coverage(&pieces().unwrap(), &[&"play ".repeat(known), "\u{4e2d}"]).warning();
    assert!(warning(99).is_some() && warning(100).is_none());
}

#[test]
fn a_text_without_a_known_word_is_refused_with_the_reason() {
    let (tokenizer, long) = (pieces().unwrap(), "play".repeat(26));
    let refused = |lines: &[&str]| {
        let corpus = Corpus::from_lines(lines).unwrap();
        let error = message(tokenizer.encode_corpus(&corpus, 32));
        assert_eq!(message(tokenizer.encode_windows(&corpus, 32)), error);
        error
    };
    assert_says(&refused(&["\u{4e2d}\u{6587}", "\u{3c9}"]), &["corpus", "3 words, all of them unknown", "larger"]);
    assert_says(&refused(&[&long, &long]), &["2 words, all of them unknown", "they are longer", "max_word_length"]);
    assert_says(&refused(&["[MASK] [UNK]"]), &["1 words, all of them unknown"]);
    assert_says(&refused(&["[MASK]"]), &["at least one word", "got none"]);
}

/// A model for the vocabulary that has been rounded up by ids without a token.
fn model(tokenizer: &Tokenizer, rounded_up: usize) -> Engine {
    let config = ModelConfig {
        d_model: 8,
        heads: 2,
        d_ff: 12,
        max_len: 512,
        initializer_range: 1.0,
        ..ModelConfig::new(tokenizer.vocab() + rounded_up)
    };
    Engine::new(&Params::init(&config, &mut seeded(0)).unwrap()).unwrap()
}

#[test]
fn an_id_without_a_token_is_not_called_unknown() {
    let tokenizer = pieces().unwrap();
    let id = tokenizer.vocab() as u32;
    assert_eq!(tokenizer.token(id), format!("[id {id}]"));
    assert_eq!(tokenizer.token(tokenizer.special().unk), "[UNK]");
    let filled = fill_mask(&model(&tokenizer, 1000), &tokenizer, "he [MASK]", 1000).unwrap();
    assert!(filled.masks[0].iter().filter(|it| it.token.starts_with("[id ")).count() > 900);
    assert_eq!(filled.masks[0].iter().filter(|it| it.token == "[UNK]").count(), 1);
}

/// They would be there twice, and the model would read a text that it has never seen the like of.
#[test]
fn a_text_to_be_filled_has_no_frame_of_its_own() {
    let tokenizer = pieces().unwrap();
    let engine = model(&tokenizer, 0);
    for text in ["[CLS] he [MASK] [SEP]", "he [MASK] [SEP]"] {
        assert_says(&message(fill_mask(&engine, &tokenizer, text, 1)), &["text", "no [CLS] and [SEP]", text]);
    }
}

#[test]
fn a_decoded_text_shows_where_a_word_was() {
    let tokenizer = pieces().unwrap();
    let ids = tokenizer.encode("He \u{4e2d} [MASK] playing").unwrap();
    assert_eq!(tokenizer.decode(&ids).unwrap(), "he [UNK] [MASK] playing");
}

proptest! {
    #[test]
    fn all_but_the_gaps_comes_back(parts in proptest::collection::vec(any::<String>(), 2..5)) {
        let tokenizer = pieces().unwrap();
        let text = parts.join("[MASK]");
        prop_assume!(text.len() < 300);
        let filled = fill_mask(&model(&tokenizer, 0), &tokenizer, &text, 1).unwrap();
        prop_assert_eq!(filled.masks.len(), text.matches("[MASK]").count());
        let mut rest = filled.filled.as_str();
        for (nth, part) in text.split("[MASK]").enumerate() {
            // A piece that continues a word joins the one before it.
            let joins = filled.masks.get(nth).is_some_and(|it| it[0].token.starts_with("##"));
            let part = if joins { part.trim_end() } else { part };
            rest = rest.strip_prefix(part).unwrap_or_else(|| panic!("{text:?} gave {:?}", filled.filled));
            if let Some(predictions) = filled.masks.get(nth) {
                rest = rest.strip_prefix(predictions[0].token.trim_start_matches("##")).unwrap();
            }
        }
        prop_assert_eq!(rest, "");
    }
}
