//! Takes two matrices, gives their product: the one operation in which a Transformer spends its time. What is multiplied
//! with what is left to the files of the operations.
//!
//! A tile of the result, some rows and two vectors of columns, stays in the vector registers from the first product to the
//! last, and each number that comes from memory is used for a whole row or column of the tile. For that the tile's columns
//! of the right factor must be vectors that lie close together: where they are not, they are first copied into panels of
//! [`WIDTH`] columns (Goto and van de Geijn 2008, "Anatomy of High-Performance Matrix Multiplication").

use std::array;

use pulp::bytemuck::Pod;
use pulp::{Simd, WithSimd};

use crate::engine::factors::{Matrix, Right, WIDTH};
use crate::vectors::arch;

/// How many products are summed up before the sums go back to memory, so that a panel fits into the nearest cache.
const DEPTH: usize = 256;

/// A place for the result: rows as in [`Matrix::part`].
#[derive(Debug)]
pub(crate) struct Target<'a> {
    pub(crate) values: &'a mut [f32],
    pub(crate) row_step: usize,
}

impl<'a> Target<'a> {
    /// Rows that start `row_step` after each other.
    pub(crate) fn new(values: &'a mut [f32], row_step: usize) -> Self {
        Self { values, row_step }
    }
}

/// What the products are added to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Start<'a> {
    /// Nothing.
    Zero,
    /// What the target holds.
    Target,
    /// The same row in every row `[columns]`.
    Bias(&'a [f32]),
}

/// What the factors hold: numbers or pairs of them.
pub(crate) trait Factor: Pod {
    type Vector<S: Simd>: Copy;

    fn vectors<S: Simd>(values: &[Self]) -> &[Self::Vector<S>];

    fn splat<S: Simd>(self, simd: S) -> Self::Vector<S>;

    /// Computes it with the best instructions that the processor has.
    fn dispatch(product: Product<'_, Self>);
}

/// How `left right` is added to `sum`.
pub(crate) trait MultiplyAdd<S: Simd, T: Factor>: Copy {
    fn multiply_add(self, simd: S, left: T::Vector<S>, right: T::Vector<S>, sum: S::f32s) -> S::f32s;
}

impl Factor for f32 {
    type Vector<S: Simd> = S::f32s;

    #[inline(always)]
    fn vectors<S: Simd>(values: &[Self]) -> &[Self::Vector<S>] {
        S::as_simd_f32s(values).0
    }

    #[inline(always)]
    fn splat<S: Simd>(self, simd: S) -> Self::Vector<S> {
        simd.splat_f32s(self)
    }

    fn dispatch(product: Product<'_, Self>) {
        arch().dispatch(product);
    }
}

/// In f32.
#[derive(Clone, Copy, Debug)]
struct Numbers;

impl<S: Simd> MultiplyAdd<S, f32> for Numbers {
    #[inline(always)]
    fn multiply_add(self, simd: S, left: S::f32s, right: S::f32s, sum: S::f32s) -> S::f32s {
        simd.mul_add_e_f32s(left, right, sum)
    }
}

/// `target = start + left right`, `[rows, depth]` times `[depth, columns]`.
///
/// # Panics
/// When the shapes do not fit each other, or the slices are too short for them.
pub(crate) fn multiply<T: Factor>(left: Matrix<'_, T>, right: Right<'_, T>, start: Start<'_>, target: Target<'_>) {
    assert_eq!(left.columns, right.depth, "columns of the left factor, rows of the right one");
    if left.rows > 0 && right.columns > 0 {
        T::dispatch(Product { left, right, start, target });
    }
}

pub(crate) struct Product<'a, T = f32> {
    pub(crate) left: Matrix<'a, T>,
    pub(crate) right: Right<'a, T>,
    pub(crate) start: Start<'a>,
    pub(crate) target: Target<'a>,
}

impl WithSimd for Product<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        self.tiles(simd, Numbers);
    }
}

