//! Takes files of text, gives what a training reads of them, and keeps that in the training's folder where it is large; how it
//! is split, counted and encoded is left to [`crate::text`].

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use rand::SeedableRng;
use rand::rngs::StdRng;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::files;
use crate::text::coverage::Coverage;
use crate::text::sequence_files::{self, SequenceFiles, Width};
use crate::text::sequences::{Sequences, SequencesWriter};
use crate::text::text_files::TextFiles;
use crate::text::tokenizer::Tokenizer;
use crate::text::tokenizer_config::TokenizerConfig;
use crate::text::windows::{EncodedCorpus, Packing};
use crate::training::checkpoint::{Checkpoint, check_plan, digest};
use crate::training::folder;

/// What is kept, in a folder of its own.
const TOKENIZER: &str = "tokenizer.json";
pub(crate) const TRAIN: &str = "train";
pub(crate) const VALIDATION: &str = "validation";
/// Written last: what is there without it is not whole.
const KEPT: &str = "texts.json";

/// How files of text become what a training reads: some sentences are held back, a vocabulary is learned from the others, and
/// both become sequences of ids. What of these does not fit in 16 MB is kept in the training's folder, so that a text may be
/// larger than the memory, and a training that goes on need not read it again.
///
/// ```
/// # use mlm_core::*;
/// # fn main() -> Result<()> {
/// # let folder = tempfile::tempdir().unwrap();
/// # let (path, dir) = (&folder.path().join("text.txt"), &folder.path().join("run"));
/// # std::fs::write(path, "The cake is a lie\nTo be or not to be\nA fox\n").unwrap();
/// let preparation = Preparation {
///     text: TextFiles::open([path], Format::Text, Layout::Lines)?,
///     validation: 0.3,
///     seed: 0,
///     vocabulary: Vocabulary::Learned(TokenizerConfig::new(1000)),
///     packing: Packing::Sentences,
///     max_len: 32,
///     repeat: 1,
/// };
/// let PreparedTexts { tokenizer, train, validation } = preparation.start(dir)?;
/// assert_eq!((train.sentences, validation.sentences), (2, 1));
/// let model = ModelConfig::new(tokenizer.vocab());
/// let texts = Texts { tokenizer, train: train.sequences, validation: validation.sequences, grammar: None };
/// let back_end = BackEnd::Engine(EngineConfig::default());
/// Training::start(dir, &texts, &model, &TrainingConfig::default(), &back_end)?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Preparation {
    /// The files.
    pub text: TextFiles,
    /// The share of the sentences that is held back, see [`TextFiles::split`]; 0: none.
    pub validation: f64,
    /// Which sentences these are follows from it.
    pub seed: u64,
    /// Where the tokenizer comes from.
    pub vocabulary: Vocabulary,
    /// What a sequence is.
    pub packing: Packing,
    /// The tokens of the longest sequence, `[CLS]` and `[SEP]` included.
    pub max_len: usize,
    /// How many copies of the training text there are.
    pub repeat: usize,
}

/// Where a tokenizer comes from.
#[derive(Clone, Debug)]
pub enum Vocabulary {
    /// From the training text, see [`Tokenizer::train`].
    Learned(TokenizerConfig),
    /// It is there already.
    Given(Box<Tokenizer>),
}

/// What a training reads.
#[derive(Clone, Debug)]
pub struct PreparedTexts {
    /// What the ids stand for.
    pub tokenizer: Tokenizer,
    /// What the model learns from.
    pub train: EncodedCorpus,
    /// What is held back; nothing, if nothing is.
    pub validation: EncodedCorpus,
}

/// What is written beside the sequences.
#[derive(Serialize, Deserialize)]
struct Kept {
    /// All that they follow from.
    made_of: Value,
    train: Counts,
    validation: Counts,
}

/// An encoded text without its sequences.
#[derive(Serialize, Deserialize)]
pub(crate) struct Counts {
    pub(crate) sequences: usize,
    pub(crate) tokens: usize,
    sentences: usize,
    cut: usize,
    skipped: usize,
    coverage: Coverage,
}

impl Preparation {
    /// For a training from the beginning, into a folder that is empty or does not exist.
    ///
    /// # Errors
    /// When there is something in the folder, it cannot be written to, the text cannot be read, or an argument does not fit it.
    pub fn start(&self, dir: impl AsRef<Path>) -> Result<PreparedTexts> {
        self.prepare(dir.as_ref(), false)
    }

    /// For the training in a folder: what is kept there, if it was made of the same files in the same way; else as [`Self::start`].
    ///
    /// # Errors
    /// As there, and when what is kept is damaged.
    pub fn resume(&self, dir: impl AsRef<Path>) -> Result<PreparedTexts> {
        self.prepare(dir.as_ref(), true)
    }

    fn prepare(&self, dir: &Path, resume: bool) -> Result<PreparedTexts> {
        let _lock = folder::occupy(dir)?;
        if !resume {
            Checkpoint::check_none(dir)?;
        }
        let (place, made_of) = (folder::texts(dir), self.made_of()?);
        if let (true, Some(made_of)) = (resume, &made_of)
            && let Some(kept) = Kept::load(&place)?
        {
            if kept.made_of == *made_of {
                return kept.texts(&place);
            }
            if Checkpoint::latest_step(&folder::checkpoints(dir))?.is_some() {
                check_settings(dir, kept.made_of, made_of)?;
            }
        }
        clear(&place)?;
        let prepared = self.make(&place).inspect_err(|_| {
            // Of no use to anybody; and when it cannot be removed, what came first is what matters.
            let _ = clear(&place);
        })?;
        if let Some(made_of) = made_of.filter(|_| prepared.train.sequences.are_on_disk()) {
            let PreparedTexts { tokenizer, train, validation } = &prepared;
            tokenizer.save(place.join(TOKENIZER))?;
            let kept = Kept { made_of, train: Counts::of(train), validation: Counts::of(validation) };
            files::write_json(&place.join(KEPT), &json!(kept))?;
        }
        Ok(prepared)
    }

