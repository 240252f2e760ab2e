//! A training step of the engine takes no memory once it has seen the largest batch, unless a product is so large that it
//! is left to the library `gemm`. A program of its own, because the allocator counts for all of it.

use std::alloc::System;

use mlm_core::rand::rngs::StdRng;
use mlm_core::rand::{Rng, SeedableRng};
use mlm_core::*;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Sequences of the given lengths, in which every third token is masked.
fn batch(lengths: &[usize], rng: &mut StdRng) -> Batch {
    let mut batch = Batch::with_gaps([], 0);
    for &length in lengths {
        for _ in 0..length {
            if batch.tokens().is_multiple_of(3) {
                batch.masked_rows.push(batch.tokens());
                batch.targets.push(rng.random_range(0..50));
                batch.treatments.push(Treatment::Mask);
            }
            batch.input_ids.push(rng.random_range(0..50));
        }
        batch.offsets.push(batch.tokens());
    }
    batch
}

#[test]
fn a_step_takes_no_memory_whatever_the_batch() {
    let mut rng = StdRng::seed_from_u64(0);
    let config = ModelConfig { hidden_dropout: 0.1, attention_dropout: 0.1, ..ModelConfig::new(50) };
    let params = Params::init(&config, &mut rng).unwrap();
    for (threads, precision) in [(1, Precision::F32), (2, Precision::F32), (3, Precision::F32), (2, Precision::Bf16)] {
        let mut engine =
            Engine::with_config(&params, EngineConfig { threads, precision, ..EngineConfig::default() }).unwrap();
        let mut gradients = Gradients::zeros(&engine).unwrap();
        let mut optimizer = AdamW::new(&engine, AdamWConfig::default()).unwrap();
        let mut step = |engine: &mut Engine, batch: &Batch| {
            let mode = Mode::Train { dropout_seed: u64::from(optimizer.steps()) };
            engine.forward(batch, mode).unwrap();
            engine.backward(&mut gradients).unwrap();
            gradients.clip(1.0).unwrap();
            optimizer.step(engine, &gradients, 1e-3).unwrap();
        };
        let largest = batch(&[32; 8], &mut rng);
        let others: Vec<Batch> = (0..20)
            .map(|_| {
                let lengths: Vec<usize> = (0..rng.random_range(1..=8)).map(|_| rng.random_range(1..=32)).collect();
                batch(&lengths, &mut rng)
            })
            .collect();
        for _ in 0..3 {
            step(&mut engine, &largest);
        }
        let region = Region::new(ALLOCATOR);
        for batch in others.iter().chain([&largest]) {
            step(&mut engine, batch);
        }
        let change = region.change();
        assert_eq!((change.allocations, change.reallocations), (0, 0), "{threads} threads: {change:?}");
    }
}
