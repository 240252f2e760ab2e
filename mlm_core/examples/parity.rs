//! What `scripts/parity` compares with `transformers`: writes a model of ours, or what this library makes of a directory.
//!
//! ```text
//! parity save DIR                          a small model that has been trained for a moment
//! parity run DIR TEXTS.json OUT.safetensors
//! parity ids DIR TEXTS.json OUT.json        their token ids, or why the directory is refused
//! parity train TEXTS.json cased|uncased DIR OUT.json
//!                                           a tokenizer learned from them; their ids, and the texts of these
//! parity lab DIR OUT.safetensors            what notebook 08 starts from, and the 625 batches that it trains on
//! ```
//!
//! Of the texts, an array of strings, OUT gets the token ids end to end (`ids`) and where each text ends (`ends`); of those
//! that fit the model also the last hidden states of all tokens (`hidden`) and, if it has a head, the logits at every
//! `[MASK]` (`logits`) and the ids of the five most likely tokens there (`top`).

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use mlm_core::candle_core::{Device, Tensor, safetensors};
use mlm_core::rand::{SeedableRng, rngs::StdRng};
use mlm_core::*;
use serde_json::json;

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["save", dir] => save(Path::new(dir))?,
        ["run", dir, texts, out] => {
            let texts: Vec<String> = serde_json::from_slice(&fs::read(texts)?)?;
            safetensors::save(&run(Path::new(dir), &texts)?, out)?;
        }
        ["ids", dir, texts, out] => {
            let texts: Vec<String> = serde_json::from_slice(&fs::read(texts)?)?;
            let ids = Tokenizer::from_pretrained(dir)
                .and_then(|tokenizer| texts.iter().map(|text| tokenizer.encode(text)).collect::<Result<Vec<_>>>());
            fs::write(out, ids.map_or_else(|error| json!(error.to_string()), |ids| json!(ids)).to_string())?;
        }
        ["train", texts, case, dir, out] => {
            let texts: Vec<String> = serde_json::from_slice(&fs::read(texts)?)?;
            let config = if case == &"cased" { TokenizerConfig::cased(4000) } else { TokenizerConfig::new(4000) };
            let tokenizer = Tokenizer::train(&Corpus::from_lines(&texts)?, &config)?;
            tokenizer.save_pretrained(dir, 512)?;
            let ids = texts.iter().map(|text| tokenizer.encode(text)).collect::<Result<Vec<_>>>()?;
            let back = ids.iter().map(|ids| tokenizer.decode(ids)).collect::<Result<Vec<_>>>()?;
            fs::write(out, json!({ "ids": ids, "texts": back }).to_string())?;
        }
        ["lab", dir, out] => lab(Path::new(dir), Path::new(out))?,
        _ => {
            return Err(
                "usage: parity save DIR | run DIR TEXTS.json OUT.safetensors | ids DIR TEXTS.json OUT.json | train … | lab …"
                    .into(),
            );
        }
    }
    Ok(())
}

fn save(dir: &Path) -> Result<()> {
    let mut rng = StdRng::seed_from_u64(0);
    let sentences = include_str!("../../data/five_sentences.txt");
    let corpus = Corpus::from_lines(sentences.lines().chain(["Ça va? naïve café, 東京 2024!", "плохо и хорошо"]))?;
    let tokenizer = Tokenizer::train(&corpus, &TokenizerConfig::new(120))?;
    // A vocabulary larger than the tokenizer's, as of many models: it was rounded up.
    let config = ModelConfig { initializer_range: 0.2, layer_norm_eps: 1e-7, ..ModelConfig::new(128) };
    let mut encoder = Engine::new(&Params::init(&config, &mut rng)?)?;
    let mut gradients = Gradients::zeros(&encoder)?;
    let mut optimizer = AdamW::new(&encoder, AdamWConfig::default())?;
    let masker = Masker::new(&tokenizer, Masking::default())?;
    let loader = DataLoader::new(tokenizer.encode_corpus(&corpus, config.max_len)?.sequences, 2)?;
    for _ in 0..20 {
        for batch in loader.epoch(&masker, &mut rng) {
            encoder.forward(&batch?, Mode::Train { dropout_seed: 0 })?;
            encoder.backward(&mut gradients)?;
            optimizer.step(&mut encoder, &gradients, 1e-2)?;
        }
    }
    encoder.params()?.save_pretrained(dir)?;
    tokenizer.save_pretrained(dir, config.max_len)
}

