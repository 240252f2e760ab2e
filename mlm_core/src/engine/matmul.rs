//! Takes two matrices, gives their product: the one operation in which a Transformer spends its time. What is multiplied
//! with what is left to the files of the operations.
//!
//! A tile of the result, some rows and two vectors of columns, stays in the vector registers from the first product to the
//! last, and each number that comes from memory is used for a whole row or column of the tile. For that the tile's columns
//! of the right factor must be vectors that lie close together: where they are not, they are first copied into panels of
//! [`WIDTH`] columns (Goto and van de Geijn 2008, "Anatomy of High-Performance Matrix Multiplication"). Columns of the left
//! factor are copied, too, where they lie far apart.

use std::array;
use std::cell::Cell;

use pulp::bytemuck::{self, Pod};
use pulp::{Simd, WithSimd};

use crate::engine::factors::{FARTHEST, Matrix, Right, WIDTH, copy};
use crate::vectors::arch;

/// How many products are summed up before the sums go back to memory, so that a panel fits into the nearest cache.
const DEPTH: usize = 256;

/// How many rows are multiplied before those after them, so that `DEPTH` numbers of each stay in the second nearest cache;
/// a multiple of the height of a tile.
const ROWS: usize = 96;

/// How many products a tile takes in one go: the places of the numbers are worked out once for all of them.
const TOGETHER: usize = 4;

/// The most rows that a tile has.
const HIGHEST: usize = 8;

