//! Takes the grammar that wrote a text, gives the best predictions that can be made from the two tokens beside a gap; what
//! all of a sentence says is left to [`crate::analysis::floor`].

use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::analysis::predictor::{Predictor, each_row_of_weights};
use crate::error::{Error, Result};
use crate::text::batch::Batch;
use crate::text::grammar::Grammar;
use crate::text::masking::Masker;
use crate::text::notation::Symbol;

/// The best predictions that there can be of a masked word in the sentences of a [`Grammar`] from what is seen in its own
/// place and in the two beside it, wherever in a sentence that is. [`crate::Neighbours`] estimates the same from a text, by
/// pairs; how far it lies above this is what counting loses, and how far this lies above the [`crate::BayesFloor`] is what
/// only the rest of the sentence can tell. It is made by [`crate::BayesFloor::best_neighbours`].
///
/// ```text
/// P(w | s)  ∝  P(s_i | w, chosen)  Σ c(l, w, r) P(s_i-1 | l) P(s_i+1 | r)      over all l and r
/// ```
///
/// with s for what is seen, `[CLS]` before the first word and `[SEP]` after the last one, and c(l, w, r) for how often the
/// three stand one after the other in a sentence, on average: exactly, since a rule writes each of its parts without
/// regard to the others.
#[derive(Clone, Debug)]
pub struct BestNeighbours {
    masker: Masker,
    /// l, w and r, each three once, and c(l, w, r).
    trigrams: Vec<([u32; 3], f64)>,
}

impl BestNeighbours {
    /// With the token of each word of the grammar.
    pub(crate) fn new(grammar: &Grammar, ids: &[u32], masker: &Masker) -> Self {
        let token = |word: usize| match word.checked_sub(ids.len()) {
            None => ids[word],
            Some(0) => masker.special().cls,
            Some(_) => masker.special().sep,
        };
        let mut trigrams = Counts::<[u32; 3]>::new();
        for (words, count) in trigrams_of_words(grammar) {
            *trigrams.entry(words.map(token)).or_default() += count;
        }
        Self { masker: masker.clone(), trigrams: trigrams.into_iter().collect() }
    }
}

impl Predictor for BestNeighbours {
    fn vocab(&self) -> usize {
        self.masker.vocab()
    }

    fn each_row(&self, batch: &Batch, see: &mut dyn FnMut(&[f64])) -> Result<()> {
        each_row_of_weights(batch, self.vocab(), see, |row, weights| {
            let sequence = batch.rows_around(row);
            if row == sequence.start || row + 1 == sequence.end {
                return Err(Error::argument("masked_rows", "positions between [CLS] and [SEP]", row));
            }
            let seen = &batch.input_ids[row - 1..=row + 1];
            let chosen = self.masker.likelihood_where_chosen(seen[1]);
            let [before, after] = [seen[0], seen[2]].map(|seen| {
                let likelihood = self.masker.likelihood(seen);
                // Special tokens are never chosen.
                move |token| match self.masker.is_special(token) {
                    true => f64::from(u8::from(token == seen)),
                    false => likelihood.of(seen, token),
                }
            });
            for &([left, word, right], count) in &self.trigrams {
                weights[word as usize] += count * before(left) * after(right) * chosen.of(seen[1], word);
            }
            if weights.iter().all(|&weight| weight == 0.0) {
                let expected = "neighbours as sentences of the grammar have them, masked with the floor's own settings";
                return Err(Error::argument("batches", expected, format!("the ids {seen:?} in a row")));
            }
            Ok(())
        })
    }
}

type Counts<T> = BTreeMap<T, f64>;

