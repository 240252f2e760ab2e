//! Takes a grammar that somebody has written, gives sentences drawn from it; how probable a word is in them is left to
//! [`crate::analysis::floor`].

use std::collections::HashSet;
use std::path::Path;

use rand::Rng;
use rand::rngs::StdRng;

use crate::error::{Error, Result};
use crate::files;
use crate::text::corpus::Corpus;
use crate::text::notation::{PUNCTUATION, Production, Rule, Source, Symbol};

/// How many draws in a row may give a sentence that is already there.
const PATIENCE: usize = 10_000;

/// A probabilistic context-free grammar without recursion, whose rules agree with each other in features: gender, number,
/// or what a sentence is about. It is written as text, a rule a line:
///
/// ```
/// # use mlm_core::{rand::{SeedableRng, rngs::StdRng}, *};
/// # fn main() -> Result<()> {
/// let grammar = Grammar::parse(
///     "
///     ## A feature and its values.
///     feature WHO: she he
///     ## A rule, its alternatives, and their weights (1 where there is none). Within an alternative a feature has one
///     ## value: {…} is another rule, for that value; […] has a word for each value, and alone stands for the value.
///     story: 3 {name WHO} lost [WHO her his] key, so [WHO she he] {was sad}.
///          | {name WHO} {was WHO}.
///     name she: Anna | Rosa
///     name he: Tom
///     was WHO: is [WHO his her] best friend
///     was sad: was {very} sad
///     very: very | ()
///     ",
/// )?;
/// let stories = grammar.sentences(8, &mut StdRng::seed_from_u64(0))?;
/// assert!(stories.sentences().contains(&"Tom lost his key, so he was very sad.".to_owned()));
/// # Ok(())
/// # }
/// ```
///
/// `()` is an alternative without a word. The values of a feature that appears in an alternative, but not in the name of its
/// rule, are equally likely. A rule must not lead back to itself, so that there are finitely many sentences.
#[derive(Clone, Debug)]
pub struct Grammar {
    /// The words in the order in which the rules name them, each once.
    words: Vec<String>,
    /// The rules that a sentence may need, each after those that its alternatives name; the last one is where a sentence
    /// starts.
    rules: Vec<Rule>,
}

impl Grammar {
    /// Reads a grammar from a file.
    ///
    /// # Errors
    /// When the file cannot be read or is not a grammar: the error names the line.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        Self::parse(&files::read_text(path)?).map_err(|error| match error {
            Error::Grammar { line, problem, .. } => {
                Error::Grammar { origin: path.display().to_string(), line, problem }
            }
            other => other,
        })
    }

    /// Reads a grammar from text, as it is described above.
    ///
    /// # Errors
    /// When it is not a grammar: the error names the line.
    pub fn parse(text: &str) -> Result<Self> {
        let (words, rules) = Source::read(text)?.written_out()?;
        Ok(Self { words, rules })
    }

    /// The words of its sentences, punctuation marks included, in the order in which the rules name them.
    pub fn words(&self) -> &[String] {
        &self.words
    }

    /// The number of words in its longest sentences.
    pub(crate) fn longest(&self) -> usize {
        self.rules.last().map_or(0, |rule| *rule.length.end())
    }

    pub(crate) fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// Draws a sentence.
    pub fn sentence(&self, rng: &mut StdRng) -> String {
        let mut sentence = String::new();
        let mut open = vec![Symbol::Rule(self.rules.len() - 1)];
        while let Some(symbol) = open.pop() {
            match symbol {
                Symbol::Word(word) => append(&mut sentence, &self.words[word]),
                Symbol::Rule(rule) => open.extend(self.rules[rule].draw(rng).symbols.iter().rev()),
            }
        }
        sentence
    }

    /// Draws so many different sentences.
    ///
    /// # Errors
    /// When the grammar seems to have no more.
    pub fn sentences(&self, count: usize, rng: &mut StdRng) -> Result<Corpus> {
        let (mut sentences, mut seen, mut repeated) = (Vec::new(), HashSet::new(), 0);
        while sentences.len() < count {
            let sentence = self.sentence(rng);
            if seen.insert(sentence.clone()) {
                sentences.push(sentence);
                repeated = 0;
                continue;
            }
            repeated += 1;
            if repeated == PATIENCE {
                let expected = format!("at most {}, after which no new sentence came", sentences.len());
                return Err(Error::argument("count", expected, count));
            }
        }
        Corpus::from_lines(sentences)
    }
}

impl Rule {
    fn draw(&self, rng: &mut StdRng) -> &Production {
        let mut left: f64 = rng.random();
        for production in &self.productions {
            left -= production.probability;
            if left < 0.0 {
                return production;
            }
        }
        // Rounding may leave a little.
        &self.productions[self.productions.len() - 1]
    }
}

/// Writes a word after the others; the first one with a capital.
fn append(sentence: &mut String, word: &str) {
    if sentence.is_empty() {
        let mut letters = word.chars();
        sentence.extend(letters.next().into_iter().flat_map(char::to_uppercase));
        sentence.push_str(letters.as_str());
        return;
    }
    if !word.starts_with(PUNCTUATION) {
        sentence.push(' ');
    }
    sentence.push_str(word);
}
