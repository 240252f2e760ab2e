//! Runs that outlive the kernel.

use std::fs;

use mlm_core::{Baselines, EpochRecord, Evaluation, History, plot};
use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;

use crate::{assert_says, message};

fn an_evaluation() -> impl Strategy<Value = Evaluation> {
    (0.0f64..20.0, 0.0f64..1.0, 1usize..).prop_map(|(loss, accuracy, masked)| Evaluation {
        loss,
        perplexity: loss.exp(),
        accuracy,
        masked,
    })
}

proptest! {
    #[test]
    fn what_is_saved_is_loaded_to_the_last_bit(
        name in "\\PC*",
        measured in vec((of(0.0f64..20.0), of(0.0f64..20.0), of(0.0f64..1.0), of(0.0f64..1e9)), 1..8),
        baselines in of((an_evaluation(), an_evaluation(), of(an_evaluation()), of(an_evaluation()))),
    ) {
        let mut history = History::new(name);
        if let Some((unigram, neighbours, best_neighbours, floor)) = baselines {
            history.set_baselines(Baselines { unigram, neighbours, best_neighbours, floor });
        }
        for (epoch, measured) in measured.into_iter().enumerate() {
            let (train_loss, validation_loss, masked_accuracy, tokens_per_second) = measured;
            history.push(EpochRecord { epoch, train_loss, validation_loss, masked_accuracy, tokens_per_second }).unwrap();
        }
        let dir = tempfile::tempdir().unwrap();
        history.save(&dir).unwrap();
        prop_assert_eq!(History::load(&dir).unwrap(), history);
    }

    /// For a longer run: PROPTEST_CASES=100000.
    #[test]
    fn a_damaged_history_is_refused_or_drawn(
        bytes in vec((any::<prop::sample::Index>(), prop_oneof![any::<u8>(), b'0'..=b'9', Just(b'e')]), 0..4),
        cut in of(any::<prop::sample::Index>()),
    ) {
        let mut history = History::new("run");
        for epoch in 0..3 {
            let loss = Some(4.0 - epoch as f64);
            history.push(EpochRecord { epoch, train_loss: loss, validation_loss: loss, ..EpochRecord::default() }).unwrap();
        }
        let dir = tempfile::tempdir().unwrap();
        history.save(&dir).unwrap();
        let path = dir.path().join("history.jsonl");
        let mut damaged = fs::read(&path).unwrap();
        for (at, byte) in bytes {
            let at = at.index(damaged.len());
            damaged[at] = byte;
        }
        if let Some(cut) = cut {
            damaged.truncate(cut.index(damaged.len()));
        }
        fs::write(&path, damaged).unwrap();
        match History::load(&dir) {
            Ok(history) => drop(plot::loss_curve(&[&history])),
            Err(error) => prop_assert!(error.to_string().contains("history.jsonl"), "{error}"),
        }
    }
}

#[test]
fn numbers_of_any_size_are_drawn_or_refused() {
    let run = |epoch, loss| {
        let mut history = History::new("run");
        for (epoch, loss) in [(1, 2.0), (epoch, loss)] {
            history.push(EpochRecord { epoch, train_loss: Some(loss), ..EpochRecord::default() })?;
        }
        plot::loss_curve(&[&history])
    };
    for (epoch, loss) in [(usize::MAX, 1.0), (1 << 31, 1.0), (2, 3e38), (2, 1e-300), (2, 0.0), (2, -1e-7)] {
        run(epoch, loss).unwrap();
    }
    for loss in [f64::NAN, f64::INFINITY, f64::MAX, -1.0, f64::MIN] {
        assert_says(&message(run(2, loss)), &["loss", "a finite number from 0 on", "smaller learning rate"]);
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
