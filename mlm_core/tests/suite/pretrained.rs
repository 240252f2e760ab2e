//! Hugging Face directories: what one writes the other reads, whoever wrote it and however; damaged ones are refused.
//! `scripts/parity` compares with `transformers` itself.

use std::fs;
use std::path::Path;

use mlm_core::candle_core::{DType, Device, Tensor, safetensors};
use mlm_core::*;
use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{assert_close, assert_says, flat, message, pieces, random_model, seeded};

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// A small model with its tokenizer, saved.
fn saved() -> (TempDir, Params, Tokenizer) {
    let (dir, tokenizer) = (folder(), pieces().unwrap());
    let config = ModelConfig { d_model: 8, heads: 2, d_ff: 12, max_len: 16, ..ModelConfig::new(tokenizer.vocab()) };
    let params = Params::init(&config, &mut seeded(0)).unwrap();
    params.save_pretrained(&dir).unwrap();
    tokenizer.save_pretrained(&dir, config.max_len).unwrap();
    (dir, params, tokenizer)
}

/// The tensors of a saved model, in the order of their names.
fn tensors(dir: &Path) -> Vec<(String, Tensor)> {
    let mut tensors: Vec<_> =
        safetensors::load(dir.join("model.safetensors"), &Device::Cpu).unwrap().into_iter().collect();
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    tensors
}

fn write(path: &Path, tensors: impl IntoIterator<Item = (String, Tensor)>) {
    safetensors::save(&tensors.into_iter().collect(), path).unwrap();
}

/// Writes the weights of a saved model anew.
fn rewrite(dir: &Path, change: impl FnMut((String, Tensor)) -> Option<(String, Tensor)>) {
    write(&dir.join("model.safetensors"), tensors(dir).into_iter().filter_map(change));
}

/// Puts the weights of a saved model into several files with an index, and the vocabulary into a list.
fn put_into_several_files(dir: &Path) {
    let mut map = serde_json::Map::new();
    for (nth, part) in tensors(dir).chunks(9).enumerate() {
        let file = format!("model-{nth}.safetensors");
        write(&dir.join(&file), part.to_vec());
        map.extend(part.iter().map(|(name, _)| (name.clone(), json!(file))));
    }
    fs::write(dir.join("model.safetensors.index.json"), json!({ "weight_map": map }).to_string()).unwrap();
    fs::remove_file(dir.join("model.safetensors")).unwrap();
    let tokenizer = Tokenizer::from_pretrained(dir).unwrap();
    let ids: Vec<u32> = (0..tokenizer.vocab() as u32).collect();
    fs::write(dir.join("vocab.txt"), tokenizer.tokens(&ids).join("\n")).unwrap();
    fs::remove_file(dir.join("tokenizer.json")).unwrap();
    edit_json(&dir.join("tokenizer_config.json"), |json| json["tokenizer_class"] = json!("BertTokenizer"));
}

/// The golden model with the weights in a file of `torch.save`.
fn of_torch(file: &str) -> TempDir {
    let (dir, goldens) = (folder(), Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens"));
    for name in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
        fs::copy(goldens.join("transformers").join(name), dir.path().join(name)).unwrap();
    }
    fs::copy(goldens.join("torch").join(file), dir.path().join("pytorch_model.bin")).unwrap();
    dir
}

fn edit_json(path: &Path, change: impl FnOnce(&mut Value)) {
    let mut json = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    change(&mut json);
    fs::write(path, json.to_string()).unwrap();
}

