//! Both back ends and AdamW against PyTorch; `scripts/goldens` wrote what it is compared with.

use std::collections::HashMap;

use mlm_core::candle_core::{DType, Device, Tensor, safetensors};
use mlm_core::*;

use crate::{assert_close, assert_gradients, flat, largest};

/// The file as f64, the names being those that the script gives.
struct Golden(HashMap<String, Tensor>);

impl Golden {
    fn load() -> Self {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/bert.safetensors");
        Self(safetensors::load(path, &Device::Cpu).unwrap())
    }

    fn values(&self, name: &str) -> Vec<f64> {
        flat(&self.0[name])
    }

    fn params(&self) -> Params {
        let config = ModelConfig { d_model: 12, heads: 3, d_ff: 20, max_len: 10, ..ModelConfig::new(23) };
        let mut params = Params::zeros(&config).unwrap();
        let names: Vec<String> = params.names().map(str::to_owned).collect();
        let weights = self.0.keys().filter(|name| name.starts_with("weight.")).count();
        assert_eq!(names.len(), weights, "the model has the tensors of BertForMaskedLM, no more and no fewer");
        for name in names {
            let tensor = self.0[&format!("weight.{name}")].flatten_all().unwrap();
            params.set(&name, &tensor.to_vec1::<f32>().unwrap()).unwrap();
        }
        params
    }

    fn reference(&self, dtype: DType) -> Reference {
        Reference::new(&self.params(), dtype, &Device::Cpu).unwrap()
    }

    fn engine(&self, threads: usize) -> Engine {
        Engine::with_threads(&self.params(), threads).unwrap()
    }

    /// The padding taken off again.
    fn batch(&self, nth: usize) -> Batch {
        let rows = |name: &str| self.0[&format!("batch.{nth}.{name}")].to_vec2::<i64>().unwrap();
        let mut batch =
            Batch { input_ids: vec![], offsets: vec![0], masked_rows: vec![], targets: vec![], treatments: vec![] };
        for ((ids, mask), labels) in rows("input_ids").iter().zip(rows("attention_mask")).zip(rows("labels")) {
            for ((&id, mask), label) in ids.iter().zip(mask).zip(labels) {
                if mask == 0 {
                    continue;
                }
                if label != IGNORED_LABEL {
                    batch.masked_rows.push(batch.input_ids.len());
                    batch.targets.push(label as u32);
                    batch.treatments.push(Treatment::Mask);
                }
                batch.input_ids.push(id as u32);
            }
            batch.offsets.push(batch.input_ids.len());
        }
        batch
    }
}

fn compare(mut encoder: impl Encoder, tolerance: f64) {
    let golden = Golden::load();
    let batch = golden.batch(0);
    let logits = flat(&encoder.logits(&batch, Mode::Evaluate).unwrap());
    let theirs = golden.values("logits");
    assert_close("logits", &logits, &theirs, largest(&theirs), tolerance);
    let loss = encoder.forward(&batch, Mode::Evaluate).unwrap();
    let theirs = golden.values("loss");
    assert_close("loss", &[loss], &theirs, theirs[0], tolerance);
    let mut gradients = Gradients::zeros(&encoder).unwrap();
    encoder.backward(&mut gradients).unwrap();
    assert_gradients(&gradients, |name| golden.values(&format!("gradient.{name}")), tolerance);
}

#[test]
fn the_reference_equals_pytorch_in_f64_and_f32() {
    compare(Golden::load().reference(DType::F64), 1e-9);
    compare(Golden::load().reference(DType::F32), 1e-4);
}

#[test]
fn the_engine_equals_pytorch() {
    for threads in 1..=3 {
        compare(Golden::load().engine(threads), 1e-4);
    }
}

