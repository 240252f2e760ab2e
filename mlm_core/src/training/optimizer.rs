//! Takes gradients, updates the weights of an encoder: AdamW and its learning-rate schedule. When to step is left to the
//! training loop, which stands in the notebook.

use std::fmt;
use std::sync::Arc;

use num_traits::Float;
use pulp::{Simd, with_simd};
use serde::Serialize;

use crate::error::{Error, Result};
use crate::model::gradients::Gradients;
use crate::model::params::Table;
use crate::model::weights::{Numbers, Part, Values, Weights};
use crate::vectors::arch;

/// The settings of AdamW; the default is PyTorch's.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AdamWConfig {
    /// Decay of the mean of gradients.
    pub beta1: f64,
    /// Decay of the mean of squared gradients.
    pub beta2: f64,
    /// What is added to the root of the mean square.
    pub eps: f64,
    /// Decay of the weights themselves, per step and unit of learning rate; none on biases and LayerNorm.
    pub weight_decay: f64,
}

impl Default for AdamWConfig {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.01 }
    }
}

impl AdamWConfig {
    fn validate(&self) -> Result<()> {
        for (argument, beta) in [("beta1", self.beta1), ("beta2", self.beta2)] {
            if !(0.0..1.0).contains(&beta) {
                return Err(Error::argument(argument, "a number from 0 to below 1", beta));
            }
        }
        if !(self.eps > 0.0 && self.eps.is_finite()) {
            return Err(Error::argument("eps", "a positive number", self.eps));
        }
        if !(self.weight_decay >= 0.0 && self.weight_decay.is_finite()) {
            return Err(Error::argument("weight_decay", "0 or a positive number", self.weight_decay));
        }
        Ok(())
    }
}

/// Adam with decoupled weight decay (Loshchilov and Hutter 2019, "Decoupled Weight Decay Regularization", algorithm 2).
/// As in PyTorch the decay is multiplied by the learning rate, where the paper multiplies it by the schedule alone:
///
/// ```text
/// m = beta1 m + (1 - beta1) g             v = beta2 v + (1 - beta2) g^2
/// w = w - lr weight_decay w - lr (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)
/// ```
///
/// BERT's own optimizer leaves out the corrections by `1 - beta^t`, and its `eps` is 1e-6.
#[derive(Clone)]
pub struct AdamW {
    config: AdamWConfig,
    steps: u32,
    table: Arc<Table>,
    /// Mean of the gradients (m), and of the squared gradients (v).
    moments: [Values; 2],
}

impl fmt::Debug for AdamW {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AdamW {{ {:?}, steps: {} }}", self.config, self.steps)
    }
}

impl AdamW {
    /// An optimizer for the weights of an encoder.
    ///
    /// # Errors
    /// When a setting is out of range.
    pub fn new(encoder: &dyn Weights, config: AdamWConfig) -> Result<Self> {
        config.validate()?;
        let table = Arc::clone(encoder.table());
        let zeros = Values::zeros(encoder.dtype(), table.parameters())?;
        Ok(Self { config, steps: 0, table, moments: [zeros.clone(), zeros] })
    }

    /// The number of steps taken.
    pub fn steps(&self) -> u32 {
        self.steps
    }

    /// The means of the gradients and of their squares, one number for each weight.
    pub(crate) fn moments(&self) -> &[Values; 2] {
        &self.moments
    }

    /// Goes on from what an optimizer of the same weights had after so many steps.
    ///
    /// # Errors
    /// When the moments are of other weights.
    pub(crate) fn restore(&mut self, steps: u32, moments: [Values; 2]) -> Result<()> {
        for (expected, values) in self.moments.iter().zip(&moments) {
            if (expected.dtype(), expected.count()) != (values.dtype(), values.count()) {
                let [expected, actual] = [expected, values].map(|it| format!("{} in {:?}", it.count(), it.dtype()));
                return Err(Error::argument("moments", expected, actual));
            }
        }
        (self.steps, self.moments) = (steps, moments);
        Ok(())
    }

    /// One update of all weights of `encoder`, the one that the optimizer was made for.
    ///
    /// # Errors
    /// When the learning rate is negative or not finite, or the gradients are of another model.
    pub fn step(&mut self, encoder: &mut dyn Weights, gradients: &Gradients, lr: f64) -> Result<()> {
        if !(lr >= 0.0 && lr.is_finite()) {
            return Err(Error::argument("lr", "0 or a positive, finite learning rate", lr));
        }
        let (values, factor) = gradients.values();
        let dtype = self.moments[0].dtype();
        let of_encoder = *encoder.table() == self.table && encoder.dtype() == dtype;
        if !of_encoder || *gradients.table() != self.table || values.dtype() != dtype {
            let expected =
                format!("those of the {} weights that the optimizer was made for", self.table.entries().len());
            let actual = format!("{} in {:?}", gradients.table().entries().len(), values.dtype());
            return Err(Error::argument("gradients", expected, format!("{actual}, or another encoder")));
        }
        self.steps += 1;
        let rule = Rule::new(&self.config, self.steps, lr, factor);
        let Self { table, moments, .. } = self;
        encoder.update(values, moments, &|part| match part {
            Part::F32(numbers) => rule.apply(table, numbers),
            Part::F64(numbers) => rule.apply(table, numbers),
        })
    }
}

