//! A training that is interrupted, wherever, ends with the weights of one that is not.

use std::fs;
use std::path::Path;

use mlm_core::candle_core::Device;
use mlm_core::*;
use proptest::prelude::*;
use tempfile::TempDir;

use crate::{assert_says, five_sentences, message, seeded};

const STEPS: usize = 12;

/// What is trained: 6 sentences in batches of 4, two a epoch.
#[derive(Clone)]
pub(crate) struct Plan {
    pub(crate) texts: Texts,
    pub(crate) model: ModelConfig,
    pub(crate) config: TrainingConfig,
    pub(crate) back_end: BackEnd,
}

impl Plan {
    pub(crate) fn new() -> Self {
        let corpus = five_sentences().unwrap().repeat(3).unwrap();
        let tokenizer = Tokenizer::train(&corpus, &TokenizerConfig::new(80)).unwrap();
        let sequences = tokenizer.encode_corpus(&corpus, 32).unwrap().sequences.to_vec().unwrap();
        let model = ModelConfig {
            d_model: 8,
            d_ff: 16,
            layers: 1,
            heads: 2,
            hidden_dropout: 0.1,
            attention_dropout: 0.1,
            ..ModelConfig::new(tokenizer.vocab())
        };
        let (train, validation) = (sequences[..15].to_vec().into(), sequences[..5].to_vec().into());
        Self {
            texts: Texts { tokenizer, train, validation, grammar: None },
            model,
            config: TrainingConfig { epochs: 3, batch_size: 4, ..TrainingConfig::default() },
            back_end: BackEnd::Engine(EngineConfig { threads: 2, ..EngineConfig::default() }),
        }
    }

    pub(crate) fn start(&self, dir: &Path) -> Result<Training> {
        Training::start(dir, &self.texts, &self.model, &self.config, &self.back_end)
    }

    pub(crate) fn resume(&self, dir: &Path) -> Result<Training> {
        Training::resume(dir, &self.texts, &self.model, &self.config, &self.back_end)
    }

    /// Trains into a folder until the end and gives the model's file.
    pub(crate) fn finish(&self, dir: &Path) -> Result<Vec<u8>> {
        let mut training = self.resume(dir)?;
        while !training.is_finished() {
            training.step()?;
        }
        assert_eq!(training.steps(), STEPS);
        Ok(fs::read(dir.join("model.safetensors")).unwrap())
    }
}

pub(crate) fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// The losses of a run; how fast it was is another each time.
pub(crate) fn losses(dir: &Path) -> Vec<EpochRecord> {
    let history = History::load(dir).unwrap();
    let records = history.records().iter().cloned();
    records.map(|record| EpochRecord { tokens_per_second: None, ..record }).collect()
}

#[test]
fn a_training_that_is_interrupted_at_any_step_ends_with_the_same_bits() {
    for back_end in [Plan::new().back_end, BackEnd::Reference(Device::Cpu)] {
        let plan = Plan { back_end, ..Plan::new() };
        let whole = folder();
        let expected = plan.finish(whole.path()).unwrap();
        assert_eq!(losses(whole.path()).len(), 4);
        for (interrupted, saves) in (0..STEPS).flat_map(|step| [(step, false), (step, true)]) {
            let folder = folder();
            let mut training = plan.start(folder.path()).unwrap();
            for _ in 0..interrupted {
                training.step().unwrap();
            }
            if saves {
                training.save().unwrap();
            }
            drop(training);
            assert!(plan.finish(folder.path()).unwrap() == expected, "interrupted after {interrupted}, saved: {saves}");
            assert_eq!(losses(folder.path()), losses(whole.path()));
        }
    }
}

/// The files of a folder and those of `checkpoints/` in it.
fn files(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    for part in ["", "checkpoints/"] {
        for entry in fs::read_dir(dir.join(part)).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                let name = format!("{part}{}", path.file_name().unwrap().to_str().unwrap());
                files.push((name, fs::read(path).unwrap()));
            }
        }
    }
    files.sort();
    files
}

