//! Takes the text of a grammar, gives its rules with all choices of their features written out; what can be done with them
//! is left to [`crate::text::grammar`], which says how they are written.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::RangeInclusive;

use crate::error::{Error, Result};

/// Punctuation marks: words of their own, written without a space before them.
pub(crate) const PUNCTUATION: [char; 6] = ['.', ',', ';', ':', '!', '?'];

/// The most alternatives that a grammar may have once its features are written out.
const MOST_PRODUCTIONS: usize = 100_000;

/// The most symbols, words included, that the writing of one sentence may go through.
const MOST_SYMBOLS: usize = 1_000;

/// What may stand in the place of one name, for one choice of the features in it.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    pub(crate) productions: Vec<Production>,
    /// How many words it writes.
    pub(crate) length: RangeInclusive<usize>,
}

/// An alternative of a rule.
#[derive(Clone, Debug)]
pub(crate) struct Production {
    /// Those of a rule add up to 1.
    pub(crate) probability: f64,
    pub(crate) symbols: Vec<Symbol>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Symbol {
    /// The index of a word.
    Word(usize),
    /// The index of a rule.
    Rule(usize),
}

/// A grammar as it is written: its features stand for their values.
pub(crate) struct Source {
    features: HashMap<String, Vec<String>>,
    rules: Vec<SourceRule>,
    /// Where the rules with a name are.
    named: HashMap<String, Vec<usize>>,
}

struct SourceRule {
    line: usize,
    name: String,
    /// Features, or values.
    arguments: Vec<String>,
    alternatives: Vec<Alternative>,
}

struct Alternative {
    line: usize,
    weight: f64,
    parts: Vec<Part>,
}

enum Part {
    Word(String),
    /// `{name argument …}`
    Rule {
        name: String,
        arguments: Vec<String>,
    },
    /// `[FEATURE word …]`, or `[FEATURE]` where the values themselves are the words.
    Choice {
        feature: String,
        words: Vec<String>,
    },
}

/// The value of each feature, as an index.
type Binding<'a> = BTreeMap<&'a str, usize>;

/// What writes nothing.
const NOTHING: &str = "()";

fn problem<T>(line: usize, problem: impl Into<String>) -> Result<T> {
    Err(Error::Grammar { origin: "the grammar".to_owned(), line, problem: problem.into() })
}

impl Source {
    pub(crate) fn read(text: &str) -> Result<Self> {
        let (mut features, mut rules) = (HashMap::new(), Vec::<SourceRule>::new());
        for (line, content) in text.lines().enumerate().map(|(nth, content)| (nth + 1, content.trim())) {
            if content.is_empty() || content.starts_with('#') {
                continue;
            }
            if let Some(more) = content.strip_prefix('|') {
                match rules.last_mut() {
                    Some(rule) => rule.alternatives.extend(alternatives(line, more)?),
                    None => return problem(line, "an alternative (|) before the first rule"),
                }
                continue;
            }
            let Some((head, body)) = content.split_once(':') else {
                return problem(
                    line,
                    format!("expected `rule: words`, `| words` or `feature NAME: values`, got {content:?}"),
                );
            };
            let mut head = head.split_whitespace().map(str::to_owned);
            let Some(name) = head.next() else {
                return problem(line, "expected a name before the colon");
            };
            let arguments: Vec<String> = head.collect();
            if name != "feature" {
                rules.push(SourceRule { line, name, arguments, alternatives: alternatives(line, body)? });
                continue;
            }
            let [feature] = arguments.as_slice() else {
                return problem(line, "expected `feature NAME: values`, with one name");
            };
            let values: Vec<String> = body.split_whitespace().map(str::to_owned).collect();
            if values.is_empty() || values.iter().collect::<HashSet<_>>().len() < values.len() {
                return problem(line, format!("expected different values for the feature {feature}, got {body:?}"));
            }
            if features.insert(feature.clone(), values).is_some() {
                return problem(line, format!("the feature {feature} a second time"));
            }
        }
        let mut named = HashMap::<String, Vec<usize>>::new();
        for (nth, rule) in rules.iter().enumerate() {
            named.entry(rule.name.clone()).or_default().push(nth);
        }
        match rules.first() {
            None => problem(text.lines().count().max(1), "no rule"),
            Some(SourceRule { line, arguments, .. }) if !arguments.is_empty() => {
                problem(*line, "the first rule is where a sentence starts, so its name stands alone before the colon")
            }
            Some(_) => Ok(Self { features, rules, named }),
        }
    }

