//! A worker's share of a batch: takes a batch and some of its rows, gives the sequences that these are of, and which of them a
//! layer is asked for.
//!
//! A share is of whole sequences where that gives each worker about as much to do. Else it ends where it has to, in the middle
//! of one. All operations but attention go row by row; a query looks at the keys of its whole sequence, which several
//! workers have then.

use std::iter;
use std::ops::Range;

use crate::text::batch::Batch;

/// Of which tokens somebody wants to know the last layer's output. A gap asks what stands in it, and nobody asks about the
/// other tokens: there the last layer need only say what a gap may look at, their keys and values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    All,
    Masked,
}

/// Some rows of a batch, which follow each other.
#[derive(Clone, Debug)]
pub(crate) struct Share<'a> {
    batch: &'a Batch,
    rows: Range<usize>,
}

/// The size of a share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) tokens: usize,
    pub(crate) masked: usize,
    /// Σ over the sequences of its tokens of it times its length.
    pub(crate) pairs: usize,
    /// The rows that the last layer is asked for, and Σ of those of a sequence times its length.
    pub(crate) asked: usize,
    pub(crate) asked_pairs: usize,
    /// The longest sequence.
    pub(crate) longest: usize,
}

/// Rows of the batch, in order.
#[derive(Clone, Debug)]
pub(crate) enum Rows<'a> {
    Range(Range<usize>),
    Of(&'a [usize]),
}

/// What attention needs to know of a sequence.
#[derive(Clone, Debug)]
pub(crate) struct Attended<'a> {
    /// All its rows in the batch, and those that the share has.
    pub(crate) whole: Range<usize>,
    pub(crate) tokens: Range<usize>,
    /// The rows of its queries in the batch.
    pub(crate) rows: Rows<'a>,
    /// Where its queries are among those of the share.
    pub(crate) queries: Range<usize>,
    /// Where its tokens that the share has are among those of the share.
    pub(crate) keys: Range<usize>,
    /// If the share has only a part of it, where all its tokens are among those of all such sequences.
    pub(crate) cut: Option<Range<usize>>,
    /// Where its probabilities are, `[heads, queries, length]`.
    pub(crate) pairs: Range<usize>,
}

/// A part of a sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    /// The rows of the sequence in the batch, and those of the part.
    pub(crate) whole: Range<usize>,
    pub(crate) tokens: Range<usize>,
    /// Where the sequence's tokens are among those of all sequences that the share has a part of.
    pub(crate) cut: Range<usize>,
}

/// The fewest rows for which one more worker has a part of a sequence: with less it gains nothing by waiting for the others.
const FEWEST: usize = 16;

/// Neighbouring rows for each of some workers, about as many for one as for the others: takes where the sequences begin, and
/// after them where the last one ends. Sequences that may be cut are where a worker would have more than a sixth above its even
/// share otherwise: there a step of 5.3 million parameters on two threads (AMD Zen 3) takes less time, by 28 to 33 % with one
/// sequence of 512 tokens, by 10 to 17 % with one of 128, by 3 to 9 % with five of 64; with seven of 64 it takes about the same.
pub(crate) fn split(offsets: &[usize], workers: usize, may_cut: bool) -> impl Iterator<Item = Range<usize>> {
    let tokens = offsets[offsets.len() - 1];
    let working = (tokens / FEWEST).clamp(1, workers);
    let largest = ends(offsets, workers, usize::MAX).map(|share| share.len()).max().unwrap_or(0);
    let (shares, slack) = match may_cut && 6 * largest * working > 7 * tokens {
        true => (working, tokens / working / 16),
        false => (workers, usize::MAX),
    };
    ends(offsets, shares, slack).chain(iter::repeat_n(tokens..tokens, workers - shares))
}

/// So many shares, each of which ends between the two sequences where it is nearest to the even share, if that is no more than
/// `slack` rows off.
fn ends(offsets: &[usize], shares: usize, slack: usize) -> impl Iterator<Item = Range<usize>> {
    let (sequences, tokens) = (offsets.len() - 1, offsets[offsets.len() - 1]);
    let mut start = 0;
    (1..=shares).map(move |nth| {
        let ideal = tokens * nth / shares;
        let above = offsets.partition_point(|&offset| offset < ideal).min(sequences);
        let (below, above) = (offsets[above.saturating_sub(1)], offsets[above]);
        let nearest = if above - ideal < ideal - below.min(ideal) { above } else { below };
        let end = match nth == shares {
            true => tokens,
            false if nearest.abs_diff(ideal) <= slack => nearest.max(start),
            false => ideal,
        };
        let share = start..end;
        start = end;
        share
    })
}

impl Rows<'_> {
    pub(crate) fn len(&self) -> usize {
        match self {
            Rows::Range(rows) => rows.len(),
            Rows::Of(rows) => rows.len(),
        }
    }

    #[inline(always)]
    pub(crate) fn get(&self, nth: usize) -> usize {
        match self {
            Rows::Range(rows) => rows.start + nth,
            Rows::Of(rows) => rows[nth],
        }
    }
}

impl<'a> Share<'a> {
    pub(crate) fn new(batch: &'a Batch, rows: Range<usize>) -> Self {
        Self { batch, rows }
    }

    /// Its rows of the batch.
    pub(crate) fn rows(&self) -> Range<usize> {
        self.rows.clone()
    }