/// Every state that a folder passes through while a state is written, from system call to system call: of each file in its
/// turn first nothing, then a part and then the whole stands under another name, which then becomes its own.
#[test]
fn a_training_goes_on_from_whatever_a_crash_leaves_behind_while_it_saves() {
    let plan = Plan::new();
    let whole = folder();
    let expected = plan.finish(whole.path()).unwrap();
    let folder = folder();
    let mut training = plan.start(folder.path()).unwrap();
    for step in 1..=5 {
        training.step().unwrap();
        if step == 4 {
            training.save().unwrap(); // an epoch, which took too short a time to be saved for that
        }
    }
    let before = files(folder.path());
    training.save().unwrap();
    drop(training);
    let after = files(folder.path());
    let written = ["checkpoints/step-5.safetensors", "config.json", "model.safetensors", "history.jsonl"];
    let removed = "checkpoints/step-0.safetensors";
    let names = |files: &[(String, Vec<u8>)]| files.iter().map(|it| it.0.clone()).collect::<Vec<_>>();
    assert!(names(&before).contains(&removed.to_owned()) && !names(&after).contains(&removed.to_owned()));

    let state = tempfile::tempdir().unwrap();
    let put = |name: &str, bytes: &[u8]| {
        fs::create_dir_all(state.path().join("checkpoints")).unwrap();
        fs::write(state.path().join(name), bytes).unwrap();
    };
    let mut tried = 0;
    let mut current = before;
    for (nth, name) in written.iter().enumerate() {
        let (_, bytes) = after.iter().find(|it| it.0 == *name).unwrap();
        for partial in [Some(0), Some(bytes.len() / 2), Some(bytes.len()), None] {
            fs::remove_dir_all(state.path()).unwrap();
            current.iter().for_each(|(name, bytes)| put(name, bytes));
            match partial {
                Some(length) => put(&format!("{name}.partial"), &bytes[..length]),
                None => put(name, bytes),
            }
            assert!(plan.finish(state.path()).unwrap() == expected, "{name}, {partial:?}");
            assert!(files(state.path()).iter().all(|it| !it.0.ends_with("partial")), "{name}, {partial:?}");
            tried += 1;
        }
        current.retain(|it| it.0 != *name && (nth > 0 || it.0 != removed));
        current.push((name.to_string(), bytes.clone()));
    }
    assert_eq!(tried, 16);
    current.sort();
    assert!(current == after, "{:?} and {:?}", names(&current), names(&after));
}

/// However short the epochs are, writing their states takes no longer than they do.
#[test]
fn epochs_that_follow_each_other_at_once_are_saved_at_the_end() {
    let plan = Plan::new();
    let folder = folder();
    let mut training = plan.start(folder.path()).unwrap();
    let states =
        || files(folder.path()).into_iter().map(|it| it.0).filter(|it| it.contains("step-")).collect::<Vec<_>>();
    while training.step_number() + 1 < training.steps() {
        training.step().unwrap();
    }
    assert_eq!(states(), ["checkpoints/step-0.safetensors"]);
    training.step().unwrap();
    assert_eq!(states(), ["checkpoints/step-0.safetensors", "checkpoints/step-12.safetensors"]);
    assert_eq!(History::load(folder.path()).unwrap().records().len(), 4, "and that before training");
}

#[test]
fn a_training_that_has_begun_differently_is_refused_and_says_in_what() {
    let plan = Plan::new();
    let folder = folder();
    let dir = folder.path();
    drop(plan.start(dir).unwrap());
    let refused = |change: &dyn Fn(&mut Plan), said: &str| {
        let mut other = plan.clone();
        change(&mut other);
        assert_says(&message(other.resume(dir)), &[dir.to_str().unwrap(), said]);
    };
    refused(&|plan| plan.model.d_model = 16, "d_model 16 where it was 8");
    refused(&|plan| plan.config.epochs = 4, "epochs 4 where it was 3");
    refused(&|plan| plan.config.masking.rate = 0.15, "rate 0.15 where it was 0.4");
    refused(&|plan| plan.config.adamw.weight_decay = 0.0, "weight_decay 0.0 where it was 0.1");
    refused(
        &|plan| plan.config.initialization = Initialization::Noise,
        "initialization \"Noise\" where it was \"Nearby\"",
    );
    refused(&|plan| plan.back_end = BackEnd::Reference(Device::Cpu), "reference");
    refused(&|plan| plan.back_end = BackEnd::Engine(EngineConfig { threads: 1, ..Default::default() }), "threads 1");
    refused(&|plan| plan.back_end = BackEnd::Engine(EngineConfig { threads: 3, ..Default::default() }), "--threads 2");
    let change = |sequences: &mut Sequences, change: fn(&mut Vec<Vec<u32>>)| {
        let mut all = sequences.to_vec().unwrap();
        change(&mut all);
        *sequences = all.into();
    };
    refused(&|plan| change(&mut plan.texts.train, |all| all.swap(0, 1)), "other train");
    refused(&|plan| change(&mut plan.texts.validation, |all| all.truncate(3)), "other validation");
    let corpus = five_sentences().unwrap();
    refused(
        &|plan| plan.texts.tokenizer = Tokenizer::train(&corpus, &TokenizerConfig::cased(plan.model.vocab)).unwrap(),
        "other tokenizer",
    );
    assert_says(&message(plan.start(dir)), &["a training of 0 steps"]);
    let mut small = plan.clone();
    small.model.vocab = 70;
    assert_says(&message(small.resume(dir)), &["vocab", "at least", "70"]);
    plan.finish(dir).unwrap();
}

