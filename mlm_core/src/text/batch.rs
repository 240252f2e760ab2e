//! Takes encoded sentences, gives shuffled batches of masked tokens, unpadded, with a padded view; what the model does
//! with them is left to [`crate::model::reference`].

use std::mem;
use std::ops::Range;

use candle_core::{Device, Tensor};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use crate::error::{Error, Result};
use crate::text::masking::{MaskedTokens, Masker, Treatment};
use crate::text::sequences::Sequences;

/// The label of a position that is not to be recovered, as in PyTorch's `cross_entropy`.
pub const IGNORED_LABEL: i64 = -100;

/// Some sequences, masked, end to end without padding. `tokens` is their total number, `masked` the number of tokens
/// to recover.
///
/// ```
/// # use mlm_core::*;
/// let batch = Batch::with_gaps([[2, 4, 17, 3].as_slice(), &[2, 9, 4, 4, 3]], 4);
/// assert_eq!(batch.offsets, [0, 4, 9]);
/// assert_eq!(batch.masked_rows, [1, 6, 7]);
/// assert_eq!((batch.sequences(), batch.tokens(), batch.longest()), (2, 9, 5));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// What the model sees `[tokens]`.
    pub input_ids: Vec<u32>,
    /// Sequence `i` is `input_ids[offsets[i]..offsets[i + 1]]`; starts with 0, ends with `tokens` `[batch + 1]`.
    pub offsets: Vec<usize>,
    /// The positions to recover, as indices into `input_ids`, ascending `[masked]`.
    pub masked_rows: Vec<usize>,
    /// The right tokens `[masked]`, or empty where nobody knows them (a text with gaps to fill).
    pub targets: Vec<u32>,
    /// What was done to each masked row `[masked]`.
    pub treatments: Vec<Treatment>,
}

/// Where a token of a batch stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The index of its sequence.
    pub(crate) sequence: usize,
    /// Its index in the sequence.
    pub(crate) position: usize,
    /// Its index in the batch.
    pub(crate) row: usize,
}

/// A batch as a rectangle, as most libraries store it: short sequences are filled up with `[PAD]`.
#[derive(Clone, Debug)]
pub struct PaddedBatch {
    /// What the model sees, u32 `[batch, seq]`.
    pub input_ids: Tensor,
    /// 1 for a token, 0 for padding, u8 `[batch, seq]`.
    pub attention_mask: Tensor,
    /// The right token where one is to be recovered, elsewhere [`IGNORED_LABEL`], i64 `[batch, seq]`.
    pub labels: Tensor,
    /// The positions to recover as rows of the rectangle written out line by line, u32 `[masked]`.
    pub masked_rows: Tensor,
}

