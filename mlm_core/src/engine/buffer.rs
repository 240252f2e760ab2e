//! Memory for numbers: a vector of them that begins where a line of the cache does, so that a row of whole vectors never
//! straddles two lines, which would be read twice.

use std::ops::{Deref, DerefMut};

use aligned_vec::{AVec, ConstAlign};

/// Bytes of a line, and of the widest vectors.
const LINE: usize = 64;

/// Numbers in memory that grows when more than ever before are needed, and is kept.
#[derive(Clone, Debug)]
pub(crate) struct Buffer(AVec<f32, ConstAlign<LINE>>);

impl Buffer {
    pub(crate) fn zeros(length: usize) -> Self {
        let mut buffer = Self::default();
        buffer.fit(length, length);
        buffer
    }

    /// How many numbers there is memory for.
    pub(crate) fn capacity(&self) -> usize {
        self.0.capacity()
    }

    /// Makes it so long, by zeros where it grows, in memory for `capacity` numbers, at least as many, where it takes memory.
    pub(crate) fn fit(&mut self, length: usize, capacity: usize) {
        if self.0.capacity() < length {
            self.0.reserve_exact(capacity - self.0.len());
        }
        self.0.resize(length, 0.0);
    }

    /// So many of its numbers, whatever they are; memory is taken only where there is not enough.
    pub(crate) fn room(&mut self, length: usize) -> &mut [f32] {
        if self.len() < length {
            self.fit(length, length);
        }
        &mut self[..length]
    }
}

/// How many numbers buffers need beyond those that there is memory for: takes each with the length that it needs.
pub(crate) fn missing<'a>(needs: impl IntoIterator<Item = (&'a mut Buffer, usize)>) -> usize {
    let missing = |(buffer, numbers): (&mut Buffer, usize)| numbers.saturating_sub(buffer.capacity());
    needs.into_iter().map(missing).fold(0, usize::saturating_add)
}

/// Gives each buffer the length that it needs. Memory is taken where that is larger than ever before.
pub(crate) fn fit<'a>(needs: impl IntoIterator<Item = (&'a mut Buffer, usize)>) {
    for (buffer, numbers) in needs {
        // A quarter more than needed: how many tokens are masked is a matter of luck.
        buffer.fit(numbers, numbers + numbers / 4);
    }
}

impl Default for Buffer {
    fn default() -> Self {
        Self(AVec::new(LINE))
    }
}

impl From<&[f32]> for Buffer {
    fn from(numbers: &[f32]) -> Self {
        Self(AVec::from_slice(LINE, numbers))
    }
}

impl Deref for Buffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.0
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.0
    }
}
