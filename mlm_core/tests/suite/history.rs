//! Runs that outlive the kernel.

use std::fs;

use mlm_core::{EpochRecord, History};
use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;

use crate::{assert_says, message};

proptest! {
    #[test]
    fn what_is_saved_is_loaded_to_the_last_bit(
        name in "\\PC*",
        measured in vec((of(0.0f64..20.0), of(0.0f64..20.0), of(0.0f64..1.0), of(0.0f64..1e9)), 1..8),
    ) {
        let mut history = History::new(name);
        for (epoch, measured) in measured.into_iter().enumerate() {
            let (train_loss, validation_loss, masked_accuracy, tokens_per_second) = measured;
            history.push(EpochRecord { epoch, train_loss, validation_loss, masked_accuracy, tokens_per_second }).unwrap();
        }
        let dir = tempfile::tempdir().unwrap();
        history.save(&dir).unwrap();
        prop_assert_eq!(History::load(&dir).unwrap(), history);
    }
}

#[test]
fn a_damaged_history_is_refused_by_the_number_of_the_line() {
    let dir = tempfile::tempdir().unwrap();
    assert_says(&message(History::load(&dir)), &["cannot read", "history.jsonl"]);
    let first = r#"{"run":"a","epoch":1,"train_loss":3.5,"validation_loss":null,"of_a_later_version":1}"#;
    for (second, part) in [
        (r#"{"run":"a","epoch":2,"train_loss":3."#, "EOF"),
        (r#"{"run":"a","train_loss":3.5,"validation_loss":null}"#, "missing field `epoch`"),
        (r#"{"run":"a","epoch":1,"train_loss":3.5,"validation_loss":null}"#, "one after 1"),
        (r#"{"run":"a","epoch":2,"train_loss":"low","validation_loss":null}"#, "low"),
        ("\u{0}", "expected value"),
    ] {
        fs::write(dir.path().join("history.jsonl"), format!("{first}\n{second}\n")).unwrap();
        assert_says(&message(History::load(&dir)), &["history.jsonl", "line 2", part]);
    }
    fs::write(dir.path().join("history.jsonl"), format!("{first}\r\n\n")).unwrap();
    assert_eq!(
        History::load(&dir).unwrap().records(),
        [EpochRecord { epoch: 1, train_loss: Some(3.5), ..EpochRecord::default() }]
    );
    fs::write(dir.path().join("history.jsonl"), "").unwrap();
    assert_says(&message(History::load(&dir)), &["history.jsonl", "a line for each epoch", "none"]);
}
