//! One worker's way back through the model, block by block: takes what the way forward and the block after have left behind,
//! gives the gradients of all that the block has computed, and from these the gradients of its weights, or of some of them.
//! The operations themselves have a file each.
//!
//! Where all workers have the same weights, a worker computes some of these gradients for the tokens of all workers, which
//! have to be back from the block by then.

use std::ops::Range;

use crate::engine::activations::{Activations, Normal, Scratch};
use crate::engine::attention::{self, Sequence};
use crate::engine::clock::Operation;
use crate::engine::embeddings;
use crate::engine::factors::Matrix;
use crate::engine::layers::{Block, LayerNorm, Linear};
use crate::engine::linear::Room;
use crate::engine::matmul::{Start, Target};
use crate::engine::pass::{Pass, numbers};
use crate::engine::share::{Asked, Attended};
use crate::engine::{gelu, layer_norm, linear};
use crate::model::config::ModelConfig;
use crate::model::dropout::Site;

/// The gradients of some weights that lie side by side, as sums over tokens.
#[derive(Debug)]
pub(crate) struct Sums<'a> {
    /// The place of the first one in the flat buffer.
    pub(crate) start: usize,
    pub(crate) values: &'a mut [f32],
}

impl Sums<'_> {
    /// Which numbers of a tensor are among them, counted from the tensor's first, and their sums.
    fn of(&mut self, tensor: &Range<usize>) -> (Range<usize>, &mut [f32]) {
        let Self { start, values } = self;
        let (from, to) = (tensor.start.max(*start), tensor.end.min(*start + values.len()));
        if from >= to {
            return (0..0, &mut []);
        }
        (from - tensor.start..to - tensor.start, &mut values[from - *start..to - *start])
    }

    /// As [`Sums::of`], to be added to: all 0.
    fn zeros(&mut self, tensor: &Range<usize>) -> (Range<usize>, &mut [f32]) {
        let (numbers, sums) = self.of(tensor);
        sums.fill(0.0);
        (numbers, sums)
    }
}

