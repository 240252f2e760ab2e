//! The program `mlm` as its users start it.

mod command;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::Duration;

use mlm_core::rand::rngs::StdRng;
use mlm_core::rand::{Rng, SeedableRng};
use mlm_core::*;
use serde_json::Value;

fn program() -> Command {
    command::command(env!("CARGO_BIN_EXE_mlm"))
}

fn mlm(arguments: &[&str]) -> Output {
    program().args(arguments).output().unwrap()
}

/// Standard output as text, and its last line as JSON.
fn json(output: &Output) -> Value {
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    serde_json::from_str(text.lines().last().unwrap()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// A training of 200 small steps into a folder, which writes a checkpoint after each of them.
fn train(out: &Path) -> Command {
    let mut command = program();
    command.args(["train", "--corpus", concat!(env!("CARGO_MANIFEST_DIR"), "/../data/five_sentences.txt"), "--out"]);
    command.arg(out).args(["--repeat", "100", "--validation", "0.2", "--d-model", "8", "--d-ff", "16", "--heads", "2"]);
    command.args([
        "--dropout",
        "0.1",
        "--epochs",
        "4",
        "--batch-size",
        "8",
        "--threads",
        "2",
        "--checkpoint-seconds",
        "0",
        "--json",
    ]);
    command
}

/// Starts such a training and waits for the end of its first epoch; with it comes what it says from there on.
#[cfg(unix)]
fn train_an_epoch(out: &Path) -> (Child, impl Iterator<Item = String>) {
    let mut training = train(out).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let mut said = BufReader::new(training.stderr.take().unwrap()).lines().map(Result::unwrap);
    said.find(|line| line.starts_with("epoch 1")).unwrap();
    (training, said)
}

fn weights(folder: &Path) -> Vec<u8> {
    fs::read(folder.join("model.safetensors")).unwrap()
}

#[test]
fn a_training_on_stories_is_seen_against_the_floor_of_their_grammar() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (text, out) = (&path("stories.txt"), &path("run"));
    let data = concat!(env!("CARGO_MANIFEST_DIR"), "/../data/");
    let grammar = &format!("{data}stories.grammar");
    let drawn = mlm(&["stories", "--grammar", grammar, "--count", "4000"]);
    let all = fs::read(format!("{data}stories.txt")).unwrap();
    assert!(drawn.status.success() && all.starts_with(&drawn.stdout), "{drawn:?}");
    fs::write(text, drawn.stdout).unwrap();
    let shape = ["--d-model", "8", "--heads", "2", "--vocab-size", "1200"];
    let training =
        ["train", "--corpus", text, "--grammar", grammar, "--out", out, "--epochs", "1", "--validation", "0.2"];
    let trained = mlm(&[&training[..], &shape, &["--json"]].concat());
    let outcome = json(&trained);
    let loss = |name: &str| outcome["baselines"][name]["loss"].as_f64().unwrap();
    assert!(loss("floor") < loss("neighbours") && loss("neighbours") < loss("unigram"), "{outcome}");
    assert!(stderr(&trained).contains("without a model: unigram "), "{trained:?}");
    let history = History::load(out).unwrap();
    assert_eq!(history.baselines().unwrap().floor.as_ref().unwrap().loss, loss("floor"));
}

#[test]
fn a_training_that_is_killed_again_and_again_ends_with_the_same_file() {
    let folder = tempfile::tempdir().unwrap();
    let [whole, killed] = ["whole", "killed"].map(|name| folder.path().join(name));
    let outcome = json(&train(&whole).output().unwrap());
    assert_eq!(outcome["epochs"].as_array().unwrap().len(), 5);
    assert!(outcome["epochs"][4]["perplexity"].as_f64().unwrap() > 1.0, "{outcome}");

    let mut rng = StdRng::seed_from_u64(0);
    let mut ended = 0;
    for _ in 0..50 {
        let mut training = train(&killed).arg("--resume").stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        sleep(Duration::from_millis(rng.random_range(0..50)));
        if let Some(status) = training.try_wait().unwrap() {
            assert!(status.success() && weights(&killed) == weights(&whole), "{status}");
            fs::remove_dir_all(&killed).unwrap(); // The next one begins anew.
            ended += 1;
        } else {
            training.kill().unwrap();
            training.wait().unwrap();
        }
    }
    let last = train(&killed).arg("--resume").output().unwrap();
    assert!(ended < 25, "{ended} of 50 had ended before they were killed");
    assert_eq!(json(&last)["epochs"].as_array().unwrap().len(), 5);
    assert!(weights(&killed) == weights(&whole));
    assert_eq!(History::load(&killed).unwrap().records().len(), 5);
}

#[cfg(unix)]
#[test]
fn an_interrupt_saves_and_says_how_to_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let [whole, stopped] = ["whole", "stopped"].map(|name| folder.path().join(name));
    json(&train(&whole).output().unwrap());
    let (mut training, said) = train_an_epoch(&stopped);
    assert!(Command::new("kill").args(["-INT", &training.id().to_string()]).status().unwrap().success());
    assert_eq!(training.wait().unwrap().code(), Some(130));
    let last = said.last().unwrap();
    assert!(last.contains("of 200, which is saved") && last.contains("--resume"), "{last}");
    Params::from_pretrained(&stopped).unwrap();

    let again = train(&stopped).output().unwrap();
    assert_eq!(again.status.code(), Some(1));
    assert!(stderr(&again).contains("one with a training"), "{again:?}");
    let other = train(&stopped).args(["--resume", "--seed", "1"]).output().unwrap();
    assert!(stderr(&other).contains("seed 1 where it was 0"), "{other:?}");
    json(&train(&stopped).arg("--resume").output().unwrap());
    assert!(weights(&stopped) == weights(&whole));
}

