//! A linear layer: takes rows x `[tokens, from]`, gives rows y `[tokens, to]`.
//!
//! ```text
//! y_tj = Σ_i x_ti W_ji + b_j                  y = x Wᵀ + b
//! ```
//!
//! With the gradient dy of the loss for y, by the chain rule through each number that W_ji, b_j and x_ti have a part in:
//!
//! ```text
//! dW_ji = Σ_t dy_tj x_ti                      dW = dyᵀ x
//! db_j  = Σ_t dy_tj
//! dx_ti = Σ_j dy_tj W_ji                      dx = dy W
//! ```
//!
//! The decoder is a linear layer too, whose W are the word embeddings.

use pulp::{Simd, with_simd};

use crate::engine::buffer::Buffer;
use crate::engine::config::Precision;
use crate::engine::factors::{Matrix, Panels};
use crate::engine::matmul::{Start, Target, multiply};
use crate::engine::{bf16, gemm, vector};
use crate::vectors::arch;

/// Room to work in, and in which precision to multiply there.
#[derive(Clone, Debug, Default)]
pub(crate) struct Room {
    precision: Precision,
    /// For a right factor.
    panels: Panels,
    /// For pairs of bf16.
    pairs: Buffer,
}

impl Room {
    pub(crate) fn new(precision: Precision) -> Self {
        Self { precision, ..Self::default() }
    }

    /// Its buffers, and the lengths that they need for `tokens` rows of at most `input` numbers, for layers of at most
    /// `widest` inputs or outputs.
    pub(crate) fn buffers(&mut self, tokens: usize, input: usize, widest: usize) -> [(&mut Buffer, usize); 2] {
        let (panels, pairs) = match self.precision {
            Precision::F32 => (Panels::room(tokens, input), 0),
            Precision::Bf16 => (Panels::room(bf16::CHUNK / 2, input), bf16::room(widest)),
        };
        [(self.panels.buffer(), panels), (&mut self.pairs, pairs)]
    }
}

/// Copies of the weight for the two products that it is the right factor of, made anew whenever it has changed.
#[derive(Clone, Debug, Default)]
pub(crate) struct PackedWeight {
    /// Wᵀ `[from, to]`.
    transposed: Panels,
    /// W `[to, from]`, unless it can be read as it lies.
    plain: Panels,
}

impl PackedWeight {
    /// Copies a weight `[to, from]`.
    pub(crate) fn pack(&mut self, weight: Matrix<'_>, room: &mut Room) {
        let Self { transposed, plain } = self;
        match room.precision {
            Precision::F32 => {
                transposed.pack(weight.transposed());
                plain.pack(weight);
            }
            Precision::Bf16 => {
                bf16::pack(weight.transposed(), transposed, &mut room.pairs);
                bf16::pack(weight, plain, &mut room.pairs);
            }
        }
    }
}

/// y = x Wᵀ + b.
pub(crate) fn forward(
    x: Matrix<'_>,
    weight: Matrix<'_>,
    packed: &PackedWeight,
    bias: &[f32],
    y: Target<'_>,
    room: &mut Room,
) {
    let (transposed, wt) = (&packed.transposed, weight.transposed());
    match room.precision {
        Precision::F32 if gemm::pays(x, wt) => gemm::multiply(x, wt, Start::Bias(bias), y),
        Precision::F32 => multiply(x, transposed.packed(wt), Start::Bias(bias), y),
        Precision::Bf16 => bf16::multiply(x, transposed.filled(), Start::Bias(bias), y, &mut room.pairs),
    }
}

/// The gradients of the layer's weights: dW = dyᵀ x, db = Σ dy.
pub(crate) fn backward_weights(x: Matrix<'_>, dy: Matrix<'_>, dw: &mut [f32], db: &mut [f32], room: &mut Room) {
    sum_rows(dy, db);
    let (dyt, dw, Room { precision, panels, pairs }) = (dy.transposed(), Target::new(dw, x.columns), room);
    match precision {
        Precision::F32 if gemm::pays(dyt, x) => gemm::multiply(dyt, x, Start::Zero, dw),
        Precision::F32 => multiply(dyt, panels.right(x), Start::Zero, dw),
        Precision::Bf16 => bf16::multiply_deep(dyt, x, dw, panels, pairs),
    }
}

/// The sum of all rows.
#[with_simd(sum_rows = arch())]
#[inline(always)]
fn sum_rows_simd<'a, S: Simd>(_simd: S, rows: Matrix<'a>, sum: &'a mut [f32]) {
    sum.fill(0.0);
    for row in rows.each_row() {
        vector::add(sum, row);
    }
}