impl<T: Factor> Product<'_, T> {
    /// Goes through the tiles: up to 8 rows and two vectors wide, which is 16 of the 32 registers that there are with
    /// AVX-512 or NEON; 6 rows, 12 of 16 registers, with AVX2.
    #[inline(always)]
    pub(crate) fn tiles<S: Simd, K: MultiplyAdd<S, T>>(mut self, simd: S, kernel: K) {
        let most = if S::REGISTER_COUNT < 32 { 6 } else { 8 };
        let (rows, columns, depth) = (self.left.rows, self.right.columns, self.left.columns);
        // Tiles of nearly the same height: 17 rows are 6 + 6 + 5, not 8 + 8 + 1.
        let blocks = rows.div_ceil(most);
        let mut from = 0;
        loop {
            let to = depth.min(from + DEPTH);
            for first in (0..columns).step_by(2 * S::F32_LANES) {
                let Right { values, row_step, panel_step, .. } = self.right;
                // From the tile's first column on; nothing when there is nothing to multiply.
                let start = first / WIDTH * panel_step + first % WIDTH + from * row_step;
                let panel = T::vectors::<S>(values.get(start..).unwrap_or_default());
                for block in 0..blocks {
                    let (top, bottom) = (block * rows / blocks, (block + 1) * rows / blocks);
                    let tile = Tile { top, first, from, to };
                    if columns - first <= S::F32_LANES {
                        self.tile_of_height::<S, K, 1>(simd, kernel, panel, tile, bottom - top);
                    } else {
                        self.tile_of_height::<S, K, 2>(simd, kernel, panel, tile, bottom - top);
                    }
                }
            }
            from = to;
            if from == depth {
                break;
            }
        }
    }

    #[inline(always)]
    fn tile_of_height<S: Simd, K: MultiplyAdd<S, T>, const VECTORS: usize>(
        &mut self,
        simd: S,
        kernel: K,
        panel: &[T::Vector<S>],
        tile: Tile,
        height: usize,
    ) {
        match height {
            1 => self.tile::<S, K, VECTORS, 1>(simd, kernel, panel, tile),
            2 => self.tile::<S, K, VECTORS, 2>(simd, kernel, panel, tile),
            3 => self.tile::<S, K, VECTORS, 3>(simd, kernel, panel, tile),
            4 => self.tile::<S, K, VECTORS, 4>(simd, kernel, panel, tile),
            5 => self.tile::<S, K, VECTORS, 5>(simd, kernel, panel, tile),
            6 => self.tile::<S, K, VECTORS, 6>(simd, kernel, panel, tile),
            7 => self.tile::<S, K, VECTORS, 7>(simd, kernel, panel, tile),
            _ => self.tile::<S, K, VECTORS, 8>(simd, kernel, panel, tile),
        }
    }

    /// The sums of one tile, from the first product to the last in registers. `panel` begins with the tile's columns.
    #[inline(always)]
    fn tile<S: Simd, K: MultiplyAdd<S, T>, const VECTORS: usize, const ROWS: usize>(
        &mut self,
        simd: S,
        kernel: K,
        panel: &[T::Vector<S>],
        tile: Tile,
    ) {
        let Tile { top, first, from, to } = tile;
        let Self { left, right, start, target } = self;
        let width = (VECTORS * S::F32_LANES).min(right.columns - first);
        let mut sums = [[simd.splat_f32s(0.0); VECTORS]; ROWS];
        match start {
            Start::Bias(bias) if from == 0 => sums = [load(simd, &bias[first..][..width]); ROWS],
            Start::Zero if from == 0 => {}
            _ => {
                for (row, sums) in sums.iter_mut().enumerate() {
                    *sums = load(simd, &target.values[(top + row) * target.row_step + first..][..width]);
                }
            }
        }
        let panel = panel.chunks(right.row_step / S::F32_LANES).take(to - from);
        let panel = panel.map(|row| row.first_chunk::<VECTORS>().expect("as many vectors as the tile has"));
        let sums = if left.column_step == 1 {
            let rows: [&[T]; ROWS] = array::from_fn(|row| &left.values[(top + row) * left.row_step..][from..to]);
            let columns = (0..to - from).map(|k| move |row: usize| rows[row][k]);
            add_products::<S, T, K, VECTORS, ROWS>(simd, kernel, sums, columns.zip(panel))
        } else {
            let columns = left.values[from * left.column_step..].chunks(left.column_step).map(|column| {
                let column: &[T; ROWS] = column[top..].first_chunk().expect("as many rows as the tile has");
                move |row: usize| column[row]
            });
            add_products::<S, T, K, VECTORS, ROWS>(simd, kernel, sums, columns.zip(panel))
        };
        for (row, sums) in sums.iter().enumerate() {
            store(simd, sums, &mut target.values[(top + row) * target.row_step + first..][..width]);
        }
    }
}

/// Which part of the product: rows from `top`, columns from `first`, the products `from..to`.
#[derive(Clone, Copy)]
struct Tile {
    top: usize,
    first: usize,
    from: usize,
    to: usize,
}

/// Adds the products of columns of the left factor, each a function from row to number, and rows of the right one.
///
/// How it is written matters: with sums behind a reference, or columns as arrays, the compiler builds both in memory, and
/// is down to a half or a fifth of the speed.
#[inline(always)]
#[allow(clippy::needless_range_loop)]
fn add_products<'a, S: Simd, T: Factor, K: MultiplyAdd<S, T>, const VECTORS: usize, const ROWS: usize>(
    simd: S,
    kernel: K,
    mut sums: [[S::f32s; VECTORS]; ROWS],
    pairs: impl Iterator<Item = (impl Fn(usize) -> T, &'a [T::Vector<S>; VECTORS])>,
) -> [[S::f32s; VECTORS]; ROWS] {
    for (column, right) in pairs {
        for row in 0..ROWS {
            let left = column(row).splat(simd);
            for vector in 0..VECTORS {
                sums[row][vector] = kernel.multiply_add(simd, left, right[vector], sums[row][vector]);
            }
        }
    }
    sums
}

