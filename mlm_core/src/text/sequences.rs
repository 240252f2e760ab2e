//! Sequences of ids, which an encoded text, its batches and a training look at without each holding a copy.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

/// Sequences of token ids. A clone is the same memory until one of the two is changed.
///
/// Made of `Vec<Vec<u32>>`, which it can be used as.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sequences(Arc<Vec<Vec<u32>>>);

impl From<Vec<Vec<u32>>> for Sequences {
    fn from(sequences: Vec<Vec<u32>>) -> Self {
        Self(Arc::new(sequences))
    }
}

impl<'a> IntoIterator for &'a Sequences {
    type Item = &'a Vec<u32>;
    type IntoIter = std::slice::Iter<'a, Vec<u32>>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<'a> IntoIterator for &'a mut Sequences {
    type Item = &'a mut Vec<u32>;
    type IntoIter = std::slice::IterMut<'a, Vec<u32>>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter_mut()
    }
}

impl Deref for Sequences {
    type Target = Vec<Vec<u32>>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl DerefMut for Sequences {
    fn deref_mut(&mut self) -> &mut Self::Target {
        Arc::make_mut(&mut self.0)
    }
}
