//! The engine against the reference in f64, over random models; what it promises about threads and memory.

use mlm_core::candle_core::{DType, Device, Tensor};
use mlm_core::rand::Rng;
use mlm_core::rand::rngs::StdRng;
use mlm_core::*;

use crate::{assert_close, assert_gradients, assert_says, flat, largest, message, random_model, seeded};

/// Widths that no vector divides, more layers, heads and words than one panel of a product holds.
fn largest_model() -> ModelConfig {
    ModelConfig { d_model: 60, heads: 4, layers: 4, d_ff: 70, max_len: 40, ..ModelConfig::new(90) }
}

/// One to three threads, on vectors of each width in turn.
fn how(rng: &mut StdRng, round: u64, precision: Precision) -> EngineConfig {
    let vectors = [Vectors::Widest, Vectors::Bits256, Vectors::None][round as usize % 3];
    EngineConfig { threads: rng.random_range(1..=3), precision, vectors }
}

/// The loss of a batch, and the gradients.
fn forward_and_back(encoder: &mut dyn Encoder, batch: &Batch, mode: Mode) -> (f64, Gradients) {
    let mut gradients = Gradients::zeros(encoder).unwrap();
    let loss = encoder.forward(batch, mode).unwrap();
    encoder.backward(&mut gradients).unwrap();
    (loss, gradients)
}

#[test]
fn loss_and_gradients_equal_the_reference_in_f64() {
    let mut rng = seeded(1);
    for round in 0..200 {
        let dropout = if round % 2 == 0 { 0.0 } else { 0.3 };
        let (params, batch) = loop {
            let (params, batch) = random_model(&mut rng, &largest_model(), dropout);
            // LayerNorm over fewer numbers divides by differences that are hardly more than rounding: candle's f32 is as
            // far from its f64 there as the engine.
            if params.config().d_model >= 6 {
                break (params, batch);
            }
        };
        let mode = Mode::Train { dropout_seed: round };
        let mut reference = Reference::new(&params, DType::F64, &Device::Cpu).unwrap();
        let mut engine = Engine::with_config(&params, how(&mut rng, round, Precision::F32)).unwrap();
        let (theirs, expected) = forward_and_back(&mut reference, &batch, mode);
        let (ours, gradients) = forward_and_back(&mut engine, &batch, mode);
        let name = format!("round {round}, {engine:?}, {:?}", batch.offsets);
        assert_close(&name, &[ours], &[theirs], theirs, 1e-4);
        println!("{name}");
        assert_gradients(&gradients, |name| flat(&expected.get(name).unwrap()), 1e-4);
    }
}

/// From BERT's initial weights: numbers of 8 binary digits are off by up to 1/512, and the errors of many layers add up.
/// (That each product is right to the last digit is tested beside it.)
#[test]
fn gradients_in_bf16_are_near_those_in_f64() {
    let mut rng = seeded(5);
    for round in 0..20 {
        let (params, batch) = random_model(&mut rng, &largest_model(), 0.1);
        let params = Params::init(params.config(), &mut rng).unwrap();
        let mode = Mode::Train { dropout_seed: round };
        let mut reference = Reference::new(&params, DType::F64, &Device::Cpu).unwrap();
        let mut engine = Engine::with_config(&params, how(&mut rng, round, Precision::Bf16)).unwrap();
        let (theirs, expected) = forward_and_back(&mut reference, &batch, mode);
        let (ours, gradients) = forward_and_back(&mut engine, &batch, mode);
        assert_close("loss", &[ours], &[theirs], theirs, 0.005);
        let (mut apart, mut long) = (0.0, 0.0);
        for name in gradients.names() {
            for (ours, theirs) in flat(&gradients.get(name).unwrap()).iter().zip(flat(&expected.get(name).unwrap())) {
                apart += (ours - theirs).powi(2);
                long += theirs.powi(2);
            }
        }
        let apart = (apart / long).sqrt();
        println!("{engine:?}: {apart}");
        assert!(apart < 0.02, "{engine:?}: all gradients are {apart} of their length apart");
    }
}

