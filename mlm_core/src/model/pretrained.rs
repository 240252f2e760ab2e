//! Takes a Hugging Face directory, gives [`Params`], and back; text to ids is left to [`crate::text::tokenizer`].

use std::collections::HashMap;
use std::path::Path;

use crate::error::{Error, Result};
use crate::files;
use crate::model::config_json::{self, Named};
use crate::model::names;
use crate::model::params::{Params, Table};
use crate::model::tensors;
use crate::model::weight_files::{self, Stored};

const CONFIG: &str = "config.json";
const WEIGHTS: &str = "model.safetensors";

/// The decoder as `transformers` writes it: the word embeddings and the bias once more.
const DECODER: [(&str, &str); 2] =
    [("cls.predictions.decoder.weight", names::WORDS), ("cls.predictions.decoder.bias", names::DECODER_BIAS)];

impl Params {
    /// Loads a masked language model from a directory as `transformers` writes it: `config.json` and `model.safetensors`, or the
    /// `pytorch_model.bin` of older releases, one file or several with an index, in f32, f16 or bf16. Nothing in the latter
    /// is run. See [`crate::Tokenizer::from_pretrained`] for its vocabulary.
    ///
    /// # Errors
    /// When a file is missing or damaged, when the model is not a BERT, or when it has no masked language modeling head;
    /// the error names the file, and the field or tensor.
    pub fn from_pretrained(dir: impl AsRef<Path>) -> Result<Self> {
        let (params, missing) = load(dir.as_ref())?;
        match missing.first() {
            None => Ok(params),
            Some(name) => {
                let what = "all tensors of the masked language modeling head (an encoder without one can be loaded with \
                            Params::from_pretrained_encoder)";
                Err(Error::content(dir.as_ref(), name, what, "no such tensor"))
            }
        }
    }

    /// Loads an encoder with or without a masked language modeling head, such as a `BertModel`: what the head does not have
    /// is 0.
    ///
    /// # Errors
    /// As [`Self::from_pretrained`], but for the head.
    pub fn from_pretrained_encoder(dir: impl AsRef<Path>) -> Result<Self> {
        Ok(load(dir.as_ref())?.0)
    }

    /// Writes a directory that `BertForMaskedLM.from_pretrained` of `transformers` loads. Each file is whole at any time:
    /// the old one or the new one. See [`crate::Tokenizer::save_pretrained`] for the vocabulary that belongs to it.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn save_pretrained(&self, dir: impl AsRef<Path>) -> Result<()> {
        let dir = dir.as_ref();
        files::create_folder(dir)?;
        config_json::write(&dir.join(CONFIG), self.config())?;
        let path = &dir.join(WEIGHTS);
        let mut tensors: Vec<_> = self.tensors().collect();
        for (name, tied) in DECODER {
            tensors.push((name, &self.table().get(tied)?.shape, self.get(tied)?));
        }
        tensors::write(path, &tensors, HashMap::from([("format".to_owned(), "pt".to_owned())]))
    }
}

/// The weights, and the tensors of the head that are not there. Nothing is allocated for a model before its tensors have
/// been seen.
fn load(dir: &Path) -> Result<(Params, Vec<String>)> {
    let (config, named) = config_json::read(&dir.join(CONFIG))?;
    let mut tensors: HashMap<String, Stored> = HashMap::new();
    let stored = weight_files::stored(dir)?;
    if named == Named::Elsewhere && stored.iter().all(|(name, _)| !name.starts_with("bert.")) {
        return Err(config_json::unnamed(&dir.join(CONFIG)));
    }
    for (name, stored) in stored {
        let path = stored.path.clone();
        if tensors.insert(canonical(&name), stored).is_some() {
            return Err(Error::content(&path, &name, "one tensor of that name", "a second one"));
        }
    }
    for (decoder, tied) in DECODER {
        if let Some(tensor) = tensors.remove(decoder) {
            tensors.entry(tied.to_owned()).or_insert(tensor);
        }
    }

    let table = Table::new(&config);
    let mut missing = Vec::new();
    for entry in table.entries() {
        match tensors.get(&entry.name) {
            Some(Stored { path, shape, .. }) if *shape != entry.shape => {
                let expected = format!("the shape {:?}, which follows from {CONFIG}", entry.shape);
                return Err(Error::content(path, &entry.name, expected, format!("{shape:?}")));
            }
            Some(_) => {}
            None if entry.name.starts_with("cls.") => missing.push(entry.name.clone()),
            None => return Err(Error::content(dir, &entry.name, "a tensor of that name", "none")),
        }
    }
    let of_layers = tensors.iter().filter(|(name, _)| name.starts_with("bert.encoder."));
    if let Some((name, Stored { path, .. })) =
        of_layers.filter(|(name, _)| table.get(name).is_err()).min_by_key(|it| it.0)
    {
        let expected = format!("only tensors of the {} layers that {CONFIG} names", config.layers);
        return Err(Error::content(path, name, expected, "one more"));
    }

    let mut params = Params::zeros_with_room(&config, 1)?;
    for entry in table.entries() {
        if let Some(stored) = tensors.get(&entry.name) {
            stored.copy(&entry.name, &mut params.as_mut_slice()[entry.range.clone()])?;
        }
    }
    Ok((params, missing))
}

/// The name that a tensor has in a `BertForMaskedLM` of today: a `BertModel` leaves `bert.` out, and the LayerNorm of old
/// releases, Google's own among them, has a `gamma` and a `beta`.
fn canonical(name: &str) -> String {
    let prefix = if ["embeddings.", "encoder."].iter().any(|part| name.starts_with(part)) { "bert." } else { "" };
    let (start, end) = match name.strip_suffix("LayerNorm.gamma").zip(Some("LayerNorm.weight")) {
        Some(split) => split,
        None => name.strip_suffix("LayerNorm.beta").map_or((name, ""), |start| (start, "LayerNorm.bias")),
    };
    format!("{prefix}{start}{end}")
}
