//! Takes sequences of ids, keeps them in two files, and reads those that somebody asks for: by position and not by a map of
//! the file into memory, where a file that something has cut ends the process and what has been read counts as its memory.

use std::fs::File;
use std::io::{self, BufWriter, ErrorKind, Write};
use std::iter;
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::files;

/// The bytes of the end of a sequence.
const END: usize = 8;

/// The ids of sequences, end to end, and where each ends.
#[derive(Debug)]
pub(crate) struct SequenceFiles {
    ids: Part,
    ends: Part,
    width: Width,
    sequences: usize,
    tokens: usize,
}

#[derive(Debug)]
struct Part {
    path: PathBuf,
    file: File,
}

/// How many bytes an id takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Width {
    Two = 2,
    Four = 4,
}

impl Width {
    /// What the ids of a vocabulary need.
    pub(crate) fn of_vocab(vocab: usize) -> Self {
        if vocab <= 1 << 16 { Self::Two } else { Self::Four }
    }
}

/// The names of the two files.
pub(crate) fn paths(stem: &Path) -> [PathBuf; 2] {
    ["ids", "ends"].map(|extension| stem.with_extension(extension))
}

impl SequenceFiles {
    /// Of so many sequences with so many tokens, which were written under that name.
    ///
    /// # Errors
    /// When the files cannot be read, or hold more or less.
    pub(crate) fn open(stem: &Path, width: Width, sequences: usize, tokens: usize) -> Result<Self> {
        let open = |path: PathBuf, bytes: usize| {
            let reading = |source| Error::reading(&path, source);
            let file = File::open(&path).map_err(reading)?;
            let actual = file.metadata().map_err(reading)?.len();
            if actual == bytes as u64 {
                Ok(Part { path, file })
            } else {
                Err(damaged(&path, &format!("{actual} bytes")))
            }
        };
        let [ids, ends] = paths(stem);
        let (ids, ends) = (open(ids, width as usize * tokens)?, open(ends, END * sequences)?);
        Ok(Self { ids, ends, width, sequences, tokens })
    }

    pub(crate) fn len(&self) -> usize {
        self.sequences
    }

    pub(crate) fn tokens(&self) -> usize {
        self.tokens
    }

    /// Some sequences, which follow each other: their ids, and where each ends among these.
    pub(crate) fn read(&self, range: Range<usize>, ids: &mut Vec<u32>, ends: &mut Vec<usize>) -> Result<()> {
        // Where the first begins, the one before it ends.
        let first = range.start.saturating_sub(1);
        let mut bytes = vec![0; END * (range.end - first)];
        self.ends.read(&mut bytes, END * first)?;
        let before = iter::repeat_n(0, usize::from(range.start == 0));
        let read = bytes.as_chunks().0.iter().map(|&end| u64::from_le_bytes(end) as usize);
        ends.clear();
        ends.extend(before.chain(read));
        let [start, end] = [ends[0], ends[ends.len() - 1]];
        if !ends.is_sorted() || end > self.tokens {
            return Err(damaged(&self.ends.path, "ends that are none"));
        }
        ends.remove(0);
        ends.iter_mut().for_each(|end| *end -= start);
        let width = self.width as usize;
        bytes.resize(width * (end - start), 0);
        self.ids.read(&mut bytes, width * start)?;
        ids.clear();
        match self.width {
            Width::Two => ids.extend(bytes.as_chunks().0.iter().map(|&id| u32::from(u16::from_le_bytes(id)))),
            Width::Four => ids.extend(bytes.as_chunks().0.iter().map(|&id| u32::from_le_bytes(id))),
        }
        Ok(())
    }
}

impl Part {
    fn read(&self, bytes: &mut [u8], offset: usize) -> Result<()> {
        read_at(&self.file, bytes, offset as u64).map_err(|source| match source.kind() {
            ErrorKind::UnexpectedEof => damaged(&self.path, "fewer bytes"),
            _ => Error::reading(&self.path, source),
        })
    }
}

fn damaged(path: &Path, actual: &str) -> Error {
    Error::content(path, "the file", "what was written into it (without its folder, it is made again)", actual)
}

#[cfg(unix)]
fn read_at(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, offset)
}

#[cfg(windows)]
fn read_at(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<()> {
    let mut done = 0;
    while done < bytes.len() {
        match std::os::windows::fs::FileExt::seek_read(file, &mut bytes[done..], offset + done as u64)? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            read => done += read,
        }
    }
    Ok(())
}

/// The files while they are written.
#[derive(Debug)]
pub(crate) struct SequenceFilesWriter {
    stem: PathBuf,
    ids: BufWriter<File>,
    ends: BufWriter<File>,
    width: Width,
    /// Those of a sequence.
    bytes: Vec<u8>,
    sequences: usize,
    tokens: usize,
}

impl SequenceFilesWriter {
    /// Files of that name, and the folder for them.
    pub(crate) fn create(stem: &Path, width: Width) -> Result<Self> {
        if let Some(folder) = stem.parent() {
            files::create_folder(folder)?;
        }
        let create = |path: &PathBuf| match File::create(path) {
            Ok(file) => Ok(BufWriter::new(file)),
            Err(source) => Err(Error::writing(path, source)),
        };
        let [ids, ends] = paths(stem);
        let (ids, ends) = (create(&ids)?, create(&ends)?);
        Ok(Self { stem: stem.to_owned(), ids, ends, width, bytes: Vec::new(), sequences: 0, tokens: 0 })
    }

    pub(crate) fn push(&mut self, sequence: impl IntoIterator<Item = u32>) -> Result<()> {
        let Self { stem, ids, ends, width, bytes, sequences, tokens } = self;
        bytes.clear();
        match width {
            Width::Two => sequence.into_iter().for_each(|id| bytes.extend((id as u16).to_le_bytes())),
            Width::Four => sequence.into_iter().for_each(|id| bytes.extend(id.to_le_bytes())),
        }
        *tokens += bytes.len() / *width as usize;
        *sequences += 1;
        let written = ids.write_all(bytes).and_then(|()| ends.write_all(&(*tokens as u64).to_le_bytes()));
        written.map_err(|source| Error::writing(stem, source))
    }

    /// Makes sure that all is on the disk.
    pub(crate) fn finish(self) -> Result<SequenceFiles> {
        let Self { stem, ids, ends, width, sequences, tokens, .. } = self;
        for (path, file) in paths(&stem).iter().zip([ids, ends]) {
            let sync = || file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all();
            sync().map_err(|source| Error::writing(path, source))?;
        }
        SequenceFiles::open(&stem, width, sequences, tokens)
    }
}
