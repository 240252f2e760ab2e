//! Takes the files of a tokenizer as Hugging Face has them, gives a [`Tokenizer`], and back.

use std::path::Path;

use serde_json::{Value, json};
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::BertNormalizer;

use crate::error::{Error, Result};
use crate::files;
use crate::text::tokenizer::{SPECIAL_TOKENS, Tokenizer, failed};

const JSON: &str = "tokenizer.json";
const CONFIG: &str = "tokenizer_config.json";
const VOCAB: &str = "vocab.txt";

impl Tokenizer {
    /// Loads a `vocab.txt` as BERT's releases have it: one token a line, its id the line number from 0. A blank line is no
    /// token, white space at the end of a line no part of one, and a token that comes twice has the last number, as in
    /// `transformers`.
    ///
    /// # Errors
    /// When the file cannot be read, is not UTF-8, begins with a byte order mark, or lacks a special token.
    pub fn from_vocab(path: impl AsRef<Path>, lowercase: bool) -> Result<Self> {
        Self::from_vocab_with(path.as_ref(), BertNormalizer::new(true, true, None, lowercase))
    }

    fn from_vocab_with(path: &Path, normalizer: BertNormalizer) -> Result<Self> {
        let bytes = files::read(path)?;
        if bytes.starts_with("\u{feff}".as_bytes()) {
            let expected = "the first token (save the file as UTF-8 without a byte order mark)";
            return Err(Error::content(path, "line 1", expected, "a byte order mark"));
        }
        let vocab = WordPiece::read_bytes(&bytes).map_err(|error| failed_in(path, error))?;
        let model = WordPiece::builder().vocab(vocab).build().map_err(|error| failed_in(path, error))?;
        Self::from_model(model, normalizer, &path.display().to_string())
    }

    /// Loads the tokenizer of a Hugging Face directory: its `tokenizer.json` or, where there is none, the `vocab.txt` of an
    /// older release with the settings of `tokenizer_config.json`.
    ///
    /// # Errors
    /// When neither is there, or a file cannot be read or understood, or lacks one of BERT's special tokens.
    pub fn from_pretrained(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = dir.as_ref();
        let [json, config, vocab] = [JSON, CONFIG, VOCAB].map(|name| dir.join(name));
        if json.exists() {
            return Self::from_file(json);
        }
        if !vocab.exists() {
            return Err(Error::content(dir, "tokenizer", format!("{JSON} or {VOCAB}"), "neither"));
        }
        Self::from_vocab_and_settings(&vocab, &config)
    }

    fn from_vocab_and_settings(vocab: &Path, config: &Path) -> Result<Self> {
        let settings = if config.exists() { files::read_json(config)? } else { json!({}) };
        let flag = |name: &str| match settings.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(other) => Err(Error::content(config, name, "true, false or null", other)),
        };
        let lowercase = flag("do_lower_case")?.unwrap_or(true);
        let chinese = flag("tokenize_chinese_chars")?.unwrap_or(true);
        Self::from_vocab_with(vocab, BertNormalizer::new(true, chinese, flag("strip_accents")?, lowercase))
    }

    /// Loads a `tokenizer.json` of the Hugging Face `tokenizers` library. Its own truncation and padding are
    /// switched off, and BERT's `[CLS] … [SEP]` takes the place of its template.
    ///
    /// # Errors
    /// When the file cannot be read or understood, or lacks one of BERT's special tokens.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        // Read as JSON first: the `tokenizers` crate panics at a file that is none.
        let json = files::read_json(path)?;
        let inner = serde_json::from_value(json).map_err(|error| failed_in(path, error.into()))?;
        Self::from_inner(inner, &path.display().to_string())
    }

    /// Loads a tokenizer from wherever it is: a directory, as [`Self::from_pretrained`] does; a `vocab.txt`, with the settings
    /// in a `tokenizer_config.json` beside it; or, whatever else its name is, a `tokenizer.json`.
    ///
    /// # Errors
    /// As the one that loads it.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        if path.is_dir() {
            Self::from_pretrained(path)
        } else if path.extension().is_some_and(|extension| extension == "txt") {
            Self::from_vocab_and_settings(path, &path.with_file_name(CONFIG))
        } else {
            Self::from_file(path)
        }
    }

    /// Writes the tokenizer as a `tokenizer.json` of the Hugging Face `tokenizers` library.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        files::write(path.as_ref(), self.to_json()?.as_bytes())
    }

    /// What [`Self::save`] writes.
    pub(crate) fn to_json(&self) -> Result<String> {
        self.inner().to_string(true).map_err(failed)
    }

    /// Writes what `AutoTokenizer.from_pretrained` of `transformers` loads from the directory of a model that takes at most
    /// `max_len` tokens; see [`crate::Params::save_pretrained`] for the model.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn save_pretrained(&self, dir: impl AsRef<Path>, max_len: usize) -> Result<()> {
        let dir = dir.as_ref();
        files::create_folder(dir)?;
        self.save(dir.join(JSON))?;
        let [pad, unk, cls, sep, mask] = SPECIAL_TOKENS;
        let config = json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": max_len,
            "pad_token": pad,
            "unk_token": unk,
            "cls_token": cls,
            "sep_token": sep,
            "mask_token": mask,
        });
        files::write_json(&dir.join(CONFIG), &config)
    }
}

fn failed_in(path: &Path, error: tokenizers::Error) -> Error {
    Error::Tokenizer(format!("{}: {error}", path.display()))
}
