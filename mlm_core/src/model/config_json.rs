//! Takes a Hugging Face `config.json`, gives a [`ModelConfig`], and back; weights are left to [`crate::model::pretrained`].

use std::path::Path;

use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::files;
use crate::model::config::ModelConfig;

/// Our name and Hugging Face's of each field.
const FIELDS: [(&str, &str); 12] = [
    ("vocab", "vocab_size"),
    ("d_model", "hidden_size"),
    ("layers", "num_hidden_layers"),
    ("heads", "num_attention_heads"),
    ("d_ff", "intermediate_size"),
    ("max_len", "max_position_embeddings"),
    ("token_types", "type_vocab_size"),
    ("hidden_dropout", "hidden_dropout_prob"),
    ("attention_dropout", "attention_probs_dropout_prob"),
    ("initializer_range", "initializer_range"),
    ("layer_norm_eps", "layer_norm_eps"),
    ("pad", "pad_token_id"),
];

/// What says that a model is a BERT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Named {
    /// The file does, with `model_type` or `architectures`.
    Here,
    /// It has neither: the names of the tensors have to.
    Elsewhere,
}

/// Reads the shape of a model. A field that is not there has the value that `transformers` gives it.
///
/// # Errors
/// When the file cannot be read, or describes a model that is not a BERT encoder as this library computes it; the error
/// names the field.
pub(crate) fn read(path: &Path) -> Result<(ModelConfig, Named)> {
    let json = &files::read_json(path)?;
    let mut named = Named::Here;
    if json.get("model_type").is_some_and(|it| !it.is_null()) {
        expect(path, json, "model_type", "\"bert\"", |it: Option<String>| it.as_deref() == Some("bert"))?;
    } else if json.get("architectures").is_some_and(|it| !it.is_null()) {
        // Releases of before there was a `model_type`.
        let is_bert = |it: &String| it.starts_with("BertFor") || it == "BertModel";
        let are_bert = |it: Option<Vec<String>>| it.is_some_and(|it| it.iter().any(is_bert));
        expect(path, json, "architectures", "a BERT, as there is no model_type", are_bert)?;
    } else {
        named = Named::Elsewhere;
    }
    expect(path, json, "hidden_act", "\"gelu\"", |it: Option<String>| it.is_none_or(|it| it == "gelu"))?;
    let is_absolute = |it: Option<String>| it.is_none_or(|it| it == "absolute");
    expect(path, json, "position_embedding_type", "\"absolute\"", is_absolute)?;
    expect(path, json, "is_decoder", "false, an encoder", |it: Option<bool>| it != Some(true))?;
    let tied = "true: the decoder shares the word embeddings";
    expect(path, json, "tie_word_embeddings", tied, |it: Option<bool>| it != Some(false))?;
    let config = ModelConfig {
        vocab: field(path, json, "vocab_size")?.unwrap_or(30522),
        d_model: field(path, json, "hidden_size")?.unwrap_or(768),
        layers: field(path, json, "num_hidden_layers")?.unwrap_or(12),
        heads: field(path, json, "num_attention_heads")?.unwrap_or(12),
        d_ff: field(path, json, "intermediate_size")?.unwrap_or(3072),
        max_len: field(path, json, "max_position_embeddings")?.unwrap_or(512),
        token_types: field(path, json, "type_vocab_size")?.unwrap_or(2),
        hidden_dropout: field(path, json, "hidden_dropout_prob")?.unwrap_or(0.1),
        attention_dropout: field(path, json, "attention_probs_dropout_prob")?.unwrap_or(0.1),
        initializer_range: field(path, json, "initializer_range")?.unwrap_or(0.02),
        layer_norm_eps: field(path, json, "layer_norm_eps")?.unwrap_or(1e-12),
        pad: field(path, json, "pad_token_id")?.unwrap_or(0),
    };
    config.validate().map_err(|error| match error {
        Error::Argument { argument, expected, actual } => {
            let field = FIELDS.iter().find(|(ours, _)| *ours == argument).map_or(argument, |&(_, theirs)| theirs);
            Error::content(path, field, expected, actual)
        }
        other => other,
    })?;
    Ok((config, named))
}

/// That nothing says that a model is a BERT.
pub(crate) fn unnamed(path: &Path) -> Error {
    let expected = "\"bert\", or BertForMaskedLM among the architectures, or tensors whose names begin with \"bert.\"";
    Error::content(path, "model_type", expected, "none of them")
}

/// Writes the shape of a model with a masked language modeling head.
pub(crate) fn write(path: &Path, config: &ModelConfig) -> Result<()> {
    let json = json!({
        "architectures": ["BertForMaskedLM"],
        "model_type": "bert",
        "vocab_size": config.vocab,
        "hidden_size": config.d_model,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "intermediate_size": config.d_ff,
        "hidden_act": "gelu",
        "position_embedding_type": "absolute",
        "max_position_embeddings": config.max_len,
        "type_vocab_size": config.token_types,
        "hidden_dropout_prob": config.hidden_dropout,
        "attention_probs_dropout_prob": config.attention_dropout,
        "initializer_range": config.initializer_range,
        "layer_norm_eps": config.layer_norm_eps,
        "pad_token_id": config.pad,
        "tie_word_embeddings": true,
    });
    files::write_json(path, &json)
}

/// A field, if it is there.
fn field<T: DeserializeOwned>(path: &Path, json: &Value, name: &str) -> Result<Option<T>> {
    let value = json.get(name).filter(|value| !value.is_null());
    value
        .map(|value| T::deserialize(value).map_err(|error| Error::content(path, name, "a value that fits", error)))
        .transpose()
}

/// Checks a field that has one right value here.
fn expect<T: DeserializeOwned>(
    path: &Path,
    json: &Value,
    name: &str,
    expected: &str,
    is_right: impl Fn(Option<T>) -> bool,
) -> Result<()> {
    match is_right(field(path, json, name)?) {
        true => Ok(()),
        false => Err(Error::content(path, name, expected, json.get(name).unwrap_or(&Value::Null))),
    }
}
