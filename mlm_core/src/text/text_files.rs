//! Takes files of text, gives their sentences as a stream; what is kept of them is left to those who read it.

use std::fmt;
use std::mem;
use std::path::Path;
use std::sync::Arc;

use rand::rngs::StdRng;
use serde_json::{Map, Value, json};
use unicode_segmentation::UnicodeSegmentation;

use crate::error::{Error, Result};
use crate::files;
use crate::text::held_out::HeldOut;
#[cfg(feature = "cli")]
use crate::text::parquet;
use crate::text::sentences::{BLOCK, Block, Blocks, Source, push_single_spaced};
use crate::text::text_file::{Stream, TextFile};

/// So much of a file without a line feed says that its lines end with carriage returns.
const MUCH: usize = 1 << 20;

/// How a text file is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub enum Layout {
    /// One sentence a line; blank lines are skipped
    Lines,
    /// Running text whose lines may break anywhere: a blank line ends a paragraph, and each paragraph is split
    /// into sentences by the rules of Unicode (UAX #29). These hold for all languages and know no abbreviations: a sentence
    /// ends after the `Dr.` of a name
    Prose,
}

/// How text stands in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Format {
    /// Nothing but text.
    Text,
    /// JSON lines: on each line an object, whose text is the string in this field.
    JsonLines {
        /// Its name.
        field: String,
    },
    /// Apache Parquet, with the text in this column of strings.
    #[cfg(feature = "cli")]
    Parquet {
        /// Its name; of one in a group with points between, as in `answers.text`.
        column: String,
    },
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
/// let text = TextFiles::open([path], Format::Text, Layout::Lines)?;
/// let (train, validation) = text.split(0.5, &mut StdRng::seed_from_u64(0))?;
/// let tokenizer = Tokenizer::train(&train, &TokenizerConfig::new(1000))?;
/// assert_eq!(tokenizer.encode_corpus(&train.repeat(3)?, 32)?.sequences.len(), 3);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct TextFiles {
    files: Arc<[TextFile]>,
    format: Format,
    layout: Layout,
    /// A sentence is part of it that each of them holds back, or not, as it says.
    sides: Vec<(Arc<HeldOut>, bool)>,
    times: usize,
}

impl TextFiles {
    /// Files of UTF-8 text, one after the other (a byte order mark and CRLF line ends are understood). Where a file holds many
    /// texts, each ends a line and a paragraph, and a null is none. What can be read only once, such as a pipe, is read into
    /// memory.
    ///
    /// # Errors
    /// When a file cannot be read or holds no sentence. Where one is not UTF-8, a record has no text, or the file is changed
    /// meanwhile, those say so who read the text.
    pub fn open(paths: impl IntoIterator<Item = impl AsRef<Path>>, format: Format, layout: Layout) -> Result<Self> {
        let files = paths.into_iter().map(|path| TextFile::open(path.as_ref())).collect::<Result<_>>()?;
        let text = Self { files, format, layout, sides: Vec::new(), times: 1 };
        for file in &*text.files {
            let mut texts = text.blocks_of(file).map(|block| (block?.read)());
            let sentence = texts.find(|text| !text.as_ref().is_ok_and(String::is_empty));
            if sentence.transpose()?.is_none() {
                return Err(Error::no_sentence(&file.path().display().to_string(), file.bytes() == 0));
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

    /// What it is made of, in words that say so after a restart, too; nothing, where it is only a side of a text.
    pub(crate) fn made_of(&self) -> Option<Value> {
        let files: Vec<Value> = self.files.iter().map(TextFile::stamp).collect();
        let (format, layout) = (format!("{:?}", self.format), format!("{:?}", self.layout));
        self.sides.is_empty().then(|| json!({"files": files, "format": format, "layout": layout, "times": self.times}))
    }

    fn blocks_of<'a>(&'a self, file: &'a TextFile) -> Blocks<'a> {
        match &self.format {
            Format::Text | Format::JsonLines { .. } => {
                Box::new(FileBlocks { text: self, file, open: None, offset: 0, lines: 0, taken: 0 })
            }
            #[cfg(feature = "cli")]
            Format::Parquet { column } => {
                parquet::blocks(file, column, |text, sentences| self.push(text, '\n', sentences))
            }
        }
    }

    /// Adds those sentences of a text that are part of it.
    fn push(&self, text: &str, line_end: char, sentences: &mut String) {
        let mut push = |sentence: &str| {
            let start = sentences.len();
            push_single_spaced(sentence, sentences);
            if sentences.len() > start && !self.has(&sentences[start..sentences.len() - 1]) {
                sentences.truncate(start);
            }
        };
        let lines = text.split(line_end);
        if self.layout == Layout::Lines {
            return lines.for_each(push);
        }
        let mut paragraph = String::new();
        // One more blank line ends the last paragraph.
        for line in lines.map(str::trim).chain([""]) {
            if line.is_empty() {
                paragraph.unicode_sentences().for_each(&mut push);
                paragraph.clear();
            } else {
                paragraph.push_str(line);
                paragraph.push(' ');
            }
        }
    }

    fn has(&self, sentence: &str) -> bool {
        self.sides.iter().all(|(held_out, side)| held_out.has(sentence) == *side)
    }
}

impl Source for TextFiles {
    fn blocks(&self) -> Blocks<'_> {
        let files = (0..self.times).flat_map(|_| self.files.iter());
        Box::new(files.flat_map(|file| self.blocks_of(file)))
    }

    fn bytes(&self) -> u64 {
        self.files.iter().map(TextFile::bytes).sum::<u64>().saturating_mul(self.times as u64)
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

    /// Whole lines or paragraphs; none where there are no more.
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
        let layout = if text.format == Format::Text { text.layout } else { Layout::Lines };
        let bytes = open.next(layout)?;
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

fn names(fields: &Map<String, Value>) -> String {
    fields.keys().map(String::as_str).collect::<Vec<_>>().join(", ")
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
    /// The sentences of these bytes.
    fn sentences(&self, bytes: Vec<u8>) -> Result<String> {
        let Self { text: of, file, offset, lines, line_end } = *self;
        let text = files::decode(file.path(), bytes, offset, lines, line_end)?;
        let line_end = char::from(line_end);
        let text = if offset == 0 { text.strip_prefix('\u{feff}').unwrap_or(&text) } else { &text };
        let mut sentences = String::with_capacity(text.len() + 1);
        let Format::JsonLines { field } = &of.format else {
            of.push(text, line_end, &mut sentences);
            return Ok(sentences);
        };
        for (line, record) in (lines + 1..).zip(text.split(line_end)) {
            let refused = |actual: &dyn fmt::Display| {
                let expected = format!("a JSON object with a string in its field {field:?} (--field)");
                Error::content(file.path(), &format!("line {line}"), expected, actual)
            };
            if record.trim().is_empty() {
                continue;
            }
            match serde_json::from_str(record).map_err(|error| refused(&error))? {
                Value::Object(fields) => match fields.get(field) {
                    Some(Value::String(text)) => of.push(text, '\n', &mut sentences),
                    Some(Value::Null) => {}
                    Some(other) => return Err(refused(&format!("{other} in it"))),
                    None => return Err(refused(&format!("one with the fields {}", names(&fields)))),
                },
                other => return Err(refused(&other)),
            }
        }
        Ok(sentences)
    }
}
