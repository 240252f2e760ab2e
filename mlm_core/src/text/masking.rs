//! Takes token ids and a generator, gives the masked language modeling task: which tokens the model must recover and
//! what it sees in their place; leaves the cutting into batches to [`crate::text::batch`].

use std::sync::Arc;

use rand::Rng;
use rand::rngs::StdRng;
use serde::Serialize;

use crate::error::{Error, Result};
use crate::text::tokenizer::{Kind, SpecialIds, Tokenizer};

/// How tokens are masked. The default has the rate and the shares of BERT (Devlin et al. 2019, section 3.1 and appendix
/// A.1). Each token is drawn by itself, as in Hugging Face's `DataCollatorForLanguageModeling`; BERT's own code shuffles
/// the positions of a sequence and takes the first `max(1, round(0.15 length))` of them, at most 20 by default.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Masking {
    /// The probability that a token (with `whole_word`: a word) is chosen to be recovered.
    pub rate: f64,
    /// Of the chosen tokens, the share that the model sees as `[MASK]`.
    pub mask: f64,
    /// Of the chosen tokens, the share that the model sees as a random token.
    pub random: f64,
    /// Of the chosen tokens, the share that the model sees as they are.
    pub keep: f64,
    /// Choose all pieces of a word together.
    pub whole_word: bool,
}

impl Default for Masking {
    fn default() -> Self {
        Self { rate: 0.15, mask: 0.8, random: 0.1, keep: 0.1, whole_word: false }
    }
}

impl Masking {
    /// Every chosen token becomes `[MASK]`: the simplification of many a tutorial.
    pub fn always_mask() -> Self {
        Self { mask: 1.0, random: 0.0, keep: 0.0, ..Self::default() }
    }

    /// # Errors
    /// When a probability is outside of 0 to 1, the rate is 0, or the three shares do not add up to 1.
    fn validate(&self) -> Result<()> {
        if !(self.rate > 0.0 && self.rate <= 1.0) {
            return Err(Error::argument("masking rate", "a probability above 0 and at most 1", self.rate));
        }
        for (argument, share) in [("mask", self.mask), ("random", self.random), ("keep", self.keep)] {
            if !(0.0..=1.0).contains(&share) {
                return Err(Error::argument(argument, "a share between 0 and 1", share));
            }
        }
        let sum = self.mask + self.random + self.keep;
        if (sum - 1.0).abs() > 1e-9 {
            let actual = format!("{} + {} + {} = {sum}", self.mask, self.random, self.keep);
            return Err(Error::argument("mask + random + keep", "shares that add up to 1", actual));
        }
        Ok(())
    }
}

/// What the model sees in the place of a chosen token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Treatment {
    /// `[MASK]`.
    Mask,
    /// A token drawn at random from the vocabulary, special tokens left out.
    Random,
    /// The token itself.
    Keep,
}

/// The outcome of masking some tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MaskedTokens {
    /// What the model sees `[tokens]`.
    pub input_ids: Vec<u32>,
    /// The positions to recover, ascending `[masked]`.
    pub masked_rows: Vec<usize>,
    /// The tokens that stood there `[masked]`.
    pub targets: Vec<u32>,
    /// What was done to each `[masked]`.
    pub treatments: Vec<Treatment>,
}

/// How likely it is to see a token in a place, by what stands there.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Likelihood {
    /// Where the token itself stands there.
    pub(crate) same: f64,
    /// Where another one does.
    pub(crate) other: f64,
}

impl Likelihood {
    /// Where `token` stands, and `seen` is what this is the likelihood of.
    pub(crate) fn of(self, seen: u32, token: u32) -> f64 {
        if token == seen { self.same } else { self.other }
    }
}

/// Draws masks for the tokens of one vocabulary.
///
/// ```
/// # use mlm_core::{rand::{SeedableRng, rngs::StdRng}, *};
/// # fn main() -> Result<()> {
/// let tokenizer = Tokenizer::train(&Corpus::from_lines(["to be or not to be"])?, &TokenizerConfig::new(1000))?;
/// let masker = Masker::new(&tokenizer, Masking { rate: 0.5, ..Masking::always_mask() })?;
/// let ids = tokenizer.encode("to be or not to be")?;
/// let masked = masker.mask(&ids, &mut StdRng::seed_from_u64(0))?;
/// for (&row, &target) in masked.masked_rows.iter().zip(&masked.targets) {
///     assert_eq!((masked.input_ids[row], target), (tokenizer.special().mask, ids[row]));
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Masker {
    masking: Masking,
    special: SpecialIds,
    /// The tokens that a random replacement is drawn from: all but the special ones.
    replacements: Vec<u32>,
    /// What the token of each id is.
    kinds: Arc<[Kind]>,
}

impl Masker {
    /// # Errors
    /// When the settings of `masking` are out of range or do not add up.
    pub fn new(tokenizer: &Tokenizer, masking: Masking) -> Result<Self> {
        Self::of_kinds(Arc::clone(tokenizer.kinds()), tokenizer.special(), masking)
    }

    /// Masks for ids that come from elsewhere, of a vocabulary in which every token is a word.
    ///
    /// # Errors
    /// When the settings of `masking` are out of range or do not add up, or all tokens are special.
    pub fn without_tokenizer(vocab: usize, special: SpecialIds, masking: Masking) -> Result<Self> {
        let kind = |id| if special.contains(id) { Kind::Special } else { Kind::Start };
        Self::of_kinds((0..vocab as u32).map(kind).collect(), special, masking)
    }

