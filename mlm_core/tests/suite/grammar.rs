//! The grammar and the predictions that nothing can better, against all sentences of small grammars one by one; baselines.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use mlm_core::*;
use proptest::prelude::*;

use crate::{assert_says, message, seeded};

/// A rule of a small grammar: alternatives with their weights.
type Alternatives = Vec<(u32, Vec<Symbol>)>;

#[derive(Clone, Debug)]
enum Symbol {
    Word(&'static str),
    /// One of the rules after this one.
    Rule(usize),
    /// A word by the value of the one feature.
    Choice([&'static str; 2]),
}

const WORDS: [&str; 4] = ["a", "b", "c", "d"];

fn a_word() -> impl Strategy<Value = &'static str> {
    (0..WORDS.len()).prop_map(|nth| WORDS[nth])
}

/// Rules each of which names only later ones.
fn a_grammar() -> impl Strategy<Value = Vec<Alternatives>> {
    let rule = |nth: usize| {
        let symbol = prop_oneof![
            3 => a_word().prop_map(Symbol::Word),
            1 => [a_word(), a_word()].prop_map(Symbol::Choice),
            3 => (nth + 1..nth + 4).prop_map(|rule| Symbol::Rule(rule.min(3))),
        ];
        let symbol = if nth == 3 { a_word().prop_map(Symbol::Word).boxed() } else { symbol.boxed() };
        let least = usize::from(nth == 0 || nth == 3);
        prop::collection::vec((1..5_u32, prop::collection::vec(symbol, least..3)), 1..3)
    };
    (rule(0), rule(1), rule(2), rule(3)).prop_map(|(first, second, third, last)| vec![first, second, third, last])
}

/// The grammar as its users write it. The feature has one value in a whole sentence: it is handed from rule to rule.
fn written(rules: &[Alternatives]) -> String {
    let mut text = "feature F: x y\nstart: {rule0 F}\n".to_owned();
    for (nth, alternatives) in rules.iter().enumerate() {
        let alternatives = alternatives.iter().map(|(weight, symbols)| {
            let symbols = symbols.iter().map(|symbol| match symbol {
                Symbol::Word(word) => (*word).to_owned(),
                Symbol::Rule(rule) => format!("{{rule{rule} F}}"),
                Symbol::Choice([x, y]) => format!("[F {x} {y}]"),
            });
            let symbols: Vec<String> = symbols.collect();
            format!("{weight} {}", if symbols.is_empty() { "()".to_owned() } else { symbols.join(" ") })
        });
        text += &format!("rule{nth} F: {}\n", alternatives.collect::<Vec<_>>().join(" | "));
    }
    text
}

/// All that a rule writes, with its probability.
fn all(rules: &[Alternatives], rule: usize, value: usize) -> Vec<(Vec<&'static str>, f64)> {
    let sum: u32 = rules[rule].iter().map(|(weight, _)| weight).sum();
    let mut sentences = Vec::new();
    for (weight, symbols) in &rules[rule] {
        let mut begun = vec![(Vec::new(), f64::from(*weight) / f64::from(sum))];
        for symbol in symbols {
            let parts = match symbol {
                Symbol::Word(word) => vec![(vec![*word], 1.0)],
                Symbol::Choice(words) => vec![(vec![words[value]], 1.0)],
                Symbol::Rule(rule) => all(rules, *rule, value),
            };
            begun = (begun.iter())
                .flat_map(|(start, p)| parts.iter().map(move |(part, q)| ([start.as_slice(), part].concat(), p * q)))
                .collect();
        }
        sentences.extend(begun);
    }
    sentences
}

/// The probability of each sentence.
fn distribution(rules: &[Alternatives]) -> BTreeMap<Vec<&'static str>, f64> {
    let mut distribution = BTreeMap::new();
    for (sentence, probability) in (0..2).flat_map(|value| all(rules, 0, value)) {
        *distribution.entry(sentence).or_default() += probability / 2.0;
    }
    distribution
}

/// The probability to see a token where a word stands: the definition of masking, case by case.
fn seen_for(seen: &str, word: &str, masking: &Masking, is_chosen: bool) -> f64 {
    let is = |token: &str| f64::from(seen == token);
    let Masking { rate, mask, random, keep, .. } = *masking;
    let replaced = WORDS.iter().map(|&replacement| is(replacement) / WORDS.len() as f64).sum::<f64>();
    let chosen = mask * is("[MASK]") + random * replaced + keep * is(word);
    if is_chosen { chosen } else { rate * chosen + (1.0 - rate) * is(word) }
}

proptest! {
    #[test]
    fn the_floor_is_what_all_sentences_together_say(
        rules in a_grammar(), seed: u64, rate in 0.1..1.0, mask in 0.1..1.0, random in 0.0..1.0
    ) {
        let masking = Masking { rate, mask, random: (1.0 - mask) * random, keep: (1.0 - mask) * (1.0 - random), whole_word: false };
        let distribution = distribution(&rules);
        prop_assert!((distribution.values().sum::<f64>() - 1.0).abs() < 1e-12);
        prop_assume!(distribution.keys().any(|sentence| !sentence.is_empty()));
        let grammar = Grammar::parse(&written(&rules)).unwrap();
        let mut rng = seeded(seed);
        let sentences: Vec<String> = (0..8).map(|_| grammar.sentence(&mut rng)).filter(|text| !text.is_empty()).collect();
        prop_assume!(!sentences.is_empty());
        let words = Corpus::from_lines([WORDS.join(" ")]).unwrap();
        let tokenizer = Tokenizer::train(&words, &TokenizerConfig::new(1000)).unwrap();
        let floor = BayesFloor::new(&grammar, &tokenizer, masking.clone()).unwrap();
        let encoded: Vec<Vec<u32>> = sentences.iter().map(|text| tokenizer.encode(text).unwrap()).collect();
        let masker = Masker::new(&tokenizer, masking.clone()).unwrap();
        let batch = Batch::masked(encoded.iter().map(Vec::as_slice), &masker, &mut rng).unwrap();
        let predictions = floor.log_probabilities(&batch).unwrap();
        for (&row, predicted) in batch.masked_rows.iter().zip(predictions.rows()) {
            let end = batch.offsets.partition_point(|&offset| offset <= row);
            let (start, end) = (batch.offsets[end - 1] + 1, batch.offsets[end] - 1);
            let seen = tokenizer.tokens(&batch.input_ids[start..end]);
            let mut expected = BTreeMap::from(WORDS.map(|word| (word, 0.0)));
            for (sentence, probability) in distribution.iter().filter(|(sentence, _)| sentence.len() == seen.len()) {
                let likelihood = sentence.iter().zip(&seen).enumerate().map(|(position, (word, seen))| {
                    seen_for(seen, word, &masking, start + position == row)
                });
                *expected.get_mut(sentence[row - start]).unwrap() += probability * likelihood.product::<f64>();
            }
            let sum: f64 = expected.values().sum();
            for (word, probability) in expected {
                let predicted = predicted[tokenizer.id(word).unwrap() as usize].exp();
                prop_assert!((predicted - probability / sum).abs() < 1e-9, "{word} {predicted} {}", probability / sum);
            }
        }
    }
}

fn stories() -> (Grammar, Corpus) {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../data");
    let corpus = Corpus::from_file(data.join("stories.txt"), Layout::Lines).unwrap();
    (Grammar::from_file(data.join("stories.grammar")).unwrap(), corpus)
}

#[test]
fn the_stories_are_what_the_grammar_writes() {
    let (grammar, corpus) = stories();
    assert_eq!(grammar.sentences(8000, &mut seeded(0)).unwrap(), corpus, "see data/README.md for the command");
    let words = |sentence: &String| sentence.split_whitespace().count();
    assert!(corpus.sentences().iter().all(|sentence| (6..=16).contains(&words(sentence))));
    assert!((300..=600).contains(&grammar.words().len()), "{} words", grammar.words().len());
}

/// Who knows more is better off; and the best predictions are as good as they say of themselves, which a mistake in them
/// would belie.
#[test]
fn on_the_stories_the_floor_lies_below_the_baselines() {
    let (grammar, corpus) = stories();
    let (train, validation) = corpus.split(0.125, &mut seeded(0)).unwrap();
    let tokenizer = Tokenizer::train(&train, &TokenizerConfig::new(1200)).unwrap();
    let encode = |corpus: &Corpus| tokenizer.encode_corpus(corpus, 32).unwrap().sequences;
    let (train, validation) = (encode(&train), encode(&validation));
    for masking in [Masking::default(), Masking { rate: 0.4, ..Masking::always_mask() }] {
        let masker = Masker::new(&tokenizer, masking.clone()).unwrap();
        let batches = DataLoader::new(validation.clone(), 32).unwrap().fixed(&masker, &mut seeded(1)).unwrap();
        let unigram = evaluate(&Unigram::fit(&train, &masker).unwrap(), &batches).unwrap();
        let neighbours = evaluate(&Neighbours::fit(&train, &masker).unwrap(), &batches).unwrap();
        let floor = BayesFloor::new(&grammar, &tokenizer, masking).unwrap();
        let best = evaluate(&floor, &batches).unwrap();
        assert!(best.loss < neighbours.loss - 0.5 && neighbours.loss < unigram.loss - 1.0);
        assert!(best.accuracy > neighbours.accuracy + 0.1 && neighbours.accuracy > unigram.accuracy + 0.1);

        // Of each prediction its entropy and its variance, the square of what one loss differs from the entropy by.
        let (mut entropies, mut variances, mut highest) = (0.0, 0.0, 0.0);
        for batch in &batches {
            for row in floor.log_probabilities(batch).unwrap().rows() {
                let possible = || row.iter().filter(|log| log.is_finite()).map(|log| (log.exp(), -log));
                let entropy: f64 = possible().map(|(probability, loss)| probability * loss).sum();
                entropies += entropy;
                variances += possible().map(|(probability, loss)| probability * (loss - entropy).powi(2)).sum::<f64>();
                highest += possible().map(|(probability, _)| probability).fold(0.0, f64::max);
            }
        }
        let masked = best.masked as f64;
        assert!((best.loss - entropies / masked).abs() < 4.0 * variances.sqrt() / masked);
        assert!((best.accuracy - highest / masked).abs() < 4.0 * 0.5 / masked.sqrt());
    }
}

/// A model that is large for its language, trained for long: its loss is above the floor's by what it has not learned, give or
/// take what the two differ by chance on so many words.
#[test]
fn a_large_model_comes_near_the_floor_and_does_not_pass_it() {
    let grammar = Grammar::parse(
        "story: {name G} asked for the {quality} [TOOL] because [G she he] wanted to {do TOOL}
              | because [G she he] was {state STATE} {name G} {did TOOL} with the [TOOL] and {remedy STATE}
         feature G: she he
         feature TOOL: key pen axe
         feature STATE: tired hungry
         name she: Anna | Maria | 2 Lucy
         name he: Tom | Peter
         quality: old | 3 new | small
         do key: open the door | lock the gate
         do pen: write a letter
         do axe: chop the wood | 2 cut the tree
         did TOOL: [TOOL opened wrote chopped] {what TOOL}
         what key: the door | the gate
         what pen: a letter | 2 a poem
         what axe: the wood
         state STATE: [STATE tired hungry]
         remedy tired: slept | went to bed
         remedy hungry: ate | 2 had a soup",
    )
    .unwrap();
    let mut rng = seeded(0);
    let mut written = |count| Corpus::from_lines((0..count).map(|_| grammar.sentence(&mut rng))).unwrap();
    let (train, test) = (written(3000), written(2000));
    let tokenizer = Tokenizer::train(&train, &TokenizerConfig::new(1000)).unwrap();
    let sequences = |corpus: &Corpus| tokenizer.encode_corpus(corpus, 32).unwrap().sequences;
    let (train, test) = (sequences(&train), sequences(&test));
    let texts = Texts { tokenizer: tokenizer.clone(), train, validation: Sequences::default(), grammar: None };
    let model = ModelConfig { initializer_range: 0.05, ..ModelConfig::new(tokenizer.vocab()) };
    let config = TrainingConfig { epochs: 20, ..TrainingConfig::default() };
    let back_end = BackEnd::Engine(EngineConfig { threads: 2, ..EngineConfig::default() });
    let dir = tempfile::tempdir().unwrap();
    let mut training = Training::resume(dir.path(), &texts, &model, &config, &back_end).unwrap();
    while !training.is_finished() {
        training.step().unwrap();
    }

    let masker = Masker::new(&tokenizer, Masking::default()).unwrap();
    let floor = BayesFloor::new(&grammar, &tokenizer, Masking::default()).unwrap();
    let mut above = Vec::new(); // for each masked word
    for batch in DataLoader::new(test, 32).unwrap().fixed(&masker, &mut seeded(1)).unwrap() {
        let best = floor.log_probabilities(&batch).unwrap();
        let model = training.encoder().log_probabilities(&batch).unwrap();
        let losses = best.rows().zip(model.rows()).zip(&batch.targets);
        above.extend(losses.map(|((best, model), &target)| best[target as usize] - model[target as usize]));
    }
    let count = above.len() as f64;
    let mean = above.iter().sum::<f64>() / count;
    let error = (above.iter().map(|above| (above - mean).powi(2)).sum::<f64>() / count / count).sqrt();
    assert!(-3.0 * error < mean && mean < 0.02, "{mean:.4} nats above the floor, give or take {error:.4}");
}

#[test]
fn a_training_keeps_the_baselines_and_its_figures_show_them() {
    let grammar =
        Grammar::parse("story: the {pet} {likes F}\nfeature F: a b\npet: dog | cat\nlikes F: [F eats sees] it")
            .unwrap();
    let corpus = Corpus::from_lines((0..500).map(|nth| grammar.sentence(&mut seeded(nth)))).unwrap();
    let tokenizer = Tokenizer::train(&corpus, &TokenizerConfig::new(1000)).unwrap();
    let sequences = tokenizer.encode_corpus(&corpus, 32).unwrap().sequences.to_vec().unwrap();
    let (train, validation) = (sequences[..32].to_vec().into(), sequences[32..].to_vec().into());
    let model = ModelConfig { d_model: 8, heads: 2, ..ModelConfig::new(tokenizer.vocab()) };
    let texts = Texts { tokenizer, train, validation, grammar: Some(grammar.clone()) };
    let back_end = BackEnd::Engine(EngineConfig { threads: 1, ..EngineConfig::default() });
    let dir = tempfile::tempdir().unwrap();
    let run = |masking| {
        let config = TrainingConfig { masking, epochs: 1, ..TrainingConfig::default() };
        let resumed = Training::resume(dir.path(), &texts, &model, &config, &back_end).unwrap();
        resumed.history().clone()
    };
    let begun = run(Masking::always_mask());
    let baselines = begun.baselines().unwrap();
    let floor = baselines.floor.as_ref().unwrap();
    let best = baselines.best_neighbours.as_ref().unwrap();
    assert!(floor.loss < baselines.neighbours.loss && baselines.neighbours.loss < baselines.unigram.loss);
    assert!(floor.loss <= best.loss && best.loss < baselines.neighbours.loss);
    assert_eq!(baselines.gap_closed(floor.loss), Some(1.0));
    assert_eq!(baselines.gap_closed(baselines.neighbours.loss), Some(0.0));
    assert_eq!(run(Masking::always_mask()), begun, "after an interruption");

    // Whoever measures on the same masks finds the same.
    let on_these = evaluate(
        &BayesFloor::new(&grammar, &texts.tokenizer, Masking::default()).unwrap(),
        &texts.validation_batches(0).unwrap(),
    );
    assert_eq!(on_these.unwrap(), *floor);

    // A text that is gone through twice says no more.
    let (train, masker) = (&texts.train, Masker::new(&texts.tokenizer, Masking::default()).unwrap());
    let batches = DataLoader::new(texts.validation.clone(), 8).unwrap().fixed(&masker, &mut seeded(0)).unwrap();
    let measure = |sequences: &Sequences| Baselines::measure(sequences, &batches, &masker, None).unwrap();
    let twice: Result<Vec<_>> = train.iter().chain(train.iter()).collect();
    assert_eq!(measure(train), measure(&twice.unwrap().into()));

    let drawn = plot::loss_curve(&[&begun]).unwrap().to_html();
    let table = markup::gaps(&[&begun, &History::new("<another>")]).to_html();
    assert!(drawn.contains(&format!("floor {:.2}", floor.loss)), "{drawn}");
    assert!(table.contains(&format!(">{:.3}<", floor.loss)) && table.contains("&lt;another&gt;"), "{table}");

    // Tested on the same masks, however it is masked in training.
    fs::remove_dir_all(dir.path()).unwrap();
    assert_eq!(run(Masking { rate: 0.4, ..Masking::default() }), begun);
}

/// Where a sentence has two words, the neighbours of a gap and its own place are all that there is to see.
#[test]
fn the_best_that_two_neighbours_say_is_the_floor_where_there_is_nothing_else() {
    let grammar = Grammar::parse(
        "feature F: a b\ns: {left F} {right F} | 2 m other | o {right F}\nleft a: l | 2 m\nleft b: m\nright a: o | 3 r\nright b: 2 r | o",
    )
    .unwrap();
    let corpus = Corpus::from_lines((0..400).map(|nth| grammar.sentence(&mut seeded(nth)))).unwrap();
    let tokenizer = Tokenizer::train(&corpus, &TokenizerConfig::new(1000)).unwrap();
    for masking in [Masking::always_mask(), Masking { rate: 0.5, ..Masking::default() }] {
        let floor = BayesFloor::new(&grammar, &tokenizer, masking.clone()).unwrap();
        let masker = Masker::new(&tokenizer, masking).unwrap();
        let sequences = tokenizer.encode_corpus(&corpus, 32).unwrap().sequences;
        for batch in DataLoader::new(sequences, 8).unwrap().fixed(&masker, &mut seeded(1)).unwrap() {
            let (exact, best) = (floor.log_probabilities(&batch), floor.best_neighbours().log_probabilities(&batch));
            for (exact, best) in exact.unwrap().rows().zip(best.unwrap().rows()) {
                for (exact, best) in exact.iter().zip(best) {
                    assert!(exact == best || (exact.exp() - best.exp()).abs() < 1e-12, "{exact} {best}");
                }
            }
        }
    }
}

/// The divergence of the predictions of one gap, when another word can be seen and when it cannot.
#[test]
fn the_influence_of_a_word_is_what_hiding_it_costs() {
    let (grammar, corpus) = stories();
    let tokenizer = Tokenizer::train(&corpus, &TokenizerConfig::new(1200)).unwrap();
    let floor = BayesFloor::new(&grammar, &tokenizer, Masking::always_mask()).unwrap();
    let mask = tokenizer.special().mask;
    let predicted = |ids: &[u32], gap: usize, hidden: usize| {
        let mut seen = ids.to_vec();
        (seen[gap], seen[hidden]) = (mask, mask);
        let batch = Batch::with_gaps([seen.as_slice()], mask);
        let nth = batch.masked_rows.iter().position(|&row| row == gap).unwrap();
        floor.log_probabilities(&batch).unwrap().rows().nth(nth).unwrap().to_vec()
    };
    for sentence in corpus.sentences().iter().step_by(1000) {
        let ids = tokenizer.encode(sentence).unwrap();
        let influence = floor.influence(&ids).unwrap().to_vec2::<f32>().unwrap();
        let last = ids.len() - 1;
        for (gap, row) in influence.iter().enumerate() {
            for (hidden, &found) in row.iter().enumerate() {
                let special = [gap, hidden].iter().any(|&at| at == 0 || at == last);
                let expected = if special || gap == hidden {
                    0.0
                } else {
                    let (all, less) = (predicted(&ids, gap, gap), predicted(&ids, gap, hidden));
                    all.iter().zip(less).filter(|(p, _)| p.is_finite()).map(|(p, q)| p.exp() * (p - q)).sum::<f64>()
                };
                assert!((f64::from(found) - expected).abs() < 1e-5, "{sentence}: {gap} {hidden} {found} {expected}");
            }
        }
    }
    assert_says(&message(floor.influence(&[7])), &["whole sentences of the grammar"]);
}

#[test]
fn a_grammar_with_a_mistake_says_where() {
    for (text, parts) in [
        ("", ["line 1", "no rule"]),
        ("# a comment\n\nstory", ["line 3", "expected `rule: words`"]),
        ("| a", ["line 1", "before the first rule"]),
        (": a", ["line 1", "a name before the colon"]),
        ("story:", ["line 1", "expected words, or ()"]),
        ("story: a |", ["line 1", "expected words, or ()"]),
        ("story: -1 a", ["line 1", "a weight above 0, got -1"]),
        ("story: a\n | inf b", ["line 2", "a weight above 0, got inf"]),
        ("story: a {b", ["line 1", "{ without }"]),
        ("story: a } b", ["line 1", "} that nothing has opened"]),
        ("story: {}", ["line 1", "a name between { and }"]),
        ("story: a\n | {naem} b", ["line 2", "there is no rule for {naem}"]),
        ("feature G: she he\nstory: {name G}\nname she: Anna", ["line 2", "there is no rule for {name he}"]),
        ("story: {a}\na: b\na: c", ["line 3", "a second rule for {a}; the first one is in line 2"]),
        ("feature G: she he\nstory: [G her]", ["line 2", "a word for each of the 2 values of G"]),
        ("story: [G her his]", ["line 1", "a feature after the bracket, got \"G\""]),
        ("feature G: she he\nfeature G: a b\nstory: a", ["line 2", "a second time"]),
        ("feature G: she she\nstory: a", ["line 1", "different values"]),
        ("feature: she\nstory: a", ["line 1", "with one name"]),
        ("feature G: she he\nstory G: a", ["line 2", "stands alone before the colon"]),
        ("story: a {b}\nb: {c}\nc: d | {b}", ["line 2", "leads back to itself"]),
        ("story: {a}\na: ()", ["line 1", "no word in any sentence"]),
    ] {
        assert_says(&message(Grammar::parse(text)), &parts);
    }
    // Nothing that somebody writes takes all memory or all time.
    let doubled: String = (0..64).map(|nth| format!("r{nth}: {{r{}}} {{r{}}}\n", nth + 1, nth + 1)).collect();
    assert_says(&message(Grammar::parse(&(doubled + "r64: a"))), &["more than 1000 symbols"]);
    let features: String = (0..20).map(|nth| format!("feature F{nth}: a b c d\n")).collect();
    let choices: String = (0..20).map(|nth| format!(" [F{nth}]")).collect();
    assert_says(&message(Grammar::parse(&format!("{features}story:{choices}"))), &["more than 100000 choices"]);
    let long: String = (0..50_000).map(|nth| format!("r{nth}: {{r{}}}\n", nth + 1)).collect();
    assert_says(&message(Grammar::parse(&(long + "r50000: a"))), &["more than 1000 symbols"]);
    let few = Grammar::parse("story: a | b").unwrap();
    assert_says(&message(few.sentences(3, &mut seeded(0))), &["count", "at most 2", "got 3"]);
}

#[test]
fn what_the_floor_and_the_baselines_cannot_predict_they_refuse() {
    let grammar = Grammar::parse("story: the {pet} sleeps\npet: dog | cat").unwrap();
    let corpus = Corpus::from_lines(["the dog sleeps", "the cat sleeps", "the fox"]).unwrap();
    let tokenizer = Tokenizer::train(&corpus, &TokenizerConfig::new(1000)).unwrap();
    let floor = BayesFloor::new(&grammar, &tokenizer, Masking::always_mask()).unwrap();
    let whole = ["batches", "whole sentences of the grammar", "the fox"];
    assert_says(&message(fill_mask(&floor, &tokenizer, "the fox [MASK]", 1)), &whole);
    assert_says(&message(fill_mask(&floor, &tokenizer, "the cat sleeps [MASK]", 1)), &["text", "at most 5 tokens"]);
    // A word that can be seen has not been chosen, where all that are become [MASK].
    let mut seen =
        Batch::with_gaps([tokenizer.encode("the [MASK] sleeps").unwrap().as_slice()], tokenizer.special().mask);
    seen.input_ids[2] = tokenizer.id("cat").unwrap();
    assert_says(
        &message(floor.log_probabilities(&seen)),
        &["batches", "with the floor's own settings", "the cat sleeps"],
    );
    let pieces = Tokenizer::train(&corpus, &TokenizerConfig::new(30)).unwrap();
    assert_says(&message(BayesFloor::new(&grammar, &pieces, Masking::default())), &["tokenizer", "one token"]);

    let masker = Masker::new(&tokenizer, Masking::default()).unwrap();
    let below = [format!("ids below vocab = {}", tokenizer.vocab())];
    let below: Vec<&str> = below.iter().map(String::as_str).collect();
    assert_says(&message(Unigram::fit(&vec![vec![2, 1000, 3]].into(), &masker)), &below);
    let unigram = Unigram::fit(&vec![vec![2, 5, 3]].into(), &masker).unwrap();
    let unknown = Batch::with_gaps([[2, 4, 1000, 3].as_slice()], tokenizer.special().mask);
    assert_says(&message(unigram.log_probabilities(&unknown)), &below);
}
