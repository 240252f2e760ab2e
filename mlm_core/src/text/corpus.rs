//! Takes lines or a file, gives sentences that are all in memory; leaves words and tokens to [`crate::text::tokenizer`].

use std::ops::ControlFlow;
use std::path::Path;

use rand::rngs::StdRng;

use crate::error::{Error, Result};
use crate::kernel::check_interrupt;
use crate::text::held_out::HeldOut;
use crate::text::sentences::{BLOCK, Block, Blocks, Sentences, Source, push_single_spaced, sentences};
use crate::text::text_files::{Format, Layout, TextFiles};

/// After so many lines there is a look at the stop button.
const LOOK: usize = 4096;

/// Sentences to learn from, in memory. Never empty; no sentence is blank, and all have single spaces.
///
/// ```
/// # use mlm_core::{rand::{SeedableRng, rngs::StdRng}, *};
/// # fn main() -> Result<()> {
/// let corpus = Corpus::from_lines(["The cake  is a lie", "", "To be or not to be"])?;
/// assert_eq!(corpus.sentences(), ["The cake is a lie", "To be or not to be"]);
/// let (train, validation) = corpus.repeat(200)?.split(0.5, &mut StdRng::seed_from_u64(0))?;
/// assert_eq!((train.len(), validation.len()), (200, 200));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Corpus {
    sentences: Vec<String>,
}

impl Corpus {
    /// A corpus of the given sentences; blank ones are skipped.
    ///
    /// # Errors
    /// When no sentence is left.
    pub fn from_lines<S: AsRef<str>>(lines: impl IntoIterator<Item = S>) -> Result<Self> {
        let (mut text, mut seen) = (Vec::new(), 0_usize);
        for line in lines {
            if seen.is_multiple_of(LOOK) {
                check_interrupt()?;
            }
            seen += 1;
            let mut sentence = String::new();
            push_single_spaced(line.as_ref(), &mut sentence);
            if sentence.pop().is_some() {
                text.push(sentence);
            }
        }
        if text.is_empty() {
            Err(Error::no_sentence("the list of lines", seen == 0))
        } else {
            Ok(Self { sentences: text })
        }
    }

    /// Reads a UTF-8 text file of any origin (a byte order mark and CRLF line ends are understood). [`TextFiles`] do not hold
    /// all of it in memory.
    ///
    /// # Errors
    /// As [`TextFiles::open`]; when the file is not UTF-8 (the error has the offset of the first bad byte).
    pub fn from_file(path: impl AsRef<Path>, layout: Layout) -> Result<Self> {
        let path = path.as_ref();
        let (files, mut read) = (TextFiles::open([path], Format::Text, layout)?, Vec::new());
        let files: &dyn Sentences = &files;
        files.each_round(&format!("reading {}", path.display()), |texts, _| {
            read.extend(texts.iter().flat_map(|text| sentences(text)).map(str::to_owned));
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(Self { sentences: read })
    }

    /// The sentences, in order.
    pub fn sentences(&self) -> &[String] {
        &self.sentences
    }

    /// The number of sentences, copies included; never 0.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.sentences.len()
    }

    /// The corpus written `times` times, one after the other.
    ///
    /// # Errors
    /// When `times` is 0.
    pub fn repeat(&self, times: usize) -> Result<Self> {
        if times == 0 {
            return Err(Error::argument("times", "at least 1", times));
        }
        let sentences = std::iter::repeat_n(&self.sentences, times).flatten().cloned().collect();
        Ok(Self { sentences })
    }

    /// Splits into a training and a validation corpus. The split is drawn over *distinct* sentences (upper and lower
    /// case alike), so copies of a sentence never stand on both sides: a model must not be tested on what it has
    /// seen. Each side gets at least one sentence.
    ///
    /// # Errors
    /// When `validation` is not between 0 and 1, or there are fewer than two distinct sentences.
    pub fn split(&self, validation: f64, rng: &mut StdRng) -> Result<(Self, Self)> {
        let held_out = HeldOut::draw(self, validation, rng)?;
        let (mut train, mut validation) = (Vec::new(), Vec::new());
        for sentence in &self.sentences {
            let side = if held_out.has(sentence) { &mut validation } else { &mut train };
            side.push(sentence.clone());
        }
        Ok((Self { sentences: train }, Self { sentences: validation }))
    }
}

impl Source for Corpus {
    fn blocks(&self) -> Blocks<'_> {
        let mut rest = self.sentences.as_slice();
        Box::new(std::iter::from_fn(move || {
            let mut bytes = 0;
            let end = rest.iter().position(|sentence| {
                bytes += sentence.len() + 1;
                bytes >= BLOCK
            });
            let block = rest.split_off(..end.map_or(rest.len(), |last| last + 1))?;
            let read = move || Ok(block.join("\n") + "\n");
            (!block.is_empty()).then(|| Ok(Block { bytes: bytes as u64, read: Box::new(read) }))
        }))
    }

    fn bytes(&self) -> u64 {
        self.sentences.iter().map(|sentence| sentence.len() as u64 + 1).sum()
    }
}
