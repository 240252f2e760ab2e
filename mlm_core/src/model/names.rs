//! What Hugging Face's `BertForMaskedLM` calls its tensors, each name written once.

pub(crate) const WORDS: &str = "bert.embeddings.word_embeddings.weight";
pub(crate) const POSITIONS: &str = "bert.embeddings.position_embeddings.weight";
pub(crate) const TOKEN_TYPES: &str = "bert.embeddings.token_type_embeddings.weight";
pub(crate) const DECODER_BIAS: &str = "cls.predictions.bias";

// Of what has a weight and a bias, see `weight` and `bias`.
pub(crate) const EMBEDDINGS_NORM: &str = "bert.embeddings.LayerNorm";
pub(crate) const TRANSFORM: &str = "cls.predictions.transform.dense";
pub(crate) const TRANSFORM_NORM: &str = "cls.predictions.transform.LayerNorm";

/// Of what has a weight and a bias in a layer.
pub(crate) struct LayerNames {
    pub(crate) query: String,
    pub(crate) key: String,
    pub(crate) value: String,
    pub(crate) attention_output: String,
    pub(crate) attention_norm: String,
    pub(crate) intermediate: String,
    pub(crate) output: String,
    pub(crate) output_norm: String,
}

impl LayerNames {
    /// Of a layer, counted from 0.
    pub(crate) fn new(layer: usize) -> Self {
        let name = |part: &str| format!("bert.encoder.layer.{layer}.{part}");
        Self {
            query: name("attention.self.query"),
            key: name("attention.self.key"),
            value: name("attention.self.value"),
            attention_output: name("attention.output.dense"),
            attention_norm: name("attention.output.LayerNorm"),
            intermediate: name("intermediate.dense"),
            output: name("output.dense"),
            output_norm: name("output.LayerNorm"),
        }
    }
}

pub(crate) fn weight(name: &str) -> String {
    format!("{name}.weight")
}

pub(crate) fn bias(name: &str) -> String {
    format!("{name}.bias")
}
