//! Products in bf16: takes factors in f32, rounds their numbers to bf16, the upper half of an f32 (8 of its 24 binary
//! digits), and adds their products up in f32 (Micikevicius et al. 2018, "Mixed Precision Training").
//!
//! The sum over k is taken two products at a time, as the processors' instructions do: a row of the left factor is read in
//! pairs of neighbours, a column of the right factor too. A pair lies in 32 bits, the first number in the lower half.

use half::bf16;
use pulp::bytemuck;
use pulp::{Simd, WithSimd, with_simd};

use crate::engine::buffer::Buffer;
use crate::engine::factors::{Matrix, Panels, Right, WIDTH, copy};
use crate::engine::matmul::{self, Factor, MultiplyAdd, Product, Start, Target};
use crate::engine::native;
use crate::vectors::arch;

/// How many rows of a left factor, or products of a sum, are rounded at once, so that they are still in a near cache when
/// they are multiplied.
pub(crate) const CHUNK: usize = 256;

/// How many numbers of room a left factor takes, a chunk of which is `long` numbers wide.
pub(crate) fn room(long: usize) -> usize {
    // A chunk of a left factor, or a panel of a right one of the same depth.
    (CHUNK / 2).saturating_mul(long.saturating_add(1))
}

/// `target = start + left right`, a chunk of the left factor's rows at a time. `room` is room to work in.
pub(crate) fn multiply(
    left: Matrix<'_>,
    right: Right<'_, u32>,
    start: Start<'_>,
    target: Target<'_>,
    room: &mut Buffer,
) {
    let Target { values, row_step } = target;
    for first in (0..left.rows).step_by(CHUNK) {
        let pairs = pair(left.rows_from(first, CHUNK), room);
        matmul::multiply(pairs, right, start, Target::new(&mut values[first * row_step..], row_step));
    }
}

/// `target = left right`, a chunk of the sum's products at a time.
pub(crate) fn multiply_deep(
    left: Matrix<'_>,
    right: Matrix<'_>,
    target: Target<'_>,
    panels: &mut Panels,
    room: &mut Buffer,
) {
    let Target { values, row_step } = target;
    let left = left.transposed();
    // Once at least: the sum of no products is zero.
    for first in (0..right.rows.max(1)).step_by(CHUNK) {
        let start = if first == 0 { Start::Zero } else { Start::Target };
        pack(right.rows_from(first, CHUNK), panels, room);
        let pairs = pair(left.rows_from(first, CHUNK).transposed(), room);
        matmul::multiply(pairs, panels.filled(), start, Target::new(values, row_step));
    }
}

/// Copies a right factor into panels, in pairs.
fn pack(right: Matrix<'_>, panels: &mut Panels, room: &mut Buffer) {
    for (first, panel) in panels.panels_mut(right.rows.div_ceil(2), right.columns) {
        pack_panel(right.columns_from(first, WIDTH), panel, room);
    }
}

/// Copies at most [`WIDTH`] columns into one panel, in pairs.
pub(crate) fn pack_panel(columns: Matrix<'_>, panel: &mut [[u32; WIDTH]], room: &mut Buffer) {
    copy(pair(columns.transposed(), room).transposed(), panel);
}

/// The pairs of neighbours in each row, the last with a zero where there is none.
fn pair<'a>(matrix: Matrix<'_>, room: &'a mut Buffer) -> Matrix<'a, u32> {
    let Matrix { rows, columns, column_step, .. } = matrix;
    let depth = columns.div_ceil(2);
    let pairs = bytemuck::cast_slice_mut(room.room(rows * depth));
    if column_step == 1 {
        pair_along(matrix, pairs);
        return Matrix::part(pairs, rows, depth, depth);
    }
    pair_across(matrix.transposed(), pairs);
    Matrix::part(pairs, depth, rows, rows).transposed()
}

#[with_simd(pair_along = arch())]
#[inline(always)]
fn pair_along_simd<'a, S: Simd>(_simd: S, matrix: Matrix<'a>, pairs: &'a mut [u32]) {
    let depth = matrix.columns.div_ceil(2).max(1);
    for (row, pairs) in matrix.each_row().zip(pairs.chunks_exact_mut(depth)) {
        let (twos, rest) = row.as_chunks();
        for (pair, &[first, second]) in pairs.iter_mut().zip(twos) {
            *pair = pair_of(first, second);
        }
        if let ([last], Some(pair)) = (rest, pairs.last_mut()) {
            *pair = pair_of(*last, 0.0);
        }
    }
}

#[with_simd(pair_across = arch())]
#[inline(always)]
fn pair_across_simd<'a, S: Simd>(_simd: S, matrix: Matrix<'a>, pairs: &'a mut [u32]) {
    let mut rows = matrix.each_row();
    for pairs in pairs.chunks_exact_mut(matrix.columns.max(1)) {
        match (rows.next(), rows.next()) {
            (Some(first), Some(second)) => {
                for ((pair, &first), &second) in pairs.iter_mut().zip(first).zip(second) {
                    *pair = pair_of(first, second);
                }
            }
            (first, _) => {
                for (pair, &first) in pairs.iter_mut().zip(first.unwrap_or_default()) {
                    *pair = pair_of(first, 0.0);
                }
            }
        }
    }
}

#[inline(always)]
fn pair_of(first: f32, second: f32) -> u32 {
    u32::from(bf16::from_f32(first).to_bits()) | u32::from(bf16::from_f32(second).to_bits()) << 16
}

impl Factor for u32 {
    type Vector<S: Simd> = S::u32s;

    #[inline(always)]
    fn vectors<S: Simd>(values: &[Self]) -> &[Self::Vector<S>] {
        S::as_simd_u32s(values).0
    }

