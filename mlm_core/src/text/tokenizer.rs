//! Takes a vocabulary, gives a WordPiece tokenizer: text to token ids and back. Learning a vocabulary is left to
//! [`crate::text::vocabulary`], reading one from files to [`crate::text::pretrained`], cutting ids to the length of a model to
//! [`crate::text::windows`].

use std::fmt;
use std::ops::{AddAssign, Range};
use std::sync::Arc;

use tokenizers::decoders::wordpiece::WordPiece as WordPieceDecoder;
use tokenizers::models::ModelWrapper;
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::{BertNormalizer, NormalizerWrapper};
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{
    AddedToken, DecoderWrapper, Model, NormalizedString, Normalizer, OffsetReferential, OffsetType,
    PostProcessorWrapper, PreTokenizedString, PreTokenizer, PreTokenizerWrapper, TokenizerBuilder, TokenizerImpl,
};

use crate::error::{Error, Result};
use crate::text::ascii;
use crate::text::longest_match::LongestMatch;

/// The five special tokens of BERT, in the order in which a trained vocabulary starts with them.
pub const SPECIAL_TOKENS: [&str; 5] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];

/// The mark of a piece that continues a word: `playing` may become `play` `##ing`.
pub(crate) const CONTINUATION: &str = "##";

/// The ids of the special tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpecialIds {
    /// `[PAD]`, which fills short sequences up.
    pub pad: u32,
    /// `[UNK]`, which stands for a word that cannot be spelled with the vocabulary.
    pub unk: u32,
    /// `[CLS]`, which starts each sequence.
    pub cls: u32,
    /// `[SEP]`, which ends each sequence.
    pub sep: u32,
    /// `[MASK]`, which hides a token from the model.
    pub mask: u32,
}

impl SpecialIds {
    /// Whether `id` is one of the five.
    pub fn contains(&self, id: u32) -> bool {
        [self.pad, self.unk, self.cls, self.sep, self.mask].contains(&id)
    }
}

/// A WordPiece tokenizer with BERT's normalizer, pre-tokenizer and `[CLS] … [SEP]` template. A word is cut from the left,
/// each time taking the longest piece that the vocabulary has.
///
/// ```
/// # use mlm_core::*;
/// # fn main() -> Result<()> {
/// let corpus = Corpus::from_lines(["the fox", "a cat may play"])?;
/// let tokenizer = Tokenizer::train(&corpus, &TokenizerConfig::new(1000))?;
/// let ids = tokenizer.encode("The foxy [MASK]")?;
/// assert_eq!(tokenizer.tokens(&ids), ["[CLS]", "the", "fox", "##y", "[MASK]", "[SEP]"]);
/// assert_eq!(tokenizer.words(&ids), [1..2, 2..4]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Tokenizer {
    inner: Inner,
    special: SpecialIds,
    /// Of each id, what its token is.
    kinds: Arc<[Kind]>,
    /// The added tokens that are looked for in the text as it stands, longer ones first.
    verbatim: Arc<[String]>,
    /// Whether it normalizes text and parts it into words as BERT does.
    is_bert: bool,
    /// Whether the ids of a text are those of its parts between spaces.
    reads_words: bool,
    /// Added tokens in lower case; in none of them, words of ASCII are what [`ascii`] says. None where that is not known.
    added_ascii: Option<Arc<[String]>>,
}

/// A tokenizer of the `tokenizers` crate with a search of our own.
type Inner = TokenizerImpl<LongestMatch, NormalizerWrapper, PreTokenizerWrapper, PostProcessorWrapper, DecoderWrapper>;

/// How many characters of a text are read as other ones, or not at all, and how many words are too long; see
/// [`crate::Coverage`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Changes {
    pub(crate) too_long: usize,
    pub(crate) lowered: usize,
    pub(crate) stripped: usize,
    pub(crate) invisible: usize,
    pub(crate) left_out: usize,
}

