//! What there is to look at: figures that a notebook shows inline.

pub(crate) mod check;
pub(crate) mod figure;
pub(crate) mod live;
pub mod markup;
pub mod plot;
#[cfg(feature = "cli")]
pub(crate) mod png;
