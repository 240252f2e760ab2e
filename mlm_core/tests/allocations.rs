//! A training step of the engine takes no memory once it has seen the largest batch, unless a product is so large that it
//! is left to the library `gemm`; a checkpoint and a model take hardly more than themselves. A program of its own, because the allocator
//! counts for all of it.

use std::alloc::System;
use std::fs;
use std::sync::Mutex;

use mlm_core::rand::rngs::StdRng;
use mlm_core::rand::{Rng, SeedableRng};
use mlm_core::*;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Held by the test that counts.
static COUNTING: Mutex<()> = Mutex::new(());

/// How many bytes are taken meanwhile, given back or not.
fn taken<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let region = Region::new(ALLOCATOR);
    let result = work();
    (result, region.change().bytes_allocated)
}

/// Sequences of the given lengths, in which every third token is masked.
fn batch(lengths: &[usize], rng: &mut StdRng) -> Batch {
    let mut batch = Batch::with_gaps([], 0);
    for &length in lengths {
        for _ in 0..length {
            if batch.tokens().is_multiple_of(3) {
                batch.masked_rows.push(batch.tokens());
                batch.targets.push(rng.random_range(0..50));
                batch.treatments.push(Treatment::Mask);
            }
            batch.input_ids.push(rng.random_range(0..50));
        }
        batch.offsets.push(batch.tokens());
    }
    batch
}

#[test]
fn a_step_takes_no_memory_whatever_the_batch() {
    let _counting = COUNTING.lock();
    let mut rng = StdRng::seed_from_u64(0);
    // A small model, of which each thread has a copy, and a large one.
    let models = [50, 8_000].map(|vocab| {
        let config = ModelConfig { hidden_dropout: 0.1, attention_dropout: 0.1, ..ModelConfig::new(vocab) };
        Params::init(&config, &mut rng).unwrap()
    });
    let how = [(1, Precision::F32), (2, Precision::F32), (3, Precision::F32), (2, Precision::Bf16)];
    for (params, (threads, precision)) in models.iter().flat_map(|params| how.map(|how| (params, how))) {
        let mut engine =
            Engine::with_config(params, EngineConfig { threads, precision, ..EngineConfig::default() }).unwrap();
        let mut gradients = Gradients::zeros(&engine).unwrap();
        let mut optimizer = AdamW::new(&engine, AdamWConfig::default()).unwrap();
        let mut step = |engine: &mut Engine, batch: &Batch| {
            let mode = Mode::Train { dropout_seed: u64::from(optimizer.steps()) };
            engine.forward(batch, mode).unwrap();
            engine.backward(&mut gradients).unwrap();
            gradients.clip(1.0).unwrap();
            optimizer.step(engine, &gradients, 1e-3).unwrap();
        };
        let largest = batch(&[32; 8], &mut rng);
        let others: Vec<Batch> = (0..20)
            .map(|_| {
                let lengths: Vec<usize> = (0..rng.random_range(1..=8)).map(|_| rng.random_range(1..=32)).collect();
                batch(&lengths, &mut rng)
            })
            .collect();
        for _ in 0..3 {
            step(&mut engine, &largest);
        }
        let region = Region::new(ALLOCATOR);
        for batch in others.iter().chain([&largest]) {
            step(&mut engine, batch);
        }
        let change = region.change();
        assert_eq!((change.allocations, change.reallocations), (0, 0), "{threads} threads: {change:?}");
    }
}

#[test]
fn to_save_and_to_load_a_training_takes_at_most_1_3_times_its_file() {
    let _counting = COUNTING.lock();
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("run");
    let corpus = Corpus::from_lines(["the cake is a lie", "to be or not to be"]).unwrap();
    let tokenizer = Tokenizer::train(&corpus, &TokenizerConfig::new(100)).unwrap();
    let train = tokenizer.encode_corpus(&corpus, 32).unwrap().sequences;
    let texts = Texts { tokenizer, train, validation: Sequences::default(), grammar: None };
    let model = ModelConfig { d_model: 128, ..ModelConfig::new(8000) };
    let (config, threads) = (TrainingConfig::default(), EngineConfig { threads: 1, ..EngineConfig::default() });
    let back_end = BackEnd::Engine(threads);

    let mut training = Training::start(&dir, &texts, &model, &config, &back_end).unwrap();
    training.step().unwrap();
    let (saved, to_save) = taken(|| training.save());
    saved.unwrap();
    drop(training);
    let file = fs::metadata(dir.join("checkpoints/step-1.safetensors")).unwrap().len() as f64;
    assert!((to_save as f64) < 1.3 * file, "{to_save} bytes to save a file of {file}");

    // What a training consists of, whether it is loaded or begins.
    let (_, parts) = taken(|| {
        let params = Params::init(&model, &mut StdRng::seed_from_u64(0)).unwrap();
        let engine = Engine::with_config(&params, threads).unwrap();
        (Gradients::zeros(&engine).unwrap(), AdamW::new(&engine, AdamWConfig::default()).unwrap())
    });
    let (resumed, all) = taken(|| Training::resume(&dir, &texts, &model, &config, &back_end));
    assert_eq!(resumed.unwrap().step_number(), 1);
    let to_load = (all - parts) as f64;
    assert!(to_load < 1.3 * file, "{to_load} bytes to load a file of {file}");
}

