//! `mlm fill-mask`: what a model puts into the gaps of a text.

use std::io;
use std::path::{Path, PathBuf};

use clap::Args;
use mlm_core::*;
use serde_json::{Value, json};

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
    /// The texts and what fills their gaps.
    pub(crate) fn run(&self) -> Result<String> {
        let tokenizer = Tokenizer::from_pretrained(&self.model)?;
        let engine = Engine::with_threads(&Params::from_pretrained(&self.model)?, 1)?;
        let fill = |text: &String| fill_mask(&engine, &tokenizer, text, self.top_k);
        let filled = match self.texts.as_slice() {
            [] => lines()?.iter().map(fill).collect::<Result<Vec<_>>>()?,
            texts => texts.iter().map(fill).collect::<Result<Vec<_>>>()?,
        };
        if self.json {
            let texts: Vec<Value> = filled.iter().map(object).collect();
            return Ok(format!("{}\n", json!({"texts": texts})));
        }
        let mut said = String::new();
        for FilledMask { filled, masks, .. } in &filled {
            said += &format!("{filled}\n");
            for predictions in masks {
                let tokens = predictions.iter().map(|it| format!("{} {:.1} %", it.token, 100.0 * it.probability));
                said += &format!("  [MASK]  {}\n", tokens.collect::<Vec<_>>().join("  "));
            }
        }
        Ok(said)
    }
}

/// The lines of standard input, without blank ones.
fn lines() -> Result<Vec<String>> {
    let lines = io::stdin().lines().collect::<io::Result<Vec<_>>>();
    let reading = |source: io::Error| {
        let (path, source) = (Path::new("standard input").to_owned(), source.into());
        Error::File { action: "read", path, source }
    };
    let lines = lines.map_err(reading)?;
    Ok(lines.into_iter().filter(|line| !line.trim().is_empty()).collect())
}

fn object(filled: &FilledMask) -> Value {
    let predictions = |predictions: &Vec<Prediction>| -> Vec<Value> {
        predictions.iter().map(|it| json!({"token": it.token, "probability": it.probability})).collect()
    };
    json!({
        "text": filled.text,
        "filled": filled.filled,
        "masks": filled.masks.iter().map(predictions).collect::<Vec<_>>(),
    })
}
