//! Text to ids and back; the same vocabulary each time; files of others.

use std::fs;

use mlm_core::{Corpus, Masker, Masking, SPECIAL_TOKENS, Tokenizer, TokenizerConfig};
use proptest::prelude::*;

use crate::command::command;
use crate::{assert_says, five_sentences, message, pieces, seeded};

#[test]
fn specials_come_first_and_frame_each_sentence() {
    let tokenizer = Tokenizer::train(&five_sentences().unwrap(), &TokenizerConfig::new(1000)).unwrap();
    let ids: Vec<u32> = SPECIAL_TOKENS.iter().map(|token| tokenizer.id(token).unwrap()).collect();
    assert_eq!(ids, [0, 1, 2, 3, 4]);
    let ids = tokenizer.encode("To be or not to be").unwrap();
    assert_eq!(tokenizer.tokens(&ids), ["[CLS]", "to", "be", "or", "not", "to", "be", "[SEP]"]);
    assert_eq!(tokenizer.decode(&ids).unwrap(), "to be or not to be");
    let ids = tokenizer.encode("the [MASK] is a lie").unwrap();
    assert_eq!(ids[2], tokenizer.special().mask);
}

#[test]
fn every_word_of_the_lab_is_one_token() {
    let corpus = five_sentences().unwrap();
    let tokenizer = Tokenizer::train(&corpus, &TokenizerConfig::new(1000)).unwrap();
    for sentence in corpus.sentences() {
        let ids = tokenizer.encode(sentence).unwrap();
        assert_eq!(tokenizer.words(&ids).len(), sentence.split(' ').count());
        assert_eq!(tokenizer.words(&ids).len(), ids.len() - 2);
    }
}

