//! Takes a training's folder, says what is where in it and whether a process is at it.

use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::files;

const LOCK: &str = "training.lock";
const CHECKPOINTS: &str = "checkpoints";
const TEXTS: &str = "texts";

/// The training's name in figures.
pub(crate) fn name(dir: &Path) -> String {
    dir.file_name().unwrap_or(dir.as_os_str()).to_string_lossy().into_owned()
}

/// Where its checkpoints are.
pub(crate) fn checkpoints(dir: &Path) -> PathBuf {
    dir.join(CHECKPOINTS)
}

/// Where its texts are kept, if they are large.
pub(crate) fn texts(dir: &Path) -> PathBuf {
    dir.join(TEXTS)
}

/// Makes sure that a folder is there, that it has a training in it or nothing but what comes before one, and that no other
/// process trains into it while the file lives.
pub(crate) fn occupy(dir: &Path) -> Result<File> {
    let path = &dir.join(LOCK);
    if dir.exists() && !has_training(dir)? {
        let own: &[&str] = if path.exists() { &[LOCK, CHECKPOINTS, TEXTS] } else { &[] };
        if let Some(name) = names(dir)?.iter().find(|name| own.iter().all(|own| own != name)) {
            let actual = format!("one that has {} in it and no training", name.display());
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

/// Whether there is something to go on with.
fn has_training(dir: &Path) -> Result<bool> {
    let checkpoints = checkpoints(dir);
    Ok(dir.join(LOCK).exists() && checkpoints.exists() && !names(&checkpoints)?.is_empty())
}

/// What is in a folder.
fn names(folder: &Path) -> Result<Vec<OsString>> {
    let reading = |source| Error::reading(folder, source);
    let entries = fs::read_dir(folder).map_err(reading)?;
    entries.map(|entry| Ok(entry.map_err(reading)?.file_name())).collect()
}
