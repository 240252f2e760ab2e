//! Self-attention: takes the keys and values of a sequence's tokens and the queries of some or all of them, gives each query
//! the mean of the values, weighted by how well their keys match it (Vaswani et al. 2017, "Attention Is All You Need",
//! section 3.2). No token sees another sequence, so there is nothing to pad or to mask.
//!
//! For each sequence and head, with q, k, v the `head_dim` columns of that head:
//!
//! ```text
//! S = q kᵀ / √head_dim                        [queries, length]
//! P = softmax(S)  over each row               P' = P with dropout
//! c = P' v                                    [queries, head_dim]
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

use pulp::{Simd, with_simd};

use crate::engine::buffer::Buffer;
use crate::engine::dropout::Dropout;
use crate::engine::factors::{Matrix, Panels};
use crate::engine::matmul::{Start, Target, multiply};
use crate::engine::share::Rows;
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

/// One sequence.
#[derive(Clone, Debug)]
pub(crate) struct Sequence<'a> {
    /// The rows of its queries in the batch.
    pub(crate) rows: Rows<'a>,
    /// `[queries, d_model]`
    pub(crate) queries: &'a [f32],
    /// Keys and values of its tokens `[length, 2 d_model]`.
    pub(crate) keys_values: &'a [f32],
}

/// Room to work in for one head.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scratch {
    pub(crate) panels: Panels,
    /// Probabilities with dropout `[queries, length]`.
    pub(crate) dropped: Buffer,
    /// Gradients of probabilities, then of scores `[queries, length]`.
    pub(crate) scores: Buffer,
}

impl Heads {
    fn d_model(self) -> usize {
        self.heads * self.head_dim
    }

    fn scale(self) -> f32 {
        1.0 / (self.head_dim as f32).sqrt()
    }

    /// The columns of one head in queries or contexts (`parts` is 1), or in keys (`part` 0 of 2) or values (1 of 2).
    fn columns(self, numbers: &[f32], head: usize, part: usize, parts: usize) -> Matrix<'_> {
        let row_step = parts * self.d_model();
        Matrix::part(&numbers[self.first(head, part)..], numbers.len() / row_step, self.head_dim, row_step)
    }

    /// The same columns, to write.
    fn columns_mut(self, numbers: &mut [f32], head: usize, part: usize, parts: usize) -> Target<'_> {
        Target::new(&mut numbers[self.first(head, part)..], parts * self.d_model())
    }

    fn first(self, head: usize, part: usize) -> usize {
        part * self.d_model() + head * self.head_dim
    }

    fn length(self, keys_values: &[f32]) -> usize {
        keys_values.len() / (2 * self.d_model())
    }

    /// The dropout of a head's probabilities, for the query in a row of the batch.
    fn row_dropout(self, row: usize, head: usize) -> Option<RowDropout> {
        let row = (row * self.heads + head) as u64;
        self.dropout.map(|Dropout { seed, site, probability }| RowDropout::new(seed, site, row, probability))
    }
}

/// c for one sequence; `probabilities` receives P of each head `[heads, queries, length]`.
pub(crate) fn forward(
    shape: Heads,
    sequence: &Sequence<'_>,
    probabilities: &mut [f32],
    context: &mut [f32],
    scratch: &mut Scratch,
) {
    let Sequence { rows, queries, keys_values } = sequence;
    let (asked, length) = (rows.len(), shape.length(keys_values));
    if asked == 0 {
        return;
    }
    let Scratch { panels, dropped, .. } = scratch;
    for (head, probabilities) in probabilities.chunks_exact_mut(asked * length).enumerate() {
        let queries = shape.columns(queries, head, 0, 1);
        let [keys, values] = [0, 1].map(|part| shape.columns(keys_values, head, part, 2));
        multiply(queries, panels.right(keys.transposed()), Start::Zero, Target::new(probabilities, length));
        softmax(probabilities, length, shape.scale());
        let probabilities = Matrix::new(drop(shape, rows, head, probabilities, length, dropped), length);
        multiply(probabilities, panels.right(values), Start::Zero, shape.columns_mut(context, head, 0, 1));
    }
}

