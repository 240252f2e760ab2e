//! A worker's share of a batch: takes a batch and some of its sequences, gives their rows, and those that a layer is asked for.

use std::ops::Range;

use crate::engine::activations::Size;
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
