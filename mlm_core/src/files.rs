//! Takes paths and bytes: reads whole files, and writes them so that a reader finds the old file or the new one, never a
//! part of one; what is in them is left to those who ask.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::path::Path;

use serde_json::Value;

use crate::error::{Error, Result};

/// The last part of the name of a file that is being written.
const PARTIAL: &str = "partial";

/// How a file begins that stands for another one, which has not been fetched.
const LFS_POINTER: &[u8] = b"version https://git-lfs.github.com/spec/";

pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    let bytes = fs::read(path).map_err(|source| Error::reading(path, source))?;
    if bytes.starts_with(LFS_POINTER) { Err(not_fetched(path)) } else { Ok(bytes) }
}

/// Opens a file that is not read as a whole.
pub(crate) fn open(path: &Path) -> Result<File> {
    let open = || {
        let mut file = File::open(path)?;
        let mut start = Vec::with_capacity(LFS_POINTER.len());
        Read::by_ref(&mut file).take(LFS_POINTER.len() as u64).read_to_end(&mut start)?;
        file.rewind()?;
        Ok((file, start == LFS_POINTER))
    };
    let (file, is_pointer) = open().map_err(|source| Error::reading(path, source))?;
    if is_pointer { Err(not_fetched(path)) } else { Ok(file) }
}

fn not_fetched(path: &Path) -> Error {
    let expected = "its content (`git lfs pull` in the folder fetches it)";
    Error::content(path, "the file", expected, "a Git LFS pointer to it")
}

/// A file of UTF-8 text, without a byte order mark; its lines end with a line feed.
pub(crate) fn read_text(path: &Path) -> Result<String> {
    let mut text = decode(path, read(path)?, 0, 0, b'\n')?;
    if text.starts_with('\u{feff}') {
        text.remove(0);
    }
    // As old Macs wrote text. Elsewhere a carriage return is white space.
    if !text.contains('\n') {
        text = text.replace('\r', "\n");
    }
    Ok(text)
}

/// Bytes of a file as the UTF-8 text that they are to be, with so many bytes and lines before them. Text in other encodings,
/// whose bytes happen to be UTF-8, is none.
pub(crate) fn decode(path: &Path, bytes: Vec<u8>, offset: usize, lines: usize, line_end: u8) -> Result<String> {
    let line = |before: &[u8]| 1 + lines + before.iter().filter(|&&byte| byte == line_end).count();
    let text = String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let (offset, line) = (offset + valid, line(&error.as_bytes()[..valid]));
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

/// A JSON file that holds an object.
pub(crate) fn read_json(path: &Path) -> Result<Value> {
    match serde_json::from_slice(&read(path)?) {
        Ok(value @ Value::Object(_)) => Ok(value),
        Ok(_) => Err(Error::content(path, "the file", "a JSON object", "JSON of another kind")),
        Err(error) => Err(Error::content(path, "the file", "JSON", error)),
    }
}

/// Writes a file of JSON for people to read, too.
pub(crate) fn write_json(path: &Path, value: &Value) -> Result<()> {
    write(path, format!("{value:#}\n").as_bytes())
}

/// Writes a file, or leaves the one that was there as it was: the bytes go to the disk under another name, which then
/// takes the place of the old one.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    write_with(path, |file| file.write_all(bytes))
}

/// As [`write`], whatever a function puts into the file.
pub(crate) fn write_with(path: &Path, put: impl FnOnce(&mut File) -> io::Result<()>) -> Result<()> {
    let partial = path.with_added_extension(PARTIAL);
    let write = || {
        let mut file = File::create(&partial)?;
        put(&mut file)?;
        file.sync_all()?;
        fs::rename(&partial, path)?;
        sync_folder_of(path)
    };
    write().map_err(|source| {
        // Of no use to anybody; and when it cannot be removed, what came first is what matters.
        let _ = fs::remove_file(&partial);
        Error::writing(path, source)
    })
}

/// Removes what a process has left in a folder that was killed while it wrote. No other one may be writing there.
pub(crate) fn remove_partial(folder: &Path) -> Result<()> {
    for file in fs::read_dir(folder).map_err(|source| Error::reading(folder, source))? {
        let path = file.map_err(|source| Error::reading(folder, source))?.path();
        if path.extension() == Some(OsStr::new(PARTIAL)) {
            fs::remove_file(&path).map_err(|source| Error::writing(&path, source))?;
        }
    }
    Ok(())
}

/// Makes sure that a new name in a folder outlives a loss of power.
#[cfg(unix)]
fn sync_folder_of(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

/// Other systems do not open folders as files, and have no such call.
#[cfg(not(unix))]
fn sync_folder_of(_path: &Path) -> io::Result<()> {
    Ok(())
}

pub(crate) fn create_folder(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(|source| Error::writing(path, source))
}