impl AddAssign for Changes {
    fn add_assign(&mut self, more: Self) {
        let Self { too_long, lowered, stripped, invisible, left_out } = self;
        *too_long += more.too_long;
        *lowered += more.lowered;
        *stripped += more.stripped;
        *invisible += more.invisible;
        *left_out += more.left_out;
    }
}

/// What the token of an id is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// One of BERT's five, or another that the vocabulary says is special: no part of the text.
    Special,
    /// A word, or the start of one.
    Start,
    /// What continues the word before it (`##ing`).
    Continuation,
    /// No token has this id.
    Missing,
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tokenizer {{ vocab: {} }}", self.vocab())
    }
}

impl Tokenizer {
    pub(crate) fn from_inner(mut inner: tokenizers::Tokenizer, origin: &str) -> Result<Self> {
        if let ModelWrapper::WordPiece(model) = inner.get_model()
            && model.token_to_id(&model.unk_token).is_none()
        {
            let unknown = &model.unk_token;
            let needed = "which stands for a word that it cannot spell";
            return Err(Error::Tokenizer(format!("{origin}: the vocabulary has no token {unknown}, {needed}")));
        }
        let id = |token: &str| {
            inner.token_to_id(token).ok_or_else(|| {
                let needed = SPECIAL_TOKENS.join(" ");
                Error::Tokenizer(format!("{origin} has no token {token}; a masked language model needs {needed}"))
            })
        };
        let special = SpecialIds {
            pad: id("[PAD]")?,
            unk: id("[UNK]")?,
            cls: id("[CLS]")?,
            sep: id("[SEP]")?,
            mask: id("[MASK]")?,
        };
        let is_special = |token: &&str| inner.get_added_vocabulary().is_special_token(token);
        let others: Vec<&str> = SPECIAL_TOKENS.into_iter().filter(|token| !is_special(token)).collect();
        inner.add_special_tokens(others.into_iter().map(|token| AddedToken::from(token, true))).map_err(failed)?;
        inner.with_truncation(None).map_err(failed)?;
        inner.with_padding(None);
        let template = TemplateProcessing::builder()
            .try_single("[CLS] $A [SEP]")
            .and_then(|builder| builder.try_pair("[CLS] $A [SEP] $B:1 [SEP]:1"))
            .and_then(|builder| {
                builder
                    .special_tokens(vec![("[CLS]", special.cls), ("[SEP]", special.sep)])
                    .build()
                    .map_err(|error| error.to_string())
            })
            .map_err(Error::Tokenizer)?;
        inner.with_post_processor(Some(template));
        let kinds = kinds(&inner);
        let added: Vec<AddedToken> = inner.get_added_tokens_decoder().into_values().collect();
        let is_bert = matches!(inner.get_normalizer(), None | Some(NormalizerWrapper::BertNormalizer(_)))
            && matches!(inner.get_pre_tokenizer(), Some(PreTokenizerWrapper::BertPreTokenizer(_)));
        let reads_words = is_bert && !added.iter().any(|token| token.content.contains(char::is_whitespace));
        let is_ascii = |token: &AddedToken| token.content.bytes().all(|byte| byte.is_ascii_graphic());
        let is_known = added.iter().all(|token| is_ascii(token) || !(token.normalized || token.content.is_ascii()));
        let added_ascii = is_known.then(|| added.iter().map(|token| token.content.to_ascii_lowercase()).collect());
        let is_verbatim = |token: &AddedToken| !token.normalized;
        let mut verbatim: Vec<String> = added.into_iter().filter(is_verbatim).map(|token| token.content).collect();
        verbatim.sort_by_key(|token| (std::cmp::Reverse(token.len()), token.clone()));
        let inner = TokenizerBuilder::new()
            .with_model(LongestMatch::new(inner.get_model().clone()))
            .with_normalizer(inner.get_normalizer().cloned())
            .with_pre_tokenizer(inner.get_pre_tokenizer().cloned())
            .with_post_processor(inner.get_post_processor().cloned())
            .with_decoder(inner.get_decoder().cloned())
            .with_added_vocabulary(inner.get_added_vocabulary().clone())
            .build()
            .map_err(failed)?;
        Ok(Self { inner, special, kinds, verbatim: verbatim.into(), is_bert, reads_words, added_ascii })
    }