/// One step of AdamW, in either precision: what it is made of, with weight decay and without.
struct Rule {
    decayed: Coefficients<f64>,
    undecayed: Coefficients<f64>,
}

/// What the update of a tensor is made of.
#[derive(Clone, Copy)]
struct Coefficients<T> {
    factor: T,
    keep: [T; 2],
    add: [T; 2],
    step_size: T,
    correction: T,
    decay: T,
    eps: T,
}

impl Rule {
    /// The rule of step `steps`, counted from 1. Gradients are to be multiplied by `factor`.
    fn new(config: &AdamWConfig, steps: u32, lr: f64, factor: f64) -> Self {
        let AdamWConfig { beta1, beta2, eps, weight_decay } = *config;
        let undecayed = Coefficients {
            factor,
            keep: [beta1, beta2],
            add: [1.0 - beta1, 1.0 - beta2],
            // The corrections by 1 - beta^t, taken out of the loop.
            step_size: lr / (1.0 - beta1.powf(f64::from(steps))),
            correction: (1.0 - beta2.powf(f64::from(steps))).sqrt().recip(),
            decay: 1.0,
            eps,
        };
        Self { undecayed, decayed: Coefficients { decay: 1.0 - lr * weight_decay, ..undecayed } }
    }

    fn apply<T: Float>(&self, table: &Table, numbers: Numbers<'_, T>) {
        let Numbers { start, weights, gradients, moments: [first, second] } = numbers;
        let (decayed, undecayed) = (self.decayed.to(), self.undecayed.to());
        for entry in table.entries() {
            // As much of the tensor as lies in this part.
            let at = entry.range.start.max(start)..entry.range.end.min(start + weights.len());
            if at.is_empty() {
                continue;
            }
            let at = at.start - start..at.end - start;
            let coefficients = if entry.kind.decays() { decayed } else { undecayed };
            let moments = (&mut first[at.clone()], &mut second[at.clone()]);
            update(coefficients, &mut weights[at.clone()], &gradients[at], moments);
        }
    }
}

impl Coefficients<f64> {
    /// In the precision of the weights.
    fn to<T: Float>(self) -> Coefficients<T> {
        let number = |value: f64| T::from(value).expect("every f64 has a nearest f32");
        let Self { factor, keep, add, step_size, correction, decay, eps } = self;
        Coefficients {
            factor: number(factor),
            keep: keep.map(number),
            add: add.map(number),
            step_size: number(step_size),
            correction: number(correction),
            decay: number(decay),
            eps: number(eps),
        }
    }
}

#[with_simd(update = arch())]
#[inline(always)]
fn update_simd<'a, S: Simd, T: Float>(
    _simd: S,
    coefficients: Coefficients<T>,
    weights: &'a mut [T],
    gradients: &'a [T],
    moments: (&'a mut [T], &'a mut [T]),
) {
    let Coefficients { factor, keep, add, step_size, correction, decay, eps } = coefficients;
    let (first, second) = moments;
    for (((w, &g), m), v) in weights.iter_mut().zip(gradients).zip(first).zip(second) {
        // All are read before any is written: where two buffers lie a multiple of 4 KiB apart, a processor takes a read of
        // one for a read of what was just written to the other, and waits.
        let (w0, m0, v0, g) = (*w, *m, *v, factor * g);
        let m1 = keep[0] * m0 + add[0] * g;
        let v1 = keep[1] * v0 + add[1] * g * g;
        *w = decay * w0 - step_size * m1 / (v1.sqrt() * correction + eps);
        (*m, *v) = (m1, v1);
    }
}

/// The learning rate over the steps of a training: a linear rise over the warm-up, then a linear fall to 0 after the
/// last step (Devlin et al. 2019, appendix A.2).
///
/// ```
/// # use mlm_core::*;
/// # fn main() -> Result<()> {
/// let schedule = Schedule::new(1.0, 2, 6)?;
/// let rates = (0..6).map(|step| schedule.lr(step)).collect::<Result<Vec<f64>>>()?;
/// assert_eq!(rates, [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]);
/// assert!(schedule.lr(6).is_err());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    peak: f64,
    warmup: usize,
    steps: usize,
}