thread_local! {
    /// Room for `ROWS` rows of a left factor: tile by tile, in each column by column.
    static COLUMNS: Cell<Vec<[f32; HIGHEST]>> = const { Cell::new(Vec::new()) };
}

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
        let highest = if S::REGISTER_COUNT < 32 { 6 } else { HIGHEST };
        let (left, right) = (self.left, self.right);
        let (rows, columns, depth) = (left.rows, right.columns, left.columns);
        let copies = left.column_step > FARTHEST && columns > WIDTH;
        let mut room = Vec::new();
        if copies {
            room = COLUMNS.take();
            room.resize(ROWS / highest * DEPTH, [0.0; HIGHEST]);
        }
        let parts = rows.div_ceil(ROWS);
        let mut from = 0;
        loop {
            let rest = depth - from;
            let to = if rest < TOGETHER { depth } else { from + DEPTH.min(rest - rest % TOGETHER) };
            let left = left.columns_from(from, to - from);
            for part in 0..parts {
                let part = part * rows / parts..(part + 1) * rows / parts;
                // Tiles of nearly the same height: 17 rows are 6 + 6 + 5, not 8 + 8 + 1.
                let count = part.len().div_ceil(highest);
                let blocks = (0..count).map(|nth| {
                    let top = |nth: usize| part.start + nth * part.len() / count;
                    top(nth)..top(nth + 1)
                });
                if copies {
                    for (block, room) in blocks.clone().zip(room.chunks_exact_mut(DEPTH)) {
                        // As many rows as there is room for: that is faster, and nobody looks at those after the block.
                        let rows = left.rows_from(block.start, HIGHEST);
                        copy::<T, HIGHEST>(rows.transposed(), bytemuck::cast_slice_mut(room));
                    }
                }
                for first in (0..columns).step_by(2 * S::F32_LANES) {
                    // From the tile's first column on; nothing when there is nothing to multiply.
                    let start = first / WIDTH * right.panel_step + first % WIDTH + from * right.row_step;
                    let panel = T::vectors::<S>(right.values.get(start..).unwrap_or_default());
                    for (nth, block) in blocks.clone().enumerate() {
                        let left = if copies {
                            let columns = bytemuck::cast_slice(&room[nth * DEPTH..]);
                            Matrix::part(columns, to - from, block.len(), HIGHEST).transposed()
                        } else {
                            left.rows_from(block.start, block.len())
                        };
                        let tile = Tile { left, panel, top: block.start, first, from };
                        match (columns - first <= S::F32_LANES, to - from < TOGETHER) {
                            (false, false) => self.tile_of_height::<S, K, 2, TOGETHER>(simd, kernel, tile),
                            (true, false) => self.tile_of_height::<S, K, 1, TOGETHER>(simd, kernel, tile),
                            (false, true) => self.tile_of_height::<S, K, 2, 1>(simd, kernel, tile),
                            (true, true) => self.tile_of_height::<S, K, 1, 1>(simd, kernel, tile),
                        }
                    }
                }
            }
            from = to;
            if from == depth {
                break;
            }
        }
        if copies {
            COLUMNS.set(room);
        }
    }

    #[inline(always)]
    fn tile_of_height<S: Simd, K: MultiplyAdd<S, T>, const VECTORS: usize, const TOGETHER: usize>(
        &mut self,
        simd: S,
        kernel: K,
        tile: Tile<'_, S, T>,
    ) {
        match tile.left.rows {
            1 => self.tile::<S, K, VECTORS, TOGETHER, 1>(simd, kernel, tile),
            2 => self.tile::<S, K, VECTORS, TOGETHER, 2>(simd, kernel, tile),
            3 => self.tile::<S, K, VECTORS, TOGETHER, 3>(simd, kernel, tile),
            4 => self.tile::<S, K, VECTORS, TOGETHER, 4>(simd, kernel, tile),
            5 => self.tile::<S, K, VECTORS, TOGETHER, 5>(simd, kernel, tile),
            6 => self.tile::<S, K, VECTORS, TOGETHER, 6>(simd, kernel, tile),
            7 => self.tile::<S, K, VECTORS, TOGETHER, 7>(simd, kernel, tile),
            _ => self.tile::<S, K, VECTORS, TOGETHER, HIGHEST>(simd, kernel, tile),
        }
    }

    /// The sums of one tile, from the first product to the last in registers.
    #[inline(always)]
    fn tile<S: Simd, K: MultiplyAdd<S, T>, const VECTORS: usize, const TOGETHER: usize, const HEIGHT: usize>(
        &mut self,
        simd: S,
        kernel: K,
        tile: Tile<'_, S, T>,
    ) {
        let Tile { left, panel, top, first, from } = tile;
        let Self { right, start, target, .. } = self;
        let width = (VECTORS * S::F32_LANES).min(right.columns - first);
        let mut sums = [[simd.splat_f32s(0.0); VECTORS]; HEIGHT];
        match start {
            Start::Bias(bias) if from == 0 => sums = [load(simd, &bias[first..][..width]); HEIGHT],
            Start::Zero if from == 0 => {}
            _ => {
                for (row, sums) in sums.iter_mut().enumerate() {
                    *sums = load(simd, &target.values[(top + row) * target.row_step + first..][..width]);
                }
            }
        }
        let panel_step = right.row_step / S::F32_LANES;
        let sums = if left.column_step == 1 {
            let rows: [&[[T; TOGETHER]]; HEIGHT] =
                array::from_fn(|row| left.values[row * left.row_step..][..left.columns].as_chunks().0);
            let columns = (0..left.columns / TOGETHER).map(|k| {
                let rows: [&[T; TOGETHER]; HEIGHT] = array::from_fn(|row| &rows[row][k]);
                move |row: usize, next: usize| rows[row][next]
            });
            add_products::<S, T, K, VECTORS, TOGETHER, HEIGHT>(simd, kernel, sums, columns, panel, panel_step)
        } else {
            let step = left.column_step;
            let columns = left.values.chunks(step * TOGETHER).take(left.columns / TOGETHER).map(|columns| {
                move |row: usize, next: usize| {
                    let column: &[T; HEIGHT] = columns[next * step..].first_chunk().expect("the tile's rows");
                    column[row]
                }
            });
            add_products::<S, T, K, VECTORS, TOGETHER, HEIGHT>(simd, kernel, sums, columns, panel, panel_step)
        };
        for (row, sums) in sums.iter().enumerate() {
            store(simd, sums, &mut target.values[(top + row) * target.row_step + first..][..width]);
        }
    }
}

