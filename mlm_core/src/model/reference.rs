//! The reference back end, the model on a page: takes [`Params`] and a [`Batch`], gives logits, the loss and, by
//! candle's autograd, a gradient for each weight. Runs in f32 and f64 on any candle device. Updating the weights is
//! left to [`crate::training::optimizer`].
//!
//! The implementations to compare with: Google's own, `modeling.py` in <https://github.com/google-research/bert>, and
//! Hugging Face's, `models/bert/modeling_bert.py` in <https://github.com/huggingface/transformers>.
//!
//! Candle 0.11 has operations whose gradients are missing or wrong without a word: `candle_nn::LayerNorm` and
//! `candle_nn::ops::softmax_last_dim` have none, and that of `Tensor::gelu_erf` has a constant rounded to six digits.
//! Hence LayerNorm and GELU are spelled out here, and softmax is `candle_nn::ops::softmax`.

use std::collections::HashMap;
use std::fmt;

use candle_core::{D, DType, Device, Tensor, Var};
use candle_nn::ops::softmax;

use crate::error::{Error, Result};
use crate::model::config::ModelConfig;
use crate::model::dropout::{RowDropout, Site};
use crate::model::encoder::{Encoded, Mode};
use crate::model::params::Params;
use crate::text::batch::{Batch, PaddedBatch};

/// The gradient of the loss for each weight, in the order of [`Params::names`].
#[derive(Clone, Debug)]
pub struct Gradients {
    named: Vec<(String, Tensor)>,
}

impl Gradients {
    /// The gradients with the names of their weights.
    pub fn named(&self) -> &[(String, Tensor)] {
        &self.named
    }

    /// The gradient of one weight, by its name.
    ///
    /// # Errors
    /// When the model has no weight of that name.
    pub fn get(&self, name: &str) -> Result<&Tensor> {
        match self.named.iter().find(|(other, _)| other == name) {
            Some((_, gradient)) => Ok(gradient),
            None => Err(unknown_weight(name)),
        }
    }

    /// The length of the vector of all gradients together.
    ///
    /// # Errors
    /// When the device fails.
    pub fn norm(&self) -> Result<f64> {
        let mut sum = 0.0;
        for (_, gradient) in &self.named {
            sum += gradient.sqr()?.sum_all()?.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.to_scalar::<f64>()?;
        }
        Ok(sum.sqrt())
    }

    /// Shortens the vector of all gradients together to `max_norm` if it is longer, and returns its length before
    /// (Pascanu et al. 2013, "On the difficulty of training recurrent neural networks", section 3.2).
    ///
    /// # Errors
    /// When `max_norm` is not positive, or the norm is not finite: the step before was too large.
    pub fn clip(&mut self, max_norm: f64) -> Result<f64> {
        if max_norm.is_nan() || max_norm <= 0.0 {
            return Err(Error::argument("max_norm", "a positive number", max_norm));
        }
        let norm = self.norm()?;
        if !norm.is_finite() {
            return Err(Error::argument("gradients", "a finite norm (try a smaller learning rate)", norm));
        }
        // PyTorch's clip_grad_norm_ adds the same 1e-6.
        let factor = max_norm / (norm + 1e-6);
        if factor < 1.0 {
            for (_, gradient) in &mut self.named {
                *gradient = (&*gradient * factor)?;
            }
        }
        Ok(norm)
    }
}

