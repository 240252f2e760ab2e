//! Takes sentences and a tokenizer, gives sequences that are not too long for the model, with nothing of the text lost;
//! masking them is left to [`crate::text::masking`].

use std::collections::VecDeque;
use std::iter;

use serde::Serialize;
use smallvec::{SmallVec, smallvec};

use crate::error::{Error, Result};
use crate::text::coverage::Coverage;
use crate::text::sentences::Sentences;
use crate::text::sequences::{Sequences, SequencesWriter};
use crate::text::tokenizer::{SpecialIds, Tokenizer};

/// A corpus as token ids.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EncodedCorpus {
    /// `[CLS]`, tokens, `[SEP]`: one for each sentence, or several where a sentence is too long.
    pub sequences: Sequences,
    /// How many sentences there are.
    pub sentences: usize,
    /// How many sentences are spread over several sequences.
    pub cut: usize,
    /// How many sequences were left out because nothing in them can be masked: the vocabulary spells no word of theirs.
    pub skipped: usize,
    /// How much of the text the vocabulary knows, of what was left out, too.
    pub coverage: Coverage,
}

/// How sentences become sequences.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub enum Packing {
    /// A sequence is a sentence, or a part of one that is too long
    ///
    /// See [`Tokenizer::encode_corpus`].
    Sentences,
    /// A sequence is as many words as it can hold, across the ends of sentences
    ///
    /// See [`Tokenizer::encode_windows`].
    Windows,
}

/// An [`EncodedCorpus`] that is being made.
struct Encoding<'a> {
    tokenizer: &'a Tokenizer,
    sequences: SequencesWriter,
    sentences: usize,
    cut: usize,
    skipped: usize,
}

impl Encoding<'_> {
    /// Adds a window, framed, or counts it where nothing in it can be masked.
    fn take(&mut self, window: &[u32]) -> Result<()> {
        if window.iter().all(|&id| self.tokenizer.is_special(id)) {
            self.skipped += 1;
            Ok(())
        } else {
            self.sequences.push(self.tokenizer.frame(window))
        }
    }

    /// Of a corpus of which that much is read.
    fn finish(self, coverage: Coverage) -> Result<EncodedCorpus> {
        if coverage.unknown == coverage.words {
            let expected = format!("at least one word that the vocabulary can spell ({})", coverage.way_out());
            let actual = match coverage.words {
                0 => "none".to_owned(),
                words => format!("{words} words, all of them unknown"),
            };
            return Err(Error::argument("corpus", expected, actual));
        }
        let Self { sequences, sentences, cut, skipped, .. } = self;
        Ok(EncodedCorpus { sequences: sequences.finish()?, sentences, cut, skipped, coverage })
    }
}

impl Tokenizer {
    /// The ids of each sentence of a corpus. A sentence of more than `max_len` tokens, `[CLS]` and `[SEP]` included, is cut
    /// into windows of about the same length, between words where that can be done.
    ///
    /// ```
    /// # use mlm_core::*;
    /// # fn main() -> Result<()> {
    /// let corpus = Corpus::from_lines(["to be or not to be", "the cake is a lie"])?;
    /// let tokenizer = Tokenizer::train(&corpus, &TokenizerConfig::new(1000))?;
    /// let words = |encoded: EncodedCorpus| -> Result<Vec<String>> {
    ///     encoded.sequences.iter().map(|ids| tokenizer.decode(&ids?)).collect()
    /// };
    /// let each = tokenizer.encode_corpus(&corpus, 7)?;
    /// assert_eq!(words(each)?, ["to be or", "not to be", "the cake is a lie"]);
    /// let filled = tokenizer.encode_windows(&corpus, 7)?;
    /// assert_eq!(words(filled)?, ["to be or not to", "be the cake is a", "lie"]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// When `max_len` leaves no room for a token between `[CLS]` and `[SEP]`, or the vocabulary knows no word of the corpus.
    pub fn encode_corpus(&self, corpus: &dyn Sentences, max_len: usize) -> Result<EncodedCorpus> {
        self.encode_packed(corpus, max_len, Packing::Sentences, SequencesWriter::default())
    }

