//! `mlm eval`: how well a model recovers the masked tokens of a text.

use std::path::PathBuf;

use clap::Args;
use mlm_core::rand::SeedableRng;
use mlm_core::rand::rngs::StdRng;
use mlm_core::*;
use serde_json::json;

use crate::Failure;
use crate::text::{Text, counts, counts_json, of_known_words, warn};

/// Mask tokens of a text and measure how well a model recovers them.
#[derive(Args)]
#[command(after_help = "Example: mlm eval --model runs/lab --corpus data/five_sentences.txt")]
pub(crate) struct Eval {
    /// A folder that `mlm train` or `transformers` has written
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    #[command(flatten)]
    text: Text,
    /// The probability that a token is chosen to be recovered
    #[arg(long, default_value_t = Masking::default().rate)]
    mask_rate: f64,
    /// Which tokens are chosen follows from it
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Print one JSON object as the last line
    #[arg(long)]
    json: bool,
}

/// How many sequences go through the model together.
const BATCH: usize = 32;

impl Eval {
    /// What was measured, as text.
    pub(crate) fn run(&self) -> Result<String, Failure> {
        let params = Params::from_pretrained(&self.model)?;
        let tokenizer = Tokenizer::from_pretrained(&self.model)?;
        tokenizer.check_fits(params.config().vocab)?;
        let (text, max_len) = (self.text.open()?, params.config().max_len);
        let encoded = match self.text.packing() {
            Packing::Sentences => tokenizer.encode_corpus(&text, max_len),
            Packing::Windows => tokenizer.encode_windows(&text, max_len),
        }?;
        warn("the text", &encoded);
        let masker = Masker::new(&tokenizer, Masking { rate: self.mask_rate, ..Masking::default() })?;
        let loader = DataLoader::new(encoded.sequences.clone(), BATCH)?;
        let batches = loader.fixed(&masker, &mut StdRng::seed_from_u64(self.seed))?;
        let Evaluation { loss, perplexity, accuracy, masked } = evaluate(&Engine::new(&params)?, &batches)?;
        if self.json {
            let mut outcome = counts_json(&encoded);
            for (name, value) in [("loss", loss), ("perplexity", perplexity), ("masked_accuracy", accuracy)] {
                outcome[name] = json!(value);
            }
            outcome["masked"] = json!(masked);
            return Ok(format!("{outcome}\n"));
        }
        Ok(format!(
            "loss {loss:.3} nats, perplexity {perplexity:.1}{}, {:.1} % of {masked} masked tokens recovered\n{}\n",
            of_known_words(&encoded.coverage),
            100.0 * accuracy,
            counts(&encoded),
        ))
    }
}
