//! Takes the state of a training, gives a file that it goes on from, and back; when to write one is left to
//! [`crate::training::run`].
//!
//! A checkpoint is one file in the safetensors format: three tensors of a number for each parameter, in the order of
//! [`crate::Params::names`], and in the metadata all else as JSON, with a digest of the whole. It appears under its name once
//! it is whole and on the disk.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::analysis::baselines::Baselines;
use crate::error::{Error, Result};
use crate::model::memory;
use crate::model::tensors::{self, TensorFile, put};
use crate::training::curve::LossCurve;
use crate::training::folder;
use crate::training::history::{EpochRecord, History};

/// So many are kept, the latest ones.
const KEPT: usize = 2;

/// The tensors: weights, and the two moments of AdamW.
const TENSORS: [&str; 3] = ["weights", "first_moment", "second_moment"];

/// What a file of them should be.
const WHOLE: &str = "a checkpoint as it was written (without this file, training goes on from the one before it)";

/// The fields of the metadata.
const PROGRESS: &str = "progress";
const DIGEST: &str = "sha256";

/// The entries of a plan that say nothing to a reader.
const DIGESTS: [&str; 5] = ["tokenizer", "train", "validation", "weights", "build"];

/// The state of a training after some step.
#[derive(Debug, PartialEq)]
pub(crate) struct Checkpoint {
    pub(crate) progress: Progress,
    /// Weights, mean of the gradients, mean of their squares `[3][parameters]`.
    pub(crate) numbers: [Vec<f32>; 3],
}

/// How far a training is. What it draws at random follows from its seed and these numbers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Progress {
    /// All that the course of the training follows from; it goes on with the same only.
    pub(crate) plan: Value,
    /// Steps taken.
    pub(crate) steps: u32,
    /// The time that they took, evaluations included.
    pub(crate) seconds: f64,
    pub(crate) epoch: EpochSums,
    pub(crate) records: Vec<EpochRecord>,
    #[serde(default)]
    pub(crate) baselines: Option<Baselines>,
    /// Checkpoints of the first versions have none.
    #[serde(default)]
    pub(crate) curve: LossCurve,
    /// Steps in all, and of an epoch. Nor have they these.
    #[serde(default)]
    pub(crate) planned: Option<(usize, usize)>,
}

impl Progress {
    /// The epochs so far of the training in a folder.
    pub(crate) fn history(&self, dir: &Path) -> Result<History> {
        let mut history = History::new(folder::name(dir));
        if let Some(baselines) = &self.baselines {
            history.set_baselines(baselines.clone());
        }
        for record in &self.records {
            history.push(record.clone())?;
        }
        Ok(history)
    }
}

/// Sums over the steps of the epoch that has begun, until it is evaluated and in the history.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct EpochSums {
    pub(crate) loss: f64,
    pub(crate) tokens: usize,
    pub(crate) seconds: f64,
}

impl EpochSums {
    /// Whether all steps are of epochs that are in the history.
    pub(crate) fn is_empty(&self) -> bool {
        self.tokens == 0
    }
}

impl Checkpoint {
    /// Writes weights and moments into a folder, one number of each for each parameter, and then removes all checkpoints but
    /// the last two.
    pub(crate) fn save(folder: &Path, progress: &Progress, numbers: [&[f32]; 3]) -> Result<()> {
        let path = &folder.join(format!("step-{}.safetensors", progress.steps));
        let progress = serde_json::to_string(progress)
            .map_err(|error| Error::content(path, PROGRESS, "numbers that JSON has", error))?;
        let mut digest = Sha256::new_with_prefix(&progress);
        for numbers in numbers {
            put(numbers, &mut digest).map_err(|source| Error::writing(path, source))?;
        }
        let fields =
            [(PROGRESS, progress), (DIGEST, hexadecimal(digest))].map(|(name, value)| (name.to_owned(), value));
        let shape = &[numbers[0].len()];
        let tensors = [0, 1, 2].map(|nth: usize| (TENSORS[nth], shape.as_slice(), numbers[nth]));
        tensors::write(path, &tensors, HashMap::from(fields))?;
        let old = all(folder)?;
        for (_, path) in &old[..old.len().saturating_sub(KEPT)] {
            fs::remove_file(path).map_err(|source| Error::writing(path, source))?;
        }
        Ok(())
    }

