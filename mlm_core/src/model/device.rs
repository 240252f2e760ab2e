//! Picks the device that tensors live on: a GPU if there is one, else the CPU.

use candle_core::Device;

/// The first CUDA or Metal GPU when the crate was built with the feature `cuda` or `metal` and there is one that works,
/// else the CPU.
pub fn pick_device() -> Device {
    Device::new_cuda(0).or_else(|_| Device::new_metal(0)).unwrap_or(Device::Cpu)
}