    /// The words in the order in which the rules name them, each once; and each rule for each choice of its features that a
    /// sentence may need, after those that its alternatives name, so that the last one is where a sentence starts.
    pub(crate) fn written_out(&self) -> Result<(Vec<String>, Vec<Rule>)> {
        let start = (self.rules[0].name.as_str(), Vec::new());
        let mut found = HashMap::from([(start.clone(), 0)]);
        let mut open = vec![(start, self.rules[0].line)];
        let (mut words, mut word_of) = (Vec::new(), HashMap::new());
        let (mut rules, mut lines, mut productions_in_all) = (Vec::new(), Vec::new(), 0);
        while let Some(((name, values), line)) = open.get(rules.len()).cloned() {
            let (rule, binding) = self.rule_for(name, &values, line)?;
            let sum: f64 = rule.alternatives.iter().map(|alternative| alternative.weight).sum();
            let mut productions = Vec::new();
            for alternative in &rule.alternatives {
                let bindings = self.bindings(alternative, &binding)?;
                productions_in_all += bindings.len();
                if productions_in_all > MOST_PRODUCTIONS {
                    let most = format!("more than {MOST_PRODUCTIONS} alternatives, once all features are written out");
                    return problem(alternative.line, most);
                }
                let probability = alternative.weight / sum / bindings.len() as f64;
                for binding in bindings {
                    let mut symbols = Vec::new();
                    for part in &alternative.parts {
                        match part {
                            Part::Rule { name, arguments } => {
                                let values = arguments.iter().map(|argument| self.value(argument, &binding)).collect();
                                let key = (name.as_str(), values);
                                let rule = *found.entry(key.clone()).or_insert_with(|| {
                                    open.push((key, alternative.line));
                                    open.len() - 1
                                });
                                symbols.push(Symbol::Rule(rule));
                            }
                            Part::Word(word) => symbols.push(Symbol::Word(intern(word, &mut words, &mut word_of))),
                            Part::Choice { feature, words: choices } => {
                                let choices = if choices.is_empty() { &self.features[feature] } else { choices };
                                let word = &choices[binding[feature.as_str()]];
                                if word != NOTHING {
                                    symbols.push(Symbol::Word(intern(word, &mut words, &mut word_of)));
                                }
                            }
                        }
                    }
                    productions.push(Production { probability, symbols });
                }
            }
            rules.push(productions);
            lines.push(rule.line);
        }
        if words.is_empty() {
            return problem(self.rules[0].line, "no word in any sentence");
        }
        Ok((words, in_order(rules, &lines)?))
    }

    /// The rule with this name for these values, and what they bind.
    fn rule_for(&self, name: &str, values: &[&str], line: usize) -> Result<(&SourceRule, Binding<'_>)> {
        let mut fitting = self.named.get(name).into_iter().flatten().filter_map(|&rule| {
            let rule = &self.rules[rule];
            let mut binding = Binding::new();
            let fits = rule.arguments.len() == values.len()
                && (rule.arguments.iter().zip(values)).all(|(argument, value)| match self.features.get(argument) {
                    None => argument == value,
                    Some(all) => (all.iter().position(|one| one == value))
                        .is_some_and(|index| *binding.entry(argument.as_str()).or_insert(index) == index),
                });
            fits.then_some((rule, binding))
        });
        let written = [&[name], values].concat().join(" ");
        match (fitting.next(), fitting.next()) {
            (Some(found), None) => Ok(found),
            (None, _) => problem(line, format!("there is no rule for {{{written}}}")),
            (Some((first, _)), Some((second, _))) => problem(
                second.line,
                format!("a second rule for {{{written}}}; the first one is in line {}", first.line),
            ),
        }
    }

    /// What the features of an alternative may be, where those of its rule are given.
    fn bindings<'a>(&'a self, alternative: &'a Alternative, given: &Binding<'a>) -> Result<Vec<Binding<'a>>> {
        let mut bindings = vec![given.clone()];
        for part in &alternative.parts {
            let names = match part {
                Part::Word(_) => &[],
                Part::Rule { arguments, .. } => arguments.as_slice(),
                Part::Choice { feature, words } => {
                    let Some(values) = self.features.get(feature) else {
                        return problem(
                            alternative.line,
                            format!("expected a feature after the bracket, got {feature:?}"),
                        );
                    };
                    if !words.is_empty() && words.len() != values.len() {
                        let expected = format!("a word for each of the {} values of {feature}", values.len());
                        return problem(alternative.line, format!("expected {expected}, got {words:?}"));
                    }
                    std::slice::from_ref(feature)
                }
            };
            for name in names {
                let Some(values) = self.features.get(name) else { continue };
                if bindings[0].contains_key(name.as_str()) {
                    continue;
                }
                if bindings.len() * values.len() > MOST_PRODUCTIONS {
                    return problem(alternative.line, format!("more than {MOST_PRODUCTIONS} choices of features"));
                }
                bindings = (bindings.iter())
                    .flat_map(|binding| {
                        (0..values.len()).map(move |value| {
                            let mut binding = binding.clone();
                            binding.insert(name, value);
                            binding
                        })
                    })
                    .collect();
            }
        }
        Ok(bindings)
    }

    /// What an argument stands for.
    fn value<'a>(&'a self, argument: &'a str, binding: &Binding<'_>) -> &'a str {
        match (self.features.get(argument), binding.get(argument)) {
            (Some(values), Some(&index)) => &values[index],
            _ => argument,
        }
    }
}