#[test]
fn logits_hidden_states_and_attention_equal_the_reference() {
    let mut rng = seeded(2);
    for round in 0..20 {
        let (params, batch) = random_model(&mut rng, &largest_model(), 0.2);
        let mode = if round % 2 == 0 { Mode::Evaluate } else { Mode::Train { dropout_seed: round } };
        let reference = Reference::new(&params, DType::F64, &Device::Cpu).unwrap();
        let engine = Engine::with_config(&params, how(&mut rng, round, Precision::F32)).unwrap();
        let [ours, theirs] =
            [engine.logits(&batch, mode), reference.logits(&batch, mode)].map(|logits| logits.unwrap());
        assert_eq!(ours.dims(), theirs.dims());
        let (ours, theirs) = (flat(&ours), flat(&theirs));
        assert_close("logits", &ours, &theirs, largest(&theirs), 1e-4);
        let [ours, theirs] =
            [engine.encode(&batch, mode), reference.encode(&batch, mode)].map(|encoded| encoded.unwrap());
        let seq = batch.longest();
        for (sequence, ends) in batch.offsets.windows(2).enumerate() {
            let length = ends[1] - ends[0];
            let rows = |hidden: &Tensor| flat(&hidden.narrow(0, sequence * seq, length).unwrap());
            assert_close("hidden", &rows(&ours.hidden), &rows(&theirs.hidden), 1.0, 1e-4);
            assert_eq!(
                (ours.hidden_states.len(), theirs.hidden_states.len()),
                (params.config().layers + 1, params.config().layers + 1)
            );
            for (ours, theirs) in ours.hidden_states.iter().zip(&theirs.hidden_states) {
                assert_close("hidden states", &rows(ours), &rows(theirs), 1.0, 1e-4);
            }
            for (ours, theirs) in ours.attention.iter().zip(&theirs.attention) {
                assert_eq!(ours.dims(), theirs.dims());
                let queries = |layer: &Tensor| flat(&layer.get(sequence).unwrap().narrow(1, 0, length).unwrap());
                assert_close("attention", &queries(ours), &queries(theirs), 1.0, 1e-5);
            }
        }
    }
}

/// One step of training on each of some batches.
fn train(engine: &mut Engine, batches: &[Batch]) -> Vec<f64> {
    let mut gradients = Gradients::zeros(engine).unwrap();
    let mut optimizer = AdamW::new(engine, AdamWConfig::default()).unwrap();
    let step = |(step, batch): (usize, &Batch)| {
        let loss = engine.forward(batch, Mode::Train { dropout_seed: step as u64 }).unwrap();
        engine.backward(&mut gradients).unwrap();
        gradients.clip(1.0).unwrap();
        optimizer.step(engine, &gradients, 1e-3).unwrap();
        loss
    };
    batches.iter().enumerate().map(step).collect()
}

#[test]
fn the_same_threads_give_the_same_bits_and_others_nearly_the_same_numbers() {
    let mut rng = seeded(3);
    let (params, batch) = random_model(&mut rng, &largest_model(), 0.1);
    let batches = vec![batch; 30];
    let trained = |threads| {
        let mut engine = Engine::with_threads(&params, threads).unwrap();
        (train(&mut engine, &batches), engine.params().unwrap())
    };
    let (losses, weights) = trained(2);
    assert_eq!((losses.clone(), weights), trained(2));
    for threads in [1, 3, 7] {
        assert_close("losses", &trained(threads).0, &losses, 1.0, 1e-5);
    }
}

