//! Dropout: takes rows of units, sets some to 0 and scales up the others. Which ones is a function of their place
//! ([`crate::model::dropout`]), so nothing is stored for the way back, and on it the same function is applied:
//!
//! ```text
//! y_i = f_i x_i,  f_i = 0 with probability p, else 1 / (1 - p)        dx_i = f_i dy_i
//! ```

use pulp::{Simd, with_simd};

use crate::engine::share::Rows;
use crate::model::dropout::{RowDropout, Site};
use crate::vectors::arch;

/// The dropout of one training step at one place of the model.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dropout {
    pub(crate) seed: u64,
    pub(crate) site: Site,
    pub(crate) probability: f64,
}

/// Forward and backward: x = f x for rows of `columns` units, which are these rows of the batch.
#[with_simd(apply = arch())]
#[inline(always)]
pub(crate) fn apply_simd<'a, S: Simd>(
    _simd: S,
    dropout: Option<Dropout>,
    rows: Rows<'a>,
    columns: usize,
    x: &'a mut [f32],
) {
    let Some(Dropout { seed, site, probability }) = dropout else { return };
    for (nth, x) in x.chunks_exact_mut(columns).enumerate() {
        RowDropout::new(seed, site, rows.get(nth) as u64, probability).apply(x);
    }
}
