//! Takes the files that stand beside the vocabulary of a Hugging Face tokenizer, gives what they say of it: which class reads it,
//! its settings, and the tokens that are added to it. The vocabulary itself is left to [`crate::text::pretrained`].
//!
//! Source: `transformers` 5.24, `models/auto/tokenization_auto.py`, `tokenization_utils_base.py` (`_from_pretrained`) and
//! `tokenization_utils_tokenizers.py` (`TokenizersBackend.__init__`).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tokenizers::{AddedToken, Model};

use crate::error::{Error, Result};
use crate::files;
use crate::text::tokenizer::failed;

pub(crate) const CONFIG: &str = "tokenizer_config.json";
const SPECIAL_TOKENS_MAP: &str = "special_tokens_map.json";
const ADDED_TOKENS: &str = "added_tokens.json";
const MODEL_CONFIG: &str = "config.json";

const DECODER: &str = "added_tokens_decoder";

/// The special tokens that have no name, as they are called today, and as they were.
const EXTRA: &str = "extra_special_tokens";
const ADDITIONAL: &str = "additional_special_tokens";

/// The special tokens that have a name in `transformers`, in its order, with what they are called here.
const NAMED: [(&str, Option<&str>); 7] = [
    ("bos_token", None),
    ("eos_token", None),
    ("unk_token", Some("[UNK]")),
    ("sep_token", Some("[SEP]")),
    ("pad_token", Some("[PAD]")),
    ("cls_token", Some("[CLS]")),
    ("mask_token", Some("[MASK]")),
];

/// How `transformers` reads a tokenizer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// `BertTokenizer`: a vocabulary, wherever it comes from, read as the settings say.
    Bert,
    /// `TokenizersBackend`, once `PreTrainedTokenizerFast`: a `tokenizer.json` as it stands.
    Backend,
}

/// What the files of a directory say of a tokenizer.
pub(crate) struct Settings {
    dir: PathBuf,
    /// Of two files that say something of a setting, the second one counts.
    files: Vec<(PathBuf, Value)>,
}

/// A token that is added to a vocabulary, if it is not there.
pub(crate) struct Added {
    token: AddedToken,
    place: Place,
    /// What names it.
    path: PathBuf,
    field: String,
}

/// Where a token is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// At an id.
    At(u32),
    /// Wherever it is already.
    Known,
    /// Wherever it is already, or after all others.
    End,
}

impl Settings {
    /// Reads them.
    ///
    /// # Errors
    /// When a file cannot be read or understood, or asks for what would change the ids and is not done here.
    pub(crate) fn read(dir: &Path) -> Result<Self> {
        let mut settings = Self { dir: dir.to_owned(), files: Vec::new() };
        for name in [CONFIG, SPECIAL_TOKENS_MAP] {
            let path = dir.join(name);
            // Where the settings have all added tokens, they have all that was in other files once.
            if settings.get(DECODER).is_none() && path.exists() {
                let json = files::read_json(&path)?;
                settings.files.push((path, json));
            }
        }
        let expect = |name: &str, expected: &str, is_right: &dyn Fn(&Value) -> bool| match settings.get(name) {
            Some((path, value)) if !is_right(value) => Err(Error::content(path, name, expected, value)),
            _ => Ok(()),
        };
        expect("split_special_tokens", "false: a [MASK] in the text is the token", &|it| it != &json!(true))?;
        expect("fast_tokenizer_files", "no other file than tokenizer.json", &|it| it == &json!(["tokenizer.json"]))?;
        expect("auto_map", "no program of its own for the tokenizer", &|it| {
            it.is_object() && it.get("AutoTokenizer").is_none_or(Value::is_null)
        })?;
        for (name, token) in NAMED.into_iter().filter_map(|(name, token)| Some((name, token?))) {
            expect(name, &format!("{token:?}"), &|value| content(value) == Some(token))?;
        }
        Ok(settings)
    }

    /// What is said of a setting, and where.
    fn get(&self, name: &str) -> Option<(&Path, &Value)> {
        self.files.iter().rev().find_map(|(path, json)| Some((path.as_path(), json.get(name)?)))
    }

    /// A setting that is true or false; none, if it is not there.
    ///
    /// # Errors
    /// When it is something else.
    pub(crate) fn flag(&self, name: &str) -> Result<Option<bool>> {
        match self.get(name) {
            None | Some((_, Value::Null)) => Ok(None),
            Some((_, Value::Bool(flag))) => Ok(Some(*flag)),
            Some((path, other)) => Err(Error::content(path, name, "true, false or null", other)),
        }
    }

