//! Takes a grammar and a weight for each word at each position, gives the sum over all sentences, and its gradient; what the
//! weights mean is left to [`crate::analysis::floor`].
//!
//! The inside algorithm (Baker 1979, "Trainable grammars for speech recognition") adds up, from the smallest rules to the
//! whole sentence, how much each rule writes into each span. The outside algorithm is its backward pass (Eisner 2016,
//! "Inside-outside and forward-backward algorithms are just backprop").

use std::ops::Range;

use crate::text::grammar::Grammar;
use crate::text::notation::{Production, Rule, Symbol};

/// What comes out, over all sentences w of as many words as there are positions.
pub(crate) struct Inside {
    /// Z = Σ P(w) Π weights`[i, w_i]`.
    pub(crate) sum: f64,
    /// dZ / d weights `[positions, words]`.
    pub(crate) gradient: Vec<f64>,
}

/// Adds up all sentences that fill the positions of `weights`, `[positions, words]`.
pub(crate) fn inside(grammar: &Grammar, weights: &[f64]) -> Inside {
    let rules = grammar.rules();
    let mut chart = Chart::new(rules, weights, grammar.words().len());
    let mut written = Written::default();
    for (nth, rule) in rules.iter().enumerate() {
        for start in chart.starts[nth].clone() {
            let span = chart.span(nth, start);
            for production in &rule.productions {
                chart.write(production, start, &mut written);
                let (shortest, values) = written.whole();
                let sums = &mut chart.sums[span.clone()][shortest - rule.length.start()..];
                for (sum, value) in sums.iter_mut().zip(values) {
                    *sum += production.probability * value;
                }
            }
        }
    }

    let mut slopes = Slopes { outside: vec![0.0; chart.sums.len()], gradient: vec![0.0; weights.len()] };
    let Some(whole) = chart.whole() else {
        return Inside { sum: 0.0, gradient: slopes.gradient };
    };
    slopes.outside[whole] = 1.0;
    for (nth, rule) in rules.iter().enumerate().rev() {
        for start in chart.starts[nth].clone() {
            let outside = slopes.outside[chart.span(nth, start)].to_vec();
            if outside.iter().all(|&slope| slope == 0.0) {
                continue;
            }
            for production in &rule.productions {
                chart.write(production, start, &mut written);
                let (shortest, values) = written.whole();
                let outside = &outside[shortest - rule.length.start()..][..values.len()];
                if outside.iter().all(|&slope| slope == 0.0) {
                    continue;
                }
                let slope = outside.iter().map(|slope| production.probability * slope).collect();
                chart.take_back(production, start, &written, slope, &mut slopes);
            }
        }
    }
    Inside { sum: chart.sums[whole], gradient: slopes.gradient }
}

/// How much of the sum each rule writes into each span.
struct Chart<'a> {
    rules: &'a [Rule],
    /// `[positions, words]`
    weights: &'a [f64],
    words: usize,
    positions: usize,
    /// Where what a rule writes may start, for each rule.
    starts: Vec<Range<usize>>,
    /// Where the sums of a rule start; for each of its starts, it has one for each of its lengths.
    offsets: Vec<usize>,
    sums: Vec<f64>,
}

/// The derivatives of the sum.
struct Slopes {
    /// By [`Chart::sums`].
    outside: Vec<f64>,
    /// By the weights.
    gradient: Vec<f64>,
}

impl<'a> Chart<'a> {
    fn new(rules: &'a [Rule], weights: &'a [f64], words: usize) -> Self {
        let positions = weights.len() / words;
        let starts = starts(rules, positions);
        let (mut offsets, mut end) = (Vec::with_capacity(rules.len()), 0);
        for (rule, starts) in rules.iter().zip(&starts) {
            offsets.push(end);
            end += starts.len() * lengths(rule);
        }
        Self { rules, weights, words, positions, starts, offsets, sums: vec![0.0; end] }
    }

    /// The sums of a rule from one start, by length; none, where it cannot start.
    fn span(&self, rule: usize, start: usize) -> Range<usize> {
        let (starts, lengths) = (&self.starts[rule], lengths(&self.rules[rule]));
        if !starts.contains(&start) {
            return 0..0;
        }
        let first = self.offsets[rule] + (start - starts.start) * lengths;
        first..first + lengths
    }

    /// The sum over the whole sentence, if there are sentences of that length.
    fn whole(&self) -> Option<usize> {
        let top = self.rules.len() - 1;
        let length = &self.rules[top].length;
        length.contains(&self.positions).then(|| self.span(top, 0).start + self.positions - length.start())
    }

    /// The weight of a word, if the sentence goes that far.
    fn weight(&self, position: usize, word: usize) -> Option<usize> {
        (position < self.positions).then_some(position * self.words + word)
    }

    /// How much the symbols of a production write from one start, one after the other.
    fn write(&self, production: &Production, start: usize, written: &mut Written) {
        written.clear();
        for symbol in &production.symbols {
            match *symbol {
                Symbol::Word(word) => {
                    let (shortest, before, after) = written.push(1, 1);
                    for (length, (before, after)) in before.iter().zip(after).enumerate() {
                        *after =
                            self.weight(start + shortest + length, word).map_or(0.0, |at| before * self.weights[at]);
                    }
                }
                Symbol::Rule(rule) => {
                    let Rule { length, .. } = &self.rules[rule];
                    let (shortest, before, after) = written.push(*length.start(), lengths(&self.rules[rule]));
                    for (length, before) in before.iter().enumerate().filter(|(_, before)| **before != 0.0) {
                        let sums = &self.sums[self.span(rule, start + shortest + length)];
                        for (after, sum) in after[length..].iter_mut().zip(sums) {
                            *after += before * sum;
                        }
                    }
                }
            }
        }
    }

