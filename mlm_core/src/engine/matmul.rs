//! Takes two matrices, gives their product: the one operation in which a Transformer spends its time. What is multiplied
//! with what is left to the files of the operations.
//!
//! A tile of the result, some rows and two vectors of columns, stays in the vector registers from the first product to the
//! last, and each number that comes from memory is used for a whole row or column of the tile. For that the tile's columns
//! of the right factor must be vectors that lie close together: where they are not, they are first copied into panels of
//! [`WIDTH`] columns (Goto and van de Geijn 2008, "Anatomy of High-Performance Matrix Multiplication").

use std::array;

use pulp::{Arch, Simd, WithSimd};

use crate::engine::buffer::Buffer;

/// Columns of a panel: the 2 vectors of AVX-512 that a tile is wide, or twice the 2 of AVX2.
const WIDTH: usize = 32;

/// How many products are summed up before the sums go back to memory, so that a panel fits into the nearest cache.
const DEPTH: usize = 256;

/// A view of numbers that lie somewhere in a slice as a matrix, row by row or, transposed, column by column.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Matrix<'a> {
    values: &'a [f32],
    rows: usize,
    columns: usize,
    /// From a number to the one of the next row.
    row_step: usize,
    /// From a number to the one of the next column; this or `row_step` is 1.
    column_step: usize,
}

impl<'a> Matrix<'a> {
    /// All of a slice, in rows of `columns` numbers.
    pub(crate) fn new(values: &'a [f32], columns: usize) -> Self {
        Self::part(values, values.len() / columns, columns, columns)
    }

    /// `rows` rows of `columns` numbers, each `row_step` after the one before.
    pub(crate) fn part(values: &'a [f32], rows: usize, columns: usize, row_step: usize) -> Self {
        Self { values, rows, columns, row_step, column_step: 1 }
    }

    pub(crate) fn columns(self) -> usize {
        self.columns
    }

    /// The rows of a matrix that is not transposed.
    #[inline(always)]
    pub(crate) fn rows(self) -> impl Iterator<Item = &'a [f32]> {
        debug_assert_eq!(self.column_step, 1);
        (0..self.rows).map(move |row| &self.values[row * self.row_step..][..self.columns])
    }

    /// Whether tiles can read it as a right factor as it lies: in whole vectors, and rows not so far apart that they drive
    /// each other out of the nearest cache.
    fn is_fit(self) -> bool {
        const FARTHEST: usize = 256;
        let even = |count: usize| count.is_multiple_of(WIDTH / 2);
        self.column_step == 1 && even(self.columns) && even(self.row_step) && self.row_step <= FARTHEST
    }

    pub(crate) fn transposed(self) -> Self {
        let Self { values, rows, columns, row_step, column_step } = self;
        Self { values, rows: columns, columns: rows, row_step: column_step, column_step: row_step }
    }
}

/// A place for the result: rows as in [`Matrix::part`].
#[derive(Debug)]
pub(crate) struct Target<'a> {
    values: &'a mut [f32],
    row_step: usize,
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

/// A right factor `[depth, columns]`, as tiles read it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Right<'a> {
    values: &'a [f32],
    depth: usize,
    columns: usize,
    /// From a row to the next in one panel.
    row_step: usize,
    /// From a panel of [`WIDTH`] columns to the next.
    panel_step: usize,
}

/// Room for a right factor, copied into panels: one after the other, in each row by row.
#[derive(Clone, Debug, Default)]
pub(crate) struct Panels {
    /// May be longer than what the last factor needed.
    values: Buffer,
    depth: usize,
    columns: usize,
}

impl Panels {
    /// How many numbers the panels of a factor `[depth, columns]` hold.
    pub(crate) fn room(depth: usize, columns: usize) -> usize {
        depth.saturating_mul(columns.div_ceil(WIDTH)).saturating_mul(WIDTH)
    }

    /// Their memory, for its owner to take in time.
    pub(crate) fn buffer(&mut self) -> &mut Buffer {
        &mut self.values
    }

    /// The matrix as a right factor: as it lies where it can be, else copied.
    pub(crate) fn right<'a>(&'a mut self, matrix: Matrix<'a>) -> Right<'a> {
        self.pack(matrix);
        self.packed(matrix)
    }

    /// The matrix that was packed last, if it had to be.
    pub(crate) fn packed<'a>(&'a self, matrix: Matrix<'a>) -> Right<'a> {
        let Matrix { values, rows, columns, row_step, .. } = matrix;
        if matrix.is_fit() {
            return Right { values, depth: rows, columns, row_step, panel_step: WIDTH };
        }
        assert_eq!((self.depth, self.columns), (rows, columns), "another matrix was packed");
        Right { values: &self.values, depth: rows, columns, row_step: WIDTH, panel_step: rows * WIDTH }
    }

