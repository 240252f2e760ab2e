//! One worker's way through the model, forward and back: takes its share of a batch, whole sequences that lie end to
//! end, gives the loss of its masked rows, and then the gradient of every weight. Which operation follows which is
//! written here, the operations themselves each in a file of its own.

use std::ops::Range;

use pulp::Arch;

use crate::engine::activations::{Activations, Normal, Scratch, Size};
use crate::engine::attention::{self, Heads};
use crate::engine::clock::{Clock, Operation};
use crate::engine::dropout::{self, Dropout};
use crate::engine::embeddings::{self, TableGradients, Tables};
use crate::engine::layers::{LayerNorm, Layers, Linear};
use crate::engine::loss::softmax_cross_entropy;
use crate::engine::matmul::{Matrix, Panels, Start, Target};
use crate::engine::{gelu, layer_norm, linear, vector};
use crate::model::config::ModelConfig;
use crate::model::dropout::Site;
use crate::model::encoder::Mode;
use crate::text::batch::Batch;

/// What there is to compute.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Share<'a> {
    pub(crate) config: &'a ModelConfig,
    pub(crate) mode: Mode,
    pub(crate) batch: &'a Batch,
    /// The worker's sequences.
    pub(crate) sequences: &'a Range<usize>,
    pub(crate) clock: &'a Clock,
}

impl<'a> Share<'a> {
    /// The rows of the batch that are the worker's.
    pub(crate) fn rows(self) -> Range<usize> {
        self.batch.offsets[self.sequences.start]..self.batch.offsets[self.sequences.end]
    }

    /// The masked rows of the batch that are the worker's, as a range of [`Batch::masked_rows`].
    pub(crate) fn masked(self) -> Range<usize> {
        let (rows, masked) = (self.rows(), &self.batch.masked_rows);
        masked.partition_point(|&row| row < rows.start)..masked.partition_point(|&row| row < rows.end)
    }

    /// The worker's masked rows, counted from its first row.
    fn masked_rows(self) -> impl Iterator<Item = usize> + 'a {
        let start = self.rows().start;
        self.batch.masked_rows[self.masked()].iter().map(move |row| row - start)
    }

    /// The rows of the batch, sequence by sequence.
    fn each_sequence(self) -> impl Iterator<Item = Range<usize>> + 'a {
        self.batch.offsets[self.sequences.start..=self.sequences.end].windows(2).map(|ends| ends[0]..ends[1])
    }

    /// Each token's id and position in its sequence.
    fn tokens(self) -> impl Iterator<Item = (u32, usize)> + 'a {
        self.each_sequence().flat_map(move |rows| self.batch.input_ids[rows].iter().copied().zip(0..))
    }

    pub(crate) fn size(self) -> Size {
        Size {
            tokens: self.rows().len(),
            masked: self.masked().len(),
            pairs: self.each_sequence().map(|rows| rows.len() * rows.len()).sum(),
            longest: self.each_sequence().map(|rows| rows.len()).max().unwrap_or(0),
        }
    }

    fn dropout(self, site: Site) -> Option<Dropout> {
        let Mode::Train { dropout_seed: seed } = self.mode else { return None };
        let probability = match site {
            Site::Attention(_) => self.config.attention_dropout,
            _ => self.config.hidden_dropout,
        };
        (probability > 0.0).then_some(Dropout { seed, site, probability })
    }

    /// Forward and backward: drops hidden units `[tokens, d_model]`.
    fn drop(self, site: Site, x: &mut [f32]) {
        dropout::apply(self.dropout(site), self.rows().start, self.config.d_model, x);
        self.clock.lap(Operation::Dropout);
    }

    fn heads(self, layer: usize) -> Heads {
        let (heads, head_dim) = (self.config.heads, self.config.head_dim());
        Heads { heads, head_dim, dropout: self.dropout(Site::Attention(layer)) }
    }

    /// For each sequence: its rows in the batch, its rows in the worker's buffers, its part of the probabilities.
    pub(crate) fn each_attention(self) -> impl Iterator<Item = (Range<usize>, Range<usize>, Range<usize>)> + 'a {
        let (start, mut end) = (self.rows().start, 0);
        self.each_sequence().map(move |rows| {
            let pairs = end..end + self.config.heads * rows.len() * rows.len();
            end = pairs.end;
            (rows.clone(), rows.start - start..rows.end - start, pairs)
        })
    }
}