/// BERT with the masked language modeling head, in candle operations: the layout of Devlin et al. 2019 (Vaswani et al.
/// 2017, section 3, with LayerNorm after the residual sum) under the names of Hugging Face's `BertForMaskedLM`.
///
/// ```text
/// h = LayerNorm(word + position + token type)                      [tokens, d_model]
/// h = LayerNorm(h + Attention(h) W^T + b)     \  `layers` times
/// h = LayerNorm(h + FeedForward(h))           /
/// Attention(h) = softmax(Q K^T / sqrt(head_dim)) V   for each head; Q, K, V: h W^T + b     [tokens, d_model]
/// FeedForward(h) = GELU(h W^T + b) W'^T + b'         d_ff wide between the two             [tokens, d_model]
/// logits = LayerNorm(GELU(h W^T + b)) E^T + c        at the masked rows; E: the word embeddings (tied)
///                                                                  [masked, vocab]
/// loss = mean over the masked rows of -log softmax(logits)[target]
/// ```
///
/// ```
/// # use mlm_core::{candle_core::{DType, Device}, rand::{SeedableRng, rngs::StdRng}, *};
/// # fn main() -> Result<()> {
/// let params = Params::init(&ModelConfig::new(40), &mut StdRng::seed_from_u64(0))?;
/// let encoder = Encoder::new(&params, DType::F32, &Device::Cpu)?;
/// // Two gaps (the id 4 is `[MASK]`) in sentences of 4 and 3 tokens.
/// let batch = Batch::with_gaps([[2, 4, 17, 3].as_slice(), &[2, 4, 3]], 4);
/// assert_eq!(encoder.logits(&batch, Mode::Evaluate)?.dims(), [2, 40]);
/// assert_eq!(encoder.encode(&batch, Mode::Evaluate)?.attention[0].dims(), [2, 4, 4, 4]);
/// # Ok(())
/// # }
/// ```
pub struct Encoder {
    config: ModelConfig,
    dtype: DType,
    device: Device,
    weights: Vec<(String, Var)>,
    index: HashMap<String, usize>,
}

impl fmt::Debug for Encoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Encoder {{ {:?}, {:?}, {:?} }}", self.config, self.dtype, self.device)
    }
}

impl Encoder {
    /// A model with a copy of the given weights, in f32 or f64, on the given device.
    ///
    /// # Errors
    /// When `dtype` is neither, or the device has no room.
    pub fn new(params: &Params, dtype: DType, device: &Device) -> Result<Self> {
        if !matches!(dtype, DType::F32 | DType::F64) {
            return Err(Error::argument("dtype", "F32 or F64", dtype.as_str()));
        }
        let mut weights = Vec::new();
        for (name, shape, values) in params.tensors() {
            let tensor = Tensor::from_slice(values, shape, device)?.to_dtype(dtype)?;
            weights.push((name.to_owned(), Var::from_tensor(&tensor)?));
        }
        let index = weights.iter().enumerate().map(|(nth, (name, _))| (name.clone(), nth)).collect();
        Ok(Self { config: params.config().clone(), dtype, device: device.clone(), weights, index })
    }

    /// The shape of the model.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The device that the weights are on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The weights with their names, in the order of [`Params::names`].
    pub fn weights(&self) -> &[(String, Var)] {
        &self.weights
    }

    /// One weight by its name.
    ///
    /// # Errors
    /// When the model has no weight of that name.
    pub fn weight(&self, name: &str) -> Result<&Tensor> {
        match self.index.get(name) {
            Some(&nth) => Ok(self.weights[nth].1.as_tensor()),
            None => Err(unknown_weight(name)),
        }
    }

    /// A copy of the weights as they are now, in f32.
    ///
    /// # Errors
    /// When the device fails.
    pub fn params(&self) -> Result<Params> {
        let mut params = Params::zeros_with_room(&self.config, 1)?;
        for (name, weight) in &self.weights {
            params.set(name, &weight.flatten_all()?.to_dtype(DType::F32)?.to_vec1::<f32>()?)?;
        }
        Ok(params)
    }