/// The gradients of q, and of k and v, of one sequence, from that of c.
pub(crate) fn backward(
    shape: Heads,
    sequence: &Sequence<'_>,
    probabilities: &[f32],
    dcontext: &[f32],
    [dqueries, dkeys_values]: [&mut [f32]; 2],
    scratch: &mut Scratch,
) {
    let Sequence { rows, queries, keys_values } = sequence;
    let (asked, length) = (rows.len(), shape.length(keys_values));
    if asked == 0 {
        dkeys_values.fill(0.0);
        return;
    }
    let Scratch { panels, dropped, scores } = scratch;
    let scores = &mut scores[..asked * length];
    for (head, probabilities) in probabilities.chunks_exact(asked * length).enumerate() {
        let queries = shape.columns(queries, head, 0, 1);
        let [keys, values] = [0, 1].map(|part| shape.columns(keys_values, head, part, 2));
        let dcontext = shape.columns(dcontext, head, 0, 1);
        multiply(dcontext, panels.right(values.transposed()), Start::Zero, Target::new(scores, length)); // dP'
        let dropped = Matrix::new(drop(shape, rows, head, probabilities, length, dropped), length);
        let dvalues = shape.columns_mut(dkeys_values, head, 1, 2);
        multiply(dropped.transposed(), panels.right(dcontext), Start::Zero, dvalues);
        drop_rows(shape, rows, head, scores, length); // dP
        softmax_backward(scores, probabilities, length, shape.scale());
        let scores = Matrix::new(scores, length);
        multiply(scores, panels.right(keys), Start::Zero, shape.columns_mut(dqueries, head, 0, 1));
        let dkeys = shape.columns_mut(dkeys_values, head, 0, 2);
        multiply(scores.transposed(), panels.right(queries), Start::Zero, dkeys);
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
    rows: &Rows<'_>,
    head: usize,
    probabilities: &'a [f32],
    length: usize,
    dropped: &'a mut [f32],
) -> &'a [f32] {
    if shape.dropout.is_none() {
        return probabilities;
    }
    let dropped = &mut dropped[..probabilities.len()];
    dropped.copy_from_slice(probabilities);
    drop_rows(shape, rows, head, dropped, length);
    dropped
}

/// Drops some of a head's probabilities, or of their gradients.
#[with_simd(drop_rows = arch())]
#[inline(always)]
fn drop_rows_simd<'a, S: Simd>(
    _simd: S,
    shape: Heads,
    rows: &'a Rows<'a>,
    head: usize,
    probabilities: &'a mut [f32],
    length: usize,
) {
    for (nth, probabilities) in probabilities.chunks_exact_mut(length).enumerate() {
        if let Some(dropout) = shape.row_dropout(rows.get(nth), head) {
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
        let queries = [1.0, 0.0, 0.0, 1.0];
        let keys_values = [1.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 1.0];
        let (mut probabilities, mut context) = ([0.0; 4], [0.0; 4]);
        let mut scratch = scratch(2);
        let sequence = Sequence { rows: Rows::Range(0..2), queries: &queries, keys_values: &keys_values };
        forward(shape, &sequence, &mut probabilities, &mut context, &mut scratch);
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
    fn keys_that_no_query_looks_at_have_no_gradient() {
        let shape = Heads { heads: 1, head_dim: 2, dropout: None };
        let sequence = Sequence { rows: Rows::Of(&[]), queries: &[], keys_values: &[1.0; 12] };
        let mut gradient = [f32::NAN; 12];
        forward(shape, &sequence, &mut [], &mut [], &mut scratch(3));
        backward(shape, &sequence, &[], &[], [&mut [], &mut gradient], &mut scratch(3));
        assert_eq!(gradient, [0.0; 12]);
    }

    #[test]
    fn backward_is_the_slope_of_forward() {
        let dropout = Some(Dropout { seed: 3, site: Site::Attention(0), probability: 0.3 });
        let all = |length: usize| Rows::Range(4..4 + length);
        for (heads, head_dim, length, rows, dropout) in [
            (1, 2, 1, all(1), None),
            (2, 3, 5, all(5), None),
            (3, 2, 7, all(7), dropout),
            (1, 9, 35, all(35), None),
            (2, 3, 7, Rows::Of(&[4, 5, 9]), dropout),
        ] {
            let shape = Heads { heads, head_dim, dropout };
            let (asked, columns) = (rows.len(), heads * head_dim);
            slopes::check("attention", &slopes::numbers((asked + 2 * length) * columns, 6), |numbers, dcontext| {
                let mut scratch = scratch(length);
                let (queries, keys_values) = numbers.split_at(asked * columns);
                let sequence = Sequence { rows: rows.clone(), queries, keys_values };
                let mut probabilities = vec![0.0; heads * asked * length];
                let (mut context, mut gradients) = (vec![0.0; asked * columns], vec![f32::NAN; numbers.len()]);
                forward(shape, &sequence, &mut probabilities, &mut context, &mut scratch);
                let (dqueries, dkeys_values) = gradients.split_at_mut(asked * columns);
                let dcontext = &dcontext[..context.len()];
                backward(shape, &sequence, &probabilities, dcontext, [dqueries, dkeys_values], &mut scratch);
                (context, gradients)
            });
        }
    }
}