/// Hidden states and probabilities of all layers.
pub(crate) fn encode(share: Share<'_>, weights: &[f32], layers: &Layers, activations: &mut Activations) {
    let d_model = share.config.d_model;
    let Activations { embeddings_normal, hidden, layers: of_layers, scratch, .. } = activations;
    let tables = Tables {
        word: &weights[layers.word.clone()],
        position: &weights[layers.position.clone()],
        token_type: &weights[layers.token_type.clone()],
    };
    embeddings::forward(share.tokens(), tables, d_model, &mut embeddings_normal.rows);
    share.clock.lap(Operation::Embeddings);
    norm_forward(share, weights, &layers.embeddings_norm, embeddings_normal, &mut hidden[0]);
    share.drop(Site::Embeddings, &mut hidden[0]);

    for (nth, (layer, kept)) in layers.layers.iter().zip(of_layers).enumerate() {
        let (input, output) = hidden[nth..].split_first_mut().expect("one more than layers");
        let (input, output) = (input.as_slice(), &mut output[0]);

        for (part, linear) in layer.qkv.iter().enumerate() {
            let target = Target::new(&mut kept.qkv[part * d_model..], 3 * d_model);
            linear_forward(share, weights, linear, Matrix::new(input, d_model), target);
        }
        for (in_batch, rows, pairs) in share.each_attention() {
            let qkv = &kept.qkv[3 * d_model * rows.start..3 * d_model * rows.end];
            let context = &mut kept.context[d_model * rows.start..d_model * rows.end];
            let probabilities = &mut kept.probabilities[pairs];
            attention::forward(share.heads(nth), in_batch, qkv, probabilities, context, &mut scratch.attention);
        }
        share.clock.lap(Operation::Attention);
        let sum = &mut kept.attention_normal.rows;
        let context = Matrix::new(&kept.context, d_model);
        linear_forward(share, weights, &layer.attention_output, context, Target::new(sum, d_model));
        share.drop(Site::AttentionOutput(nth), sum);
        add(sum, input);
        norm_forward(share, weights, &layer.attention_norm, &mut kept.attention_normal, &mut kept.attended);

        let attended = Matrix::new(&kept.attended, d_model);
        linear_forward(share, weights, &layer.intermediate, attended, Target::new(&mut kept.slope, share.config.d_ff));
        gelu::forward(&mut kept.slope, &mut kept.activated);
        share.clock.lap(Operation::Gelu);
        let sum = &mut kept.output_normal.rows;
        let activated = Matrix::new(&kept.activated, share.config.d_ff);
        linear_forward(share, weights, &layer.output, activated, Target::new(sum, d_model));
        share.drop(Site::Output(nth), sum);
        add(sum, &kept.attended);
        norm_forward(share, weights, &layer.output_norm, &mut kept.output_normal, output);
    }
}

/// Logits at the masked rows.
pub(crate) fn head(share: Share<'_>, weights: &[f32], layers: &Layers, activations: &mut Activations) {
    let ModelConfig { d_model, vocab, .. } = *share.config;
    let Activations { hidden, gathered, head_slope, head_normal, transformed, logits, .. } = activations;
    let hidden = &hidden[share.config.layers];
    for (row, to) in share.masked_rows().zip(gathered.chunks_exact_mut(d_model)) {
        to.copy_from_slice(&hidden[row * d_model..][..d_model]);
    }
    share.clock.lap(Operation::Loss);
    linear_forward(share, weights, &layers.transform, Matrix::new(gathered, d_model), Target::new(head_slope, d_model));
    gelu::forward(head_slope, &mut head_normal.rows);
    share.clock.lap(Operation::Gelu);
    norm_forward(share, weights, &layers.transform_norm, head_normal, transformed);
    linear_forward(share, weights, &layers.decoder, Matrix::new(transformed, d_model), Target::new(logits, vocab));
}

