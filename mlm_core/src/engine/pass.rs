//! One worker's way forward through the model: takes its share of a batch, rows that lie end to end, gives the loss of its
//! masked rows. Which operation follows which is written here, the operations themselves each in a file of its own.
//!
//! In training nobody asks for the last layer's output where nothing is masked. Its gradient there is 0, and so is that of all
//! that leads to it and nowhere else: of the query, the context and the feed-forward block. The last layer goes through these
//! for the masked rows only. Loss and gradients are the same as if it did not.

use std::ops::Range;

use pulp::{Simd, with_simd};

use crate::engine::activations::{Activations, Normal};
use crate::engine::attention::{self, Heads, Sequence};
use crate::engine::clock::{Clock, Operation};
use crate::engine::dropout::{self, Dropout};
use crate::engine::embeddings::{self, Tables};
use crate::engine::factors::Matrix;
use crate::engine::layers::{LayerNorm, Linear, Weights};
use crate::engine::linear::Room;
use crate::engine::loss::{self, softmax_cross_entropy};
use crate::engine::matmul::Target;
use crate::engine::share::{Asked, Attended, Rows, Share};
use crate::engine::{gelu, layer_norm, linear, vector};
use crate::model::config::ModelConfig;
use crate::model::dropout::Site;
use crate::model::encoder::{Mode, Score};
use crate::vectors::arch;

/// What there is to compute, and with what.
#[derive(Debug)]
pub(crate) struct Pass<'a> {
    pub(crate) config: &'a ModelConfig,
    pub(crate) mode: Mode,
    pub(crate) share: Share<'a>,
    /// What the last layer is asked for.
    pub(crate) asked: Asked,
    pub(crate) weights: Weights<'a>,
    pub(crate) clock: &'a Clock,
}