    /// The windows of a sentence, from its ids; one of which the tokenizer leaves nothing is an empty one.
    fn windows<'a>(&'a self, ids: &'a [u32], longest: usize) -> SmallVec<[&'a [u32]; 1]> {
        match ids {
            [] => smallvec![ids],
            ids => self.cut(ids, longest, Length::Even).collect(),
        }
    }

    /// Of each sentence of a corpus its sequences.
    pub(crate) fn windows_of_sentences(&self, corpus: &dyn Sentences, max_len: usize) -> Result<Vec<Vec<Vec<u32>>>> {
        let longest = longest(max_len)?;
        let mut sequences = Vec::new();
        self.encode_sentences(corpus, |ids| {
            let windows = self.windows(ids, longest);
            sequences.push(windows.iter().map(|window| self.frame(window).collect()).collect());
            Ok(())
        })?;
        Ok(sequences)
    }

    /// The ids of a running text in windows of `max_len` tokens: a window goes on with the next sentence where one ends, and
    /// holds as many words as it can. RoBERTa is trained on such text (Liu et al. 2019, section 4.2, FULL-SENTENCES); its
    /// windows of 512 tokens hold whole sentences, which would leave short ones half empty.
    ///
    /// # Errors
    /// As [`Self::encode_corpus`].
    pub fn encode_windows(&self, corpus: &dyn Sentences, max_len: usize) -> Result<EncodedCorpus> {
        self.encode_packed(corpus, max_len, Packing::Windows, SequencesWriter::default())
    }

    /// The ids of a corpus, packed as somebody wants, into a writer.
    pub(crate) fn encode_packed(
        &self,
        corpus: &dyn Sentences,
        max_len: usize,
        packing: Packing,
        sequences: SequencesWriter,
    ) -> Result<EncodedCorpus> {
        let longest = longest(max_len)?;
        let mut encoding = Encoding { tokenizer: self, sequences, sentences: 0, cut: 0, skipped: 0 };
        let coverage = match packing {
            Packing::Sentences => self.pack_sentences(corpus, longest, &mut encoding),
            Packing::Windows => self.pack_windows(corpus, longest, &mut encoding),
        }?;
        encoding.finish(coverage)
    }

    fn pack_sentences(&self, corpus: &dyn Sentences, longest: usize, encoding: &mut Encoding<'_>) -> Result<Coverage> {
        self.encode_sentences(corpus, |ids| {
            let windows = self.windows(ids, longest);
            encoding.sentences += 1;
            encoding.cut += usize::from(windows.len() > 1);
            windows.iter().try_for_each(|window| encoding.take(window))
        })
    }

    fn pack_windows(&self, corpus: &dyn Sentences, longest: usize, encoding: &mut Encoding<'_>) -> Result<Coverage> {
        // What no window has yet, the ends of the sentences in it, and of the first where it starts and whether it has been cut.
        let (mut rest, mut ends) = (Vec::new(), VecDeque::new());
        let (mut start, mut is_cut) = (0, false);
        let coverage = self.encode_sentences(corpus, |ids| {
            encoding.sentences += 1;
            rest.extend_from_slice(ids);
            ends.push_back(rest.len());
            let mut taken = 0;
            for window in self.cut(&rest, longest, Length::Full) {
                if taken + window.len() == rest.len() {
                    break; // The next sentence may go on with it.
                }
                taken += window.len();
                encoding.take(window)?;
                while let Some(end) = ends.pop_front_if(|end| *end <= taken) {
                    (start, is_cut) = (end, false);
                }
                if start < taken && !is_cut {
                    encoding.cut += 1;
                    is_cut = true;
                }
            }
            rest.drain(..taken);
            ends.iter_mut().for_each(|end| *end -= taken);
            start = start.saturating_sub(taken);
            Ok(())
        })?;
        if !rest.is_empty() {
            encoding.take(&rest)?;
        }
        Ok(coverage)
    }

    /// A window as the model reads it.
    fn frame(&self, window: &[u32]) -> impl Iterator<Item = u32> {
        let SpecialIds { cls, sep, .. } = self.special();
        iter::once(cls).chain(window.iter().copied()).chain([sep])
    }

    /// Cuts tokens into windows of at most `longest`, where words end; a word that is longer is cut, too.
    fn cut<'a>(&'a self, ids: &'a [u32], longest: usize, length: Length) -> impl Iterator<Item = &'a [u32]> {
        let mut rest = ids;
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let end = if rest.len() <= longest {
                rest.len()
            } else {
                let wanted = match length {
                    Length::Even => rest.len().div_ceil(rest.len().div_ceil(longest)),
                    Length::Full => longest,
                };
                let mut ends = (wanted..=longest).chain((1..wanted).rev());
                ends.find(|&end| !self.continues_word(rest[end])).unwrap_or(longest)
            };
            let (window, others) = rest.split_at(end);
            rest = others;
            Some(window)
        })
    }
}

/// How long windows are.
#[derive(Clone, Copy)]
enum Length {
    /// As few as there can be, of about the same length: none has one word only, to be guessed from nothing.
    Even,
    /// As long as they can be.
    Full,
}

/// The tokens of a sequence of `max_len` between `[CLS]` and `[SEP]`.
fn longest(max_len: usize) -> Result<usize> {
    match max_len.checked_sub(2) {
        None | Some(0) => Err(Error::argument("max_len", "at least 3 ([CLS], a token, [SEP])", max_len)),
        Some(longest) => Ok(longest),
    }
}
