//! Self-attention: takes queries, keys and values `[tokens, 3 d_model]` of sequences that lie end to end, gives each
//! token the mean of its sequence's values, weighted by how well their keys match its query (Vaswani et al. 2017,
//! "Attention Is All You Need", section 3.2). No token sees another sequence, so there is nothing to pad or to mask.
//!
//! For each sequence and head, with q, k, v the `head_dim` columns of that head:
//!
//! ```text
//! S = q kᵀ / √head_dim                        [length, length]
//! P = softmax(S)  over each row               P' = P with dropout
//! c = P' v                                    [length, head_dim]
//! ```
//!
//! Backward, from dc. The two products are turned round as in a linear layer; dropout is drawn again; and from
//! ∂p_j/∂s_i = p_j (δ_ij - p_i) follows the rule for softmax, row by row:
//!
//! ```text
//! dv = P'ᵀ dc                                 dP' = dc vᵀ
//! dp_i = f_i dp'_i                            ds_i = Σ_j dp_j ∂p_j/∂s_i = p_i (dp_i - Σ_j p_j dp_j)
//! dq = dS k / √head_dim                       dk = dSᵀ q / √head_dim
//! ```

use std::ops::Range;

use pulp::{Simd, with_simd};

use crate::engine::buffer::Buffer;
use crate::engine::dropout::Dropout;
use crate::engine::factors::{Matrix, Panels};
use crate::engine::matmul::{Start, Target, multiply};
use crate::engine::vector;
use crate::model::dropout::RowDropout;
use crate::vectors::arch;

/// What all sequences have in common.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heads {
    pub(crate) heads: usize,
    pub(crate) head_dim: usize,
    pub(crate) dropout: Option<Dropout>,
}

/// Room to work in for one head.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scratch {
    pub(crate) panels: Panels,
    /// Probabilities with dropout `[length, length]`.
    pub(crate) dropped: Buffer,
    /// Gradients of probabilities, then of scores `[length, length]`.
    pub(crate) scores: Buffer,
}

impl Heads {
    fn d_model(self) -> usize {
        self.heads * self.head_dim
    }

    fn scale(self) -> f32 {
        1.0 / (self.head_dim as f32).sqrt()
    }

    /// Queries, keys and values of one head of a sequence `[length, head_dim]`.
    fn parts(self, qkv: &[f32], head: usize) -> [Matrix<'_>; 3] {
        let row_step = 3 * self.d_model();
        let rows = qkv.len() / row_step;
        [0, 1, 2].map(|part| Matrix::part(&qkv[self.column(part, head)..], rows, self.head_dim, row_step))
    }

    /// The place for the queries (0), keys (1) or values (2) of one head.
    fn part_mut(self, qkv: &mut [f32], part: usize, head: usize) -> Target<'_> {
        Target::new(&mut qkv[self.column(part, head)..], 3 * self.d_model())
    }

    fn column(self, part: usize, head: usize) -> usize {
        part * self.d_model() + head * self.head_dim
    }

    /// The columns of one head in the contexts of a sequence.
    fn context(self, context: &[f32], head: usize) -> Matrix<'_> {
        let columns = self.d_model();
        Matrix::part(&context[head * self.head_dim..], context.len() / columns, self.head_dim, columns)
    }

    /// The dropout of a head's probabilities, for the query in a row of the batch.
    fn row_dropout(self, row: usize, head: usize) -> Option<RowDropout> {
        let row = (row * self.heads + head) as u64;
        self.dropout.map(|Dropout { seed, site, probability }| RowDropout::new(seed, site, row, probability))
    }
}

/// c for one sequence, whose tokens are the rows `rows` of the batch; `probabilities` receives P of each head
/// `[heads, length, length]`.
pub(crate) fn forward(
    shape: Heads,
    rows: Range<usize>,
    qkv: &[f32],
    probabilities: &mut [f32],
    context: &mut [f32],
    scratch: &mut Scratch,
) {
    let length = rows.len();
    let Scratch { panels, dropped, .. } = scratch;
    for (head, probabilities) in probabilities.chunks_exact_mut(length * length).enumerate() {
        let [queries, keys, values] = shape.parts(qkv, head);
        multiply(queries, panels.right(keys.transposed()), Start::Zero, Target::new(probabilities, length));
        softmax(probabilities, length, shape.scale());
        let probabilities = Matrix::new(drop(shape, rows.clone(), head, probabilities, dropped), length);
        let context = Target::new(&mut context[head * shape.head_dim..], shape.d_model());
        multiply(probabilities, panels.right(values), Start::Zero, context);
    }
}

/// The gradient of q, k and v of one sequence, from that of c.
pub(crate) fn backward(
    shape: Heads,
    rows: Range<usize>,
    qkv: &[f32],
    probabilities: &[f32],
    dcontext: &[f32],
    dqkv: &mut [f32],
    scratch: &mut Scratch,
) {
    let length = rows.len();
    let Scratch { panels, dropped, scores } = scratch;
    let scores = &mut scores[..length * length];
    for (head, probabilities) in probabilities.chunks_exact(length * length).enumerate() {
        let [queries, keys, values] = shape.parts(qkv, head);
        let dcontext = shape.context(dcontext, head);
        multiply(dcontext, panels.right(values.transposed()), Start::Zero, Target::new(scores, length)); // dP'
        let dropped = Matrix::new(drop(shape, rows.clone(), head, probabilities, dropped), length);
        multiply(dropped.transposed(), panels.right(dcontext), Start::Zero, shape.part_mut(dqkv, 2, head)); // dv
        drop_rows(shape, rows.clone(), head, scores); // dP
        softmax_backward(scores, probabilities, length, shape.scale());
        let scores = Matrix::new(scores, length);
        multiply(scores, panels.right(keys), Start::Zero, shape.part_mut(dqkv, 0, head)); // dq
        multiply(scores.transposed(), panels.right(queries), Start::Zero, shape.part_mut(dqkv, 1, head)); // dk
    }
}

