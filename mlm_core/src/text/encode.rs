//! Takes a corpus, gives the ids of its sentences and how much of it the tokenizer reads: on all cores, and each distinct chunk
//! once. What sequences are made of the ids is left to [`crate::text::windows`].

use std::iter;
use std::ops::Range;

use ahash::AHashMap;
use rayon::prelude::*;

use crate::error::Result;
use crate::text::chunks::{ChunkTable, chunks};
use crate::text::coverage::Coverage;
use crate::text::sentences::{Pieces, Sentences};
use crate::text::tokenizer::{Changes, Tokenizer};

/// How many chunks are remembered at most, and of how many bytes together: those of a natural text that come again and again
/// are among the first.
const MOST_CHUNKS: usize = 450_000;
const MOST_BYTES: usize = 1 << 25;

/// What the tokenizer makes of chunks.
#[derive(Default)]
struct Cache {
    chunks: ChunkTable<Known>,
    /// Of all chunks, end to end.
    ids: Vec<u32>,
    /// What becomes of the characters of a chunk: each possibility once.
    changes: Vec<Changes>,
    nth_changes: AHashMap<Changes, u32>,
}

/// What is known of a chunk, as places in the cache.
#[derive(Clone, Copy)]
struct Known {
    start: u32,
    end: u32,
    changes: u32,
}

impl Cache {
    fn get(&self, chunk: &str) -> Option<(&[u32], Changes)> {
        let &Known { start, end, changes } = self.chunks.get(chunk)?;
        Some((&self.ids[start as usize..end as usize], self.changes[changes as usize]))
    }

    fn insert(&mut self, chunk: &str, ids: &[u32], changes: Changes) {
        let Self { chunks, ids: all, changes: distinct, nth_changes } = self;
        if chunks.len() >= MOST_CHUNKS || chunks.bytes() + chunk.len() > MOST_BYTES {
            return;
        }
        let changes = *nth_changes.entry(changes).or_insert_with(|| {
            distinct.push(changes);
            distinct.len() as u32 - 1
        });
        chunks.or_insert_with(chunk, || {
            let start = all.len() as u32;
            all.extend_from_slice(ids);
            Known { start, end: all.len() as u32, changes }
        });
    }
}

/// Pieces as ids.
struct EncodedPieces<'a> {
    /// Of all pieces, end to end.
    ids: Vec<u32>,
    /// Where the ids of each piece end.
    ends: Vec<usize>,
    changes: Changes,
    /// Chunks that the cache does not have, and where their ids are.
    new: AHashMap<&'a str, (Range<usize>, Changes)>,
}

impl Tokenizer {
    /// Gives the ids of each sentence of a corpus, in order and without `[CLS]` and `[SEP]`, to `take`.
    ///
    /// # Errors
    /// When the `tokenizers` crate fails, or the stop button is pressed, the text cannot be read, or `take` fails.
    pub(crate) fn encode_sentences(
        &self,
        corpus: &dyn Sentences,
        mut take: impl FnMut(&[u32]) -> Result<()>,
    ) -> Result<Coverage> {
        let mut coverage = Coverage::default();
        let (mut cache, mut changes) = (Cache::default(), Changes::default());
        let (mut sentence, mut nth) = (Vec::new(), 0);
        let mut end = |ids: &mut Vec<u32>| -> Result<()> {
            coverage.add_sentence(ids, self);
            take(ids)?;
            ids.clear();
            Ok(())
        };
        corpus.each_round_of_pieces("encoding", self.reads_words(), |round| {
            let encoded: Result<Vec<_>> = round.par_iter().map(|pieces| self.encode_pieces(pieces, &cache)).collect();
            for (pieces, encoded) in round.iter().zip(encoded?) {
                for (chunk, (place, changes)) in encoded.new {
                    cache.insert(chunk, &encoded.ids[place], changes);
                }
                let starts = iter::once(0).chain(encoded.ends.iter().copied());
                for ((of, _), (start, stop)) in pieces.iter().zip(starts.zip(&encoded.ends)) {
                    if *of != nth {
                        end(&mut sentence)?;
                        nth = *of;
                    }
                    sentence.extend_from_slice(&encoded.ids[start..*stop]);
                }
                changes += encoded.changes;
            }
            Ok(())
        })?;
        end(&mut sentence)?;
        coverage.add_changes(changes);
        Ok(coverage)
    }