/// The vocabulary must not depend on the order of a hash map, which differs between processes.
#[test]
fn the_same_corpus_gives_the_same_ids_in_every_process() {
    const CHILD: &str = "MLM_CORE_PRINT_VOCABULARY";
    let vocabulary = || {
        let corpus = Corpus::from_lines(include_str!("tokenizer.rs").lines()).unwrap();
        let tokenizer = Tokenizer::train(&corpus, &TokenizerConfig::new(400)).unwrap();
        let ids: Vec<u32> = (0..tokenizer.vocab() as u32).collect();
        tokenizer.tokens(&ids).join(" ")
    };
    if std::env::var_os(CHILD).is_some() {
        println!("VOCABULARY {}", vocabulary());
        return;
    }
    let test = "tokenizer::the_same_corpus_gives_the_same_ids_in_every_process";
    let output = command(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let output = String::from_utf8(output.stdout).unwrap();
    let others = output.lines().find_map(|line| line.split_once("VOCABULARY ")).unwrap().1;
    assert_eq!(others, vocabulary());
}

#[test]
fn a_vocabulary_that_may_be_of_any_size_has_what_the_text_has() {
    let corpus = Corpus::from_lines(["he plays", "she replays"]).unwrap();
    let sizes =
        [1000, usize::MAX].map(|vocab| Tokenizer::train(&corpus, &TokenizerConfig::new(vocab)).unwrap().vocab());
    assert_eq!(sizes[0], sizes[1]);
}

#[test]
fn the_vocabulary_keeps_to_its_size() {
    let corpus = Corpus::from_lines(["abcdefghijklmnopqrstuvwxyz abc abc", "日本語 текст"]).unwrap();
    for size in [7, 8, 20, 50, 80] {
        let tokenizer = Tokenizer::train(&corpus, &TokenizerConfig::new(size)).unwrap();
        assert!(tokenizer.vocab() <= size, "{} tokens, {size} asked for", tokenizer.vocab());
    }
    for size in [0, 4, 6] {
        assert_says(
            &message(Tokenizer::train(&corpus, &TokenizerConfig::new(size))),
            &["vocab", "at least 7", &format!("got {size}")],
        );
    }
}

#[test]
fn case_is_kept_on_request() {
    let corpus = Corpus::from_lines(["Paris is nice"]).unwrap();
    let kept = Tokenizer::train(&corpus, &TokenizerConfig::cased(100)).unwrap();
    assert_eq!(kept.tokens(&kept.encode("Paris").unwrap())[1], "Paris");
    let lowered = Tokenizer::train(&corpus, &TokenizerConfig::new(100)).unwrap();
    assert_eq!(lowered.tokens(&lowered.encode("PARIS").unwrap())[1], "paris");
}

#[test]
fn accents_are_kept_on_request_with_case_or_without() {
    let text = "A\u{f1}o ano \u{92e}\u{947}\u{902} \u{92e}\u{948}\u{902} \u{30d1} \u{30cf} \u{5e9}\u{5c1} \u{5e9}";
    let corpus = Corpus::from_lines([text]).unwrap();
    let words = |config: TokenizerConfig| {
        let tokenizer = Tokenizer::train(&corpus, &config).unwrap();
        let ids = tokenizer.encode(text).unwrap();
        tokenizer.tokens(&ids[1..ids.len() - 1]).join(" ")
    };
    let (uncased, lower) = ("ano ano \u{92e} \u{92e} \u{30cf} \u{30cf} \u{5e9} \u{5e9}", text.to_lowercase());
    assert_eq!(words(TokenizerConfig::new(100)), uncased);
    assert_eq!(words(TokenizerConfig { strip_accents: false, ..TokenizerConfig::new(100) }), lower);
    assert_eq!(words(TokenizerConfig { lowercase: false, ..TokenizerConfig::new(100) }), uncased.replacen('a', "A", 1));
    assert_eq!(words(TokenizerConfig::cased(100)), text);
}

#[test]
fn text_comes_back_composed() {
    let text = "\u{d55c}\u{ad6d}\u{c5b4} \u{ac15}";
    let tokenizer = Tokenizer::train(&Corpus::from_lines([text]).unwrap(), &TokenizerConfig::new(100)).unwrap();
    let ids = tokenizer.encode(text).unwrap();
    assert_eq!(tokenizer.tokens(&ids)[2].chars().count(), 3, "the vocabulary has letters, as that of BERT");
    assert_eq!(tokenizer.decode(&ids).unwrap(), text);
}

#[test]
fn nothing_is_learned_from_words_that_are_too_long() {
    let long = "abcdefghij".repeat(20);
    let short = ["to be or not to be", "that is the question"];
    let learned = |lines: &[&str], config: &TokenizerConfig| {
        Tokenizer::train(&Corpus::from_lines(lines).unwrap(), config).map(|tokenizer| {
            let ids: Vec<u32> = (0..tokenizer.vocab() as u32).collect();
            (tokenizer.tokens(&ids), tokenizer)
        })
    };
    let config = TokenizerConfig::new(60);
    let (alone, _) = learned(&short, &config).unwrap();
    let (beside, tokenizer) = learned(&[short[0], &long, short[1]], &config).unwrap();
    assert_eq!(alone, beside);
    assert!(tokenizer.encode(&long).unwrap().contains(&tokenizer.special().unk));
    let error = message(learned(&[&long, &long], &config));
    assert_says(&error, &["at most 100 characters", "max_word_length", "2 words, all of them longer"]);
    assert_says(&message(learned(&["\u{200b}"], &config)), &["at least one word", "got none"]);

    let (_, proteins) = learned(&[&long], &TokenizerConfig { max_word_length: 200, ..config }).unwrap();
    let folder = tempfile::tempdir().unwrap();
    proteins.save_pretrained(&folder, 512).unwrap();
    for tokenizer in [&proteins, &Tokenizer::from_pretrained(&folder).unwrap()] {
        let ids = tokenizer.encode(&long).unwrap();
        assert_eq!(tokenizer.decode(&ids).unwrap(), long);
        assert!(tokenizer.encode(&format!("{long}a")).unwrap().contains(&tokenizer.special().unk));
    }
}

#[test]
fn a_tokenizer_is_loaded_from_wherever_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let tokenizer = pieces().unwrap();
    let ids: Vec<u32> = (0..tokenizer.vocab() as u32).collect();
    fs::write(path("vocab.txt"), tokenizer.tokens(&ids).join("\n")).unwrap();
    tokenizer.save(path("any.json")).unwrap();
    for place in [folder.path(), &path("vocab.txt"), &path("any.json")] {
        let loaded = Tokenizer::load(place).unwrap();
        assert_eq!(loaded.encode("He plays").unwrap(), tokenizer.encode("He plays").unwrap());
    }
    fs::write(path("tokenizer_config.json"), r#"{"do_lower_case": false}"#).unwrap();
    let cased = Tokenizer::load(path("vocab.txt")).unwrap();
    assert_eq!(cased.tokens(&cased.encode("He plays").unwrap())[1], "[UNK]");
    assert_says(&message(Tokenizer::load(path("none.json"))), &["read", "none.json"]);
}

#[test]
fn words_are_pieces_put_together() {
    let tokenizer = pieces().unwrap();
    let ids = tokenizer.encode("he played, [MASK] replayed").unwrap();
    let words: Vec<String> =
        tokenizer.words(&ids).into_iter().map(|word| tokenizer.tokens(&ids[word]).join("")).collect();
    let words: Vec<String> = words.iter().map(|word| word.replace("##", "")).collect();
    assert_eq!(words, ["he", "played", ",", "replayed"]);
}

#[test]
fn sentences_without_a_known_word_are_left_out_and_counted() {
    let tokenizer = pieces().unwrap();
    let corpus = Corpus::from_lines(["he plays", "\u{4e2d}\u{6587}", "\u{200b}", "she works"]).unwrap();
    let encoded = tokenizer.encode_corpus(&corpus, 32).unwrap();
    assert_eq!((encoded.sequences.len(), encoded.skipped, encoded.cut), (2, 2, 0));
}

#[test]
fn characters_that_stand_alone_take_one_place_only() {
    let signs: String = ('\u{4e00}'..).take(90).collect();
    let tokenizer =
        Tokenizer::train(&Corpus::from_lines([signs.as_str()]).unwrap(), &TokenizerConfig::new(100)).unwrap();
    let ids = tokenizer.encode(&signs).unwrap();
    assert!(!ids.contains(&tokenizer.special().unk));
}

#[test]
fn files_round_trip_and_vocab_txt_loads() {
    let folder = tempfile::tempdir().unwrap();
    let trained = pieces().unwrap();
    let text = "He replayed: playing works?";
    let json = folder.path().join("tokenizer.json");
    trained.save(&json).unwrap();
    let loaded = Tokenizer::from_file(&json).unwrap();
    assert_eq!(loaded.encode(text).unwrap(), trained.encode(text).unwrap());
    assert_eq!((loaded.vocab(), loaded.special()), (trained.vocab(), trained.special()));

    let vocab = folder.path().join("vocab.txt");
    let all: Vec<u32> = (0..trained.vocab() as u32).collect();
    fs::write(&vocab, trained.tokens(&all).join("\n")).unwrap();
    let loaded = Tokenizer::from_vocab(&vocab, true).unwrap();
    assert_eq!(loaded.encode(text).unwrap(), trained.encode(text).unwrap());
}

#[test]
fn foreign_settings_in_a_file_do_not_change_the_ids() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    let mut foreign: mlm_core::tokenizers::Tokenizer = {
        pieces().unwrap().save(&path).unwrap();
        mlm_core::tokenizers::Tokenizer::from_file(&path).unwrap()
    };
    // As Python saves it after a call with truncation and padding; and without a template.
    foreign
        .with_truncation(Some(mlm_core::tokenizers::TruncationParams { max_length: 4, ..Default::default() }))
        .unwrap();
    foreign.with_padding(Some(Default::default()));
    foreign.with_post_processor(None::<mlm_core::tokenizers::PostProcessorWrapper>);
    foreign.save(&path, false).unwrap();
    let loaded = Tokenizer::from_file(&path).unwrap();
    let text = "he plays, she works";
    assert_eq!(loaded.encode(text).unwrap(), pieces().unwrap().encode(text).unwrap());
}

