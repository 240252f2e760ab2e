//! What the ranks of a training tell each other before its steps: takes what the first one has, gives it to all, and makes sure
//! that all are at the same training. The first rank alone reads and writes the training's folder.

use std::mem;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::engine::communicator::{Communicator, Exchange, PATIENCE, pieces, wait};
use crate::error::{Error, Result};
use crate::model::tensors::put;
use crate::text::sequence_files::{SequenceFiles, Width};
use crate::text::sequences::Sequences;
use crate::text::tokenizer::Tokenizer;
use crate::text::windows::EncodedCorpus;
use crate::training::checkpoint::{Checkpoint, Progress, differences, hexadecimal};
use crate::training::folder;
use crate::training::preparation::{Counts, PreparedTexts, TRAIN, VALIDATION};

/// What the first rank has found in the training's folder, without the numbers.
#[derive(Serialize, Deserialize)]
enum Found {
    Nothing,
    Checkpoint(Box<Progress>),
    Error(String),
}

/// What the first rank has made of a text, without the numbers.
#[derive(Serialize, Deserialize)]
struct Prepared {
    tokenizer: String,
    train: Part,
    validation: Part,
}

#[derive(Serialize, Deserialize)]
struct Part {
    counts: Counts,
    is_on_disk: bool,
}

impl dyn Communicator + '_ {
    /// An error where not all ranks say the same: takes what this one says, gives what differs from what the first one says, and
    /// where.
    ///
    /// # Errors
    /// [`Error::Ranks`], on all ranks; when another rank does not take part in it.
    pub fn expect_same(&self, own: &Value) -> Result<()> {
        self.expect_same_within(own, Duration::MAX)
    }

    fn expect_same_within(&self, own: &Value, patience: Duration) -> Result<()> {
        let said = json!({ "host": self.host(), "said": own }).to_string();
        let all = self.tell_within(said.as_bytes(), patience)?;
        let all: Vec<Value> =
            all.iter().map(|said| serde_json::from_slice(said)).collect::<Result<_, _>>().map_err(garbled)?;
        let mut others = Vec::new();
        for (rank, of_rank) in all.iter().enumerate() {
            let differences = differences("", &all[0]["said"], &of_rank["said"]);
            if !differences.is_empty() {
                let host = of_rank["host"].as_str().unwrap_or_default();
                others.push(format!("rank {rank} on {host} has {}", differences.join(", ")));
            }
        }
        if others.is_empty() {
            return Ok(());
        }
        Err(Error::Ranks(format!("all ranks have to do the same, but compared with rank 0, {}", others.join("; "))))
    }
}

/// The latest checkpoint: takes what the first rank has come to, nothing of the others.
///
/// # Errors
/// The first rank's, on all ranks; when another rank does not take part in it.
pub(crate) fn share_checkpoint(
    communicator: &dyn Communicator,
    found: Option<Result<Option<Checkpoint>>>,
) -> Result<Option<Checkpoint>> {
    let own = found.as_ref().map(|found| match found {
        Ok(None) => Found::Nothing,
        Ok(Some(Checkpoint { progress, .. })) => Found::Checkpoint(Box::new(progress.clone())),
        Err(error) => Found::Error(error.to_string()),
    });
    let said = communicator.tell(&serde_json::to_vec(&own).map_err(garbled)?)?;
    let own = found.transpose()?.flatten();
    match serde_json::from_slice(&said[0]).map_err(garbled)? {
        Found::Nothing => Ok(None),
        Found::Error(reason) => Err(Error::Ranks(format!("rank 0: {reason}"))),
        Found::Checkpoint(progress) => {
            let mut numbers = own.map_or_else(Default::default, |checkpoint| checkpoint.numbers);
            for numbers in &mut numbers {
                *numbers = from_first(communicator, mem::take(numbers))?;
            }
            Ok(Some(Checkpoint { progress: *progress, numbers }))
        }
    }
}