    /// The mean over the masked rows of the cross-entropy between the model's prediction and the right token, in
    /// nats: a scalar from which [`Encoder::gradients`] goes back.
    ///
    /// # Errors
    /// When the batch does not fit the model, or has no targets.
    pub fn loss(&self, batch: &Batch, mode: Mode) -> Result<Tensor> {
        batch.check_targets()?;
        self.check_ids("targets", &batch.targets)?;
        let logits = self.logits(batch, mode)?; // [masked, vocab]
        let targets = Tensor::new(batch.targets.as_slice(), &self.device)?; // [masked]
        Ok(candle_nn::loss::cross_entropy(&logits, &targets)?)
    }

    /// The scores of each token of the vocabulary at the masked rows, before the softmax `[masked, vocab]`.
    ///
    /// # Errors
    /// When the batch does not fit the model.
    pub fn logits(&self, batch: &Batch, mode: Mode) -> Result<Tensor> {
        if batch.masked_rows.is_empty() {
            return Err(Error::argument("batch", "at least one masked row", 0));
        }
        let padded = self.padded(batch)?;
        let hidden = self.layers(batch, &padded, mode)?.hidden; // [batch * seq, d_model]
        let hidden = hidden.index_select(&padded.masked_rows, 0)?; // [masked, d_model]
        let hidden = gelu(&self.linear(&hidden, "cls.predictions.transform.dense")?)?;
        let hidden = self.layer_norm(&hidden, "cls.predictions.transform.LayerNorm")?; // [masked, d_model]
        let decoder = self.weight("bert.embeddings.word_embeddings.weight")?.t()?; // [d_model, vocab]
        Ok(hidden.matmul(&decoder)?.broadcast_add(self.weight("cls.predictions.bias")?)?)
    }

    /// The hidden states and the attention probabilities of a batch.
    ///
    /// # Errors
    /// When the batch does not fit the model.
    pub fn encode(&self, batch: &Batch, mode: Mode) -> Result<Encoded> {
        self.layers(batch, &self.padded(batch)?, mode)
    }

    /// The gradient of the loss for each weight.
    ///
    /// # Errors
    /// When a weight gets none; the error names it.
    pub fn gradients(&self, loss: &Tensor) -> Result<Gradients> {
        let mut store = loss.backward()?;
        let mut named = Vec::with_capacity(self.weights.len());
        for (name, weight) in &self.weights {
            let gradient = store.remove(weight).ok_or_else(|| Error::MissingGradient { name: name.clone() })?;
            named.push((name.clone(), gradient));
        }
        Ok(Gradients { named })
    }

    fn padded(&self, batch: &Batch) -> Result<PaddedBatch> {
        batch.validate()?;
        let (longest, max_len) = (batch.longest(), self.config.max_len);
        if longest > max_len {
            return Err(Error::argument("batch", format!("sequences of at most max_len = {max_len} tokens"), longest));
        }
        self.check_ids("input_ids", &batch.input_ids)?;
        batch.padded(self.config.pad, &self.device)
    }

    pub(crate) fn check_ids(&self, argument: &'static str, ids: &[u32]) -> Result<()> {
        let vocab = self.config.vocab;
        match ids.iter().find(|&&id| id as usize >= vocab) {
            Some(id) => Err(Error::argument(argument, format!("ids below vocab = {vocab}"), id)),
            None => Ok(()),
        }
    }

