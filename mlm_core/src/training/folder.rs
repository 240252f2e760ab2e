//! Takes a training's folder, says what is where in it and whether a process is at it.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::files;

const LOCK: &str = "training.lock";

/// The training's name in figures.
pub(crate) fn name(dir: &Path) -> String {
    dir.file_name().unwrap_or(dir.as_os_str()).to_string_lossy().into_owned()
}

/// Where its checkpoints are.
pub(crate) fn checkpoints(dir: &Path) -> PathBuf {
    dir.join("checkpoints")
}

/// Where its texts are kept, if they are large.
pub(crate) fn texts(dir: &Path) -> PathBuf {
    dir.join("texts")
}

/// Makes sure that a folder is there, that it has nothing in it but what a training writes, and that no other process
/// trains into it while the file lives.
pub(crate) fn occupy(dir: &Path) -> Result<File> {
    let path = &dir.join(LOCK);
    if dir.exists() && !path.exists() {
        let reading = |source| Error::reading(dir, source);
        if let Some(file) = fs::read_dir(dir).map_err(reading)?.next() {
            let actual = format!("one that has {} in it and no training", file.map_err(reading)?.file_name().display());
            return Err(Error::content(dir, "the folder", "an empty or a new one, or one with a training", actual));
        }
    }
    files::create_folder(dir)?;
    let lock = File::create(path).map_err(|source| Error::writing(path, source))?;
    let locked = lock.try_lock().or_else(|_| {
        // Perhaps somebody is just looking whether a process is at it.
        thread::sleep(Duration::from_millis(100));
        lock.try_lock()
    });
    match locked {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => {
            Err(Error::content(dir, "the folder", "one into which no other process trains", "one with a process at it"))
        }
        Err(TryLockError::Error(source)) => Err(Error::writing(path, source)),
    }
}

/// Whether a process, perhaps this one, trains into a folder.
pub(crate) fn is_occupied(dir: &Path) -> Result<bool> {
    let path = &dir.join(LOCK);
    let lock = File::open(path).map_err(|source| Error::reading(path, source))?;
    match lock.try_lock_shared() {
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(source)) => Err(Error::reading(path, source)),
    }
}
