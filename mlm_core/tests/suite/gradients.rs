//! The gradients of the reference encoder against finite differences, over random models.

use mlm_core::candle_core::{DType, Device, Tensor};
use mlm_core::rand::Rng;
use mlm_core::rand::rngs::StdRng;
use mlm_core::*;

use crate::{assert_says, message, random_model, seeded};

fn small_model(rng: &mut StdRng, dropout: f64) -> (Reference, Batch) {
    let largest = ModelConfig { d_model: 12, heads: 3, layers: 3, d_ff: 11, max_len: 8, ..ModelConfig::new(19) };
    let (params, batch) = random_model(rng, &largest, dropout);
    (Reference::new(&params, DType::F64, &Device::Cpu).unwrap(), batch)
}

#[test]
fn every_gradient_is_the_slope_of_the_loss() {
    const STEP: f64 = 1e-5;
    let mut rng = seeded(5);
    for round in 0..12 {
        let dropout = if round % 2 == 0 { 0.0 } else { 0.3 };
        let (encoder, batch) = small_model(&mut rng, dropout);
        let mode = Mode::Train { dropout_seed: round };
        let loss = || encoder.loss(&batch, mode).unwrap();
        let gradients = encoder.gradients(&loss()).unwrap();
        for name in gradients.names() {
            let weight = encoder.weight(name).unwrap();
            let gradient: Vec<f64> = gradients.get(name).unwrap().flatten_all().unwrap().to_vec1().unwrap();
            let original = weight.as_tensor().copy().unwrap();
            for _ in 0..4 {
                let at = rng.random_range(0..gradient.len());
                let mut nudge = vec![0.0; gradient.len()];
                nudge[at] = STEP;
                let nudge = Tensor::from_vec(nudge, weight.shape(), &Device::Cpu).unwrap();
                let loss_at = |moved: Tensor| {
                    weight.set(&moved).unwrap();
                    loss().to_scalar::<f64>().unwrap()
                };
                let above = loss_at((&original + &nudge).unwrap());
                let below = loss_at((&original - &nudge).unwrap());
                weight.set(&original).unwrap();
                let slope = (above - below) / (2.0 * STEP);
                let error = (slope - gradient[at]).abs() / slope.abs().max(1e-2);
                assert!(error < 1e-5, "{name}[{at}]: slope {slope}, gradient {}, {encoder:?}", gradient[at]);
            }
        }
    }
}

#[test]
fn dropout_drops_in_training_only_and_by_its_seed() {
    let (encoder, batch) = small_model(&mut seeded(9), 0.5);
    let loss = |mode| encoder.loss(&batch, mode).unwrap().to_scalar::<f64>().unwrap();
    let train = |dropout_seed| loss(Mode::Train { dropout_seed });
    assert_eq!(train(1), train(1));
    assert_ne!(train(1), train(2));
    assert_ne!(train(1), loss(Mode::Evaluate));
    assert_eq!(loss(Mode::Evaluate), loss(Mode::Evaluate));
    let evaluation = evaluate(&encoder, std::slice::from_ref(&batch)).unwrap();
    assert!((evaluation.loss - loss(Mode::Evaluate)).abs() < 1e-12, "{evaluation:?}");
}

/// What a faster back end must reproduce: the draw depends on a token's row in the unpadded batch, not on the padding.
#[test]
fn dropout_does_not_depend_on_what_comes_after() {
    let (encoder, _) = small_model(&mut seeded(9), 0.5);
    let logits = |sequences: &[&[u32]]| {
        let batch = Batch::with_gaps(sequences.iter().copied(), 4);
        let logits = encoder.logits(&batch, Mode::Train { dropout_seed: 3 }).unwrap();
        logits.get(0).unwrap().to_vec1::<f64>().unwrap()
    };
    let (alone, together) = (logits(&[&[1, 4, 2]]), logits(&[&[1, 4, 2], &[5, 4, 3, 1, 0]]));
    assert!(alone.iter().zip(together).all(|(a, b)| (a - b).abs() < 1e-12));
}

#[test]
fn a_weight_without_a_gradient_is_named() {
    let (encoder, _) = small_model(&mut seeded(7), 0.0);
    let elsewhere = Tensor::new(1f64, &Device::Cpu).unwrap();
    assert_says(&message(encoder.gradients(&elsewhere)), &["bert.embeddings.word_embeddings.weight", "no gradient"]);
}
