//! Takes named tensors of f32 numbers, writes them into a file in the safetensors format without another copy of them in
//! memory, and says where in such a file they are; what they mean is left to those who ask.

use std::collections::HashMap;
use std::fmt::Display;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, Metadata, TensorInfo};

use crate::error::{Error, Result};
use crate::files;

/// The file begins with the length of its header, a number of so many bytes, of which the header's length is a multiple.
const LENGTH: usize = 8;

/// So many numbers are turned into bytes at once.
const CHUNK: usize = 4096;

/// Writes a file of tensors: of each its name, its shape and its numbers. The file is whole at any time, see [`files::write`].
pub(crate) fn write(path: &Path, tensors: &[(&str, &[usize], &[f32])], fields: HashMap<String, String>) -> Result<()> {
    let wrong = |error: &dyn std::error::Error| Error::content(path, "the file", "tensors that can be written", error);
    let mut end = 0;
    let place = |&(name, shape, numbers): &(&str, &[usize], &[f32])| {
        let start = end;
        end += size_of_val(numbers);
        (name.to_owned(), TensorInfo { dtype: Dtype::F32, shape: shape.to_vec(), data_offsets: (start, end) })
    };
    let header = Metadata::new(Some(fields), tensors.iter().map(place).collect()).map_err(|error| wrong(&error))?;
    let mut header = serde_json::to_vec(&header).map_err(|error| wrong(&error))?;
    header.resize(header.len().next_multiple_of(LENGTH), b' ');
    files::write_with(path, |file| {
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(&header)?;
        tensors.iter().try_for_each(|(_, _, numbers)| put(numbers, file))
    })
}

/// Puts numbers, as they stand in a file, into something.
pub(crate) fn put(numbers: &[f32], into: &mut impl Write) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(CHUNK * size_of::<f32>());
    for chunk in numbers.chunks(CHUNK) {
        bytes.clear();
        bytes.extend(chunk.iter().flat_map(|number| number.to_le_bytes()));
        into.write_all(&bytes)?;
    }
    Ok(())
}

/// A file of tensors, of which the header has been read.
pub(crate) struct TensorFile {
    path: PathBuf,
    /// What it should be.
    expected: &'static str,
    file: File,
    header: Metadata,
    /// Where the tensors begin.
    start: u64,
}

impl TensorFile {
    /// Reads the header. What the file should be is for the message of errors.
    ///
    /// # Errors
    /// When it cannot be read, or does not consist of a header and the tensors that this describes.
    pub(crate) fn open(path: &Path, expected: &'static str) -> Result<Self> {
        let wrong = |actual: &dyn Display| Error::content(path, "the file", expected, actual);
        let reading = |source| Error::reading(path, source);
        let mut file = files::open(path)?;
        let whole = file.metadata().map_err(reading)?.len();
        let mut length = [0; LENGTH];
        if whole < LENGTH as u64 {
            return Err(wrong(&format!("{whole} bytes")));
        }
        file.read_exact(&mut length).map_err(reading)?;
        let length = u64::from_le_bytes(length);
        let start = length.saturating_add(LENGTH as u64);
        if start > whole {
            return Err(wrong(&format!("a header of {length} bytes in a file of {whole}")));
        }
        let mut header = vec![0; length as usize];
        file.read_exact(&mut header).map_err(reading)?;
        let header: Metadata = serde_json::from_slice(&header).map_err(|error| wrong(&error))?;
        let described = start.saturating_add(header.data_len() as u64);
        if described != whole {
            return Err(wrong(&format!("{whole} bytes where {described} are described")));
        }
        Ok(Self { path: path.to_owned(), expected, file, header, start })
    }

    /// That something in it is wrong.
    pub(crate) fn wrong(&self, item: &str, actual: impl Display) -> Error {
        Error::content(&self.path, item, self.expected, actual)
    }

    /// What a field of the header says.
    ///
    /// # Errors
    /// When there is no such field.
    pub(crate) fn field(&self, name: &str) -> Result<&str> {
        let fields = self.header.metadata().as_ref();
        let field = fields.and_then(|fields| fields.get(name)).map(String::as_str);
        field.ok_or_else(|| self.wrong(name, "no such field"))
    }

    /// All tensors: of each its name, what is said of it, and where its numbers begin in the file.
    pub(crate) fn tensors(&self) -> impl Iterator<Item = (String, &TensorInfo, u64)> {
        let tensors = self.header.tensors().into_iter();
        tensors.map(|(name, info)| (name, info, self.start + info.data_offsets.0 as u64))
    }

    /// How many numbers a tensor has.
    ///
    /// # Errors
    /// When there is no such tensor, or it has other numbers than f32.
    pub(crate) fn count(&self, name: &str) -> Result<usize> {
        Ok(self.info(name)?.shape.iter().product())
    }

    fn info(&self, name: &str) -> Result<&TensorInfo> {
        let info = self.header.info(name).ok_or_else(|| self.wrong(name, "no such tensor"))?;
        match info.dtype {
            Dtype::F32 => Ok(info),
            other => Err(self.wrong(name, format!("numbers in {other:?}"))),
        }
    }

    /// The numbers of a tensor; its bytes are also given to `watch`, some at a time.
    ///
    /// # Errors
    /// As [`Self::count`]; when the file cannot be read.
    pub(crate) fn numbers(&mut self, name: &str, mut watch: impl FnMut(&[u8])) -> Result<Vec<f32>> {
        let (count, offset) = (self.count(name)?, self.info(name)?.data_offsets.0 as u64);
        let mut read = || -> io::Result<Vec<f32>> {
            self.file.seek(SeekFrom::Start(self.start + offset))?;
            let mut numbers = Vec::with_capacity(count);
            let mut bytes = vec![0; CHUNK * size_of::<f32>()];
            while numbers.len() < count {
                let chunk = &mut bytes[..CHUNK.min(count - numbers.len()) * size_of::<f32>()];
                self.file.read_exact(chunk)?;
                watch(chunk);
                numbers.extend(chunk.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)));
            }
            Ok(numbers)
        };
        read().map_err(|source| Error::reading(&self.path, source))
    }
}