/// Of a model with more than half a million parameters all threads read the same weights.
#[test]
fn the_gradients_of_a_large_model_equal_the_reference_on_any_number_of_threads() {
    let mut rng = seeded(8);
    let config = ModelConfig { d_model: 60, heads: 3, d_ff: 130, max_len: 24, ..ModelConfig::new(8_000) };
    let params = Params::init(&config, &mut rng).unwrap();
    assert!(params.len() > 500_000);
    let mut sequence = || -> Vec<u32> { (0..rng.random_range(2..24)).map(|_| rng.random_range(5..8_000)).collect() };
    let sequences: Vec<Vec<u32>> = (0..6).map(|_| sequence()).collect();
    let special = SpecialIds { pad: 0, unk: 1, cls: 2, sep: 3, mask: 4 };
    let masker = Masker::without_tokenizer(8_000, special, Masking::default()).unwrap();
    let batch = Batch::masked(sequences.iter().map(Vec::as_slice), &masker, &mut rng).unwrap();
    let mode = Mode::Train { dropout_seed: 1 };
    let mut reference = Reference::new(&params, DType::F64, &Device::Cpu).unwrap();
    let (theirs, expected) = forward_and_back(&mut reference, &batch, mode);
    for threads in [1, 2, 3, 8] {
        let mut engine = Engine::with_threads(&params, threads).unwrap();
        let (ours, gradients) = forward_and_back(&mut engine, &batch, mode);
        assert_close(&format!("{threads} threads"), &[ours], &[theirs], theirs, 1e-5);
        assert_gradients(&gradients, |name| flat(&expected.get(name).unwrap()), 1e-4);
    }
}

/// With few sequences several threads of a large model have a part of one.
#[test]
fn threads_that_share_a_sequence_compute_what_one_does() {
    let mut rng = seeded(9);
    let config = ModelConfig {
        d_model: 60,
        heads: 3,
        d_ff: 130,
        max_len: 90,
        hidden_dropout: 0.1,
        attention_dropout: 0.2,
        ..ModelConfig::new(8_000)
    };
    let params = Params::init(&config, &mut rng).unwrap();
    let mut batch_of = |lengths: &[usize], gaps: &[usize]| {
        let mut batch = Batch::with_gaps([], 0);
        for &length in lengths {
            batch.input_ids.extend((0..length).map(|_| rng.random_range(5..8_000u32)));
            batch.offsets.push(batch.tokens());
        }
        batch.masked_rows = gaps.to_vec();
        batch.targets = gaps.iter().map(|_| rng.random_range(5..8_000)).collect();
        batch.treatments = vec![Treatment::Mask; gaps.len()];
        batch
    };
    // In the third one all but one of the threads have a part of the sequence in which nothing is masked.
    for batch in [
        batch_of(&[90], &[3, 40, 41, 77, 89]),
        batch_of(&[70, 20, 60], &[0, 30, 75, 88, 90, 149]),
        batch_of(&[80], &[1]),
        batch_of(&[2, 1, 85, 3, 40], &[0, 2, 50, 60, 87, 88, 130]),
    ] {
        let mode = Mode::Train { dropout_seed: 1 };
        let mut reference = Reference::new(&params, DType::F64, &Device::Cpu).unwrap();
        let (theirs, expected) = forward_and_back(&mut reference, &batch, mode);
        let one = Engine::with_threads(&params, 1).unwrap();
        let Encoded { hidden_states, attention, .. } = one.encode(&batch, mode).unwrap();
        let encoded = [hidden_states, attention].concat();
        let (logits, scores) = (flat(&one.logits(&batch, mode).unwrap()), one.score(&batch).unwrap());
        for threads in [1, 2, 3, 5, 16] {
            let mut engine = Engine::with_threads(&params, threads).unwrap();
            let (ours, gradients) = forward_and_back(&mut engine, &batch, mode);
            assert_close(&format!("{threads} threads"), &[ours], &[theirs], theirs, 1e-5);
            assert_gradients(&gradients, |name| flat(&expected.get(name).unwrap()), 1e-4);
            let Encoded { hidden_states, attention, .. } = engine.encode(&batch, mode).unwrap();
            for (ours, one) in [hidden_states, attention].concat().iter().zip(&encoded) {
                assert_eq!(ours.dims(), one.dims());
                assert_close(&format!("{threads} threads"), &flat(ours), &flat(one), 1.0, 1e-5);
            }
            assert_close("logits", &flat(&engine.logits(&batch, mode).unwrap()), &logits, 1.0, 1e-5);
            for (ours, one) in engine.score(&batch).unwrap().iter().zip(&scores) {
                assert!((ours.log_probability - one.log_probability).abs() < 1e-5 && ours.best == one.best);
            }
        }
    }
}

