//! Takes a file of Apache Parquet and the name of a column of strings, gives its texts; their sentences are left to
//! [`crate::text::text_files`].

use std::fs::File;
use std::iter;

use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};

use crate::error::{Error, Result};
use crate::text::sentences::{BLOCK, Block, Blocks};
use crate::text::text_file::TextFile;

/// How many rows are taken from a column at once.
const ROWS: usize = 64;

/// The blocks of a file; `push` adds the sentences of a text.
pub(crate) fn blocks<'a>(
    file: &'a TextFile,
    column: &str,
    push: impl Fn(&str, &mut String) + Copy + Send + 'a,
) -> Blocks<'a> {
    let mut open = match Open::new(file, column) {
        Ok(open) => open,
        Err(error) => return Box::new(iter::once(Err(error))),
    };
    Box::new(iter::from_fn(move || open.next(push).transpose()))
}

/// A file that is being read.
struct Open<'a> {
    file: &'a TextFile,
    reader: SerializedFileReader<File>,
    /// The index of the column.
    column: usize,
    /// Of the group of rows that is being read.
    texts: Option<ColumnReaderImpl<ByteArrayType>>,
    next_group: usize,
    /// How many there are, and how many are in blocks.
    rows: usize,
    done: usize,
}

impl<'a> Open<'a> {
    fn new(file: &'a TextFile, column: &str) -> Result<Self> {
        let reader = SerializedFileReader::new(file.on_disk()?).map_err(failed(file))?;
        let schema = reader.metadata().file_metadata().schema_descr();
        let columns: Vec<String> = schema.columns().iter().map(|column| column.path().string()).collect();
        let Some(index) = columns.iter().position(|name| name == column) else {
            let expected = format!("one with the name {column:?} (--field)");
            return Err(Error::content(file.path(), "the columns", expected, columns.join(", ")));
        };
        let rows = reader.metadata().file_metadata().num_rows() as usize;
        Ok(Self { file, reader, column: index, texts: None, next_group: 0, rows, done: 0 })
    }

    fn next(&mut self, push: impl Fn(&str, &mut String) + Send + 'a) -> Result<Option<Block<'a>>> {
        let (mut texts, mut size, first) = (Vec::new(), 0, self.done);
        while size < BLOCK && self.read(&mut texts)? {
            size = texts.iter().map(ByteArray::len).sum();
        }
        if self.done == first {
            self.file.check_unchanged()?;
            return Ok(None);
        }
        let position = |row: usize| (u128::from(self.file.bytes()) * row as u128 / self.rows.max(1) as u128) as u64;
        let (file, bytes) = (self.file, position(self.done) - position(first));
        let read = move || {
            let refused = |error| Error::content(file.path(), &format!("rows from {first} on"), "text in UTF-8", error);
            let mut sentences = String::new();
            for text in &texts {
                push(text.as_utf8().map_err(refused)?, &mut sentences);
            }
            Ok(sentences)
        };
        Ok(Some(Block { bytes, read: Box::new(read) }))
    }

    /// Adds the texts of some rows; false where there are no more.
    fn read(&mut self, texts: &mut Vec<ByteArray>) -> Result<bool> {
        let failed = failed(self.file);
        loop {
            if let Some(reader) = &mut self.texts {
                // Of nulls and of lists, which are not looked at.
                let (mut defined, mut repeated) = (Vec::new(), Vec::new());
                let (rows, _, _) =
                    reader.read_records(ROWS, Some(&mut defined), Some(&mut repeated), texts).map_err(&failed)?;
                self.done += rows;
                if rows > 0 {
                    return Ok(true);
                }
            }
            if self.next_group == self.reader.num_row_groups() {
                return Ok(false);
            }
            let group = self.reader.get_row_group(self.next_group).map_err(&failed)?;
            self.next_group += 1;
            let ColumnReader::ByteArrayColumnReader(reader) = group.get_column_reader(self.column).map_err(&failed)?
            else {
                return Err(Error::content(self.file.path(), "the column", "one of strings", "one of another type"));
            };
            self.texts = Some(reader);
        }
    }
}

fn failed(file: &TextFile) -> impl Fn(ParquetError) -> Error {
    |error| Error::content(file.path(), "the file", "Apache Parquet that can be read", error)
}