#[test]
fn a_folder_of_something_else_is_left_alone() {
    let folder = folder();
    let thesis = folder.path().join("thesis.tex");
    fs::write(&thesis, "x").unwrap();
    assert_says(&message(Plan::new().resume(folder.path())), &["thesis.tex"]);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    assert_says(&message(Plan::new().start(&thesis)), &["thesis.tex"]);
    assert_eq!(fs::read(&thesis).unwrap(), b"x");
}

#[test]
fn only_one_training_at_a_time_writes_into_a_folder() {
    let (plan, folder) = (Plan::new(), folder());
    let mut first = plan.start(folder.path()).unwrap();
    assert_says(&message(plan.resume(folder.path())), &["no other process"]);
    first.step().unwrap();
    drop(first);
    plan.resume(folder.path()).unwrap();
}

#[test]
fn a_training_that_cannot_go_on_keeps_its_last_state() {
    let mut plan = Plan::new();
    plan.config.lr = 1e30;
    let folder = folder();
    let mut training = plan.start(folder.path()).unwrap();
    let error = loop {
        match training.step() {
            Ok(_) => assert!(!training.is_finished()),
            Err(error) => break error.to_string(),
        }
    };
    assert!(error.contains("smaller learning rate"), "{error}");
    assert!(Params::from_pretrained(folder.path()).is_ok());
}

/// Nothing after it would notice: no step, and no test.
#[test]
fn the_last_step_must_not_be_too_large_either() {
    let mut plan = Plan::new();
    plan.texts.validation = Sequences::default();
    plan.config = TrainingConfig { epochs: 1, batch_size: 15, lr: 1e30, ..plan.config };
    let folder = folder();
    let mut training = plan.start(folder.path()).unwrap();
    assert_eq!(training.steps(), 1);
    assert_says(&message(training.step()), &["smaller learning rate"]);
    assert!(Params::from_pretrained(folder.path()).is_ok());
}

#[test]
fn a_model_that_computes_no_numbers_has_neither_a_loss_nor_answers() {
    let plan = Plan::new();
    let mut params = Params::init(&plan.model, &mut seeded(0)).unwrap();
    let name = "bert.embeddings.word_embeddings.weight";
    let large = vec![f32::MAX; params.get(name).unwrap().len()];
    params.set(name, &large).unwrap();
    let (engine, tokenizer) = (Engine::new(&params).unwrap(), &plan.texts.tokenizer);
    let masker = Masker::new(tokenizer, Masking::default()).unwrap();
    let loader = DataLoader::new(plan.texts.train.clone(), 4).unwrap();
    let batches = loader.fixed(&masker, &mut seeded(0)).unwrap();
    assert_says(&message(evaluate(&engine, &batches)), &["loss", "a number", "got NaN"]);
    assert_says(&message(fill_mask(&engine, tokenizer, "the [MASK]", 5)), &["probabilities", "got NaN"]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Longer: PROPTEST_CASES=100000.
    #[test]
    fn a_damaged_checkpoint_is_an_error_that_names_it(at in 0.0f64..1.0, flip in 1u8.., cut: bool) {
        thread_local! {
            static TRAINED: (Plan, TempDir) = {
                let (plan, folder) = (Plan::new(), folder());
                plan.finish(folder.path()).unwrap();
                (plan, folder)
            };
        }
        TRAINED.with(|(plan, trained)| {
            let name = "checkpoints/step-12.safetensors";
            let path = trained.path().join(name);
            let whole = fs::read(&path).unwrap();
            let mut bytes = whole.clone();
            let at = (at * bytes.len() as f64) as usize;
            bytes[at] ^= flip;
            if cut {
                bytes.truncate(at);
            }
            fs::write(&path, bytes).unwrap();
            let outcome = plan.resume(trained.path()).map(|_| ());
            fs::write(&path, whole).unwrap();
            let message = message(outcome);
            prop_assert!(message.contains(name), "{}", message);
            Ok(())
        })?;
    }
}

#[test]
fn of_a_large_text_a_sample_is_tested_and_counted() {
    let sequence = |nth: u32| vec![2, 5 + nth % 20, 5 + nth / 20 % 20, 3];
    let mut texts = Plan::new().texts;
    texts.validation = (0..32_768).map(sequence).collect::<Vec<_>>().into();
    assert_eq!((texts.validation.tokens(), texts.tested()), (131_072, 32_768));
    texts.validation = (0..65_537).map(sequence).collect::<Vec<_>>().into();
    let tested = texts.tested();
    assert_eq!(tested, 32_768);
    let batches = texts.validation_batches(0).unwrap();
    assert_eq!(batches.iter().map(Batch::sequences).sum::<usize>(), tested);
    assert_eq!(batches, texts.validation_batches(0).unwrap());
    assert_ne!(batches, texts.validation_batches(1).unwrap());

    let large: Sequences = vec![vec![5; 512]; 40_000].into();
    assert_eq!(Baselines::counted(&large), 20_000);
    assert_eq!(Baselines::counted(&texts.validation), 65_537);
}
