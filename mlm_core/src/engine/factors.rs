//! What a product reads: takes numbers that lie somewhere in a slice, shows them as a matrix, and copies it where that is
//! faster to read. A factor's numbers are f32, or pairs of bf16 ([`crate::engine::bf16`]).

use std::array;

use pulp::bytemuck::{self, Pod};

use crate::engine::buffer::Buffer;

/// Columns of a panel: the 2 vectors of AVX-512 that a tile is wide, or twice the 2 of AVX2.
pub(crate) const WIDTH: usize = 32;

/// Rows, or columns, that lie farther apart than so many numbers drive each other out of the nearest cache.
pub(crate) const FARTHEST: usize = 256;

/// A view of numbers that lie somewhere in a slice as a matrix, row by row or, transposed, column by column.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Matrix<'a, T = f32> {
    pub(crate) values: &'a [T],
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    /// From a number to the one of the next row.
    pub(crate) row_step: usize,
    /// From a number to the one of the next column; this or `row_step` is 1.
    pub(crate) column_step: usize,
}

impl<'a, T> Matrix<'a, T> {
    /// All of a slice, in rows of `columns` numbers.
    pub(crate) fn new(values: &'a [T], columns: usize) -> Self {
        Self::part(values, values.len() / columns, columns, columns)
    }

    /// `rows` rows of `columns` numbers, each `row_step` after the one before.
    pub(crate) fn part(values: &'a [T], rows: usize, columns: usize, row_step: usize) -> Self {
        Self { values, rows, columns, row_step, column_step: 1 }
    }

    #[inline(always)]
    pub(crate) fn transposed(self) -> Self {
        let Self { values, rows, columns, row_step, column_step } = self;
        Self { values, rows: columns, columns: rows, row_step: column_step, column_step: row_step }
    }

    /// Its numbers from a row on, at most so many rows of them.
    #[inline(always)]
    pub(crate) fn rows_from(self, first: usize, most: usize) -> Self {
        let rows = most.min(self.rows - first);
        // Rows of no columns may have no place.
        let values = if self.columns == 0 { &[] } else { &self.values[first * self.row_step..] };
        Self { values, rows, ..self }
    }

    /// Its numbers from a column on, at most so many columns of them.
    #[inline(always)]
    pub(crate) fn columns_from(self, first: usize, most: usize) -> Self {
        self.transposed().rows_from(first, most).transposed()
    }

    /// The rows of a matrix that is not transposed.
    #[inline(always)]
    pub(crate) fn each_row(self) -> impl Iterator<Item = &'a [T]> {
        debug_assert_eq!(self.column_step, 1);
        (0..self.rows).map(move |row| &self.values[row * self.row_step..][..self.columns])
    }

    /// Whether all its numbers lie in the slice.
    pub(crate) fn is_inside(&self) -> bool {
        let Self { values, rows, columns, row_step, column_step } = *self;
        // Up to the last one; a matrix without any is inside.
        let last = |count: usize, step: usize| count.checked_sub(1).map(|count| count.saturating_mul(step));
        match (last(rows, row_step), last(columns, column_step)) {
            (Some(row), Some(column)) => row.saturating_add(column) < values.len(),
            _ => true,
        }
    }

    /// Whether tiles can read it as a right factor as it lies: in whole vectors, and rows not too far apart.
    pub(crate) fn is_fit(&self) -> bool {
        let even = |count: usize| count.is_multiple_of(WIDTH / 2);
        self.column_step == 1 && even(self.columns) && even(self.row_step) && self.row_step <= FARTHEST
    }
}

/// A right factor `[depth, columns]`, as tiles read it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Right<'a, T = f32> {
    pub(crate) values: &'a [T],
    pub(crate) depth: usize,
    pub(crate) columns: usize,
    /// From a row to the next in one panel.
    pub(crate) row_step: usize,
    /// From a panel of [`WIDTH`] columns to the next.
    pub(crate) panel_step: usize,
}

/// Room for a right factor, copied into panels: one after the other, in each row by row.
#[derive(Clone, Debug, Default)]
pub(crate) struct Panels {
    /// Numbers or pairs; may be longer than what the last factor needed.
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

    /// Copies a matrix if it has to be; memory is taken only where there is not enough.
    fn pack(&mut self, right: Matrix<'_>) {
        if !right.is_fit() {
            for (first, panel) in self.panels_mut(right.rows, right.columns) {
                copy(right.columns_from(first, WIDTH), panel);
            }
        }
    }

    /// The matrix that was packed last, if it had to be.
    pub(crate) fn packed<'a>(&'a self, matrix: Matrix<'a>) -> Right<'a> {
        let Matrix { values, rows, columns, row_step, .. } = matrix;
        if matrix.is_fit() {
            return Right { values, depth: rows, columns, row_step, panel_step: WIDTH };
        }
        assert_eq!((self.depth, self.columns), (rows, columns), "another matrix was packed");
        self.filled()
    }

    /// What the panels hold.
    pub(crate) fn filled<T: Pod>(&self) -> Right<'_, T> {
        let Self { values, depth, columns } = self;
        let (values, panel_step) = (bytemuck::cast_slice(values), depth * WIDTH);
        Right { values, depth: *depth, columns: *columns, row_step: WIDTH, panel_step }
    }

    /// The panels of a factor `[depth, columns]`, to be filled: of each the first column, and its rows.
    pub(crate) fn panels_mut<T: Pod>(
        &mut self,
        depth: usize,
        columns: usize,
    ) -> impl Iterator<Item = (usize, &mut [[T; WIDTH]])> {
        (self.depth, self.columns) = (depth, columns);
        let room = self.values.room(Self::room(depth, columns));
        let rows = bytemuck::cast_slice_mut::<f32, T>(room).as_chunks_mut().0;
        (0..columns).step_by(WIDTH).zip(rows.chunks_exact_mut(depth.max(1)))
    }
}

/// Copies at most `N` columns, each row into one of a panel.
pub(crate) fn copy<T: Copy, const N: usize>(matrix: Matrix<'_, T>, panel: &mut [[T; N]]) {
    let width = matrix.columns;
    if matrix.column_step == 1 {
        for (row, from) in panel.iter_mut().zip(matrix.each_row()) {
            match from.first_chunk() {
                Some(from) => *row = *from, // Of a length that the compiler knows: no call.
                None => row[..width].copy_from_slice(from),
            }
        }
        return;
    }
    let column = |nth: usize| &matrix.values[nth * matrix.column_step..][..matrix.rows];
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
