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

use std::fmt;
use std::sync::Arc;

use candle_core::{D, DType, Device, Tensor, Var, WithDType};
use candle_nn::ops::{log_softmax, softmax};

use crate::error::{Error, Result};
use crate::kernel::check_interrupt;
use crate::model::config::ModelConfig;
use crate::model::dropout::{RowDropout, Site};
use crate::model::encoder::{self, Encoded, Encoder, Mode, Score};
use crate::model::gradients::Gradients;
use crate::model::memory::{self, describe};
use crate::model::names::{self, LayerNames};
use crate::model::params::{Params, Table};
use crate::model::weights::{Numbers, Part, Rule, Values, Weights};
use crate::text::batch::{Batch, PaddedBatch};

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
/// let reference = Reference::new(&params, DType::F32, &Device::Cpu)?;
/// // Two gaps (the id 4 is `[MASK]`) in sentences of 4 and 3 tokens.
/// let batch = Batch::with_gaps([[2, 4, 17, 3].as_slice(), &[2, 4, 3]], 4);
/// assert_eq!(reference.logits(&batch, Mode::Evaluate)?.dims(), [2, 40]);
/// assert_eq!(reference.encode(&batch, Mode::Evaluate)?.attention[0].dims(), [2, 4, 4, 4]);
/// # Ok(())
/// # }
/// ```
pub struct Reference {
    config: ModelConfig,
    dtype: DType,
    device: Device,
    table: Arc<Table>,
    /// In the order of the table.
    weights: Vec<Var>,
    /// The last forward pass's loss, which remembers how it was computed, for one backward pass.
    loss: Option<Tensor>,
}

impl fmt::Debug for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reference {{ {:?}, {:?}, {:?} }}", self.config, self.dtype, self.device)
    }
}

impl Reference {
    /// A model with a copy of the given weights, in f32 or f64, on the given device.
    ///
    /// # Errors
    /// When `dtype` is neither, or the device has no room.
    pub fn new(params: &Params, dtype: DType, device: &Device) -> Result<Self> {
        if !matches!(dtype, DType::F32 | DType::F64) {
            return Err(Error::argument("dtype", "F32 or F64", dtype.as_str()));
        }
        let mut weights = Vec::new();
        for (_, shape, values) in params.tensors() {
            weights.push(Var::from_tensor(&Tensor::from_slice(values, shape, device)?.to_dtype(dtype)?)?);
        }
        let (config, table) = (params.config().clone(), Arc::clone(params.table()));
        Ok(Self { config, dtype, device: device.clone(), table, weights, loss: None })
    }

    /// The device that the weights are on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// One weight by its name.
    ///
    /// # Errors
    /// When the model has no weight of that name.
    pub fn weight(&self, name: &str) -> Result<&Var> {
        Ok(&self.weights[self.table.position(name)?])
    }

    /// The loss of [`Encoder::forward`] as a tensor: a scalar from which [`Reference::gradients`] goes back.
    ///
    /// # Errors
    /// When the batch does not fit the model, or has no targets.
    pub fn loss(&self, batch: &Batch, mode: Mode) -> Result<Tensor> {
        self.config.check_targets(batch)?;
        let logits = self.logits(batch, mode)?; // [masked, vocab]
        let targets = Tensor::new(batch.targets.as_slice(), &self.device)?; // [masked]
        Ok(candle_nn::loss::cross_entropy(&logits, &targets)?)
    }

    /// The gradient of a loss for each weight, by candle's autograd.
    ///
    /// # Errors
    /// When a weight gets none; the error names it.
    pub fn gradients(&self, loss: &Tensor) -> Result<Gradients> {
        let mut gradients = Gradients::zeros(self)?;
        self.gradients_into(loss, &mut gradients)?;
        Ok(gradients)
    }

    fn gradients_into(&self, loss: &Tensor, gradients: &mut Gradients) -> Result<()> {
        let values = gradients.values_mut(self)?;
        let mut store = loss.backward()?;
        for (entry, weight) in self.table.entries().iter().zip(&self.weights) {
            let missing = || Error::MissingGradient { name: entry.name.clone() };
            let gradient = store.remove(weight).ok_or_else(missing)?.flatten_all()?;
            match values {
                Values::F32(values) => values[entry.range.clone()].copy_from_slice(&gradient.to_vec1()?),
                Values::F64(values) => values[entry.range.clone()].copy_from_slice(&gradient.to_vec1()?),
            }
        }
        Ok(())
    }

