//! 15 %, 80/10/10; special tokens untouched; labels only where chosen.

use std::collections::HashSet;

use mlm_core::{Masker, Masking, Treatment};
use proptest::prelude::*;

use crate::{assert_says, message, pieces, seeded};

/// Realised share of `hits` in `count` draws, in standard deviations from the expected probability.
fn sigmas(hits: usize, count: usize, probability: f64) -> f64 {
    let (count, sigma) = (count as f64, (probability * (1.0 - probability) / count as f64).sqrt());
    (hits as f64 / count - probability) / sigma
}

#[test]
fn rates_over_a_million_tokens() {
    let tokenizer = pieces().unwrap();
    let mut rng = seeded(1);
    let sequence = tokenizer.encode("he plays she works played working").unwrap();
    let tokens: Vec<u32> = sequence.iter().copied().cycle().take(1_400_000).collect();
    let maskable = tokens.iter().filter(|&&id| !tokenizer.special().contains(id)).count();
    assert!(maskable >= 1_000_000);
    for masking in [Masking::default(), Masking { rate: 0.4, mask: 0.5, random: 0.3, keep: 0.2, whole_word: false }] {
        let masker = Masker::new(&tokenizer, masking.clone()).unwrap();
        let outcome = masker.mask(&tokens, &mut rng).unwrap();
        let masked = outcome.masked_rows.len();
        assert!(sigmas(masked, maskable, masking.rate).abs() < 5.0);
        for (treatment, share) in
            [(Treatment::Mask, masking.mask), (Treatment::Random, masking.random), (Treatment::Keep, masking.keep)]
        {
            let count = outcome.treatments.iter().filter(|&&done| done == treatment).count();
            assert!(sigmas(count, masked, share).abs() < 5.0, "{treatment:?}: {count} of {masked}");
        }
        // Replacements are uniform over the tokens that are not special.
        let candidates = tokenizer.vocab() - 5;
        let mut counts = vec![0; tokenizer.vocab()];
        let random =
            (outcome.treatments.iter().zip(&outcome.masked_rows)).filter(|&(&done, _)| done == Treatment::Random);
        let drawn = random.map(|(_, &row)| counts[outcome.input_ids[row] as usize] += 1).count();
        assert!(counts[..5].iter().all(|&count| count == 0));
        assert!(counts[5..].iter().all(|&count| sigmas(count, drawn, 1.0 / candidates as f64).abs() < 5.0));
    }
}

#[test]
fn whole_words_are_chosen_together_at_the_rate_of_words() {
    let tokenizer = pieces().unwrap();
    let sequence = tokenizer.encode("she replayworked playing worker he").unwrap();
    let words = tokenizer.words(&sequence);
    assert!(words.iter().any(|word| word.len() > 1));
    let tokens = sequence.repeat(20_000);
    let masker = Masker::new(&tokenizer, Masking { whole_word: true, ..Masking::default() }).unwrap();
    let outcome = masker.mask(&tokens, &mut seeded(2)).unwrap();
    let chosen: HashSet<usize> = outcome.masked_rows.iter().copied().collect();
    let all = tokenizer.words(&tokens);
    let hit = all.iter().filter(|word| (*word).clone().all(|row| chosen.contains(&row))).count();
    let touched = all.iter().filter(|word| (*word).clone().any(|row| chosen.contains(&row))).count();
    assert_eq!(hit, touched, "a word is chosen with all of its pieces or not at all");
    assert!(sigmas(hit, all.len(), 0.15).abs() < 5.0);
}

#[test]
fn always_mask_is_one_setting() {
    let tokenizer = pieces().unwrap();
    let masker = Masker::new(&tokenizer, Masking::always_mask()).unwrap();
    let outcome = masker.mask(&tokenizer.encode("he plays").unwrap().repeat(100), &mut seeded(3)).unwrap();
    assert!(outcome.treatments.iter().all(|&done| done == Treatment::Mask));
}

#[test]
fn bad_settings_are_named() {
    let tokenizer = pieces().unwrap();
    let error = |masking| message(Masker::new(&tokenizer, masking));
    for rate in [0.0, -0.1, 1.1, f64::NAN] {
        assert_says(&error(Masking { rate, ..Masking::default() }), &["rate", &rate.to_string()]);
    }
    assert_says(&error(Masking { mask: 1.2, random: -0.2, keep: 0.0, ..Masking::default() }), &["mask", "1.2"]);
    assert_says(&error(Masking { keep: 0.3, ..Masking::default() }), &["add up to 1", "0.8 + 0.1 + 0.3"]);
    let masker = Masker::new(&tokenizer, Masking::default()).unwrap();
    let special = tokenizer.special();
    assert_says(&message(masker.mask(&[special.cls, special.sep], &mut seeded(0))), &["not special"]);
    assert_says(&message(masker.mask(&[9999], &mut seeded(0))), &["9999", "vocabulary"]);
}

proptest! {
    #[test]
    fn what_is_not_chosen_stays_and_what_is_chosen_can_be_put_back(
        tokens in prop::collection::vec(0u32..40, 1..80), rate in 0.001f64..1.0, shares in (0.0f64..1.0, 0.0f64..1.0),
        whole_word: bool, seed: u64,
    ) {
        let tokenizer = pieces().unwrap();
        let special = tokenizer.special();
        prop_assume!(tokens.iter().any(|&id| !special.contains(id)));
        let (mask, random) = (shares.0, (1.0 - shares.0) * shares.1);
        let masking = Masking { rate, mask, random, keep: 1.0 - mask - random, whole_word };
        let masker = Masker::new(&tokenizer, masking).unwrap();
        let outcome = masker.mask(&tokens, &mut seeded(seed)).unwrap();
        prop_assert_eq!(&outcome, &masker.mask(&tokens, &mut seeded(seed)).unwrap());
        prop_assert!(!outcome.masked_rows.is_empty());
        prop_assert!(outcome.masked_rows.is_sorted_by(|a, b| a < b));
        prop_assert_eq!(outcome.masked_rows.len(), outcome.targets.len());
        prop_assert_eq!(outcome.masked_rows.len(), outcome.treatments.len());
        let mut restored = outcome.input_ids.clone();
        for ((&row, &target), treatment) in outcome.masked_rows.iter().zip(&outcome.targets).zip(&outcome.treatments) {
            prop_assert!(!special.contains(target));
            let seen = outcome.input_ids[row];
            match treatment {
                Treatment::Mask => prop_assert_eq!(seen, special.mask),
                Treatment::Random => prop_assert!(!special.contains(seen)),
                Treatment::Keep => prop_assert_eq!(seen, target),
            }
            restored[row] = target;
        }
        prop_assert_eq!(restored, tokens);
    }
}
