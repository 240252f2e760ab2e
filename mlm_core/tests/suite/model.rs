//! Configurations, weights, schedule, evaluation and prediction: what they promise, and how they say no.

use mlm_core::candle_core::{DType, Device};
use mlm_core::*;

use crate::{assert_says, five_sentences, message, seeded};

fn lab_model() -> (Reference, Tokenizer, Corpus) {
    let corpus = five_sentences().unwrap();
    let tokenizer = Tokenizer::train(&corpus, &TokenizerConfig::new(1000)).unwrap();
    let params = Params::init(&ModelConfig::new(tokenizer.vocab()), &mut seeded(0)).unwrap();
    (Reference::new(&params, DType::F32, &Device::Cpu).unwrap(), tokenizer, corpus)
}

#[test]
fn initial_weights_are_those_of_bert() {
    let params = Params::init(&ModelConfig::new(1000), &mut seeded(0)).unwrap();
    for (name, shape, values) in params.tensors() {
        let count = values.len() as f64;
        let mean = values.iter().map(|&x| f64::from(x)).sum::<f64>() / count;
        let variance = values.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / count;
        if name.ends_with(".bias") {
            assert!(values.iter().all(|&x| x == 0.0), "{name}");
        } else if name.ends_with("LayerNorm.weight") {
            assert!(values.iter().all(|&x| x == 1.0), "{name}");
        } else {
            assert!(mean.abs() < 5.0 * 0.02 / count.sqrt(), "{name} {shape:?}: mean {mean}");
            assert!((variance.sqrt() - 0.02).abs() < 5.0 * 0.02 / (2.0 * count).sqrt(), "{name}: {}", variance.sqrt());
        }
    }
    assert_eq!(params.len(), params.as_slice().len());
    // The word vocabulary of the five sentences: 27 words and 5 special tokens.
    assert_eq!(Params::zeros(&ModelConfig::new(32)).unwrap().len(), 108_640);
}

/// Over random words.
#[test]
fn heads_of_the_first_layer_start_by_looking_nearby() {
    for (d_model, heads) in [(64, 4), (64, 2), (66, 6), (128, 8)] {
        let config = ModelConfig { d_model, heads, initializer_range: 0.05, ..ModelConfig::new(100) };
        let noise = Params::init(&config, &mut seeded(3)).unwrap();
        let mut params = noise.clone();
        params.look_nearby();
        for ((name, _, values), (_, _, before)) in params.tensors().zip(noise.tensors()) {
            let changes =
                ["position_embeddings", "layer.0.attention.self.query.weight", "layer.0.attention.self.key.weight"];
            assert_eq!(values != before, changes.iter().any(|end| name.contains(end)), "{name}");
        }
        let rows = |name: &str| -> Vec<Vec<f32>> {
            params.get(&format!("bert.{name}.weight")).unwrap().chunks(d_model).map(<[f32]>::to_vec).collect()
        };
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
        let (words, positions) = (rows("embeddings.word_embeddings"), rows("embeddings.position_embeddings"));
        let hidden: Vec<Vec<f32>> = (words.iter().zip(&positions))
            .map(|(word, position)| {
                let sum: Vec<f32> = word.iter().zip(position).map(|(a, b)| a + b).collect();
                let mean = sum.iter().sum::<f32>() / d_model as f32;
                let deviation = (sum.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / d_model as f32).sqrt();
                sum.iter().map(|x| (x - mean) / deviation).collect()
            })
            .collect();
        let (query, key) = (rows("encoder.layer.0.attention.self.query"), rows("encoder.layer.0.attention.self.key"));
        for (head, offset) in (0..heads).zip([-1_isize, 1, -2, 2].into_iter().cycle()) {
            let head_dim = config.head_dim();
            let units = head * head_dim..(head + 1) * head_dim;
            let score = |from: usize, to: usize| -> f32 {
                units.clone().map(|unit| dot(&query[unit], &hidden[from]) * dot(&key[unit], &hidden[to])).sum()
            };
            // How much of a token's attention goes to the four places on either side, nearest first.
            let mut sides = [[0.0; 4]; 2];
            for from in 8..24_usize {
                let scores: Vec<f32> = (0..32).map(|to| (score(from, to) / (head_dim as f32).sqrt()).exp()).collect();
                let all = 16.0 * scores.iter().sum::<f32>();
                for distance in 1..=4 {
                    sides[0][distance - 1] += scores[from - distance] / all;
                    sides[1][distance - 1] += scores[from + distance] / all;
                }
            }
            let [there, away] = if offset < 0 { sides } else { [sides[1], sides[0]] };
            let told = format!("d_model {d_model}, head {head} of {heads}: {there:.2?} and {away:.2?}");
            assert!(there.iter().sum::<f32>() > 3.0 * away.iter().sum::<f32>(), "{told}");
            let most = (1..=4).max_by(|&a, &b| there[a - 1].total_cmp(&there[b - 1])).unwrap();
            assert_eq!(most, offset.unsigned_abs(), "{told}");
        }
    }
}

