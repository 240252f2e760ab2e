//! What a forward pass leaves behind for the way back, and what the way back through a block leaves behind for the gradients
//! of its weights: buffers that take memory when a larger batch than ever before comes, and keep it.

use crate::engine::attention;
use crate::engine::buffer::Buffer;
use crate::engine::factors::Panels;
use crate::engine::share::Size;
use crate::model::config::ModelConfig;

/// The input of a LayerNorm, normalised, and the scale of each row.
#[derive(Clone, Debug, Default)]
pub(crate) struct Normal {
    pub(crate) rows: Buffer,
    pub(crate) scale: Buffer,
}

/// Of one layer. Its queries, and all that follows from them, are those of the rows that it is asked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct LayerActivations {
    /// `[asked, d_model]`
    pub(crate) queries: Buffer,
    /// Keys and values `[tokens, 2 d_model]`.
    pub(crate) keys_values: Buffer,
    /// For each sequence `[heads, asked, length]`, before dropout.
    pub(crate) probabilities: Buffer,
    /// `[asked, d_model]`
    pub(crate) context: Buffer,
    pub(crate) attention_normal: Normal,
    /// The attention block's output after LayerNorm `[asked, d_model]`.
    pub(crate) attended: Buffer,
    /// GELU's slopes `[asked, d_ff]`.
    pub(crate) slope: Buffer,
    /// GELU's outputs `[asked, d_ff]`.
    pub(crate) activated: Buffer,
    pub(crate) output_normal: Normal,
}

/// Of the whole model.
#[derive(Clone, Debug, Default)]
pub(crate) struct Activations {
    pub(crate) embeddings_normal: Normal,
    /// The input of each layer `[tokens, d_model]`, and the output of the last `[asked, d_model]`.
    pub(crate) hidden: Vec<Buffer>,
    pub(crate) layers: Vec<LayerActivations>,
    /// The masked rows `[masked, d_model]`: of the last layer's input, of GELU's slopes, of the transform's output.
    pub(crate) gathered: Buffer,
    pub(crate) head_slope: Buffer,
    pub(crate) head_normal: Normal,
    pub(crate) transformed: Buffer,
    /// Logits, then their gradients `[masked, vocab]`.
    pub(crate) logits: Buffer,
    pub(crate) scratch: Scratch,
}

/// What nobody needs once the way back has left a block and its weights have their gradients.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scratch {
    pub(crate) attention: attention::Scratch,
    /// Gradients `[tokens, d_model]`: of hidden states, of the feed-forward block's output and the attention block's before
    /// the sums, of contexts, of queries.
    pub(crate) dhidden: Buffer,
    pub(crate) doutput: Buffer,
    pub(crate) dattention: Buffer,
    pub(crate) dcontext: Buffer,
    pub(crate) dqueries: Buffer,
    /// `[tokens, 2 d_model]`
    pub(crate) dkeys_values: Buffer,
    /// Of keys and values of the cut sequences, what comes from the share's queries `[cut, 2 d_model]`.
    pub(crate) dcut: Buffer,
    /// `[tokens, d_ff]`
    pub(crate) dactivated: Buffer,
    /// `[masked, d_model]`
    pub(crate) dtransformed: Buffer,
    /// Of weights and biases of a block's LayerNorms, the share's part `[2 d_model]` each.
    pub(crate) dnorms: [Buffer; 2],
}

/// What a worker has from the others: of the sequences that it has a part of, one after the other.
#[derive(Clone, Debug, Default)]
pub(crate) struct Joined {
    /// Keys and values of all their tokens `[cut, 2 d_model]`.
    pub(crate) keys_values: Buffer,
    /// The gradients of those of the worker's own tokens, each where its token is among all.
    pub(crate) dkeys_values: Buffer,
}