/// The part of the batch's mean loss that comes from the worker's masked rows; the logits become their gradients.
pub(crate) fn loss(share: Share<'_>, activations: &mut Activations) -> f64 {
    let all = share.batch.masked_rows.len();
    let targets = &share.batch.targets[share.masked()];
    let loss = softmax_cross_entropy(&mut activations.logits, targets, share.config.vocab, 1.0 / all as f32);
    share.clock.lap(Operation::Loss);
    loss / all as f64
}

/// The gradients of all weights, written anew, after [`encode`], [`head`] and [`loss`].
pub(crate) fn backward(
    share: Share<'_>,
    weights: &[f32],
    layers: &Layers,
    activations: &mut Activations,
    gradients: &mut [f32],
) {
    let ModelConfig { d_model, d_ff, vocab, .. } = *share.config;
    let Activations { embeddings_normal, hidden, layers: of_layers, gathered, head_slope, head_normal, .. } =
        activations;
    let Scratch { panels, attention: room, dhidden, doutput, dcontext, dqkv, dactivated, dtransformed } =
        &mut activations.scratch;

    let (transformed, dlogits) =
        (Matrix::new(&activations.transformed, d_model), Matrix::new(&activations.logits, vocab));
    weights_backward(share, &layers.decoder, transformed, dlogits, gradients, panels);
    let target = Target::new(dtransformed, d_model);
    input_backward(share, &layers.decoder, dlogits, Start::Zero, target);
    norm_backward(share, weights, &layers.transform_norm, head_normal, dtransformed, gradients);
    gelu::backward(head_slope, dtransformed);
    share.clock.lap(Operation::Gelu);
    let dtransformed = Matrix::new(dtransformed, d_model);
    weights_backward(share, &layers.transform, Matrix::new(gathered, d_model), dtransformed, gradients, panels);
    let dgathered = &mut doutput[..share.masked().len() * d_model];
    let target = Target::new(dgathered, d_model);
    input_backward(share, &layers.transform, dtransformed, Start::Zero, target);
    dhidden.fill(0.0);
    for (row, from) in share.masked_rows().zip(dgathered.chunks_exact(d_model)) {
        dhidden[row * d_model..][..d_model].copy_from_slice(from);
    }
    share.clock.lap(Operation::Loss);

    for (nth, (layer, kept)) in layers.layers.iter().zip(of_layers).enumerate().rev() {
        // The feed-forward block; dhidden becomes the gradient of the sum before LayerNorm, which both summands have.
        norm_backward(share, weights, &layer.output_norm, &kept.output_normal, dhidden, gradients);
        doutput.copy_from_slice(dhidden);
        share.drop(Site::Output(nth), doutput);
        let dsum = Matrix::new(doutput, d_model);
        weights_backward(share, &layer.output, Matrix::new(&kept.activated, d_ff), dsum, gradients, panels);
        input_backward(share, &layer.output, dsum, Start::Zero, Target::new(dactivated, d_ff));
        gelu::backward(&kept.slope, dactivated);
        share.clock.lap(Operation::Gelu);
        let dactivated = Matrix::new(dactivated, d_ff);
        weights_backward(
            share,
            &layer.intermediate,
            Matrix::new(&kept.attended, d_model),
            dactivated,
            gradients,
            panels,
        );
        let target = Target::new(dhidden, d_model);
        input_backward(share, &layer.intermediate, dactivated, Start::Target, target);

        // The attention block.
        norm_backward(share, weights, &layer.attention_norm, &kept.attention_normal, dhidden, gradients);
        doutput.copy_from_slice(dhidden);
        share.drop(Site::AttentionOutput(nth), doutput);
        let dsum = Matrix::new(doutput, d_model);
        weights_backward(share, &layer.attention_output, Matrix::new(&kept.context, d_model), dsum, gradients, panels);
        let target = Target::new(dcontext, d_model);
        input_backward(share, &layer.attention_output, dsum, Start::Zero, target);
        for (in_batch, rows, pairs) in share.each_attention() {
            let wide = 3 * d_model * rows.start..3 * d_model * rows.end;
            let (qkv, dqkv) = (&kept.qkv[wide.clone()], &mut dqkv[wide]);
            let dcontext = &dcontext[d_model * rows.start..d_model * rows.end];
            attention::backward(share.heads(nth), in_batch, qkv, &kept.probabilities[pairs], dcontext, dqkv, room);
        }
        share.clock.lap(Operation::Attention);
        for (part, linear) in layer.qkv.iter().enumerate() {
            let input = Matrix::new(&hidden[nth], d_model);
            let dpart = Matrix::part(&dqkv[part * d_model..], share.rows().len(), d_model, 3 * d_model);
            weights_backward(share, linear, input, dpart, gradients, panels);
            input_backward(share, linear, dpart, Start::Target, Target::new(dhidden, d_model));
        }
    }

    share.drop(Site::Embeddings, dhidden);
    norm_backward(share, weights, &layers.embeddings_norm, embeddings_normal, dhidden, gradients);
    let tables = [&layers.word, &layers.position, &layers.token_type];
    let [word, position, token_type] = disjoint(gradients, tables);
    position.fill(0.0);
    token_type.fill(0.0);
    embeddings::backward(share.tokens(), dhidden, d_model, TableGradients { word, position, token_type });
    share.clock.lap(Operation::Embeddings);
}

