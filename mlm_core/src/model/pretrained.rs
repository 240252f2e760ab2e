//! Takes a Hugging Face directory, gives [`Params`], and back; text to ids is left to [`crate::text::tokenizer`].

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use crate::error::{Error, Result};
use crate::files;
use crate::model::config_json;
use crate::model::names;
use crate::model::params::{Params, Table};
use crate::model::tensors;

const CONFIG: &str = "config.json";
const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// The decoder as `transformers` writes it: the word embeddings and the bias once more.
const DECODER: [(&str, &str); 2] =
    [("cls.predictions.decoder.weight", names::WORDS), ("cls.predictions.decoder.bias", names::DECODER_BIAS)];

impl Params {
    /// Loads a masked language model from a directory as `transformers` writes it: `config.json` and `model.safetensors`,
    /// one file or several with an index, in f32, f16 or bf16. See [`crate::Tokenizer::from_pretrained`] for its vocabulary.
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

/// A tensor in a file.
struct Stored<'a> {
    path: &'a Path,
    tensor: TensorView<'a>,
}

/// The weights, and the tensors of the head that are not there. Nothing is allocated for a model before its tensors have
/// been seen.
fn load(dir: &Path) -> Result<(Params, Vec<String>)> {
    let config = config_json::read(&dir.join(CONFIG))?;
    let paths = weight_files(dir)?;
    let buffers = paths.iter().map(|path| files::read(path)).collect::<Result<Vec<_>>>()?;
    let mut tensors = HashMap::new();
    for (path, buffer) in paths.iter().zip(&buffers) {
        let file = SafeTensors::deserialize(buffer)
            .map_err(|error| Error::content(path, "the file", "tensors in the safetensors format", error))?;
        for (name, tensor) in file.tensors() {
            if tensors.insert(canonical(&name), Stored { path, tensor }).is_some() {
                return Err(Error::content(path, &name, "one tensor of that name", "a second one"));
            }
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
            Some(Stored { path, tensor }) if tensor.shape() != entry.shape => {
                let expected = format!("the shape {:?}, which follows from {CONFIG}", entry.shape);
                return Err(Error::content(path, &entry.name, expected, format!("{:?}", tensor.shape())));
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

impl Stored<'_> {
    /// Its numbers in f32.
    fn copy(&self, name: &str, values: &mut [f32]) -> Result<()> {
        let Self { path, tensor } = self;
        match tensor.dtype() {
            Dtype::F32 => convert(tensor.data(), values, f32::from_le_bytes),
            Dtype::F16 => convert(tensor.data(), values, |bytes| f16::from_le_bytes(bytes).to_f32()),
            Dtype::BF16 => convert(tensor.data(), values, |bytes| bf16::from_le_bytes(bytes).to_f32()),
            other => return Err(Error::content(path, name, "numbers in F32, F16 or BF16", format!("{other:?}"))),
        }
        match values.iter().find(|value| !value.is_finite()) {
            Some(value) => Err(Error::content(path, name, "finite numbers", value)),
            None => Ok(()),
        }
    }
}

fn convert<const SIZE: usize>(bytes: &[u8], values: &mut [f32], number: impl Fn([u8; SIZE]) -> f32) {
    for (value, &bytes) in values.iter_mut().zip(bytes.as_chunks().0) {
        *value = number(bytes);
    }
}

/// The files that hold the weights.
fn weight_files(dir: &Path) -> Result<Vec<PathBuf>> {
    let (single, index) = (dir.join(WEIGHTS), dir.join(INDEX));
    if single.exists() {
        return Ok(vec![single]);
    }
    if !index.exists() {
        let expected =
            format!("{WEIGHTS} or {INDEX} (from a pytorch_model.bin, transformers makes one with save_pretrained)");
        return Err(Error::content(dir, "weights", expected, "neither"));
    }
    let json = files::read_json(&index)?;
    let map = json.get("weight_map").and_then(|map| map.as_object());
    let Some(map) = map.filter(|map| !map.is_empty()) else {
        return Err(Error::content(&index, "weight_map", "an object: of each tensor the file", "none"));
    };
    let mut names = BTreeSet::new();
    for (tensor, name) in map {
        // A name with a path in it could reach any file of this computer.
        match name.as_str().filter(|name| Path::new(name).file_name().is_some_and(|file| file == *name)) {
            Some(name) => names.insert(name),
            None => return Err(Error::content(&index, tensor, "the name of a file beside the index", name)),
        };
    }
    Ok(names.into_iter().map(|name| dir.join(name)).collect())
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