impl Joined {
    /// All buffers and the lengths that so many tokens of sequences need them to have.
    pub(crate) fn buffers(&mut self, config: &ModelConfig, cut: usize) -> [(&mut Buffer, usize); 2] {
        let length = cut.saturating_mul(2 * config.d_model);
        [(&mut self.keys_values, length), (&mut self.dkeys_values, length)]
    }
}

impl Activations {
    pub(crate) fn new(config: &ModelConfig) -> Self {
        let hidden = vec![Buffer::default(); config.layers + 1];
        let layers = vec![LayerActivations::default(); config.layers];
        Self { hidden, layers, ..Self::default() }
    }

    /// All buffers and the lengths that a share of a batch needs them to have, and so many tokens of the sequences that it may
    /// have a part of.
    pub(crate) fn buffers(
        &mut self,
        config: &ModelConfig,
        size: Size,
        cut: usize,
    ) -> impl Iterator<Item = (&mut Buffer, usize)> {
        let Size { tokens, masked, pairs, asked, asked_pairs, longest } = size;
        let ModelConfig { d_model, d_ff, heads, .. } = *config;
        let rows = tokens.saturating_mul(d_model);
        let masked_rows = masked.saturating_mul(d_model);
        // Keys of a sequence or its scores.
        let of_attention = Panels::room(longest.max(config.head_dim()), longest.max(config.head_dim()));
        let Self {
            embeddings_normal,
            hidden,
            layers,
            gathered,
            head_slope,
            head_normal,
            transformed,
            logits,
            scratch:
                Scratch {
                    attention,
                    dhidden,
                    doutput,
                    dattention,
                    dcontext,
                    dqueries,
                    dkeys_values,
                    dcut,
                    dactivated,
                    dtransformed,
                    dnorms: [dnorm, dnorm_after],
                },
        } = self;
        let last = config.layers;
        let layers = layers.iter_mut().enumerate().flat_map(move |(nth, layer)| {
            let (asked, pairs) = if nth + 1 == last { (asked, asked_pairs) } else { (tokens, pairs) };
            [
                (&mut layer.queries, asked.saturating_mul(d_model)),
                (&mut layer.keys_values, rows.saturating_mul(2)),
                (&mut layer.probabilities, pairs.saturating_mul(heads)),
                (&mut layer.context, asked.saturating_mul(d_model)),
                (&mut layer.attention_normal.rows, asked.saturating_mul(d_model)),
                (&mut layer.attention_normal.scale, asked),
                (&mut layer.attended, asked.saturating_mul(d_model)),
                (&mut layer.slope, asked.saturating_mul(d_ff)),
                (&mut layer.activated, asked.saturating_mul(d_ff)),
                (&mut layer.output_normal.rows, asked.saturating_mul(d_model)),
                (&mut layer.output_normal.scale, asked),
            ]
        });
        let hidden = hidden.iter_mut().enumerate().map(move |(nth, buffer)| {
            let rows = if nth == last { asked } else { tokens };
            (buffer, rows.saturating_mul(d_model))
        });
        let others = [
            (&mut embeddings_normal.rows, rows),
            (&mut embeddings_normal.scale, tokens),
            (gathered, masked_rows),
            (head_slope, masked_rows),
            (&mut head_normal.rows, masked_rows),
            (&mut head_normal.scale, masked),
            (transformed, masked_rows),
            (logits, masked.saturating_mul(config.vocab)),
            (dhidden, rows),
            (doutput, rows),
            (dattention, rows),
            (dcontext, rows),
            (dqueries, rows),
            (dkeys_values, rows.saturating_mul(2)),
            (dcut, cut.saturating_mul(2 * d_model)),
            (dactivated, tokens.saturating_mul(d_ff)),
            (dtransformed, masked_rows),
            (dnorm, 2 * d_model),
            (dnorm_after, 2 * d_model),
            (attention.panels.buffer(), of_attention),
            (&mut attention.dropped, longest.saturating_mul(longest)),
            (&mut attention.scores, longest.saturating_mul(longest)),
        ];
        hidden.chain(layers).chain(others)
    }
}