    /// How many numbers the largest tensors of a forward pass hold, which autograd keeps until it has gone back: scores,
    /// probabilities and their exponentials in each layer, and the logits.
    fn numbers(&self, batch: &Batch) -> usize {
        let ModelConfig { heads, layers, vocab, .. } = self.config;
        let sizes = [3, layers, heads, batch.sequences(), batch.longest(), batch.longest()];
        let scores = sizes.into_iter().fold(1, usize::saturating_mul);
        scores.saturating_add(batch.masked_rows.len().saturating_mul(vocab))
    }

    fn padded(&self, batch: &Batch) -> Result<PaddedBatch> {
        self.config.check(batch)?;
        if self.device.is_cpu() {
            memory::check("batch", "a batch", self.numbers(batch), || describe(batch))?;
        }
        batch.padded(self.config.pad, &self.device)
    }

    fn layers(&self, batch: &Batch, padded: &PaddedBatch, mode: Mode) -> Result<Encoded> {
        check_interrupt()?;
        let (sequences, seq) = padded.input_ids.dims2()?;
        let mut hidden = self.embeddings(&padded.input_ids)?; // [batch * seq, d_model]
        hidden = self.drop_hidden(&hidden, batch, Site::Embeddings, mode)?;
        // 0 where there is a token, -inf where there is padding: no probability goes there.
        let tokens = padded.attention_mask.reshape((sequences, 1, 1, seq))?;
        let zeros = Tensor::zeros((sequences, 1, 1, seq), self.dtype, &self.device)?;
        let bias = tokens.where_cond(&zeros, &(zeros.ones_like()? * f64::NEG_INFINITY)?)?; // [batch, 1, 1, seq]
        let mut attention = Vec::with_capacity(self.config.layers);
        let mut hidden_states = vec![hidden.clone()];
        for layer in 0..self.config.layers {
            let names = LayerNames::new(layer);
            let probabilities = self.attention_probabilities(&hidden, &bias, &names)?; // [batch, heads, seq, seq]
            let dropped = self.drop_attention(&probabilities, batch, Site::Attention(layer), mode)?;
            let context = self.attend(&dropped, &hidden, &names)?; // [batch * seq, d_model]
            let output = self.linear(&context, &names.attention_output)?;
            let output = self.drop_hidden(&output, batch, Site::AttentionOutput(layer), mode)?;
            hidden = self.layer_norm(&(hidden + output)?, &names.attention_norm)?;

            let output = gelu(&self.linear(&hidden, &names.intermediate)?)?; // [.., d_ff]
            let output = self.linear(&output, &names.output)?; // [batch * seq, d_model]
            let output = self.drop_hidden(&output, batch, Site::Output(layer), mode)?;
            hidden = self.layer_norm(&(hidden + output)?, &names.output_norm)?;
            attention.push(probabilities);
            hidden_states.push(hidden.clone());
        }
        Ok(Encoded { hidden, hidden_states, attention })
    }

    /// `[batch, seq]` ids to `[batch * seq, d_model]`.
    fn embeddings(&self, input_ids: &Tensor) -> Result<Tensor> {
        let (batch, seq) = input_ids.dims2()?;
        let d_model = self.config.d_model;
        let word = self.weight(names::WORDS)?; // [vocab, d_model]
        let word = word.index_select(&input_ids.flatten_all()?, 0)?.reshape((batch, seq, d_model))?;
        let position = self.weight(names::POSITIONS)?.narrow(0, 0, seq)?; // [seq, d_model]
        let token_type = self.weight(names::TOKEN_TYPES)?.narrow(0, 0, 1)?; // [1, d_model]
        let sum = word.broadcast_add(&position)?.broadcast_add(&token_type)?.reshape((batch * seq, d_model))?;
        self.layer_norm(&sum, names::EMBEDDINGS_NORM)
    }