/// The columns of a tile as vectors, filled up with zeros. (By [`crate::engine::vector`], chunk by chunk, products are 2 %
/// slower.)
#[inline(always)]
fn load<S: Simd, const VECTORS: usize>(simd: S, values: &[f32]) -> [S::f32s; VECTORS] {
    let (whole, rest) = S::as_simd_f32s(values);
    array::from_fn(|nth| match whole.get(nth) {
        Some(&vector) => vector,
        None if nth == whole.len() => simd.partial_load_f32s(rest),
        None => simd.splat_f32s(0.0),
    })
}

#[inline(always)]
fn store<S: Simd, const VECTORS: usize>(simd: S, vectors: &[S::f32s; VECTORS], values: &mut [f32]) {
    let (whole, rest) = S::as_mut_simd_f32s(values);
    for (to, &vector) in whole.iter_mut().zip(vectors) {
        *to = vector;
    }
    if let Some(&vector) = vectors.get(whole.len()) {
        simd.partial_store_f32s(rest, vector);
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;
    use crate::engine::factors::Panels;

    /// The widest vectors of the machine, narrower ones, and none.
    fn paths() -> Vec<fn(Product<'_>)> {
        let mut paths: Vec<fn(Product<'_>)> =
            vec![|product| arch().dispatch(product), |product| pulp::Scalar128b.vectorize(product), |product| {
                pulp::Scalar.vectorize(product)
            }];
        #[cfg(target_arch = "x86_64")]
        if pulp::x86::V3::try_new().is_some() {
            paths.push(|product| Simd::vectorize(pulp::x86::V3::try_new().expect("there a line above"), product));
        }
        paths
    }

    /// Every height of a tile, panels that are not full, more products than are summed at once, each way to lie in memory.
    #[test]
    fn equals_the_sum_of_products_on_every_path() {
        let mut rng = StdRng::seed_from_u64(0);
        let mut panels = Panels::default();
        for round in 0..300 {
            let rows = rng.random_range(1..40);
            let columns = rng.random_range(1..100);
            let depth = if round % 20 == 0 { rng.random_range(250..600) } else { rng.random_range(0..40) };
            let mut numbers = |count: usize| -> Vec<f32> { (0..count).map(|_| rng.random_range(-1.0..1.0)).collect() };
            let (left, right) = (numbers(rows * depth), numbers(depth * columns));
            let (bias, before) = (numbers(columns), numbers(rows * (columns + 3)));
            let (left_at, left): (Box<dyn Fn(usize, usize) -> f32>, _) = if round % 2 == 0 {
                (Box::new(|i, k| left[i * depth + k]), Matrix::part(&left, rows, depth, depth))
            } else {
                (Box::new(|i, k| left[k * rows + i]), Matrix::part(&left, depth, rows, rows).transposed())
            };
            let (right_at, right): (Box<dyn Fn(usize, usize) -> f32>, _) = if round % 3 == 0 {
                (Box::new(|k, j| right[k * columns + j]), Matrix::part(&right, depth, columns, columns))
            } else {
                (Box::new(|k, j| right[j * depth + k]), Matrix::part(&right, columns, depth, depth).transposed())
            };
            let start = [Start::Zero, Start::Target, Start::Bias(&bias)][round % 5 % 3];
            let right = panels.right(right);
            let products = paths().into_iter().map(|path| {
                let mut product = before.clone();
                path(Product { left, right, start, target: Target::new(&mut product, columns + 3) });
                product
            });
            let products: Vec<_> = products.collect();
            for i in 0..rows {
                for j in 0..columns + 3 {
                    let at = i * (columns + 3) + j;
                    let expected = if j < columns {
                        let start = match start {
                            Start::Zero => 0.0,
                            Start::Target => before[at],
                            Start::Bias(bias) => bias[j],
                        };
                        (0..depth).map(|k| f64::from(left_at(i, k)) * f64::from(right_at(k, j))).sum::<f64>()
                            + f64::from(start)
                    } else {
                        f64::from(before[at])
                    };
                    for (path, product) in products.iter().enumerate() {
                        let error = (f64::from(product[at]) - expected).abs();
                        assert!(error < 1e-4, "{rows} x {depth} x {columns}, at {i}, {j}, path {path}: {error}");
                    }
                }
            }
        }
    }
}
