//! Takes what a training measured, epoch by epoch, and keeps it, in a file too, for the figures of [`crate::figures::plot`].

use std::fmt;
use std::ops::RangeInclusive;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::analysis::baselines::Baselines;
use crate::error::{Error, Result};
use crate::files;

const FILE: &str = "history.jsonl";

/// What a loss can be. One that f32 does not hold has diverged; rounding may take one a little below 0.
const LOSSES: RangeInclusive<f64> = -1e-3..=f32::MAX as f64;

/// What was measured in one epoch.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EpochRecord {
    /// The epoch, counted from 1; 0 is before training.
    pub epoch: usize,
    /// Mean training loss over the epoch in nats; none before training.
    pub train_loss: Option<f64>,
    /// Loss on the fixed validation masks after the epoch in nats, if there are any.
    pub validation_loss: Option<f64>,
    /// Share of the masked tokens of validation for which the right token was the most likely one, if it was counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub masked_accuracy: Option<f64>,
    /// Tokens of the text that went through training in a second, if it was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens_per_second: Option<f64>,
}

impl EpochRecord {
    /// The losses of an epoch of training.
    pub fn new(epoch: usize, train_loss: f64, validation_loss: f64) -> Self {
        Self { epoch, train_loss: Some(train_loss), validation_loss: Some(validation_loss), ..Self::default() }
    }

    /// The validation loss of the initial weights.
    pub fn before_training(validation_loss: f64) -> Self {
        Self { validation_loss: Some(validation_loss), ..Self::default() }
    }
}

/// The course of one training run.
///
/// ```
/// # use mlm_core::*;
/// # fn main() -> Result<()> {
/// let mut history = History::new("learning rate 1e-3");
/// history.push(EpochRecord::before_training(4.77))?;
/// history.push(EpochRecord::new(1, 3.29, 1.90))?;
/// assert!(history.push(EpochRecord::new(2, f64::NAN, 1.90)).is_err());
/// let figure = plot::loss_curve(&[&history])?;
/// assert!(figure.to_html().contains("from 4.77 (epoch 0) to 3.29 (epoch 1)"));
///
/// # let folder = tempfile::tempdir().unwrap();
/// # let dir = folder.path();
/// history.save(dir)?; // and, after a restart:
/// assert_eq!(History::load(dir)?, history);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct History {
    name: String,
    records: Vec<EpochRecord>,
    baselines: Option<Baselines>,
}

/// A line of the file.
#[derive(Serialize, Deserialize)]
struct Line {
    run: String,
    #[serde(flatten)]
    record: EpochRecord,
    /// In the first line, if at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    baselines: Option<Baselines>,
}

impl History {
    /// A run without records; the name stands in the legend of the figures.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), records: Vec::new(), baselines: None }
    }

    /// The run's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The records, by epoch.
    pub fn records(&self) -> &[EpochRecord] {
        &self.records
    }

    /// What the validation loss is to be seen against.
    pub fn baselines(&self) -> Option<&Baselines> {
        self.baselines.as_ref()
    }

    /// Says what the validation loss is to be seen against: [`crate::plot::loss_curve`] draws it as lines.
    pub fn set_baselines(&mut self, baselines: Baselines) {
        self.baselines = Some(baselines);
    }

    /// The last loss on the validation masks in nats, if there are any.
    pub fn validation_loss(&self) -> Option<f64> {
        self.records.iter().rev().find_map(|record| record.validation_loss)
    }

    /// Of the way from the neighbours' loss to the floor, the share that the last validation loss has gone, see
    /// [`Baselines::gap_closed`].
    pub fn gap_closed(&self) -> Option<f64> {
        self.baselines.as_ref()?.gap_closed(self.validation_loss()?)
    }

    /// Adds the record of a later epoch.
    ///
    /// # Errors
    /// When the epoch does not come after the last one, or a loss is not finite (training diverged) or below 0.
    pub fn push(&mut self, record: EpochRecord) -> Result<()> {
        if let Some(last) = self.records.last()
            && record.epoch <= last.epoch
        {
            return Err(Error::argument("epoch", format!("one after {}", last.epoch), record.epoch));
        }
        for loss in [record.train_loss, record.validation_loss].into_iter().flatten() {
            if !LOSSES.contains(&loss) {
                return Err(Error::argument("loss", "a finite number from 0 on (try a smaller learning rate)", loss));
            }
        }
        self.records.push(record);
        Ok(())
    }

    /// Writes the run into a folder, as `history.jsonl`: one JSON object a record, a line each.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, dir: impl AsRef<Path>) -> Result<()> {
        let dir = dir.as_ref();
        files::create_folder(dir)?;
        let path = &dir.join(FILE);
        let mut text = String::new();
        for (nth, record) in self.records.iter().enumerate() {
            let baselines = if nth == 0 { self.baselines.clone() } else { None };
            let line = Line { run: self.name.clone(), record: record.clone(), baselines };
            let json =
                serde_json::to_string(&line).map_err(|error| Error::content(path, "record", "numbers", error))?;
            text += &format!("{json}\n");
        }
        files::write(path, text.as_bytes())
    }

    /// Reads what [`Self::save`] wrote into a folder.
    ///
    /// # Errors
    /// When the file cannot be read, has no record, or a line of it does not say what was measured in a later epoch; the
    /// error names the line.
    pub fn load(dir: impl AsRef<Path>) -> Result<Self> {
        let path = &dir.as_ref().join(FILE);
        let mut history: Option<Self> = None;
        for (nth, line) in files::read(path)?.split(|&byte| byte == b'\n').enumerate() {
            if line.trim_ascii().is_empty() {
                continue;
            }
            let wrong = |error: &dyn fmt::Display| {
                Error::content(path, &format!("line {}", nth + 1), "the record of an epoch", error)
            };
            let Line { run, record, baselines } = serde_json::from_slice(line).map_err(|error| wrong(&error))?;
            let history = history.get_or_insert_with(|| Self { baselines, ..Self::new(run) });
            history.push(record).map_err(|error| wrong(&error))?;
        }
        history.ok_or_else(|| Error::content(path, "the file", "a line for each epoch", "none"))
    }
}