    /// The class that reads the tokenizer.
    ///
    /// # Errors
    /// When it is neither of the two that are known here, or needs a `tokenizer.json` where there is none.
    pub(crate) fn class(&self, has_tokenizer_json: bool) -> Result<Class> {
        const NAME: &str = "tokenizer_class";
        let path = &self.dir.join(MODEL_CONFIG);
        let model = if path.exists() { files::read_json(path)? } else { json!({}) };
        let of_model = || model.get(NAME).map(|value| (path.as_path(), value));
        if let Some((path, name)) = self.get(NAME).or_else(of_model).filter(|(_, name)| !name.is_null()) {
            return match name.as_str().map(|name| name.strip_suffix("Fast").unwrap_or(name)) {
                Some("BertTokenizer" | "DistilBertTokenizer" | "ElectraTokenizer" | "MobileBertTokenizer") => {
                    Ok(Class::Bert)
                }
                Some("PreTrainedTokenizer" | "TokenizersBackend" | "PythonBackend") if has_tokenizer_json => {
                    Ok(Class::Backend)
                }
                _ => {
                    let expected = "\"BertTokenizer\", or \"PreTrainedTokenizerFast\" with a tokenizer.json";
                    Err(Error::content(path, NAME, expected, name))
                }
            };
        }
        match model.get("model_type") {
            Some(Value::String(name)) if name == "bert" => Ok(Class::Bert),
            None | Some(Value::Null) if has_tokenizer_json => Ok(Class::Backend),
            None | Some(Value::Null) => Ok(Class::Bert),
            Some(other) => {
                let expected = format!("\"bert\", or a {NAME} in {CONFIG}");
                Err(Error::content(path, "model_type", expected, other))
            }
        }
    }

    /// The tokens that are added to a vocabulary, in the order in which `transformers` adds them.
    ///
    /// # Errors
    /// When a file cannot be read, or a token not be understood.
    pub(crate) fn added_tokens(&self, class: Class, tokenizer_json: Option<(&Path, &Value)>) -> Result<Vec<Added>> {
        let mut special = self.named_special_tokens(class)?;
        special.extend(self.extra_special_tokens()?);
        let with_ids = match self.get(DECODER) {
            Some((path, decoder)) => of_decoder(path, decoder)?,
            None => {
                let mut added = of_added_tokens_json(&self.dir.join(ADDED_TOKENS), &special)?;
                if let Some((path, json)) = tokenizer_json {
                    added.extend(of_tokenizer_json(path, json)?);
                }
                added
            }
        };
        let mut with_ids = by_id(with_ids)?;
        let mut known = BTreeSet::new();
        for Added { token, .. } in with_ids.values_mut() {
            token.special |= special.iter().any(|special| special.token.content == token.content);
            known.insert(token.content.clone());
        }
        special.retain(|added| !known.contains(&added.token.content));
        Ok(with_ids.into_values().chain(special).collect())
    }

    /// The special tokens that have a name, such as `cls_token`; also those that `transformers` does not know.
    fn named_special_tokens(&self, class: Class) -> Result<Vec<Added>> {
        let mut named = Vec::new();
        for (name, token) in NAMED {
            match (self.get(name), token) {
                (Some((_, Value::Null)), _) => {}
                (Some((path, value)), _) => named.push(Added::new(path, name, value, true, Place::End)?),
                (None, Some(token)) if class == Class::Bert => {
                    named.push(Added::new(&self.dir.join(CONFIG), name, &json!(token), true, Place::End)?);
                }
                (None, _) => {}
            }
        }
        for (path, json) in &self.files {
            let is_known = |name: &str| NAMED.iter().any(|(known, _)| *known == name);
            let is_token = |name: &str, value: &Value| name.ends_with("_token") && content(value).is_some();
            let others = fields(json).filter(|(name, value)| is_token(name, value) && !is_known(name));
            for (name, value) in others.chain(json.get(EXTRA).into_iter().flat_map(fields)) {
                named.push(Added::new(path, name, value, true, Place::Known)?);
            }
        }
        Ok(named)
    }

    /// The special tokens without a name.
    fn extra_special_tokens(&self) -> Result<Vec<Added>> {
        let mut tokens: Vec<Added> = Vec::new();
        let mut is_new = false;
        for (path, json) in &self.files {
            for name in [EXTRA, ADDITIONAL] {
                match json.get(name) {
                    Some(Value::Array(_)) if name == ADDITIONAL && (is_new || !tokens.is_empty()) => {}
                    Some(Value::Array(list)) => {
                        for value in list {
                            tokens.push(Added::new(path, name, value, true, Place::End)?);
                        }
                    }
                    None | Some(Value::Null | Value::Object(_)) => {}
                    Some(other) => return Err(Error::content(path, name, "a list of tokens", other)),
                }
            }
            is_new |= json.get(EXTRA).is_some();
        }
        Ok(tokens)
    }
}

/// Tokens in the order of their ids; of two files that describe the same one, the second counts.
fn by_id(added: Vec<Added>) -> Result<BTreeMap<u32, Added>> {
    let mut tokens: BTreeMap<u32, Added> = BTreeMap::new();
    for added in added {
        let Place::At(id) = added.place else { continue };
        if let Some(other) = tokens.get(&id).filter(|other| other.token.content != added.token.content) {
            let expected = format!("another id than that of {:?}", other.token.content);
            return Err(Error::content(
                &added.path,
                &added.field,
                expected,
                format!("{id} for {:?}", added.token.content),
            ));
        }
        tokens.insert(id, added);
    }
    Ok(tokens)
}