/// On a test that takes many times as long as the steps of an epoch.
#[cfg(unix)]
#[test]
fn an_interrupt_in_an_evaluation_ends_it_and_the_epoch_is_evaluated_later() {
    let folder = tempfile::tempdir().unwrap();
    let [whole, stopped] = ["whole", "stopped"].map(|name| folder.path().join(name));
    let text = folder.path().join("text.txt");
    let lines: Vec<String> = (0..40_000).map(|nth| format!("the {} of the {}", nth % 97, nth / 97)).collect();
    fs::write(&text, lines.join("\n")).unwrap();
    let train = |out: &Path| {
        let mut command = program();
        command.arg("train").arg("--corpus").arg(&text).arg("--out").arg(out).args(["--validation", "0.999", "--json"]);
        command.args(["--epochs", "3", "--d-model", "8", "--heads", "2", "--threads", "2"]);
        command
    };
    let losses = |out: &Path| -> Vec<_> {
        let history = History::load(out).unwrap();
        history.records().iter().map(|record| (record.epoch, record.train_loss, record.validation_loss)).collect()
    };
    json(&train(&whole).output().unwrap());
    assert_eq!(losses(&whole).len(), 4);
    let mut in_evaluation = 0;
    for epoch in ["epoch 0", "epoch 1", "epoch 2"] {
        let mut training =
            train(&stopped).arg("--resume").stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let mut said = BufReader::new(training.stderr.take().unwrap()).lines().map(Result::unwrap);
        said.find(|line| line.starts_with(epoch)).unwrap();
        // The next epoch has three steps, which take a few milliseconds.
        sleep(Duration::from_millis(40));
        assert!(Command::new("kill").args(["-INT", &training.id().to_string()]).status().unwrap().success());
        assert_eq!(training.wait().unwrap().code(), Some(130));
        let last = said.last().unwrap();
        assert!(last.starts_with("mlm: interrupted after step"), "{last}");
        in_evaluation += usize::from([3, 6, 9].iter().any(|step| last.contains(&format!("step {step} of 9,"))));
    }
    assert!(in_evaluation > 0);
    json(&train(&stopped).arg("--resume").output().unwrap());
    assert!(weights(&stopped) == weights(&whole));
    assert_eq!(losses(&stopped), losses(&whole));
}

