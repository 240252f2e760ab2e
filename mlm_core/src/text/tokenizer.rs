//! Takes a [`Corpus`] or a saved vocabulary, gives a WordPiece tokenizer: text to token ids and back; cutting them to the
//! length of a model is left to [`crate::text::windows`].

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::ops::Range;
use std::path::Path;

use tokenizers::decoders::wordpiece::WordPiece as WordPieceDecoder;
use tokenizers::models::wordpiece::{WordPiece, WordPieceTrainer};
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, Normalizer, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer, Trainer};

use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::files;
use crate::kernel::{ProgressLine, check_interrupt};
use crate::text::corpus::Corpus;

const JSON: &str = "tokenizer.json";
const CONFIG: &str = "tokenizer_config.json";
const VOCAB: &str = "vocab.txt";

/// The five special tokens of BERT, in the order in which a trained vocabulary starts with them.
pub const SPECIAL_TOKENS: [&str; 5] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];

/// The mark of a piece that continues a word: `playing` may become `play` `##ing`.
const CONTINUATION: &str = "##";

/// How many sentences are encoded together: by all cores, and between two looks at the stop button.
const ENCODED_TOGETHER: usize = 10_000;

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
/// let tokenizer = Tokenizer::train(&corpus, 1000, true)?;
/// let ids = tokenizer.encode("The foxy [MASK]")?;
/// assert_eq!(tokenizer.tokens(&ids), ["[CLS]", "the", "fox", "##y", "[MASK]", "[SEP]"]);
/// assert_eq!(tokenizer.words(&ids), [1..2, 2..4]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    special: SpecialIds,
    vocab: usize,
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tokenizer {{ vocab: {} }}", self.vocab)
    }
}

impl Tokenizer {
    /// Learns a vocabulary of at most `vocab` tokens from the corpus: the special tokens, then its characters (at
    /// the start and inside of words), then the pieces that merging the most frequent neighbours gives, until the
    /// size is reached or every word of the corpus is one piece. The same corpus always gives the same ids.
    ///
    /// When there are more characters than `vocab` has room for, the most frequent ones are kept and words with
    /// others become `[UNK]`.
    ///
    /// Source: Schuster and Nakajima 2012, "Japanese and Korean Voice Search", where the next merge is the one that raises
    /// the likelihood of the text most (Wu et al. 2016, section 4.1, on Google's translation system, refer to
    /// it). The `tokenizers` crate, used here, takes the most frequent pair.
    ///
    /// # Errors
    /// When `vocab` leaves no room beside the special tokens for one character.
    pub fn train(corpus: &Corpus, vocab: usize, lowercase: bool) -> Result<Self> {
        let minimum = SPECIAL_TOKENS.len() + 2;
        if vocab < minimum {
            let expected =
                format!("at least {minimum} (the {} special tokens and one character)", SPECIAL_TOKENS.len());
            return Err(Error::argument("vocab", expected, vocab));
        }
        let normalizer = bert_normalizer(lowercase);
        let mut words: BTreeMap<String, usize> = BTreeMap::new();
        let mut progress = ProgressLine::new("counting words", corpus.len(), "sentences");
        for (nth, sentence) in corpus.sentences().iter().enumerate() {
            progress.at(nth)?;
            let mut text = PreTokenizedString::from(sentence.as_str());
            text.normalize(|piece| normalizer.normalize(piece)).map_err(failed)?;
            BertPreTokenizer.pre_tokenize(&mut text).map_err(failed)?;
            for (word, _, _) in text.get_splits(OffsetReferential::Normalized, OffsetType::Byte) {
                *words.entry(word.to_owned()).or_default() += 1;
            }
        }

        progress.end();
        let alphabet = alphabet(&words, vocab - SPECIAL_TOKENS.len());
        words.retain(|word, _| word.chars().all(|c| alphabet.contains(&c)));
        // The trainer numbers inner characters (`##a`) in the order of a hash map, which differs from run to run, and
        // breaks ties between merges by these numbers. Handing it all first pieces in a fixed order, as if they were
        // special, makes the vocabulary the same each time.
        let mut pieces: Vec<String> = SPECIAL_TOKENS.map(String::from).to_vec();
        pieces.extend(alphabet.iter().map(char::to_string));
        let inner: BTreeSet<char> = words.keys().flat_map(|word| word.chars().skip(1)).collect();
        pieces.extend(inner.iter().map(|c| format!("{CONTINUATION}{c}")));
        let mut trainer = WordPieceTrainer::builder()
            .vocab_size(vocab)
            .min_frequency(0)
            .show_progress(false)
            .special_tokens(pieces.into_iter().map(|piece| AddedToken::from(piece, true)).collect())
            .build();
        let occurrences = words.iter().flat_map(|(word, &count)| std::iter::repeat_n(word.as_str(), count));
        trainer.feed(occurrences, |word| Ok(vec![word.to_owned()])).map_err(failed)?;
        check_interrupt()?;
        let mut model = WordPiece::default();
        trainer.train(&mut model).map_err(failed)?;
        Self::from_model(model, normalizer, "the trained vocabulary")
    }

