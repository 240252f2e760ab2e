//! Where each layer's weights lie in the flat buffer of [`Params`], and their copies for the products.

use std::ops::Range;

use crate::engine::factors::Matrix;
use crate::engine::linear::{PackedWeight, Room};
use crate::error::Result;
use crate::model::names::{self, LayerNames};
use crate::model::params::Params;

/// A linear layer: weight `[to, from]` and bias `[to]`.
#[derive(Clone, Debug)]
pub(crate) struct Linear {
    pub(crate) weight: Range<usize>,
    pub(crate) bias: Range<usize>,
    pub(crate) from: usize,
    pub(crate) packed: PackedWeight,
}

impl Linear {
    /// Its weight.
    pub(crate) fn matrix<'a>(&self, weights: &'a [f32]) -> Matrix<'a> {
        Matrix::new(&weights[self.weight.clone()], self.from)
    }
}

/// A LayerNorm: weight and bias `[d_model]`.
#[derive(Clone, Debug)]
pub(crate) struct LayerNorm {
    pub(crate) weight: Range<usize>,
    pub(crate) bias: Range<usize>,
}

/// One of the model's `layers`.
#[derive(Clone, Debug)]
pub(crate) struct Layer {
    pub(crate) query: Linear,
    pub(crate) key_value: [Linear; 2],
    pub(crate) attention_output: Linear,
    pub(crate) attention_norm: LayerNorm,
    pub(crate) intermediate: Linear,
    pub(crate) output: Linear,
    pub(crate) output_norm: LayerNorm,
}

/// All weights of the model.
#[derive(Clone, Debug)]
pub(crate) struct Layers {
    pub(crate) word: Range<usize>,
    pub(crate) position: Range<usize>,
    pub(crate) token_type: Range<usize>,
    pub(crate) embeddings_norm: LayerNorm,
    pub(crate) layers: Vec<Layer>,
    pub(crate) transform: Linear,
    pub(crate) transform_norm: LayerNorm,
    /// Its weight is `word`.
    pub(crate) decoder: Linear,
}

impl Layers {
    pub(crate) fn new(params: &Params) -> Result<Self> {
        let config = params.config();
        let range = |name: &str| -> Result<Range<usize>> { Ok(params.table().get(name)?.range.clone()) };
        let linear = |name: &str, from: usize| -> Result<Linear> {
            let (weight, bias) = (range(&names::weight(name))?, range(&names::bias(name))?);
            Ok(Linear { weight, bias, from, packed: PackedWeight::default() })
        };
        let norm = |name: &str| -> Result<LayerNorm> {
            Ok(LayerNorm { weight: range(&names::weight(name))?, bias: range(&names::bias(name))? })
        };
        let (d_model, d_ff) = (config.d_model, config.d_ff);
        let layer = |layer: usize| -> Result<Layer> {
            let names = LayerNames::new(layer);
            Ok(Layer {
                query: linear(&names.query, d_model)?,
                key_value: [linear(&names.key, d_model)?, linear(&names.value, d_model)?],
                attention_output: linear(&names.attention_output, d_model)?,
                attention_norm: norm(&names.attention_norm)?,
                intermediate: linear(&names.intermediate, d_model)?,
                output: linear(&names.output, d_ff)?,
                output_norm: norm(&names.output_norm)?,
            })
        };
        let word = range(names::WORDS)?;
        Ok(Self {
            position: range(names::POSITIONS)?,
            token_type: range(names::TOKEN_TYPES)?,
            embeddings_norm: norm(names::EMBEDDINGS_NORM)?,
            layers: (0..config.layers).map(layer).collect::<Result<_>>()?,
            transform: linear(names::TRANSFORM, d_model)?,
            transform_norm: norm(names::TRANSFORM_NORM)?,
            decoder: Linear {
                weight: word.clone(),
                bias: range(names::DECODER_BIAS)?,
                from: d_model,
                packed: PackedWeight::default(),
            },
            word,
        })
    }

    /// Copies all matrices for the products, as the weights are now.
    pub(crate) fn pack(&mut self, weights: &[f32], room: &mut Room) {
        let layers = self.layers.iter_mut().flat_map(|layer| {
            let others = [&mut layer.query, &mut layer.attention_output, &mut layer.intermediate, &mut layer.output];
            layer.key_value.iter_mut().chain(others)
        });
        for linear in layers.chain([&mut self.transform, &mut self.decoder]) {
            let matrix = linear.matrix(weights);
            linear.packed.pack(matrix, room);
        }
    }
}
