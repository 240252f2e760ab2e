//! Text in, masked batches out.

pub(crate) mod distinct;

pub(crate) mod sentences;

pub(crate) mod corpus;
pub(crate) mod held_out;
pub(crate) mod notation;
#[cfg(feature = "cli")]
pub(crate) mod parquet;
pub(crate) mod text_file;
pub(crate) mod text_files;

pub(crate) mod ascii;
pub(crate) mod chunks;
pub(crate) mod grammar;
pub(crate) mod longest_match;
pub(crate) mod tokenizer;
pub(crate) mod tokenizer_config;

pub(crate) mod added_tokens;
pub(crate) mod pretrained;
pub(crate) mod vocabulary;

pub(crate) mod coverage;
pub(crate) mod encode;

pub(crate) mod sequence_files;
pub(crate) mod sequences;
pub(crate) mod windows;

pub(crate) mod masking;

pub(crate) mod batch;