/// `added_tokens_decoder`: of each id the token.
fn of_decoder(path: &Path, decoder: &Value) -> Result<Vec<Added>> {
    if !decoder.is_object() {
        return Err(Error::content(path, DECODER, "an object: of each id the token", decoder));
    }
    let read = |(id, value): (&String, &Value)| {
        let at = id.parse().map_err(|_| Error::content(path, DECODER, "ids", format!("{id:?}")))?;
        Added::new(path, &format!("{DECODER}, {id}"), value, false, Place::At(at))
    };
    fields(decoder).map(read).collect()
}

/// `added_tokens.json`, if it is there: of each token the id. The special ones are looked for in the text as it stands; but
/// for those that only `special_tokens_map.json` names, by their old name, which `transformers` reads later.
fn of_added_tokens_json(path: &Path, special: &[Added]) -> Result<Vec<Added>> {
    let json = if path.exists() { files::read_json(path)? } else { json!({}) };
    let read = |(token, id): (&String, &Value)| {
        let at = self::id(path, token, id)?;
        let is_late = |special: &Added| special.field == ADDITIONAL && special.path.ends_with(SPECIAL_TOKENS_MAP);
        let is_special = special.iter().any(|special| special.token.content == *token && !is_late(special));
        Added::new(path, token, &json!(token), is_special, Place::At(at))
    };
    fields(&json).map(read).collect()
}

/// The added tokens of a `tokenizer.json`.
fn of_tokenizer_json(path: &Path, json: &Value) -> Result<Vec<Added>> {
    const NAME: &str = "added_tokens";
    let read = |value: &Value| {
        let at = id(path, NAME, value.get("id").unwrap_or(&Value::Null))?;
        Added::new(path, &format!("{NAME}, {at}"), value, false, Place::At(at))
    };
    json.get(NAME).and_then(Value::as_array).into_iter().flatten().map(read).collect()
}

impl Added {
    /// From a string, or an object with a `content` and what else there is to know of it.
    fn new(path: &Path, field: &str, value: &Value, special: bool, place: Place) -> Result<Self> {
        let Some(content) = content(value) else {
            return Err(Error::content(path, field, "a token: a string, or an object with a content", value));
        };
        let flag = |name: &str, default: bool| match value.get(name) {
            None => Ok(default),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(other) => Err(Error::content(path, field, format!("{name}: true or false"), other)),
        };
        let special = special || flag("special", false)?;
        let token = AddedToken::from(content, special)
            .single_word(flag("single_word", false)?)
            .lstrip(flag("lstrip", false)?)
            .rstrip(flag("rstrip", false)?)
            .normalized(flag("normalized", !special)?);
        Ok(Self { token, place, path: path.to_owned(), field: field.to_owned() })
    }
}

/// Adds tokens to those of a tokenizer that has a vocabulary. `transformers` gives each that is new the next id, counted from
/// the number of tokens in the vocabulary, whatever id is named for it.
///
/// # Errors
/// When that is not the id that is named, or another token has it: a model has learned something else at one of the two.
pub(crate) fn add(inner: &mut tokenizers::Tokenizer, mut added: Vec<Added>) -> Result<()> {
    // What names no id changes nothing of a token that has been added before.
    let before = inner.get_added_vocabulary().get_vocab();
    added.retain(|added| matches!(added.place, Place::At(_)) || !before.contains_key(&added.token.content));
    for Added { token, path, field, .. } in added.iter().filter(|added| added.place == Place::Known) {
        if inner.token_to_id(&token.content).is_none() {
            let expected = "a token of the vocabulary, or one with an id among the added tokens";
            return Err(Error::content(path, field, expected, format!("{:?}", token.content)));
        }
    }
    inner.add_tokens(added.iter().map(|added| added.token.clone())).map_err(failed)?;
    for Added { token, place, path, field } in &added {
        let content = &token.content;
        let Some(id) = inner.token_to_id(content) else { continue }; // an empty one
        if let Place::At(named) = *place
            && named != id
        {
            let expected = format!("the id that the token gets, {id}");
            return Err(Error::content(path, field, expected, format!("{named} for {content:?}")));
        }
        // A blank line of a vocab.txt has an id, but is no token.
        if let Some(other) = inner.get_model().id_to_token(id).filter(|other| other != content && !other.is_empty()) {
            let expected = format!("an id of its own for {content:?}");
            return Err(Error::content(path, field, expected, format!("{id}, which is that of {other:?}")));
        }
    }
    Ok(())
}

/// What a token is, written as a string or as an object.
fn content(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("content")?.as_str())
}

/// The fields of an object; of anything else, none.
fn fields(json: &Value) -> impl Iterator<Item = (&String, &Value)> {
    json.as_object().into_iter().flatten()
}

fn id(path: &Path, field: &str, value: &Value) -> Result<u32> {
    let id = value.as_u64().and_then(|id| u32::try_from(id).ok());
    id.ok_or_else(|| Error::content(path, field, "an id", value))
}
