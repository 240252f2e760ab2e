//! The one error type of the crate: takes whatever went wrong, gives a sentence that says which file or argument,
//! what was expected, what came, and what to do.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What can go wrong. `Debug` prints the same sentence as `Display`, because that is what a notebook shows for a
/// failed `?`.
#[derive(Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    File {
        /// `read` or `write`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: Arc<io::Error>,
    },
    /// A text file is not UTF-8.
    #[error("{} is not UTF-8: invalid byte at offset {offset} (line {line}); save the file as UTF-8", path.display())]
    Utf8 {
        /// The file.
        path: PathBuf,
        /// Offset in bytes of the first invalid byte.
        offset: usize,
        /// The line it stands in, counted from 1.
        line: usize,
    },
    /// A text holds no sentence.
    #[error("{origin} holds no sentence: {reason}")]
    NoSentence {
        /// The file, or a name for the text.
        origin: String,
        /// Why there is none, and what to do.
        reason: String,
    },
    /// An argument is out of its range, or does not fit the others.
    #[error("{argument}: expected {expected}, got {actual}")]
    Argument {
        /// The argument's name, as it stands in the code.
        argument: &'static str,
        /// The values that are accepted.
        expected: String,
        /// The value that came.
        actual: String,
    },
    /// A file does not hold what it should.
    #[error("{}: {item}: expected {expected}, got {actual}", path.display())]
    Content {
        /// The file, or the folder that lacks one.
        path: PathBuf,
        /// The field, tensor or part of the file.
        item: String,
        /// What was expected there.
        expected: String,
        /// What is there.
        actual: String,
    },
    /// A grammar has a mistake.
    #[error("{origin}, line {line}: {problem}")]
    Grammar {
        /// The file, or a name for the text.
        origin: String,
        /// The line, counted from 1.
        line: usize,
        /// What is wrong there.
        problem: String,
    },
    /// The tokenizers crate failed.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    /// A weight got no gradient, so training would silently leave it as it is.
    #[error("no gradient reached {name}: the loss does not depend on it, or an operation on the way cuts gradients")]
    MissingGradient {
        /// The weight's name.
        name: String,
    },
    /// A backward pass was asked for that has nothing to go back over.
    #[error("backward: expected a call of forward just before it, whose loss it is the gradient of, got none")]
    NoForward,
    /// The operating system starts no thread.
    #[error("the system starts no thread for {purpose}: {source}")]
    Thread {
        /// Who wanted one.
        purpose: String,
        /// What the operating system said.
        source: Arc<io::Error>,
    },
    /// A thread panicked.
    #[error("a panic: {0}")]
    Panic(String),
    /// A training in the background ended before its time.
    #[error(
        "the training in {} ended after step {step}: {source} (its last state is in {}; Run::resume goes on from there)",
        dir.display(), dir.join("checkpoints").display()
    )]
    Run {
        /// The training's folder.
        dir: PathBuf,
        /// The last step that was taken.
        step: usize,
        /// What went wrong.
        source: Box<Error>,
    },
    /// The stop button of a notebook ended a call.
    #[error("interrupted by the stop button; all variables are kept")]
    Interrupted,
    /// Another process of a training on several ranks takes no part in it any more.
    #[error(
        "waited {seconds} s for another rank: its process hangs or is gone, or the network between them \
         (mlm train --resume goes on from the last checkpoint)"
    )]
    NoRank {
        /// How long.
        seconds: u64,
    },
    /// The ranks of a training cannot go on together; each of them knows it.
    #[error("{0}")]
    Ranks(String),
    /// What connects the ranks failed.
    #[error("cannot exchange numbers with the other ranks: {0}")]
    Communicator(String),
    /// A tensor operation failed.
    #[error("tensor operation: {0}")]
    Tensor(Arc<candle_core::Error>),
    /// A figure could not be drawn.
    #[error("figure: {0}")]
    Figure(String),
}

/// A result with this crate's [`Error`], unless another is named.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub(crate) fn argument(argument: &'static str, expected: impl Into<String>, actual: impl fmt::Display) -> Self {
        Error::Argument { argument, expected: expected.into(), actual: actual.to_string() }
    }

    pub(crate) fn content(path: &Path, item: &str, expected: impl Into<String>, actual: impl fmt::Display) -> Self {
        Error::Content {
            path: path.to_owned(),
            item: item.to_owned(),
            expected: expected.into(),
            actual: actual.to_string(),
        }
    }

    pub(crate) fn no_sentence(origin: &str, is_empty: bool) -> Self {
        let reason = if is_empty { "it is empty" } else { "all of its lines are blank" };
        Error::NoSentence { origin: origin.to_owned(), reason: format!("{reason}; write some sentences into it") }
    }

    pub(crate) fn reading(path: &Path, source: io::Error) -> Self {
        Error::File { action: "read", path: path.to_owned(), source: source.into() }
    }

    pub(crate) fn writing(path: &Path, source: io::Error) -> Self {
        Error::File { action: "write", path: path.to_owned(), source: source.into() }
    }

    pub(crate) fn thread(purpose: impl Into<String>, source: io::Error) -> Self {
        Error::Thread { purpose: purpose.into(), source: source.into() }
    }
}

impl From<candle_core::Error> for Error {
    fn from(mut error: candle_core::Error) -> Self {
        // A page of stack frames below the message would bury it.
        while let candle_core::Error::WithBacktrace { inner, .. } = error {
            error = *inner;
        }
        Error::Tensor(error.into())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