impl Pass<'_> {
    /// The gradients of what the head has computed and of its input, after the way forward to the loss.
    pub(crate) fn back_from_head(&self, activations: &mut Activations, room: &mut Room) {
        let ModelConfig { d_model, vocab, .. } = *self.config;
        let layers = self.weights.layers;
        let Activations { head_slope, head_normal, logits, scratch, .. } = activations;
        let Scratch { dhidden, dtransformed, dnorms, .. } = scratch;
        let dlogits = Matrix::new(logits, vocab);
        self.input_backward(&layers.decoder, dlogits, Start::Zero, Target::new(dtransformed, d_model), room);
        self.norm_backward(&layers.transform_norm, head_normal, dtransformed, &mut dnorms[0]);
        gelu::backward(head_slope, dtransformed);
        self.clock.lap(Operation::Gelu);
        let dtransformed = Matrix::new(dtransformed, d_model);
        self.input_backward(&layers.transform, dtransformed, Start::Zero, Target::new(dhidden, d_model), room);
    }

    /// The gradients of what a layer has computed from its queries, keys and values on, and of these; takes the keys and values
    /// of the sequences that the share has a part of, and of these gives what comes from its queries.
    pub(crate) fn back_to_keys(&self, nth: usize, activations: &mut Activations, of_cut: &[f32], room: &mut Room) {
        let Self { config, share, .. } = self;
        let ModelConfig { d_model, d_ff, .. } = **config;
        let (layer, kept) = (&self.weights.layers.layers[nth], &activations.layers[nth]);
        let Scratch {
            attention: attention_room,
            dhidden,
            doutput,
            dattention,
            dcontext,
            dqueries,
            dkeys_values,
            dcut,
            dactivated,
            dnorms: [attention_dnorm, output_dnorm],
            ..
        } = &mut activations.scratch;
        let asked = self.asked_of(nth);
        let rows = share.asked(asked);
        let dasked = &mut dhidden[..rows.len() * d_model];
        let doutput = &mut doutput[..rows.len() * d_model];
        let dattention = &mut dattention[..rows.len() * d_model];
        let dcontext = &mut dcontext[..rows.len() * d_model];
        let dqueries = &mut dqueries[..rows.len() * d_model];
        let dactivated = &mut dactivated[..rows.len() * d_ff];

        // The feed-forward block; dasked becomes the gradient of the sum before LayerNorm, which both summands have.
        self.norm_backward(&layer.output_norm, &kept.output_normal, dasked, output_dnorm);
        doutput.copy_from_slice(dasked);
        self.drop(Site::Output(nth), rows.clone(), doutput);
        let dsum = Matrix::new(doutput, d_model);
        self.input_backward(&layer.output, dsum, Start::Zero, Target::new(dactivated, d_ff), room);
        gelu::backward(&kept.slope, dactivated);
        self.clock.lap(Operation::Gelu);
        let dactivated = Matrix::new(dactivated, d_ff);
        self.input_backward(&layer.intermediate, dactivated, Start::Target, Target::new(dasked, d_model), room);

        // The attention block.
        self.norm_backward(&layer.attention_norm, &kept.attention_normal, dasked, attention_dnorm);
        dattention.copy_from_slice(dasked);
        self.drop(Site::AttentionOutput(nth), rows, dattention);
        let dsum = Matrix::new(dattention, d_model);
        self.input_backward(&layer.attention_output, dsum, Start::Zero, Target::new(dcontext, d_model), room);
        for Attended { rows, queries, keys, cut, pairs, .. } in share.each_attention(config.heads, asked) {
            let queries = numbers(&queries, d_model);
            let (keys_values, dkeys_values) = match cut {
                None => {
                    let keys = numbers(&keys, 2 * d_model);
                    (&kept.keys_values[keys.clone()], &mut dkeys_values[keys])
                }
                Some(cut) => {
                    let keys = numbers(&cut, 2 * d_model);
                    (&of_cut[keys.clone()], &mut dcut[keys])
                }
            };
            attention::backward(
                self.heads(nth),
                &Sequence { rows, queries: &kept.queries[queries.clone()], keys_values },
                &kept.probabilities[pairs],
                &dcontext[queries.clone()],
                [&mut dqueries[queries], dkeys_values],
                attention_room,
            );
        }
        self.clock.lap(Operation::Attention);
    }

    /// The gradient of a layer's input, after [`Pass::back_to_keys`]; takes the gradients of the keys and values of the sequences
    /// that the share has a part of.
    pub(crate) fn back_from_keys(&self, nth: usize, activations: &mut Activations, of_cut: &[f32], room: &mut Room) {
        let Self { config, share, .. } = self;
        let (d_model, layer, asked) = (config.d_model, &self.weights.layers.layers[nth], self.asked_of(nth));
        let Scratch { dhidden, dcontext, dqueries, dkeys_values, .. } = &mut activations.scratch;
        for Attended { whole, tokens, keys, cut, .. } in share.each_attention(config.heads, asked) {
            if let Some(cut) = cut {
                let first = cut.start + tokens.start - whole.start;
                let gradients = &of_cut[numbers(&(first..first + keys.len()), 2 * d_model)];
                dkeys_values[numbers(&keys, 2 * d_model)].copy_from_slice(gradients);
            }
        }
        let rows = share.asked(asked).len() * d_model;
        let (dasked, dqueries) = (&mut dhidden[..rows], Matrix::new(&dqueries[..rows], d_model));
        self.input_backward(&layer.query, dqueries, Start::Target, Target::new(dasked, d_model), room);
        self.scatter(asked, dhidden, &mut dcontext[..rows]);
        for (part, linear) in layer.key_value.iter().enumerate() {
            let dpart = Matrix::part(&dkeys_values[part * d_model..], share.rows().len(), d_model, 2 * d_model);
            self.input_backward(linear, dpart, Start::Target, Target::new(dhidden, d_model), room);
        }
    }

    /// The gradients of the sums of embeddings.
    pub(crate) fn back_to_embeddings(&self, activations: &mut Activations) {
        let Activations { embeddings_normal, scratch: Scratch { dhidden, dnorms, .. }, .. } = activations;
        self.drop(Site::Embeddings, self.share.asked(Asked::All), dhidden);
        self.norm_backward(&self.weights.layers.embeddings_norm, embeddings_normal, dhidden, &mut dnorms[0]);
    }

    /// The gradients of those of a block's weights that `sums` are for, as far as they come from the share's tokens, after the
    /// way back through the block.
    pub(crate) fn gradients(&self, block: Block, activations: &Activations, sums: &mut Sums<'_>, room: &mut Room) {
        let Self { config, share, .. } = self;
        let ModelConfig { d_model, d_ff, vocab, .. } = **config;
        let layers = self.weights.layers;
        let Activations { hidden, scratch, .. } = activations;
        match block {
            Block::Head => {
                let last = Matrix::new(&hidden[config.layers], d_model);
                self.linear_gradients(&layers.transform, last, Matrix::new(&scratch.dtransformed, d_model), sums, room);
                self.norm_gradients(&layers.transform_norm, &scratch.dnorms[0], sums);
                self.bias_gradients(&layers.decoder, Matrix::new(&activations.logits, vocab), sums);
            }
            Block::Layer(nth) => {
                let (layer, kept) = (&layers.layers[nth], &activations.layers[nth]);
                let asked = self.asked_of(nth);
                let (input, rows) = (&hidden[nth], share.asked(asked).len());
                let asked_input = if asked == Asked::All { input } else { &activations.gathered };
                let of_asked = |numbers, columns| Matrix::part(numbers, rows, columns, columns);
                for (linear, x, dy) in [
                    (&layer.output, Matrix::new(&kept.activated, d_ff), of_asked(&scratch.doutput, d_model)),
                    (&layer.intermediate, Matrix::new(&kept.attended, d_model), of_asked(&scratch.dactivated, d_ff)),
                    (
                        &layer.attention_output,
                        Matrix::new(&kept.context, d_model),
                        of_asked(&scratch.dattention, d_model),
                    ),
                    (&layer.query, Matrix::new(asked_input, d_model), of_asked(&scratch.dqueries, d_model)),
                ] {
                    self.linear_gradients(linear, x, dy, sums, room);
                }
                for (part, linear) in layer.key_value.iter().enumerate() {
                    let dy = &scratch.dkeys_values[part * d_model..];
                    let dy = Matrix::part(dy, share.rows().len(), d_model, 2 * d_model);
                    self.linear_gradients(linear, Matrix::new(input, d_model), dy, sums, room);
                }
                self.norm_gradients(&layer.output_norm, &scratch.dnorms[1], sums);
                self.norm_gradients(&layer.attention_norm, &scratch.dnorms[0], sums);
            }
            Block::Embeddings => {
                let transformed = Matrix::new(&activations.transformed, d_model);
                self.weight_gradients(
                    &layers.decoder,
                    transformed,
                    Matrix::new(&activations.logits, vocab),
                    sums,
                    room,
                );
                let (words, word) = sums.of(&layers.word);
                embeddings::backward(share.tokens().map(|(id, _)| id as usize), &scratch.dhidden, d_model, words, word);
                let (positions, position) = sums.zeros(&layers.position);
                embeddings::backward(share.tokens().map(|(_, at)| at), &scratch.dhidden, d_model, positions, position);
                let (types, token_type) = sums.zeros(&layers.token_type);
                embeddings::backward(share.tokens().map(|_| 0), &scratch.dhidden, d_model, types, token_type);
                self.clock.lap(Operation::Embeddings);
                self.norm_gradients(&layers.embeddings_norm, &scratch.dnorms[0], sums);
            }
        }
    }

    /// Moves the gradients of the rows that a layer is asked for to where these are among all rows, and says 0 for the
    /// others.
    fn scatter(&self, asked: Asked, dhidden: &mut [f32], room: &mut [f32]) {
        if asked == Asked::All {
            return;
        }
        let (d_model, rows, first) = (self.config.d_model, self.share.asked(asked), self.share.rows().start);
        room.copy_from_slice(&dhidden[..room.len()]);
        dhidden.fill(0.0);
        for (nth, from) in room.chunks_exact(d_model).enumerate() {
            dhidden[(rows.get(nth) - first) * d_model..][..d_model].copy_from_slice(from);
        }
        self.clock.lap(Operation::Linear);
    }

    fn input_backward(&self, linear: &Linear, dy: Matrix<'_>, start: Start<'_>, dx: Target<'_>, room: &mut Room) {
        linear::backward_input(dy, linear.matrix(self.weights.values), &linear.packed, start, dx, room);
        self.clock.lap(Operation::Linear);
    }

    fn norm_backward(&self, norm: &LayerNorm, normal: &Normal, gradient: &mut [f32], of_weights: &mut [f32]) {
        let (dw, db) = of_weights.split_at_mut(self.config.d_model);
        layer_norm::backward(&normal.rows, &normal.scale, &self.weights.values[norm.weight.clone()], gradient, dw, db);
        self.clock.lap(Operation::LayerNorm);
    }

    fn linear_gradients(&self, linear: &Linear, x: Matrix<'_>, dy: Matrix<'_>, sums: &mut Sums<'_>, room: &mut Room) {
        self.weight_gradients(linear, x, dy, sums, room);
        self.bias_gradients(linear, dy, sums);
    }

    fn weight_gradients(&self, linear: &Linear, x: Matrix<'_>, dy: Matrix<'_>, sums: &mut Sums<'_>, room: &mut Room) {
        let (numbers, dw) = sums.of(&linear.weight);
        let (first, rows) = (numbers.start / x.columns, numbers.len() / x.columns);
        if rows > 0 {
            linear::backward_weight(x, dy, first, dw, room);
        }
        self.clock.lap(Operation::Linear);
    }

    fn bias_gradients(&self, linear: &Linear, dy: Matrix<'_>, sums: &mut Sums<'_>) {
        let (numbers, db) = sums.zeros(&linear.bias);
        if !numbers.is_empty() {
            linear::backward_bias(dy.columns_from(numbers.start, numbers.len()), db);
        }
        self.clock.lap(Operation::Linear);
    }

    fn norm_gradients(&self, norm: &LayerNorm, of_share: &[f32], sums: &mut Sums<'_>) {
        let (dw, db) = of_share.split_at(self.config.d_model);
        for (tensor, gradient) in [(&norm.weight, dw), (&norm.bias, db)] {
            let (numbers, sum) = sums.of(tensor);
            sum.copy_from_slice(&gradient[numbers]);
        }
        self.clock.lap(Operation::LayerNorm);
    }
}
