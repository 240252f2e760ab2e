//! One worker's way through the model, forward and back: takes its share of a batch, whole sequences that lie end to
//! end, gives the loss of its masked rows, and then the gradient of every weight. Which operation follows which is
//! written here, the operations themselves each in a file of its own.

use std::ops::Range;

use pulp::{Simd, with_simd};

use crate::engine::activations::{Activations, Normal, Scratch, Size};
use crate::engine::attention::{self, Heads};
use crate::engine::clock::{Clock, Operation};
use crate::engine::dropout::{self, Dropout};
use crate::engine::embeddings::{self, TableGradients, Tables};
use crate::engine::factors::Matrix;
use crate::engine::layers::{LayerNorm, Layers, Linear};
use crate::engine::linear::Room;
use crate::engine::loss::softmax_cross_entropy;
use crate::engine::matmul::{Start, Target};
use crate::engine::{gelu, layer_norm, linear, vector};
use crate::model::config::ModelConfig;
use crate::model::dropout::Site;
use crate::model::encoder::Mode;
use crate::text::batch::Batch;
use crate::vectors::arch;

/// Some sequences of a batch: a worker's share.
#[derive(Clone, Debug)]
pub(crate) struct Share<'a> {
    batch: &'a Batch,
    sequences: Range<usize>,
}

impl<'a> Share<'a> {
    pub(crate) fn new(batch: &'a Batch, sequences: Range<usize>) -> Self {
        Self { batch, sequences }
    }

    /// Its rows of the batch.
    fn rows(&self) -> Range<usize> {
        self.batch.offsets[self.sequences.start]..self.batch.offsets[self.sequences.end]
    }

    /// Its masked rows, as a range of [`Batch::masked_rows`].
    fn masked(&self) -> Range<usize> {
        let (rows, masked) = (self.rows(), &self.batch.masked_rows);
        masked.partition_point(|&row| row < rows.start)..masked.partition_point(|&row| row < rows.end)
    }

    /// Its masked rows, counted from its first row.
    fn masked_rows(&self) -> impl Iterator<Item = usize> + 'a {
        let start = self.rows().start;
        self.batch.masked_rows[self.masked()].iter().map(move |row| row - start)
    }

    /// The rows of the batch, sequence by sequence.
    fn each_sequence(&self) -> impl Iterator<Item = Range<usize>> + 'a {
        self.batch.offsets[self.sequences.start..=self.sequences.end].windows(2).map(|ends| ends[0]..ends[1])
    }

    /// Each token's id and position in its sequence.
    fn tokens(&self) -> impl Iterator<Item = (u32, usize)> + 'a {
        let batch = self.batch;
        self.each_sequence().flat_map(move |rows| batch.input_ids[rows].iter().copied().zip(0..))
    }

    pub(crate) fn size(&self) -> Size {
        Size {
            tokens: self.rows().len(),
            masked: self.masked().len(),
            pairs: self.each_sequence().map(|rows| rows.len() * rows.len()).sum(),
            longest: self.each_sequence().map(|rows| rows.len()).max().unwrap_or(0),
        }
    }

    /// For each sequence: its rows in the batch, its rows in the worker's buffers, its part of the probabilities.
    pub(crate) fn each_attention(
        &self,
        heads: usize,
    ) -> impl Iterator<Item = (Range<usize>, Range<usize>, Range<usize>)> + 'a {
        let (start, mut end) = (self.rows().start, 0);
        self.each_sequence().map(move |rows| {
            let pairs = end..end + heads * rows.len() * rows.len();
            end = pairs.end;
            (rows.clone(), rows.start - start..rows.end - start, pairs)
        })
    }
}

/// What there is to compute, and with what.
#[derive(Debug)]
pub(crate) struct Pass<'a> {
    pub(crate) config: &'a ModelConfig,
    pub(crate) mode: Mode,
    pub(crate) share: Share<'a>,
    pub(crate) weights: &'a [f32],
    pub(crate) layers: &'a Layers,
    pub(crate) clock: &'a Clock,
}