impl Batch {
    /// The given sequences end to end, masked by `masker`.
    ///
    /// # Errors
    /// When there is nothing to mask.
    pub fn masked<'a>(
        sequences: impl IntoIterator<Item = &'a [u32]>,
        masker: &Masker,
        rng: &mut StdRng,
    ) -> Result<Self> {
        let mut batch = Self::with_gaps([], 0);
        batch.mask_again(sequences, masker, rng)?;
        Ok(batch)
    }

    /// As [`Self::masked`], in the memory of this batch, which becomes the new one. Of no use after an error.
    ///
    /// # Errors
    /// When there is nothing to mask.
    pub fn mask_again<'a>(
        &mut self,
        sequences: impl IntoIterator<Item = &'a [u32]>,
        masker: &Masker,
        rng: &mut StdRng,
    ) -> Result<()> {
        let Self { input_ids, offsets, masked_rows, targets, treatments } = self;
        put_end_to_end(sequences, input_ids, offsets);
        let mut outcome = MaskedTokens {
            input_ids: mem::take(input_ids),
            masked_rows: mem::take(masked_rows),
            targets: mem::take(targets),
            treatments: mem::take(treatments),
        };
        masker.mask_again(&mut outcome, rng)?;
        *input_ids = outcome.input_ids;
        *masked_rows = outcome.masked_rows;
        *targets = outcome.targets;
        *treatments = outcome.treatments;
        Ok(())
    }

    /// Sequences whose gaps nobody knows: all positions that hold `mask` are masked rows, without targets.
    pub fn with_gaps<'a>(sequences: impl IntoIterator<Item = &'a [u32]>, mask: u32) -> Self {
        let (mut input_ids, mut offsets) = (Vec::new(), Vec::new());
        put_end_to_end(sequences, &mut input_ids, &mut offsets);
        let masked_rows: Vec<usize> = (0..input_ids.len()).filter(|&row| input_ids[row] == mask).collect();
        let treatments = vec![Treatment::Mask; masked_rows.len()];
        Self { input_ids, offsets, masked_rows, targets: Vec::new(), treatments }
    }

    /// Checks that the parts fit together, which a batch put together by hand may not.
    ///
    /// # Errors
    /// Names the part that does not fit.
    pub fn validate(&self) -> Result<()> {
        let tokens = self.tokens();
        let ends = (self.offsets.first(), self.offsets.last());
        let ascending = self.offsets.windows(2).all(|ends| ends[0] < ends[1]);
        if ends != (Some(&0), Some(&tokens)) || self.offsets.len() < 2 || !ascending {
            let expected = format!("ends of sequences of at least one token, from 0 to {tokens}");
            return Err(Error::argument("offsets", expected, format!("{:?}", self.offsets)));
        }
        let rows = &self.masked_rows;
        if !rows.is_sorted_by(|a, b| a < b) || rows.last().is_some_and(|&row| row >= tokens) {
            let expected = format!("ascending indices below {tokens}, the number of tokens");
            return Err(Error::argument("masked_rows", expected, format!("{rows:?}")));
        }
        if !self.targets.is_empty() && self.targets.len() != rows.len() {
            let expected = format!("none, or one for each of the {} masked rows", rows.len());
            return Err(Error::argument("targets", expected, self.targets.len()));
        }
        if self.treatments.len() != rows.len() {
            let expected = format!("one for each of the {} masked rows", rows.len());
            return Err(Error::argument("treatments", expected, self.treatments.len()));
        }
        Ok(())
    }

    /// Checks that the right tokens are known, as a loss needs.
    pub(crate) fn check_targets(&self) -> Result<()> {
        if self.targets.len() != self.masked_rows.len() || self.targets.is_empty() {
            let expected = format!("a target for each of the {} masked rows", self.masked_rows.len());
            return Err(Error::argument("targets", expected, self.targets.len()));
        }
        Ok(())
    }

    /// Checks that there is something to predict.
    pub(crate) fn check_masked(&self) -> Result<()> {
        match self.masked_rows.len() {
            0 => Err(Error::argument("batch", "at least one masked row", 0)),
            _ => Ok(()),
        }
    }

    /// The number of sequences (`batch`).
    pub fn sequences(&self) -> usize {
        self.offsets.len().saturating_sub(1)
    }

    /// The number of tokens, special ones included (`tokens`).
    pub fn tokens(&self) -> usize {
        self.input_ids.len()
    }

    /// The rows of the sequence that a row is in.
    pub(crate) fn rows_around(&self, row: usize) -> Range<usize> {
        let end = self.offsets.partition_point(|&offset| offset <= row);
        self.offsets[end - 1]..self.offsets[end]
    }

    /// What the model sees of one sequence, counted from 0.
    ///
    /// # Errors
    /// When the batch has no such sequence, or its parts do not fit together.
    pub fn sequence(&self, index: usize) -> Result<&[u32]> {
        let ends = self.offsets.windows(2).nth(index);
        ends.and_then(|ends| self.input_ids.get(ends[0]..ends[1])).ok_or_else(|| match self.validate() {
            Ok(()) => {
                let expected = format!("an index below {}, the number of sequences", self.sequences());
                Error::argument("index", expected, index)
            }
            Err(error) => error,
        })
    }

    /// The length of the longest sequence (`seq`).
    pub fn longest(&self) -> usize {
        self.offsets.windows(2).map(|ends| ends[1].saturating_sub(ends[0])).max().unwrap_or(0)
    }

    /// Each token's place, in order.
    pub(crate) fn places(&self) -> impl Iterator<Item = Place> {
        (0..self.sequences()).flat_map(|sequence| {
            let start = self.offsets[sequence];
            (start..self.offsets[sequence + 1]).map(move |row| Place { sequence, position: row - start, row })
        })
    }

    /// The padded view: a rectangle of `batch` rows and `seq` columns, filled up with the id `pad`.
    ///
    /// # Errors
    /// When the parts of the batch do not fit together, or the device has no room.
    pub fn padded(&self, pad: u32, device: &Device) -> Result<PaddedBatch> {
        self.validate()?;
        let (batch, seq) = (self.sequences(), self.longest());
        let mut input_ids = vec![pad; batch * seq];
        let mut attention_mask = vec![0u8; batch * seq];
        let mut labels = vec![IGNORED_LABEL; batch * seq];
        let mut masked_rows = Vec::with_capacity(self.masked_rows.len());
        let mut masked = self.masked_rows.iter().enumerate().peekable();
        for Place { sequence, position, row } in self.places() {
            let padded_row = sequence * seq + position;
            input_ids[padded_row] = self.input_ids[row];
            attention_mask[padded_row] = 1;
            if let Some((nth, _)) = masked.next_if(|&(_, &masked_row)| masked_row == row) {
                masked_rows.push(padded_row as u32);
                if let Some(&target) = self.targets.get(nth) {
                    labels[padded_row] = i64::from(target);
                }
            }
        }
        let masked = masked_rows.len();
        Ok(PaddedBatch {
            input_ids: Tensor::from_vec(input_ids, (batch, seq), device)?,
            attention_mask: Tensor::from_vec(attention_mask, (batch, seq), device)?,
            labels: Tensor::from_vec(labels, (batch, seq), device)?,
            masked_rows: Tensor::from_vec(masked_rows, masked, device)?,
        })
    }
}

