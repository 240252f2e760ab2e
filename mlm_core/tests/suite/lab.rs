//! The lab of notebook 08, end to end: five sentences, 625 steps, every word recovered.

use mlm_core::candle_core::{DType, Device};
use mlm_core::*;

use crate::{assert_close, five_sentences, seeded};

struct Lab {
    /// The loss of each step.
    steps: Vec<f64>,
    /// Mean training loss of each epoch.
    losses: Vec<f64>,
    recovered: usize,
    words: usize,
    params: Params,
}

/// Trains for some epochs as notebook 08 does, with the encoder that `back_end` makes of the initial weights.
fn train<E: Encoder>(seed: u64, epochs: usize, back_end: impl FnOnce(&Params) -> Result<E>) -> Result<Lab> {
    let sentences = five_sentences()?;
    let corpus = sentences.repeat(200)?;
    let tokenizer = Tokenizer::train(&corpus, &TokenizerConfig::new(1000))?;
    let config = ModelConfig::new(tokenizer.vocab());
    let masker = Masker::new(&tokenizer, Masking::default())?;
    let loader = DataLoader::new(tokenizer.encode_corpus(&corpus, config.max_len)?.sequences, 8)?;
    let mut encoder = back_end(&Params::init(&config, &mut seeded(seed))?)?;
    let mut gradients = Gradients::zeros(&encoder)?;
    let mut optimizer = AdamW::new(&encoder, AdamWConfig::default())?;
    let schedule = Schedule::new(1e-3, 60, 5 * loader.batches())?;
    let (mut rng, mut steps) = (seeded(seed), Vec::new());
    for _ in 0..epochs {
        for batch in loader.epoch(&masker, &mut rng) {
            let step = steps.len();
            steps.push(encoder.forward(&batch?, Mode::Train { dropout_seed: step as u64 })?);
            encoder.backward(&mut gradients)?;
            gradients.clip(1.0)?;
            optimizer.step(&mut encoder, &gradients, schedule.lr(step)?)?;
        }
    }
    let losses = steps.chunks(loader.batches()).map(|steps| steps.iter().sum::<f64>() / steps.len() as f64).collect();
    let recovery = recovery(&encoder, &tokenizer, &sentences)?;
    let (recovered, words) = (recovery.recovered(), recovery.words.len());
    Ok(Lab { steps, losses, recovered, words, params: encoder.params()? })
}

#[test]
fn recovers_every_word_for_ten_seeds() {
    for seed in 0..10 {
        let lab = train(seed, 5, Engine::new).unwrap();
        println!("seed {seed}: {} of {} recovered, losses {:.3?}", lab.recovered, lab.words, lab.losses);
        assert_eq!((lab.recovered, lab.words), (33, 33), "seed {seed}");
        assert!(lab.losses[4] <= 0.15, "seed {seed}: the last epoch's mean loss is {}", lab.losses[4]);
    }
}

#[test]
fn both_back_ends_and_any_number_of_threads_draw_the_same_loss_curve() {
    let engine = train(0, 5, |params| Engine::with_threads(params, 1)).unwrap();
    let reference = train(0, 5, |params| Reference::new(params, DType::F32, &Device::Cpu)).unwrap();
    assert_close("reference", &engine.losses, &reference.losses, 1.0, 1e-3);
    for threads in 2..=4 {
        let other = train(0, 5, |params| Engine::with_threads(params, threads)).unwrap();
        assert_close("threads", &engine.losses, &other.losses, 1.0, 1e-5);
    }
}

#[test]
fn products_in_bf16_draw_nearly_the_same_loss_curve() {
    let [exact, rounded] = [Precision::F32, Precision::Bf16].map(|precision| {
        train(0, 5, |params| {
            Engine::with_config(params, EngineConfig { threads: 2, precision, ..EngineConfig::default() })
        })
        .unwrap()
    });
    println!("losses {:.4?} in f32, {:.4?} in bf16", exact.losses, rounded.losses);
    for (exact, rounded) in exact.losses.iter().zip(&rounded.losses) {
        assert!((rounded / exact - 1.0).abs() < 0.01, "{rounded} in bf16, {exact} in f32");
    }
    assert_eq!(rounded.recovered, 33);
    assert_ne!(exact.losses, rounded.losses);
}

#[test]
fn the_same_seed_gives_the_same_weights_bit_for_bit() {
    let two_threads = |params: &Params| Engine::with_threads(params, 2);
    let (first, second) = (train(3, 1, two_threads).unwrap(), train(3, 1, two_threads).unwrap());
    assert_eq!(first.losses, second.losses);
    assert_eq!(first.params, second.params);
    assert_ne!(first.params, train(4, 1, two_threads).unwrap().params);
}

/// What `BertForMaskedLM` has computed from notebook 08's initial weights on its batches (`scripts/goldens`), in f32 and in
/// f64: rounding alone is between us.
#[test]
fn the_loss_of_each_step_is_that_of_pytorch() {
    let golden = include_str!("../../../data/pytorch_losses.csv").lines().skip(1);
    let golden: Vec<Vec<f64>> =
        golden.map(|line| line.split(',').map(|number| number.parse().unwrap()).collect()).collect();
    let [single, double] = [1, 2].map(|column| golden.iter().map(|row| row[column]).collect::<Vec<_>>());
    let exact = train(0, 5, |params| Reference::new(params, DType::F64, &Device::Cpu)).unwrap();
    assert_close("reference in f64", &exact.steps, &double, 1.0, 1e-9);
    for threads in 1..=2 {
        let engine = train(0, 5, |params| Engine::with_threads(params, threads)).unwrap();
        assert_close("engine", &engine.steps, &single, 1.0, 1e-4);
    }
}