    fn layers(&self, batch: &Batch, padded: &PaddedBatch, mode: Mode) -> Result<Encoded> {
        let (sequences, seq) = padded.input_ids.dims2()?;
        let mut hidden = self.embeddings(&padded.input_ids)?; // [batch * seq, d_model]
        hidden = self.drop_hidden(&hidden, batch, Site::Embeddings, mode)?;
        // 0 where there is a token, -inf where there is padding: no probability goes there.
        let tokens = padded.attention_mask.reshape((sequences, 1, 1, seq))?;
        let zeros = Tensor::zeros((sequences, 1, 1, seq), self.dtype, &self.device)?;
        let bias = tokens.where_cond(&zeros, &(zeros.ones_like()? * f64::NEG_INFINITY)?)?; // [batch, 1, 1, seq]
        let mut attention = Vec::with_capacity(self.config.layers);
        for layer in 0..self.config.layers {
            let name = format!("bert.encoder.layer.{layer}");
            let probabilities = self.attention_probabilities(&hidden, &bias, &name)?; // [batch, heads, seq, seq]
            let dropped = self.drop_attention(&probabilities, batch, Site::Attention(layer), mode)?;
            let context = self.attend(&dropped, &hidden, &name)?; // [batch * seq, d_model]
            let output = self.linear(&context, &format!("{name}.attention.output.dense"))?;
            let output = self.drop_hidden(&output, batch, Site::AttentionOutput(layer), mode)?;
            hidden = self.layer_norm(&(hidden + output)?, &format!("{name}.attention.output.LayerNorm"))?;

            let output = gelu(&self.linear(&hidden, &format!("{name}.intermediate.dense"))?)?; // [.., d_ff]
            let output = self.linear(&output, &format!("{name}.output.dense"))?; // [batch * seq, d_model]
            let output = self.drop_hidden(&output, batch, Site::Output(layer), mode)?;
            hidden = self.layer_norm(&(hidden + output)?, &format!("{name}.output.LayerNorm"))?;
            attention.push(probabilities);
        }
        Ok(Encoded { hidden, attention })
    }

    /// `[batch, seq]` ids to `[batch * seq, d_model]`.
    fn embeddings(&self, input_ids: &Tensor) -> Result<Tensor> {
        let (batch, seq) = input_ids.dims2()?;
        let d_model = self.config.d_model;
        let word = self.weight("bert.embeddings.word_embeddings.weight")?; // [vocab, d_model]
        let word = word.index_select(&input_ids.flatten_all()?, 0)?.reshape((batch, seq, d_model))?;
        let position = self.weight("bert.embeddings.position_embeddings.weight")?.narrow(0, 0, seq)?; // [seq, d_model]
        let token_type = self.weight("bert.embeddings.token_type_embeddings.weight")?.narrow(0, 0, 1)?; // [1, d_model]
        let sum = word.broadcast_add(&position)?.broadcast_add(&token_type)?.reshape((batch * seq, d_model))?;
        self.layer_norm(&sum, "bert.embeddings.LayerNorm")
    }

    /// softmax(Q K^T / sqrt(head_dim) + bias), `[batch * seq, d_model]` to `[batch, heads, seq, seq]`.
    fn attention_probabilities(&self, hidden: &Tensor, bias: &Tensor, name: &str) -> Result<Tensor> {
        let (sequences, _, _, seq) = bias.dims4()?;
        let query = self.heads(&self.linear(hidden, &format!("{name}.attention.self.query"))?, sequences, seq)?;
        let key = self.heads(&self.linear(hidden, &format!("{name}.attention.self.key"))?, sequences, seq)?;
        let scale = 1.0 / (self.config.head_dim() as f64).sqrt();
        let scores = (query.matmul(&key.t()?)? * scale)?; // [batch, heads, seq, seq]
        Ok(softmax(&scores.broadcast_add(bias)?, D::Minus1)?)
    }

    /// The heads' weighted means of the values, side by side: to `[batch * seq, d_model]`.
    fn attend(&self, probabilities: &Tensor, hidden: &Tensor, name: &str) -> Result<Tensor> {
        let (sequences, _, seq, _) = probabilities.dims4()?;
        let value = self.heads(&self.linear(hidden, &format!("{name}.attention.self.value"))?, sequences, seq)?;
        let context = probabilities.matmul(&value)?; // [batch, heads, seq, head_dim]
        Ok(context.transpose(1, 2)?.reshape((sequences * seq, self.config.d_model))?)
    }

    /// `[batch * seq, d_model]` to `[batch, heads, seq, head_dim]`.
    fn heads(&self, rows: &Tensor, sequences: usize, seq: usize) -> Result<Tensor> {
        let ModelConfig { heads, .. } = self.config;
        Ok(rows.reshape((sequences, seq, heads, self.config.head_dim()))?.transpose(1, 2)?.contiguous()?)
    }

