//! The engine: forward and backward of the whole model by hand, on the CPU in f32. One operation a file, `forward` and
//! `backward` side by side.

mod activations;
mod attention;
mod dropout;
mod embeddings;
mod gelu;
mod layer_norm;
mod layers;
mod linear;
mod loss;
mod matmul;
mod pass;
mod pool;
mod vector;

#[cfg(test)]
mod slopes;
