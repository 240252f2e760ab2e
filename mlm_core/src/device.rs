//! Picks the device that tensors live on, as the PyTorch lab does: a GPU if there is one, else the CPU.

use candle_core::Device;

use crate::error::Result;

/// The first CUDA or Metal GPU when the crate was built with the feature `cuda` or `metal` and there is one, else the
/// CPU.
///
/// # Errors
/// When there is a GPU but it cannot be used.
pub fn pick() -> Result<Device> {
    if candle_core::utils::cuda_is_available() {
        Ok(Device::cuda_if_available(0)?)
    } else if candle_core::utils::metal_is_available() {
        Ok(Device::metal_if_available(0)?)
    } else {
        Ok(Device::Cpu)
    }
}