    /// What does the work.
    pub(crate) fn inner(&self) -> &Inner {
        &self.inner
    }

    /// The size of the vocabulary, special tokens included: ids run from 0 to one less.
    pub fn vocab(&self) -> usize {
        self.kinds.len()
    }

    /// Checks that a model with a vocabulary of that size knows all tokens. It may know more: many are rounded up.
    ///
    /// # Errors
    /// When it does not; the error has both sizes.
    pub fn check_fits(&self, vocab: usize) -> Result<()> {
        if self.vocab() > vocab {
            let expected = format!("at most {vocab} tokens, as many as the model knows");
            let last = self.token(self.vocab() as u32 - 1);
            return Err(Error::argument("tokenizer", expected, format!("{}, the last of them {last:?}", self.vocab())));
        }
        Ok(())
    }

    /// The ids of the special tokens.
    pub fn special(&self) -> SpecialIds {
        self.special
    }

    /// The id of a token, if the vocabulary has it.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The token of an id; `[id 30]` for 30, where the vocabulary has none of that id, as that of a model may have which was
    /// rounded up.
    pub fn token(&self, id: u32) -> String {
        self.inner.id_to_token(id).unwrap_or_else(|| format!("[id {id}]"))
    }

    /// The tokens of ids.
    pub fn tokens(&self, ids: &[u32]) -> Vec<String> {
        ids.iter().map(|&id| self.token(id)).collect()
    }

