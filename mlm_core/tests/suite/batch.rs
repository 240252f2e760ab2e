//! Every sentence once an epoch, unpadded; the padded view says the same.

use mlm_core::candle_core::Device;
use mlm_core::{Batch, DataLoader, IGNORED_LABEL, Masker, Masking};
use proptest::prelude::*;

use crate::{assert_says, message, pieces, seeded};

#[test]
fn epochs_are_shuffled_and_masked_anew_fixed_batches_are_not() {
    let tokenizer = pieces().unwrap();
    let masker = Masker::new(&tokenizer, Masking::default()).unwrap();
    let sequences: Vec<Vec<u32>> = (0..21).map(|n| vec![2, 5 + n, 6, 3]).collect();
    let loader = DataLoader::new(sequences, 8).unwrap();
    assert_eq!(loader.batches(), 3);
    let mut rng = seeded(0);
    let mut epoch = || loader.epoch(&masker, &mut rng).collect::<Result<Vec<Batch>, _>>().unwrap();
    let (first, second) = (epoch(), epoch());
    assert_eq!(first.iter().map(Batch::sequences).collect::<Vec<_>>(), [8, 8, 5]);
    let originals = |epoch: &[Batch]| -> Vec<Vec<u32>> {
        let restored = epoch.iter().map(|batch| {
            let mut ids = batch.input_ids.clone();
            batch.masked_rows.iter().zip(&batch.targets).for_each(|(&row, &target)| ids[row] = target);
            ids
        });
        restored.collect()
    };
    let masks = |epoch: &[Batch]| -> Vec<Vec<usize>> { epoch.iter().map(|batch| batch.masked_rows.clone()).collect() };
    assert_ne!(originals(&first), originals(&second), "the order is new");
    assert_ne!(masks(&first), masks(&second), "the masks are new");
    assert_eq!(loader.fixed(&masker, &mut seeded(1)).unwrap(), loader.fixed(&masker, &mut seeded(1)).unwrap());
}

#[test]
fn masks_drawn_again_are_those_of_a_new_batch() {
    let tokenizer = pieces().unwrap();
    let masker = Masker::new(&tokenizer, Masking::default()).unwrap();
    let mut again = Batch::with_gaps([[9, 9, 9].as_slice()], 9);
    for (seed, lengths) in [(0, vec![3, 8]), (1, vec![1]), (2, vec![20, 1, 4])] {
        let sequences: Vec<Vec<u32>> = lengths.into_iter().map(|length| (7..7 + length).collect()).collect();
        let sequences = || sequences.iter().map(Vec::as_slice);
        again.mask_again(sequences(), &masker, &mut seeded(seed)).unwrap();
        assert_eq!(again, Batch::masked(sequences(), &masker, &mut seeded(seed)).unwrap());
        again.validate().unwrap();
    }
}

#[test]
fn parts_that_do_not_fit_together_are_named() {
    let good = Batch::with_gaps([[2, 4, 7, 3].as_slice(), [2, 4, 3].as_slice()], 4);
    good.validate().unwrap();
    assert_eq!(good.masked_rows, [1, 5]);
    let spoilt = |spoil: fn(&mut Batch)| {
        let mut batch = good.clone();
        spoil(&mut batch);
        message(batch.padded(0, &Device::Cpu))
    };
    assert_says(&spoilt(|batch| batch.offsets.clear()), &["offsets", "from 0 to 7"]);
    assert_says(&spoilt(|batch| batch.offsets[1] = 9), &["offsets", "[0, 9, 7]"]);
    assert_says(&spoilt(|batch| batch.masked_rows[1] = 7), &["masked_rows", "below 7"]);
    assert_says(&spoilt(|batch| batch.masked_rows.reverse()), &["masked_rows", "ascending"]);
    assert_says(&spoilt(|batch| batch.targets.push(5)), &["targets", "2 masked rows", "got 1"]);
    assert_says(&spoilt(|batch| batch.treatments.clear()), &["treatments", "got 0"]);
    assert_says(&message(Batch::with_gaps([], 4).padded(0, &Device::Cpu)), &["offsets", "[0]"]);
}

#[test]
fn a_sequence_that_is_not_there_is_an_error_in_any_batch() {
    let mut batch = Batch::with_gaps([[2, 4, 7, 3].as_slice(), [2, 4, 3].as_slice()], 4);
    assert_eq!((batch.sequence(1).unwrap(), batch.longest()), ([2, 4, 3].as_slice(), 4));
    for index in [2, 99, usize::MAX] {
        assert_says(&message(batch.sequence(index)), &["index", "below 2", &format!("got {index}")]);
    }
    batch.offsets = vec![0, 9, 7];
    assert_says(&message(batch.sequence(1)), &["offsets", "[0, 9, 7]"]);
    assert_eq!(batch.longest(), 9);
}

#[test]
fn bad_arguments_are_named() {
    assert_says(&message(DataLoader::new(vec![vec![1]], 0)), &["batch_size", "at least 1"]);
    assert_says(&message(DataLoader::new(vec![], 8)), &["sequences", "at least one"]);
}

proptest! {
    #[test]
    fn an_epoch_holds_every_sentence_once_and_its_padded_view_says_the_same(
        sequences in prop::collection::vec(prop::collection::vec(5u32..40, 1..12), 1..30), batch_size in 1usize..10, seed: u64,
    ) {
        let tokenizer = pieces().unwrap();
        let masker = Masker::new(&tokenizer, Masking::default()).unwrap();
        let loader = DataLoader::new(sequences.clone(), batch_size).unwrap();
        let mut seen = Vec::new();
        let mut rng = seeded(seed);
        let epoch = loader.epoch(&masker, &mut rng);
        prop_assert_eq!(epoch.len(), loader.batches());
        for batch in epoch {
            let batch = batch.unwrap();
            prop_assert!(batch.sequences() <= batch_size);
            let mut originals = batch.clone();
            for (&row, &target) in batch.masked_rows.iter().zip(&batch.targets) {
                originals.input_ids[row] = target;
            }
            seen.extend((0..batch.sequences()).map(|index| originals.sequence(index).unwrap().to_vec()));

            let padded = batch.padded(0, &Device::Cpu).unwrap();
            let input_ids = padded.input_ids.to_vec2::<u32>().unwrap();
            let attention_mask = padded.attention_mask.to_vec2::<u8>().unwrap();
            let labels = padded.labels.to_vec2::<i64>().unwrap();
            let mut unpadded = Vec::new();
            let mut targets = Vec::new();
            let mut masked_rows = Vec::new();
            for (index, row) in input_ids.iter().enumerate() {
                prop_assert_eq!(row.len(), batch.longest());
                for column in 0..row.len() {
                    prop_assert_eq!(attention_mask[index][column] == 1, column < batch.sequence(index).unwrap().len());
                    if labels[index][column] != IGNORED_LABEL {
                        targets.push(labels[index][column] as u32);
                        masked_rows.push((index * row.len() + column) as u32);
                    }
                    if attention_mask[index][column] == 1 { unpadded.push(row[column]) } else { prop_assert_eq!(row[column], 0) }
                }
            }
            prop_assert_eq!(unpadded, batch.input_ids);
            prop_assert_eq!(targets, batch.targets);
            prop_assert_eq!(masked_rows, padded.masked_rows.to_vec1::<u32>().unwrap());
        }
        let mut wanted = sequences;
        seen.sort();
        wanted.sort();
        prop_assert_eq!(seen, wanted);
    }
}
