//! What a model has learned, in numbers, and what it could have learned.

pub(crate) mod predictor;

pub(crate) mod best_neighbours;
pub(crate) mod counts;
pub(crate) mod inside;

pub(crate) mod floor;

pub(crate) mod evaluate;
pub(crate) mod predict;

pub(crate) mod baselines;
pub(crate) mod scaling;