#[test]
fn weights_go_through_an_encoder_unchanged() {
    let params = Params::init(&ModelConfig::new(40), &mut seeded(1)).unwrap();
    for dtype in [DType::F32, DType::F64] {
        assert_eq!(Reference::new(&params, dtype, &Device::Cpu).unwrap().params().unwrap(), params);
    }
    assert_says(&message(Reference::new(&params, DType::F16, &Device::Cpu)), &["dtype", "F32 or F64", "f16"]);
}

#[test]
fn bad_shapes_are_named() {
    let base = ModelConfig::new(100);
    let error = |config: ModelConfig| message(Params::zeros(&config));
    assert_says(&error(ModelConfig { heads: 5, ..base.clone() }), &["heads", "divisor of d_model = 64", "got 5"]);
    assert_says(&error(ModelConfig { layers: 0, ..base.clone() }), &["layers", "at least 1"]);
    assert_says(&error(ModelConfig { layers: usize::MAX, ..base.clone() }), &["layers", "at most"]);
    assert_says(&error(ModelConfig { hidden_dropout: 1.0, ..base.clone() }), &["hidden_dropout", "got 1"]);
    assert_says(&error(ModelConfig { initializer_range: f64::NAN, ..base.clone() }), &["initializer_range"]);
    assert_says(&error(ModelConfig { pad: 100, ..base.clone() }), &["pad", "below vocab = 100"]);
    let enormous = ModelConfig { vocab: usize::MAX / 2, ..base.clone() };
    assert_says(&error(enormous), &["config", "GB", &format!("vocab {}", usize::MAX / 2)]);
    let too_large = ModelConfig { vocab: 1 << 44, ..base };
    assert_says(&error(too_large), &["a model that fits", "GB", "4 numbers for each of"]);
    let mut params = Params::zeros(&ModelConfig::new(10)).unwrap();
    assert_says(&message(params.get("bert.nothing").map(<[f32]>::len)), &["bert.nothing"]);
    assert_says(&message(params.set("cls.predictions.bias", &[0.0])), &["cls.predictions.bias", "10 values", "got 1"]);
}

#[test]
fn batches_that_do_not_fit_are_refused() {
    let (encoder, tokenizer, _) = lab_model();
    let mask = tokenizer.special().mask;
    let logits = |ids: &[u32]| message(encoder.logits(&Batch::with_gaps([ids], mask), Mode::Evaluate));
    assert_says(&logits(&[mask; 33]), &["max_len = 32", "got 33"]);
    assert_says(&logits(&[mask, 111]), &["below vocab = 111", "got 111"]);
    assert_says(&logits(&[7, 8]), &["masked row"]);
    let empty = Batch::with_gaps([[].as_slice(), [mask].as_slice()], mask);
    assert_says(&message(encoder.logits(&empty, Mode::Evaluate)), &["offsets", "at least one token", "[0, 0, 1]"]);
    let gaps = Batch::with_gaps([[mask].as_slice()], mask);
    assert_says(&message(encoder.loss(&gaps, Mode::Evaluate)), &["target"]);
    assert_says(&message(evaluate(&encoder, &[gaps])), &["target"]);
    assert_says(&message(evaluate(&encoder, &[])), &["at least one"]);
}

