//! The text of a command: takes files, gives sequences of ids, and says what has become of their words.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use mlm_core::*;
use serde_json::{Value, json};

use crate::note;

/// A text in files.
#[derive(Args)]
pub(crate) struct Text {
    /// UTF-8 text files, one after the other
    #[arg(long, required = true, num_args = 1.., value_name = "FILE")]
    corpus: Vec<PathBuf>,
    #[arg(long, value_enum, default_value_t = Form::Lines)]
    layout: Form,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Form {
    /// A sentence a line, a sequence a sentence
    Lines,
    /// Running text, a sequence a sentence
    Prose,
    /// Running text, in sequences of full length that go on across the ends of sentences
    Windows,
}

impl Text {
    pub(crate) fn open(&self) -> Result<TextFiles> {
        let layout = if self.layout == Form::Lines { Layout::Lines } else { Layout::Prose };
        TextFiles::open(&self.corpus, layout)
    }

    /// The ids of a text; with a warning, where the vocabulary knows too little of it.
    pub(crate) fn encode(
        &self,
        what: &str,
        text: &TextFiles,
        tokenizer: &Tokenizer,
        max_len: usize,
    ) -> Result<EncodedCorpus> {
        let encoded = match self.layout {
            Form::Lines | Form::Prose => tokenizer.encode_corpus(text, max_len),
            Form::Windows => tokenizer.encode_windows(text, max_len),
        }?;
        if let Some(warning) = encoded.coverage.warning() {
            note(&format!("warning: {what}: {warning}"));
        }
        Ok(encoded)
    }
}

/// What came of a text: how much of it the model sees, and how much not.
pub(crate) fn counts(encoded: &EncodedCorpus) -> String {
    let EncodedCorpus { sequences, sentences, cut, skipped, coverage } = encoded;
    format!(
        "{sentences} sentences, {} tokens in {} sequences; {cut} sentences cut, {skipped} sequences left out; {coverage}",
        sequences.tokens(),
        sequences.len(),
    )
}

/// What the tokenizer has made of the letters, if anything.
pub(crate) fn changes(Coverage { lowered, stripped, invisible, .. }: &Coverage) -> Option<String> {
    let mut said = Vec::new();
    if lowered + stripped > 0 {
        said.push(format!(
            "read as lower case: {lowered} letters (--cased keeps them); left out: {stripped} accents and vowel signs \
             (--keep-accents keeps them)"
        ));
    }
    if *invisible > 0 {
        said.push(format!("left out: {invisible} characters without a shape, such as joiners and control characters"));
    }
    (!said.is_empty()).then(|| said.join("; "))
}

/// How much of a text is known, for programs.
pub(crate) fn coverage_json(coverage: &Coverage) -> Value {
    json!({
        "words": coverage.words,
        "unknown_words": coverage.unknown,
        "unknown_share": coverage.unknown_share(),
        "letters_lowered": coverage.lowered,
        "accents_left_out": coverage.stripped,
        "invisible_left_out": coverage.invisible,
        "characters_left_out": coverage.left_out,
    })
}

/// As [`counts`], for programs.
pub(crate) fn counts_json(encoded: &EncodedCorpus) -> Value {
    let EncodedCorpus { sequences, sentences, cut, skipped, coverage } = encoded;
    let mut counts = coverage_json(coverage);
    for (name, count) in [
        ("tokens", sequences.tokens()),
        ("sequences", sequences.len()),
        ("sentences", *sentences),
        ("sentences_cut", *cut),
        ("sequences_left_out", *skipped),
    ] {
        counts[name] = json!(count);
    }
    counts
}

/// What a perplexity is one of, where that is not the whole text.
pub(crate) fn of_known_words(coverage: &Coverage) -> String {
    match coverage.unknown {
        0 => String::new(),
        unknown => format!(" of the known words ({unknown} are unknown)"),
    }
}
