//! Takes gradients, updates the weights of an [`Encoder`]: AdamW and its learning-rate schedule. When to step is left
//! to the training loop, which stands in the notebook.

use candle_core::Tensor;

use crate::error::{Error, Result};
use crate::model::reference::{Encoder, Gradients};

/// The settings of AdamW; the default is PyTorch's.
#[derive(Clone, Debug, PartialEq)]
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
#[derive(Clone, Debug)]
pub struct AdamW {
    config: AdamWConfig,
    steps: u32,
    moments: Vec<Moments>,
}

/// The running means of one weight's gradients.
#[derive(Clone, Debug)]
struct Moments {
    name: String,
    /// Mean of the gradients (m).
    first: Tensor,
    /// Mean of the squared gradients (v).
    second: Tensor,
    weight_decay: f64,
}

impl AdamW {
    /// An optimizer for the weights of `encoder`.
    ///
    /// # Errors
    /// When a setting is out of range.
    pub fn new(encoder: &Encoder, config: AdamWConfig) -> Result<Self> {
        config.validate()?;
        let mut moments = Vec::with_capacity(encoder.weights().len());
        for (name, weight) in encoder.weights() {
            let undecayed = name.ends_with(".bias") || name.ends_with("LayerNorm.weight");
            moments.push(Moments {
                name: name.clone(),
                first: weight.zeros_like()?,
                second: weight.zeros_like()?,
                weight_decay: if undecayed { 0.0 } else { config.weight_decay },
            });
        }
        Ok(Self { config, steps: 0, moments })
    }

    /// The number of steps taken.
    pub fn steps(&self) -> u32 {
        self.steps
    }

    /// One update of all weights of `encoder`, the one that the optimizer was made for.
    ///
    /// # Errors
    /// When the learning rate is negative or not finite, or the gradients are of another model.
    pub fn step(&mut self, encoder: &mut Encoder, gradients: &Gradients, lr: f64) -> Result<()> {
        if !(lr >= 0.0 && lr.is_finite()) {
            return Err(Error::argument("lr", "0 or a positive, finite learning rate", lr));
        }
        let weights = || encoder.weights().iter().map(|(name, weight)| (name, weight.dims()));
        if !weights().eq(self.moments.iter().map(|moments| (&moments.name, moments.first.dims())))
            || !weights().eq(gradients.named().iter().map(|(name, gradient)| (name, gradient.dims())))
        {
            let expected = format!("the gradients of the {} weights of this encoder", self.moments.len());
            return Err(Error::argument("gradients", expected, format!("{} of another", gradients.named().len())));
        }
        self.steps += 1;
        let AdamWConfig { beta1, beta2, eps, .. } = self.config;
        let correction1 = 1.0 - beta1.powf(f64::from(self.steps));
        let correction2 = 1.0 - beta2.powf(f64::from(self.steps));
        let weights = encoder.weights().iter().zip(gradients.named());
        for (((_, weight), (_, gradient)), moments) in weights.zip(&mut self.moments) {
            moments.first = ((&moments.first * beta1)? + (gradient * (1.0 - beta1))?)?;
            moments.second = ((&moments.second * beta2)? + (gradient.sqr()? * (1.0 - beta2))?)?;
            let root = ((&moments.second / correction2)?.sqrt()? + eps)?;
            let update = ((&moments.first * (lr / correction1))? / root)?;
            weight.set(&((weight.as_tensor() * (1.0 - lr * moments.weight_decay))? - update)?)?;
        }
        Ok(())
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
    use candle_core::{DType, Device};

    use super::*;
    use crate::model::config::ModelConfig;
    use crate::model::params::Params;

    /// Two steps on one number, worked out with a pencil: the gradient is 0.5, then -0.5.
    #[test]
    fn adamw_follows_the_running_means_and_decays_matrices_only() {
        const LR: f64 = 0.1;
        let (weight, bias) = ("bert.embeddings.word_embeddings.weight", "cls.predictions.bias");
        let mut params = Params::zeros(&ModelConfig::new(6)).unwrap();
        params.set(weight, &[1.0; 6 * 64]).unwrap();
        let mut encoder = Encoder::new(&params, DType::F64, &Device::Cpu).unwrap();
        let mut optimizer = AdamW::new(&encoder, AdamWConfig::default()).unwrap();
        let mut step = |slope: f64| {
            let sums: Vec<Tensor> = encoder.weights().iter().map(|(_, weight)| weight.sum_all().unwrap()).collect();
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
