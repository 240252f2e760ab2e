//! Sequences of ids, in memory or in files, which an encoded text, its batches and a training look at without each holding a
//! copy.

use std::mem;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::text::sequence_files::{SequenceFiles, SequenceFilesWriter, Width};

/// From so many bytes on sequences go into files, where there is a place for them.
const IN_MEMORY: usize = 1 << 24;

/// How many are read from a file at once, where all are wanted.
const AT_ONCE: usize = 4096;

/// Sequences of token ids, which lie end to end: in 2 bytes an id, and in 4 where one does not fit in 2. Those of a large text
/// are in files, see [`crate::Preparation`]. A clone is the same memory, and the same files.
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
#[derive(Clone, Debug)]
pub struct Sequences(Arc<Kept>);

#[derive(Debug)]
enum Kept {
    InMemory(Flat),
    OnDisk(SequenceFiles),
}

#[derive(Clone, Debug, Default)]
struct Flat {
    ids: Ids,
    /// Where each sequence ends.
    ends: Vec<usize>,
}

#[derive(Clone, Debug)]
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
    fn len(&self) -> usize {
        match self {
            Self::Short(ids) => ids.len(),
            Self::Long(ids) => ids.len(),
        }
    }

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

impl Flat {
    fn push(&mut self, sequence: impl IntoIterator<Item = u32>) {
        sequence.into_iter().for_each(|id| self.ids.push(id));
        self.ends.push(self.ids.len());
    }

    /// A sequence that is there, in place of what is in `sequence`.
    fn read(&self, index: usize, sequence: &mut Vec<u32>) {
        let (start, end) = (index.checked_sub(1).map_or(0, |before| self.ends[before]), self.ends[index]);
        sequence.clear();
        match &self.ids {
            Ids::Short(ids) => sequence.extend(ids[start..end].iter().map(|&id| u32::from(id))),
            Ids::Long(ids) => sequence.extend_from_slice(&ids[start..end]),
        }
    }

    fn bytes(&self) -> usize {
        let ids = match &self.ids {
            Ids::Short(ids) => size_of_val(ids.as_slice()),
            Ids::Long(ids) => size_of_val(ids.as_slice()),
        };
        ids + size_of_val(self.ends.as_slice())
    }
}

impl Sequences {
    /// The number of sequences.
    pub fn len(&self) -> usize {
        match &*self.0 {
            Kept::InMemory(flat) => flat.ends.len(),
            Kept::OnDisk(files) => files.len(),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The number of tokens of all sequences.
    pub fn tokens(&self) -> usize {
        match &*self.0 {
            Kept::InMemory(flat) => flat.ids.len(),
            Kept::OnDisk(files) => files.tokens(),
        }
    }

    /// The sequence with that index.
    ///
    /// # Errors
    /// When there are fewer, or it is in a file that cannot be read.
    pub fn get(&self, index: usize) -> Result<Vec<u32>> {
        if index >= self.len() {
            return Err(Error::argument("index", format!("below {}, the number of sequences", self.len()), index));
        }
        let mut sequence = Vec::new();
        match &*self.0 {
            Kept::InMemory(flat) => flat.read(index, &mut sequence),
            Kept::OnDisk(files) => files.read(index..index + 1, &mut sequence, &mut Vec::new())?,
        }
        Ok(sequence)
    }

    /// One sequence after the other.
    pub fn iter(&self) -> impl Iterator<Item = Result<Vec<u32>>> {
        let mut in_order = self.in_order();
        (0..self.len()).map(move |index| in_order.read(index).map(<[u32]>::to_vec))
    }

    /// As [`Self::iter`], for whoever wants to see all of many and keeps none.
    pub(crate) fn each(&self, mut see: impl FnMut(&[u32])) -> Result<()> {
        let mut in_order = self.in_order();
        (0..self.len()).try_for_each(|index| in_order.read(index).map(&mut see))
    }

    fn in_order(&self) -> InOrder<'_> {
        InOrder { kept: &self.0, ids: Vec::new(), ends: Vec::new() }
    }

    /// All sequences.
    ///
    /// # Errors
    /// When they are in a file that cannot be read.
    pub fn to_vec(&self) -> Result<Vec<Vec<u32>>> {
        self.iter().collect()
    }

    pub(crate) fn on_disk(files: SequenceFiles) -> Self {
        Self(Arc::new(Kept::OnDisk(files)))
    }

    /// Whether they are in files.
    pub(crate) fn are_on_disk(&self) -> bool {
        matches!(*self.0, Kept::OnDisk(_))
    }
}

/// Sequences that are read from the first one on.
struct InOrder<'a> {
    kept: &'a Kept,
    /// Of the last ones that were read, from a file some at once: all ids, and where each ends.
    ids: Vec<u32>,
    ends: Vec<usize>,
}

impl InOrder<'_> {
    fn read(&mut self, index: usize) -> Result<&[u32]> {
        let Self { kept, ids, ends } = self;
        let files = match kept {
            Kept::InMemory(flat) => {
                flat.read(index, ids);
                return Ok(ids);
            }
            Kept::OnDisk(files) => files,
        };
        let nth = index % AT_ONCE;
        if nth == 0 {
            files.read(index..files.len().min(index + AT_ONCE), ids, ends)?;
        }
        let start = nth.checked_sub(1).map_or(0, |before| ends[before]);
        Ok(&ids[start..ends[nth]])
    }
}

impl Default for Sequences {
    fn default() -> Self {
        Self(Arc::new(Kept::InMemory(Flat::default())))
    }
}

