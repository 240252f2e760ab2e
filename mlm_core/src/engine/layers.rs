//! Where each layer's weights lie in the flat buffer of [`Params`], and their copies for the products.

use std::iter;
use std::ops::Range;

use smallvec::{SmallVec, smallvec};

use crate::engine::config::Precision;
use crate::engine::factors::Matrix;
use crate::engine::linear::{PackedWeight, Panel};
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

/// A part of the model that the way back goes through at once. Its weights lie side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Block {
    Embeddings,
    Layer(usize),
    /// With the decoder's bias; its weight is the words'.
    Head,
}

impl Block {
    /// All blocks, as the way back meets them.
    pub(crate) fn back(layers: usize) -> impl Iterator<Item = Block> {
        iter::once(Block::Head).chain((0..layers).rev().map(Block::Layer)).chain([Block::Embeddings])
    }
}

/// The weights of an engine, or a thread's copy of them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weights<'a> {
    /// Their numbers, one after the other.
    pub(crate) values: &'a [f32],
    pub(crate) layers: &'a Layers,
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

    /// Where the weights of a block lie.
    pub(crate) fn range(&self, block: Block) -> Range<usize> {
        match block {
            Block::Embeddings => self.word.start..self.embeddings_norm.bias.end,
            Block::Layer(nth) => self.layers[nth].query.weight.start..self.layers[nth].output_norm.bias.end,
            Block::Head => self.transform.weight.start..self.decoder.bias.end,
        }
    }

    /// Cuts the weights of a block into so many parts, between rows of its matrices: gives the end of each part. What their
    /// gradients take, products for each row of the batch that a matrix is applied to, is about as much for each part.
    pub(crate) fn split(
        &self,
        block: Block,
        parts: usize,
        tokens: usize,
        masked: usize,
    ) -> impl Iterator<Item = usize> {
        /// Rows that stay together, those of tiles, and numbers of a line; the last ones of a matrix with those before them, as a
        /// single one would have [other bits](crate::engine::linear::backward_weight).
        const TOGETHER: usize = 16;
        let (end, matrices) = (self.range(block).end, self.matrices(block, tokens, masked));
        let all: u64 = matrices.iter().map(products).sum();
        (1..=parts as u64).map(move |nth| {
            let mut before = all * nth / parts as u64;
            for matrix @ (numbers, columns, rows) in &matrices {
                if before < products(matrix) {
                    let together = TOGETHER * columns;
                    let most = numbers.len().saturating_sub(together);
                    return numbers.start + most.min((before / *rows as u64) as usize) / together * together;
                }
                before -= products(matrix);
            }
            end
        })
    }

    /// How many products the gradients of a block's weights take.
    pub(crate) fn products(&self, block: Block, tokens: usize, masked: usize) -> u64 {
        self.matrices(block, tokens, masked).iter().map(products).sum()
    }

    /// Where a block's matrices lie whose gradients are products, how many columns each has, and how many rows of the batch it is
    /// applied to.
    fn matrices(&self, block: Block, tokens: usize, masked: usize) -> SmallVec<[(Range<usize>, usize, usize); 6]> {
        let of = |linear: &Linear, rows: usize| (linear.weight.clone(), linear.from, rows);
        match block {
            Block::Embeddings => smallvec![of(&self.decoder, masked)],
            Block::Layer(nth) => {
                let Layer { query, key_value: [key, value], attention_output, intermediate, output, .. } =
                    &self.layers[nth];
                let asked = if nth + 1 == self.layers.len() { masked } else { tokens };
                let attention = [of(query, asked), of(key, tokens), of(value, tokens), of(attention_output, asked)];
                attention.into_iter().chain([of(intermediate, asked), of(output, asked)]).collect()
            }
            Block::Head => smallvec![of(&self.transform, masked), (self.decoder.bias.clone(), 1, masked)],
        }
    }

    /// The panels of all matrices' copies for the products, to be filled when the weights have changed.
    pub(crate) fn panels<'a>(
        &'a mut self,
        weights: &'a [f32],
        precision: Precision,
    ) -> impl Iterator<Item = Panel<'a>> {
        let layers = self.layers.iter_mut().flat_map(|layer| {
            let others = [&mut layer.query, &mut layer.attention_output, &mut layer.intermediate, &mut layer.output];
            layer.key_value.iter_mut().chain(others)
        });
        layers.chain([&mut self.transform, &mut self.decoder]).flat_map(move |linear| {
            let matrix = linear.matrix(weights);
            linear.packed.panels(matrix, precision)
        })
    }
}

fn products((matrix, _, rows): &(Range<usize>, usize, usize)) -> u64 {
    matrix.len() as u64 * *rows as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::config::ModelConfig;

    /// Every weight is in one block, and in one part of it, which no row of a matrix is cut by.
    #[test]
    fn blocks_are_cut_between_rows_into_parts_of_the_same_work() {
        let config = ModelConfig { d_model: 48, d_ff: 100, layers: 3, ..ModelConfig::new(500) };
        let params = Params::zeros(&config).unwrap();
        let layers = Layers::new(&params).unwrap();
        let (tokens, masked) = (1000, 150);
        let mut covered: Vec<Range<usize>> = Block::back(3).map(|block| layers.range(block)).collect();
        covered.sort_by_key(|range| range.start);
        assert_eq!((covered[0].start, covered[4].end), (0, params.len()));
        assert!(covered.windows(2).all(|pair| pair[0].end == pair[1].start), "{covered:?}");
        for block in Block::back(3) {
            let range = layers.range(block);
            for threads in 1..40 {
                let ends: Vec<usize> = layers.split(block, threads, tokens, masked).collect();
                assert_eq!((ends.len(), ends[threads - 1]), (threads, range.end));
                assert!(ends[0] >= range.start && ends.is_sorted(), "{block:?}, {threads} threads: {ends:?}");
                for entry in params.table().entries().iter().filter(|entry| entry.shape.len() == 2) {
                    for end in ends.iter().filter(|&&end| entry.range.contains(&end)) {
                        let before = end - entry.range.start;
                        assert_eq!(before % (16 * entry.shape[1]), 0, "{} is cut at {end}", entry.name);
                        assert!(before == 0 || entry.range.end - end >= 16 * entry.shape[1], "{}", entry.name);
                    }
                }
            }
        }
        // In the last layer, keys and values have more rows than all else: of two halves the first ends before the values do.
        let ends: Vec<usize> = layers.split(Block::Layer(2), 2, tokens, masked).collect();
        assert!(layers.layers[2].key_value[1].weight.contains(&ends[0]), "{ends:?}");
        let ends: Vec<usize> = layers.split(Block::Layer(0), 2, tokens, masked).collect();
        assert!(layers.layers[0].intermediate.weight.contains(&ends[0]), "{ends:?}");
    }
}
