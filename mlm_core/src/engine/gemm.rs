//! Products of large matrices, by the library `gemm`, which candle multiplies with, too: it copies both factors into the
//! order in which the processor reads them, in memory that it takes for each product. That pays where each number is used
//! often; [`crate::engine::matmul`] is faster where one side of the product is short.

use gemm::Parallelism;

use crate::engine::factors::Matrix;
use crate::engine::matmul::{Start, Target};

/// The least rows, columns and products of a sum that make a product a large one. With 128 to 256 numbers a token and a
/// thousand tokens, a step takes 9 to 16 % less than by our own product alone; with 192 here, 0 to 17 % less.
const LEAST: usize = 96;

/// Whether `left right` is large enough.
pub(crate) fn pays(left: Matrix<'_>, right: Matrix<'_>) -> bool {
    left.rows.min(left.columns).min(right.columns) >= LEAST
}

/// `target = start + left right`, `[rows, depth]` times `[depth, columns]`.
///
/// # Panics
/// When the shapes do not fit each other, or the slices are too short for them.
#[allow(unsafe_code)]
pub(crate) fn multiply(left: Matrix<'_>, right: Matrix<'_>, start: Start<'_>, target: Target<'_>) {
    let (rows, depth, columns) = (left.rows, left.columns, right.columns);
    assert_eq!(depth, right.rows, "columns of the left factor, rows of the right one");
    let target_rows = Matrix::part(&*target.values, rows, columns, target.row_step);
    assert!(left.is_inside() && right.is_inside() && target_rows.is_inside(), "slices too short for the product");
    if let Start::Bias(bias) = start {
        for row in target.values.chunks_mut(target.row_step).take(rows) {
            row[..columns].copy_from_slice(bias);
        }
    }
    let adds = !matches!(start, Start::Zero);
    let steps = |matrix: &Matrix<'_>| (matrix.column_step as isize, matrix.row_step as isize);
    let ((left_column, left_row), (right_column, right_row)) = (steps(&left), steps(&right));
    // SAFETY: every number of the three matrices lies in its slice, as was asserted, and nobody else sees the target's.
    unsafe {
        gemm::gemm(
            rows,
            columns,
            depth,
            target.values.as_mut_ptr(),
            1,
            target.row_step as isize,
            adds,
            left.values.as_ptr(),
            left_column,
            left_row,
            right.values.as_ptr(),
            right_column,
            right_row,
            if adds { 1.0 } else { 0.0 },
            1.0,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;
    use crate::engine::factors::Panels;
    use crate::engine::matmul;

    /// By each way in which factors lie, with numbers between the rows.
    #[test]
    fn equals_the_other_product() {
        let mut rng = StdRng::seed_from_u64(0);
        let mut panels = Panels::default();
        for round in 0..200 {
            let [rows, depth, columns] = [(); 3].map(|()| rng.random_range(1..if round % 20 == 0 { 200 } else { 30 }));
            let mut numbers = |count: usize| -> Vec<f32> { (0..count).map(|_| rng.random_range(-1.0..1.0)).collect() };
            let matrix = |values, rows, columns, transposed| match transposed {
                false => Matrix::part(values, rows, columns, columns + 3),
                true => Matrix::part(values, columns, rows, rows + 3).transposed(),
            };
            let (left, right) = (numbers((rows + 3) * (depth + 3)), numbers((depth + 3) * (columns + 3)));
            let (left, right) =
                (matrix(&left, rows, depth, round % 2 == 0), matrix(&right, depth, columns, round % 4 < 2));
            let (bias, before) = (numbers(columns), numbers(rows * (columns + 2)));
            let start = [Start::Zero, Start::Target, Start::Bias(&bias)][round % 3];
            let (mut product, mut expected) = (before.clone(), before);
            multiply(left, right, start, Target::new(&mut product, columns + 2));
            matmul::multiply(left, panels.right(right), start, Target::new(&mut expected, columns + 2));
            for (product, expected) in product.iter().zip(&expected) {
                assert!((product - expected).abs() < 1e-4, "{rows} x {depth} x {columns}: {product}, not {expected}");
            }
        }
    }

    #[test]
    #[should_panic(expected = "too short")]
    fn refuses_slices_that_are_too_short() {
        let (factor, mut product) = ([0.0; 4], [0.0; 3]);
        multiply(Matrix::new(&factor, 2), Matrix::new(&factor, 2), Start::Zero, Target::new(&mut product, 2));
    }
}