impl Schedule {
    /// `warmup` of `steps` steps rise to the learning rate `peak`.
    ///
    /// # Errors
    /// When there is no step, the warm-up is longer than the training, or `peak` is not a positive number.
    pub fn new(peak: f64, warmup: usize, steps: usize) -> Result<Self> {
        if !(peak > 0.0 && peak.is_finite()) {
            return Err(Error::argument("peak", "a positive, finite learning rate", peak));
        }
        if steps == 0 {
            return Err(Error::argument("steps", "at least 1", steps));
        }
        if warmup > steps {
            return Err(Error::argument("warmup", format!("at most steps = {steps}"), warmup));
        }
        Ok(Self { peak, warmup, steps })
    }

    /// The learning rate of a step, counted from 0.
    ///
    /// # Errors
    /// After the last step, where the rate would be 0: the model would go on without learning.
    pub fn lr(&self, step: usize) -> Result<f64> {
        if step < self.warmup {
            Ok(self.peak * (step + 1) as f64 / self.warmup as f64)
        } else if step < self.steps {
            Ok(self.peak * (self.steps - step) as f64 / (self.steps - self.warmup) as f64)
        } else {
            let expected = format!(
                "a step below {}, where the schedule ends with a learning rate of 0 (to train on, make a longer schedule)",
                self.steps
            );
            Err(Error::argument("step", expected, step))
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Tensor};

    use super::*;
    use crate::model::config::ModelConfig;
    use crate::model::names;
    use crate::model::params::{Kind, Params};
    use crate::model::reference::Reference;

    #[test]
    fn embeddings_and_matrices_decay_whatever_tensors_are_called() {
        const LR: f64 = 0.1;
        let kinds = [Kind::Embedding, Kind::Matrix, Kind::Bias, Kind::Norm];
        let names = ["LayerNorm.weight", "query.bias", "shift", "rms_norm.scale"];
        let table = Table::of(names.into_iter().zip(kinds).map(|(name, kind)| (name.to_owned(), kind, vec![1])));
        let (mut weights, mut first, mut second) = ([1f64; 4], [0.0; 4], [0.0; 4]);
        let numbers =
            Numbers { start: 0, weights: &mut weights, gradients: &[0.0; 4], moments: [&mut first, &mut second] };
        Rule::new(&AdamWConfig::default(), 1, LR, 1.0).apply(&table, numbers);
        let decayed = 1.0 - LR * 0.01;
        assert_eq!(weights, [decayed, decayed, 1.0, 1.0]);
    }

    /// Two steps on one number, worked out with a pencil: the gradient is 0.5, then -0.5.
    #[test]
    fn adamw_follows_the_running_means_and_decays_matrices_only() {
        const LR: f64 = 0.1;
        let (weight, bias) = (names::WORDS, names::DECODER_BIAS);
        let mut params = Params::zeros(&ModelConfig::new(6)).unwrap();
        params.set(weight, &[1.0; 6 * 64]).unwrap();
        let mut encoder = Reference::new(&params, DType::F64, &Device::Cpu).unwrap();
        let mut optimizer = AdamW::new(&encoder, AdamWConfig::default()).unwrap();
        let mut step = |slope: f64| {
            let names: Vec<&str> = params.names().collect();
            let sums = names.iter().map(|name| encoder.weight(name).unwrap().sum_all().unwrap());
            let sums: Vec<Tensor> = sums.collect();
            let loss = (Tensor::stack(&sums, 0).unwrap().sum_all().unwrap() * slope).unwrap();
            let gradients = encoder.gradients(&loss).unwrap();
            optimizer.step(&mut encoder, &gradients, LR).unwrap();
            let value = |name| encoder.weight(name).unwrap().flatten_all().unwrap().get(0).unwrap();
            [weight, bias].map(|name| value(name).to_scalar::<f64>().unwrap())
        };
        let [matrix, vector] = step(0.5);
        // m = 0.05, corrected 0.5; v = 0.00025, corrected 0.25: a step of LR * 0.5 / 0.5.
        assert!((matrix - (1.0 - LR * 0.01 - LR)).abs() < 1e-7 && (vector + LR).abs() < 1e-7, "{matrix} {vector}");
        // m = 0.9 * 0.05 - 0.05 = -0.005, corrected by 1 - 0.81: -0.0263158; v corrected is 0.25 again.
        let [matrix_after, vector_after] = step(-0.5);
        let back = LR * 0.026_315_8 / 0.5;
        assert!((matrix_after - (matrix * (1.0 - LR * 0.01) + back)).abs() < 1e-7, "{matrix_after}");
        assert!((vector_after - (vector + back)).abs() < 1e-7, "{vector_after}");
    }
}
