//! A worker's share of a batch: takes a batch and some of its sequences, gives their rows, and those that a layer is asked for.

use std::ops::Range;

use crate::text::batch::Batch;

/// Of which tokens somebody wants to know the last layer's output. A gap asks what stands in it, and nobody asks about the
/// other tokens: there the last layer need only say what a gap may look at, their keys and values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    All,
    Masked,
}

/// Some sequences of a batch, which follow each other.
#[derive(Clone, Debug)]
pub(crate) struct Share<'a> {
    batch: &'a Batch,
    sequences: Range<usize>,
}

/// The size of a share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) tokens: usize,
    pub(crate) masked: usize,
    /// Σ length² over the sequences.
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
    /// The rows of its queries in the batch.
    pub(crate) rows: Rows<'a>,
    /// Where its queries are among those of the share.
    pub(crate) queries: Range<usize>,
    /// Where its tokens are among those of the share.
    pub(crate) keys: Range<usize>,
    /// Where its probabilities are, `[heads, queries, keys]`.
    pub(crate) pairs: Range<usize>,
}

/// Neighbouring sequences for each of some workers, about as many tokens for one as for the others: takes where the sequences
/// begin, and after them where the last one ends.
pub(crate) fn split(offsets: &[usize], workers: usize) -> impl Iterator<Item = Range<usize>> {
    let (sequences, tokens) = (offsets.len() - 1, offsets[offsets.len() - 1]);
    let mut start = 0;
    (1..=workers).map(move |nth| {
        // The boundary between two sequences that is nearest to the worker's even share.
        let ideal = tokens * nth / workers;
        let above = offsets.partition_point(|&offset| offset < ideal).min(sequences);
        let below = above.saturating_sub(1);
        let nearest = if offsets[above] - ideal < ideal - offsets[below].min(ideal) { above } else { below };
        let end = if nth == workers { sequences } else { nearest.max(start) };
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
    pub(crate) fn new(batch: &'a Batch, sequences: Range<usize>) -> Self {
        Self { batch, sequences }
    }

    /// Its rows of the batch.
    pub(crate) fn rows(&self) -> Range<usize> {
        self.batch.offsets[self.sequences.start]..self.batch.offsets[self.sequences.end]
    }

    /// Those that are asked for.
    pub(crate) fn asked(&self, asked: Asked) -> Rows<'a> {
        self.rows_of(asked, self.among(asked, &self.rows()))
    }

    /// Each token's id and position in its sequence.
    pub(crate) fn tokens(&self) -> impl Iterator<Item = (u32, usize)> + 'a {
        let batch = self.batch;
        self.each_sequence().flat_map(move |rows| batch.input_ids[rows].iter().copied().zip(0..))
    }

    /// The targets of its masked rows.
    pub(crate) fn targets(&self) -> &'a [u32] {
        &self.batch.targets[self.among(Asked::Masked, &self.rows())]
    }

    /// The number of masked rows in the whole batch.
    pub(crate) fn masked_in_batch(&self) -> usize {
        self.batch.masked_rows.len()
    }

    /// What attention needs to know of each sequence.
    pub(crate) fn each_attention(&self, heads: usize, asked: Asked) -> impl Iterator<Item = Attended<'a>> {
        let (tokens, first) = (self.rows().start, self.among(asked, &self.rows()).start);
        let mut end = 0;
        self.each_sequence().map(move |rows| {
            let among = self.among(asked, &rows);
            let pairs = end..end + heads * among.len() * rows.len();
            end = pairs.end;
            Attended {
                queries: among.start - first..among.end - first,
                keys: rows.start - tokens..rows.end - tokens,
                rows: self.rows_of(asked, among),
                pairs,
            }
        })
    }

    /// What its activations need room for.
    pub(crate) fn size(&self, asked: Asked) -> Size {
        let pairs = |asked| self.each_attention(1, asked).last().map_or(0, |of| of.pairs.end);
        Size {
            tokens: self.rows().len(),
            masked: self.asked(Asked::Masked).len(),
            pairs: pairs(Asked::All),
            asked: self.asked(asked).len(),
            asked_pairs: pairs(asked),
            longest: self.each_sequence().map(|rows| rows.len()).max().unwrap_or(0),
        }
    }

    /// The rows of the batch, sequence by sequence.
    fn each_sequence(&self) -> impl Iterator<Item = Range<usize>> + 'a {
        self.batch.offsets[self.sequences.start..=self.sequences.end].windows(2).map(|ends| ends[0]..ends[1])
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_sequence_has_one_worker_and_no_worker_much_more_than_its_share(
            lengths in prop::collection::vec(1usize..40, 0..30),
            workers in 1usize..9,
        ) {
            let mut offsets = vec![0];
            offsets.extend(lengths.iter().scan(0, |end, length| { *end += length; Some(*end) }));
            let shares: Vec<Range<usize>> = split(&offsets, workers).collect();
            prop_assert_eq!(shares.len(), workers);
            prop_assert_eq!((shares[0].start, shares[workers - 1].end), (0, lengths.len()));
            prop_assert!(shares.windows(2).all(|pair| pair[0].end == pair[1].start));
            let (tokens, longest) = (offsets[lengths.len()], lengths.iter().max().copied().unwrap_or(0));
            for share in shares {
                // Each of its two boundaries is at most half a sequence off.
                prop_assert!(offsets[share.end] - offsets[share.start] <= tokens / workers + 1 + longest);
            }
        }
    }
}
