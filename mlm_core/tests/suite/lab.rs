//! The lab of notebook 08, end to end: five sentences, 625 steps, every word recovered.

use mlm_core::candle_core::{DType, Device};
use mlm_core::*;

use crate::{five_sentences, seeded};

struct Lab {
    /// Mean training loss of each epoch.
    losses: Vec<f64>,
    recovered: usize,
    words: usize,
    params: Params,
}

/// Trains for some epochs as notebook 08 does.
fn train(seed: u64, epochs: usize) -> Result<Lab> {
    let mut rng = seeded(seed);
    let sentences = five_sentences()?;
    let corpus = sentences.repeat(200)?;
    let tokenizer = Tokenizer::train(&corpus, 1000, true)?;
    let config = ModelConfig::new(tokenizer.vocab());
    let masker = Masker::new(&tokenizer, Masking::default())?;
    let loader = DataLoader::new(tokenizer.encode_corpus(&corpus, config.max_len)?.sequences, 8)?;
    let mut encoder = Reference::new(&Params::init(&config, &mut rng)?, DType::F32, &Device::Cpu)?;
    let mut optimizer = AdamW::new(&encoder, AdamWConfig::default())?;
    let schedule = Schedule::new(1e-3, 60, 5 * loader.batches())?;
    let mut losses = Vec::new();
    let mut step = 0;
    for _ in 0..epochs {
        let mut sum = 0.0;
        for batch in loader.epoch(&masker, &mut rng) {
            let loss = encoder.loss(&batch?, Mode::Train { dropout_seed: step as u64 })?;
            let mut gradients = encoder.gradients(&loss)?;
            gradients.clip(1.0)?;
            optimizer.step(&mut encoder, &gradients, schedule.lr(step)?)?;
            sum += f64::from(loss.to_scalar::<f32>()?);
            step += 1;
        }
        losses.push(sum / loader.batches() as f64);
    }
    let recovery = recovery(&encoder, &tokenizer, &sentences)?;
    Ok(Lab { losses, recovered: recovery.recovered(), words: recovery.words.len(), params: encoder.params()? })
}

#[test]
fn recovers_every_word_for_ten_seeds() {
    for seed in 0..10 {
        let lab = train(seed, 5).unwrap();
        println!("seed {seed}: {} of {} recovered, losses {:.3?}", lab.recovered, lab.words, lab.losses);
        assert_eq!((lab.recovered, lab.words), (33, 33), "seed {seed}");
        assert!(lab.losses[4] <= 0.15, "seed {seed}: the last epoch's mean loss is {}", lab.losses[4]);
    }
}

#[test]
fn the_same_seed_gives_the_same_weights_bit_for_bit() {
    let (first, second) = (train(3, 1).unwrap(), train(3, 1).unwrap());
    assert_eq!(first.losses, second.losses);
    assert_eq!(first.params, second.params);
    assert_ne!(first.params, train(4, 1).unwrap().params);
}
