//! From files to what a training reads; what is kept of it in the training's folder.

use std::fs;
use std::path::Path;

use mlm_core::{
    BackEnd, Corpus, EngineConfig, Format, Layout, ModelConfig, Packing, Preparation, PreparedTexts, Result, TextFiles,
    Texts, Tokenizer, TokenizerConfig, Training, TrainingConfig, Vocabulary,
};

use crate::{assert_says, message, seeded};

fn lines(count: usize) -> String {
    (0..count).map(|i| format!("number {} of many lines goes to {}\n", i % 91, i * i % 1013)).collect()
}

fn preparation(path: &Path, repeat: usize) -> Preparation {
    Preparation {
        text: TextFiles::open([path], Format::Text, Layout::Lines).unwrap(),
        validation: 0.1,
        seed: 3,
        vocabulary: Vocabulary::Learned(TokenizerConfig::new(200)),
        packing: Packing::Sentences,
        max_len: 16,
        repeat,
    }
}

fn open(dir: &Path, prepared: &PreparedTexts, resume: bool) -> Result<Training> {
    let PreparedTexts { tokenizer, train, validation } = prepared.clone();
    let model =
        ModelConfig { d_model: 8, heads: 1, layers: 1, d_ff: 8, max_len: 16, ..ModelConfig::new(tokenizer.vocab()) };
    let texts = Texts { tokenizer, train: train.sequences, validation: validation.sequences, grammar: None };
    let back_end = BackEnd::Engine(EngineConfig { threads: 1, ..EngineConfig::default() });
    let open = if resume { Training::resume } else { Training::start };
    open(dir, &texts, &model, &TrainingConfig::default(), &back_end)
}

#[test]
fn a_small_text_is_prepared_as_a_notebook_does_it_and_nothing_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let (path, dir) = (folder.path().join("text.txt"), folder.path().join("run"));
    fs::write(&path, lines(3000)).unwrap();
    let PreparedTexts { tokenizer, train, validation } = preparation(&path, 2).start(&dir).unwrap();
    let corpus = Corpus::from_file(&path, Layout::Lines).unwrap();
    let (learn, held_out) = corpus.split(0.1, &mut seeded(3)).unwrap();
    let expected = Tokenizer::train(&learn, &TokenizerConfig::new(200)).unwrap();
    assert!((0..200).all(|id| tokenizer.token(id) == expected.token(id)));
    assert_eq!(train, expected.encode_corpus(&learn.repeat(2).unwrap(), 16).unwrap());
    assert_eq!(validation, expected.encode_corpus(&held_out, 16).unwrap());
    assert!(!dir.join("texts").exists());

    let given = Vocabulary::Given(Box::new(expected.clone()));
    let windows =
        Preparation { vocabulary: given, packing: Packing::Windows, validation: 0.0, ..preparation(&path, 1) };
    let prepared = windows.start(&dir).unwrap();
    assert_eq!(prepared.train, expected.encode_windows(&corpus, 16).unwrap());
    assert!(prepared.validation.sequences.is_empty());
}

#[test]
fn a_large_text_is_read_once() {
    let folder = tempfile::tempdir().unwrap();
    let (path, dir) = (folder.path().join("text.txt"), folder.path().join("run"));
    fs::write(&path, lines(20_000)).unwrap();
    let prepared = preparation(&path, 40).start(&dir).unwrap();
    let corpus = Corpus::from_file(&path, Layout::Lines).unwrap();
    let (learn, _) = corpus.split(0.1, &mut seeded(3)).unwrap();
    let expected = prepared.tokenizer.encode_corpus(&learn.repeat(40).unwrap(), 16).unwrap();
    assert_eq!((&prepared.train, prepared.train.sequences.tokens()), (&expected, expected.sequences.tokens()));

    let texts = dir.join("texts");
    let kept = fs::metadata(texts.join("texts.json")).unwrap().modified().unwrap();
    let mut training = open(&dir, &prepared, false).unwrap();
    training.step().unwrap();
    training.save().unwrap();
    drop(training);
    let again = preparation(&path, 40).resume(&dir).unwrap();
    assert_eq!(fs::metadata(texts.join("texts.json")).unwrap().modified().unwrap(), kept, "it was made again");
    assert_eq!((again.train.coverage, &again.validation), (prepared.train.coverage, &prepared.validation));
    assert_eq!(open(&dir, &again, true).unwrap().step_number(), 1, "the plan is the same, to the last digest");
    assert_says(&message(preparation(&path, 40).start(&dir)), &["run", "a training of 1 steps", "resume"]);

    // Other settings are refused before anything is read or written.
    let other = Preparation { max_len: 15, repeat: 39, ..preparation(&path, 40) };
    assert_says(&message(other.resume(&dir)), &["max_len 15 where it was 16, repeat 39 where it was 40", "same texts"]);
    let other = Preparation { vocabulary: Vocabulary::Learned(TokenizerConfig::cased(77)), ..preparation(&path, 40) };
    assert_says(&message(other.resume(&dir)), &["lowercase false where it was true", "vocab 77 where it was"]);
    assert_eq!(fs::metadata(texts.join("texts.json")).unwrap().modified().unwrap(), kept);
    // Those that may make the same texts are not.
    let vocabulary = Vocabulary::Given(prepared.tokenizer.clone().into());
    let given = Preparation { vocabulary, ..preparation(&path, 40) }.resume(&dir).unwrap();
    assert_eq!(open(&dir, &given, true).unwrap().step_number(), 1);
    preparation(&path, 40).resume(&dir).unwrap();

    // What has been damaged is not trained on.
    let ids = fs::read(texts.join("train.ids")).unwrap();
    fs::write(texts.join("train.ids"), &ids[2..]).unwrap();
    assert_says(&message(preparation(&path, 40).resume(&dir)), &["train.ids", "what was written", "made again"]);
    let mut damaged = ids.clone();
    damaged[1_000_000] ^= 1;
    fs::write(texts.join("train.ids"), damaged).unwrap();
    let again = preparation(&path, 40).resume(&dir).unwrap();
    assert_says(&message(open(&dir, &again, true)), &["other train"]);
    // Whoever was killed before all was written begins again.
    fs::remove_file(texts.join("texts.json")).unwrap();
    preparation(&path, 40).resume(&dir).unwrap();
    assert_eq!(fs::read(texts.join("train.ids")).unwrap(), ids);
    // So does another text.
    fs::write(&path, lines(19_999)).unwrap();
    let other = preparation(&path, 40).resume(&dir).unwrap();
    assert_ne!(
        other.train.sentences + other.validation.sentences,
        prepared.train.sentences + prepared.validation.sentences
    );
    assert_says(&message(open(&dir, &other, true)), &["other train"]);
    // A text that cannot be used leaves nothing.
    let (dir, none) = (folder.path().join("other"), Preparation { max_len: 2, ..preparation(&path, 40) });
    preparation(&path, 40).start(&dir).unwrap();
    assert!(dir.join("texts").exists());
    assert_says(&message(none.resume(&dir)), &["max_len"]);
    assert!(!dir.join("texts").exists());
}