impl Pass<'_> {
    /// Hidden states and probabilities of all layers.
    pub(crate) fn encode(&self, activations: &mut Activations) {
        let Self { config, share, weights, layers, .. } = self;
        let d_model = config.d_model;
        let Activations { embeddings_normal, hidden, layers: of_layers, scratch, .. } = activations;
        let tables = Tables {
            word: &weights[layers.word.clone()],
            position: &weights[layers.position.clone()],
            token_type: &weights[layers.token_type.clone()],
        };
        embeddings::forward(share.tokens(), tables, d_model, &mut embeddings_normal.rows);
        self.clock.lap(Operation::Embeddings);
        self.norm_forward(&layers.embeddings_norm, embeddings_normal, &mut hidden[0]);
        self.drop(Site::Embeddings, &mut hidden[0]);

        for (nth, (layer, kept)) in layers.layers.iter().zip(of_layers).enumerate() {
            let (input, output) = hidden[nth..].split_first_mut().expect("one more than layers");
            let (input, output) = (&**input, &mut output[0]);

            for (part, linear) in layer.qkv.iter().enumerate() {
                let target = Target::new(&mut kept.qkv[part * d_model..], 3 * d_model);
                self.linear_forward(linear, Matrix::new(input, d_model), target, &mut scratch.linear);
            }
            for (in_batch, rows, pairs) in share.each_attention(config.heads) {
                let qkv = &kept.qkv[3 * d_model * rows.start..3 * d_model * rows.end];
                let context = &mut kept.context[d_model * rows.start..d_model * rows.end];
                let probabilities = &mut kept.probabilities[pairs];
                attention::forward(self.heads(nth), in_batch, qkv, probabilities, context, &mut scratch.attention);
            }
            self.clock.lap(Operation::Attention);
            let sum = &mut kept.attention_normal.rows;
            let context = Matrix::new(&kept.context, d_model);
            self.linear_forward(&layer.attention_output, context, Target::new(sum, d_model), &mut scratch.linear);
            self.drop(Site::AttentionOutput(nth), sum);
            add(sum, input);
            self.norm_forward(&layer.attention_norm, &mut kept.attention_normal, &mut kept.attended);

            let attended = Matrix::new(&kept.attended, d_model);
            self.linear_forward(
                &layer.intermediate,
                attended,
                Target::new(&mut kept.slope, config.d_ff),
                &mut scratch.linear,
            );
            gelu::forward(&mut kept.slope, &mut kept.activated);
            self.clock.lap(Operation::Gelu);
            let sum = &mut kept.output_normal.rows;
            let activated = Matrix::new(&kept.activated, config.d_ff);
            self.linear_forward(&layer.output, activated, Target::new(sum, d_model), &mut scratch.linear);
            self.drop(Site::Output(nth), sum);
            add(sum, &kept.attended);
            self.norm_forward(&layer.output_norm, &mut kept.output_normal, output);
        }
    }

    /// Logits at the masked rows.
    pub(crate) fn head(&self, activations: &mut Activations) {
        let Self { config, share, layers, .. } = self;
        let ModelConfig { d_model, vocab, .. } = **config;
        let Activations { hidden, gathered, head_slope, head_normal, transformed, logits, scratch, .. } = activations;
        let hidden = &hidden[config.layers];
        for (row, to) in share.masked_rows().zip(gathered.chunks_exact_mut(d_model)) {
            to.copy_from_slice(&hidden[row * d_model..][..d_model]);
        }
        self.clock.lap(Operation::Loss);
        self.linear_forward(
            &layers.transform,
            Matrix::new(gathered, d_model),
            Target::new(head_slope, d_model),
            &mut scratch.linear,
        );
        gelu::forward(head_slope, &mut head_normal.rows);
        self.clock.lap(Operation::Gelu);
        self.norm_forward(&layers.transform_norm, head_normal, transformed);
        self.linear_forward(
            &layers.decoder,
            Matrix::new(transformed, d_model),
            Target::new(logits, vocab),
            &mut scratch.linear,
        );
    }

    /// The part of the batch's mean loss that comes from the worker's masked rows; the logits become their gradients.
    pub(crate) fn loss(&self, activations: &mut Activations) -> f64 {
        let Self { config, share, .. } = self;
        let all = share.batch.masked_rows.len();
        let targets = &share.batch.targets[share.masked()];
        let loss = softmax_cross_entropy(&mut activations.logits, targets, config.vocab, 1.0 / all as f32);
        self.clock.lap(Operation::Loss);
        loss / all as f64
    }

    /// The gradients of all weights, written anew, after [`encode`], [`head`] and [`loss`].
    pub(crate) fn backward(&self, activations: &mut Activations, gradients: &mut [f32]) {
        let Self { config, share, layers, .. } = self;
        let ModelConfig { d_model, d_ff, vocab, .. } = **config;
        let Activations { embeddings_normal, hidden, layers: of_layers, gathered, head_slope, head_normal, .. } =
            activations;
        let Scratch {
            linear: room,
            attention: attention_room,
            dhidden,
            doutput,
            dcontext,
            dqkv,
            dactivated,
            dtransformed,
        } = &mut activations.scratch;

        let (transformed, dlogits) =
            (Matrix::new(&activations.transformed, d_model), Matrix::new(&activations.logits, vocab));
        self.weights_backward(&layers.decoder, transformed, dlogits, gradients, room);
        let target = Target::new(dtransformed, d_model);
        self.input_backward(&layers.decoder, dlogits, Start::Zero, target, room);
        self.norm_backward(&layers.transform_norm, head_normal, dtransformed, gradients);
        gelu::backward(head_slope, dtransformed);
        self.clock.lap(Operation::Gelu);
        let dtransformed = Matrix::new(dtransformed, d_model);
        self.weights_backward(&layers.transform, Matrix::new(gathered, d_model), dtransformed, gradients, room);
        let dgathered = &mut doutput[..share.masked().len() * d_model];
        let target = Target::new(dgathered, d_model);
        self.input_backward(&layers.transform, dtransformed, Start::Zero, target, room);
        dhidden.fill(0.0);
        for (row, from) in share.masked_rows().zip(dgathered.chunks_exact(d_model)) {
            dhidden[row * d_model..][..d_model].copy_from_slice(from);
        }
        self.clock.lap(Operation::Loss);

        for (nth, (layer, kept)) in layers.layers.iter().zip(of_layers).enumerate().rev() {
            // The feed-forward block; dhidden becomes the gradient of the sum before LayerNorm, which both summands have.
            self.norm_backward(&layer.output_norm, &kept.output_normal, dhidden, gradients);
            doutput.copy_from_slice(dhidden);
            self.drop(Site::Output(nth), doutput);
            let dsum = Matrix::new(doutput, d_model);
            self.weights_backward(&layer.output, Matrix::new(&kept.activated, d_ff), dsum, gradients, room);
            self.input_backward(&layer.output, dsum, Start::Zero, Target::new(dactivated, d_ff), room);
            gelu::backward(&kept.slope, dactivated);
            self.clock.lap(Operation::Gelu);
            let dactivated = Matrix::new(dactivated, d_ff);
            self.weights_backward(
                &layer.intermediate,
                Matrix::new(&kept.attended, d_model),
                dactivated,
                gradients,
                room,
            );
            let target = Target::new(dhidden, d_model);
            self.input_backward(&layer.intermediate, dactivated, Start::Target, target, room);

            // The attention block.
            self.norm_backward(&layer.attention_norm, &kept.attention_normal, dhidden, gradients);
            doutput.copy_from_slice(dhidden);
            self.drop(Site::AttentionOutput(nth), doutput);
            let dsum = Matrix::new(doutput, d_model);
            self.weights_backward(&layer.attention_output, Matrix::new(&kept.context, d_model), dsum, gradients, room);
            let target = Target::new(dcontext, d_model);
            self.input_backward(&layer.attention_output, dsum, Start::Zero, target, room);
            for (in_batch, rows, pairs) in share.each_attention(config.heads) {
                let wide = 3 * d_model * rows.start..3 * d_model * rows.end;
                let (qkv, dqkv) = (&kept.qkv[wide.clone()], &mut dqkv[wide]);
                let dcontext = &dcontext[d_model * rows.start..d_model * rows.end];
                attention::backward(
                    self.heads(nth),
                    in_batch,
                    qkv,
                    &kept.probabilities[pairs],
                    dcontext,
                    dqkv,
                    attention_room,
                );
            }
            self.clock.lap(Operation::Attention);
            for (part, linear) in layer.qkv.iter().enumerate() {
                let input = Matrix::new(&hidden[nth], d_model);
                let dpart = Matrix::part(&dqkv[part * d_model..], share.rows().len(), d_model, 3 * d_model);
                self.weights_backward(linear, input, dpart, gradients, room);
                self.input_backward(linear, dpart, Start::Target, Target::new(dhidden, d_model), room);
            }
        }

        self.drop(Site::Embeddings, dhidden);
        self.norm_backward(&layers.embeddings_norm, embeddings_normal, dhidden, gradients);
        let tables = [&layers.word, &layers.position, &layers.token_type];
        let [word, position, token_type] = disjoint(gradients, tables);
        position.fill(0.0);
        token_type.fill(0.0);
        embeddings::backward(share.tokens(), dhidden, d_model, TableGradients { word, position, token_type });
        self.clock.lap(Operation::Embeddings);
    }

    fn dropout(&self, site: Site) -> Option<Dropout> {
        let Mode::Train { dropout_seed: seed } = self.mode else { return None };
        let probability = match site {
            Site::Attention(_) => self.config.attention_dropout,
            _ => self.config.hidden_dropout,
        };
        (probability > 0.0).then_some(Dropout { seed, site, probability })
    }

    /// Forward and backward: drops hidden units `[tokens, d_model]`.
    fn drop(&self, site: Site, x: &mut [f32]) {
        dropout::apply(self.dropout(site), self.share.rows().start, self.config.d_model, x);
        self.clock.lap(Operation::Dropout);
    }

    fn heads(&self, layer: usize) -> Heads {
        let (heads, head_dim) = (self.config.heads, self.config.head_dim());
        Heads { heads, head_dim, dropout: self.dropout(Site::Attention(layer)) }
    }

    fn linear_forward(&self, linear: &Linear, x: Matrix<'_>, y: Target<'_>, room: &mut Room) {
        let bias = &self.weights[linear.bias.clone()];
        linear::forward(x, linear.matrix(self.weights), &linear.packed, bias, y, room);
        self.clock.lap(Operation::Linear);
    }

    fn weights_backward(&self, linear: &Linear, x: Matrix<'_>, dy: Matrix<'_>, gradients: &mut [f32], room: &mut Room) {
        let [dw, db] = disjoint(gradients, [&linear.weight, &linear.bias]);
        linear::backward_weights(x, dy, dw, db, room);
        self.clock.lap(Operation::Linear);
    }

    fn input_backward(&self, linear: &Linear, dy: Matrix<'_>, start: Start<'_>, dx: Target<'_>, room: &mut Room) {
        linear::backward_input(dy, linear.matrix(self.weights), &linear.packed, start, dx, room);
        self.clock.lap(Operation::Linear);
    }

    fn norm_forward(&self, norm: &LayerNorm, normal: &mut Normal, y: &mut [f32]) {
        let (weight, bias) = (&self.weights[norm.weight.clone()], &self.weights[norm.bias.clone()]);
        let eps = self.config.layer_norm_eps as f32;
        layer_norm::forward(&mut normal.rows, weight, bias, eps, &mut normal.scale, y);
        self.clock.lap(Operation::LayerNorm);
    }

    fn norm_backward(&self, norm: &LayerNorm, normal: &Normal, gradient: &mut [f32], gradients: &mut [f32]) {
        let [dw, db] = disjoint(gradients, [&norm.weight, &norm.bias]);
        layer_norm::backward(&normal.rows, &normal.scale, &self.weights[norm.weight.clone()], gradient, dw, db);
        self.clock.lap(Operation::LayerNorm);
    }
}

/// y += x.
#[with_simd(add = arch())]
#[inline(always)]
pub(crate) fn add_simd<'a, S: Simd>(_simd: S, y: &'a mut [f32], x: &'a [f32]) {
    vector::add(y, x);
}

/// Several tensors of the flat buffer at once.
fn disjoint<'a, const N: usize>(gradients: &'a mut [f32], tensors: [&Range<usize>; N]) -> [&'a mut [f32]; N] {
    gradients.get_disjoint_mut(tensors.map(Range::clone)).expect("tensors lie in the buffer and do not overlap")
}