    /// softmax(Q K^T / sqrt(head_dim) + bias), `[batch * seq, d_model]` to `[batch, heads, seq, seq]`.
    fn attention_probabilities(&self, hidden: &Tensor, bias: &Tensor, names: &LayerNames) -> Result<Tensor> {
        let (sequences, _, _, seq) = bias.dims4()?;
        let query = self.heads(&self.linear(hidden, &names.query)?, sequences, seq)?;
        let key = self.heads(&self.linear(hidden, &names.key)?, sequences, seq)?;
        let scale = 1.0 / (self.config.head_dim() as f64).sqrt();
        let scores = (query.matmul(&key.t()?)? * scale)?; // [batch, heads, seq, seq]
        Ok(softmax(&scores.broadcast_add(bias)?, D::Minus1)?)
    }

    /// The heads' weighted means of the values, side by side: to `[batch * seq, d_model]`.
    fn attend(&self, probabilities: &Tensor, hidden: &Tensor, names: &LayerNames) -> Result<Tensor> {
        let (sequences, _, seq, _) = probabilities.dims4()?;
        let value = self.heads(&self.linear(hidden, &names.value)?, sequences, seq)?;
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
        let weight = self.weight(&names::weight(name))?; // [to, from]
        Ok(rows.matmul(&weight.t()?)?.broadcast_add(self.weight(&names::bias(name))?)?)
    }

    /// (x - mean) / sqrt(variance + eps) * weight + bias over each row (Ba et al. 2016, "Layer Normalization").
    fn layer_norm(&self, rows: &Tensor, name: &str) -> Result<Tensor> {
        let centered = rows.broadcast_sub(&rows.mean_keepdim(D::Minus1)?)?; // [rows, d_model]
        let variance = centered.sqr()?.mean_keepdim(D::Minus1)?; // [rows, 1]
        let normal = centered.broadcast_div(&(variance + self.config.layer_norm_eps)?.sqrt()?)?;
        let scaled = normal.broadcast_mul(self.weight(&names::weight(name))?)?;
        Ok(scaled.broadcast_add(self.weight(&names::bias(name))?)?)
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
            dropout.apply(&mut factors[padded_row * columns..(padded_row + 1) * columns]);
        }
        let factors = Tensor::from_vec(factors, units.shape(), &self.device)?.to_dtype(self.dtype)?;
        Ok((units * factors)?)
    }
}

impl Encoder for Reference {
    fn config(&self) -> &ModelConfig {
        &self.config
    }

    fn params(&self) -> Result<Params> {
        let mut params = Params::zeros_with_room(&self.config, 1)?;
        for (entry, weight) in self.table.entries().iter().zip(&self.weights) {
            params.set(&entry.name, &weight.flatten_all()?.to_dtype(DType::F32)?.to_vec1::<f32>()?)?;
        }
        Ok(params)
    }

    fn forward(&mut self, batch: &Batch, mode: Mode) -> Result<f64> {
        let loss = self.loss(batch, mode)?;
        let value = match self.dtype {
            DType::F64 => loss.to_scalar::<f64>()?,
            _ => f64::from(loss.to_scalar::<f32>()?),
        };
        self.loss = Some(loss);
        Ok(value)
    }

    fn backward(&mut self, gradients: &mut Gradients) -> Result<()> {
        let loss = self.loss.take().ok_or(Error::NoForward)?;
        self.gradients_into(&loss, gradients)
    }

    fn logits(&self, batch: &Batch, mode: Mode) -> Result<Tensor> {
        batch.check_masked()?;
        let padded = self.padded(batch)?;
        let hidden = self.layers(batch, &padded, mode)?.hidden; // [batch * seq, d_model]
        let hidden = hidden.index_select(&padded.masked_rows, 0)?; // [masked, d_model]
        let hidden = gelu(&self.linear(&hidden, names::TRANSFORM)?)?;
        let hidden = self.layer_norm(&hidden, names::TRANSFORM_NORM)?; // [masked, d_model]
        let decoder = self.weight(names::WORDS)?.t()?; // [d_model, vocab]
        Ok(hidden.matmul(&decoder)?.broadcast_add(self.weight(names::DECODER_BIAS)?)?)
    }

