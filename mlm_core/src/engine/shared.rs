//! One copy of the weights for all threads: takes the threads, lets them go through the model block by block. When all are
//! back from a block, each computes the gradients of a part of its weights for the tokens of all threads. So there is nothing
//! to add up at the end, and memory hardly grows with the threads; but they wait for each other at each block.

use std::mem;
use std::ops::Range;
use std::sync::Mutex;
use std::time::Instant;

use smallvec::{SmallVec, smallvec};

use crate::engine::backward::Sums;
use crate::engine::buffer::Buffer;
use crate::engine::clock::Operation;
use crate::engine::layers::{Block, Layers, Weights};
use crate::engine::owned::Owned;
use crate::engine::pool::lock;
use crate::engine::reduction::Reduction;
use crate::engine::store::{self, Store};
use crate::engine::threads::{Parts, Step, Threads};
use crate::engine::tree;
use crate::error::Result;
use crate::model::params::Params;
use crate::model::weights::{Numbers, Part, Rule};

/// Numbers for each parameter: the weight, and two copies of it for the products.
pub(crate) const NUMBERS: usize = 3;

/// The most numbers that all of so many threads keep while they add up gradients.
pub(crate) fn sums(params: &Params, threads: usize) -> Result<usize> {
    let layers = Layers::new(params)?;
    let largest = Block::back(layers.layers.len()).map(|block| layers.range(block).len()).max();
    Ok(largest.unwrap_or(0).saturating_mul(tree::depth(threads)))
}

/// The weights.
pub(crate) struct Shared {
    weights: Buffer,
    layers: Layers,
    owned: Owned,
    /// Weights have changed since they were copied for the products.
    stale: bool,
    reduction: Option<Reduction>,
}

impl Shared {
    pub(crate) fn new(params: &Params, threads: usize, reduction: Option<Reduction>) -> Result<Self> {
        let (weights, owned) = (params.as_slice().into(), Owned::new(params.len(), threads));
        Ok(Self { weights, layers: Layers::new(params)?, owned, stale: true, reduction })
    }
}

impl Store for Shared {
    fn forward(&mut self, threads: &mut Threads, step: Step) -> Result<()> {
        let Self { weights, layers, stale, .. } = self;
        if *stale {
            let panels = Mutex::new(layers.panels(weights, threads.precision()));
            threads.run(false, |_, tools, _| {
                loop {
                    // The lock is open again before the panel is filled.
                    let Some(panel) = lock(&panels).next() else { break };
                    panel.fill(&mut tools.room);
                }
                tools.clock.lap(Operation::Packing);
            });
            *stale = false;
        }
        let weights = Weights { values: weights, layers };
        if !threads.work.is_cut() {
            threads.run(false, |nth, tools, work| work.forward(nth, step, work.stages(), weights, tools));
            return Ok(());
        }
        for stage in threads.work.stages() {
            if let Some(layer) = stage.checked_sub(1) {
                threads.exchange_keys(false, layer)?;
                threads.run(false, |nth, tools, work| work.join_keys(nth, layer, tools));
            }
            threads.run(false, |nth, tools, work| work.forward(nth, step, stage..=stage, weights, tools));
        }
        Ok(())
    }