#[test]
fn padding_changes_nothing() {
    let (encoder, tokenizer, corpus) = lab_model();
    let mask = tokenizer.special().mask;
    let mut sequences = tokenizer.encode_corpus(&corpus, 32).unwrap().sequences.to_vec().unwrap();
    sequences.iter_mut().for_each(|ids| ids[2] = mask);
    let together = Batch::with_gaps(sequences.iter().map(Vec::as_slice), mask);
    let together = encoder.logits(&together, Mode::Evaluate).unwrap().to_vec2::<f32>().unwrap();
    for (ids, row) in sequences.iter().zip(together) {
        let alone = encoder.logits(&Batch::with_gaps([ids.as_slice()], mask), Mode::Evaluate).unwrap();
        for (a, b) in alone.to_vec2::<f32>().unwrap()[0].iter().zip(row) {
            assert!((a - b).abs() < 1e-5);
        }
    }
}

#[test]
fn attention_is_a_distribution_over_the_tokens() {
    let (encoder, tokenizer, corpus) = lab_model();
    let sequences = tokenizer.encode_corpus(&corpus, 32).unwrap().sequences.to_vec().unwrap();
    let batch = Batch::with_gaps(sequences.iter().map(Vec::as_slice), tokenizer.special().mask);
    assert_eq!(batch.masked_rows.len(), 0, "attention can be asked for where nothing is masked");
    let encoded = encoder.encode(&batch, Mode::Evaluate).unwrap();
    assert_eq!(encoded.attention.len(), 2);
    for layer in encoded.attention {
        assert_eq!(layer.dims(), [5, 4, batch.longest(), batch.longest()]);
        for sequence in 0..5 {
            let length = batch.sequence(sequence).unwrap().len();
            for head in layer.get(sequence).unwrap().to_vec3::<f32>().unwrap() {
                for query in &head[..length] {
                    assert!((query.iter().sum::<f32>() - 1.0).abs() < 1e-5);
                    assert!(query[length..].iter().all(|&p| p == 0.0));
                }
            }
        }
    }
}

#[test]
fn the_schedule_rises_and_falls() {
    let schedule = Schedule::new(1e-3, 4, 10).unwrap();
    let rates: Vec<f64> = (0..10).map(|step| schedule.lr(step).unwrap()).collect();
    assert!((rates[0] - 0.25e-3).abs() < 1e-12 && rates[3] == 1e-3 && rates[4] == 1e-3);
    assert_says(&message(schedule.lr(10)), &["step", "below 10", "longer schedule", "got 10"]);
    assert!(rates[..4].is_sorted() && rates[4..].iter().rev().is_sorted() && rates[9] > 0.0);
    assert_eq!(Schedule::new(1.0, 0, 1).unwrap().lr(0).unwrap(), 1.0);
    for peak in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        assert_says(&message(Schedule::new(peak, 1, 2)), &["peak", &peak.to_string()]);
    }
    assert_says(&message(Schedule::new(1e-3, 11, 10)), &["warmup", "at most steps = 10"]);
    assert_says(&message(Schedule::new(1e-3, 0, 0)), &["steps"]);
}

#[test]
fn the_optimizer_refuses_what_would_ruin_the_weights() {
    let (mut encoder, tokenizer, corpus) = lab_model();
    assert_says(&message(AdamW::new(&encoder, AdamWConfig { beta1: 1.0, ..Default::default() })), &["beta1"]);
    let mut optimizer = AdamW::new(&encoder, AdamWConfig::default()).unwrap();
    let masker = Masker::new(&tokenizer, Masking::default()).unwrap();
    let ids = tokenizer.encode(&corpus.sentences()[0]).unwrap();
    let batch = Batch::masked([ids.as_slice()], &masker, &mut seeded(0)).unwrap();
    let mut gradients = encoder.gradients(&encoder.loss(&batch, Mode::Evaluate).unwrap()).unwrap();
    for lr in [f64::NAN, f64::INFINITY, -1.0] {
        assert_says(&message(optimizer.step(&mut encoder, &gradients, lr)), &["lr", &lr.to_string()]);
    }
    assert_says(&message(gradients.clip(0.0)), &["max_norm"]);
    for other in [ModelConfig { layers: 1, ..encoder.config().clone() }, ModelConfig::new(50)] {
        let params = Params::init(&other, &mut seeded(0)).unwrap();
        let mut other = Reference::new(&params, DType::F32, &Device::Cpu).unwrap();
        assert_says(&message(optimizer.step(&mut other, &gradients, 1e-3)), &["gradients"]);
        assert_eq!(other.params().unwrap(), params);
    }
    assert_eq!(optimizer.steps(), 0);
}