/// A model that `scripts/parity` let `transformers` make, with what that computes for texts of every kind.
#[test]
fn a_model_of_transformers_says_the_same_here() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/transformers");
    let expected = safetensors::load(dir.join("expected.safetensors"), &Device::Cpu).unwrap();
    let (texts, ids): (Vec<String>, Vec<Vec<u32>>) =
        serde_json::from_slice(&fs::read(dir.join("texts.json")).unwrap()).unwrap();
    let tokenizer = Tokenizer::from_pretrained(&dir).unwrap();
    for (text, ids) in texts.iter().zip(&ids) {
        assert_eq!(&tokenizer.encode(text).unwrap(), ids, "{text:?}");
    }
    let params = Params::from_pretrained(&dir).unwrap();
    let encoder = Engine::new(&params).unwrap();
    let (mut hidden, mut logits) = (Vec::new(), Vec::new());
    for ids in ids.iter().filter(|ids| ids.len() <= params.config().max_len) {
        let batch = Batch::with_gaps([ids.as_slice()], tokenizer.special().mask);
        hidden.extend(flat(&encoder.encode(&batch, Mode::Evaluate).unwrap().hidden));
        if !batch.masked_rows.is_empty() {
            logits.extend(flat(&encoder.logits(&batch, Mode::Evaluate).unwrap()));
        }
    }
    for (name, ours) in [("hidden", hidden), ("logits", logits)] {
        assert_close(name, &ours, &flat(&expected[name]), 1.0, 1e-4);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn what_is_saved_is_loaded_to_the_last_bit(seed in 0u64..1000, dropout in 0.0f64..1.0, range in 1e-5f64..1.0) {
        let largest = ModelConfig { d_model: 12, heads: 3, d_ff: 20, max_len: 10, ..ModelConfig::new(30) };
        let shape = random_model(&mut seeded(seed), &largest, dropout).0;
        let config = ModelConfig { initializer_range: range, layer_norm_eps: range / 7.0, ..shape.config().clone() };
        let params = Params::init(&config, &mut seeded(seed)).unwrap();
        let dir = folder();
        params.save_pretrained(&dir).unwrap();
        let loaded = Params::from_pretrained(&dir).unwrap();
        prop_assert_eq!(loaded.config(), params.config());
        prop_assert!(loaded == params);
    }
}

