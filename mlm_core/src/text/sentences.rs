//! What a text is to those who read it: sentences in order, as often as they like, in blocks that all cores read. Where they
//! come from is left to [`crate::text::corpus`] and [`crate::text::text_files`].

use std::iter;
use std::ops::ControlFlow;
use std::sync::mpsc;
use std::thread;

use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::kernel::ProgressLine;

/// How much text a core reads at a time, in bytes: little enough for a look at the stop button after each round.
pub(crate) const BLOCK: usize = 1 << 16;

/// How many blocks there are for each core in a round, so that none waits long for the slowest.
const BLOCKS_PER_CORE: usize = 4;

/// The length from which on a sentence is cut at the next space, in bytes: what the `tokenizers` crate makes of a text takes a
/// hundred times its memory, and a line may be a whole book.
const LONG: usize = 16_384;

/// Sentences to learn from: a [`crate::Corpus`] in memory, or [`crate::TextFiles`] of any size. There is always one, none is
/// blank, and all have single spaces.
pub trait Sentences: Source {}

impl<T: Source> Sentences for T {}

/// Where sentences come from.
pub trait Source: Sync {
    /// All of the text, from its beginning.
    fn blocks(&self) -> Blocks<'_>;

    /// The sum of the blocks' sizes.
    fn bytes(&self) -> u64;
}

/// The blocks of a text, in order.
pub type Blocks<'a> = Box<dyn Iterator<Item = Result<Block<'a>>> + 'a>;

/// A part of a text that holds whole sentences.
pub struct Block<'a> {
    /// Its size, where it comes from.
    pub(crate) bytes: u64,
    /// Gives its sentences, each with a line feed after it: the work that need not be done in order.
    pub(crate) read: Box<dyn FnOnce() -> Result<String> + Send + 'a>,
}

/// Is told how many bytes of a round have been seen; an error where the call is to end.
pub(crate) type At<'a> = dyn FnMut(usize) -> Result<()> + 'a;

/// Pieces of sentences, each with the index of its sentence in the text, which one core reads.
pub(crate) type Pieces<'a> = Vec<(usize, &'a str)>;

impl dyn Sentences + '_ {
    /// Reads the text on all cores, in rounds after each of which there is a look at the stop button, and gives what has been
    /// read, in order, until there is no more or somebody has enough. A line says how far `doing` that is. While one round is
    /// seen, the next one is read.
    pub(crate) fn each_round(
        &self,
        doing: &str,
        see: impl FnMut(&[String], &mut At<'_>) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        let progress = ProgressLine::new(doing, kilobytes(self.bytes()), "kB");
        if self.bytes() <= BLOCK as u64 {
            return see_each(self.rounds(), progress, see);
        }
        thread::scope(|scope| {
            let (read, rounds) = mpsc::sync_channel(1);
            // Until nobody wants to see more.
            let work = move || self.rounds().try_for_each(|round| read.send(round));
            let reader = thread::Builder::new().name("mlm_core reader".to_owned()).spawn_scoped(scope, work);
            reader.map_err(|source| Error::thread("that reads a text".to_owned(), source))?;
            see_each(rounds.into_iter(), progress, see)
        })
    }

    /// So much of the text as the cores read at a time, and where it ends.
    fn rounds(&self) -> impl Iterator<Item = Result<(u64, Vec<String>)>> {
        let (mut blocks, mut end) = (self.blocks(), 0);
        let mut round = move || -> Result<_> {
            let round: Vec<Block<'_>> = blocks.by_ref().take(blocks_per_round()).collect::<Result<_>>()?;
            end += round.iter().map(|block| block.bytes).sum::<u64>();
            Ok((end, round.into_par_iter().map(|block| (block.read)()).collect::<Result<Vec<String>>>()?))
        };
        iter::from_fn(move || Some(round()).filter(|round| !matches!(round, Ok((_, texts)) if texts.is_empty())))
    }

    /// As [`Self::each_round`], with as much as the cores read in one: each sentence, or what it is cut into at spaces, where
    /// `cut` allows that.
    pub(crate) fn each_round_of_pieces(
        &self,
        doing: &str,
        cut: bool,
        mut see: impl FnMut(&[Pieces<'_>]) -> Result<()>,
    ) -> Result<()> {
        let longest = if cut { LONG } else { usize::MAX };
        let mut before = 0;
        self.each_round(doing, |texts, at| {
            let (first, sentences) = (before, texts.iter().flat_map(|text| sentences(text)));
            let mut pieces = sentences.enumerate().flat_map(|(nth, sentence)| {
                before = first + nth + 1;
                pieces(sentence, longest).map(move |piece| (first + nth, piece))
            });
            let mut seen = 0;
            loop {
                // A sentence may be as long as a book.
                at(seen)?;
                let round = round(&mut pieces);
                seen += round.iter().flatten().map(|(_, piece)| piece.len() + 1).sum::<usize>();
                if round.is_empty() {
                    return Ok(ControlFlow::Continue(()));
                }
                see(&round)?;
            }
        })
    }
}

fn see_each(
    rounds: impl Iterator<Item = Result<(u64, Vec<String>)>>,
    mut progress: ProgressLine,
    mut see: impl FnMut(&[String], &mut At<'_>) -> Result<ControlFlow<()>>,
) -> Result<()> {
    let mut start = 0;
    for round in rounds {
        let (end, texts) = round?;
        let bytes = texts.iter().map(String::len).sum::<usize>();
        let mut at = |seen: usize| {
            let share = seen as f64 / bytes.max(1) as f64;
            progress.at(kilobytes(start + ((end - start) as f64 * share) as u64))
        };
        at(0)?;
        if see(&texts, &mut at)?.is_break() {
            return Ok(());
        }
        start = end;
    }
    progress.end();
    Ok(())
}

fn kilobytes(bytes: u64) -> usize {
    (bytes / 1000) as usize
}

fn blocks_per_round() -> usize {
    BLOCKS_PER_CORE * rayon::current_num_threads()
}

/// The sentences of what a block has been read as.
pub(crate) fn sentences(text: &str) -> impl Iterator<Item = &str> {
    text.split_terminator('\n')
}

/// So many pieces as the cores read between two looks at the stop button, in order; none after the last.
fn round<'a>(pieces: &mut impl Iterator<Item = (usize, &'a str)>) -> Vec<Pieces<'a>> {
    let block = |_| {
        let (mut block, mut bytes) = (Vec::new(), 0);
        while bytes < BLOCK {
            let Some(piece) = pieces.next() else { break };
            bytes += piece.1.len();
            block.push(piece);
        }
        Some(block).filter(|block| !block.is_empty())
    };
    (0..blocks_per_round()).map_while(block).collect()
}

/// A sentence, cut at the first space after each `longest` bytes.
pub(crate) fn pieces(sentence: &str, longest: usize) -> impl Iterator<Item = &str> {
    let mut rest = Some(sentence);
    iter::from_fn(move || {
        let text = rest?;
        let space = text.as_bytes().iter().skip(longest).position(|&byte| byte == b' ').map(|at| longest + at);
        rest = space.map(|space| &text[space + 1..]);
        Some(&text[..space.unwrap_or(text.len())])
    })
}

/// Adds a sentence with single spaces; nothing, where it is blank.
pub(crate) fn push_single_spaced(sentence: &str, text: &mut String) {
    let start = text.len();
    for word in sentence.split_whitespace() {
        if text.len() > start {
            text.push(' ');
        }
        text.push_str(word);
    }
    if text.len() > start {
        text.push('\n');
    }
}