/// It would be the same training as often as there are processes, all in one folder.
#[cfg(not(feature = "mpi"))]
#[test]
fn a_process_of_an_mpi_job_wants_a_program_with_mpi() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let refused = train(&out).env("OMPI_COMM_WORLD_SIZE", "2").output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).contains("built without it; scripts/mpi builds it"), "{refused:?}");
    assert!(!out.exists());
}

#[test]
fn what_others_have_put_into_the_folder_of_a_training_stays() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    // A start that fails leaves the folder, and somebody may keep a text in it where large texts are kept.
    assert_eq!(train(&out).args(["--warmup", "2"]).output().unwrap().status.code(), Some(1));
    let mine = out.join("texts/mine.txt");
    fs::create_dir(out.join("texts")).unwrap();
    fs::write(&mine, "to be or not to be").unwrap();
    json(&train(&out).output().unwrap());
    json(&train(&out).arg("--resume").output().unwrap());
    assert_eq!(fs::read_to_string(&mine).unwrap(), "to be or not to be");

    // A model whose checkpoints are gone is no training, and another one does not take its place.
    let trained = weights(&out);
    fs::remove_dir_all(out.join("checkpoints")).unwrap();
    for resume in [&["--seed", "1"][..], &["--seed", "1", "--resume"]] {
        let refused = train(&out).args(resume).output().unwrap();
        assert_eq!(refused.status.code(), Some(1));
        assert!(stderr(&refused).contains("in it and no training"), "{refused:?}");
        assert!(weights(&out) == trained);
    }
}

#[cfg(unix)]
#[test]
fn an_interrupt_before_the_first_step_is_a_sentence_too() {
    let folder = tempfile::tempdir().unwrap();
    let (text, out) = (folder.path().join("text.txt"), folder.path().join("run"));
    let lines: Vec<String> = (0..300_000).map(|nth| format!("the {nth} of the {}", nth / 97)).collect();
    fs::write(&text, lines.join("\n")).unwrap();
    let mut training = program();
    training.arg("train").arg("--corpus").arg(&text).arg("--out").arg(&out).args(["--d-model", "8", "--heads", "2"]);
    let mut training = training.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let mut said = BufReader::new(training.stderr.take().unwrap()).lines().map(Result::unwrap);
    said.next().unwrap(); // of reading, counting or encoding
    assert!(Command::new("kill").args(["-INT", &training.id().to_string()]).status().unwrap().success());
    assert_eq!(training.wait().unwrap().code(), Some(130));
    let last = said.last().unwrap();
    assert!(last.starts_with("mlm: interrupted"), "{last}");
}

#[cfg(unix)]
#[test]
fn a_full_disk_costs_nothing_that_was_saved() {
    let folder = tempfile::tempdir().unwrap();
    let [whole, full] = ["whole", "full"].map(|name| folder.path().join(name));
    json(&train(&whole).output().unwrap());
    // A shell that lets no file grow beyond 8 or 16 KiB: room for a configuration, not for weights.
    let limited = |command: &Command| {
        let mut shell = Command::new("sh");
        shell.args(["-c", "trap '' XFSZ; ulimit -f 16; exec \"$0\" \"$@\""]);
        shell.arg(command.get_program()).args(command.get_args()).output().unwrap()
    };
    let (mut training, _) = train_an_epoch(&full);
    training.kill().unwrap();
    training.wait().unwrap();
    let failed = limited(train(&full).arg("--resume"));
    assert_eq!(failed.status.code(), Some(1));
    assert!(stderr(&failed).contains("cannot write") && stderr(&failed).contains(".safetensors: "), "{failed:?}");
    Params::from_pretrained(&full).unwrap();
    json(&train(&full).arg("--resume").output().unwrap());
    assert!(weights(&full) == weights(&whole));
}