    fn of_kinds(kinds: Arc<[Kind]>, special: SpecialIds, masking: Masking) -> Result<Self> {
        masking.validate()?;
        let vocab = kinds.len();
        let is_text = |id: &u32| matches!(kinds[*id as usize], Kind::Start | Kind::Continuation);
        let replacements: Vec<u32> = (0..vocab as u32).filter(is_text).collect();
        if replacements.is_empty() {
            return Err(Error::argument("tokenizer", "a vocabulary with more than special tokens", vocab));
        }
        Ok(Self { masking, special, replacements, kinds })
    }

    /// The settings.
    pub fn masking(&self) -> &Masking {
        &self.masking
    }

    /// The ids of the special tokens.
    pub(crate) fn special(&self) -> SpecialIds {
        self.special
    }

    /// The size of the vocabulary.
    pub(crate) fn vocab(&self) -> usize {
        self.kinds.len()
    }

    /// Whether a token of the vocabulary is special, and so never masked.
    pub(crate) fn is_special(&self, id: u32) -> bool {
        self.kinds[id as usize] == Kind::Special
    }

    /// How likely `seen` is to be seen where a token was chosen.
    pub(crate) fn likelihood_where_chosen(&self, seen: u32) -> Likelihood {
        let Masking { mask, random, keep, .. } = self.masking;
        if seen == self.special.mask {
            return Likelihood { same: mask, other: mask };
        }
        let other = random / self.replacements.len() as f64;
        Likelihood { same: keep + other, other }
    }

    /// How likely `seen` is to be seen where nobody knows whether the token was chosen.
    pub(crate) fn likelihood(&self, seen: u32) -> Likelihood {
        let Likelihood { same, other } = self.likelihood_where_chosen(seen);
        let rate = self.masking.rate;
        match seen == self.special.mask {
            true => Likelihood { same: rate * same, other: rate * other },
            false => Likelihood { same: 1.0 - rate + rate * same, other: rate * other },
        }
    }

    /// Draws new masks for `tokens` (one or more sequences, end to end). Each token that is not special is chosen with
    /// the probability `rate`; if that chooses none at all, one token (one word) is chosen uniformly, so that the loss
    /// is a mean over something.
    ///
    /// # Errors
    /// When `tokens` has only special tokens, or an id outside of the vocabulary.
    pub fn mask(&self, tokens: &[u32], rng: &mut StdRng) -> Result<MaskedTokens> {
        let mut outcome = MaskedTokens { input_ids: tokens.to_vec(), ..MaskedTokens::default() };
        self.mask_again(&mut outcome, rng)?;
        Ok(outcome)
    }

    /// As [`Self::mask`] for `input_ids`, in the memory of masks drawn before.
    pub(crate) fn mask_again(&self, outcome: &mut MaskedTokens, rng: &mut StdRng) -> Result<()> {
        let MaskedTokens { input_ids, masked_rows, targets, treatments } = outcome;
        if let Some(id) = input_ids.iter().find(|&&id| id as usize >= self.vocab()) {
            let expected = format!("ids below {}, the size of the vocabulary", self.vocab());
            return Err(Error::argument("tokens", expected, id));
        }
        let units = self.choose(input_ids, masked_rows, |_| rng.random::<f64>() < self.masking.rate);
        if units == 0 {
            return Err(Error::argument("tokens", "at least one token that is not special", "none to mask"));
        }
        if masked_rows.is_empty() {
            let chosen = rng.random_range(0..units);
            self.choose(input_ids, masked_rows, |unit| unit == chosen);
        }
        targets.clear();
        treatments.clear();
        for &row in masked_rows.iter() {
            let target = input_ids[row];
            let (input, treatment) = self.treat(target, rng);
            input_ids[row] = input;
            targets.push(target);
            treatments.push(treatment);
        }
        Ok(())
    }

    /// Writes down the rows of all units that are chosen, and gives the number of units. What is chosen together, a word
    /// or a single token, is a unit.
    fn choose(&self, tokens: &[u32], rows: &mut Vec<usize>, mut is_chosen: impl FnMut(usize) -> bool) -> usize {
        rows.clear();
        let (mut units, mut chosen, mut after_special) = (0, false, true);
        for (row, &token) in tokens.iter().enumerate() {
            let kind = self.kinds[token as usize];
            let special = kind == Kind::Special;
            let continues = self.masking.whole_word && kind == Kind::Continuation && !after_special;
            if special {
                chosen = false;
            } else if !continues {
                chosen = is_chosen(units);
                units += 1;
            }
            after_special = special;
            if chosen {
                rows.push(row);
            }
        }
        units
    }

    /// What the model sees for a chosen token.
    fn treat(&self, token: u32, rng: &mut StdRng) -> (u32, Treatment) {
        let draw: f64 = rng.random();
        if draw < self.masking.mask {
            (self.special.mask, Treatment::Mask)
        } else if draw < self.masking.mask + self.masking.random {
            (self.replacements[rng.random_range(0..self.replacements.len())], Treatment::Random)
        } else {
            (token, Treatment::Keep)
        }
    }
}
