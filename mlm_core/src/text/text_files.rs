//! Takes files of text, gives their sentences as a stream; what is kept of them is left to those who read it.

use std::mem;
use std::path::Path;
use std::sync::Arc;

use rand::rngs::StdRng;
use unicode_segmentation::UnicodeSegmentation;

use crate::error::{Error, Result};
use crate::text::held_out::HeldOut;
use crate::text::sentences::{BLOCK, Block, Blocks, Source, push_single_spaced, sentences};
use crate::text::text_file::{Stream, TextFile};

/// So much of a file without a line feed says that its lines end with carriage returns.
const MUCH: usize = 1 << 20;

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

/// The text of files, of any size: whoever reads it goes through the files once more, and has a few blocks of them in memory at a
/// time. Files that `gzip` or `zstd` has packed are unpacked on the way.
///
/// ```
/// # use mlm_core::{rand::{SeedableRng, rngs::StdRng}, *};
/// # fn main() -> Result<()> {
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = &folder.path().join("text.txt");
/// # std::fs::write(path, "The cake is a lie\nTo be or not to be\n").unwrap();
/// let text = TextFiles::open([path], Layout::Lines)?;
/// let (train, validation) = text.split(0.5, &mut StdRng::seed_from_u64(0))?;
/// let tokenizer = Tokenizer::train(&train, &TokenizerConfig::new(1000))?;
/// assert_eq!(tokenizer.encode_corpus(&train.repeat(3)?, 32)?.sequences.len(), 3);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct TextFiles {
    files: Arc<[TextFile]>,
    layout: Layout,
    /// A sentence is part of it that each of them holds back, or not, as it says.
    sides: Vec<(Arc<HeldOut>, bool)>,
    times: usize,
}

impl TextFiles {
    /// Files of UTF-8 text, one after the other (a byte order mark and CRLF line ends are understood). What can be read only
    /// once, such as a pipe, is read into memory.
    ///
    /// # Errors
    /// When a file cannot be read or holds no sentence. Where one is not UTF-8, or is changed meanwhile, those say so who read
    /// the text.
    pub fn open(paths: impl IntoIterator<Item = impl AsRef<Path>>, layout: Layout) -> Result<Self> {
        let files = paths.into_iter().map(|path| TextFile::open(path.as_ref())).collect::<Result<_>>()?;
        let text = Self { files, layout, sides: Vec::new(), times: 1 };
        for file in &*text.files {
            let mut blocks = text.blocks_of(file);
            loop {
                let Some(block) = blocks.next() else {
                    return Err(Error::no_sentence(&file.path().display().to_string(), blocks.lines));
                };
                if !(block?.read)()?.is_empty() {
                    break;
                }
            }
        }
        Ok(text)
    }

    /// The text written `times` times, one after the other.
    ///
    /// # Errors
    /// When `times` is 0.
    pub fn repeat(&self, times: usize) -> Result<Self> {
        if times == 0 {
            return Err(Error::argument("times", "at least 1", times));
        }
        Ok(Self { times: self.times.saturating_mul(times), ..self.clone() })
    }

    /// As [`crate::Corpus::split`].
    ///
    /// # Errors
    /// As there, and when the files cannot be read.
    pub fn split(&self, validation: f64, rng: &mut StdRng) -> Result<(Self, Self)> {
        let held_out = Arc::new(HeldOut::draw(self, validation, rng)?);
        let side = |is_held_out| {
            let mut side = self.clone();
            side.sides.push((Arc::clone(&held_out), is_held_out));
            side
        };
        Ok((side(false), side(true)))
    }

    fn blocks_of<'a>(&'a self, file: &'a TextFile) -> FileBlocks<'a> {
        FileBlocks { text: self, file, open: None, offset: 0, lines: 0, taken: 0 }
    }

    fn has(&self, sentence: &str) -> bool {
        self.sides.iter().all(|(held_out, wanted)| held_out.has(sentence) == *wanted)
    }
}

impl Source for TextFiles {
    fn blocks(&self) -> Blocks<'_> {
        let files = (0..self.times).flat_map(|_| self.files.iter());
        Box::new(files.flat_map(|file| self.blocks_of(file)))
    }

    fn bytes(&self) -> u64 {
        self.times as u64 * self.files.iter().map(TextFile::bytes).sum::<u64>()
    }
}

/// The blocks of one file.
struct FileBlocks<'a> {
    text: &'a TextFiles,
    file: &'a TextFile,
    open: Option<Open<'a>>,
    /// What has been given in blocks: bytes of the text, its lines, and bytes of the file.
    offset: usize,
    lines: usize,
    taken: u64,
}

/// A file that is being read.
struct Open<'a> {
    stream: Stream<'a>,
    has_ended: bool,
    /// What has been read and is in no block yet.
    rest: Vec<u8>,
    line_end: u8,
}