#[test]
fn a_directory_has_the_files_and_tensors_that_transformers_looks_for() {
    let (dir, params, tokenizer) = saved();
    let mut files: Vec<_> =
        fs::read_dir(&dir).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    files.sort();
    assert_eq!(files, ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]);
    let mut expected: Vec<&str> = params.names().collect();
    expected.extend(["cls.predictions.decoder.bias", "cls.predictions.decoder.weight"]);
    expected.sort();
    let tensors = tensors(dir.path());
    assert_eq!(tensors.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), expected);
    let bytes = fs::read(dir.path().join("model.safetensors")).unwrap();
    let header = String::from_utf8_lossy(&bytes[8..200]).into_owned();
    assert!(header.contains(r#""__metadata__":{"format":"pt"}"#), "{header}");
    let again = Tokenizer::from_pretrained(&dir).unwrap();
    let text = "He [MASK] playfully, they worked";
    assert_eq!(again.encode(text).unwrap(), tokenizer.encode(text).unwrap());
}

/// Without the prefix as a `BertModel`, with the names of old releases, without what is tied, with what is of no use here.
#[test]
fn the_names_of_every_release_are_understood() {
    let (dir, params, _) = saved();
    rewrite(dir.path(), |(name, tensor)| {
        let tied = name.contains("decoder.") || name == "cls.predictions.bias";
        let name = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta");
        (!tied).then(|| (name.trim_start_matches("bert.").to_owned(), tensor))
    });
    let zeros = |len: usize| Tensor::zeros(len, DType::F32, &Device::Cpu).unwrap();
    let mut more = tensors(dir.path());
    more.push(("cls.predictions.decoder.bias".to_owned(), zeros(params.config().vocab)));
    more.push(("pooler.dense.bias".to_owned(), zeros(8)));
    more.push(("cls.seq_relationship.bias".to_owned(), zeros(2)));
    more.push(("embeddings.position_ids".to_owned(), Tensor::arange(0i64, 16, &Device::Cpu).unwrap()));
    write(&dir.path().join("model.safetensors"), more);
    assert!(Params::from_pretrained(&dir).unwrap() == params);
}

#[test]
fn weights_may_be_in_several_files_and_in_half_precision() {
    let (dir, params, _) = saved();
    let path = |file: &str| dir.path().join(file);
    let tensors = tensors(dir.path());
    put_into_several_files(dir.path());
    let index = path("model.safetensors.index.json");
    assert!(Params::from_pretrained(&dir).unwrap() == params);

    edit_json(&index, |json| json["weight_map"]["cls.predictions.bias"] = json!("../model-0.safetensors"));
    assert_says(&message(Params::from_pretrained(&dir)), &["index.json", "cls.predictions.bias", "beside the index"]);
    edit_json(&index, |json| json["weight_map"]["cls.predictions.bias"] = json!("model-77.safetensors"));
    assert_says(&message(Params::from_pretrained(&dir)), &["cannot read", "model-77.safetensors"]);

    for dtype in [DType::F16, DType::BF16] {
        write(
            &path("model.safetensors"),
            tensors.iter().map(|(name, tensor)| (name.clone(), tensor.to_dtype(dtype).unwrap())),
        );
        let loaded = Params::from_pretrained(&dir).unwrap();
        for (name, shape, values) in params.tensors() {
            let tensor = Tensor::from_slice(values, shape, &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
            assert_eq!(loaded.get(name).unwrap(), flat(&tensor).iter().map(|&v| v as f32).collect::<Vec<_>>());
        }
    }
}

/// Files of `torch.save` that `scripts/parity` has made of the golden model: as it is saved; in half precision; and with
/// parameters of one storage, in which matrices stand column after column, beside what is no tensor of the model.
#[test]
fn a_pytorch_model_is_loaded_without_python() {
    let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens");
    let params = Params::from_pretrained(goldens.join("transformers")).unwrap();
    let dir = folder();
    let path = |file: &str| dir.path().join(file);
    fs::copy(goldens.join("transformers/config.json"), path("config.json")).unwrap();
    for (file, dtype) in [("today", DType::F32), ("views", DType::F32), ("half", DType::F16)] {
        fs::copy(goldens.join(format!("torch/{file}.bin")), path("pytorch_model.bin")).unwrap();
        let loaded = Params::from_pretrained(&dir).unwrap();
        for (name, shape, values) in params.tensors() {
            let tensor = Tensor::from_slice(values, shape, &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
            let expected: Vec<f32> = flat(&tensor).iter().map(|&v| v as f32).collect();
            assert_eq!(loaded.get(name).unwrap(), expected, "{file}: {name}");
        }
    }
    // In parts, all names in one of them.
    fs::rename(path("pytorch_model.bin"), path("part-1.bin")).unwrap();
    let index = json!({ "weight_map": { "cls.predictions.bias": "part-1.bin" } });
    fs::write(path("pytorch_model.bin.index.json"), index.to_string()).unwrap();
    assert!(Params::from_pretrained(&dir).is_ok());

    let refused = |bytes: &[u8], words: &[&str]| {
        fs::write(path("pytorch_model.bin"), bytes).unwrap();
        assert_says(&message(Params::from_pretrained(&dir)), &["pytorch_model.bin", words[0], words[1]]);
    };
    refused(
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 9\n",
        &["Git LFS pointer", "git lfs pull"],
    );
    refused(b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.", &["torch 1.6 or later", "an older one"]);
    refused(b"<html>", &["torch.save", "<htm"]);
    refused(b"PK\x03\x04", &["torch.save", "the file"]);
    let today = fs::read(goldens.join("torch/today.bin")).unwrap();
    refused(&today[..today.len() / 2], &["torch.save", "the file"]);
}

#[test]
fn what_git_lfs_has_not_fetched_is_named_as_that() {
    for name in ["model.safetensors", "config.json"] {
        let (dir, ..) = saved();
        fs::write(dir.path().join(name), "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 9\n")
            .unwrap();
        assert_says(&message(Params::from_pretrained(&dir)), &[name, "Git LFS pointer"]);
    }
}

#[test]
fn an_encoder_without_a_head_is_loaded_where_no_head_is_needed() {
    let (dir, params, _) = saved();
    rewrite(dir.path(), |(name, tensor)| (!name.starts_with("cls.")).then_some((name, tensor)));
    let error = message(Params::from_pretrained(&dir));
    assert_says(&error, &["cls.predictions.transform.dense.weight", "from_pretrained_encoder"]);
    let loaded = Params::from_pretrained_encoder(&dir).unwrap();
    for (name, _, values) in params.tensors() {
        let ours = loaded.get(name).unwrap();
        assert!(if name.starts_with("cls.") { ours.iter().all(|&v| v == 0.0) } else { ours == values }, "{name}");
    }
}

#[test]
fn another_model_is_refused_by_the_name_of_the_field() {
    let (dir, ..) = saved();
    let path = dir.path().join("config.json");
    let original = fs::read(&path).unwrap();
    for (field, value, parts) in [
        ("model_type", json!("roberta"), ["\"bert\"", "\"roberta\""]),
        ("hidden_act", json!("gelu_new"), ["\"gelu\"", "\"gelu_new\""]),
        ("position_embedding_type", json!("relative_key"), ["\"absolute\"", "\"relative_key\""]),
        ("is_decoder", json!(true), ["false", "true"]),
        ("tie_word_embeddings", json!(false), ["shares the word embeddings", "false"]),
        ("num_attention_heads", json!(3), ["divisor", "3"]),
        ("hidden_size", json!("8"), ["a value that fits", "string"]),
        ("vocab_size", json!(-1), ["a value that fits", "-1"]),
        ("num_hidden_layers", json!(0), ["at least 1", "0"]),
    ] {
        edit_json(&path, |json| json[field] = value);
        assert_says(&message(Params::from_pretrained(&dir)), &["config.json", field, parts[0], parts[1]]);
        fs::write(&path, &original).unwrap();
    }
    edit_json(&path, |json| {
        for field in ["hidden_act", "position_embedding_type", "is_decoder", "tie_word_embeddings", "pad_token_id"] {
            json.as_object_mut().unwrap().remove(field);
        }
    });
    assert_eq!(Params::from_pretrained(&dir).unwrap().config().pad, 0);
}

#[test]
fn a_bert_without_a_model_type_is_known_by_its_architecture_or_its_tensors() {
    let (dir, params, _) = saved();
    let path = dir.path().join("config.json");
    let set = |architectures: Value| {
        edit_json(&path, |json| {
            let json = json.as_object_mut().unwrap();
            json.remove("model_type");
            json.insert("architectures".to_owned(), architectures);
        });
    };
    for architectures in [json!(["BertForMaskedLM"]), json!(["BertModel"]), Value::Null] {
        set(architectures);
        assert!(Params::from_pretrained(&dir).unwrap() == params);
    }
    set(json!(["RobertaModel"]));
    assert_says(&message(Params::from_pretrained(&dir)), &["config.json", "architectures", "RobertaModel"]);
    set(Value::Null);
    rewrite(dir.path(), |(name, tensor)| Some((name.trim_start_matches("bert.").to_owned(), tensor)));
    assert_says(&message(Params::from_pretrained(&dir)), &["config.json", "model_type", "architectures", "tensors"]);
}

#[test]
fn weights_that_do_not_fit_are_refused_by_the_name_of_the_tensor() {
    const BIAS: &str = "bert.encoder.layer.1.output.dense.bias";
    let (dir, ..) = saved();
    let original = fs::read(dir.path().join("model.safetensors")).unwrap();
    let changed = |change: &dyn Fn(Tensor) -> Option<Tensor>| {
        rewrite(dir.path(), |(name, tensor)| Some((name.clone(), if name == BIAS { change(tensor)? } else { tensor })));
        let error = message(Params::from_pretrained(&dir));
        fs::write(dir.path().join("model.safetensors"), &original).unwrap();
        assert_says(&error, &[BIAS]);
        error
    };
    assert_says(&changed(&|_| None), &["a tensor of that name"]);
    assert_says(&changed(&|tensor| Some(tensor.narrow(0, 0, 7).unwrap())), &["model.safetensors", "[8]", "[7]"]);
    assert_says(&changed(&|tensor| Some(tensor.to_dtype(DType::F64).unwrap())), &["F32, F16 or BF16", "F64"]);
    assert_says(&changed(&|tensor| Some(tensor.log().unwrap())), &["finite", "inf"]);

    edit_json(&dir.path().join("config.json"), |json| json["num_hidden_layers"] = json!(1));
    assert_says(&message(Params::from_pretrained(&dir)), &["bert.encoder.layer.1.", "the 1 layers"]);
    edit_json(&dir.path().join("config.json"), |json| json["num_hidden_layers"] = json!(3));
    assert_says(&message(Params::from_pretrained(&dir)), &["bert.encoder.layer.2.", "a tensor of that name"]);
    // Of a size that no memory has, which must not be asked for.
    edit_json(&dir.path().join("config.json"), |json| json["vocab_size"] = json!(u64::MAX));
    assert_says(&message(Params::from_pretrained(&dir)), &["word_embeddings", "[59, 8]"]);

    fs::remove_file(dir.path().join("model.safetensors")).unwrap();
    assert_says(&message(Params::from_pretrained(&dir)), &["model.safetensors", "neither", "pytorch_model.bin"]);
}

/// What `scripts/parity` has made of directories with oddities, and the ids that `transformers` gives for texts there.
#[test]
fn an_odd_directory_is_read_as_transformers_reads_it_or_refused_by_the_field() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/transformers/directories.json");
    let golden: Value = serde_json::from_slice(&fs::read(golden).unwrap()).unwrap();
    let strings = |value: &Value| -> Vec<String> { serde_json::from_value(value.clone()).unwrap() };
    let texts = strings(&golden["texts"]);
    for case in golden["directories"].as_array().unwrap() {
        let (dir, name) = (folder(), &case["name"]);
        for (file, content) in case["files"].as_object().unwrap() {
            fs::write(dir.path().join(file), content.as_str().unwrap()).unwrap();
        }
        let tokenizer = Tokenizer::from_pretrained(&dir);
        if case["refused"].is_array() {
            let words = strings(&case["refused"]);
            assert_says(&message(tokenizer), &words.iter().map(String::as_str).collect::<Vec<_>>());
            continue;
        }
        let tokenizer = tokenizer.unwrap_or_else(|error| panic!("{name}: {error}"));
        let ids: Vec<_> = texts.iter().map(|text| tokenizer.encode(text).unwrap()).collect();
        assert_eq!(json!(ids), case["ids"], "{name}");
        let again = folder();
        tokenizer.save_pretrained(&again, 16).unwrap();
        let again = Tokenizer::from_pretrained(&again).unwrap();
        assert_eq!(texts.iter().map(|text| again.encode(text).unwrap()).collect::<Vec<_>>(), ids, "{name}, saved");
    }
}

/// Whatever file says that a token is special: it is never masked nor drawn, and stays in the text.
#[test]
fn special_tokens_of_every_file_are_no_words() {
    let tokens = "[PAD] [UNK] [CLS] [SEP] [MASK] the cat".replace(' ', "\n");
    let named = json!({ "additional_special_tokens": ["[ENT]"] });
    let token = json!({ "content": "[ENT]", "special": true });
    let added = json!({ "[ENT]": 7 });
    for files in [
        vec![("added_tokens.json", &added), ("special_tokens_map.json", &named)],
        vec![("added_tokens.json", &added), ("tokenizer_config.json", &named)],
        vec![("tokenizer_config.json", &json!({ "added_tokens_decoder": { "7": token } }))],
        vec![("tokenizer_config.json", &named)],
    ] {
        let dir = folder();
        fs::write(dir.path().join("vocab.txt"), &tokens).unwrap();
        for (name, json) in &files {
            fs::write(dir.path().join(name), json.to_string()).unwrap();
        }
        let tokenizer = Tokenizer::from_pretrained(&dir).unwrap();
        let ids = tokenizer.encode("the [ENT] cat").unwrap();
        assert_eq!(ids, [2, 5, 7, 6, 3], "{files:?}");
        assert_eq!(tokenizer.words(&ids), [1..2, 3..4], "{files:?}");
        assert!(tokenizer.decode(&ids).unwrap().eq_ignore_ascii_case("the [ENT] cat"), "{files:?}");
        let masker = Masker::new(&tokenizer, Masking { rate: 1.0, ..Masking::default() }).unwrap();
        assert_eq!(masker.mask(&ids, &mut seeded(0)).unwrap().targets, [5, 6], "{files:?}");
    }
}

/// The vocabulary of a release from before there was a tokenizer.json.
#[test]
fn a_vocabulary_with_its_settings_is_a_tokenizer() {
    let dir = folder();
    assert_says(&message(Tokenizer::from_pretrained(&dir)), &["tokenizer.json or vocab.txt", "neither"]);
    let tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "caf", "##é", "##e", "Caf", "中", "文", "中文"];
    fs::write(dir.path().join("vocab.txt"), tokens.join("\n")).unwrap();
    let encoded = |settings: Value| {
        fs::write(dir.path().join("tokenizer_config.json"), settings.to_string()).unwrap();
        let tokenizer = Tokenizer::from_pretrained(&dir).unwrap();
        let ids = tokenizer.encode("Café 中文").unwrap();
        tokenizer.tokens(&ids[1..ids.len() - 1]).join(" ")
    };
    assert_eq!(encoded(json!({})), "caf ##e 中 文");
    assert_eq!(encoded(json!({ "do_lower_case": true, "strip_accents": false })), "caf ##é 中 文");
    assert_eq!(encoded(json!({ "do_lower_case": false })), "Caf ##é 中 文");
    assert_eq!(encoded(json!({ "do_lower_case": false, "strip_accents": true })), "Caf ##e 中 文");
    assert_eq!(encoded(json!({ "tokenize_chinese_chars": false })), "caf ##e 中文");
    fs::write(dir.path().join("tokenizer_config.json"), r#"{ "do_lower_case": "yes" }"#).unwrap();
    let error = message(Tokenizer::from_pretrained(&dir));
    assert_says(&error, &["tokenizer_config.json", "do_lower_case", "true, false or null", "yes"]);
}

/// Read as `transformers` reads it: a blank line has a number and no token, the last of several lines counts.
#[test]
fn a_vocabulary_may_have_blank_lines_and_duplicates_and_line_ends_of_windows() {
    let dir = folder();
    let path = dir.path().join("vocab.txt");
    let load = |text: &str| {
        fs::write(&path, text).unwrap();
        Tokenizer::from_pretrained(&dir)
    };
    let tokenizer = load("[PAD]\r\n[UNK]\r\n[CLS]\r\n[SEP]\r\n[MASK]\r\nfox\r\n\r\ncat \r\nfox\r\n\r\n\r\n").unwrap();
    assert_eq!(tokenizer.encode("fox cat").unwrap(), [2, 8, 7, 3]);
    assert_eq!(tokenizer.vocab(), 9);
    let masking = Masking { rate: 1.0, mask: 0.0, random: 1.0, keep: 0.0, whole_word: false };
    let masker = Masker::new(&tokenizer, masking).unwrap();
    let drawn = masker.mask(&[7; 1000], &mut seeded(0)).unwrap().input_ids;
    assert!(drawn.iter().all(|id| [7, 8].contains(id)), "only tokens are drawn");
    let error = message(load("[PAD]\n[UNK]\t0\n[CLS]\n[SEP]\n[MASK]\nfox"));
    assert_says(&error, &["vocab.txt", "line 2: expected one token, got", "[UNK]"]);
    assert_says(&message(load("")), &["vocab.txt", "no token [UNK]"]);
    let error = message(load("\u{feff}[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nfox"));
    assert_says(&error, &["vocab.txt", "line 1", "a byte order mark"]);
}

/// What puts [CLS] and [SEP] around a text may be written in several ways, and is only read: at a template whose tokens are not
/// all there, the `tokenizers` crate panics when it is run.
#[test]
fn what_stands_around_a_text_is_read_however_it_is_written() {
    let (dir, _, tokenizer) = saved();
    let read = |processor: &Value| {
        edit_json(&dir.path().join("tokenizer.json"), |json| json["post_processor"] = processor.clone());
        Tokenizer::from_pretrained(&dir)
    };
    let SpecialIds { cls, sep, .. } = tokenizer.special();
    let bert = json!({ "type": "BertProcessing", "cls": ["[CLS]", cls], "sep": ["[SEP]", sep] });
    let roberta = json!({
        "type": "RobertaProcessing", "cls": ["[CLS]", cls], "sep": ["[SEP]", sep], "trim_offsets": true,
        "add_prefix_space": false,
    });
    let special = |id: &str| json!({ "SpecialToken": { "id": id, "type_id": 0 } });
    let text = |id: &str| json!({ "Sequence": { "id": id, "type_id": 0 } });
    let template = |single: &[Value]| {
        let token = |name: &str, id: u32| json!({ "id": name, "ids": [id], "tokens": [name] });
        let special_tokens = json!({ "[CLS]": token("[CLS]", cls), "end": token("[SEP]", sep) });
        json!({ "type": "TemplateProcessing", "single": single, "pair": [], "special_tokens": special_tokens })
    };
    let around = template(&[special("[CLS]"), text("A"), special("end")]);
    let sequence = |processors: &[&Value]| json!({ "type": "Sequence", "processors": processors });
    let bytes = json!({ "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true });
    let after = template(&[text("A"), special("end")]);
    let before = template(&[special("[CLS]"), text("A")]);
    for processor in [&bert, &roberta, &around, &sequence(&[&bytes, &bert]), &sequence(&[&after, &before])] {
        let ids = read(processor).unwrap().encode("he plays").unwrap();
        assert_eq!(ids, tokenizer.encode("he plays").unwrap(), "{processor}");
    }
    for (processor, actual) in [
        (&Value::Null, "something else"),
        (&after, "the text [SEP]"),
        (&bytes, "the text"),
        (&sequence(&[&bert, &before]), "[CLS] [CLS] the text [SEP]"),
        (&template(&[special("[CLS]"), text("A"), special("[SEP]")]), "something else"),
        (&json!({ "type": "BertProcessing", "cls": ["[CLS]", sep], "sep": ["[SEP]", cls] }), "[SEP] the text [CLS]"),
        (&template(&[special("[CLS]"), text("B"), special("end")]), "something else"),
    ] {
        let expected = format!("got {actual}");
        assert_says(&message(read(processor)), &["tokenizer.json", "post_processor", "[CLS] before a text", &expected]);
    }
}

/// The `tokenizers` crate panics at them when it loads them, or at the first text.
#[test]
fn parts_of_a_tokenizer_that_cannot_be_run_are_refused() {
    let (dir, _, tokenizer) = saved();
    let path = dir.path().join("tokenizer.json");
    let original = fs::read(&path).unwrap();
    let charsmap = json!({ "type": "Precompiled", "precompiled_charsmap": "AAAA" });
    for (part, value, words) in [
        (
            "normalizer",
            json!({ "type": "Sequence", "normalizers": [charsmap] }),
            ["precompiled_charsmap", "none: SentencePiece"],
        ),
        ("pre_tokenizer", json!({ "type": "FixedLength", "length": 0 }), ["length", "at least 1, got 0"]),
        ("decoder", json!({ "type": "Strip", "content": "a", "start": 0, "stop": 9 }), ["stop", "got 9"]),
    ] {
        edit_json(&path, |json| json[part] = value);
        for error in [message(Tokenizer::from_file(&path)), message(Tokenizer::from_pretrained(&dir))] {
            assert_says(&error, &["tokenizer.json", part, words[0], words[1]]);
        }
        fs::write(&path, &original).unwrap();
    }
    edit_json(&path, |json| {
        json["model"]["vocab"]["[ENT]"] = json!(u32::MAX);
        let added = json["added_tokens"].as_array_mut().unwrap();
        let mut token = added[0].clone();
        (token["id"], token["content"]) = (json!(u32::MAX), json!("[ENT]"));
        added.push(token);
    });
    for error in [message(Tokenizer::from_file(&path)), message(Tokenizer::from_pretrained(&dir))] {
        assert_says(&error, &["tokenizer.json", "model, vocab", "ids below 16777216, got 4294967295 for \"[ENT]\""]);
    }
    fs::write(&path, &original).unwrap();
    // This one cannot decode nothing, which is all that there is between [CLS] and [SEP].
    edit_json(&path, |json| json["decoder"] = json!({ "type": "BPEDecoder", "suffix": "" }));
    let read = Tokenizer::from_pretrained(&dir).unwrap();
    assert_eq!(read.decode(&tokenizer.encode("").unwrap()).unwrap(), "");
}

#[test]
fn a_tokenizer_that_is_larger_than_the_model_is_refused_with_both_sizes() {
    let (dir, params, _) = saved();
    put_into_several_files(dir.path());
    let path = dir.path().join("vocab.txt");
    let vocab = fs::read_to_string(&path).unwrap();
    let engine = Engine::new(&params).unwrap();
    let corpus = Corpus::from_lines(["he plays"]).unwrap();
    let size = params.config().vocab;
    fs::write(&path, format!("{vocab}\nzebra")).unwrap();
    let larger = Tokenizer::from_pretrained(&dir).unwrap();
    let last = "the last of them \"zebra\"";
    let [of_model, of_tokenizer] = [format!("at most {size} tokens"), format!("got {}, {last}", size + 1)];
    for error in [
        message(fill_mask(&engine, &larger, "he [MASK]", 1)),
        message(recovery(&engine, &larger, &corpus)),
        message(larger.check_fits(size)),
    ] {
        assert_says(&error, &["tokenizer", &of_model, &of_tokenizer]);
    }
    fs::write(&path, format!("{vocab}\n\n\n")).unwrap();
    let blank = Tokenizer::from_pretrained(&dir).unwrap();
    assert_eq!(fill_mask(&engine, &blank, "he [MASK]", 1).unwrap().masks.len(), 1);
    blank.check_fits(size).unwrap();
}

thread_local!(static SAVED: [TempDir; 4] = [saved().0, {
    let (dir, _, tokenizer) = saved();
    put_into_several_files(dir.path());
    for (name, json) in [
        ("added_tokens.json", json!({ "[ENT]": tokenizer.vocab() })),
        ("special_tokens_map.json", json!({ "additional_special_tokens": ["[ENT]"] })),
    ] {
        fs::write(dir.path().join(name), json.to_string()).unwrap();
    }
    dir
}, of_torch("today.bin"), of_torch("views.bin")]);

/// The JSON files of [`SAVED`], and the others, each with the index of its directory.
const JSONS: [(usize, &str); 7] = [
    (0, "config.json"),
    (0, "tokenizer.json"),
    (0, "tokenizer_config.json"),
    (1, "model.safetensors.index.json"),
    (1, "tokenizer_config.json"),
    (1, "added_tokens.json"),
    (1, "special_tokens_map.json"),
];
const OTHERS: [(usize, &str); 5] = [
    (0, "model.safetensors"),
    (1, "model-1.safetensors"),
    (1, "vocab.txt"),
    (2, "pytorch_model.bin"),
    (3, "pytorch_model.bin"),
];

/// Whatever has happened to a file, a loader gives what can be used or an error that names a file.
fn refused_or_harmless(file: (usize, &str), damage: impl FnOnce(&[u8]) -> Vec<u8>) -> Result<(), TestCaseError> {
    SAVED.with(|dirs| {
        let dir = &dirs[file.0];
        let path = dir.path().join(file.1);
        let original = fs::read(&path).unwrap();
        fs::write(&path, damage(&original)).unwrap();
        let (params, tokenizer) = (Params::from_pretrained(dir), Tokenizer::from_pretrained(dir));
        fs::write(&path, original).unwrap();
        if let Ok(tokenizer) = &tokenizer {
            let _ = tokenizer.encode("He [MASK] played").map(|ids| tokenizer.decode(&ids));
            if let Ok(params) = &params {
                let _ = Engine::new(params).and_then(|engine| fill_mask(&engine, tokenizer, "He [MASK] played", 5));
            }
        }
        for error in [params.err(), tokenizer.err()].into_iter().flatten() {
            let (error, folder) = (error.to_string(), dir.path().display().to_string());
            prop_assert!(error.contains(&folder), "{error:?} does not name a file");
        }
        Ok(())
    })
}

/// The JSON pointer to a place: at each level one of those that there are.
fn place(json: &Value, way: &[prop::sample::Index]) -> String {
    let (mut pointer, mut at) = (String::new(), json);
    for index in way {
        let names: Vec<String> = match at {
            Value::Object(fields) => fields.keys().map(|name| name.replace('~', "~0").replace('/', "~1")).collect(),
            Value::Array(values) => (0..values.len()).map(|nth| nth.to_string()).collect(),
            _ => break,
        };
        if names.is_empty() {
            break;
        }
        pointer = format!("{pointer}/{}", index.get(&names));
        at = json.pointer(&pointer).unwrap();
    }
    pointer
}

proptest! {
    // For a longer run: PROPTEST_CASES=100000.
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.max(1000), ..ProptestConfig::default() })]

    #[test]
    fn damaged_files_are_refused_or_harmless(
        file in prop::sample::select([&JSONS[..], &OTHERS].concat()),
        flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in proptest::option::of(any::<prop::sample::Index>()),
    ) {
        refused_or_harmless(file, |original| {
            let mut bytes = original.to_vec();
            for (at, byte) in flips {
                // Near the start or near the end: an archive says at its end what is in it.
                let (at, last) = (at.index(bytes.len().min(4096)), bytes.len() - 1);
                bytes[if byte % 2 == 0 { at } else { last - at }] = byte;
            }
            if let Some(cut) = cut {
                bytes.truncate(cut.index(bytes.len()));
            }
            bytes
        })?;
    }

    /// As someone may write it.
    #[test]
    fn files_that_say_something_odd_are_refused_or_harmless(
        file in prop::sample::select(&JSONS[..]),
        odd in proptest::collection::vec((
            proptest::collection::vec(any::<prop::sample::Index>(), 1..6),
            prop::sample::select(vec![
                json!(null), json!(true), json!(false), json!(0), json!(1), json!(3), json!(-1), json!(0.5), json!(1e300),
                json!(u32::MAX), json!(u64::MAX), json!(1u64 << 40), json!(""), json!(" "), json!("a"), json!("[CLS]"),
                json!("##"), json!("BPE"), json!("WordLevel"), json!([]), json!({}), json!([0]), json!(["[MASK]"]), json!({ "content": "[X]" }),
            ]),
        ), 1..4),
    ) {
        refused_or_harmless(file, |original| {
            let mut json: Value = serde_json::from_slice(original).unwrap();
            for (way, value) in odd {
                let place = place(&json, &way);
                *json.pointer_mut(&place).unwrap() = value;
            }
            json.to_string().into_bytes()
        })?;
    }
}