    fn score(&self, batch: &Batch) -> Result<Vec<Score>> {
        self.config.check(batch)?;
        self.config.check_targets(batch)?;
        let logits = self.logits(batch, Mode::Evaluate)?;
        let score = |(row, &target): (usize, &u32)| {
            let logits = encoder::row(&logits, row)?;
            let log_probability = log_softmax(&logits, 0)?.get(target as usize)?.to_scalar()?;
            Ok(Score { log_probability, best: logits.argmax(0)?.to_scalar()? })
        };
        batch.targets.iter().enumerate().map(score).collect()
    }

    fn encode(&self, batch: &Batch, mode: Mode) -> Result<Encoded> {
        self.layers(batch, &self.padded(batch)?, mode)
    }
}

impl Weights for Reference {
    fn table(&self) -> &Arc<Table> {
        &self.table
    }

    fn dtype(&self) -> DType {
        self.dtype
    }

    /// The weights come from the device and go back to it, because the optimizer computes on the CPU.
    fn update(&mut self, gradients: &Values, moments: &mut [Values; 2], rule: Rule<'_>) -> Result<()> {
        match (gradients, moments) {
            (Values::F32(gradients), [Values::F32(first), Values::F32(second)]) => self.update_as(|weights| {
                rule(Part::F32(Numbers { start: 0, weights, gradients, moments: [first, second] }));
            }),
            (Values::F64(gradients), [Values::F64(first), Values::F64(second)]) => self.update_as(|weights| {
                rule(Part::F64(Numbers { start: 0, weights, gradients, moments: [first, second] }));
            }),
            _ => unreachable!("an optimizer's numbers are all of one precision"),
        }
    }
}

impl Reference {
    fn update_as<T: WithDType>(&mut self, rule: impl FnOnce(&mut [T])) -> Result<()> {
        let mut values = Vec::with_capacity(self.table.parameters());
        for weight in &self.weights {
            values.extend(weight.flatten_all()?.to_vec1::<T>()?);
        }
        rule(&mut values);
        for (entry, weight) in self.table.entries().iter().zip(&self.weights) {
            let values = &values[entry.range.clone()];
            weight.set(&Tensor::from_slice(values, entry.shape.as_slice(), &self.device)?)?;
        }
        Ok(())
    }
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
    fn encoder(weights: &[(String, &[f32])]) -> Reference {
        let config = ModelConfig { d_model: 2, heads: 1, layers: 1, d_ff: 2, max_len: 4, ..ModelConfig::new(6) };
        let mut params = Params::zeros(&config).unwrap();
        for (name, values) in weights {
            params.set(name, values).unwrap();
        }
        Reference::new(&params, DType::F64, &Device::Cpu).unwrap()
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
        let name = &LayerNames::new(0).intermediate;
        let encoder = encoder(&[(names::weight(name), &[1.0, 2.0, 3.0, 4.0]), (names::bias(name), &[10.0, 20.0])]);
        // 1 * 5 + 2 * 6 + 10 and 3 * 5 + 4 * 6 + 20
        assert_close(&encoder.linear(&rows([[5.0, 6.0]]), name).unwrap(), &[27.0, 59.0]);
    }

    #[test]
    fn layer_norm_gives_mean_0_and_variance_1_then_scales_and_shifts() {
        let name = names::EMBEDDINGS_NORM;
        let encoder = encoder(&[(names::weight(name), &[2.0, 3.0]), (names::bias(name), &[10.0, 20.0])]);
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
        let names = &LayerNames::new(0);
        let encoder = encoder(&[&names.query, &names.key, &names.value].map(|name| (names::weight(name), identity)));
        let hidden = rows([[1.0, 0.0], [0.0, 1.0]]);
        let attend = |bias: [f64; 2]| {
            let bias = Tensor::new(&[[[bias]]], &Device::Cpu).unwrap(); // [batch, 1, 1, seq]
            let probabilities = encoder.attention_probabilities(&hidden, &bias, names).unwrap();
            encoder.attend(&probabilities, &hidden, names).unwrap()
        };
        // A token's score is 1 / sqrt(2) with itself and 0 with the other one: e^0.70711 = 2.02811.
        let itself = 2.028_115 / 3.028_115;
        assert_close(&attend([0.0, 0.0]), &[itself, 1.0 - itself, 1.0 - itself, itself]);
        // Nobody looks at padding.
        assert_close(&attend([0.0, f64::NEG_INFINITY]), &[1.0, 0.0, 1.0, 0.0]);
    }
}
