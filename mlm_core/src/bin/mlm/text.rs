//! The text of a command: takes files, gives sequences of ids, and says what has become of their words.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use mlm_core::*;
use serde_json::{Value, json};

use crate::{Failure, note};

/// A text in files.
#[derive(Args)]
pub(crate) struct Text {
    /// Text files in UTF-8, one after the other; packed ones, too
    #[arg(long, required = true, num_args = 1.., value_name = "FILE")]
    corpus: Vec<PathBuf>,
    /// How text stands in the files; where it is not given, their names say it
    #[arg(long, value_enum)]
    format: Option<FileFormat>,
    /// The field or column that has the text, in JSON lines and Parquet [default: text]
    #[arg(long, value_name = "NAME")]
    field: Option<String>,
    /// Where sentences end
    #[arg(long, value_enum, default_value_t = Layout::Lines)]
    split: Layout,
    /// What a sequence is
    #[arg(long, value_enum, default_value_t = Packing::Sentences)]
    packing: Packing,
    /// Split and packing in one
    #[arg(long, value_enum, conflicts_with_all = ["split", "packing"])]
    layout: Option<Form>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum FileFormat {
    /// Nothing but text; .txt, and whatever has no other name
    Text,
    /// An object a line; .jsonl, .ndjson, .json
    JsonLines,
    /// Apache Parquet; .parquet
    Parquet,
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

impl FileFormat {
    fn of(path: &Path) -> Self {
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        let name = name.trim_end_matches(".gz").trim_end_matches(".zst");
        match name.rsplit_once('.') {
            Some((_, "jsonl" | "ndjson" | "json")) => Self::JsonLines,
            Some((_, "parquet")) => Self::Parquet,
            _ => Self::Text,
        }
    }
}

impl Text {
    pub(crate) fn open(&self) -> Result<TextFiles, Failure> {
        let format = match self.format {
            Some(format) => format,
            None => {
                let formats: Vec<FileFormat> = self.corpus.iter().map(|path| FileFormat::of(path)).collect();
                if let Some(nth) = formats.iter().position(|format| *format != formats[0]) {
                    let [first, other] = [0, nth].map(|nth| self.corpus[nth].display());
                    let reason = format!(
                        "{first} and {other} are named as files of two formats (--format says which one it is)"
                    );
                    return Err(Failure::Error(reason));
                }
                formats[0]
            }
        };
        if let (FileFormat::Text, Some(field)) = (format, &self.field) {
            let path = self.corpus[0].display();
            let reason = format!("{path} is read as text, which has no field {field} (--format says what it is)");
            return Err(Failure::Error(reason));
        }
        let field = self.field.clone().unwrap_or_else(|| "text".to_owned());
        let format = match format {
            FileFormat::Text => Format::Text,
            FileFormat::JsonLines => Format::JsonLines { field },
            FileFormat::Parquet => Format::Parquet { column: field },
        };
        Ok(TextFiles::open(&self.corpus, format, self.layout().0)?)
    }

    fn layout(&self) -> (Layout, Packing) {
        match self.layout {
            None => (self.split, self.packing),
            Some(Form::Lines) => (Layout::Lines, Packing::Sentences),
            Some(Form::Prose) => (Layout::Prose, Packing::Sentences),
            Some(Form::Windows) => (Layout::Prose, Packing::Windows),
        }
    }

    pub(crate) fn packing(&self) -> Packing {
        self.layout().1
    }
}

/// A warning, where the vocabulary knows too little of a text.
pub(crate) fn warn(what: &str, encoded: &EncodedCorpus) {
    if let Some(warning) = encoded.coverage.warning() {
        note(&format!("warning: {what}: {warning}"));
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
