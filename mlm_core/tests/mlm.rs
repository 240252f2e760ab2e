//! The program `mlm` as its users start it.

use std::process::{Command, Output};

use serde_json::Value;

fn mlm(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_mlm")).args(arguments).output().unwrap()
}

const SMALL: [&str; 9] = ["bench", "--vocab-size", "50", "--batch-size", "3", "--seq-len", "7", "--steps", "5"];

#[test]
fn bench_ends_with_one_json_object() {
    for back_end in ["engine", "reference"] {
        let output =
            mlm(&[SMALL.as_slice(), &["--dropout", "0.1", "--threads", "2", "--backend", back_end, "--json"]].concat());
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        let outcome: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        assert_eq!((outcome["backend"].as_str(), outcome["threads"].as_u64()), (Some(back_end), Some(2)));
        for positive in
            ["parameters", "ms_per_step_median", "tokens_per_second", "gflops", "sgemm_gflops", "roofline_fraction"]
        {
            assert!(outcome[positive].as_f64().unwrap() > 0.0, "{positive}: {outcome}");
        }
        if back_end == "engine" {
            assert_eq!(outcome["allocations_per_step"].as_f64(), Some(0.0));
        }
    }
}

#[test]
fn bench_shows_where_the_time_goes() {
    let output = mlm(&SMALL);
    let text = String::from_utf8(output.stdout).unwrap();
    for part in ["forward", "attention", "AdamW", "GFLOP/s", "allocations a step      0.0"] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn mistakes_are_one_sentence_and_a_status() {
    let output = mlm(&["bench", "--heads", "3"]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("heads: expected a divisor of d_model = 64, got 3") && said.lines().count() == 1, "{said}");
    let output = mlm(&["bench", "--backend", "reference", "--precision", "bf16"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("precision: expected f32 with the reference, got bf16"), "{said}");
    assert_eq!(mlm(&["bench", "--colour", "blue"]).status.code(), Some(2));
}
