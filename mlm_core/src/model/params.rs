//! Takes a [`ModelConfig`], gives all weights of the model in one flat buffer under Hugging Face's names; what is
//! computed with them is left to [`crate::model::reference`] and [`crate::engine`].

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use rand::rngs::StdRng;
use rand_distr::{Distribution, Normal};

use crate::error::{Error, Result};
use crate::model::config::ModelConfig;
use crate::model::memory;
use crate::model::names::{self, LayerNames};

/// All weights: f32, one after the other in the order of [`Params::names`].
///
/// ```
/// # use mlm_core::{rand::{SeedableRng, rngs::StdRng}, *};
/// # fn main() -> Result<()> {
/// let mut params = Params::init(&ModelConfig::new(1000), &mut StdRng::seed_from_u64(0))?;
/// assert_eq!(params.get("bert.embeddings.word_embeddings.weight")?.len(), 1000 * 64);
/// params.set("cls.predictions.bias", &[0.5; 1000])?;
/// assert!(params.get("cls.predictions.bais").is_err());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, PartialEq)]
pub struct Params {
    config: ModelConfig,
    table: Arc<Table>,
    values: Vec<f32>,
}

/// The tensors of a model in the order of their flat buffers: weights, gradients, moments.
#[derive(Debug, PartialEq, Eq)]
pub struct Table {
    entries: Vec<Entry>,
    index: HashMap<String, usize>,
    parameters: usize,
}

/// What a tensor is for: how it starts, and whether it decays, follow from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A vector for each token, position or type.
    Embedding,
    /// Of a linear layer.
    Matrix,
    /// What a linear layer or a normalisation adds.
    Bias,
    /// What a normalisation multiplies with.
    Norm,
}

impl Kind {
    /// Whether weight decay pulls it towards 0, as in BERT: neither what is added to activations nor what scales them.
    pub(crate) fn decays(self) -> bool {
        matches!(self, Self::Embedding | Self::Matrix)
    }
}

/// Where one named tensor lies in a flat buffer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) shape: Vec<usize>,
    pub(crate) range: Range<usize>,
}

impl Table {
    pub(crate) fn new(config: &ModelConfig) -> Self {
        Self::of(tensors(config))
    }

    /// Of tensors that lie one after the other.
    pub(crate) fn of(tensors: impl IntoIterator<Item = (String, Kind, Vec<usize>)>) -> Self {
        let mut entries = Vec::new();
        let mut end: usize = 0;
        for (name, kind, shape) in tensors {
            let start = end;
            end = end.saturating_add(shape.iter().fold(1, |size: usize, &dim| size.saturating_mul(dim)));
            entries.push(Entry { name, kind, shape, range: start..end });
        }
        let index = entries.iter().enumerate().map(|(nth, entry)| (entry.name.clone(), nth)).collect();
        Self { entries, index, parameters: end }
    }

    pub(crate) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The number of parameters.
    pub(crate) fn parameters(&self) -> usize {
        self.parameters
    }

    pub(crate) fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.entries.iter().map(|entry| entry.name.as_str())
    }

    /// # Errors
    /// When there is no tensor of that name.
    pub(crate) fn get(&self, name: &str) -> Result<&Entry> {
        Ok(&self.entries[self.position(name)?])
    }

    /// Which of the entries is the tensor of that name.
    ///
    /// # Errors
    /// When there is none.
    pub(crate) fn position(&self, name: &str) -> Result<usize> {
        match self.index.get(name) {
            Some(&nth) => Ok(nth),
            None => {
                let expected = format!("the name of a tensor such as {}", names::WORDS);
                Err(Error::argument("name", expected, name))
            }
        }
    }
}

impl fmt::Debug for Params {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Params {{ tensors: {}, parameters: {} }}", self.table.entries.len(), self.values.len())
    }
}

impl Params {
    /// Initial weights as in Hugging Face's BERT: embeddings and matrices are drawn from a normal distribution of
    /// standard deviation `initializer_range` (Google's code cuts its tails off at two of them, and Hugging Face's also
    /// sets the embedding of `[PAD]` to 0), biases are 0, LayerNorm starts as the identity (weight 1, bias 0).
    ///
    /// # Errors
    /// When the configuration cannot work, or the memory has no room for training its model: see [`Params::zeros`].
    pub fn init(config: &ModelConfig, rng: &mut StdRng) -> Result<Self> {
        let mut params = Self::zeros(config)?;
        params.draw(rng)?;
        Ok(params)
    }

    /// Draws what is to be noise, and lets normalisations scale nothing. All else is 0 already.
    fn draw(&mut self, rng: &mut StdRng) -> Result<()> {
        let normal = Normal::new(0.0, self.config.initializer_range)
            .map_err(|error| Error::argument("initializer_range", "a standard deviation", error))?;
        for entry in &self.table.entries {
            let values = &mut self.values[entry.range.clone()];
            match entry.kind {
                Kind::Embedding | Kind::Matrix => values.fill_with(|| normal.sample(rng) as f32),
                Kind::Norm => values.fill(1.0),
                Kind::Bias => {}
            }
        }
        Ok(())
    }