/// `[ENT]` marks something; it is no word to be guessed, and stays in the text.
#[test]
fn a_special_token_of_ones_own_is_never_masked_nor_drawn() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    pieces().unwrap().save(&path).unwrap();
    let mut more = mlm_core::tokenizers::Tokenizer::from_file(&path).unwrap();
    more.add_special_tokens([mlm_core::tokenizers::AddedToken::from("[ENT]", true)]).unwrap();
    more.save(&path, false).unwrap();
    let tokenizer = Tokenizer::from_file(&path).unwrap();
    let (text, entity) = ("he [ENT] plays [ENT]", tokenizer.id("[ENT]").unwrap());
    assert!(tokenizer.is_special(entity) && !tokenizer.special().contains(entity));
    let ids = tokenizer.encode(text).unwrap();
    assert_eq!(tokenizer.decode(&ids).unwrap(), text);
    assert!(tokenizer.words(&ids).into_iter().flatten().all(|at| ids[at] != entity));

    let masking = Masking { rate: 1.0, mask: 0.0, random: 1.0, keep: 0.0, whole_word: false };
    let masker = Masker::new(&tokenizer, masking).unwrap();
    let masked = masker.mask(&ids.repeat(1000), &mut seeded(0)).unwrap();
    assert!(!masked.targets.contains(&entity));
    let drawn: Vec<u32> = masked.masked_rows.iter().map(|&row| masked.input_ids[row]).collect();
    assert!(drawn.len() >= 2000 && !drawn.contains(&entity));
    let corpus = Corpus::from_lines([text, "[ENT]"]).unwrap();
    let encoded = tokenizer.encode_corpus(&corpus, 32).unwrap();
    assert_eq!((encoded.sequences.len(), encoded.skipped, encoded.coverage.words), (1, 1, 2));
}