    #[inline(always)]
    fn splat<S: Simd>(self, simd: S) -> Self::Vector<S> {
        simd.splat_u32s(self)
    }

    /// With the processor's own instructions where it has them.
    fn dispatch(product: Product<'_, Self>) {
        match native::PairProducts::try_new() {
            Some(native) => native.run(product),
            None => arch().dispatch(product),
        }
    }
}

/// For processors without instructions for pairs: each half of 32 bits is an f32 when zeros follow it.
#[derive(Clone, Copy, Debug)]
struct Halves;

impl<S: Simd> MultiplyAdd<S, u32> for Halves {
    #[inline(always)]
    fn multiply_add(self, simd: S, left: S::u32s, right: S::u32s, sum: S::f32s) -> S::f32s {
        let sixteen = simd.splat_u32s(16);
        let lower = |pairs| simd.transmute_f32s_u32s(simd.wrapping_dyn_shl_u32s(pairs, sixteen));
        let upper = |pairs| simd.transmute_f32s_u32s(simd.and_u32s(pairs, simd.splat_u32s(0xffff_0000)));
        simd.mul_add_e_f32s(upper(left), upper(right), simd.mul_add_e_f32s(lower(left), lower(right), sum))
    }
}

impl WithSimd for Product<'_, u32> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        self.tiles(simd, Halves);
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    fn numbers(rng: &mut StdRng, count: usize) -> Vec<f32> {
        (0..count).map(|_| rng.random_range(-1.0..1.0)).collect()
    }

    fn rounded(value: f32) -> f64 {
        f64::from(bf16::from_f32(value).to_f32())
    }

    /// Against sums in f64 of products of rounded numbers, by each way in which factors lie and come in chunks.
    #[test]
    fn multiplies_rounded_numbers() {
        let mut rng = StdRng::seed_from_u64(0);
        let (mut panels, mut room) = (Panels::default(), Buffer::default());
        for round in 0..60 {
            let many = |rng: &mut StdRng, long: bool| rng.random_range(if long { 250..530 } else { 0..40 });
            let (rows, depth) = (many(&mut rng, round % 10 == 0), many(&mut rng, round % 10 == 1));
            let columns = rng.random_range(1..70);
            let (x, w) = (numbers(&mut rng, rows * depth), numbers(&mut rng, columns * depth));
            let (bias, mut y) = (numbers(&mut rng, columns), vec![f32::NAN; rows * columns]);
            let close =
                |value: f32, expected: f64| assert!((f64::from(value) - expected).abs() < 1e-4, "round {round}");

            pack(Matrix::part(&w, columns, depth, depth).transposed(), &mut panels, &mut room);
            let left = Matrix::part(&x, rows, depth, depth);
            multiply(left, panels.filled(), Start::Bias(&bias), Target::new(&mut y, columns), &mut room);
            for (at, &value) in y.iter().enumerate() {
                let (row, column) = (at / columns, at % columns);
                let products = (0..depth).map(|k| rounded(x[row * depth + k]) * rounded(w[column * depth + k]));
                close(value, f64::from(bias[column]) + products.sum::<f64>());
            }

            let y = numbers(&mut rng, rows * columns);
            let mut product = vec![f32::NAN; depth * columns];
            let (left, right) = (left.transposed(), Matrix::part(&y, rows, columns, columns));
            multiply_deep(left, right, Target::new(&mut product, columns), &mut panels, &mut room);
            for (at, &value) in product.iter().enumerate() {
                let (row, column) = (at / columns, at % columns);
                let products = (0..rows).map(|k| rounded(x[k * depth + row]) * rounded(y[k * columns + column]));
                close(value, products.sum());
            }
        }
    }

    /// The processor's instructions and those of every machine, at every height of a tile.
    #[test]
    fn every_path_comes_to_the_same() {
        let mut rng = StdRng::seed_from_u64(1);
        let (mut panels, mut room) = (Panels::default(), Buffer::default());
        for rows in 1..20 {
            let (depth, columns) = (rng.random_range(1..90), rng.random_range(1..90));
            let (x, w) = (numbers(&mut rng, rows * depth), numbers(&mut rng, columns * depth));
            pack(Matrix::new(&w, columns), &mut panels, &mut room);
            let left = pair(Matrix::new(&x, depth), &mut room);
            let paths: [fn(Product<'_, u32>); 4] = [
                Factor::dispatch,
                |product| arch().dispatch(product),
                |product| pulp::Scalar128b.vectorize(product),
                |product| pulp::Scalar.vectorize(product),
            ];
            let products = paths.map(|path| {
                let mut y = vec![0.0; rows * columns];
                path(Product {
                    left,
                    right: panels.filled(),
                    start: Start::Zero,
                    target: Target::new(&mut y, columns),
                });
                y
            });
            for product in &products {
                for (value, expected) in product.iter().zip(&products[0]) {
                    assert!((value - expected).abs() < 1e-5, "{rows} x {depth} x {columns}");
                }
            }
        }
    }

    #[test]
    fn rounds_to_the_nearest_and_keeps_what_is_not_a_number() {
        let row = [1.0 + 1.0 / 512.0, -2.0, f32::NAN, f32::INFINITY, 3.4e38];
        let (mut room, mut numbers) = (Buffer::default(), Vec::new());
        for pair in pair(Matrix::new(&row, 5), &mut room).values {
            numbers.extend([pair << 16, pair & 0xffff_0000].map(f32::from_bits));
        }
        assert_eq!(numbers[..2], [1.0, -2.0]);
        assert!(numbers[2].is_nan());
        assert_eq!(numbers[3..], [f32::INFINITY, f32::INFINITY, 0.0]);
    }
}
