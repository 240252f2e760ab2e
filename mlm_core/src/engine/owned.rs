//! Which weights belong to which worker, who adds up their gradients and updates them: takes how many there are of both.

use std::ops::Range;

/// Which weights belong to which worker: to each as many, in whole lines of a cache.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Owned {
    weights: usize,
    workers: usize,
    /// How many belong to one; fewer, or none, to the last ones.
    pub(crate) length: usize,
}

impl Owned {
    pub(crate) fn new(weights: usize, workers: usize) -> Self {
        Self { weights, workers, length: weights.div_ceil(workers).next_multiple_of(16) }
    }

    pub(crate) fn by(self, worker: usize) -> Range<usize> {
        self.weights.min(worker * self.length)..self.weights.min((worker + 1) * self.length)
    }

    pub(crate) fn others(self, worker: usize) -> impl Iterator<Item = usize> {
        (0..self.workers).filter(move |&other| other != worker)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_weight_belongs_to_one_worker_in_whole_lines_of_a_cache() {
        for weights in [0, 1, 15, 16, 17, 1_000, 113_775] {
            for workers in 1..9 {
                let owned = Owned::new(weights, workers);
                let mut end = 0;
                for worker in 0..workers {
                    let part = owned.by(worker);
                    assert_eq!(part.start, end, "worker {worker} of {workers}, {weights} weights");
                    assert!(
                        part.len() <= owned.length && (part.start.is_multiple_of(16) || part.is_empty()),
                        "{part:?}"
                    );
                    end = part.end;
                }
                assert_eq!(end, weights, "{workers} workers");
                assert!(owned.length < weights / workers + 1 + 16, "to each as many: {owned:?}");
                let others: Vec<usize> = owned.others(0).collect();
                assert_eq!(others, (1..workers).collect::<Vec<_>>());
            }
        }
    }
}