impl Pass<'_> {
    /// The input of the first layer.
    pub(crate) fn embed(&self, activations: &mut Activations) {
        let Self { config, share, weights: Weights { values: weights, layers }, .. } = self;
        let Activations { embeddings_normal, hidden, .. } = activations;
        let tables = Tables {
            word: &weights[layers.word.clone()],
            position: &weights[layers.position.clone()],
            token_type: &weights[layers.token_type.clone()],
        };
        embeddings::forward(share.tokens(), tables, config.d_model, &mut embeddings_normal.rows);
        self.clock.lap(Operation::Embeddings);
        self.norm_forward(&layers.embeddings_norm, embeddings_normal, &mut hidden[0]);
        self.drop(Site::Embeddings, share.asked(Asked::All), &mut hidden[0]);
    }

    /// Queries, keys and values of a layer, from its input.
    pub(crate) fn project(&self, nth: usize, activations: &mut Activations, room: &mut Room) {
        let d_model = self.config.d_model;
        let Activations { hidden, layers, gathered, .. } = activations;
        let (layer, input, kept) = (&self.weights.layers.layers[nth], &hidden[nth], &mut layers[nth]);
        let asked_input = self.gather(self.asked_of(nth), input, gathered);
        let queries = Target::new(&mut kept.queries, d_model);
        self.linear_forward(&layer.query, Matrix::new(asked_input, d_model), queries, room);
        for (part, linear) in layer.key_value.iter().enumerate() {
            let target = Target::new(&mut kept.keys_values[part * d_model..], 2 * d_model);
            self.linear_forward(linear, Matrix::new(input, d_model), target, room);
        }
    }

    /// The output of a layer, for the rows that it is asked for; takes the keys and values of the sequences that the share has a
    /// part of.
    pub(crate) fn attend(&self, nth: usize, activations: &mut Activations, of_cut: &[f32], room: &mut Room) {
        let Self { config, share, weights: Weights { layers, .. }, .. } = self;
        let (d_model, layer, asked) = (config.d_model, &layers.layers[nth], self.asked_of(nth));
        let Activations { hidden, layers: of_layers, gathered, scratch, .. } = activations;
        let (kept, (input, output)) = (&mut of_layers[nth], hidden.split_at_mut(nth + 1));
        let asked_input = if asked == Asked::All { &input[nth] } else { gathered };
        for Attended { rows, queries, keys, cut, pairs, .. } in share.each_attention(config.heads, asked) {
            let sequence = Sequence {
                rows,
                queries: &kept.queries[numbers(&queries, d_model)],
                keys_values: match cut {
                    None => &kept.keys_values[numbers(&keys, 2 * d_model)],
                    Some(cut) => &of_cut[numbers(&cut, 2 * d_model)],
                },
            };
            let context = &mut kept.context[numbers(&queries, d_model)];
            let probabilities = &mut kept.probabilities[pairs];
            attention::forward(self.heads(nth), &sequence, probabilities, context, &mut scratch.attention);
        }
        self.clock.lap(Operation::Attention);
        let sum = &mut kept.attention_normal.rows;
        let context = Matrix::new(&kept.context, d_model);
        self.linear_forward(&layer.attention_output, context, Target::new(sum, d_model), room);
        self.drop(Site::AttentionOutput(nth), share.asked(asked), sum);
        add(sum, asked_input);
        self.norm_forward(&layer.attention_norm, &mut kept.attention_normal, &mut kept.attended);

        let attended = Matrix::new(&kept.attended, d_model);
        self.linear_forward(&layer.intermediate, attended, Target::new(&mut kept.slope, config.d_ff), room);
        gelu::forward(&mut kept.slope, &mut kept.activated);
        self.clock.lap(Operation::Gelu);
        let sum = &mut kept.output_normal.rows;
        let activated = Matrix::new(&kept.activated, config.d_ff);
        self.linear_forward(&layer.output, activated, Target::new(sum, d_model), room);
        self.drop(Site::Output(nth), share.asked(asked), sum);
        add(sum, &kept.attended);
        self.norm_forward(&layer.output_norm, &mut kept.output_normal, &mut output[0]);
    }

    /// Logits at the masked rows, after the last layer for these.
    pub(crate) fn head(&self, activations: &mut Activations, room: &mut Room) {
        let Self { config, weights: Weights { layers, .. }, .. } = self;
        let ModelConfig { d_model, vocab, .. } = **config;
        let Activations { hidden, head_slope, head_normal, transformed, logits, .. } = activations;
        self.linear_forward(
            &layers.transform,
            Matrix::new(&hidden[config.layers], d_model),
            Target::new(head_slope, d_model),
            room,
        );
        gelu::forward(head_slope, &mut head_normal.rows);
        self.clock.lap(Operation::Gelu);
        self.norm_forward(&layers.transform_norm, head_normal, transformed);
        self.linear_forward(&layers.decoder, Matrix::new(transformed, d_model), Target::new(logits, vocab), room);
    }

    /// The part of the batch's mean loss that comes from the worker's masked rows; the logits become their gradients.
    pub(crate) fn loss(&self, activations: &mut Activations) -> f64 {
        let Self { config, share, .. } = self;
        let all = share.masked_in_batch();
        let loss = softmax_cross_entropy(&mut activations.logits, share.targets(), config.vocab, 1.0 / all as f32);
        self.clock.lap(Operation::Loss);
        loss / all as f64
    }

    /// What is predicted for the worker's masked rows; of their logits nothing is left.
    pub(crate) fn scores(&self, activations: &mut Activations) -> Vec<Score> {
        let scores = loss::scores(&mut activations.logits, self.share.targets(), self.config.vocab);
        self.clock.lap(Operation::Loss);
        scores
    }

    /// What a layer is asked for: those before the last for all that the next one looks at.
    pub(crate) fn asked_of(&self, layer: usize) -> Asked {
        if layer + 1 == self.config.layers { self.asked } else { Asked::All }
    }

    /// The rows of a layer's input that it is asked for; if these are not all, copied.
    fn gather<'a>(&self, asked: Asked, input: &'a [f32], gathered: &'a mut [f32]) -> &'a [f32] {
        if asked == Asked::All {
            return input;
        }
        let (d_model, rows, first) = (self.config.d_model, self.share.asked(asked), self.share.rows().start);
        for (nth, to) in gathered.chunks_exact_mut(d_model).enumerate() {
            to.copy_from_slice(&input[(rows.get(nth) - first) * d_model..][..d_model]);
        }
        self.clock.lap(Operation::Linear);
        gathered
    }

    fn dropout(&self, site: Site) -> Option<Dropout> {
        let Mode::Train { dropout_seed: seed } = self.mode else { return None };
        let probability = match site {
            Site::Attention(_) => self.config.attention_dropout,
            _ => self.config.hidden_dropout,
        };
        (probability > 0.0).then_some(Dropout { seed, site, probability })
    }

    /// Forward and backward: drops hidden units of these rows of the batch.
    pub(crate) fn drop(&self, site: Site, rows: Rows<'_>, x: &mut [f32]) {
        dropout::apply(self.dropout(site), rows, self.config.d_model, x);
        self.clock.lap(Operation::Dropout);
    }

    pub(crate) fn heads(&self, layer: usize) -> Heads {
        let (heads, head_dim) = (self.config.heads, self.config.head_dim());
        Heads { heads, head_dim, dropout: self.dropout(Site::Attention(layer)) }
    }

    fn linear_forward(&self, linear: &Linear, x: Matrix<'_>, y: Target<'_>, room: &mut Room) {
        let bias = &self.weights.values[linear.bias.clone()];
        linear::forward(x, linear.matrix(self.weights.values), &linear.packed, bias, y, room);
        self.clock.lap(Operation::Linear);
    }

    fn norm_forward(&self, norm: &LayerNorm, normal: &mut Normal, y: &mut [f32]) {
        let (weight, bias) = (&self.weights.values[norm.weight.clone()], &self.weights.values[norm.bias.clone()]);
        let eps = self.config.layer_norm_eps as f32;
        layer_norm::forward(&mut normal.rows, weight, bias, eps, &mut normal.scale, y);
        self.clock.lap(Operation::LayerNorm);
    }
}

/// Where the numbers of rows are, so many in each.
pub(crate) fn numbers(rows: &Range<usize>, columns: usize) -> Range<usize> {
    columns * rows.start..columns * rows.end
}

/// y += x.
#[with_simd(add = arch())]
#[inline(always)]
pub(crate) fn add_simd<'a, S: Simd>(_simd: S, y: &'a mut [f32], x: &'a [f32]) {
    vector::add(y, x);
}