/// y += x.
pub(crate) fn add(y: &mut [f32], x: &[f32]) {
    Arch::new().dispatch(|| vector::add(y, x));
}

fn linear_forward(share: Share<'_>, weights: &[f32], linear: &Linear, x: Matrix<'_>, y: Target<'_>) {
    linear::forward(x, &linear.packed, &weights[linear.bias.clone()], y);
    share.clock.lap(Operation::Linear);
}

fn weights_backward(
    share: Share<'_>,
    linear: &Linear,
    x: Matrix<'_>,
    dy: Matrix<'_>,
    gradients: &mut [f32],
    panels: &mut Panels,
) {
    let [dw, db] = disjoint(gradients, [&linear.weight, &linear.bias]);
    linear::backward_weights(x, dy, dw, db, panels);
    share.clock.lap(Operation::Linear);
}

fn input_backward(share: Share<'_>, linear: &Linear, dy: Matrix<'_>, start: Start<'_>, dx: Target<'_>) {
    linear::backward_input(dy, &linear.packed, start, dx);
    share.clock.lap(Operation::Linear);
}

fn norm_forward(share: Share<'_>, weights: &[f32], norm: &LayerNorm, normal: &mut Normal, y: &mut [f32]) {
    let (weight, bias) = (&weights[norm.weight.clone()], &weights[norm.bias.clone()]);
    let eps = share.config.layer_norm_eps as f32;
    layer_norm::forward(&mut normal.rows, weight, bias, eps, &mut normal.scale, y);
    share.clock.lap(Operation::LayerNorm);
}

fn norm_backward(
    share: Share<'_>,
    weights: &[f32],
    norm: &LayerNorm,
    normal: &Normal,
    gradient: &mut [f32],
    gradients: &mut [f32],
) {
    let [dw, db] = disjoint(gradients, [&norm.weight, &norm.bias]);
    layer_norm::backward(&normal.rows, &normal.scale, &weights[norm.weight.clone()], gradient, dw, db);
    share.clock.lap(Operation::LayerNorm);
}

/// Several tensors of the flat buffer at once.
fn disjoint<'a, const N: usize>(gradients: &'a mut [f32], tensors: [&Range<usize>; N]) -> [&'a mut [f32]; N] {
    gradients.get_disjoint_mut(tensors.map(Range::clone)).expect("tensors lie in the buffer and do not overlap")
}