/// Which part of the product.
#[derive(Clone, Copy)]
struct Tile<'a, S: Simd, T: Factor> {
    /// The tile's rows of the left factor, and as many columns as there are products to add.
    left: Matrix<'a, T>,
    /// Begins with the tile's columns of the right factor.
    panel: &'a [T::Vector<S>],
    /// The tile's first row and column.
    top: usize,
    first: usize,
    /// How many products have been added before.
    from: usize,
}

/// Adds the products of columns of the left factor and rows of the right one: of `TOGETHER` columns at a time, as a
/// function from row and column to number, and rows that lie `step` vectors after each other.
///
/// How it is written matters: with sums behind a reference, columns as arrays, or a second loop for the columns that are
/// left over, the compiler keeps both in memory, and is down to two thirds of the speed or a fifth.
#[inline(always)]
#[allow(clippy::needless_range_loop)]
fn add_products<
    S: Simd,
    T: Factor,
    K: MultiplyAdd<S, T>,
    const VECTORS: usize,
    const TOGETHER: usize,
    const HEIGHT: usize,
>(
    simd: S,
    kernel: K,
    mut sums: [[S::f32s; VECTORS]; HEIGHT],
    columns: impl Iterator<Item = impl Fn(usize, usize) -> T>,
    panel: &[T::Vector<S>],
    step: usize,
) -> [[S::f32s; VECTORS]; HEIGHT] {
    for (column, rights) in columns.zip(panel.chunks(step * TOGETHER)) {
        for next in 0..TOGETHER {
            let right: &[_; VECTORS] = rights[next * step..].first_chunk().expect("the tile's columns");
            for row in 0..HEIGHT {
                let left = column(row, next).splat(simd);
                for vector in 0..VECTORS {
                    sums[row][vector] = kernel.multiply_add(simd, left, right[vector], sums[row][vector]);
                }
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
    const PATHS: &[fn(Product<'_>)] = &[
        |product| arch().dispatch(product),
        #[cfg(target_arch = "x86_64")]
        |product| match pulp::x86::V3::try_new() {
            Some(narrower) => Simd::vectorize(narrower, product),
            None => arch().dispatch(product),
        },
        |product| pulp::Scalar128b.vectorize(product),
        |product| pulp::Scalar.vectorize(product),
    ];

    /// Every height of a tile, panels that are not full, more rows and products than are taken at once, each way to lie in
    /// memory.
    #[test]
    fn equals_the_sum_of_products_on_every_path() {
        let mut rng = StdRng::seed_from_u64(0);
        let mut panels = Panels::default();
        for round in 0..300 {
            let rows = if round % 9 == 0 { rng.random_range(90..250) } else { rng.random_range(1..40) };
            // A row's length where the left factor lies transposed: near, or so far that its columns are copied.
            let step = if round % 4 == 1 { rows + FARTHEST } else { rows };
            let columns = rng.random_range(1..100);
            let depth = if round % 15 == 0 { rng.random_range(250..600) } else { rng.random_range(0..40) };
            let mut numbers = |count: usize| -> Vec<f32> { (0..count).map(|_| rng.random_range(-1.0..1.0)).collect() };
            let (left, right) = (numbers(step * depth), numbers(depth * columns));
            let (bias, before) = (numbers(columns), numbers(rows * (columns + 3)));
            let (left_at, left): (Box<dyn Fn(usize, usize) -> f32>, _) = if round % 2 == 0 {
                (Box::new(|i, k| left[i * depth + k]), Matrix::part(&left, rows, depth, depth))
            } else {
                (Box::new(|i, k| left[k * step + i]), Matrix::part(&left, depth, rows, step).transposed())
            };
            let (right_at, right): (Box<dyn Fn(usize, usize) -> f32>, _) = if round % 3 == 0 {
                (Box::new(|k, j| right[k * columns + j]), Matrix::part(&right, depth, columns, columns))
            } else {
                (Box::new(|k, j| right[j * depth + k]), Matrix::part(&right, columns, depth, depth).transposed())
            };
            let start = [Start::Zero, Start::Target, Start::Bias(&bias)][round % 5 % 3];
            let right = panels.right(right);
            let products = PATHS.iter().map(|path| {
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
