//! `mlm fill-mask`: what a model puts into the gaps of a text.

use std::io;
use std::path::{Path, PathBuf};

use clap::Args;
use mlm_core::*;
use serde_json::{Value, json};

use crate::text::coverage_json;
use crate::{Failure, note, write};

/// Fill every [MASK] of some texts.
#[derive(Args)]
#[command(after_help = "Example: mlm fill-mask --model runs/lab \"The quick brown [MASK] jumps over the lazy dog\"")]
pub(crate) struct FillMask {
    /// A folder that `mlm train` or `transformers` has written
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// How many tokens to show for each gap
    #[arg(long, default_value_t = 5)]
    top_k: usize,
    /// Print one JSON object as the last line
    #[arg(long)]
    json: bool,
    /// Texts with [MASK] in them [default: the lines of standard input]
    #[arg(value_name = "TEXT")]
    texts: Vec<String>,
}

impl FillMask {
    /// Answers each text when it has come; one that cannot be filled is said and holds up no other.
    pub(crate) fn run(&self) -> Result<String, Failure> {
        let tokenizer = Tokenizer::from_pretrained(&self.model)?;
        let params = Params::from_pretrained(&self.model)?;
        tokenizer.check_fits(params.config().vocab)?;
        let engine = Engine::with_threads(&params, 1)?;
        let what = if self.texts.is_empty() { "line" } else { "text" };
        let (mut objects, mut failed) = (Vec::new(), 0);
        for (nth, text) in (1..).zip(self.texts()) {
            let text = text?;
            if self.texts.is_empty() && text.as_ref().is_ok_and(|text| text.trim().is_empty()) {
                continue;
            }
            let filled = text.and_then(|text| fill_mask(&engine, &tokenizer, &text, self.top_k));
            if let Some(unseen) = filled.as_ref().ok().and_then(|filled| filled.coverage.unseen()) {
                note(&format!("warning: {what} {nth}: {unseen}"));
            }
            match &filled {
                Err(error) => {
                    failed += 1;
                    note(&format!("mlm: {what} {nth}: {error}"));
                }
                Ok(filled) if !self.json && !write(&answer(filled))? => return Ok(String::new()),
                Ok(_) => {}
            }
            if self.json {
                objects.push(filled.map_or_else(|error| json!({"number": nth, "error": error.to_string()}), object));
            }
        }
        if self.json {
            write(&format!("{}\n", json!({"texts": objects})))?;
        }
        match failed {
            0 => Ok(String::new()),
            failed => Err(Failure::Error(format!("texts that could not be filled: {failed}"))),
        }
    }

    /// The texts of the command, or the lines of standard input; an outer error ends them, an inner one is that of a line.
    fn texts(&self) -> Box<dyn Iterator<Item = Result<Result<String>>> + '_> {
        if !self.texts.is_empty() {
            return Box::new(self.texts.iter().map(|text| Ok(Ok(text.clone()))));
        }
        Box::new(io::stdin().lines().map(|line| match line {
            Ok(line) => Ok(Ok(line)),
            Err(error) => {
                let is_of_line = error.kind() == io::ErrorKind::InvalidData;
                let path = Path::new("standard input").to_owned();
                let error = Error::File { action: "read", path, source: error.into() };
                if is_of_line { Ok(Err(error)) } else { Err(error) }
            }
        }))
    }
}

/// A text and what fills its gaps.
fn answer(FilledMask { filled, masks, .. }: &FilledMask) -> String {
    let mut said = format!("{filled}\n");
    for predictions in masks {
        let tokens = predictions.iter().map(|it| format!("{} {:.1} %", it.token, 100.0 * it.probability));
        said += &format!("  [MASK]  {}\n", tokens.collect::<Vec<_>>().join("  "));
    }
    said
}

fn object(filled: FilledMask) -> Value {
    let predictions = |predictions: &Vec<Prediction>| -> Vec<Value> {
        predictions.iter().map(|it| json!({"token": it.token, "probability": it.probability})).collect()
    };
    json!({
        "text": filled.text,
        "filled": filled.filled,
        "masks": filled.masks.iter().map(predictions).collect::<Vec<_>>(),
        "coverage": coverage_json(&filled.coverage),
    })
}
