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

use pulp::{Simd, bytemuck, with_simd};

use crate::engine::buffer::Buffer;
use crate::engine::config::Precision;
use crate::engine::factors::{Matrix, Panels, WIDTH, copy};
use crate::engine::matmul::{Start, Target, multiply};
use crate::engine::{bf16, gemm, vector};
use crate::model::config::ModelConfig;
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

    /// Its buffers, and the lengths that a share of so many tokens needs them to have.
    pub(crate) fn buffers(&mut self, config: &ModelConfig, tokens: usize) -> [(&mut Buffer, usize); 2] {
        let input = config.d_ff.max(config.d_model);
        let (panels, pairs) = match self.precision {
            Precision::F32 => (Panels::room(tokens, input), 0),
            Precision::Bf16 => (Panels::room(bf16::CHUNK / 2, input), bf16::room(input.max(config.vocab))),
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

/// A panel of such a copy, to be filled.
#[derive(Debug)]
pub(crate) struct Panel<'a> {
    /// Its columns of the weight, or of the transposed one.
    from: Matrix<'a>,
    to: &'a mut [[f32; WIDTH]],
}

impl PackedWeight {
    /// The panels of the copies of a weight `[to, from]`, in this precision.
    pub(crate) fn panels<'a>(
        &'a mut self,
        weight: Matrix<'a>,
        precision: Precision,
    ) -> impl Iterator<Item = Panel<'a>> {
        let copies = [(&mut self.transposed, weight.transposed()), (&mut self.plain, weight)];
        copies.into_iter().flat_map(move |(panels, factor)| {
            let (needed, depth) = match precision {
                Precision::F32 => (!factor.is_fit(), factor.rows),
                Precision::Bf16 => (true, factor.rows.div_ceil(2)),
            };
            let panels = needed.then(|| panels.panels_mut(depth, factor.columns));
            panels.into_iter().flatten().map(move |(first, to)| Panel { from: factor.columns_from(first, WIDTH), to })
        })
    }
}

impl Panel<'_> {
    pub(crate) fn fill(self, room: &mut Room) {
        match room.precision {
            Precision::F32 => copy(self.from, self.to),
            Precision::Bf16 => bf16::pack_panel(self.from, bytemuck::cast_slice_mut(self.to), &mut room.pairs),
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

/// The gradient of the weight, dW = dyᵀ x, or of some of its rows: as many as there is room for in `dw`, from `first` on. Their
/// bits do not depend on which others are computed with them, if there are any: of one row, `gemm` adds up the products in
/// another order.
pub(crate) fn backward_weight(x: Matrix<'_>, dy: Matrix<'_>, first: usize, dw: &mut [f32], room: &mut Room) {
    let large = gemm::pays(dy.transposed(), x);
    let dyt = dy.columns_from(first, dw.len() / x.columns).transposed();
    let (dw, Room { precision, panels, pairs }) = (Target::new(dw, x.columns), room);
    match precision {
        Precision::F32 if large => gemm::multiply(dyt, x, Start::Zero, dw),
        Precision::F32 => multiply(dyt, panels.right(x), Start::Zero, dw),
        Precision::Bf16 => bf16::multiply_deep(dyt, x, dw, panels, pairs),
    }
}

/// The gradient of the bias: db = Σ dy, added to what is there.
#[with_simd(backward_bias = arch())]
#[inline(always)]
pub(crate) fn backward_bias_simd<'a, S: Simd>(_simd: S, dy: Matrix<'a>, db: &'a mut [f32]) {
    for dy in dy.each_row() {
        vector::add(db, dy);
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
    use crate::engine::pass::add;
    use crate::engine::slopes;

    fn pack(packed: &mut PackedWeight, weight: Matrix<'_>, room: &mut Room) {
        for panel in packed.panels(weight, room.precision) {
            panel.fill(room);
        }
    }

    #[test]
    fn multiplies_by_the_transposed_weight_and_adds_the_bias() {
        for precision in [Precision::F32, Precision::Bf16] {
            let (weight, mut packed) = (Matrix::new(&[1.0, 2.0, 3.0, 4.0], 2), PackedWeight::default());
            let (mut y, mut room) = ([0.0; 2], Room::new(precision));
            pack(&mut packed, weight, &mut room);
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
                pack(&mut packed, weight, &mut room);
                forward(x, weight, &packed, bias, Target::new(&mut y, to), &mut room);
                let dy = Matrix::new(&dy[..tokens * to], to);
                let (mut dx, mut dw, mut db) = (vec![0.0; tokens * from], vec![0.0; to * from], vec![0.0; to]);
                backward_weight(x, dy, 0, &mut dw, &mut room);
                backward_bias(dy, &mut db);
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
        pack(&mut packed, weight, &mut room);
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
                let mut of_chunk = vec![f32::NAN; to * from];
                backward_weight(x, dy, 0, &mut of_chunk, &mut room);
                add(&mut dw, &of_chunk);
                backward_bias(dy, &mut db);
            }
            [y, dx, dw, db].concat()
        });
        for (whole, part) in whole.iter().zip(&parts) {
            assert!((whole - part).abs() < 1e-3, "{whole}, not {part}");
        }
    }

    /// How many threads share the rows of a gradient changes none of its bits.
    #[test]
    fn some_rows_of_a_gradient_are_those_of_the_whole() {
        let numbers = slopes::numbers;
        for (tokens, from, to) in [(300, 130, 145), (40, 70, 145), (600, 97, 113), (1, 5, 40)] {
            let (x, dy) = (numbers(tokens * from, 1), numbers(tokens * to, 2));
            let (x, dy) = (Matrix::new(&x, from), Matrix::new(&dy, to));
            for precision in [Precision::F32, Precision::Bf16] {
                let mut room = Room::new(precision);
                let mut whole = vec![f32::NAN; to * from];
                backward_weight(x, dy, 0, &mut whole, &mut room);
                for at_once in (2..to.div_ceil(2)).step_by(5) {
                    let mut parts = vec![f32::NAN; to * from];
                    let (first, last) = parts.split_at_mut((to - to % at_once - at_once) * from);
                    for (nth, part) in first.chunks_mut(at_once * from).enumerate() {
                        backward_weight(x, dy, nth * at_once, part, &mut room);
                    }
                    backward_weight(x, dy, first.len() / from, last, &mut room);
                    let differs = parts.iter().zip(&whole).position(|(part, whole)| part != whole);
                    assert_eq!(differs, None, "{tokens} x {from} x {to}, {at_once} at a time, {precision:?}");
                }
            }
        }
    }
}