    /// Loads a `vocab.txt` as BERT's releases have it: one token a line, its id the line number from 0.
    ///
    /// # Errors
    /// When the file cannot be read, is not UTF-8, or lacks a special token.
    pub fn from_vocab(path: impl AsRef<Path>, lowercase: bool) -> Result<Self> {
        Self::from_vocab_with(path.as_ref(), bert_normalizer(lowercase))
    }

    fn from_vocab_with(path: &Path, normalizer: BertNormalizer) -> Result<Self> {
        let vocab = WordPiece::read_bytes(&files::read(path)?).map_err(|error| failed_in(path, error))?;
        let model = WordPiece::builder().vocab(vocab).build().map_err(|error| failed_in(path, error))?;
        Self::from_model(model, normalizer, &path.display().to_string())
    }

    /// Loads the tokenizer of a Hugging Face directory: its `tokenizer.json` or, where there is none, the `vocab.txt` of an
    /// older release with the settings of `tokenizer_config.json`.
    ///
    /// # Errors
    /// When neither is there, or a file cannot be read or understood, or lacks one of BERT's special tokens.
    pub fn from_pretrained(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = dir.as_ref();
        let [json, config, vocab] = [JSON, CONFIG, VOCAB].map(|name| dir.join(name));
        if json.exists() {
            return Self::from_file(json);
        }
        if !vocab.exists() {
            return Err(Error::content(dir, "tokenizer", format!("{JSON} or {VOCAB}"), "neither"));
        }
        let settings = if config.exists() { files::read_json(&config)? } else { json!({}) };
        let flag = |name: &str| match settings.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(other) => Err(Error::content(&config, name, "true, false or null", other)),
        };
        let lowercase = flag("do_lower_case")?.unwrap_or(true);
        let chinese = flag("tokenize_chinese_chars")?.unwrap_or(true);
        Self::from_vocab_with(&vocab, BertNormalizer::new(true, chinese, flag("strip_accents")?, lowercase))
    }

    /// Loads a `tokenizer.json` of the Hugging Face `tokenizers` library. Its own truncation and padding are
    /// switched off, and BERT's `[CLS] … [SEP]` takes the place of its template.
    ///
    /// # Errors
    /// When the file cannot be read or understood, or lacks one of BERT's special tokens.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        // Read as JSON first: the `tokenizers` crate panics at a file that is none.
        let json = files::read_json(path)?;
        let inner = serde_json::from_value(json).map_err(|error| failed_in(path, error.into()))?;
        Self::from_inner(inner, &path.display().to_string())
    }

    fn from_model(model: WordPiece, normalizer: BertNormalizer, origin: &str) -> Result<Self> {
        let mut inner = tokenizers::Tokenizer::new(model);
        inner.with_normalizer(Some(normalizer)).map_err(failed)?;
        inner.with_pre_tokenizer(Some(BertPreTokenizer));
        inner.with_decoder(Some(WordPieceDecoder::new(CONTINUATION.to_owned(), true)));
        Self::from_inner(inner, origin)
    }

    fn from_inner(mut inner: tokenizers::Tokenizer, origin: &str) -> Result<Self> {
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
        inner.add_special_tokens(SPECIAL_TOKENS.map(|token| AddedToken::from(token, true))).map_err(failed)?;
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
        let vocab = inner.get_vocab(true).values().max().map_or(0, |&id| id as usize + 1);
        Ok(Self { inner, special, vocab })
    }

    /// Writes the tokenizer as a `tokenizer.json` of the Hugging Face `tokenizers` library.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        files::write(path.as_ref(), self.to_json()?.as_bytes())
    }

    /// What [`Self::save`] writes.
    pub(crate) fn to_json(&self) -> Result<String> {
        self.inner.to_string(true).map_err(failed)
    }

    /// Writes what `AutoTokenizer.from_pretrained` of `transformers` loads from the directory of a model that takes at most
    /// `max_len` tokens; see [`crate::Params::save_pretrained`] for the model.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn save_pretrained(&self, dir: impl AsRef<Path>, max_len: usize) -> Result<()> {
        let dir = dir.as_ref();
        files::create_folder(dir)?;
        self.save(dir.join(JSON))?;
        let [pad, unk, cls, sep, mask] = SPECIAL_TOKENS;
        let config = json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": max_len,
            "pad_token": pad,
            "unk_token": unk,
            "cls_token": cls,
            "sep_token": sep,
            "mask_token": mask,
        });
        files::write_json(&dir.join(CONFIG), &config)
    }

    /// The size of the vocabulary, special tokens included: ids run from 0 to one less.
    pub fn vocab(&self) -> usize {
        self.vocab
    }

    /// The ids of the special tokens.
    pub fn special(&self) -> SpecialIds {
        self.special
    }

    /// The id of a token, if the vocabulary has it.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The token of an id; `[UNK]` for an id outside of the vocabulary.
    pub fn token(&self, id: u32) -> String {
        self.inner.id_to_token(id).unwrap_or_else(|| SPECIAL_TOKENS[1].to_owned())
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

    /// The ids of each sentence of a corpus, without `[CLS]` and `[SEP]`.
    pub(crate) fn encode_without_frame(&self, corpus: &Corpus) -> Result<Vec<Vec<u32>>> {
        let mut encoded = Vec::with_capacity(corpus.len());
        let mut progress = ProgressLine::new("encoding", corpus.len(), "sentences");
        for sentences in corpus.sentences().chunks(ENCODED_TOGETHER) {
            progress.at(encoded.len())?;
            let inputs: Vec<&str> = sentences.iter().map(String::as_str).collect();
            let encodings = self.inner.encode_batch_fast(inputs, false).map_err(failed)?;
            encoded.extend(encodings.iter().map(|encoding| encoding.get_ids().to_vec()));
        }
        progress.end();
        Ok(encoded)
    }

    /// The text of ids, without the special tokens.
    ///
    /// # Errors
    /// When the `tokenizers` crate fails.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        self.inner.decode(ids, true).map_err(failed)
    }

    /// Where the words stand in a sequence: a piece and the `##` pieces that continue it. Special tokens belong to no
    /// word.
    pub fn words(&self, ids: &[u32]) -> Vec<Range<usize>> {
        let mut words: Vec<Range<usize>> = Vec::new();
        for (position, &id) in ids.iter().enumerate() {
            if self.special.contains(id) {
                continue;
            }
            match words.last_mut() {
                Some(word) if word.end == position && self.continues_word(id) => word.end += 1,
                _ => words.push(position..position + 1),
            }
        }
        words
    }

    /// Whether a token continues the word before it (`##ing`).
    pub fn continues_word(&self, id: u32) -> bool {
        !self.special.contains(id) && self.token(id).starts_with(CONTINUATION)
    }
}