#[test]
fn to_evaluate_takes_at_most_1_2_times_a_training_step() {
    let _counting = COUNTING.lock();
    let mut rng = StdRng::seed_from_u64(0);
    let config = ModelConfig { d_model: 16, heads: 2, d_ff: 32, layers: 1, ..ModelConfig::new(8000) };
    let params = Params::init(&config, &mut rng).unwrap();
    let batches = [batch(&[32; 32], &mut rng)];
    let engine = || Engine::with_threads(&params, 2).unwrap();
    let (mut trained, asked) = (engine(), engine());
    let (_, step) = taken(|| {
        let mut gradients = Gradients::zeros(&trained).unwrap();
        trained.forward(&batches[0], Mode::Train { dropout_seed: 0 }).unwrap();
        trained.backward(&mut gradients).unwrap();
    });
    let folder = tempfile::tempdir().unwrap();
    let words = (5..8000).map(|nth| format!("w{nth}"));
    let tokens: Vec<String> =
        ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"].map(String::from).into_iter().chain(words).collect();
    fs::write(folder.path().join("vocab.txt"), tokens.join("\n")).unwrap();
    let masker = Masker::new(&Tokenizer::from_pretrained(&folder).unwrap(), Masking::default()).unwrap();
    let unigram = Unigram::fit(&vec![vec![2, 7, 8, 3]].into(), &masker).unwrap();
    for (what, predictor) in [("engine", &asked as &dyn Predictor), ("baseline", &unigram)] {
        let (_, bytes) = taken(|| evaluate(predictor, &batches).unwrap());
        assert!((bytes as f64) < 1.2 * step as f64, "{what}: {bytes} bytes to evaluate, {step} for a step");
    }
}

#[test]
fn to_load_a_model_takes_at_most_1_2_times_its_weights() {
    let _counting = COUNTING.lock();
    let folder = tempfile::tempdir().unwrap();
    let params = Params::init(&ModelConfig { d_model: 128, ..ModelConfig::new(8000) }, &mut StdRng::seed_from_u64(0));
    let params = params.unwrap();
    params.save_pretrained(&folder).unwrap();
    let (loaded, bytes) = taken(|| Params::from_pretrained(&folder).unwrap());
    assert!(loaded == params);
    let weights = size_of_val(params.as_slice()) as f64;
    assert!((bytes as f64) < 1.2 * weights, "{bytes} bytes to load {weights}");
}

#[test]
fn a_training_reads_the_texts_that_it_is_given_and_no_copy() {
    let _counting = COUNTING.lock();
    let folder = tempfile::tempdir().unwrap();
    let corpus = Corpus::from_lines(["the cake is a lie", "to be or not to be"]).unwrap();
    let tokenizer = Tokenizer::train(&corpus, &TokenizerConfig::new(100)).unwrap();
    let sentence: Vec<u32> = tokenizer.encode_corpus(&corpus, 32).unwrap().sequences.get(0).unwrap().repeat(4);
    let train: Sequences = vec![sentence; 100_000].into();
    let ids = train.tokens() * size_of::<u16>();
    let model = ModelConfig { d_model: 8, d_ff: 8, heads: 1, layers: 1, ..ModelConfig::new(tokenizer.vocab()) };
    let texts = Texts { tokenizer, train, validation: Sequences::default(), grammar: None };
    let back_end = BackEnd::Engine(EngineConfig { threads: 1, ..EngineConfig::default() });
    let (training, bytes) =
        taken(|| Training::start(folder.path().join("run"), &texts, &model, &TrainingConfig::default(), &back_end));
    training.unwrap();
    assert!(bytes < ids / 5, "{bytes} bytes for a training on {ids} bytes of ids");
}