    /// The ids of a text: `[CLS]`, its tokens, `[SEP]`. A special token written in the text, such as `[MASK]`, is
    /// that token.
    ///
    /// # Errors
    /// When the `tokenizers` crate fails.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        Ok(self.inner.encode_fast(text, true).map_err(failed)?.get_ids().to_vec())
    }

    /// The ids of a text, without `[CLS]` and `[SEP]`.
    pub(crate) fn encode_without_frame(&self, text: &str) -> Result<Vec<u32>> {
        Ok(self.inner.encode_fast(text, false).map_err(failed)?.get_ids().to_vec())
    }

    /// Adds the ids of a chunk, see [`crate::text::chunks`], as [`Self::encode_without_frame`] gives them.
    pub(crate) fn push_chunk(&self, chunk: &str, ids: &mut Vec<u32>) -> Result<()> {
        let mut buffer = String::new();
        match self.ascii_words(chunk, &mut buffer) {
            Some(mut words) => words.try_for_each(|word| self.inner.get_model().push_ids(word, ids)).map_err(failed),
            None => self.encode_without_frame(chunk).map(|more| ids.extend(more)),
        }
    }

    /// The words of a chunk, if they are known without the `tokenizers` crate.
    pub(crate) fn ascii_words<'a>(&self, chunk: &str, buffer: &'a mut String) -> Option<impl Iterator<Item = &'a str>> {
        let Some(NormalizerWrapper::BertNormalizer(normalizer)) = self.inner.get_normalizer() else { return None };
        let added = self.added_ascii.as_ref().filter(|_| self.is_bert)?;
        let is_graphic = chunk.bytes().all(|byte| byte.is_ascii_graphic());
        let lower = is_graphic.then(|| chunk.to_ascii_lowercase())?;
        let has_added = added.iter().any(|token| lower.contains(token.as_str()));
        if has_added { None } else { ascii::words(chunk, normalizer, buffer) }
    }

    /// Whether the ids of a text are those of its parts between spaces, so that it can be read in parts.
    pub(crate) fn reads_words(&self) -> bool {
        self.reads_words
    }

    /// As [`Self::encode`], with where each token stands in the text, in bytes; of `[CLS]` and `[SEP]`, nowhere.
    pub(crate) fn encode_with_places(&self, text: &str) -> Result<(Vec<u32>, Vec<Range<usize>>)> {
        let encoding = self.inner.encode(text, true).map_err(failed)?;
        let places = encoding.get_offsets().iter().map(|&(start, end)| start..end);
        Ok((encoding.get_ids().to_vec(), places.collect()))
    }

    /// The text of ids, without `[CLS]`, `[SEP]` and `[PAD]`. `[UNK]` and `[MASK]` stay: a word is there. Letters that the
    /// normalizer has parted, those of Korean syllables above all, are composed again (Unicode's form NFC).
    ///
    /// # Errors
    /// When the `tokenizers` crate fails.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        let SpecialIds { pad, cls, sep, .. } = self.special;
        let is_text = |&id: &u32| ![pad, cls, sep].contains(&id) && self.kind(id) != Kind::Missing;
        let text: Vec<u32> = ids.iter().copied().filter(is_text).collect();
        if text.is_empty() {
            return Ok(String::new()); // not every decoder takes nothing
        }
        let mut text = NormalizedString::from(self.inner.decode(&text, false).map_err(failed)?);
        Ok(text.nfc().get().to_owned())
    }

    /// How many words of a text are longer than the tokenizer takes, so that `[UNK]` stands for them.
    pub(crate) fn too_long(&self, text: &str) -> Result<usize> {
        let ModelWrapper::WordPiece(model) = self.inner.get_model().model() else { return Ok(0) };
        let is_too_long = |word: &String| word.chars().count() > model.max_input_chars_per_word;
        let words = words(text, self.inner.get_normalizer(), self.inner.get_pre_tokenizer())?;
        Ok(words.iter().filter(|word| is_too_long(word)).count())
    }

    /// How many characters of a text no token stands for, but for white space.
    fn left_out(&self, text: &str) -> Result<usize> {
        let mut is_read = vec![false; text.len()];
        for place in self.encode_with_places(text)?.1 {
            is_read.get_mut(place).unwrap_or_default().fill(true);
        }
        let is_left_out =
            |&(at, c): &(usize, char)| !c.is_whitespace() && !is_read[at..at + c.len_utf8()].contains(&true);
        Ok(text.char_indices().filter(is_left_out).count())
    }

    /// What becomes of a text's characters: BERT's normalizer is asked; of another tokenizer only what it leaves out is known.
    pub(crate) fn changes(&self, text: &str) -> Result<Changes> {
        if !self.is_bert {
            return Ok(Changes { left_out: self.left_out(text)?, ..Changes::default() });
        }
        let Some(NormalizerWrapper::BertNormalizer(normalizer)) = self.inner.get_normalizer() else {
            return Ok(Changes::default());
        };
        // An added token stays as it is, if it is not looked for in normalized text.
        let without = |text: String, token: &String| if text.contains(token) { text.replace(token, "") } else { text };
        let text = &self.verbatim.iter().fold(text.to_owned(), without);
        let is_lowered = |c: &char| !c.to_lowercase().eq([*c]);
        let lowered = if normalizer.lowercase { text.chars().filter(is_lowered).count() } else { 0 };
        if text.is_ascii() {
            let is_invisible = |c: &char| c.is_ascii_control() && !c.is_ascii_whitespace();
            let invisible = if normalizer.clean_text { text.chars().filter(is_invisible).count() } else { 0 };
            return Ok(Changes { lowered, invisible, ..Changes::default() });
        }
        let mut read = NormalizedString::from(text.as_str());
        let invisible = removed(&mut read, &BertNormalizer::new(normalizer.clean_text, false, Some(false), false))?;
        let stripped = if normalizer.strip_accents.unwrap_or(normalizer.lowercase) {
            read.nfd();
            removed(&mut read, &BertNormalizer::new(false, false, Some(true), false))?
        } else {
            0
        };
        Ok(Changes { lowered, stripped, invisible, ..Changes::default() })
    }

    /// What the tokens of the ids are.
    pub(crate) fn kinds(&self) -> &Arc<[Kind]> {
        &self.kinds
    }

    fn kind(&self, id: u32) -> Kind {
        self.kinds.get(id as usize).copied().unwrap_or(Kind::Missing)
    }

    /// Whether a token is no part of the text: one of BERT's five, or another that the vocabulary says is special.
    pub fn is_special(&self, id: u32) -> bool {
        self.kind(id) == Kind::Special
    }

    /// Where the words stand in a sequence: a piece and the `##` pieces that continue it. Special tokens belong to no
    /// word.
    pub fn words(&self, ids: &[u32]) -> Vec<Range<usize>> {
        let mut words: Vec<Range<usize>> = Vec::new();
        for (position, &id) in ids.iter().enumerate() {
            if self.begins_word(ids, position) {
                words.push(position..position + 1);
            } else if let Some(word) = words.last_mut().filter(|_| !self.is_special(id)) {
                word.end += 1;
            }
        }
        words
    }

    /// How many [`Self::words`] there are.
    pub(crate) fn count_words(&self, ids: &[u32]) -> usize {
        (0..ids.len()).filter(|&position| self.begins_word(ids, position)).count()
    }

    fn begins_word(&self, ids: &[u32], position: usize) -> bool {
        let id = ids[position];
        let follows_no_piece = position == 0 || self.is_special(ids[position - 1]);
        !self.is_special(id) && (follows_no_piece || !self.continues_word(id))
    }

    /// Whether a token continues the word before it (`##ing`).
    pub fn continues_word(&self, id: u32) -> bool {
        self.kind(id) == Kind::Continuation
    }
}