#[test]
fn bad_files_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vocab.txt");
    assert_says(&message(Tokenizer::from_vocab(&path, true)), &["read", "vocab.txt"]);
    fs::write(&path, "[PAD]\n[UNK]\nfox").unwrap();
    assert_says(&message(Tokenizer::from_vocab(&path, true)), &["vocab.txt", "[CLS]"]);
    fs::write(&path, b"[PAD]\n\xff\xfe\n").unwrap();
    assert_says(&message(Tokenizer::from_vocab(&path, true)), &["vocab.txt", "UTF-8"]);
    let path = folder.path().join("tokenizer.json");
    fs::write(&path, "{\"model\": 3}").unwrap();
    assert_says(&message(Tokenizer::from_file(&path)), &["tokenizer.json"]);
    assert_says(&message(pieces().unwrap().save("/no/such/folder/tokenizer.json")), &["write", "/no/such/folder"]);
}

proptest! {
    #[test]
    fn any_text_encodes_and_words_partition_it(text: String) {
        let tokenizer = pieces().unwrap();
        let ids = tokenizer.encode(&text).unwrap();
        prop_assert_eq!(ids[0], tokenizer.special().cls);
        prop_assert_eq!(ids[ids.len() - 1], tokenizer.special().sep);
        let mut covered: Vec<usize> = tokenizer.words(&ids).into_iter().flatten().collect();
        let expected: Vec<usize> = (0..ids.len()).filter(|&at| !tokenizer.special().contains(ids[at])).collect();
        covered.sort();
        prop_assert_eq!(covered, expected);
    }
}
