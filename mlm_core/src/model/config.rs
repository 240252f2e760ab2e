//! The shape of the model: takes numbers, gives a checked [`ModelConfig`]; the weights are left to [`crate::model::params`].

use serde::Serialize;

use crate::error::{Error, Result};
use crate::text::batch::{Batch, check_ids};

/// Far more layers than any BERT has; it keeps a slip of the pen from filling the memory with names.
const MAX_LAYERS: usize = 1000;

/// The shape of a BERT encoder with a masked language modeling head. The names in brackets are those of a Hugging
/// Face `config.json`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ModelConfig {
    /// Size of the vocabulary (`vocab_size`).
    pub vocab: usize,
    /// Width of the hidden states (`hidden_size`).
    pub d_model: usize,
    /// Number of encoder layers (`num_hidden_layers`).
    pub layers: usize,
    /// Number of attention heads (`num_attention_heads`); each is `d_model / heads` wide.
    pub heads: usize,
    /// Width of the feed-forward layer (`intermediate_size`).
    pub d_ff: usize,
    /// Longest sequence, `[CLS]` and `[SEP]` included (`max_position_embeddings`).
    pub max_len: usize,
    /// Number of token types (`type_vocab_size`); masked language modeling uses type 0 only.
    pub token_types: usize,
    /// Probability of dropping a hidden unit in training (`hidden_dropout_prob`).
    pub hidden_dropout: f64,
    /// Probability of dropping an attention weight in training (`attention_probs_dropout_prob`).
    pub attention_dropout: f64,
    /// Standard deviation of the initial weights (`initializer_range`).
    pub initializer_range: f64,
    /// What LayerNorm adds to the variance (`layer_norm_eps`).
    pub layer_norm_eps: f64,
    /// Id of the padding token (`pad_token_id`).
    pub pad: u32,
}

impl ModelConfig {
    /// The model of the lab for a vocabulary of the given size: 2 layers, 4 heads, 64 wide, no dropout (the lab wants
    /// its five sentences remembered); all else as in BERT.
    pub fn new(vocab: usize) -> Self {
        Self {
            vocab,
            d_model: 64,
            layers: 2,
            heads: 4,
            d_ff: 256,
            max_len: 32,
            token_types: 2,
            hidden_dropout: 0.0,
            attention_dropout: 0.0,
            initializer_range: 0.02,
            layer_norm_eps: 1e-12,
            pad: 0,
        }
    }

    /// The width of one attention head.
    pub fn head_dim(&self) -> usize {
        self.d_model.checked_div(self.heads).unwrap_or(0)
    }

    /// # Errors
    /// Names the first field whose value cannot work, and why.
    pub fn validate(&self) -> Result<()> {
        let sizes = [
            ("vocab", self.vocab),
            ("d_model", self.d_model),
            ("layers", self.layers),
            ("heads", self.heads),
            ("d_ff", self.d_ff),
            ("max_len", self.max_len),
            ("token_types", self.token_types),
        ];
        for (argument, size) in sizes {
            if size == 0 {
                return Err(Error::argument(argument, "at least 1", size));
            }
        }
        if self.layers > MAX_LAYERS {
            return Err(Error::argument("layers", format!("at most {MAX_LAYERS}"), self.layers));
        }
        if !self.d_model.is_multiple_of(self.heads) {
            let expected = format!("a divisor of d_model = {}", self.d_model);
            return Err(Error::argument("heads", expected, self.heads));
        }
        if self.pad as usize >= self.vocab {
            return Err(Error::argument("pad", format!("an id below vocab = {}", self.vocab), self.pad));
        }
        let dropouts = [("hidden_dropout", self.hidden_dropout), ("attention_dropout", self.attention_dropout)];
        for (argument, probability) in dropouts {
            if !(0.0..1.0).contains(&probability) {
                return Err(Error::argument(argument, "a probability from 0 to below 1", probability));
            }
        }
        let positive = [("initializer_range", self.initializer_range), ("layer_norm_eps", self.layer_norm_eps)];
        for (argument, value) in positive {
            if !(value > 0.0 && value.is_finite()) {
                return Err(Error::argument(argument, "a positive number", value));
            }
        }
        Ok(())
    }

    /// Checks that a batch fits the model.
    ///
    /// # Errors
    /// Names the part that does not fit.
    pub(crate) fn check(&self, batch: &Batch) -> Result<()> {
        batch.validate()?;
        let (longest, max_len) = (batch.longest(), self.max_len);
        if longest > max_len {
            return Err(Error::argument("batch", format!("sequences of at most max_len = {max_len} tokens"), longest));
        }
        check_ids(self.vocab, "input_ids", &batch.input_ids)
    }

    /// Checks that a batch says what is right, as a loss needs.
    ///
    /// # Errors
    /// When it does not, or in words that the model does not have.
    pub(crate) fn check_targets(&self, batch: &Batch) -> Result<()> {
        batch.check_targets()?;
        check_ids(self.vocab, "targets", &batch.targets)
    }
}