/// A tokenizer that reads text as BERT does, with a vocabulary to which no tokens have been added.
pub(crate) fn bert(model: WordPiece, normalizer: BertNormalizer) -> Result<tokenizers::Tokenizer> {
    let mut inner = tokenizers::Tokenizer::new(model);
    inner.with_normalizer(Some(normalizer)).map_err(failed)?;
    inner.with_pre_tokenizer(Some(BertPreTokenizer));
    inner.with_decoder(Some(WordPieceDecoder::new(CONTINUATION.to_owned(), true)));
    Ok(inner)
}

fn kinds(inner: &tokenizers::Tokenizer) -> Arc<[Kind]> {
    let mut vocab = inner.get_vocab(true);
    vocab.remove(""); // a blank line of a vocab.txt
    let ids = vocab.values().max().map_or(0, |&id| id as usize + 1);
    let mut kinds = vec![Kind::Missing; ids];
    for (token, id) in vocab {
        kinds[id as usize] = if token.starts_with(CONTINUATION) { Kind::Continuation } else { Kind::Start };
    }
    let added = inner.get_added_tokens_decoder();
    for id in added.into_iter().filter(|(_, token)| token.special).map(|(id, _)| id) {
        if let Some(kind) = kinds.get_mut(id as usize) {
            *kind = Kind::Special;
        }
    }
    kinds.into()
}

/// How many characters a normalizer takes away.
fn removed(text: &mut NormalizedString, normalizer: &BertNormalizer) -> Result<usize> {
    let before = text.get().chars().count();
    normalizer.normalize(text).map_err(failed)?;
    Ok(before - text.get().chars().count())
}

/// The words of a text, as the normalizer leaves them.
pub(crate) fn words(
    text: &str,
    normalizer: Option<&impl Normalizer>,
    pre_tokenizer: Option<&impl PreTokenizer>,
) -> Result<Vec<String>> {
    let mut text = PreTokenizedString::from(text);
    if let Some(normalizer) = normalizer {
        text.normalize(|piece| normalizer.normalize(piece)).map_err(failed)?;
    }
    if let Some(pre_tokenizer) = pre_tokenizer {
        pre_tokenizer.pre_tokenize(&mut text).map_err(failed)?;
    }
    let words = text.get_splits(OffsetReferential::Normalized, OffsetType::Byte);
    Ok(words.into_iter().map(|(word, _, _)| word.to_owned()).collect())
}