impl PreparedTexts {
    /// What the first rank has prepared for the training in a folder, on all ranks: takes it there, and nothing elsewhere.
    /// Sequences that are kept in the folder, those of more than 16 MB, each rank reads there.
    ///
    /// # Errors
    /// When another rank does not take part in it, or a rank does not see the folder.
    pub fn share(dir: impl AsRef<Path>, of_first: Option<Self>, communicator: &dyn Communicator) -> Result<Self> {
        let place = folder::texts(dir.as_ref());
        let said = match &of_first {
            None => Vec::new(),
            Some(Self { tokenizer, train, validation }) => {
                let part = |texts: &EncodedCorpus| Part {
                    counts: Counts::of(texts),
                    is_on_disk: texts.sequences.are_on_disk(),
                };
                let (train, validation) = (part(train), part(validation));
                serde_json::to_vec(&Prepared { tokenizer: tokenizer.to_json()?, train, validation }).map_err(garbled)?
            }
        };
        let first = communicator.tell(&said)?.swap_remove(0);
        let Prepared { tokenizer, train, validation } = serde_json::from_slice(&first).map_err(garbled)?;
        let mut texts = match of_first {
            Some(prepared) => prepared,
            None => {
                let tokenizer = Tokenizer::from_json(&tokenizer, "the tokenizer of rank 0")?;
                Self { tokenizer, train: EncodedCorpus::default(), validation: EncodedCorpus::default() }
            }
        };
        let width = Width::of_vocab(texts.tokenizer.vocab());
        for (of_rank, part, name) in [(&mut texts.train, train, TRAIN), (&mut texts.validation, validation, VALIDATION)]
        {
            let Part { counts, is_on_disk } = part;
            if !is_on_disk {
                let sequences = share_sequences(communicator, &of_rank.sequences)?;
                *of_rank = counts.with(sequences);
            } else if communicator.rank() > 0 {
                let stem = &place.join(name);
                let sequences = SequenceFiles::open(stem, width, counts.sequences, counts.tokens).map_err(|error| {
                    let expected = "a folder that all machines see (sequences of more than 16 MB are kept there)";
                    Error::content(dir.as_ref(), "the folder", expected, error)
                })?;
                *of_rank = counts.with(Sequences::on_disk(sequences));
            }
        }
        Ok(texts)
    }
}

/// The first rank's sequences, on all ranks.
fn share_sequences(communicator: &dyn Communicator, sequences: &Sequences) -> Result<Sequences> {
    let (mut ids, mut lengths) = (Vec::new(), Vec::new());
    sequences.each(|sequence| {
        lengths.push(f32::from_bits(sequence.len() as u32));
        ids.extend(sequence.iter().map(|&id| f32::from_bits(id)));
    })?;
    let (ids, lengths) = (from_first(communicator, ids)?, from_first(communicator, lengths)?);
    if communicator.rank() == 0 {
        return Ok(sequences.clone());
    }
    let ids: Vec<u32> = ids.into_iter().map(f32::to_bits).collect();
    let sequences = pieces(&ids, lengths.iter().map(|length| length.to_bits() as usize));
    Ok(sequences.map(<[u32]>::to_vec).collect::<Vec<_>>().into())
}

/// The first rank's numbers in place of those that are there, as many, on all ranks.
pub(crate) fn share_numbers(communicator: &dyn Communicator, numbers: &mut [f32]) -> Result<()> {
    numbers.copy_from_slice(&from_first(communicator, numbers.to_vec())?);
    Ok(())
}

/// An error where not all ranks have the same numbers, which all have come to at about the same time.
pub(crate) fn expect_same_numbers(communicator: &dyn Communicator, name: &str, numbers: &[f32]) -> Result<()> {
    let mut digest = Sha256::new();
    put(numbers, &mut digest).expect("a digest takes whatever there is");
    communicator.expect_same_within(&json!({ name: hexadecimal(digest) }), PATIENCE)
}

/// The first rank's numbers, on all ranks; what the others have does not matter.
fn from_first(communicator: &dyn Communicator, own: Vec<f32>) -> Result<Vec<f32>> {
    let is_first = communicator.rank() == 0;
    let own = if is_first { own } else { Vec::new() };
    let length = communicator.gather(vec![f32::from_bits(own.len() as u32)], |_| 1, PATIENCE)?[0].to_bits() as usize;
    if communicator.ranks() == 1 {
        return Ok(own);
    }
    // Those of the first rank go to each other one from the same memory.
    let (to, from) = (0..communicator.ranks())
        .map(|other| {
            let (sends, receives) = (is_first && other != 0, !is_first && other == 0);
            (if sends { 0..length } else { 0..0 }, if receives { 0..length } else { 0..0 })
        })
        .unzip();
    let received = if is_first { Vec::new() } else { vec![0.0; length] };
    let mut pending = communicator.begin(Exchange { sent: own, to, received, from })?;
    let Exchange { sent, received, .. } = wait(pending.as_mut(), PATIENCE)?;
    Ok(if is_first { sent } else { received })
}

fn garbled(error: serde_json::Error) -> Error {
    Error::Communicator(format!("expected what another rank of this version says, got {error}"))
}