    /// The backward pass of [`Self::write`]: takes the derivatives by what all symbols have written.
    fn take_back(
        &self,
        production: &Production,
        start: usize,
        written: &Written,
        mut slope: Vec<f64>,
        slopes: &mut Slopes,
    ) {
        for (nth, symbol) in production.symbols.iter().enumerate().rev() {
            let (shortest, before) = written.after(nth);
            let mut slope_before = vec![0.0; before.len()];
            for (length, (before, slope_before)) in before.iter().zip(&mut slope_before).enumerate() {
                let position = start + shortest + length;
                match *symbol {
                    Symbol::Word(word) => {
                        if let Some(at) = self.weight(position, word) {
                            slopes.gradient[at] += slope[length] * before;
                            *slope_before = slope[length] * self.weights[at];
                        }
                    }
                    Symbol::Rule(rule) => {
                        let span = self.span(rule, position);
                        for (slope, at) in slope[length..].iter().zip(span) {
                            slopes.outside[at] += slope * before;
                            *slope_before += slope * self.sums[at];
                        }
                    }
                }
            }
            slope = slope_before;
        }
    }
}

/// How many lengths there are of what a rule writes.
fn lengths(rule: &Rule) -> usize {
    rule.length.end() - rule.length.start() + 1
}

/// Where each rule may start in a sentence of so many words.
fn starts(rules: &[Rule], positions: usize) -> Vec<Range<usize>> {
    let mut starts = vec![0..0; rules.len()];
    let top = rules.len() - 1;
    if rules[top].length.contains(&positions) {
        starts[top] = 0..1;
    }
    for (nth, rule) in rules.iter().enumerate().rev() {
        let outer = starts[nth].clone();
        if outer.is_empty() {
            continue;
        }
        for production in &rule.productions {
            let (mut earliest, mut end) = (outer.start, outer.end);
            for symbol in &production.symbols {
                let Symbol::Rule(rule) = *symbol else {
                    (earliest, end) = (earliest + 1, end + 1);
                    continue;
                };
                let length = &rules[rule].length;
                let room = (positions + 1).saturating_sub(*length.start());
                let new = earliest..end.min(room);
                if !new.is_empty() {
                    let known = &mut starts[rule];
                    *known =
                        if known.start == known.end { new } else { known.start.min(new.start)..known.end.max(new.end) };
                }
                (earliest, end) = (earliest + length.start(), end + length.end());
            }
        }
    }
    starts
}

/// What the first symbols of a production have written, for each number of them: a value for each length.
#[derive(Default)]
struct Written {
    values: Vec<f64>,
    /// The shortest length, and where its value is.
    stages: Vec<(usize, usize)>,
}

impl Written {
    /// No symbol writes nothing, once.
    fn clear(&mut self) {
        self.values.clear();
        self.values.push(1.0);
        self.stages.clear();
        self.stages.push((0, 0));
    }

    /// What the first `symbols` symbols have written.
    fn after(&self, symbols: usize) -> (usize, &[f64]) {
        let (shortest, first) = self.stages[symbols];
        let end = self.stages.get(symbols + 1).map_or(self.values.len(), |&(_, first)| first);
        (shortest, &self.values[first..end])
    }

    fn whole(&self) -> (usize, &[f64]) {
        self.after(self.stages.len() - 1)
    }

    /// Room for one symbol more, of so many lengths: the shortest length before it, the values before it, and those after.
    fn push(&mut self, shortest: usize, lengths: usize) -> (usize, &[f64], &mut [f64]) {
        let &(shortest_before, first) = self.stages.last().expect("the stage before all symbols");
        let end = self.values.len();
        self.stages.push((shortest_before + shortest, end));
        self.values.resize(end + (end - first) + lengths - 1, 0.0);
        let (before, after) = self.values.split_at_mut(end);
        (shortest_before, &before[first..], after)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn stories() -> Grammar {
        Grammar::from_file(Path::new(env!("CARGO_MANIFEST_DIR")).join("../data/stories.grammar")).unwrap()
    }

    #[test]
    fn the_probabilities_of_all_sentences_add_up_to_one() {
        let grammar = stories();
        let words = grammar.words().len();
        let lengths = (0..=grammar.longest() + 1).map(|length| inside(&grammar, &vec![1.0; length * words]).sum);
        assert!((lengths.sum::<f64>() - 1.0).abs() < 1e-12);
    }

    #[test]
    fn the_gradient_is_that_of_the_sum() {
        let grammar = stories();
        let words = grammar.words().len();
        let mut weights: Vec<f64> = (0..9 * words).map(|nth| 0.5 + (nth * 7919 % 1000) as f64 / 1000.0).collect();
        let Inside { sum, gradient } = inside(&grammar, &weights);
        // The sum is linear in each weight, so that a step of any length gives the exact derivative.
        for at in (0..weights.len()).step_by(101) {
            weights[at] += 1.0;
            let slope = inside(&grammar, &weights).sum - sum;
            weights[at] -= 1.0;
            assert!((slope - gradient[at]).abs() <= 1e-12 * sum, "{slope} {}", gradient[at]);
        }
    }
}