/// Checks that a vocabulary has all of the ids.
pub(crate) fn check_ids(vocab: usize, argument: &'static str, ids: &[u32]) -> Result<()> {
    match ids.iter().find(|&&id| id as usize >= vocab) {
        Some(id) => Err(Error::argument(argument, format!("ids below vocab = {vocab}"), id)),
        None => Ok(()),
    }
}

/// Writes sequences one after the other, and where each starts and the last ends.
fn put_end_to_end<'a>(sequences: impl IntoIterator<Item = &'a [u32]>, tokens: &mut Vec<u32>, offsets: &mut Vec<usize>) {
    tokens.clear();
    offsets.clear();
    offsets.push(0);
    for sequence in sequences {
        tokens.extend_from_slice(sequence);
        offsets.push(tokens.len());
    }
}

/// Hands out the sequences of a corpus in batches.
///
/// ```
/// # use mlm_core::{rand::{SeedableRng, rngs::StdRng}, *};
/// # fn main() -> Result<()> {
/// let corpus = Corpus::from_lines(["the cake is a lie", "to be or not to be", "a fox"])?;
/// let tokenizer = Tokenizer::train(&corpus, &TokenizerConfig::new(1000))?;
/// let masker = Masker::new(&tokenizer, Masking::default())?;
/// let loader = DataLoader::new(tokenizer.encode_corpus(&corpus, 32)?.sequences, 2)?;
/// let mut rng = StdRng::seed_from_u64(0);
/// let sizes: Vec<usize> = loader.epoch(&masker, &mut rng).map(|batch| Ok(batch?.sequences())).collect::<Result<_>>()?;
/// assert_eq!(sizes, [2, 1]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct DataLoader {
    sequences: Sequences,
    batch_size: usize,
}

impl DataLoader {
    /// # Errors
    /// When there is no sequence, or more than 4 billion, or the batch size is 0.
    pub fn new(sequences: impl Into<Sequences>, batch_size: usize) -> Result<Self> {
        let sequences = sequences.into();
        if sequences.is_empty() {
            return Err(Error::argument("sequences", "at least one", 0));
        }
        if u32::try_from(sequences.len()).is_err() {
            return Err(Error::argument("sequences", format!("at most {}", u32::MAX), sequences.len()));
        }
        if batch_size == 0 {
            return Err(Error::argument("batch_size", "at least 1", batch_size));
        }
        Ok(Self { sequences, batch_size })
    }

    /// The number of batches in an epoch; the last one may be smaller than the others.
    pub fn batches(&self) -> usize {
        self.sequences.len().div_ceil(self.batch_size)
    }

    /// One pass over all sequences, in a new order and with new masks, both drawn from `rng`.
    pub fn epoch<'a>(&'a self, masker: &'a Masker, rng: &'a mut StdRng) -> Epoch<'a> {
        Epoch { loader: self, masker, order: self.order(rng), rng, next: 0 }
    }

    /// The indices of all sequences in a random order.
    pub(crate) fn order(&self, rng: &mut StdRng) -> Vec<u32> {
        let mut order: Vec<u32> = (0..self.sequences.len() as u32).collect();
        order.shuffle(rng);
        order
    }

    /// The batch with that number, counted from 0, of those that `order` makes, or none after the last.
    pub(crate) fn batch(&self, order: &[u32], nth: usize, masker: &Masker, rng: &mut StdRng) -> Option<Result<Batch>> {
        let indices = order.chunks(self.batch_size).nth(nth)?;
        let sequences: Result<Vec<_>> = indices.iter().map(|&index| self.sequences.get(index as usize)).collect();
        Some(sequences.and_then(|sequences| Batch::masked(sequences.iter().map(Vec::as_slice), masker, rng)))
    }

    /// One pass in the given order whose masks can be kept, so that evaluations of different models, or of one model
    /// at different times, compare like with like.
    ///
    /// # Errors
    /// When a batch has nothing to mask.
    pub fn fixed(&self, masker: &Masker, rng: &mut StdRng) -> Result<Vec<Batch>> {
        let order: Vec<u32> = (0..self.sequences.len() as u32).collect();
        (0..self.batches()).map_while(|nth| self.batch(&order, nth, masker, rng)).collect()
    }
}

/// The batches of one epoch, masked as they are asked for.
#[derive(Debug)]
pub struct Epoch<'a> {
    loader: &'a DataLoader,
    masker: &'a Masker,
    rng: &'a mut StdRng,
    order: Vec<u32>,
    /// The number of the next batch.
    next: usize,
}

impl Iterator for Epoch<'_> {
    type Item = Result<Batch>;

    fn next(&mut self) -> Option<Self::Item> {
        let batch = self.loader.batch(&self.order, self.next, self.masker, self.rng)?;
        self.next += 1;
        Some(batch)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let batches = self.loader.batches() - self.next;
        (batches, Some(batches))
    }
}

impl ExactSizeIterator for Epoch<'_> {}