    fn backward(&mut self, threads: &mut Threads, gradients: &mut [f32]) -> Result<f64> {
        let Self { weights, layers, reduction, .. } = self;
        let weights = Weights { values: weights, layers };
        // Without ranks there is one group, of all threads.
        let groups = reduction.as_ref().map_or_else(|| smallvec![0..threads.work.threads()], Reduction::groups);
        if let Some(reduction) = reduction {
            reduction.start(gradients.len());
        }
        for block in Block::back(layers.layers.len()) {
            match block {
                Block::Layer(layer) if threads.work.is_cut() => {
                    threads.exchange_keys(true, layer)?;
                    threads.run(true, |nth, tools, work| work.join_keys(nth, layer, tools));
                    threads.run(true, |nth, tools, work| work.back_to_keys(nth, layer, weights, tools));
                    threads.exchange_gradients()?;
                    threads.run(true, |nth, tools, work| work.join_gradients(nth, tools));
                    threads.run(true, |nth, tools, work| work.back_from_keys(nth, layer, weights, tools));
                }
                _ => threads.run(true, |nth, tools, work| work.back(nth, block, weights, tools)),
            }
            let (range, workers, (tokens, masked)) =
                (layers.range(block), threads.work.threads(), threads.work.tokens());
            // What is there of a large block goes to the other ranks while the rest of it is computed.
            let pieces = reduction.as_ref().map_or(1, |reduction| pieces(range.len(), reduction.bucket()));
            let ends: SmallVec<[usize; 16]> = layers.split(block, pieces * workers, tokens, masked).collect();
            for nth in (0..pieces).rev() {
                let start = if nth == 0 { range.start } else { ends[nth * workers - 1] };
                let ends = &ends[nth * workers..][..workers];
                let piece = start..ends[workers - 1];
                for (nth_group, group) in groups.iter().enumerate() {
                    let sums = match reduction {
                        Some(reduction) => reduction.sums(nth_group, gradients),
                        None => &mut *gradients,
                    };
                    let sums = Sums { start, values: &mut sums[piece.clone()] };
                    compute_gradients(threads, group, block, weights, sums, ends);
                }
                if let Some(reduction) = reduction {
                    let begun = Instant::now();
                    reduction.add(piece, gradients)?;
                    threads.note_exchange(true, begun);
                }
            }
        }
        let mut workers = threads.work.threads();
        if let Some(reduction) = reduction {
            let begun = Instant::now();
            reduction.finish(gradients)?;
            threads.note_exchange(true, begun);
            workers = reduction.workers();
        }
        Ok(store::norm(threads, gradients, workers))
    }

    fn exchange(&mut self, gradients: &mut [f32]) -> Result<()> {
        let Some(reduction) = &mut self.reduction else { return Ok(()) };
        reduction.start(gradients.len());
        let mut end = gradients.len();
        while end > 0 {
            let start = end.saturating_sub(reduction.bucket());
            reduction.add(start..end, gradients)?;
            end = start;
        }
        reduction.finish(gradients)
    }

    fn update(&mut self, threads: &mut Threads, gradients: &[f32], moments: [&mut [f32]; 2], rule: Rule<'_>) {
        let Self { weights, owned, stale, .. } = self;
        let [first, second] = moments.map(|moments| moments.chunks_mut(owned.length));
        let parts = weights.chunks_mut(owned.length).zip(gradients.chunks(owned.length)).zip(first.zip(second));
        let parts: Parts<_> = parts.map(|part| Mutex::new(Some(part))).collect();
        threads.run(true, |nth, _, _| {
            let Some(((weights, gradients), (first, second))) = parts.get(nth).and_then(|part| lock(part).take())
            else {
                return;
            };
            let start = owned.by(nth).start;
            rule(Part::F32(Numbers { start, weights, gradients, moments: [first, second] }));
        });
        *stale = true;
    }

    fn copy_to(&self, values: &mut [f32]) {
        values.copy_from_slice(&self.weights);
    }
}

/// In how many pieces a block's gradients come, of which each is worth an exchange.
pub(crate) fn pieces(gradients: usize, bucket: usize) -> usize {
    (gradients / bucket).max(1)
}

/// Gradients of some of a block's weights, as sums over a group of workers: all threads compute them, each those up to one of
/// these ends.
fn compute_gradients(
    threads: &mut Threads,
    group: &Range<usize>,
    block: Block,
    weights: Weights<'_>,
    Sums { mut start, values: mut rest }: Sums<'_>,
    ends: &[usize],
) {
    let parts: Parts<_> = (ends.iter())
        .map(|&end| {
            let values = rest.split_off_mut(..end - start).expect("parts end one after the other");
            Mutex::new(Sums { start: mem::replace(&mut start, end), values })
        })
        .collect();
    threads.run(true, |nth, tools, work| {
        work.gradients(group.clone(), block, weights, &mut lock(&parts[nth]), tools);
    });
}