fn intern(word: &str, words: &mut Vec<String>, index_of: &mut HashMap<String, usize>) -> usize {
    *index_of.entry(word.to_owned()).or_insert_with(|| {
        words.push(word.to_owned());
        words.len() - 1
    })
}

/// The alternatives of a line.
fn alternatives(line: usize, text: &str) -> Result<Vec<Alternative>> {
    text.split('|').map(|text| alternative(line, text.trim())).collect()
}

fn alternative(line: usize, text: &str) -> Result<Alternative> {
    let (weight, mut text) =
        match text.split_once(char::is_whitespace).map(|(first, rest)| (first.parse::<f64>(), rest)) {
            Some((Ok(weight), rest)) => (weight, rest.trim_start()),
            _ => (1.0, text),
        };
    if !(weight > 0.0 && weight.is_finite()) {
        return problem(line, format!("expected a weight above 0, got {weight}"));
    }
    let mut parts = Vec::new();
    if text == NOTHING {
        return Ok(Alternative { line, weight, parts });
    }
    while let Some(first) = text.chars().next() {
        let (part, rest) = match first {
            '{' | '[' => {
                let close = if first == '{' { '}' } else { ']' };
                let Some((inside, rest)) = text[1..].split_once(close) else {
                    return problem(line, format!("{first} without {close}"));
                };
                let mut inside = inside.split_whitespace().map(str::to_owned);
                let Some(name) = inside.next() else {
                    return problem(line, format!("expected a name between {first} and {close}"));
                };
                let others = inside.collect();
                let part = match first {
                    '{' => Part::Rule { name, arguments: others },
                    _ => Part::Choice { feature: name, words: others },
                };
                (part, rest)
            }
            mark if PUNCTUATION.contains(&mark) => (Part::Word(mark.to_string()), &text[mark.len_utf8()..]),
            _ => {
                let end = text.find(|c: char| c.is_whitespace() || "{}[]".contains(c) || PUNCTUATION.contains(&c));
                let (word, rest) = text.split_at(end.unwrap_or(text.len()));
                if word.is_empty() {
                    return problem(line, format!("{first} that nothing has opened"));
                }
                (Part::Word(word.to_owned()), rest)
            }
        };
        parts.push(part);
        text = rest.trim_start();
    }
    if parts.is_empty() {
        return problem(line, format!("expected words, or {NOTHING} for an alternative without any"));
    }
    Ok(Alternative { line, weight, parts })
}

/// The rules in an order in which each comes after those that it names; the first one becomes the last.
fn in_order(rules: Vec<Vec<Production>>, lines: &[usize]) -> Result<Vec<Rule>> {
    let named: Vec<Vec<usize>> = (rules.iter())
        .map(|productions| {
            let symbols = productions.iter().flat_map(|production| &production.symbols);
            symbols.filter_map(|symbol| if let Symbol::Rule(rule) = symbol { Some(*rule) } else { None }).collect()
        })
        .collect();
    // Depth first: a rule is done after those that it names. Those that are begun lie on the way to this one.
    let (mut begun, mut place) = (vec![false; rules.len()], vec![None; rules.len()]);
    let (mut order, mut way) = (Vec::new(), vec![(0, 0)]);
    begun[0] = true;
    while let Some((rule, next)) = way.last_mut() {
        match named[*rule].get(*next) {
            None => {
                place[*rule] = Some(order.len());
                order.push(*rule);
                way.pop();
            }
            Some(&named) => {
                *next += 1;
                if place[named].is_none() && begun[named] {
                    return problem(lines[named], "this rule leads back to itself");
                }
                if place[named].is_none() {
                    begun[named] = true;
                    way.push((named, 0));
                }
            }
        }
    }

    let (mut sorted, mut sizes) = (Vec::<Rule>::with_capacity(order.len()), Vec::<usize>::new());
    let mut rules: Vec<Option<Vec<Production>>> = rules.into_iter().map(Some).collect();
    for rule in order {
        let mut productions = rules[rule].take().unwrap_or_default();
        let (mut shortest, mut longest, mut largest) = (usize::MAX, 0, 0);
        for production in &mut productions {
            let (mut least, mut most, mut size) = (0, 0, 1_usize);
            for symbol in &mut production.symbols {
                let (lengths, symbols) = match symbol {
                    Symbol::Word(_) => (1..=1, 1),
                    Symbol::Rule(rule) => {
                        *rule = place[*rule].expect("a rule that was done before");
                        (sorted[*rule].length.clone(), sizes[*rule])
                    }
                };
                (least, most, size) = (least + lengths.start(), most + lengths.end(), size + symbols);
                if size > MOST_SYMBOLS {
                    return problem(lines[rule], format!("a sentence of more than {MOST_SYMBOLS} symbols"));
                }
            }
            (shortest, longest, largest) = (shortest.min(least), longest.max(most), largest.max(size));
        }
        sorted.push(Rule { productions, length: shortest..=longest });
        sizes.push(largest);
    }
    Ok(sorted)
}
