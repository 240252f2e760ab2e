//! Takes text (lines, a file of lines, or prose), gives sentences; leaves words and tokens to [`crate::text::tokenizer`].

use std::path::Path;

use ahash::AHashMap;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rayon::prelude::*;
use unicode_segmentation::UnicodeSegmentation;

use crate::error::{Error, Result};
use crate::files;
use crate::kernel::ProgressLine;
use crate::text::distinct::key;

/// The length from which on a sentence is cut at the next space, in bytes: what the `tokenizers` crate makes of a text takes a
/// hundred times its memory, and a line may be a whole book.
const LONG: usize = 16_384;

/// After so many lines there is a look at the stop button.
const LOOK: usize = 4096;

/// How a text file is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// One sentence a line; blank lines are skipped.
    Lines,
    /// Running text whose lines may break anywhere: a blank line ends a paragraph, and each paragraph is split
    /// into sentences by the rules of Unicode (UAX #29). These hold for all languages and know no abbreviations: a sentence
    /// ends after the `Dr.` of a name.
    Prose,
}

/// Sentences to learn from. Never empty; no sentence is blank, and all have single spaces.
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
        Self::from_text_lines(lines, "the list of lines")
    }

    /// Reads a UTF-8 text file of any origin (a byte order mark and CRLF line ends are understood).
    ///
    /// # Errors
    /// When the file cannot be read, is not UTF-8 (the error has the offset of the first bad byte), or holds no
    /// sentence.
    pub fn from_file(path: impl AsRef<Path>, layout: Layout) -> Result<Self> {
        let path = path.as_ref();
        let text = files::read_text(path)?;
        let origin = path.display().to_string();
        match layout {
            Layout::Lines => Self::from_text_lines(text.lines(), &origin),
            Layout::Prose => {
                let paragraphs = paragraphs(&text);
                Self::from_text_lines(paragraphs.iter().flat_map(|text| text.unicode_sentences()), &origin)
            }
        }
    }

    fn from_text_lines<S: AsRef<str>>(lines: impl IntoIterator<Item = S>, origin: &str) -> Result<Self> {
        let (mut sentences, mut seen) = (Vec::new(), 0_usize);
        let mut progress = ProgressLine::waiting(format!("reading {origin}"));
        for line in lines {
            if seen.is_multiple_of(LOOK) {
                progress.at(0)?;
            }
            seen += 1;
            let sentence = single_spaced(line.as_ref());
            if !sentence.is_empty() {
                sentences.push(sentence);
            }
        }
        progress.end();
        if sentences.is_empty() {
            let reason = match seen {
                0 => "it is empty; write some sentences into it".to_owned(),
                _ => format!("all of its {seen} lines are blank; write some sentences into it"),
            };
            return Err(Error::NoSentence { origin: origin.to_owned(), reason });
        }
        Ok(Self { sentences })
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

    /// The text in pieces to be read one by one, each with the index of its sentence: a sentence, or what it is cut into at
    /// spaces, where `cut` allows that.
    pub(crate) fn pieces(&self, cut: bool) -> impl Iterator<Item = (usize, &str)> {
        let longest = if cut { LONG } else { usize::MAX };
        self.sentences
            .iter()
            .enumerate()
            .flat_map(move |(nth, text)| pieces(text, longest).map(move |text| (nth, text)))
    }

    /// A line that says how many of the [`Self::pieces`] are done.
    pub(crate) fn progress(&self, doing: &'static str, cut: bool) -> ProgressLine {
        let pieces = self.pieces(cut).count();
        let unit = if pieces == self.len() { "sentences" } else { "pieces of sentences" };
        ProgressLine::new(doing, pieces, unit)
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
        if !(validation > 0.0 && validation < 1.0) {
            return Err(Error::argument("validation", "a fraction above 0 and below 1", validation));
        }
        // The class of a sentence: the index of its first copy among the distinct sentences.
        let keys: Vec<[u64; 2]> = self.sentences.par_iter().map(|sentence| key(&sentence.to_lowercase())).collect();
        let mut classes = AHashMap::new();
        let class_of = keys.iter().map(|key| {
            let next = classes.len();
            *classes.entry(key).or_insert(next)
        });
        let class_of: Vec<usize> = class_of.collect();
        let distinct = classes.len();
        if distinct < 2 {
            let expected = "at least 2 distinct sentences, one of them to be held back (--validation 0 holds none back; where a line \
                            is running text, Layout::Prose, --layout prose, finds its sentences)";
            return Err(Error::argument("corpus", expected, distinct));
        }
        let held_out = ((distinct as f64 * validation).round() as usize).clamp(1, distinct - 1);
        let mut order: Vec<usize> = (0..distinct).collect();
        order.shuffle(rng);
        let mut in_validation = vec![false; distinct];
        for &class in &order[..held_out] {
            in_validation[class] = true;
        }
        let side = |wanted: bool| Self {
            sentences: (self.sentences.iter().zip(&class_of))
                .filter(|&(_, &class)| in_validation[class] == wanted)
                .map(|(sentence, _)| sentence.clone())
                .collect(),
        };
        Ok((side(false), side(true)))
    }
}

/// Lines joined to paragraphs; a blank line ends one.
fn paragraphs(text: &str) -> Vec<String> {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    lines.split(|line| line.is_empty()).map(|paragraph| paragraph.join(" ")).collect()
}

/// A sentence, cut at the first space after each `longest` bytes.
pub(crate) fn pieces(sentence: &str, longest: usize) -> impl Iterator<Item = &str> {
    let mut rest = Some(sentence);
    std::iter::from_fn(move || {
        let text = rest?;
        let space = text.as_bytes().iter().skip(longest).position(|&byte| byte == b' ').map(|at| longest + at);
        rest = space.map(|space| &text[space + 1..]);
        Some(&text[..space.unwrap_or(text.len())])
    })
}

fn single_spaced(line: &str) -> String {
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}