/// How often three words in a row are expected in a sentence, with one word more before the first and another one after the
/// last, whose indices follow those of the grammar's.
fn trigrams_of_words(grammar: &Grammar) -> Counts<[usize; 3]> {
    let rules = grammar.rules();
    let mut ends: Vec<Ends> = Vec::with_capacity(rules.len());
    for rule in rules {
        let mut sum = Ends::default();
        for production in &rule.productions {
            let parts = production.symbols.iter().map(|symbol| Ends::of(*symbol, &ends));
            sum.add(&parts.fold(Ends::of_nothing(), |before, part| before.then(&part)), production.probability);
        }
        ends.push(sum);
    }

    let words = grammar.words().len();
    let mut trigrams = Counts::new();
    let Some(whole) = ends.last() else { return trigrams };
    let begun = Ends::of_word(words);
    begun.count_across(whole, 1.0, &mut trigrams);
    begun.then(whole).count_across(&Ends::of_word(words + 1), 1.0, &mut trigrams);
    // How often a sentence is expected to use each rule.
    let mut uses = vec![0.0; rules.len()];
    uses[rules.len() - 1] = 1.0;
    for (nth, rule) in rules.iter().enumerate().rev() {
        for production in &rule.productions {
            let times = uses[nth] * production.probability;
            let mut before = Ends::of_nothing();
            for symbol in &production.symbols {
                let part = Ends::of(*symbol, &ends);
                before.count_across(&part, times, &mut trigrams);
                before = before.then(&part);
                if let Symbol::Rule(rule) = *symbol {
                    uses[rule] += times;
                }
            }
        }
    }
    trigrams
}

/// The probabilities of what a part of a sentence may begin and end with.
#[derive(Clone, Debug, Default)]
struct Ends {
    /// That it has no word.
    nothing: f64,
    /// That it is a single word, and which.
    single: Counts<usize>,
    first: Counts<usize>,
    last: Counts<usize>,
    first_two: Counts<[usize; 2]>,
    last_two: Counts<[usize; 2]>,
}

impl Ends {
    fn of_nothing() -> Self {
        Self { nothing: 1.0, ..Self::default() }
    }

    fn of(symbol: Symbol, rules: &[Self]) -> Cow<'_, Self> {
        match symbol {
            Symbol::Word(word) => Cow::Owned(Self::of_word(word)),
            Symbol::Rule(rule) => Cow::Borrowed(&rules[rule]),
        }
    }

    fn of_word(word: usize) -> Self {
        let only = Counts::from([(word, 1.0)]);
        Self { single: only.clone(), first: only.clone(), last: only, ..Self::default() }
    }

    /// Adds a possibility.
    fn add(&mut self, other: &Self, probability: f64) {
        self.nothing += probability * other.nothing;
        add(&mut self.single, &other.single, probability);
        add(&mut self.first, &other.first, probability);
        add(&mut self.last, &other.last, probability);
        add(&mut self.first_two, &other.first_two, probability);
        add(&mut self.last_two, &other.last_two, probability);
    }

    /// Of this part and the next one together.
    fn then(&self, next: &Self) -> Self {
        let mut both = Self { nothing: self.nothing * next.nothing, ..Self::default() };
        add(&mut both.single, &self.single, next.nothing);
        add(&mut both.single, &next.single, self.nothing);
        add(&mut both.first, &self.first, 1.0);
        add(&mut both.first, &next.first, self.nothing);
        add(&mut both.last, &next.last, 1.0);
        add(&mut both.last, &self.last, next.nothing);
        add(&mut both.first_two, &self.first_two, 1.0);
        add(&mut both.first_two, &next.first_two, self.nothing);
        add_products(&mut both.first_two, &self.single, &next.first, 1.0, |a, b| [a, b]);
        add(&mut both.last_two, &next.last_two, 1.0);
        add(&mut both.last_two, &self.last_two, next.nothing);
        add_products(&mut both.last_two, &self.last, &next.single, 1.0, |a, b| [a, b]);
        both
    }

    /// Adds `times` the probability of each three words that begin in this part and end in the next one.
    fn count_across(&self, next: &Self, times: f64, trigrams: &mut Counts<[usize; 3]>) {
        add_products(trigrams, &self.last_two, &next.first, times, |[a, b], c| [a, b, c]);
        add_products(trigrams, &self.last, &next.first_two, times, |a, [b, c]| [a, b, c]);
    }
}