pub(crate) fn failed(error: tokenizers::Error) -> Error {
    Error::Tokenizer(error.to_string())
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::text::corpus::Corpus;
    use crate::text::sentences::pieces;
    use crate::text::tokenizer_config::TokenizerConfig;

    /// A tokenizer with tokens that are looked for in all ways that there are.
    pub(crate) fn with_added_tokens(config: &TokenizerConfig, more: &[&str]) -> Tokenizer {
        with_those_added_tokens(config, more, |_| true)
    }

    /// As [`with_added_tokens`], with some of them only.
    pub(crate) fn with_those_added_tokens(
        config: &TokenizerConfig,
        more: &[&str],
        is_added: impl Fn(&AddedToken) -> bool,
    ) -> Tokenizer {
        let corpus = Corpus::from_lines(["ab aé ος σαΣ 中文 e\u{301} 한 ñandú, a.b"]).unwrap();
        let trained = Tokenizer::train(&corpus, config).unwrap();
        let ModelWrapper::WordPiece(model) = trained.inner.get_model().model().clone() else { unreachable!() };
        let mut inner = bert(model, config.normalizer()).unwrap();
        let token = |content: &str| AddedToken::from(content, false);
        let added = [
            token("é中").normalized(false),
            token("Ab").normalized(true),
            token("文中").normalized(true),
            token("σ").single_word(true),
            token("<l>").lstrip(true).normalized(false),
            token("<r>").rstrip(true).normalized(true),
        ];
        let added = added.into_iter().chain(more.iter().copied().map(token)).filter(is_added);
        inner.add_tokens(added).unwrap();
        Tokenizer::from_inner(inner, "the test").unwrap()
    }

    /// What stands between two spaces, with all that a tokenizer may take for something else than letters.
    pub(crate) const CHUNK: &str =
        "([abAéσςΣ中文.]|[!-~]|e\u{301}|\u{301}|\u{200d}|\u{85}|<[lr]>|\\[MASK\\]|Ab|\\PC){1,6}";

    proptest! {
        #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.max(1000), ..ProptestConfig::default() })]

        #[test]
        fn a_text_may_be_read_in_pieces(
            words in proptest::collection::vec(CHUNK, 1..20),
            longest in 0usize..30,
            cased: bool,
        ) {
            let config = if cased { TokenizerConfig::cased(200) } else { TokenizerConfig::new(200) };
            let tokenizer = with_added_tokens(&config, &[]);
            prop_assert!(tokenizer.reads_words());
            let corpus = Corpus::from_lines([words.join(" ")]);
            let Ok(corpus) = corpus else { return Ok(()) };
            let text = &corpus.sentences()[0];
            let pieces: Vec<&str> = pieces(text, longest).collect();
            prop_assert_eq!(&pieces.join(" "), text);
            let ids = |text: &str| tokenizer.inner.encode_fast(text, false).unwrap().get_ids().to_vec();
            let of_pieces: Vec<u32> = pieces.iter().flat_map(|text| ids(text)).collect();
            prop_assert_eq!(of_pieces, ids(text));
            let sum = |count: &dyn Fn(&str) -> usize| pieces.iter().map(|text| count(text)).sum::<usize>();
            let changes = tokenizer.changes(text).unwrap();
            prop_assert_eq!(sum(&|text| tokenizer.changes(text).unwrap().lowered), changes.lowered);
            prop_assert_eq!(sum(&|text| tokenizer.changes(text).unwrap().stripped), changes.stripped);
            prop_assert_eq!(sum(&|text| tokenizer.changes(text).unwrap().invisible), changes.invisible);
        }
    }

    #[test]
    fn a_text_in_which_a_token_has_a_space_is_read_as_a_whole() {
        assert!(!with_added_tokens(&TokenizerConfig::new(200), &["New York"]).reads_words());
    }
}