    /// x W^T + b, `[rows, from]` to `[rows, to]`.
    fn linear(&self, rows: &Tensor, name: &str) -> Result<Tensor> {
        let weight = self.weight(&format!("{name}.weight"))?; // [to, from]
        Ok(rows.matmul(&weight.t()?)?.broadcast_add(self.weight(&format!("{name}.bias"))?)?)
    }

    /// (x - mean) / sqrt(variance + eps) * weight + bias over each row (Ba et al. 2016, "Layer Normalization").
    fn layer_norm(&self, rows: &Tensor, name: &str) -> Result<Tensor> {
        let centered = rows.broadcast_sub(&rows.mean_keepdim(D::Minus1)?)?; // [rows, d_model]
        let variance = centered.sqr()?.mean_keepdim(D::Minus1)?; // [rows, 1]
        let normal = centered.broadcast_div(&(variance + self.config.layer_norm_eps)?.sqrt()?)?;
        let scaled = normal.broadcast_mul(self.weight(&format!("{name}.weight"))?)?;
        Ok(scaled.broadcast_add(self.weight(&format!("{name}.bias"))?)?)
    }

    /// Drops units of `[batch * seq, d_model]`.
    fn drop_hidden(&self, rows: &Tensor, batch: &Batch, site: Site, mode: Mode) -> Result<Tensor> {
        let seq = batch.longest();
        let places = batch.places().map(|place| (place.sequence * seq + place.position, place.row));
        self.drop(rows, places, self.config.hidden_dropout, site, mode)
    }

    /// Drops units of `[batch, heads, seq, seq]`.
    fn drop_attention(&self, probabilities: &Tensor, batch: &Batch, site: Site, mode: Mode) -> Result<Tensor> {
        let (seq, heads) = (batch.longest(), self.config.heads);
        let places = batch.places().flat_map(|place| {
            (0..heads)
                .map(move |head| ((place.sequence * heads + head) * seq + place.position, place.row * heads + head))
        });
        self.drop(probabilities, places, self.config.attention_dropout, site, mode)
    }

    /// Multiplies rows of units by their dropout factors. `places` pairs each row of the padded tensor with its row in
    /// the unpadded batch, which is what the draw depends on; padding stays as it is.
    fn drop(
        &self,
        units: &Tensor,
        places: impl Iterator<Item = (usize, usize)>,
        probability: f64,
        site: Site,
        mode: Mode,
    ) -> Result<Tensor> {
        let Mode::Train { dropout_seed } = mode else { return Ok(units.clone()) };
        if probability == 0.0 {
            return Ok(units.clone());
        }
        let columns = units.dim(D::Minus1)?;
        let mut factors = vec![1f32; units.elem_count()];
        for (padded_row, row) in places {
            let dropout = RowDropout::new(dropout_seed, site, row as u64, probability);
            for (column, factor) in factors[padded_row * columns..(padded_row + 1) * columns].iter_mut().enumerate() {
                *factor = dropout.factor(column as u32);
            }
        }
        let factors = Tensor::from_vec(factors, units.shape(), &self.device)?.to_dtype(self.dtype)?;
        Ok((units * factors)?)
    }
}

fn unknown_weight(name: &str) -> Error {
    Error::argument("name", "the name of a weight, as Params::names lists them", name)
}

/// x times the share of a standard normal distribution below x (Hendrycks and Gimpel 2016, "Gaussian Error Linear
/// Units"), by erf, as Hugging Face's `gelu` and the first release of BERT have it. Google's code has since turned to
/// the approximation by tanh.
fn gelu(x: &Tensor) -> Result<Tensor> {
    let share = ((x / std::f64::consts::SQRT_2)?.erf()? + 1.0)?; // twice the share
    Ok((x * share)?.affine(0.5, 0.0)?)
}

