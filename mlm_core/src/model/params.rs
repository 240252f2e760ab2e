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

/// Where one named tensor lies in a flat buffer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
    pub(crate) range: Range<usize>,
}

impl Table {
    pub(crate) fn new(config: &ModelConfig) -> Self {
        let mut entries = Vec::new();
        let mut end: usize = 0;
        for (name, shape) in shapes(config) {
            let start = end;
            end = end.saturating_add(shape.iter().fold(1, |size: usize, &dim| size.saturating_mul(dim)));
            entries.push(Entry { name, shape, range: start..end });
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
                let expected = "the name of a tensor such as bert.embeddings.word_embeddings.weight";
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
        let normal = Normal::new(0.0, config.initializer_range)
            .map_err(|error| Error::argument("initializer_range", "a standard deviation", error))?;
        for entry in &params.table.entries {
            let values = &mut params.values[entry.range.clone()];
            if entry.name.ends_with("LayerNorm.weight") {
                values.fill(1.0);
            } else if !entry.name.ends_with(".bias") {
                values.fill_with(|| normal.sample(rng) as f32);
            }
        }
        Ok(params)
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

/// Name and shape of each tensor, from the input to the output. A linear layer from `n` to `m` has a weight of shape
/// `[m, n]`, as in PyTorch.
fn shapes(config: &ModelConfig) -> Vec<(String, Vec<usize>)> {
    let ModelConfig { vocab, d_model, d_ff, max_len, token_types, .. } = *config;
    let mut shapes = vec![
        ("bert.embeddings.word_embeddings.weight".to_owned(), vec![vocab, d_model]),
        ("bert.embeddings.position_embeddings.weight".to_owned(), vec![max_len, d_model]),
        ("bert.embeddings.token_type_embeddings.weight".to_owned(), vec![token_types, d_model]),
    ];
    let layer_norm = |shapes: &mut Vec<(String, Vec<usize>)>, name: &str| {
        shapes.push((format!("{name}.weight"), vec![d_model]));
        shapes.push((format!("{name}.bias"), vec![d_model]));
    };
    let linear = |shapes: &mut Vec<(String, Vec<usize>)>, name: &str, from: usize, to: usize| {
        shapes.push((format!("{name}.weight"), vec![to, from]));
        shapes.push((format!("{name}.bias"), vec![to]));
    };
    layer_norm(&mut shapes, "bert.embeddings.LayerNorm");
    for layer in 0..config.layers {
        let name = format!("bert.encoder.layer.{layer}");
        linear(&mut shapes, &format!("{name}.attention.self.query"), d_model, d_model);
        linear(&mut shapes, &format!("{name}.attention.self.key"), d_model, d_model);
        linear(&mut shapes, &format!("{name}.attention.self.value"), d_model, d_model);
        linear(&mut shapes, &format!("{name}.attention.output.dense"), d_model, d_model);
        layer_norm(&mut shapes, &format!("{name}.attention.output.LayerNorm"));
        linear(&mut shapes, &format!("{name}.intermediate.dense"), d_model, d_ff);
        linear(&mut shapes, &format!("{name}.output.dense"), d_ff, d_model);
        layer_norm(&mut shapes, &format!("{name}.output.LayerNorm"));
    }
    linear(&mut shapes, "cls.predictions.transform.dense", d_model, d_model);
    layer_norm(&mut shapes, "cls.predictions.transform.LayerNorm");
    shapes.push(("cls.predictions.bias".to_owned(), vec![vocab]));
    shapes
}
