//! Sequences of ids, which an encoded text, its batches and a training look at without each holding a copy.

use std::sync::Arc;

use crate::error::{Error, Result};

/// Sequences of token ids, which lie end to end: in 2 bytes an id, and in 4 where one does not fit in 2. A clone is the same
/// memory until one of the two is changed.
///
/// ```
/// # use mlm_core::*;
/// # fn main() -> Result<()> {
/// let sequences = Sequences::from(vec![vec![2, 7, 3], vec![2, 9, 9, 3]]);
/// assert_eq!((sequences.len(), sequences.tokens()), (2, 7));
/// assert_eq!(sequences.get(1)?, [2, 9, 9, 3]);
/// assert_eq!(sequences.to_vec()?, [vec![2, 7, 3], vec![2, 9, 9, 3]]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sequences(Arc<Flat>);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Flat {
    ids: Ids,
    /// Where each sequence ends.
    ends: Vec<usize>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Ids {
    Short(Vec<u16>),
    /// At least one of them needs it.
    Long(Vec<u32>),
}

impl Default for Ids {
    fn default() -> Self {
        Self::Short(Vec::new())
    }
}

impl Ids {
    fn push(&mut self, id: u32) {
        match (&mut *self, u16::try_from(id)) {
            (Self::Long(ids), _) => ids.push(id),
            (Self::Short(ids), Ok(id)) => ids.push(id),
            (Self::Short(ids), Err(_)) => {
                *self = Self::Long(ids.iter().map(|&id| u32::from(id)).chain([id]).collect());
            }
        }
    }
}

impl Sequences {
    /// The number of sequences.
    pub fn len(&self) -> usize {
        self.0.ends.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The number of tokens of all sequences.
    pub fn tokens(&self) -> usize {
        self.0.ends.last().copied().unwrap_or(0)
    }

    /// The sequence with that index.
    ///
    /// # Errors
    /// When there are fewer.
    pub fn get(&self, index: usize) -> Result<Vec<u32>> {
        let mut sequence = Vec::new();
        self.read(index, &mut sequence)?;
        Ok(sequence)
    }

    /// As [`Self::get`], in place of what is in `sequence`.
    pub(crate) fn read(&self, index: usize, sequence: &mut Vec<u32>) -> Result<()> {
        let Flat { ids, ends } = &*self.0;
        let Some(&end) = ends.get(index) else {
            return Err(Error::argument("index", format!("below {}, the number of sequences", self.len()), index));
        };
        let start = index.checked_sub(1).map_or(0, |before| ends[before]);
        sequence.clear();
        match ids {
            Ids::Short(ids) => sequence.extend(ids[start..end].iter().map(|&id| u32::from(id))),
            Ids::Long(ids) => sequence.extend_from_slice(&ids[start..end]),
        }
        Ok(())
    }

    /// One sequence after the other.
    pub fn iter(&self) -> impl Iterator<Item = Result<Vec<u32>>> {
        (0..self.len()).map(|index| self.get(index))
    }

    /// All sequences.
    ///
    /// # Errors
    /// None for those in memory.
    pub fn to_vec(&self) -> Result<Vec<Vec<u32>>> {
        self.iter().collect()
    }

    /// Adds a sequence.
    pub(crate) fn push(&mut self, sequence: impl IntoIterator<Item = u32>) {
        let Flat { ids, ends } = Arc::make_mut(&mut self.0);
        sequence.into_iter().for_each(|id| ids.push(id));
        ends.push(match ids {
            Ids::Short(ids) => ids.len(),
            Ids::Long(ids) => ids.len(),
        });
    }
}

impl From<Vec<Vec<u32>>> for Sequences {
    fn from(sequences: Vec<Vec<u32>>) -> Self {
        let mut flat = Self::default();
        sequences.into_iter().for_each(|ids| flat.push(ids));
        flat
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn sequences_are_what_they_were_made_of(
            sequences in proptest::collection::vec(proptest::collection::vec(prop_oneof![0..9u32, 65_530..65_540u32, Just(u32::MAX)], 0..5), 0..9),
        ) {
            let flat = Sequences::from(sequences.clone());
            prop_assert_eq!(&flat.to_vec().unwrap(), &sequences);
            prop_assert_eq!(flat.tokens(), sequences.concat().len());
            prop_assert_eq!(flat.len(), sequences.len());
            prop_assert!(flat.get(sequences.len()).is_err());
            let is_short = matches!(flat.0.ids, Ids::Short(_));
            prop_assert_eq!(is_short, sequences.concat().iter().all(|&id| id < 65_536));
        }
    }
}
