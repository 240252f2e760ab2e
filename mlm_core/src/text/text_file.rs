//! Takes a path, gives the bytes of the file as often as somebody wants them, and unpacked where it is `.gz` or `.zst`; what
//! they say is left to [`crate::text::text_files`].

use std::cell::Cell;
use std::fs;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{SystemTime, UNIX_EPOCH};

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};
use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::files;
use crate::text::distinct::key;

/// How files begin that `gzip` and `zstd` write; those of `pzstd` with a frame that is to be skipped.
const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];

/// A file that is read from its beginning several times, and is to be the same each time.
#[derive(Debug)]
pub(crate) struct TextFile {
    path: PathBuf,
    content: Content,
}

#[derive(Debug, PartialEq, Eq)]
enum Content {
    OnDisk {
        bytes: u64,
        modified: Option<SystemTime>,
    },
    /// Of what can be read only once, such as a pipe.
    InMemory(Vec<u8>),
}

impl Content {
    fn on_disk(path: &Path) -> io::Result<Option<Self>> {
        let data = fs::metadata(path)?;
        Ok(data.is_file().then(|| Self::OnDisk { bytes: data.len(), modified: data.modified().ok() }))
    }
}

impl TextFile {
    /// # Errors
    /// When it cannot be read, or stands for another file, which has not been fetched.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let on_disk = Content::on_disk(path).map_err(|source| Error::reading(path, source))?;
        let content = match on_disk {
            Some(content) => content,
            None => Content::InMemory(files::read(path)?),
        };
        Ok(Self { path: path.to_owned(), content })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Its size as it is.
    pub(crate) fn bytes(&self) -> u64 {
        match &self.content {
            Content::OnDisk { bytes, .. } => *bytes,
            Content::InMemory(bytes) => bytes.len() as u64,
        }
    }

    /// What it was when it was opened.
    pub(crate) fn stamp(&self) -> Value {
        match &self.content {
            Content::OnDisk { bytes, modified } => {
                let modified = modified.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
                json!({"path": self.path, "bytes": bytes, "modified": modified.map(|time| time.as_nanos().to_string())})
            }
            Content::InMemory(bytes) => json!({"key": key(bytes, 0).to_string()}),
        }
    }

    /// For whoever does not read it from its beginning on.
    #[cfg(feature = "cli")]
    pub(crate) fn on_disk(&self) -> Result<fs::File> {
        if let Content::InMemory(_) = self.content {
            return Err(Error::content(&self.path, "the file", "one whose end can be read first", "a pipe"));
        }
        self.check_unchanged()?;
        files::open(&self.path)
    }

    pub(crate) fn stream(&self) -> Result<Stream<'_>> {
        self.check_unchanged()?;
        let source: Box<dyn Read> = match &self.content {
            Content::OnDisk { .. } => Box::new(files::open(&self.path)?),
            Content::InMemory(bytes) => Box::new(bytes.as_slice()),
        };
        let taken = Rc::default();
        let mut source = BufReader::new(Counted { source, taken: Rc::clone(&taken) });
        let start = source.fill_buf().map_err(|source| Error::reading(&self.path, source))?;
        let bytes: Box<dyn Read> = if start.starts_with(GZIP) {
            Box::new(MultiGzDecoder::new(source))
        } else if start.starts_with(ZSTD) || matches!(start, [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..]) {
            Box::new(Frames::new(source))
        } else {
            Box::new(source)
        };
        Ok(Stream { file: self, bytes, taken })
    }

    pub(crate) fn check_unchanged(&self) -> Result<()> {
        let Content::OnDisk { .. } = &self.content else { return Ok(()) };
        let now = Content::on_disk(&self.path).map_err(|source| Error::reading(&self.path, source))?;
        if now.as_ref() == Some(&self.content) {
            return Ok(());
        }
        let expected = "what it was when it was opened (start again when nobody writes to it any more)";
        Err(Error::content(&self.path, "the file", expected, "other bytes or another time of writing"))
    }
}

/// The bytes of a file, unpacked.
pub(crate) struct Stream<'a> {
    file: &'a TextFile,
    bytes: Box<dyn Read + 'a>,
    taken: Rc<Cell<u64>>,
}

impl Stream<'_> {
    /// Adds so many bytes to those that are there, or fewer where the file ends; says whether it does.
    pub(crate) fn read(&mut self, bytes: &mut Vec<u8>, more: usize) -> Result<bool> {
        let mut limited = Read::by_ref(&mut self.bytes).take(more as u64);
        let read = limited.read_to_end(bytes).map_err(|source| Error::reading(&self.file.path, source))?;
        if read < more {
            self.file.check_unchanged()?;
        }
        Ok(read < more)
    }

    /// How much of the file as it is has been taken so far.
    pub(crate) fn taken(&self) -> u64 {
        self.taken.get()
    }
}

/// Counts the bytes that are taken.
struct Counted<R> {
    source: R,
    taken: Rc<Cell<u64>>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.source.read(buffer)?;
        self.taken.set(self.taken.get() + read as u64);
        Ok(read)
    }
}

/// What a `.zst` holds: frames, one after the other, some of which are to be skipped.
struct Frames<R> {
    source: R,
    /// Of the frame that has been begun.
    decoder: FrameDecoder,
}

impl<R: BufRead> Frames<R> {
    fn new(source: R) -> Self {
        Self { source, decoder: FrameDecoder::new() }
    }

    /// Goes on to the next frame; false where there is none.
    fn next(&mut self) -> io::Result<bool> {
        let (read, calculated) = (self.decoder.get_checksum_from_data(), self.decoder.get_calculated_checksum());
        if read.is_some() && read != calculated {
            return Err(io::Error::other("the checksum of a zstd frame is another one than that of its content"));
        }
        while !self.source.fill_buf()?.is_empty() {
            match self.decoder.reset(&mut self.source) {
                Ok(()) => return Ok(true),
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame { length, .. })) => {
                    let skipped = io::copy(&mut Read::by_ref(&mut self.source).take(length.into()), &mut io::sink())?;
                    if skipped < length.into() {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                Err(error) => return Err(io::Error::other(error)),
            }
        }
        Ok(false)
    }
}

impl<R: BufRead> Read for Frames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.decoder.can_collect() == 0 {
            if self.decoder.is_finished() {
                if !self.next()? {
                    return Ok(0);
                }
            } else {
                let one = BlockDecodingStrategy::UptoBlocks(1);
                self.decoder.decode_blocks(&mut self.source, one).map_err(io::Error::other)?;
            }
        }
        self.decoder.read(buffer)
    }
}