    fn encode_pieces<'a>(&self, pieces: &Pieces<'a>, cache: &Cache) -> Result<EncodedPieces<'a>> {
        let mut encoded =
            EncodedPieces { ids: Vec::new(), ends: Vec::new(), changes: Changes::default(), new: AHashMap::new() };
        for (_, text) in pieces {
            if self.reads_words() {
                chunks(text).try_for_each(|chunk| self.encode_chunk(chunk, cache, &mut encoded))?;
            } else {
                self.encode_chunk(text, cache, &mut encoded)?;
            }
            encoded.ends.push(encoded.ids.len());
        }
        Ok(encoded)
    }

    fn encode_chunk<'a>(&self, chunk: &'a str, cache: &Cache, encoded: &mut EncodedPieces<'a>) -> Result<()> {
        let EncodedPieces { ids, changes: all, new, .. } = encoded;
        let changes = if let Some((known, changes)) = cache.get(chunk) {
            ids.extend_from_slice(known);
            changes
        } else if let Some((place, changes)) = new.get(chunk) {
            ids.extend_from_within(place.clone());
            *changes
        } else {
            let start = ids.len();
            self.push_chunk(chunk, ids)?;
            let mut changes = self.changes(chunk)?;
            if ids[start..].contains(&self.special().unk) {
                changes.too_long = self.too_long(chunk)?;
            }
            new.insert(chunk, (start..ids.len(), changes));
            changes
        };
        *all += changes;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::text::corpus::Corpus;
    use crate::text::tokenizer::tests::{CHUNK, with_those_added_tokens};
    use crate::text::tokenizer_config::TokenizerConfig;

    proptest! {
        #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.max(300), ..ProptestConfig::default() })]

        #[test]
        fn a_chunk_that_is_remembered_has_the_ids_that_it_has_in_its_sentence(
            chunks in proptest::collection::vec(CHUNK, 1..20),
            sentences in proptest::collection::vec(proptest::collection::vec(any::<prop::sample::Index>(), 1..9), 1..30),
            cased: bool,
            (reads_words, reads_ascii) in prop_oneof![Just((false, false)), Just((true, false)), Just((true, true))],
        ) {
            let config = if cased { TokenizerConfig::cased(200) } else { TokenizerConfig::new(200) };
            let more = if reads_words { [].as_slice() } else { &["a b"] };
            let tokenizer = with_those_added_tokens(&config, more, |token| !reads_ascii || token.content.is_ascii());
            prop_assert_eq!(tokenizer.reads_words(), reads_words);
            prop_assert_eq!(tokenizer.ascii_words("b", &mut String::new()).is_some(), reads_ascii);
            let sentence = |of: &Vec<prop::sample::Index>| of.iter().map(|nth| nth.get(&chunks).as_str()).collect::<Vec<_>>().join(" ");
            let Ok(corpus) = Corpus::from_lines(sentences.iter().map(sentence)) else { return Ok(()) };
            let mut expected = Coverage::default();
            let mut ids = Vec::new();
            for text in corpus.sentences() {
                ids.push(tokenizer.encode_without_frame(text).unwrap());
                expected.add_sentence(&ids[ids.len() - 1], &tokenizer);
                let too_long = tokenizer.too_long(text).unwrap();
                expected.add_changes(Changes { too_long, ..tokenizer.changes(text).unwrap() });
            }
            let mut encoded = Vec::new();
            let coverage = tokenizer.encode_sentences(&corpus, |ids| { encoded.push(ids.to_vec()); Ok(()) }).unwrap();
            prop_assert_eq!(encoded, ids);
            prop_assert_eq!(coverage, expected);
        }
    }

    #[test]
    fn a_cache_that_is_full_stays_as_it_is() {
        let mut cache = Cache::default();
        let long = "a".repeat(MOST_BYTES);
        cache.insert("b", &[1, 2], Changes::default());
        cache.insert(&long, &[3], Changes::default());
        assert_eq!(cache.get("b"), Some(([1, 2].as_slice(), Changes::default())));
        assert_eq!(cache.get(&long), None);
    }
}