/// As `head -1` does it.
#[test]
fn who_stops_reading_ends_neither_a_training_nor_the_program() {
    let folder = tempfile::tempdir().unwrap();
    let [whole, unread] = ["whole", "unread"].map(|name| folder.path().join(name));
    json(&train(&whole).output().unwrap());
    let mut training = train(&unread).stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    drop(training.stdout.take());
    let said = BufReader::new(training.stderr.take().unwrap()).lines().next().unwrap().unwrap();
    assert!(said.starts_with("training: "), "{said}");
    assert_eq!(training.wait().unwrap().code(), Some(0));
    assert!(weights(&unread) == weights(&whole));

    let mut stories = program();
    stories.args(["stories", "--grammar", concat!(env!("CARGO_MANIFEST_DIR"), "/../data/stories.grammar")]);
    let mut stories = stories.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(stories.stdout.take());
    let output = stories.wait_with_output().unwrap();
    assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(0), ""));
}

/// The library goes on with what the program has begun only where their settings are the same.
#[test]
fn without_options_the_program_trains_as_the_library_does() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let data = concat!(env!("CARGO_MANIFEST_DIR"), "/../data/five_sentences.txt");
    let trained = mlm(&["train", "--corpus", data, "--validation", "0", "--out", out.to_str().unwrap()]);
    assert!(trained.status.success(), "{trained:?}");
    let corpus = Corpus::from_file(data, Layout::Lines).unwrap();
    let tokenizer = Tokenizer::from_pretrained(&out).unwrap();
    let model = ModelConfig { initializer_range: 0.05, ..ModelConfig::new(tokenizer.vocab()) };
    let train = tokenizer.encode_corpus(&corpus, model.max_len).unwrap().sequences;
    let texts = Texts { tokenizer, train, validation: Sequences::default(), grammar: None };
    let (config, engine) = (TrainingConfig::default(), BackEnd::Engine(EngineConfig::default()));
    let training = Training::resume(&out, &texts, &model, &config, &engine).unwrap();
    assert!(training.is_finished());
}