/// Each operation on numbers that can be followed with a pencil.
#[cfg(test)]
mod tests {
    use super::*;

    /// A model of width 2 whose weights are 0 but for the given ones.
    fn encoder(weights: &[(String, &[f32])]) -> Encoder {
        let config = ModelConfig { d_model: 2, heads: 1, layers: 1, d_ff: 2, max_len: 4, ..ModelConfig::new(6) };
        let mut params = Params::zeros(&config).unwrap();
        for (name, values) in weights {
            params.set(name, values).unwrap();
        }
        Encoder::new(&params, DType::F64, &Device::Cpu).unwrap()
    }

    fn rows<const N: usize>(rows: [[f64; 2]; N]) -> Tensor {
        Tensor::new(&rows, &Device::Cpu).unwrap()
    }

    #[track_caller]
    fn assert_close(result: &Tensor, expected: &[f64]) {
        let values: Vec<f64> = result.flatten_all().unwrap().to_vec1().unwrap();
        assert_eq!(values.len(), expected.len());
        assert!(values.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-5), "{values:?}, expected {expected:?}");
    }

    #[test]
    fn linear_multiplies_by_the_transposed_weight_and_adds_the_bias() {
        let name = "bert.encoder.layer.0.intermediate.dense";
        let encoder =
            encoder(&[(format!("{name}.weight"), &[1.0, 2.0, 3.0, 4.0]), (format!("{name}.bias"), &[10.0, 20.0])]);
        // 1 * 5 + 2 * 6 + 10 and 3 * 5 + 4 * 6 + 20
        assert_close(&encoder.linear(&rows([[5.0, 6.0]]), name).unwrap(), &[27.0, 59.0]);
    }

    #[test]
    fn layer_norm_gives_mean_0_and_variance_1_then_scales_and_shifts() {
        let name = "bert.embeddings.LayerNorm";
        let encoder = encoder(&[(format!("{name}.weight"), &[2.0, 3.0]), (format!("{name}.bias"), &[10.0, 20.0])]);
        // Mean 4, variance 9: the row is [-1, 1] before scale and shift.
        assert_close(&encoder.layer_norm(&rows([[1.0, 7.0]]), name).unwrap(), &[8.0, 23.0]);
    }

    #[test]
    fn gelu_is_x_times_the_share_of_a_normal_distribution_below_x() {
        let x = rows([[-1.0, 0.0], [1.0, 2.0]]);
        assert_close(&gelu(&x).unwrap(), &[-0.158_655, 0.0, 0.841_345, 1.954_500]);
    }

    #[test]
    fn attention_is_the_mean_of_the_values_weighted_by_how_well_the_keys_match() {
        let identity = [1.0, 0.0, 0.0, 1.0].as_slice();
        let name = "bert.encoder.layer.0";
        let part = |part| (format!("{name}.attention.self.{part}.weight"), identity);
        let encoder = encoder(&["query", "key", "value"].map(part));
        let hidden = rows([[1.0, 0.0], [0.0, 1.0]]);
        let attend = |bias: [f64; 2]| {
            let bias = Tensor::new(&[[[bias]]], &Device::Cpu).unwrap(); // [batch, 1, 1, seq]
            let probabilities = encoder.attention_probabilities(&hidden, &bias, name).unwrap();
            encoder.attend(&probabilities, &hidden, name).unwrap()
        };
        // A token's score is 1 / sqrt(2) with itself and 0 with the other one: e^0.70711 = 2.02811.
        let itself = 2.028_115 / 3.028_115;
        assert_close(&attend([0.0, 0.0]), &[itself, 1.0 - itself, 1.0 - itself, itself]);
        // Nobody looks at padding.
        assert_close(&attend([0.0, f64::NEG_INFINITY]), &[1.0, 0.0, 1.0, 0.0]);
    }
}