    fn make(&self, place: &Path) -> Result<PreparedTexts> {
        let (train, validation) = if self.validation == 0.0 {
            (self.text.clone(), None)
        } else {
            let (train, validation) = self.text.split(self.validation, &mut StdRng::seed_from_u64(self.seed))?;
            (train, Some(validation))
        };
        let tokenizer = match &self.vocabulary {
            Vocabulary::Learned(config) => Tokenizer::train(&train, config)?,
            Vocabulary::Given(tokenizer) => Tokenizer::clone(tokenizer),
        };
        let width = Width::of_vocab(tokenizer.vocab());
        let encode = |text: &TextFiles, sequences| tokenizer.encode_packed(text, self.max_len, self.packing, sequences);
        let sequences = SequencesWriter::with_place(place.join(TRAIN), width);
        let train = encode(&train.repeat(self.repeat)?, sequences)?;
        let sequences = match train.sequences.are_on_disk() {
            true => SequencesWriter::in_files(&place.join(VALIDATION), width)?,
            false => SequencesWriter::default(),
        };
        let validation = match validation {
            Some(validation) => encode(&validation, sequences)?,
            None => EncodedCorpus { sequences: sequences.finish()?, ..EncodedCorpus::default() },
        };
        Ok(PreparedTexts { tokenizer, train, validation })
    }

    /// All that the sequences follow from; nothing, where that cannot be said.
    fn made_of(&self) -> Result<Option<Value>> {
        let Some(text) = self.text.made_of() else { return Ok(None) };
        let tokenizer = match &self.vocabulary {
            Vocabulary::Learned(config) => json!(config),
            Vocabulary::Given(tokenizer) => json!(digest([tokenizer.to_json()?])),
        };
        Ok(Some(json!({
            "text": text,
            "validation": self.validation,
            "seed": self.seed,
            "tokenizer": tokenizer,
            "packing": self.packing,
            "max_len": self.max_len,
            "repeat": self.repeat,
        })))
    }
}

/// Removes from a folder what a preparation has written, and the folder if nothing else is in it.
fn clear(place: &Path) -> Result<()> {
    if !place.exists() {
        return Ok(());
    }
    files::remove_partial(place)?;
    let sequences = [TRAIN, VALIDATION].map(|name| sequence_files::paths(&place.join(name)));
    let others = [KEPT, TOKENIZER].map(|name| place.join(name));
    for path in others.iter().chain(sequences.as_flattened()) {
        match fs::remove_file(path) {
            Err(source) if source.kind() != ErrorKind::NotFound => return Err(Error::writing(path, source)),
            _ => {}
        }
    }
    // Where somebody else has put something there, it stays.
    let _ = fs::remove_dir(place);
    Ok(())
}

/// An error where the texts of a training are made in another way than before; where they may be the same nevertheless, the
/// training itself looks at them.
fn check_settings(dir: &Path, mut before: Value, now: &Value) -> Result<()> {
    // A file that was written anew may say what it said, and the tokenizer that is given be the one that was learned.
    if let Some(files) = before.pointer_mut("/text/files") {
        *files = now["text"]["files"].clone();
    }
    if before["tokenizer"].is_object() != now["tokenizer"].is_object() {
        before["tokenizer"] = now["tokenizer"].clone();
    }
    check_plan(dir, &before, now)
}

impl Kept {
    /// What is written in a folder, if it is whole.
    fn load(place: &Path) -> Result<Option<Self>> {
        let path = place.join(KEPT);
        if !path.exists() {
            return Ok(None);
        }
        let expected = "what a preparation has written (without this file, the text is read again)";
        serde_json::from_value(files::read_json(&path)?)
            .map(Some)
            .map_err(|error| Error::content(&path, "the file", expected, error))
    }

    fn texts(self, place: &Path) -> Result<PreparedTexts> {
        let tokenizer = Tokenizer::load(place.join(TOKENIZER))?;
        let width = Width::of_vocab(tokenizer.vocab());
        let open = |counts: Counts, name| -> Result<EncodedCorpus> {
            let sequences = SequenceFiles::open(&place.join(name), width, counts.sequences, counts.tokens)?;
            Ok(counts.with(Sequences::on_disk(sequences)))
        };
        let (train, validation) = (open(self.train, TRAIN)?, open(self.validation, VALIDATION)?);
        Ok(PreparedTexts { tokenizer, train, validation })
    }
}

impl Counts {
    pub(crate) fn of(EncodedCorpus { sequences, sentences, cut, skipped, coverage }: &EncodedCorpus) -> Self {
        let (sentences, cut, skipped, coverage) = (*sentences, *cut, *skipped, *coverage);
        Self { sequences: sequences.len(), tokens: sequences.tokens(), sentences, cut, skipped, coverage }
    }

    pub(crate) fn with(self, sequences: Sequences) -> EncodedCorpus {
        let Self { sentences, cut, skipped, coverage, .. } = self;
        EncodedCorpus { sequences, sentences, cut, skipped, coverage }
    }
}
