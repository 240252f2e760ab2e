//! The reference encoder and AdamW against PyTorch; `scripts/goldens` wrote what it is compared with.

use std::collections::HashMap;

use mlm_core::candle_core::{DType, Device, Tensor, safetensors};
use mlm_core::*;

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

    fn encoder(&self, dtype: DType) -> Encoder {
        let config = ModelConfig { d_model: 12, heads: 3, d_ff: 20, max_len: 10, ..ModelConfig::new(23) };
        let mut params = Params::zeros(&config).unwrap();
        let names: Vec<String> = params.names().map(str::to_owned).collect();
        let weights = self.0.keys().filter(|name| name.starts_with("weight.")).count();
        assert_eq!(names.len(), weights, "the model has the tensors of BertForMaskedLM, no more and no fewer");
        for name in names {
            let tensor = self.0[&format!("weight.{name}")].flatten_all().unwrap();
            params.set(&name, &tensor.to_vec1::<f32>().unwrap()).unwrap();
        }
        Encoder::new(&params, dtype, &Device::Cpu).unwrap()
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

fn flat(tensor: &Tensor) -> Vec<f64> {
    tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn largest(values: &[f64]) -> f64 {
    values.iter().fold(0.0, |largest, value| value.abs().max(largest))
}

/// Asserts that no value is further from PyTorch's than `tolerance` times `scale`.
#[track_caller]
fn assert_close(name: &str, ours: &[f64], theirs: &[f64], scale: f64, tolerance: f64) {
    assert_eq!(ours.len(), theirs.len(), "{name}");
    let differences: Vec<f64> = ours.iter().zip(theirs).map(|(a, b)| a - b).collect();
    let error = largest(&differences) / scale;
    assert!(error <= tolerance, "{name}: relative error {error:e}, allowed {tolerance:e}");
}

fn compare(dtype: DType, tolerance: f64) {
    let golden = Golden::load();
    let encoder = golden.encoder(dtype);
    let batch = golden.batch(0);
    let logits = flat(&encoder.logits(&batch, Mode::Evaluate).unwrap());
    let theirs = golden.values("logits");
    assert_close("logits", &logits, &theirs, largest(&theirs), tolerance);
    let loss = encoder.loss(&batch, Mode::Evaluate).unwrap();
    let theirs = golden.values("loss");
    assert_close("loss", &flat(&loss), &theirs, theirs[0], tolerance);
    let gradients = encoder.gradients(&loss).unwrap();
    assert_eq!(gradients.named().len(), encoder.weights().len());
    let scale: f64 = gradients
        .named()
        .iter()
        .map(|(name, _)| largest(&golden.values(&format!("gradient.{name}"))))
        .fold(0.0, f64::max);
    for (name, gradient) in gradients.named() {
        let theirs = golden.values(&format!("gradient.{name}"));
        // The gradient of a key's bias is 0 by symmetry (softmax does not change when all scores move together); there
        // the error is measured against the largest gradient of the model.
        let own_scale = if name.ends_with("key.bias") { scale } else { largest(&theirs) };
        assert_close(name, &flat(gradient), &theirs, own_scale, tolerance);
    }
}

#[test]
fn equals_pytorch_in_f64() {
    compare(DType::F64, 1e-9);
}

#[test]
fn equals_pytorch_in_f32() {
    compare(DType::F32, 1e-4);
}

fn train(dtype: DType) -> (Vec<f64>, Vec<f64>) {
    let golden = Golden::load();
    let mut encoder = golden.encoder(dtype);
    let mut optimizer = AdamW::new(&encoder, AdamWConfig::default()).unwrap();
    let schedule = Schedule::new(5e-3, 5, 20).unwrap();
    let (mut losses, mut norms) = (vec![], vec![]);
    for step in 0..20 {
        let loss = encoder.loss(&golden.batch(step % 4), Mode::Train { dropout_seed: 0 }).unwrap();
        let mut gradients = encoder.gradients(&loss).unwrap();
        norms.push(gradients.clip(1.0).unwrap());
        assert!(gradients.norm().unwrap() <= 1.0 + 1e-6);
        optimizer.step(&mut encoder, &gradients, schedule.lr(step).unwrap()).unwrap();
        losses.extend(flat(&loss));
    }
    (losses, norms)
}

#[test]
fn twenty_steps_of_adamw_equal_pytorch() {
    let golden = Golden::load();
    for (dtype, tolerance) in [(DType::F64, 1e-8), (DType::F32, 1e-4)] {
        let (losses, norms) = train(dtype);
        assert_close("losses", &losses, &golden.values("adamw.losses"), 1.0, tolerance);
        assert_close("norms", &norms, &golden.values("adamw.norms"), 1.0, 10.0 * tolerance);
    }
}