/// softmax(scale s) of each row, in its place. The largest score is subtracted first: e^0 = 1 is then the largest
/// exponential, and nothing overflows.
#[with_simd(softmax = arch())]
#[inline(always)]
fn softmax_simd<S: Simd>(simd: S, scores: &mut [f32], length: usize, scale: f32) {
    for row in scores.chunks_exact_mut(length) {
        let largest = vector::max(simd, row);
        let sum = vector::exponentials(simd, row, scale, largest);
        vector::scale(row, 1.0 / sum);
    }
}

/// dP becomes scale dS.
#[with_simd(softmax_backward = arch())]
#[inline(always)]
fn softmax_backward_simd<'a, S: Simd>(
    simd: S,
    gradients: &'a mut [f32],
    probabilities: &'a [f32],
    length: usize,
    scale: f32,
) {
    for (gradient, p) in gradients.chunks_exact_mut(length).zip(probabilities.chunks_exact(length)) {
        let mean = vector::dot(simd, gradient, p); // Σ p dp
        for (gradient, p) in gradient.iter_mut().zip(p) {
            *gradient = scale * p * (*gradient - mean);
        }
    }
}

/// P', which is P where nothing is dropped.
fn drop<'a>(
    shape: Heads,
    rows: Range<usize>,
    head: usize,
    probabilities: &'a [f32],
    dropped: &'a mut [f32],
) -> &'a [f32] {
    if shape.dropout.is_none() {
        return probabilities;
    }
    let dropped = &mut dropped[..probabilities.len()];
    dropped.copy_from_slice(probabilities);
    drop_rows(shape, rows, head, dropped);
    dropped
}

/// Drops some of a head's probabilities, or of their gradients.
#[with_simd(drop_rows = arch())]
#[inline(always)]
fn drop_rows_simd<S: Simd>(_simd: S, shape: Heads, rows: Range<usize>, head: usize, probabilities: &mut [f32]) {
    for (probabilities, row) in probabilities.chunks_exact_mut(rows.len()).zip(rows) {
        if let Some(dropout) = shape.row_dropout(row, head) {
            dropout.apply(probabilities);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::slopes;
    use crate::model::dropout::Site;

    fn scratch(longest: usize) -> Scratch {
        let room = Buffer::zeros(longest * longest);
        Scratch { panels: Panels::default(), dropped: room.clone(), scores: room }
    }

    #[test]
    fn is_the_mean_of_the_values_weighted_by_how_well_the_keys_match() {
        let shape = Heads { heads: 1, head_dim: 2, dropout: None };
        let qkv = [1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0];
        let (mut probabilities, mut context) = ([0.0; 4], [0.0; 4]);
        let mut scratch = scratch(2);
        forward(shape, 0..2, &qkv, &mut probabilities, &mut context, &mut scratch);
        // A token's score is 1 / sqrt(2) with itself and 0 with the other one: e^0.70711 = 2.02811.
        let itself = 2.028_115 / 3.028_115;
        for (value, expected) in context.iter().zip([itself, 1.0 - itself, 1.0 - itself, itself]) {
            assert!((value - expected).abs() < 1e-6, "{context:?}");
        }
    }

    #[test]
    fn large_scores_do_not_overflow() {
        let mut scores = [1e30, -1e30, 3e38, 3e38];
        softmax(&mut scores, 2, 1.0);
        assert_eq!((scores[0], scores[2], scores[3]), (1.0, 0.5, 0.5));
        assert!(scores[1] < 1e-37);
    }

    #[test]
    fn backward_is_the_slope_of_forward() {
        let dropout = Some(Dropout { seed: 3, site: Site::Attention(0), probability: 0.3 });
        for (heads, head_dim, length, dropout) in
            [(1, 2, 1, None), (2, 3, 5, None), (3, 2, 7, dropout), (1, 9, 35, None)]
        {
            let shape = Heads { heads, head_dim, dropout };
            let (rows, columns) = (4..4 + length, heads * head_dim);
            slopes::check("attention", &slopes::numbers(length * 3 * columns, 6), |qkv, dcontext| {
                let mut scratch = scratch(length);
                let mut probabilities = vec![0.0; heads * length * length];
                let (mut context, mut dqkv) = (vec![0.0; length * columns], vec![0.0; qkv.len()]);
                forward(shape, rows.clone(), qkv, &mut probabilities, &mut context, &mut scratch);
                let dcontext = &dcontext[..context.len()];
                backward(shape, rows.clone(), qkv, &probabilities, dcontext, &mut dqkv, &mut scratch);
                (context, dqkv)
            });
        }
    }
}