#[test]
fn an_untrained_model_is_as_undecided_as_its_vocabulary_is_large() {
    let (encoder, tokenizer, corpus) = lab_model();
    let masker = Masker::new(&tokenizer, Masking::default()).unwrap();
    let sequences = tokenizer.encode_corpus(&corpus.repeat(20).unwrap(), 32).unwrap().sequences;
    let loader = DataLoader::new(sequences, 8).unwrap();
    let batches = loader.fixed(&masker, &mut seeded(0)).unwrap();
    let evaluation = evaluate(&encoder, &batches).unwrap();
    assert_eq!(evaluation.masked, batches.iter().map(|batch| batch.masked_rows.len()).sum::<usize>());
    assert!((evaluation.loss - (tokenizer.vocab() as f64).ln()).abs() < 0.1, "{evaluation:?}");
    assert!((evaluation.perplexity - evaluation.loss.exp()).abs() < 1e-9);
    assert_eq!(evaluation, evaluate(&encoder, &batches).unwrap());
    let recovery = recovery(&encoder, &tokenizer, &corpus).unwrap();
    assert_eq!(recovery.words.len(), 33);
    assert!(recovery.recovered() < 10);
}

/// Sentences of a text of one's own, longer than the model reads.
#[test]
fn recovery_cuts_long_sentences_and_asks_for_each_word_as_if_it_were_alone() {
    let (encoder, tokenizer, _) = lab_model();
    let long = "the quick fox is a lie ".repeat(8);
    let corpus = Corpus::from_lines(["to be or not to be", long.as_str(), "\u{200b}", "foxy knocks"]).unwrap();
    let recovery = recovery(&encoder, &tokenizer, &corpus).unwrap();
    let words = |sentence| recovery.words.iter().filter(move |word| word.sentence == sentence);
    assert_eq!([0, 1, 2, 3].map(|sentence| words(sentence).count()), [6, 48, 0, 2]);
    assert_eq!(words(3).next().unwrap().word, "foxy");
    // `foxy` is two pieces, masked together; its probability is the product over them.
    let mask = tokenizer.special().mask;
    let ids = tokenizer.encode("foxy knocks").unwrap();
    let batch = Batch::with_gaps([[ids[0], mask, mask, ids[3], ids[4]].as_slice()], mask);
    let logits = encoder.logits(&batch, Mode::Evaluate).unwrap().to_vec2::<f32>().unwrap();
    let probability = |logits: &[f32], id: u32| {
        let sum: f64 = logits.iter().map(|&logit| f64::from(logit).exp()).sum();
        f64::from(logits[id as usize]).exp() / sum
    };
    let alone = probability(&logits[0], ids[1]) * probability(&logits[1], ids[2]);
    assert!((words(3).next().unwrap().probability / alone - 1.0).abs() < 1e-4);
}

#[test]
fn predictions_are_probabilities_in_order() {
    let (encoder, tokenizer, _) = lab_model();
    let filled = fill_mask(&encoder, &tokenizer, "the [MASK] is [MASK] lie", 1000).unwrap();
    assert_eq!(filled.masks.len(), 2);
    for mask in &filled.masks {
        assert_eq!(mask.len(), tokenizer.vocab());
        assert!((mask.iter().map(|candidate| candidate.probability).sum::<f64>() - 1.0).abs() < 1e-6);
        assert!(mask.is_sorted_by(|a, b| a.probability >= b.probability));
    }
    assert!(!filled.filled.contains("[MASK]"));
    assert_says(&message(fill_mask(&encoder, &tokenizer, "no gap here", 5)), &["[MASK]", "no gap here"]);
    assert_says(&message(fill_mask(&encoder, &tokenizer, "the [MASK]", 0)), &["top_k", "at least 1"]);
    let words = Params::init(&ModelConfig::new(60), &mut seeded(0)).unwrap();
    let smaller = Reference::new(&words, DType::F32, &Device::Cpu).unwrap();
    let both = ["tokenizer", "at most 60 tokens", "got 111"];
    assert_says(&message(fill_mask(&smaller, &tokenizer, "the lazy [MASK]", 5)), &both);
    assert_says(&message(recovery(&smaller, &tokenizer, &five_sentences().unwrap())), &both);
    let long = format!("{} [MASK]", "the ".repeat(40));
    assert_says(&message(fill_mask(&encoder, &tokenizer, &long, 5)), &["text", "at most 32 tokens", "got 43"]);
}