fn add<T: Ord + Copy>(sums: &mut Counts<T>, values: &Counts<T>, factor: f64) {
    if factor > 0.0 {
        values.iter().for_each(|(&key, value)| *sums.entry(key).or_default() += factor * value);
    }
}

fn add_products<A: Copy, B: Copy, T: Ord>(
    sums: &mut Counts<T>,
    left: &Counts<A>,
    right: &Counts<B>,
    factor: f64,
    key: impl Fn(A, B) -> T,
) {
    for (&a, of_a) in left {
        for (&b, of_b) in right {
            *sums.entry(key(a, b)).or_default() += factor * of_a * of_b;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use rand::{SeedableRng, rngs::StdRng};

    use super::*;

    /// Where parts without a word, or of one, stand beside each other.
    #[test]
    fn trigrams_are_counted_exactly() {
        let grammar = Grammar::parse(
            "s: a {maybe} b {maybe} {pair} | 3 {pair} {maybe} c\nmaybe: 3 () | x | y z\npair: d {maybe} | e f {maybe}",
        )
        .unwrap();
        let words = grammar.words();
        let mut expected = Counts::<Vec<String>>::new();
        let maybe = [("", 0.6), ("x", 0.2), ("y z", 0.2)];
        let pair = [("d", 0.5), ("e f", 0.5)];
        for (m, p) in maybe {
            for (n, q) in maybe {
                for (o, r) in maybe {
                    for (d, t) in pair {
                        for (text, share) in
                            [(format!("^ a {m} b {n} {d} {o} $"), 0.25), (format!("^ {d} {m} {n} c $"), 0.75)]
                        {
                            let text: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
                            for three in text.windows(3) {
                                *expected.entry(three.to_vec()).or_default() += share * p * q * r * t;
                            }
                        }
                    }
                }
            }
        }
        let name =
            |word: usize| words.get(word).cloned().unwrap_or(["^", "$"][word.saturating_sub(words.len())].into());
        let counted = trigrams_of_words(&grammar);
        assert_eq!(counted.len(), expected.len());
        for (three, count) in counted {
            let expected = expected[&three.map(name).to_vec()];
            assert!((count - expected).abs() < 1e-12, "{three:?} {count} {expected}");
        }
    }

    /// Each word of a sentence is in the middle once; and what is drawn has the counts that are expected.
    #[test]
    fn trigrams_of_the_stories_are_those_of_sentences_drawn() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../data/stories.grammar");
        let grammar = Grammar::from_file(path).unwrap();
        let counted = trigrams_of_words(&grammar);
        let mut rng = StdRng::seed_from_u64(0);
        let (draws, mut length, mut starts) = (20_000, 0.0, Counts::<String>::new());
        for _ in 0..draws {
            let sentence = grammar.sentence(&mut rng).to_lowercase().replace(',', " ,").replace('.', " .");
            let words: Vec<&str> = sentence.split(' ').collect();
            length += words.len() as f64 / f64::from(draws);
            *starts.entry(words[..2].join(" ")).or_default() += 1.0;
        }
        assert!((counted.values().sum::<f64>() - length).abs() < 0.05, "{length}");
        let (words, start) = (grammar.words(), grammar.words().len());
        for (&[_, a, b], &probability) in counted.range([start, 0, 0]..) {
            let name = format!("{} {}", words[a].to_lowercase(), words[b].to_lowercase());
            let seen = starts.get(&name).copied().unwrap_or(0.0) / f64::from(draws);
            assert!((seen - probability).abs() < 5.0 * (probability / f64::from(draws)).sqrt() + 1e-3, "{name}");
        }
    }
}