    /// All weights 0: the place to put weights from elsewhere.
    ///
    /// # Errors
    /// When the configuration cannot work, or the memory that is available has no room for training its model: the
    /// weights, their gradients and the two moments of [`crate::AdamW`].
    pub fn zeros(config: &ModelConfig) -> Result<Self> {
        Self::zeros_with_room(config, memory::TRAINING)
    }

    /// All weights 0, if there is room for `numbers` numbers for each of them.
    pub(crate) fn zeros_with_room(config: &ModelConfig, numbers: usize) -> Result<Self> {
        config.validate()?;
        let table = Table::new(config);
        let mut values = memory::reserve(config, table.parameters, numbers)?;
        values.resize(table.parameters, 0.0);
        Ok(Self { config: config.clone(), table: Arc::new(table), values })
    }

    /// The shape of the model that the weights are for.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The number of parameters; the decoder shares the word embeddings and is not counted again.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// The names of the tensors, in the order of the buffer.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.table.names()
    }

    /// The tensors in the order of the buffer: name, shape, values.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = (&str, &[usize], &[f32])> {
        (self.table.entries.iter())
            .map(|entry| (entry.name.as_str(), entry.shape.as_slice(), &self.values[entry.range.clone()]))
    }

    /// The values of one tensor, row by row.
    ///
    /// # Errors
    /// When the model has no tensor of that name.
    pub fn get(&self, name: &str) -> Result<&[f32]> {
        Ok(&self.values[self.table.get(name)?.range.clone()])
    }

    /// Overwrites the values of one tensor.
    ///
    /// # Errors
    /// When the model has no tensor of that name, or of another size.
    pub fn set(&mut self, name: &str, values: &[f32]) -> Result<()> {
        let entry = self.table.get(name)?;
        if values.len() != entry.range.len() {
            let expected = format!("{} values for {name} {:?}", entry.range.len(), entry.shape);
            return Err(Error::argument("values", expected, values.len()));
        }
        self.values[entry.range.clone()].copy_from_slice(values);
        Ok(())
    }

    /// The whole buffer.
    pub fn as_slice(&self) -> &[f32] {
        &self.values
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [f32] {
        &mut self.values
    }

    pub(crate) fn table(&self) -> &Arc<Table> {
        &self.table
    }
}

/// Name, kind and shape of each tensor, from the input to the output. A linear layer from `n` to `m` has a weight of shape
/// `[m, n]`, as in PyTorch.
fn tensors(config: &ModelConfig) -> Vec<(String, Kind, Vec<usize>)> {
    let ModelConfig { vocab, d_model, d_ff, max_len, token_types, .. } = *config;
    let mut tensors = Vec::new();
    for (name, rows) in [(names::WORDS, vocab), (names::POSITIONS, max_len), (names::TOKEN_TYPES, token_types)] {
        tensors.push((name.to_owned(), Kind::Embedding, vec![rows, d_model]));
    }
    let mut with_bias = |name: &str, kind: Kind, shape: Vec<usize>| {
        let added = vec![shape[0]];
        tensors.push((names::weight(name), kind, shape));
        tensors.push((names::bias(name), Kind::Bias, added));
    };
    with_bias(names::EMBEDDINGS_NORM, Kind::Norm, vec![d_model]);
    for layer in 0..config.layers {
        let names = LayerNames::new(layer);
        for name in [&names.query, &names.key, &names.value, &names.attention_output] {
            with_bias(name, Kind::Matrix, vec![d_model, d_model]);
        }
        with_bias(&names.attention_norm, Kind::Norm, vec![d_model]);
        with_bias(&names.intermediate, Kind::Matrix, vec![d_ff, d_model]);
        with_bias(&names.output, Kind::Matrix, vec![d_model, d_ff]);
        with_bias(&names.output_norm, Kind::Norm, vec![d_model]);
    }
    with_bias(names::TRANSFORM, Kind::Matrix, vec![d_model, d_model]);
    with_bias(names::TRANSFORM_NORM, Kind::Norm, vec![d_model]);
    tensors.push((names::DECODER_BIAS.to_owned(), Kind::Bias, vec![vocab]));
    tensors
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    /// A tensor may be called as one likes.
    #[test]
    fn weights_start_as_their_kind_says() {
        let tensors = [("table", Kind::Embedding), ("bias.of.no.kind", Kind::Matrix), ("norm.scale", Kind::Norm)];
        let tensors = tensors.into_iter().chain([("LayerNorm.weight", Kind::Bias)]);
        let table = Table::of(tensors.map(|(name, kind)| (name.to_owned(), kind, vec![4])));
        let config = ModelConfig::new(6);
        let mut params = Params { config, values: vec![0.0; table.parameters], table: Arc::new(table) };
        params.draw(&mut StdRng::seed_from_u64(0)).unwrap();
        for name in ["table", "bias.of.no.kind"] {
            assert!(params.get(name).unwrap().iter().all(|&value| value != 0.0 && value.abs() < 0.2), "{name}");
        }
        assert_eq!(params.get("norm.scale").unwrap(), [1.0; 4]);
        assert_eq!(params.get("LayerNorm.weight").unwrap(), [0.0; 4]);
    }
}
