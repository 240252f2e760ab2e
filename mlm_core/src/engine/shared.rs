//! One copy of the weights for all threads: takes the threads, lets them go through the model block by block. When all are
//! back from a block, each computes the gradients of a part of its weights for the tokens of all threads. So there is nothing
//! to add up at the end, and memory hardly grows with the threads; but they wait for each other at each block.

use std::mem;
use std::sync::Mutex;

use crate::engine::backward::Sums;
use crate::engine::buffer::Buffer;
use crate::engine::clock::Operation;
use crate::engine::layers::{Block, Layers, Weights};
use crate::engine::owned::Owned;
use crate::engine::pool::lock;
use crate::engine::store::Store;
use crate::engine::threads::{Parts, Step, Threads};
use crate::error::Result;
use crate::model::params::Params;
use crate::model::weights::{Numbers, Part, Rule, squared_norm};

/// Numbers for each parameter: the weight, and two copies of it for the products.
pub(crate) const NUMBERS: usize = 3;

/// The weights.
pub(crate) struct Shared {
    weights: Buffer,
    layers: Layers,
    owned: Owned,
    /// Weights have changed since they were copied for the products.
    stale: bool,
}

impl Shared {
    pub(crate) fn new(params: &Params, threads: usize) -> Result<Self> {
        let owned = Owned::new(params.len(), threads);
        Ok(Self { weights: params.as_slice().into(), layers: Layers::new(params)?, owned, stale: true })
    }
}

impl Store for Shared {
    fn forward(&mut self, threads: &mut Threads, step: Step) {
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
            return;
        }
        for stage in threads.work.stages() {
            if let Some(layer) = stage.checked_sub(1) {
                threads.run(false, |nth, tools, work| work.join_keys(nth, layer, tools));
            }
            threads.run(false, |nth, tools, work| work.forward(nth, step, stage..=stage, weights, tools));
        }
    }

    fn backward(&mut self, threads: &mut Threads, gradients: &mut [f32]) -> f64 {
        let Self { weights, layers, owned, .. } = &*self;
        let weights = Weights { values: weights, layers };
        for block in Block::back(layers.layers.len()) {
            match block {
                Block::Layer(layer) if threads.work.is_cut() => {
                    threads.run(true, |nth, tools, work| work.join_keys(nth, layer, tools));
                    threads.run(true, |nth, tools, work| work.back_to_keys(nth, layer, weights, tools));
                    threads.run(true, |nth, tools, work| work.join_gradients(nth, tools));
                    threads.run(true, |nth, tools, work| work.back_from_keys(nth, layer, weights, tools));
                }
                _ => threads.run(true, |nth, tools, work| work.back(nth, block, weights, tools)),
            }
            let (range, (tokens, masked)) = (layers.range(block), threads.work.tokens());
            let (mut start, mut rest) = (range.start, &mut gradients[range]);
            let ends = layers.split(block, threads.work.threads(), tokens, masked);
            let parts: Parts<_> = ends
                .map(|end| {
                    let values = rest.split_off_mut(..end - start).expect("parts end one after the other");
                    Mutex::new(Sums { start: mem::replace(&mut start, end), values, begun: false })
                })
                .collect();
            threads.run(true, |nth, tools, work| {
                work.gradients(0..work.threads(), block, weights, &mut lock(&parts[nth]), tools);
            });
        }
        let parts: Parts<_> = gradients.chunks(owned.length).map(|part| Mutex::new((part, 0.0))).collect();
        threads.run(true, |nth, tools, _| {
            let Some(part) = parts.get(nth) else { return };
            let (gradients, squares) = &mut *lock(part);
            *squares = squared_norm(gradients);
            tools.clock.lap(Operation::Reduction);
        });
        parts.iter().map(|part| lock(part).1).sum::<f64>().sqrt()
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