impl<'a> Open<'a> {
    fn new(file: &'a TextFile) -> Result<Self> {
        let (mut stream, mut rest, mut has_ended) = (file.stream()?, Vec::new(), false);
        while !has_ended && !rest.contains(&b'\n') && rest.len() < MUCH {
            has_ended = stream.read(&mut rest, BLOCK)?;
        }
        // As old Macs wrote text. Elsewhere a carriage return is white space.
        let is_old = !rest.contains(&b'\n') && rest.contains(&b'\r');
        Ok(Self { stream, has_ended, rest, line_end: if is_old { b'\r' } else { b'\n' } })
    }

    /// Whole lines or, of prose, whole paragraphs; none where there are no more.
    fn next(&mut self, layout: Layout) -> Result<Vec<u8>> {
        let Self { stream, has_ended, rest, line_end } = self;
        // How far the rest has been looked at, where the line starts that goes on there, and where a block may end.
        let (mut seen, mut line, mut end) = (0, 0, 0);
        loop {
            while let Some(at) = rest[seen..].iter().position(|byte| byte == line_end) {
                seen += at + 1;
                if layout == Layout::Lines || rest[line..seen].trim_ascii().is_empty() {
                    end = seen;
                }
                line = seen;
            }
            seen = rest.len();
            if *has_ended {
                return Ok(mem::take(rest));
            }
            if end > 0 && seen >= BLOCK {
                let next = rest.split_off(end);
                return Ok(mem::replace(rest, next));
            }
            *has_ended = stream.read(rest, BLOCK)?;
        }
    }
}

impl<'a> FileBlocks<'a> {
    fn read(&mut self) -> Result<Option<Block<'a>>> {
        let Self { text, file, open, .. } = self;
        let open = match open {
            Some(open) => open,
            none => none.insert(Open::new(file)?),
        };
        let bytes = open.next(text.layout)?;
        if bytes.is_empty() {
            return Ok(None);
        }
        let part = PartOfFile { text, file, offset: self.offset, lines: self.lines, line_end: open.line_end };
        self.offset += bytes.len();
        self.lines += lines(&bytes, open.line_end);
        let taken = mem::replace(&mut self.taken, open.stream.taken());
        Ok(Some(Block { bytes: self.taken - taken, read: Box::new(move || part.sentences(bytes)) }))
    }
}

impl<'a> Iterator for FileBlocks<'a> {
    type Item = Result<Block<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read().transpose()
    }
}

/// The number of lines, of which the last one need not have an end.
fn lines(bytes: &[u8], line_end: u8) -> usize {
    let ends = bytes.iter().filter(|&&byte| byte == line_end).count();
    ends + usize::from(bytes.last().is_some_and(|&last| last != line_end))
}

/// Where some bytes of a text come from.
struct PartOfFile<'a> {
    text: &'a TextFiles,
    file: &'a TextFile,
    /// The bytes of the text before it, and the lines.
    offset: usize,
    lines: usize,
    line_end: u8,
}

impl PartOfFile<'_> {
    /// The sentences of these bytes that are part of the text.
    fn sentences(&self, bytes: Vec<u8>) -> Result<String> {
        let text = self.decode(bytes)?;
        let text = if self.offset == 0 { text.strip_prefix('\u{feff}').unwrap_or(&text) } else { &text };
        let lines = text.split(char::from(self.line_end));
        let mut all = String::with_capacity(text.len() + 1);
        match self.text.layout {
            Layout::Lines => lines.for_each(|line| push_single_spaced(line, &mut all)),
            Layout::Prose => {
                let mut paragraph = String::new();
                // One more blank line ends the last paragraph.
                for line in lines.map(str::trim).chain([""]) {
                    if line.is_empty() {
                        paragraph.unicode_sentences().for_each(|sentence| push_single_spaced(sentence, &mut all));
                        paragraph.clear();
                    } else {
                        paragraph.push_str(line);
                        paragraph.push(' ');
                    }
                }
            }
        }
        if self.text.sides.is_empty() {
            return Ok(all);
        }
        Ok(sentences(&all).filter(|sentence| self.text.has(sentence)).flat_map(|sentence| [sentence, "\n"]).collect())
    }

    /// Text in other encodings, whose bytes happen to be UTF-8, is none.
    fn decode(&self, bytes: Vec<u8>) -> Result<String> {
        let path = self.file.path();
        let line = |before: &[u8]| 1 + self.lines + before.iter().filter(|&&byte| byte == self.line_end).count();
        let text = String::from_utf8(bytes).map_err(|error| {
            let valid = error.utf8_error().valid_up_to();
            let (offset, line) = (self.offset + valid, line(&error.as_bytes()[..valid]));
            Error::Utf8 { path: path.to_owned(), offset, line }
        })?;
        let of_others = [("\0", "a NUL, as UTF-16 has it"), ("\u{1b}$", "an escape sequence, as ISO-2022-JP has it")];
        for (sign, actual) in of_others {
            if let Some(at) = text.find(sign) {
                let line = format!("line {}", line(&text.as_bytes()[..at]));
                return Err(Error::content(path, &line, "text in UTF-8 (save the file so)", actual));
            }
        }
        Ok(text)
    }
}