    /// The latest checkpoint of a folder, if it has any.
    pub(crate) fn latest(folder: &Path) -> Result<Option<Self>> {
        all(folder)?.last().map(|(_, path)| Self::load(path)).transpose()
    }

    /// After how many steps the latest one of a folder was written, if there is one.
    pub(crate) fn latest_step(folder: &Path) -> Result<Option<u32>> {
        if !folder.exists() {
            return Ok(None);
        }
        Ok(all(folder)?.last().map(|&(steps, _)| steps))
    }

    /// Makes sure that no training has begun in a folder.
    pub(crate) fn check_none(dir: &Path) -> Result<()> {
        let Some(steps) = Self::latest_step(&folder::checkpoints(dir))? else { return Ok(()) };
        let expected = "an empty folder or a new one (or resume, to go on with the training in this one)";
        Err(Error::content(dir, "the folder", expected, format!("one with a training of {steps} steps")))
    }

    fn load(path: &Path) -> Result<Self> {
        let mut file = TensorFile::open(path, WHOLE)?;
        let mut count = 0usize;
        for name in TENSORS {
            count = count.saturating_add(file.count(name)?);
        }
        memory::check("dir", "a checkpoint", count, || path.display().to_string())?;
        let progress = file.field(PROGRESS)?.to_owned();
        let mut digest = Sha256::new_with_prefix(&progress);
        let mut numbers = [const { Vec::new() }; 3];
        for (numbers, name) in numbers.iter_mut().zip(TENSORS) {
            *numbers = file.numbers(name, |bytes| digest.update(bytes))?;
        }
        if hexadecimal(digest) != file.field(DIGEST)? {
            return Err(file.wrong(DIGEST, "the digest of other numbers: some are damaged"));
        }
        let progress = serde_json::from_str(&progress).map_err(|error| file.wrong(PROGRESS, error))?;
        Ok(Self { progress, numbers })
    }
}

/// The checkpoints of a folder and the number of steps of each, the latest last.
fn all(folder: &Path) -> Result<Vec<(u32, PathBuf)>> {
    let mut checkpoints = Vec::new();
    for file in fs::read_dir(folder).map_err(|source| Error::reading(folder, source))? {
        let path = file.map_err(|source| Error::reading(folder, source))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let steps = name.strip_prefix("step-").and_then(|name| name.strip_suffix(".safetensors"));
        if let Some(steps) = steps.and_then(|steps| steps.parse().ok()) {
            checkpoints.push((steps, path));
        }
    }
    checkpoints.sort();
    Ok(checkpoints)
}

/// The SHA-256 digest of some bytes, one part after the other.
pub(crate) fn digest<B: AsRef<[u8]>>(parts: impl IntoIterator<Item = B>) -> String {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update(part);
    }
    hexadecimal(digest)
}

pub(crate) fn hexadecimal(digest: Sha256) -> String {
    format!("{:x}", digest.finalize())
}

/// An error where a folder has a training of another plan, or of what is a part of one.
pub(crate) fn check_plan(dir: &Path, before: &Value, now: &Value) -> Result<()> {
    let differences = differences("", before, now);
    if differences.is_empty() {
        return Ok(());
    }
    let expected = "the plan of the training that is in it (resume with the same texts and settings, or start another one \
                    in another folder)";
    Err(Error::content(dir, "the training", expected, differences.join(", ")))
}

/// What differs between two plans, in words.
pub(crate) fn differences(name: &str, before: &Value, now: &Value) -> Vec<String> {
    let shown = |value: &Value| if value.is_null() { "nothing".to_owned() } else { value.to_string() };
    match (before, now) {
        (Value::Object(fields), Value::Object(others)) => {
            let names: BTreeSet<&String> = fields.keys().chain(others.keys()).collect();
            (names.into_iter()).flat_map(|key| differences(key, &before[key], &now[key])).collect()
        }
        _ if before == now => Vec::new(),
        (Value::String(_), Value::String(_)) if DIGESTS.contains(&name) => vec![format!("other {name}")],
        // The sum of the threads' gradients depends on how many there are, and who says nothing gets as many as there are cores.
        _ if name == "threads" => vec![format!("threads {now} where it was {before} (--threads {before} goes on)")],
        _ => vec![format!("{name} {} where it was {}", shown(now), shown(before))],
    }
}