    /// Those that are asked for.
    pub(crate) fn asked(&self, asked: Asked) -> Rows<'a> {
        self.rows_of(asked, self.among(asked, &self.rows))
    }

    /// Each token's id and position in its sequence.
    pub(crate) fn tokens(&self) -> impl Iterator<Item = (u32, usize)> + 'a {
        let batch = self.batch;
        self.each_sequence().flat_map(move |(whole, rows)| {
            let positions = rows.start - whole.start..;
            batch.input_ids[rows].iter().copied().zip(positions)
        })
    }

    /// The targets of its masked rows.
    pub(crate) fn targets(&self) -> &'a [u32] {
        &self.batch.targets[self.among(Asked::Masked, &self.rows)]
    }

    /// The number of masked rows in the whole batch.
    pub(crate) fn masked_in_batch(&self) -> usize {
        self.batch.masked_rows.len()
    }

    /// What attention needs to know of each sequence.
    pub(crate) fn each_attention(&self, heads: usize, asked: Asked) -> impl Iterator<Item = Attended<'a>> + use<'a> {
        let (share, tokens, first) = (self.clone(), self.rows.start, self.among(asked, &self.rows).start);
        let (mut pairs, mut cut) = (0, 0);
        self.each_sequence().map(move |(whole, rows)| {
            let among = share.among(asked, &rows);
            Attended {
                queries: among.start - first..among.end - first,
                keys: rows.start - tokens..rows.end - tokens,
                cut: (rows != whole).then(|| next(&mut cut, whole.len())),
                pairs: next(&mut pairs, heads * among.len() * whole.len()),
                rows: share.rows_of(asked, among),
                whole,
                tokens: rows,
            }
        })
    }

    /// Its parts of sequences, but for whole ones.
    pub(crate) fn parts(&self) -> impl Iterator<Item = Part> + use<'a> {
        let each = self.each_attention(1, Asked::All);
        each.filter_map(|Attended { whole, tokens, cut, .. }| Some(Part { whole, tokens, cut: cut? }))
    }

    /// What its activations need room for.
    pub(crate) fn size(&self, asked: Asked) -> Size {
        let pairs = |asked| self.each_attention(1, asked).last().map_or(0, |of| of.pairs.end);
        Size {
            tokens: self.rows.len(),
            masked: self.asked(Asked::Masked).len(),
            pairs: pairs(Asked::All),
            asked: self.asked(asked).len(),
            asked_pairs: pairs(asked),
            longest: self.each_sequence().map(|(whole, _)| whole.len()).max().unwrap_or(0),
        }
    }

    /// The rows of each of its sequences in the batch, and those of them that it has.
    fn each_sequence(&self) -> impl Iterator<Item = (Range<usize>, Range<usize>)> + use<'a> {
        let (offsets, Range { start, end }) = (&self.batch.offsets, self.rows.clone());
        let first = offsets.partition_point(|&offset| offset <= start).saturating_sub(1);
        let last = offsets.partition_point(|&offset| offset < end);
        let sequences = offsets[first..=last].windows(2).map(|ends| ends[0]..ends[1]);
        sequences.map(move |whole| (whole.clone(), whole.start.max(start)..whole.end.min(end)))
    }

    /// Where the rows of a range that are asked for are among all in the batch that are.
    fn among(&self, asked: Asked, rows: &Range<usize>) -> Range<usize> {
        match asked {
            Asked::All => rows.clone(),
            Asked::Masked => {
                let masked = &self.batch.masked_rows;
                masked.partition_point(|&row| row < rows.start)..masked.partition_point(|&row| row < rows.end)
            }
        }
    }

    fn rows_of(&self, asked: Asked, among: Range<usize>) -> Rows<'a> {
        match asked {
            Asked::All => Rows::Range(among),
            Asked::Masked => Rows::Of(&self.batch.masked_rows[among]),
        }
    }
}

/// The next so many numbers after those up to `end`.
fn next(end: &mut usize, count: usize) -> Range<usize> {
    let start = *end;
    *end += count;
    start..*end
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_row_has_one_worker_and_no_worker_much_more_than_its_share(
            lengths in prop::collection::vec(1usize..40, 0..30),
            workers in 1usize..9,
            may_cut: bool,
        ) {
            let mut offsets = vec![0];
            offsets.extend(lengths.iter().scan(0, |end, length| { *end += length; Some(*end) }));
            let shares: Vec<Range<usize>> = split(&offsets, workers, may_cut).collect();
            let (tokens, longest) = (offsets[lengths.len()], lengths.iter().max().copied().unwrap_or(0));
            prop_assert_eq!(shares.len(), workers);
            prop_assert_eq!((shares[0].start, shares[workers - 1].end), (0, tokens));
            prop_assert!(shares.windows(2).all(|pair| pair[0].end == pair[1].start));
            for share in shares {
                if may_cut {
                    let working = workers.min(tokens / FEWEST).max(1);
                    prop_assert!(6 * share.len() * working <= 7 * tokens + 6 * working);
                } else {
                    // Each of its two boundaries is at most half a sequence off.
                    prop_assert!(share.len() <= tokens / workers + 1 + longest);
                    prop_assert!(offsets.contains(&share.start) && offsets.contains(&share.end));
                }
            }
        }
    }
}
