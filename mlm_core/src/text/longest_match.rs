//! Takes a vocabulary and a word, gives its pieces: WordPiece's search, in a time that grows with the length of the word.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::{Serialize, Serializer};
use tokenizers::models::wordpiece::{Error, WordPiece};
use tokenizers::models::{ModelWrapper, TrainerWrapper};
use tokenizers::{Model, Result, Token};

/// A WordPiece model whose search looks no further than the longest token of its vocabulary. That of the `tokenizers` crate
/// begins at each piece with all the rest of the word: a hundred words of 3,000 letters take half a minute. The pieces are the
/// same. Another kind of model does its own search.
#[derive(Clone)]
pub(crate) struct LongestMatch {
    model: ModelWrapper,
    /// The length of the longest token, in bytes.
    longest: usize,
}

impl LongestMatch {
    pub(crate) fn new(model: ModelWrapper) -> Self {
        let longest = model.get_vocab().keys().map(String::len).max().unwrap_or(0);
        Self { model, longest }
    }

    /// The model that it searches for.
    pub(crate) fn model(&self) -> &ModelWrapper {
        &self.model
    }

    /// Adds the ids of a word.
    pub(crate) fn push_ids(&self, word: &str, ids: &mut Vec<u32>) -> Result<()> {
        let ModelWrapper::WordPiece(model) = &self.model else {
            ids.extend(self.model.tokenize(word)?.iter().map(|token| token.id));
            return Ok(());
        };
        let start = ids.len();
        if !is_short(model, word) || !self.each_piece(model, word, |id, _, _| ids.push(id)) {
            ids.truncate(start);
            ids.push(unknown(model)?);
        }
        Ok(())
    }

    /// Gives the pieces of a word, each with its id and place; false if the vocabulary cannot spell it.
    fn each_piece(&self, model: &WordPiece, word: &str, mut see: impl FnMut(u32, &str, (usize, usize))) -> bool {
        let mut start = 0;
        let mut candidate = String::new();
        while start < word.len() {
            candidate.clear();
            if start > 0 {
                candidate += &model.continuing_subword_prefix;
            }
            let mark = candidate.len();
            let room = self.longest.saturating_sub(mark);
            candidate += &word[start..word.floor_char_boundary(start + room)];
            let id = loop {
                if candidate.len() == mark {
                    return false;
                }
                match model.token_to_id(&candidate) {
                    Some(id) => break id,
                    None => candidate.pop(),
                };
            };
            let end = start + candidate.len() - mark;
            see(id, &candidate, (start, end));
            start = end;
        }
        true
    }
}

/// Whether the model reads words of that length.
fn is_short(model: &WordPiece, word: &str) -> bool {
    word.chars().nth(model.max_input_chars_per_word).is_none()
}

/// The id of a word that cannot be spelled.
fn unknown(model: &WordPiece) -> std::result::Result<u32, Error> {
    model.token_to_id(&model.unk_token).ok_or(Error::MissingUnkToken)
}

impl Model for LongestMatch {
    type Trainer = TrainerWrapper;

    fn tokenize(&self, word: &str) -> Result<Vec<Token>> {
        let ModelWrapper::WordPiece(model) = &self.model else { return self.model.tokenize(word) };
        let mut pieces = Vec::new();
        let see = |id, piece: &str, place| pieces.push(Token::new(id, piece.to_owned(), place));
        if is_short(model, word) && self.each_piece(model, word, see) {
            return Ok(pieces);
        }
        Ok(vec![Token::new(unknown(model)?, model.unk_token.clone(), (0, word.len()))])
    }

    fn token_to_id(&self, token: &str) -> Option<u32> {
        self.model.token_to_id(token)
    }

    fn id_to_token(&self, id: u32) -> Option<String> {
        self.model.id_to_token(id)
    }

    fn get_vocab(&self) -> HashMap<String, u32> {
        self.model.get_vocab()
    }

    fn get_vocab_size(&self) -> usize {
        self.model.get_vocab_size()
    }

    fn save(&self, folder: &Path, prefix: Option<&str>) -> Result<Vec<PathBuf>> {
        self.model.save(folder, prefix)
    }

    fn get_trainer(&self) -> TrainerWrapper {
        self.model.get_trainer()
    }
}

/// As the model that it searches for.
impl Serialize for LongestMatch {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        self.model.serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn model(tokens: &[&str], max_input_chars_per_word: usize) -> LongestMatch {
        let vocab = WordPiece::read_bytes(tokens.join("\n").as_bytes()).unwrap();
        let model = WordPiece::builder().vocab(vocab);
        LongestMatch::new(model.max_input_chars_per_word(max_input_chars_per_word).build().unwrap().into())
    }

    proptest! {
        #[test]
        fn it_finds_what_the_tokenizers_crate_finds(
            word in "[abé中#]{0,12}",
            tokens in proptest::collection::vec("(##)?[abé中#]{1,4}", 0..30),
        ) {
            let known = ["[UNK]", "a", "##a"];
            let tokens: Vec<&str> = known.into_iter().chain(tokens.iter().map(String::as_str)).collect();
            let ours = model(&tokens, 10);
            let theirs = ours.model.tokenize(&word).unwrap();
            let mut ids = vec![7];
            ours.push_ids(&word, &mut ids).unwrap();
            prop_assert_eq!(&ids[1..], theirs.iter().map(|token| token.id).collect::<Vec<_>>());
            prop_assert_eq!(ours.tokenize(&word).unwrap(), theirs);
        }
    }

    #[test]
    fn without_a_token_for_unknown_words_there_is_an_error() {
        assert!(model(&["a"], 100).tokenize("b").is_err());
    }
}
