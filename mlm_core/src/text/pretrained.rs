//! Takes the files of a tokenizer as Hugging Face has them, gives a [`Tokenizer`], and back; which tokens are added to its
//! vocabulary, and what settings it has, is left to [`crate::text::added_tokens`].

use std::path::Path;

use serde_json::{Value, json};
use tokenizers::Model;
use tokenizers::models::ModelWrapper;
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::BertNormalizer;

use crate::error::{Error, Result};
use crate::files;
use crate::text::added_tokens::{self, CONFIG, Class, Settings};
use crate::text::tokenizer::{SPECIAL_TOKENS, SpecialIds, Tokenizer, bert, failed};

const JSON: &str = "tokenizer.json";
const VOCAB: &str = "vocab.txt";

/// The share of tokens with upper case of which on a vocabulary is not taken for one of lower case.
const CASED: f64 = 0.1;

/// More ids than any vocabulary has: what a damaged file asks for.
const MOST_IDS: u64 = 1 << 24;

impl Tokenizer {
    /// Loads a `vocab.txt` as BERT's releases have it: one token a line, its id the line number from 0. A blank line is no
    /// token, white space at the end of a line no part of one, and a token that comes twice has the last number, as in
    /// `transformers`.
    ///
    /// # Errors
    /// When the file cannot be read, is not UTF-8, begins with a byte order mark, or lacks a special token.
    pub fn from_vocab(path: impl AsRef<Path>, lowercase: bool) -> Result<Self> {
        let path = path.as_ref();
        let normalizer = BertNormalizer::new(true, true, None, lowercase);
        Self::from_inner(bert(read_vocab(path)?, normalizer)?, &path.display().to_string())
    }

    /// Loads the tokenizer of a Hugging Face directory, as `AutoTokenizer` of `transformers` 5.24 does: the vocabulary of
    /// `tokenizer.json` or, where there is none, the `vocab.txt` of an older release, with all tokens that were added to it. A
    /// `tokenizer_class` of `BertTokenizer`, which a BERT has where nothing is said, reads text as `do_lower_case`,
    /// `strip_accents` and `tokenize_chinese_chars` in `tokenizer_config.json` say, a `PreTrainedTokenizerFast` as
    /// `tokenizer.json` says.
    ///
    /// # Errors
    /// When neither is there; when a file cannot be read or understood, lacks one of BERT's special tokens, or asks for what
    /// is not done here; when nothing says whether a vocabulary with upper case is read in lower case. The error names the
    /// file, and the field.
    pub fn from_pretrained(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = dir.as_ref();
        let [json, vocab] = [JSON, VOCAB].map(|name| dir.join(name));
        if !json.exists() {
            if !vocab.exists() {
                return Err(Error::content(dir, "tokenizer", format!("{JSON} or {VOCAB}"), "neither"));
            }
            return Self::from_vocab_beside_settings(&vocab);
        }
        let settings = Settings::read(dir)?;
        let mut content = files::read_json(&json)?;
        let class = settings.class(true)?;
        let added = settings.added_tokens(class, Some((&json, &content)))?;
        let frame = (class == Class::Backend).then(|| frame(&content["post_processor"]));
        let mut inner = match class {
            Class::Backend => from_json(&json, content)?,
            Class::Bert => {
                let is_uncased = content.pointer("/normalizer/lowercase") == Some(&json!(true));
                let model = word_piece(&json, content["model"].take())?;
                let normalizer = normalizer(&settings, &json, (!is_uncased).then_some(&model))?;
                bert(model, normalizer)?
            }
        };
        added_tokens::add(&mut inner, added)?;
        let tokenizer = Self::from_inner(inner, &json.display().to_string())?;
        if let Some(frame) = frame {
            tokenizer.expect_frame(frame.as_deref(), &json)?;
        }
        Ok(tokenizer)
    }

    /// Checks that what stood around a text, which is `None`, are the tokens that this library puts there: a model has seen one
    /// or the other.
    fn expect_frame(&self, frame: Option<&[Option<u32>]>, path: &Path) -> Result<()> {
        let SpecialIds { cls, sep, .. } = self.special();
        if frame == Some(&[Some(cls), None, Some(sep)]) {
            return Ok(());
        }
        let name = |id: &Option<u32>| id.map_or("the text".to_owned(), |id| self.token(id));
        let actual = frame.map(|frame| frame.iter().map(name).collect::<Vec<_>>().join(" "));
        let expected = "[CLS] before a text and [SEP] after it (Tokenizer::from_file puts them there)";
        Err(Error::content(path, "post_processor", expected, actual.as_deref().unwrap_or("something else")))
    }

