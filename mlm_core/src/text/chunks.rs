//! Takes a text, gives its distinct chunks: what stands between two spaces. A text of ten million has some hundred thousand
//! different ones, and what is to be known of each is found out once. What that is, is left to those who ask.

use std::sync::{Mutex, PoisonError};

use ahash::{AHashMap, RandomState};
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use rayon::prelude::*;

use crate::error::Result;
use crate::text::sentences::Sentences;

/// The chunks of a piece of text that has single spaces.
pub(crate) fn chunks(text: &str) -> impl Iterator<Item = &str> {
    text.split(' ')
}

/// Something about each of many chunks. These lie end to end: a `String` for each would take three times the memory.
#[derive(Clone, Debug)]
pub(crate) struct ChunkTable<V> {
    text: String,
    rows: HashTable<Row<V>>,
    hasher: RandomState,
}

#[derive(Clone, Debug)]
struct Row<V> {
    start: usize,
    end: usize,
    value: V,
}

impl<V> Row<V> {
    fn chunk<'a>(&self, text: &'a str) -> &'a str {
        &text[self.start..self.end]
    }
}

impl<V> Default for ChunkTable<V> {
    fn default() -> Self {
        Self { text: String::new(), rows: HashTable::new(), hasher: hasher() }
    }
}

/// The same in each table, in each run.
fn hasher() -> RandomState {
    RandomState::with_seeds(1, 2, 3, 4)
}

impl<V> ChunkTable<V> {
    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    /// The lengths of all chunks together.
    pub(crate) fn bytes(&self) -> usize {
        self.text.len()
    }

    pub(crate) fn get(&self, chunk: &str) -> Option<&V> {
        let row = self.rows.find(self.hasher.hash_one(chunk), |row| row.chunk(&self.text) == chunk);
        row.map(|row| &row.value)
    }

    /// What is known of a chunk, which is what `new` says, where nothing was.
    pub(crate) fn or_insert_with(&mut self, chunk: &str, new: impl FnOnce() -> V) -> &mut V {
        let Self { text, rows, hasher } = self;
        let hash = hasher.hash_one(chunk);
        let entry = rows.entry(hash, |row| row.chunk(text) == chunk, |row| hasher.hash_one(row.chunk(text)));
        match entry {
            Entry::Occupied(row) => &mut row.into_mut().value,
            Entry::Vacant(room) => {
                let start = text.len();
                text.push_str(chunk);
                &mut room.insert(Row { start, end: text.len(), value: new() }).into_mut().value
            }
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &V)> {
        self.rows.iter().map(|row| (row.chunk(&self.text), &row.value))
    }
}

/// Into so many tables the counts of chunks are parted, each for the core that needs it.
const SHARDS: usize = 256;

/// How often each chunk of a text occurs, in some tables, none of which has a chunk of another.
pub(crate) fn count(corpus: &dyn Sentences) -> Result<Vec<ChunkTable<usize>>> {
    let shards: Vec<Mutex<ChunkTable<usize>>> = (0..SHARDS).map(|_| Mutex::default()).collect();
    let hasher = hasher();
    corpus.each_round_of_pieces("counting words", true, |round| {
        round.par_iter().for_each(|pieces| {
            let mut counts: AHashMap<&str, usize> = AHashMap::new();
            pieces.iter().flat_map(|(_, text)| chunks(text)).for_each(|chunk| *counts.entry(chunk).or_default() += 1);
            for (chunk, count) in counts {
                // Not the bits by which the table itself is ordered.
                let shard = &shards[(hasher.hash_one(chunk) >> 40) as usize % SHARDS];
                *shard.lock().unwrap_or_else(PoisonError::into_inner).or_insert_with(chunk, || 0) += count;
            }
        });
        Ok(())
    })?;
    Ok(shards.into_iter().map(|shard| shard.into_inner().unwrap_or_else(PoisonError::into_inner)).collect())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::text::corpus::Corpus;

    #[test]
    fn chunks_are_counted_as_one_core_would_count_them() {
        let sentences: Vec<String> =
            (0..40_000).map(|i| format!("a b{} c{} ü{} {}", i % 7, i % 1000, i % 13, i / 3)).collect();
        let mut expected: BTreeMap<&str, usize> = BTreeMap::new();
        sentences.iter().flat_map(|text| text.split(' ')).for_each(|chunk| *expected.entry(chunk).or_default() += 1);
        let tables = count(&Corpus::from_lines(&sentences).unwrap()).unwrap();
        let counts: Vec<(&str, usize)> =
            tables.iter().flat_map(|table| table.iter().map(|(chunk, &count)| (chunk, count))).collect();
        assert_eq!(counts.len(), expected.len(), "a chunk is in one table only");
        assert_eq!(counts.into_iter().collect::<BTreeMap<_, _>>(), expected);
    }
}