/// BERT's clean-up: control characters out, spaces around Chinese characters and, when lower-casing, no accents.
fn bert_normalizer(lowercase: bool) -> BertNormalizer {
    BertNormalizer::new(true, true, None, lowercase)
}

/// The most frequent characters of the words, ties broken by code point, as many as `room` tokens allow: a character
/// takes one, and one more if it also stands inside of words.
fn alphabet(words: &BTreeMap<String, usize>, room: usize) -> BTreeSet<char> {
    let inside: BTreeSet<char> = words.keys().flat_map(|word| word.chars().skip(1)).collect();
    let mut counts: HashMap<char, usize> = HashMap::new();
    for (word, count) in words {
        for c in word.chars() {
            *counts.entry(c).or_default() += count;
        }
    }
    let mut characters: Vec<(char, usize)> = counts.into_iter().collect();
    characters.sort_by_key(|&(c, count)| (std::cmp::Reverse(count), c));
    let mut taken = 0;
    let fits = |&(c, _): &(char, usize)| {
        taken += 1 + usize::from(inside.contains(&c));
        taken <= room
    };
    characters.into_iter().take_while(fits).map(|(c, _)| c).collect()
}

fn failed(error: tokenizers::Error) -> Error {
    Error::Tokenizer(error.to_string())
}

fn failed_in(path: &Path, error: tokenizers::Error) -> Error {
    Error::Tokenizer(format!("{}: {error}", path.display()))
}