/// The gradient of the layer's input: dx = dy W, added to what is there or not.
pub(crate) fn backward_input(
    dy: Matrix<'_>,
    weight: Matrix<'_>,
    packed: &PackedWeight,
    start: Start<'_>,
    dx: Target<'_>,
    room: &mut Room,
) {
    let plain = &packed.plain;
    match room.precision {
        Precision::F32 if gemm::pays(dy, weight) => gemm::multiply(dy, weight, start, dx),
        Precision::F32 => multiply(dy, plain.packed(weight), start, dx),
        Precision::Bf16 => bf16::multiply(dy, plain.filled(), start, dx, &mut room.pairs),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::slopes;

    #[test]
    fn multiplies_by_the_transposed_weight_and_adds_the_bias() {
        for precision in [Precision::F32, Precision::Bf16] {
            let (weight, mut packed) = (Matrix::new(&[1.0, 2.0, 3.0, 4.0], 2), PackedWeight::default());
            let (mut y, mut room) = ([0.0; 2], Room::new(precision));
            packed.pack(weight, &mut room);
            let x = Matrix::new(&[5.0, 6.0], 2);
            forward(x, weight, &packed, &[10.0, 20.0], Target::new(&mut y, 2), &mut room);
            assert_eq!(y, [1.0 * 5.0 + 2.0 * 6.0 + 10.0, 3.0 * 5.0 + 4.0 * 6.0 + 20.0]);
        }
    }

    #[test]
    fn backward_is_the_slope_of_forward() {
        for (tokens, from, to) in [(1, 1, 1), (3, 5, 2), (14, 7, 35), (5, 16, 3)] {
            slopes::check("linear", &slopes::numbers(tokens * from + to * from + to, 2), |inputs, dy| {
                let (x, rest) = inputs.split_at(tokens * from);
                let (w, bias) = rest.split_at(to * from);
                let (x, weight, mut packed) = (Matrix::new(x, from), Matrix::new(w, from), PackedWeight::default());
                let (mut y, mut room) = (vec![0.0; tokens * to], Room::default());
                packed.pack(weight, &mut room);
                forward(x, weight, &packed, bias, Target::new(&mut y, to), &mut room);
                let dy = Matrix::new(&dy[..tokens * to], to);
                let (mut dx, mut dw, mut db) = (vec![0.0; tokens * from], vec![0.0; to * from], vec![0.0; to]);
                backward_weights(x, dy, &mut dw, &mut db, &mut room);
                backward_input(dy, weight, &packed, Start::Zero, Target::new(&mut dx, from), &mut room);
                (y, [dx, dw, db].concat())
            });
        }
    }

    /// What the library multiplies at once is what our own product gives for a few tokens at a time.
    #[test]
    fn large_products_are_the_same() {
        let (tokens, from, to) = (300, 130, 100);
        let numbers = slopes::numbers;
        let (x, dy, w, bias) =
            (numbers(tokens * from, 1), numbers(tokens * to, 2), numbers(to * from, 3), numbers(to, 4));
        let (weight, mut packed, mut room) = (Matrix::new(&w, from), PackedWeight::default(), Room::default());
        packed.pack(weight, &mut room);
        let [whole, parts] = [tokens, 50].map(|chunk| {
            let (mut y, mut dx) = (vec![0.0; tokens * to], vec![0.0; tokens * from]);
            let (mut dw, mut db) = (vec![0.0; to * from], vec![0.0; to]);
            for first in (0..tokens).step_by(chunk) {
                let (x, dy) =
                    (Matrix::new(&x, from).rows_from(first, chunk), Matrix::new(&dy, to).rows_from(first, chunk));
                assert_eq!(gemm::pays(x, weight.transposed()), chunk == tokens);
                forward(x, weight, &packed, &bias, Target::new(&mut y[first * to..], to), &mut room);
                let dx = Target::new(&mut dx[first * from..], from);
                backward_input(dy, weight, &packed, Start::Zero, dx, &mut room);
                let (mut part, mut rows) = (vec![0.0; to * from], vec![0.0; to]);
                backward_weights(x, dy, &mut part, &mut rows, &mut room);
                vector::add(&mut dw, &part);
                vector::add(&mut db, &rows);
            }
            [y, dx, dw, db].concat()
        });
        for (whole, part) in whole.iter().zip(&parts) {
            assert!((whole - part).abs() < 1e-3, "{whole}, not {part}");
        }
    }
}
