//! The model: its shape, its weights, what every back end can do, and the reference back end.

pub(crate) mod config;
pub(crate) mod memory;
pub(crate) mod names;
pub(crate) mod params;

pub(crate) mod initialization;

pub(crate) mod config_json;
pub(crate) mod pickle;
pub(crate) mod pretrained;
pub(crate) mod tensors;
pub(crate) mod weight_files;

pub(crate) mod gradients;
pub(crate) mod weights;

pub(crate) mod encoder;

pub(crate) mod device;
pub(crate) mod dropout;
pub(crate) mod reference;