#[test]
fn the_lab_from_a_terminal() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (out, corpus) = (&path("lab"), concat!(env!("CARGO_MANIFEST_DIR"), "/../data/five_sentences.txt"));
    let train = ["train", "--corpus", corpus, "--out", out, "--repeat", "200", "--validation", "0"];
    assert!(mlm(&train).status.success());

    let outcome = json(&mlm(&["eval", "--model", out, "--corpus", corpus, "--mask-rate", "0.3", "--json"]));
    assert!(outcome["masked_accuracy"].as_f64().unwrap() > 0.9, "{outcome}");
    assert_eq!((outcome["tokens"].as_u64(), outcome["sequences"].as_u64()), (Some(43), Some(5)));

    let texts = ["The quick brown [MASK] jumps over the lazy dog", "The [MASK] is a [MASK]"];
    let said = |output: &Output| String::from_utf8(output.stdout.clone()).unwrap();
    let filled = mlm(&["fill-mask", "--model", out, texts[0], texts[1]]);
    assert!(said(&filled).contains("The quick brown fox jumps over the lazy dog\n  [MASK]  fox "), "{filled:?}");
    let mut piped = program();
    piped.args(["fill-mask", "--model", out, "--top-k", "3", "--json"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut piped = piped.spawn().unwrap();
    piped.stdin.take().unwrap().write_all(texts.join("\n\n").as_bytes()).unwrap();
    let outcome = json(&piped.wait_with_output().unwrap());
    assert_eq!(outcome["texts"][1]["masks"][1][0]["token"], "lie");
    assert_eq!(outcome["texts"][1]["masks"][1].as_array().unwrap().len(), 3);

    // A line that cannot be filled holds up no other.
    let mut lines = program();
    lines.args(["fill-mask", "--model", out, "--top-k", "1"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut lines = lines.stderr(Stdio::piped()).spawn().unwrap();
    let mut input = lines.stdin.take().unwrap();
    let mut output = BufReader::new(lines.stdout.take().unwrap()).lines().map(Result::unwrap);
    input.write_all(b"The [MASK] is a lie\n").unwrap();
    assert_eq!(output.next().unwrap(), "The cake is a lie", "before the next line has come");
    input.write_all(b"no gap\n\n\xff [MASK]\nTo be or not to [MASK]").unwrap();
    drop(input);
    assert_eq!(output.nth(1).unwrap(), "To be or not to be");
    let ended = lines.wait_with_output().unwrap();
    let said = stderr(&ended);
    assert_eq!(ended.status.code(), Some(1));
    for part in ["mlm: line 2: text: expected at least one [MASK]", "mlm: line 4: cannot read standard input", ": 2\n"]
    {
        assert!(said.contains(part), "{said}");
    }
    let some = mlm(&["fill-mask", "--model", out, "--json", "no gap", texts[0]]);
    let outcome: Value = serde_json::from_slice(&some.stdout).unwrap();
    assert_eq!((&outcome["texts"][0]["number"], some.status.code()), (&Value::from(1), Some(1)));
    assert_eq!(outcome["texts"][1]["masks"][0][0]["token"], "fox");
    assert_eq!(outcome["texts"][1]["coverage"]["unknown_words"], 0);
    assert!(!stderr(&some).contains("warning"), "{some:?}");
    // Nor is one that is empty left out; and what the model does not see is said.
    let some =
        mlm(&["fill-mask", "--model", out, "--json", "", "\u{3b7} \u{3b3}\u{3b1}\u{3c4}\u{3b1} [MASK] fox", " "]);
    let outcome: Value = serde_json::from_slice(&some.stdout).unwrap();
    let has_error = |nth: usize| outcome["texts"][nth]["error"].is_string();
    assert_eq!([has_error(0), has_error(1), has_error(2)], [true, false, true]);
    assert_eq!(outcome["texts"][1]["coverage"]["unknown_words"], 2);
    let warning = "warning: text 2: 2 of 3 words unknown (66.7 %), which the model does not see";
    assert!(stderr(&some).contains(warning), "{some:?}");

    let (svg, png) = (path("loss.svg"), path("loss.png"));
    assert!(mlm(&["plot", out, out, "--out", &svg]).status.success());
    assert!(fs::read_to_string(svg).unwrap().contains("lab: training"));
    assert!(mlm(&["plot", out, "--out", &png]).status.success());
    let png = fs::read(png).unwrap();
    let number = |at: usize| u32::from_be_bytes(png[at..at + 4].try_into().unwrap());
    assert_eq!((&png[1..4], number(16), number(20)), (b"PNG".as_slice(), 2 * 788, 2 * 400));
}

/// A perplexity says nothing of the words that the vocabulary does not know; how many there are is said.
#[test]
fn unknown_words_are_counted_and_said() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (out, greek, chinese) = (&path("run"), &path("greek.txt"), &path("chinese.txt"));
    fs::write(greek, "\u{3b7} \u{3b3}\u{3ac}\u{3c4}\u{3b1}\nthe lazy dog \u{3ba}\u{3b1}\u{3b9} fox\n").unwrap();
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/../data/five_sentences.txt");
    let shape = ["--d-model", "8", "--d-ff", "16", "--heads", "2", "--epochs", "1"];
    let train = |corpus: &str, out: &str, more: &[&str]| {
        mlm(&[&["train", "--corpus", corpus, "--out", out, "--json"], &shape[..], more].concat())
    };
    let known = train(corpus, out, &["--validation", "0"]);
    assert!(!stderr(&known).contains("warning") && !stderr(&known).contains("known words"), "{known:?}");

    let eval = mlm(&["eval", "--model", out, "--corpus", greek, "--json"]);
    let outcome = json(&eval);
    let number = |name: &str| outcome[name].as_f64().unwrap();
    assert_eq!((number("words"), number("unknown_words"), number("unknown_share")), (7.0, 3.0, 3.0 / 7.0));
    assert_eq!((number("sequences"), number("sequences_left_out")), (1.0, 1.0));
    assert!(stderr(&eval).contains("warning: the text: 3 of 7 words unknown (42.9 %)"), "{eval:?}");
    let said = mlm(&["eval", "--model", out, "--corpus", greek]).stdout;
    let said = String::from_utf8(said).unwrap();
    assert!(said.contains(" of the known words (3 are unknown), ") && said.contains("1 sequences left out"), "{said}");

    // What is held back has signs that the other half does not have.
    let lines = (0x4e00..0x4e00 + 200).filter_map(char::from_u32).map(|sign| format!("the {sign}\n"));
    fs::write(chinese, lines.collect::<String>()).unwrap();
    let trained = train(chinese, &path("chinese"), &["--validation", "0.5"]);
    let outcome = json(&trained);
    assert_eq!(outcome["training_text"]["unknown_words"], 0);
    assert_eq!(outcome["validation_text"]["unknown_share"], 0.5);
    assert!(stderr(&trained).contains("warning: validation: 100 of 200 words unknown (50.0 %)"), "{trained:?}");
    let epochs = stderr(&trained).matches(" of the known words (100 are unknown)").count();
    assert_eq!(epochs, 2, "before training and after the epoch: {trained:?}");
}

/// Lines of DNA are words of 200 letters; a Spanish text has accents and capitals.
#[test]
fn the_tokenizer_is_learned_as_the_options_say() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let train = |corpus: &str, out: &str, more: &[&str]| {
        let shape = ["--d-model", "8", "--d-ff", "16", "--heads", "2", "--epochs", "1", "--validation", "0", "--json"];
        mlm(&[&["train", "--corpus", corpus, "--out", out], &shape[..], more].concat())
    };
    let mut rng = StdRng::seed_from_u64(0);
    let mut line = || (0..200).map(|_| ['A', 'C', 'G', 'T'][rng.random_range(0..4)]).collect::<String>();
    fs::write(path("dna.txt"), (0..50).map(|_| line() + "\n").collect::<String>()).unwrap();
    let refused = train(&path("dna.txt"), &path("refused"), &[]);
    assert!(stderr(&refused).contains("50 words, all of them longer"), "{refused:?}");
    assert_eq!(refused.status.code(), Some(1));
    let trained = train(&path("dna.txt"), &path("dna"), &["--max-word-length", "200", "--vocab-size", "40"]);
    assert_eq!(json(&trained)["training_text"]["unknown_words"], 0);

    fs::write(path("spanish.txt"), "El a\u{f1}o pasado\nun ano\n").unwrap();
    let trained = train(&path("spanish.txt"), &path("uncased"), &[]);
    assert_eq!(json(&trained)["training_text"]["accents_left_out"], 1);
    let said = stderr(&trained);
    assert!(said.contains("lower case: 1 letters (--cased keeps") && said.contains("left out: 1 accents"), "{said}");
    for (options, word, known) in
        [(&["--keep-accents"][..], "a\u{f1}o", true), (&["--cased"], "El", true), (&["--keep-accents"], "El", false)]
    {
        let out = &path(&format!("{}{word}", options[0]));
        json(&train(&path("spanish.txt"), out, options));
        assert_eq!(Tokenizer::from_pretrained(out).unwrap().id(word).is_some(), known, "{options:?}");
    }
    let (uncased, again) = (&path("uncased"), &path("again"));
    let trained = train(&path("spanish.txt"), again, &["--tokenizer", uncased]);
    assert!(!stderr(&trained).contains("--cased"), "{trained:?}");
    let tokenizer = |folder: &str| fs::read(Path::new(folder).join("tokenizer.json")).unwrap();
    assert_eq!(tokenizer(again), tokenizer(uncased));
    let both = train(&path("spanish.txt"), &path("both"), &["--tokenizer", uncased, "--cased"]);
    assert_eq!(both.status.code(), Some(2), "{both:?}");
}

const SMALL: [&str; 9] = ["bench", "--vocab-size", "50", "--batch-size", "3", "--seq-len", "7", "--steps", "5"];

#[test]
fn bench_ends_with_one_json_object() {
    for back_end in ["engine", "reference"] {
        let output =
            mlm(&[SMALL.as_slice(), &["--dropout", "0.1", "--threads", "2", "--backend", back_end, "--json"]].concat());
        let outcome = json(&output);
        assert_eq!((outcome["backend"].as_str(), outcome["threads"].as_u64()), (Some(back_end), Some(2)));
        for positive in
            ["parameters", "ms_per_step_median", "tokens_per_second", "gflops", "sgemm_gflops", "roofline_fraction"]
        {
            assert!(outcome[positive].as_f64().unwrap() > 0.0, "{positive}: {outcome}");
        }
    }
}

#[test]
fn bench_forecasts_a_step_on_several_machines() {
    let machines = ["--threads", "1", "--machines", "2,64", "--gbits", "0.1,10"];
    let outcome = json(&mlm(&[SMALL.as_slice(), &machines, &["--json"]].concat()));
    let rows = outcome["forecast"].as_array().unwrap();
    let of_rows: Vec<_> = rows.iter().map(|row| (row["machines"].as_u64(), row["gbits"].as_f64())).collect();
    assert_eq!(of_rows, [(2, 0.1), (64, 0.1), (2, 10.0), (64, 10.0)].map(|(n, gbits)| (Some(n), Some(gbits))));
    for row in rows {
        for batch in ["same", "growing"] {
            let [step, efficiency] =
                ["ms", "efficiency"].map(|what| row[format!("{batch}_batch_{what}")].as_f64().unwrap());
            assert!(step > 0.0 && efficiency > 0.0 && efficiency < 1.0, "{outcome}");
        }
    }
    let text = String::from_utf8(mlm(&[SMALL.as_slice(), &machines].concat()).stdout).unwrap();
    for gbits in ["0.1", "10"] {
        assert!(text.contains(&format!("forecast for machines like this one, {gbits} Gbit/s, 50 us")), "{text}");
    }
    assert!(mlm(&[SMALL.as_slice(), &machines, &["--latency-us", "1e30"]].concat()).status.success());
    assert_eq!(mlm(&["bench", "--machines", "0"]).status.code(), Some(2));
    assert_eq!(mlm(&["bench", "--machines", "2", "--gbits", "0"]).status.code(), Some(2));
    let said = stderr(&mlm(&["bench", "--machines", "2", "--backend", "reference"]));
    assert!(said.contains("machines") && said.contains("one process with an engine"), "{said}");
}

#[test]
fn bench_shows_where_the_time_goes() {
    let output = mlm(&SMALL);
    let text = String::from_utf8(output.stdout).unwrap();
    for part in ["forward", "attention", "AdamW", "GFLOP/s"] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn mistakes_are_one_sentence_and_a_status() {
    let output = mlm(&["bench", "--heads", "3"]);
    assert_eq!(output.status.code(), Some(1));
    let said = stderr(&output);
    assert!(said.contains("heads: expected a divisor of d_model = 64, got 3") && said.lines().count() == 1, "{said}");
    let output = mlm(&["fill-mask", "--model", "no/such/folder", "a [MASK]"]);
    assert!(stderr(&output).starts_with("mlm: no/such/folder: "), "{output:?}");
    let output = mlm(&["plot", env!("CARGO_MANIFEST_DIR"), "--out", "loss.pdf"]);
    assert!(stderr(&output).contains("history.jsonl"), "{output:?}");
    let data = concat!(env!("CARGO_MANIFEST_DIR"), "/../data/five_sentences.txt");
    let output = mlm(&["train", "--corpus", data, "--field", "body", "--out", "never/made"]);
    assert!(stderr(&output).contains("is read as text, which has no field body (--format says"), "{output:?}");
    let output = mlm(&["bench", "--backend", "reference", "--precision", "bf16"]);
    let said = stderr(&output);
    assert!(said.contains("precision: expected f32 with the reference, got bf16"), "{said}");
    assert_eq!(mlm(&["bench", "--colour", "blue"]).status.code(), Some(2));
}
