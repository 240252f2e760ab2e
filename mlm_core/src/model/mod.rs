//! The model: its shape, its weights, and the reference back end that computes with them.

mod memory;

pub(crate) mod config;
pub(crate) mod params;

pub(crate) mod device;
pub(crate) mod dropout;
pub(crate) mod encoder;
pub(crate) mod reference;