/// Two are equal that have the same sequences, wherever these are.
impl PartialEq for Sequences {
    fn eq(&self, other: &Self) -> bool {
        let are_equal = |(one, other)| matches!((one, other), (Ok(one), Ok(other)) if one == other);
        self.len() == other.len() && self.iter().zip(other.iter()).all(are_equal)
    }
}

/// Takes sequences one by one: into memory and, where there is a place for them, from 16 MB on into files.
#[derive(Debug, Default)]
pub(crate) struct SequencesWriter {
    in_memory: Flat,
    /// The name of the files, and the width of their ids.
    place: Option<(PathBuf, Width)>,
    files: Option<SequenceFilesWriter>,
}

impl SequencesWriter {
    /// Into files of that name, if there are many.
    pub(crate) fn with_place(stem: PathBuf, width: Width) -> Self {
        Self { place: Some((stem, width)), ..Self::default() }
    }

    /// Into files of that name, however many there are.
    pub(crate) fn in_files(stem: &Path, width: Width) -> Result<Self> {
        Ok(Self { files: Some(SequenceFilesWriter::create(stem, width)?), ..Self::default() })
    }

    pub(crate) fn push(&mut self, sequence: impl IntoIterator<Item = u32>) -> Result<()> {
        if let Some(files) = &mut self.files {
            return files.push(sequence);
        }
        self.in_memory.push(sequence);
        let Some((stem, width)) = self.place.as_ref().filter(|_| self.in_memory.bytes() >= IN_MEMORY) else {
            return Ok(());
        };
        let (flat, mut files) = (mem::take(&mut self.in_memory), SequenceFilesWriter::create(stem, *width)?);
        let mut sequence = Vec::new();
        for index in 0..flat.ends.len() {
            flat.read(index, &mut sequence);
            files.push(sequence.iter().copied())?;
        }
        self.files = Some(files);
        Ok(())
    }

    pub(crate) fn finish(self) -> Result<Sequences> {
        match self.files {
            Some(files) => Ok(Sequences::on_disk(files.finish()?)),
            None => Ok(Sequences(Arc::new(Kept::InMemory(self.in_memory)))),
        }
    }
}

impl From<Vec<Vec<u32>>> for Sequences {
    fn from(sequences: Vec<Vec<u32>>) -> Self {
        let mut flat = Flat::default();
        sequences.into_iter().for_each(|ids| flat.push(ids));
        Self(Arc::new(Kept::InMemory(flat)))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

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
            let is_short = matches!(&*flat.0, Kept::InMemory(Flat { ids: Ids::Short(_), .. }));
            let fits = sequences.concat().iter().all(|&id| id < 65_536);
            prop_assert_eq!(is_short, fits);

            let folder = tempfile::tempdir().unwrap();
            let mut files = SequenceFilesWriter::create(&folder.path().join("some"), if fits { Width::Two } else { Width::Four }).unwrap();
            sequences.iter().for_each(|ids| files.push(ids.iter().copied()).unwrap());
            let on_disk = Sequences::on_disk(files.finish().unwrap());
            prop_assert_eq!((on_disk.len(), on_disk.tokens()), (flat.len(), flat.tokens()));
            prop_assert_eq!(&on_disk, &flat);
            prop_assert_eq!(on_disk.to_vec().unwrap(), sequences);
        }
    }

    #[test]
    fn many_go_into_files_and_what_is_done_to_these_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let stem = folder.path().join("train");
        let all = |nth: u32| (0..nth % 7).map(move |id| 1000 * id + nth % 1000);
        let many = 1_200_000;
        let mut writer = SequencesWriter::with_place(stem.clone(), Width::Two);
        let mut in_memory = SequencesWriter::default();
        for nth in 0..many {
            writer.push(all(nth)).unwrap();
            in_memory.push(all(nth)).unwrap();
            assert_eq!(writer.files.is_some(), writer.in_memory.ends.is_empty());
        }
        let (sequences, in_memory) = (writer.finish().unwrap(), in_memory.finish().unwrap());
        assert!(sequences.are_on_disk() && !in_memory.are_on_disk());
        for nth in (0..many).step_by(997) {
            assert_eq!(sequences.get(nth as usize).unwrap(), all(nth).collect::<Vec<_>>());
        }
        assert!((0..).zip(sequences.iter()).all(|(nth, ids)| ids.unwrap() == all(nth).collect::<Vec<_>>()));

        let open = |sequences: usize, tokens| SequenceFiles::open(&stem, Width::Two, sequences, tokens);
        let (ids, ends) = (stem.with_extension("ids"), stem.with_extension("ends"));
        assert!(open(sequences.len(), sequences.tokens() + 1).unwrap_err().to_string().contains("train.ids"));
        assert!(open(sequences.len() + 1, sequences.tokens()).unwrap_err().to_string().contains("train.ends"));
        let cut =
            |path: &std::path::Path| fs::OpenOptions::new().write(true).open(path).unwrap().set_len(1000).unwrap();
        cut(&ids);
        assert!(
            sequences
                .get(many as usize - 1)
                .unwrap_err()
                .to_string()
                .contains("train.ids: the file: expected what was written")
        );
        fs::write(&ends, vec![7; 8 * many as usize]).unwrap();
        assert!(sequences.get(many as usize - 1).unwrap_err().to_string().contains("train.ends"));
        cut(&ends);
        assert!(sequences.to_vec().unwrap_err().to_string().contains("train.ends"));
    }
}