#[test]
fn an_engine_says_what_it_cannot_do() {
    let (params, batch) = random_model(&mut seeded(4), &largest_model(), 0.0);
    assert_says(&message(Engine::with_threads(&params, 0)), &["threads", "at least 1"]);
    assert_says(&message(Engine::with_threads(&params, 1_025)), &["threads", "at most 1024", "got 1025"]);
    let error = message(Engine::with_threads(&params, usize::MAX));
    assert_says(&error, &["threads", "GB", &format!("{} parameters", params.len())]);
    let mut engine = Engine::new(&params).unwrap();
    let mut gradients = Gradients::zeros(&engine).unwrap();
    assert_says(&message(engine.backward(&mut gradients)), &["backward", "forward"]);
    engine.forward(&batch, Mode::Evaluate).unwrap();
    let other = Params::zeros(&ModelConfig::new(7)).unwrap();
    let mut others = Gradients::zeros(&Engine::new(&other).unwrap()).unwrap();
    assert_says(&message(engine.backward(&mut others)), &["gradients", "this encoder"]);
    let exact = Reference::new(&params, DType::F64, &Device::Cpu).unwrap();
    assert_says(&message(engine.backward(&mut Gradients::zeros(&exact).unwrap())), &["gradients", "F32", "F64"]);
    engine.backward(&mut gradients).unwrap();
    assert_says(&message(engine.backward(&mut gradients)), &["backward", "forward"]);
    // A look at the model in between takes the room that backward needs.
    engine.forward(&batch, Mode::Evaluate).unwrap();
    engine.logits(&batch, Mode::Evaluate).unwrap();
    assert_says(&message(engine.backward(&mut gradients)), &["backward", "forward"]);
}

/// Attention over one sequence of 200,000 tokens would need terabytes.
#[test]
fn a_batch_that_does_not_fit_is_refused_before_memory_is_taken() {
    let config = ModelConfig { d_model: 8, heads: 8, layers: 50, d_ff: 8, max_len: 200_000, ..ModelConfig::new(10) };
    let params = Params::init(&config, &mut seeded(0)).unwrap();
    let batch = Batch::with_gaps([vec![4; 200_000].as_slice()], 4);
    let reference = Reference::new(&params, DType::F32, &Device::Cpu).unwrap();
    let encoders: [&dyn Encoder; 2] = [&Engine::new(&params).unwrap(), &reference];
    for encoder in encoders {
        let error = message(encoder.encode(&batch, Mode::Evaluate));
        assert_says(&error, &["batch", "memory that is available", "GB", "200000 tokens"]);
    }
}

/// Padded to one of 512 tokens, 50,000 sequences of three look at each other in 840 GB of numbers, though the engine itself
/// needs little for them.
#[test]
fn a_result_that_does_not_fit_is_refused_before_memory_is_taken() {
    let config = ModelConfig { d_model: 8, heads: 8, layers: 2, d_ff: 8, max_len: 512, ..ModelConfig::new(10) };
    let engine = Engine::new(&Params::init(&config, &mut seeded(0)).unwrap()).unwrap();
    let (long, short) = ([4; 512], [4; 3]);
    let sequences = std::iter::once(long.as_slice()).chain(std::iter::repeat_n(short.as_slice(), 50_000));
    let error = message(engine.encode(&Batch::with_gaps(sequences, 4), Mode::Evaluate));
    assert_says(&error, &["batch", "memory that is available", "GB", "50001 sequences of at most 512"]);
}