/// The batches are end to end, as tokens: what the model sees, the labels (-100 where nothing is asked), and how many tokens
/// each sequence has; and how many sequences each batch has.
fn lab(dir: &Path, out: &Path) -> Result<()> {
    let corpus = Corpus::from_lines(include_str!("../../data/five_sentences.txt").lines())?.repeat(200)?;
    let tokenizer = Tokenizer::train(&corpus, &TokenizerConfig::new(1000))?;
    let config = ModelConfig { max_len: 32, ..ModelConfig::new(tokenizer.vocab()) };
    Params::init(&config, &mut StdRng::seed_from_u64(0))?.save_pretrained(dir)?;
    let masker = Masker::new(&tokenizer, Masking::default())?;
    let loader = DataLoader::new(tokenizer.encode_corpus(&corpus, config.max_len)?.sequences, 8)?;
    let mut rng = StdRng::seed_from_u64(0);
    let (mut input_ids, mut labels, mut lengths, mut batches) = (vec![], vec![], vec![], vec![]);
    for _ in 0..5 {
        for batch in loader.epoch(&masker, &mut rng) {
            let batch = batch?;
            let mut asked = vec![-100; batch.tokens()];
            batch.masked_rows.iter().zip(&batch.targets).for_each(|(&row, &target)| asked[row] = i64::from(target));
            labels.extend(asked);
            input_ids.extend(batch.input_ids.iter().map(|&id| i64::from(id)));
            lengths.extend(batch.offsets.windows(2).map(|ends| (ends[1] - ends[0]) as i64));
            batches.push(batch.sequences() as i64);
        }
    }
    let parts = [("input_ids", input_ids), ("labels", labels), ("lengths", lengths), ("batches", batches)];
    let tensors = parts.into_iter().map(|(name, values)| Ok((name, Tensor::new(values, &Device::Cpu)?)));
    Ok(safetensors::save(&tensors.collect::<Result<HashMap<_, _>>>()?, out)?)
}

fn run(dir: &Path, texts: &[String]) -> Result<HashMap<&'static str, Tensor>> {
    let tokenizer = Tokenizer::from_pretrained(dir)?;
    let (params, has_head) = match Params::from_pretrained(dir) {
        Ok(params) => (params, true),
        Err(_) => (Params::from_pretrained_encoder(dir)?, false),
    };
    let encoder = Engine::new(&params)?;
    let sequences = texts.iter().map(|text| tokenizer.encode(text)).collect::<Result<Vec<_>>>()?;
    let mut end = 0;
    let ends = sequences.iter().map(|ids| {
        end += ids.len() as u32;
        end
    });
    let ends: Vec<u32> = ends.collect();
    let device = &Device::Cpu;
    let mut out =
        HashMap::from([("ends", Tensor::new(ends, device)?), ("ids", Tensor::new(sequences.concat(), device)?)]);

    let (mut hidden, mut logits, mut top) = (Vec::new(), Vec::new(), Vec::new());
    for (text, ids) in texts.iter().zip(&sequences).filter(|(_, ids)| ids.len() <= params.config().max_len) {
        let batch = Batch::with_gaps([ids.as_slice()], tokenizer.special().mask);
        hidden.push(encoder.encode(&batch, Mode::Evaluate)?.hidden);
        if has_head && !batch.masked_rows.is_empty() {
            logits.push(encoder.logits(&batch, Mode::Evaluate)?);
            for predictions in fill_mask(&encoder, &tokenizer, text, 5)?.masks {
                top.push(Tensor::new(predictions.iter().map(|it| it.id).collect::<Vec<u32>>(), device)?.unsqueeze(0)?);
            }
        }
    }
    for (name, tensors) in [("hidden", hidden), ("logits", logits), ("top", top)] {
        if !tensors.is_empty() {
            out.insert(name, Tensor::cat(&tensors, 0)?);
        }
    }
    Ok(out)
}