    fn from_vocab_beside_settings(path: &Path) -> Result<Self> {
        let settings = Settings::read(path.parent().unwrap_or(Path::new("")))?;
        let class = settings.class(false)?;
        let model = read_vocab(path)?;
        let normalizer = normalizer(&settings, path, Some(&model))?;
        let mut inner = bert(model, normalizer)?;
        added_tokens::add(&mut inner, settings.added_tokens(class, None)?)?;
        Self::from_inner(inner, &path.display().to_string())
    }

    /// Loads a `tokenizer.json` of the Hugging Face `tokenizers` library as it stands, whatever is beside it. Its own
    /// truncation and padding are switched off, and BERT's `[CLS] … [SEP]` takes the place of its template.
    ///
    /// # Errors
    /// When the file cannot be read or understood, or lacks one of BERT's special tokens.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        // Read as JSON first: the `tokenizers` crate panics at a file that is none.
        let inner = from_json(path, files::read_json(path)?)?;
        Self::from_inner(inner, &path.display().to_string())
    }

    /// The tokenizer that [`Self::to_json`] says.
    pub(crate) fn from_json(json: &str, origin: &str) -> Result<Self> {
        let path = Path::new(origin);
        let json = serde_json::from_str(json).map_err(|error| failed_in(path, error.into()))?;
        Self::from_inner(from_json(path, json)?, origin)
    }

    /// Loads a tokenizer from wherever it is: a directory, as [`Self::from_pretrained`] does; a `vocab.txt`, with the settings
    /// and the added tokens beside it; or, whatever else its name is, a `tokenizer.json`.
    ///
    /// # Errors
    /// As the one that loads it.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        if path.is_dir() {
            Self::from_pretrained(path)
        } else if path.extension().is_some_and(|extension| extension == "txt") {
            Self::from_vocab_beside_settings(path)
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

fn read_vocab(path: &Path) -> Result<WordPiece> {
    let bytes = files::read(path)?;
    if bytes.starts_with("\u{feff}".as_bytes()) {
        let expected = "the first token (save the file as UTF-8 without a byte order mark)";
        return Err(Error::content(path, "line 1", expected, "a byte order mark"));
    }
    for (nth, line) in bytes.split(|&byte| byte == b'\n').enumerate() {
        let line = line.trim_ascii_end();
        if line.iter().any(|byte| b"\t\r".contains(byte)) {
            let actual = format!("{:?}", String::from_utf8_lossy(line));
            return Err(Error::content(path, &format!("line {}", nth + 1), "one token", actual));
        }
    }
    let vocab = WordPiece::read_bytes(&bytes).map_err(|error| failed_in(path, error))?;
    WordPiece::builder().vocab(vocab).build().map_err(|error| failed_in(path, error))
}

fn from_json(path: &Path, mut json: Value) -> Result<tokenizers::Tokenizer> {
    // Another one takes its place; and with one whose tokens are not all there, the `tokenizers` crate panics.
    json["post_processor"] = Value::Null;
    for part in ["normalizer", "pre_tokenizer", "decoder"] {
        expect_readable(path, part, &json[part])?;
    }
    expect_ids(path, &json["model"]["vocab"])?;
    serde_json::from_value(json).map_err(|error| failed_in(path, error.into()))
}

/// Refuses ids beyond those of any vocabulary. There is something for each below them; and the `tokenizers` crate adds to the
/// largest one.
fn expect_ids(path: &Path, vocab: &Value) -> Result<()> {
    let ids = vocab.as_object().into_iter().flatten().filter_map(|(token, id)| Some((token, id.as_u64()?)));
    match ids.max_by_key(|&(_, id)| id) {
        Some((token, id)) if id >= MOST_IDS => {
            let actual = format!("{id} for {token:?}");
            Err(Error::content(path, "model, vocab", format!("ids below {MOST_IDS}"), actual))
        }
        _ => Ok(()),
    }
}

/// Refuses what the `tokenizers` crate panics at, at once or once it reads a text with it.
fn expect_readable(path: &Path, field: &str, part: &Value) -> Result<()> {
    match part {
        Value::Array(parts) => parts.iter().try_for_each(|part| expect_readable(path, field, part)),
        Value::Object(fields) => {
            for (name, value) in fields {
                let expected = match name.as_str() {
                    "precompiled_charsmap" => "none: SentencePiece's normalizer is not read here",
                    "length" if *value == json!(0) => "at least 1",
                    "stop" if *value != json!(0) => "0: nothing is taken from the end of a token",
                    _ => {
                        expect_readable(path, field, value)?;
                        continue;
                    }
                };
                let actual = if value.is_number() { value.to_string() } else { "one".to_owned() };
                return Err(Error::content(path, &format!("{field}, {name}"), expected, actual));
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

/// The ids that a post-processor puts around a text, which is `None` among them; nothing, if it does something else.
fn frame(processor: &Value) -> Option<Vec<Option<u32>>> {
    let id = |id: &Value| id.as_u64().and_then(|id| u32::try_from(id).ok());
    match processor["type"].as_str()? {
        "BertProcessing" | "RobertaProcessing" => {
            Some(vec![Some(id(&processor["cls"][1])?), None, Some(id(&processor["sep"][1])?)])
        }
        "TemplateProcessing" => {
            let mut frame = Vec::new();
            for piece in processor["single"].as_array()? {
                if piece["Sequence"]["id"] == "A" {
                    frame.push(None);
                    continue;
                }
                let token = piece["SpecialToken"]["id"].as_str()?;
                for token in processor["special_tokens"][token]["ids"].as_array()? {
                    frame.push(Some(id(token)?));
                }
            }
            Some(frame)
        }
        "ByteLevel" => Some(vec![None]),
        // Each puts its ids around what those before it have made of the text.
        "Sequence" => processor["processors"].as_array()?.iter().try_fold(vec![None], |inside, processor| {
            let around = frame(processor)?.into_iter();
            Some(around.flat_map(|id| if id.is_some() { vec![id] } else { inside.clone() }).collect())
        }),
        _ => None,
    }
}

/// The vocabulary of a `tokenizer.json`; what else there is to know of its model is as in BERT.
fn word_piece(path: &Path, model: Value) -> Result<WordPiece> {
    const TYPE: &str = "WordPiece";
    if let Some(other) = model.get("type").filter(|&name| name != TYPE) {
        return Err(Error::content(path, "model, type", format!("{TYPE:?}, which a BertTokenizer reads"), other));
    }
    let Some(vocab @ Value::Object(_)) = model.get("vocab") else {
        return Err(Error::content(path, "model, vocab", "an object: of each token the id", "none"));
    };
    expect_ids(path, vocab)?;
    let model = json!({
        "type": TYPE,
        "unk_token": "[UNK]",
        "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 100,
        "vocab": vocab,
    });
    match serde_json::from_value(model) {
        Ok(ModelWrapper::WordPiece(model)) => Ok(model),
        Ok(_) => Err(Error::content(path, "model", TYPE, "another one")),
        Err(error) => Err(failed_in(path, error.into())),
    }
}

/// BERT's, with the settings of a directory. Where they do not say whether text is read in lower case, the vocabulary, if it is
/// given, has to go with that.
fn normalizer(settings: &Settings, path: &Path, vocab: Option<&WordPiece>) -> Result<BertNormalizer> {
    let lowercase = settings.flag("do_lower_case")?;
    if let (None, Some(vocab)) = (lowercase, vocab) {
        let tokens = vocab.get_vocab();
        let is_special = |token: &str| token.starts_with('[') && token.ends_with(']');
        let cased = tokens.keys().filter(|token| !is_special(token) && token.to_lowercase() != **token).count();
        if cased as f64 > CASED * tokens.len() as f64 {
            let expected = format!(
                "true or false: {cased} of the {} tokens in {} have upper case, and none of them is found in text that is read \
                 in lower case, as it is where nothing is said",
                tokens.len(),
                path.display()
            );
            return Err(Error::content(&path.with_file_name(CONFIG), "do_lower_case", expected, "nothing"));
        }
    }
    let chinese = settings.flag("tokenize_chinese_chars")?.unwrap_or(true);
    Ok(BertNormalizer::new(true, chinese, settings.flag("strip_accents")?, lowercase.unwrap_or(true)))
}

fn failed_in(path: &Path, error: tokenizers::Error) -> Error {
    Error::Tokenizer(format!("{}: {error}", path.display()))
}
