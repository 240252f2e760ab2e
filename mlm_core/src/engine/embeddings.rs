//! Embeddings: takes token ids, gives for each the sum of three rows of weights `[tokens, d_model]`.
//!
//! ```text
//! x_t = Word[id_t] + Position[p_t] + Type[0]
//! ```
//!
//! Backward adds dx_t to the same three rows: a row that is used often gathers many gradients. The word rows may already
//! hold a gradient, that of the decoder, which has the same weights.

use std::ops::Range;

use crate::engine::vector;

/// The three tables `[vocab, d_model]`, `[max_len, d_model]`, `[token_types, d_model]`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tables<'a> {
    pub(crate) word: &'a [f32],
    pub(crate) position: &'a [f32],
    pub(crate) token_type: &'a [f32],
}

/// `tokens` pairs each id with its position in its sequence.
pub(crate) fn forward(tokens: impl Iterator<Item = (u32, usize)>, tables: Tables<'_>, columns: usize, x: &mut [f32]) {
    let token_type = &tables.token_type[..columns];
    for ((id, position), x) in tokens.zip(x.chunks_exact_mut(columns)) {
        let word = &tables.word[id as usize * columns..][..columns];
        let position = &tables.position[position * columns..][..columns];
        for (((x, word), position), token_type) in x.iter_mut().zip(word).zip(position).zip(token_type) {
            *x = word + position + token_type;
        }
    }
}

/// Adds dx to the gradients of the rows of one table that it came from, as far as they are among the `numbers` of the table
/// that `gradients` are for: whole rows.
pub(crate) fn backward(
    rows: impl Iterator<Item = usize>,
    dx: &[f32],
    columns: usize,
    numbers: Range<usize>,
    gradients: &mut [f32],
) {
    for (row, dx) in rows.zip(dx.chunks_exact(columns)) {
        if let Some(at) = (row * columns).checked_sub(numbers.start).filter(|&at| at < numbers.len()) {
            vector::add(&mut gradients[at..][..columns], dx);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::slopes;

    /// A token that comes twice, and rows that no token uses.
    #[test]
    fn backward_is_the_slope_of_forward() {
        const SIZES: [usize; 3] = [5, 4, 2];
        let (columns, tokens) = (3, [(2, 0), (4, 1), (2, 2), (0, 0)]);
        let inputs = slopes::numbers(SIZES.iter().sum::<usize>() * columns, 4);
        slopes::check("embeddings", &inputs, |inputs, dx| {
            let (word, rest) = inputs.split_at(SIZES[0] * columns);
            let (position, token_type) = rest.split_at(SIZES[1] * columns);
            let mut x = vec![0.0; tokens.len() * columns];
            forward(tokens.into_iter(), Tables { word, position, token_type }, columns, &mut x);
            let rows = |of: fn((u32, usize)) -> usize| tokens.into_iter().map(of);
            let tables = [rows(|(id, _)| id as usize), rows(|(_, position)| position), rows(|_| 0)];
            let gradients = tables.into_iter().zip(SIZES).flat_map(|(rows, size)| {
                let mut gradient = vec![0.0; size * columns];
                // A part of each table after the other.
                let (first, second) = gradient.split_at_mut(columns);
                backward(rows.clone(), &dx[..x.len()], columns, 0..columns, first);
                backward(rows, &dx[..x.len()], columns, columns..size * columns, second);
                gradient
            });
            let gradients = gradients.collect();
            (x, gradients)
        });
    }
}