    /// Copies a matrix if it has to be; memory is taken only where there is not enough.
    pub(crate) fn pack(&mut self, right: Matrix<'_>) {
        if right.is_fit() {
            return;
        }
        (self.depth, self.columns) = (right.rows, right.columns);
        if self.depth == 0 {
            return;
        }
        let needed = Self::room(self.depth, self.columns);
        if self.values.len() < needed {
            self.values.fit(needed, needed);
        }
        let panels = self.values.as_chunks_mut::<WIDTH>().0.chunks_exact_mut(self.depth);
        for (panel, first) in panels.zip((0..right.columns).step_by(WIDTH)) {
            let width = WIDTH.min(right.columns - first);
            if right.column_step == 1 {
                for (k, row) in panel.iter_mut().enumerate() {
                    row[..width].copy_from_slice(&right.values[k * right.row_step + first..][..width]);
                }
            } else {
                let column = |nth: usize| &right.values[(first + nth) * right.column_step..][..right.rows];
                // Several columns at a time, so that their numbers are written together.
                const TOGETHER: usize = 4;
                let together = width - width % TOGETHER;
                for nth in (0..together).step_by(TOGETHER) {
                    let columns: [_; TOGETHER] = array::from_fn(|next| column(nth + next));
                    for (k, row) in panel.iter_mut().enumerate() {
                        row[nth..nth + TOGETHER].copy_from_slice(&columns.map(|column| column[k]));
                    }
                }
                for nth in together..width {
                    for (row, &value) in panel.iter_mut().zip(column(nth)) {
                        row[nth] = value;
                    }
                }
            }
        }
    }
}

/// `target = start + left right`, `[rows, depth]` times `[depth, columns]`.
///
/// # Panics
/// When the shapes do not fit each other, or the slices are too short for them.
pub(crate) fn multiply(left: Matrix<'_>, right: Right<'_>, start: Start<'_>, target: Target<'_>) {
    assert_eq!(left.columns, right.depth, "columns of the left factor, rows of the right one");
    if left.rows > 0 && right.columns > 0 {
        Arch::new().dispatch(Product { left, right, start, target });
    }
}

struct Product<'a> {
    left: Matrix<'a>,
    right: Right<'a>,
    start: Start<'a>,
    target: Target<'a>,
}

impl WithSimd for Product<'_> {
    type Output = ();

    /// Goes through the tiles: up to 8 rows and two vectors wide, which is 16 of the 32 registers that there are with
    /// AVX-512 or NEON; 6 rows, 12 of 16 registers, with AVX2.
    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
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
                let panel = S::as_simd_f32s(values.get(start..).unwrap_or_default()).0;
                for block in 0..blocks {
                    let (top, bottom) = (block * rows / blocks, (block + 1) * rows / blocks);
                    let tile = Tile { top, first, from, to };
                    if columns - first <= S::F32_LANES {
                        self.tile_of_height::<S, 1>(simd, panel, tile, bottom - top);
                    } else {
                        self.tile_of_height::<S, 2>(simd, panel, tile, bottom - top);
                    }
                }
            }
            from = to;
            if from == depth {
                break;
            }
        }
    }
}

impl Product<'_> {
    #[inline(always)]
    fn tile_of_height<S: Simd, const VECTORS: usize>(&mut self, simd: S, panel: &[S::f32s], tile: Tile, height: usize) {
        match height {
            1 => self.tile::<S, VECTORS, 1>(simd, panel, tile),
            2 => self.tile::<S, VECTORS, 2>(simd, panel, tile),
            3 => self.tile::<S, VECTORS, 3>(simd, panel, tile),
            4 => self.tile::<S, VECTORS, 4>(simd, panel, tile),
            5 => self.tile::<S, VECTORS, 5>(simd, panel, tile),
            6 => self.tile::<S, VECTORS, 6>(simd, panel, tile),
            7 => self.tile::<S, VECTORS, 7>(simd, panel, tile),
            _ => self.tile::<S, VECTORS, 8>(simd, panel, tile),
        }
    }

    /// The sums of one tile, from the first product to the last in registers. `panel` begins with the tile's columns.
    #[inline(always)]
    fn tile<S: Simd, const VECTORS: usize, const ROWS: usize>(&mut self, simd: S, panel: &[S::f32s], tile: Tile) {
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
            let rows: [&[f32]; ROWS] = array::from_fn(|row| &left.values[(top + row) * left.row_step..][from..to]);
            let columns = (0..to - from).map(|k| move |row: usize| rows[row][k]);
            add_products(simd, sums, columns.zip(panel))
        } else {
            let columns = left.values[from * left.column_step..].chunks(left.column_step).map(|column| {
                let column: &[f32; ROWS] = column[top..].first_chunk().expect("as many rows as the tile has");
                move |row: usize| column[row]
            });
            add_products(simd, sums, columns.zip(panel))
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
fn add_products<'a, S: Simd, const VECTORS: usize, const ROWS: usize>(
    simd: S,
    mut sums: [[S::f32s; VECTORS]; ROWS],
    pairs: impl Iterator<Item = (impl Fn(usize) -> f32, &'a [S::f32s; VECTORS])>,
) -> [[S::f32s; VECTORS]; ROWS] {
    for (column, right) in pairs {
        for row in 0..ROWS {
            let left = simd.splat_f32s(column(row));
            for vector in 0..VECTORS {
                sums[row][vector] = simd.mul_add_e_f32s(left, right[vector], sums[row][vector]);
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

    /// The widest vectors of the machine, narrower ones, and none.
    fn paths() -> Vec<fn(Product<'_>)> {
        let mut paths: Vec<fn(Product<'_>)> =
            vec![|product| Arch::new().dispatch(product), |product| pulp::Scalar128b.vectorize(product), |product| {
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