/// What notebook 09 looks at, as it computes it there.
fn compare_attention(new: impl Fn(&Params) -> Box<dyn Encoder>, tolerance: f64) {
    let golden = Golden::load();
    let (params, batch) = (golden.params(), golden.batch(0));
    let ModelConfig { layers, heads, d_model, .. } = *params.config();
    let head_dim = params.config().head_dim();
    let attention = new(&params).encode(&batch, Mode::Evaluate).unwrap().attention;
    assert_eq!(attention.len(), layers);
    for (layer, ours) in attention.iter().enumerate() {
        for (sentence, bounds) in batch.offsets.windows(2).enumerate() {
            let seq = bounds[1] - bounds[0];
            let of_sentence = |attention: &Tensor| {
                flat(&attention.get(sentence).unwrap().narrow(1, 0, seq).unwrap().narrow(2, 0, seq).unwrap())
            };
            let theirs = of_sentence(&golden.0[&format!("attention.{layer}")]);
            assert_close("attention", &of_sentence(ours), &theirs, 1.0, tolerance);
        }
    }

    let mut losses = vec![];
    for layer in 0..layers {
        for head in 0..heads {
            let (mut without, name) =
                (params.clone(), format!("bert.encoder.layer.{layer}.attention.output.dense.weight"));
            let mut weight = params.get(&name).unwrap().to_vec();
            for row in weight.chunks_exact_mut(d_model) {
                row[head * head_dim..(head + 1) * head_dim].fill(0.0);
            }
            without.set(&name, &weight).unwrap();
            losses.push(new(&without).forward(&batch, Mode::Evaluate).unwrap());
        }
    }
    assert_close("losses without a head", &losses, &golden.values("ablated.losses"), 1.0, tolerance);

    let (mut encoder, sentence) = (new(&params), golden.batch(2));
    let mut gradients = Gradients::zeros(&*encoder).unwrap();
    encoder.forward(&sentence, Mode::Evaluate).unwrap();
    encoder.backward(&mut gradients).unwrap();
    let slopes = flat(&gradients.get("bert.embeddings.position_embeddings.weight").unwrap());
    let words = params.get("bert.embeddings.word_embeddings.weight").unwrap();
    let ours: Vec<f64> = (sentence.input_ids.iter().zip(slopes.chunks_exact(d_model)))
        .map(|(&id, slopes)| {
            let word = &words[id as usize * d_model..][..d_model];
            word.iter().zip(slopes).map(|(&number, slope)| f64::from(number) * slope).sum()
        })
        .collect();
    assert_close("gradient x input", &ours, &golden.values("gradient_times_input"), 1.0, tolerance);
}

#[test]
fn attention_the_loss_without_a_head_and_gradient_times_input_equal_pytorch() {
    compare_attention(|params| Box::new(Reference::new(params, DType::F64, &Device::Cpu).unwrap()), 1e-9);
    compare_attention(|params| Box::new(Engine::new(params).unwrap()), 1e-4);
}

fn train(mut encoder: impl Encoder) -> (Vec<f64>, Vec<f64>) {
    let golden = Golden::load();
    let mut gradients = Gradients::zeros(&encoder).unwrap();
    let mut optimizer = AdamW::new(&encoder, AdamWConfig::default()).unwrap();
    let schedule = Schedule::new(5e-3, 5, 20).unwrap();
    let (mut losses, mut norms) = (vec![], vec![]);
    for step in 0..20 {
        losses.push(encoder.forward(&golden.batch(step % 4), Mode::Train { dropout_seed: 0 }).unwrap());
        encoder.backward(&mut gradients).unwrap();
        norms.push(gradients.clip(1.0).unwrap());
        assert!(gradients.norm() <= 1.0 + 1e-6);
        optimizer.step(&mut encoder, &gradients, schedule.lr(step).unwrap()).unwrap();
    }
    (losses, norms)
}

#[test]
fn twenty_steps_of_adamw_equal_pytorch() {
    let golden = Golden::load();
    let trained = [
        (train(golden.reference(DType::F64)), 1e-8),
        (train(golden.reference(DType::F32)), 1e-4),
        (train(golden.engine(2)), 1e-4),
    ];
    for ((losses, norms), tolerance) in trained {
        assert_close("losses", &losses, &golden.values("adamw.losses"), 1.0, tolerance);
        assert_close("norms", &norms, &golden.values("adamw.norms"), 1.0, 10.0 * tolerance);
    }
}
