//! Text in, sentences out; nothing on both sides of a split; bad files named.

use std::collections::HashSet;
use std::fs;

use mlm_core::{Corpus, Layout};
use proptest::prelude::*;

use crate::{assert_says, five_sentences, message, seeded};

fn file(content: &[u8]) -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("text.txt");
    fs::write(&path, content).unwrap();
    (folder, path)
}

#[test]
fn the_lab_has_five_sentences() {
    let corpus = five_sentences().unwrap();
    assert_eq!(corpus.len(), 5);
    assert_eq!(corpus.sentences().iter().map(|s| s.split(' ').count()).sum::<usize>(), 33);
    assert_eq!(corpus.repeat(200).unwrap().len(), 1000);
}

#[test]
fn lines_are_sentences() {
    let (_folder, path) = file("\u{feff}One  line\r\n\r\n \t \nAnother. With two sentences\n".as_bytes());
    let corpus = Corpus::from_file(&path, Layout::Lines).unwrap();
    assert_eq!(corpus.sentences(), ["One line", "Another. With two sentences"]);
}

#[test]
fn a_carriage_return_ends_a_line_where_nothing_else_does() {
    let sentences = |content: &[u8]| {
        let (_folder, path) = file(content);
        Corpus::from_file(&path, Layout::Lines).unwrap().sentences().to_vec()
    };
    assert_eq!(sentences(b"of an old Mac\rits second line\r"), ["of an old Mac", "its second line"]);
    assert_eq!(sentences(b"a stray\rone\nline two\r\n"), ["a stray one", "line two"]);
}

/// Their bytes happen to be UTF-8: UTF-16 without a byte order mark, and ISO-2022-JP.
#[test]
fn text_in_other_encodings_is_refused_with_the_line() {
    let refused = |content: &[u8]| {
        let (_folder, path) = file(content);
        message(Corpus::from_file(&path, Layout::Lines))
    };
    let utf16: Vec<u8> =
        "\u{92d}\u{93e}\u{930}\u{924} \u{90f}\u{915}".encode_utf16().flat_map(u16::to_le_bytes).collect();
    assert_says(&refused(&utf16), &["line 1", "UTF-8", "a NUL, as UTF-16"]);
    assert_says(&refused(b"one line\n\x1b$BF|K\\\x1b(B\n"), &["line 2", "UTF-8", "ISO-2022-JP"]);
}

#[test]
fn prose_is_split_into_sentences() {
    let text =
        "It was late. The\ncat slept on\r\nthe mat!\n\nA title\n\nIs it 3.5 metres long? Yes. Он спит. 猫在睡觉。\n";
    let (_folder, path) = file(text.as_bytes());
    let corpus = Corpus::from_file(&path, Layout::Prose).unwrap();
    assert_eq!(
        corpus.sentences(),
        [
            "It was late.",
            "The cat slept on the mat!",
            "A title",
            "Is it 3.5 metres long?",
            "Yes.",
            "Он спит.",
            "猫在睡觉。"
        ]
    );
}

#[test]
fn bad_files_are_named() {
    assert_says(&message(Corpus::from_file("/no/such/file.txt", Layout::Lines)), &["read", "/no/such/file.txt"]);
    let (_folder, path) = file(b"fine\nna\xefve\n");
    assert_says(&message(Corpus::from_file(&path, Layout::Lines)), &["text.txt", "offset 7", "line 2", "UTF-8"]);
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n";
    let (_folder, path) = file(pointer);
    assert_says(&message(Corpus::from_file(&path, Layout::Lines)), &["text.txt", "Git LFS pointer", "git lfs pull"]);
    let (_folder, path) = file(b"");
    assert_says(&message(Corpus::from_file(&path, Layout::Lines)), &["text.txt", "empty"]);
    let (_folder, path) = file(b"\n  \n\t\n");
    assert_says(&message(Corpus::from_file(&path, Layout::Lines)), &["text.txt", "3 lines are blank"]);
    assert_says(&message(Corpus::from_file(&path, Layout::Prose)), &["text.txt", "no sentence"]);
    assert_says(&message(Corpus::from_lines::<&str>([])), &["no sentence", "empty"]);
}

#[test]
fn bad_arguments_are_named() {
    let corpus = five_sentences().unwrap();
    assert_says(&message(corpus.repeat(0)), &["times", "at least 1"]);
    for fraction in [0.0, 1.0, -0.5, f64::NAN] {
        assert_says(&message(corpus.split(fraction, &mut seeded(0))), &["validation", &fraction.to_string()]);
    }
    let one = Corpus::from_lines(["the same", "The Same"]).unwrap();
    assert_says(&message(one.split(0.5, &mut seeded(0))), &["2 distinct sentences", "got 1"]);
}

proptest! {
    #[test]
    fn a_split_keeps_all_sentences_and_parts_no_copies(
        picks in prop::collection::vec(0usize..12, 2..60), validation in 0.01f64..0.99, seed: u64,
    ) {
        let lines: Vec<String> = picks.iter().map(|n| if n % 2 == 0 { format!("Word {}", n / 4) } else { format!("word {n}") }).collect();
        let corpus = Corpus::from_lines(&lines).unwrap();
        let key = |sentence: &String| sentence.to_lowercase();
        let distinct: HashSet<String> = lines.iter().map(key).collect();
        prop_assume!(distinct.len() >= 2);
        let (train, held_out) = corpus.split(validation, &mut seeded(seed)).unwrap();
        let train_keys: HashSet<String> = train.sentences().iter().map(key).collect();
        let held_out_keys: HashSet<String> = held_out.sentences().iter().map(key).collect();
        prop_assert!(train_keys.is_disjoint(&held_out_keys));
        let mut all = [train.sentences(), held_out.sentences()].concat();
        let mut wanted = lines;
        all.sort();
        wanted.sort();
        prop_assert_eq!(all, wanted);
        prop_assert_eq!(corpus.split(validation, &mut seeded(seed)).unwrap(), (train, held_out));
    }
}
