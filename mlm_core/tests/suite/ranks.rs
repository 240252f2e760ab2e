//! Several processes that train one model: as threads here, each with an engine, that pass messages.

use std::collections::HashMap;
use std::fs;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use mlm_core::rand::Rng;
use mlm_core::rand::rngs::StdRng;
use mlm_core::*;

use crate::training::{Plan, folder, losses};
use crate::{assert_says, five_sentences, message, seeded};

/// What each rank has sent in each exchange, until all have it.
type Mail = Mutex<HashMap<usize, Vec<Option<(Vec<f32>, Vec<Range<usize>>)>>>>;

#[derive(Debug)]
struct Local {
    rank: usize,
    ranks: usize,
    begun: AtomicUsize,
    mail: Arc<Mail>,
    taken: Arc<Mutex<HashMap<usize, usize>>>,
}

struct Message {
    number: usize,
    rank: usize,
    ranks: usize,
    mail: Arc<Mail>,
    taken: Arc<Mutex<HashMap<usize, usize>>>,
    exchange: Option<Exchange>,
}

impl Communicator for Local {
    fn rank(&self) -> usize {
        self.rank
    }

    fn ranks(&self) -> usize {
        self.ranks
    }

    fn begin(&self, exchange: Exchange) -> Result<Box<dyn Pending>> {
        let Self { rank, ranks, .. } = *self;
        let number = self.begun.fetch_add(1, Ordering::Relaxed);
        assert_eq!((exchange.to.len(), exchange.from.len()), (ranks, ranks));
        assert!(exchange.to[rank].is_empty() && exchange.from[rank].is_empty());
        let mut mail = self.mail.lock().unwrap();
        mail.entry(number).or_insert_with(|| vec![None; ranks])[rank] =
            Some((exchange.sent.clone(), exchange.to.clone()));
        let (mail, taken) = (Arc::clone(&self.mail), Arc::clone(&self.taken));
        Ok(Box::new(Message { number, rank, ranks, mail, taken, exchange: Some(exchange) }))
    }
}

impl Pending for Message {
    fn test(&mut self) -> Result<Option<Exchange>> {
        let mut mail = self.mail.lock().unwrap();
        let sent = &mail[&self.number];
        if sent.iter().any(Option::is_none) {
            return Ok(None);
        }
        let mut exchange = self.exchange.take().expect("an exchange that is not over");
        for (sent, place) in sent.iter().zip(&exchange.from) {
            let (numbers, to) = sent.as_ref().unwrap();
            let numbers = &numbers[to[self.rank].clone()];
            exchange.received[place.clone()].copy_from_slice(numbers);
        }
        let mut taken = self.taken.lock().unwrap();
        let by = taken.entry(self.number).or_default();
        *by += 1;
        if *by == self.ranks {
            taken.remove(&self.number);
            mail.remove(&self.number);
        }
        Ok(Some(exchange))
    }
}

fn communicators(ranks: usize) -> Vec<Arc<dyn Communicator>> {
    let (mail, taken) = (Arc::<Mail>::default(), Arc::default());
    (0..ranks)
        .map(|rank| -> Arc<dyn Communicator> {
            Arc::new(Local { rank, ranks, begun: 0.into(), mail: Arc::clone(&mail), taken: Arc::clone(&taken) })
        })
        .collect()
}

/// Sequences of random tokens, of which some are masked, in some batches of one sequence only.
fn ragged(rng: &mut StdRng, config: &ModelConfig, sequences: usize) -> Batch {
    let mut batch = Batch::with_gaps([], 0);
    let most = rng.random_range(1..=sequences);
    for _ in 0..most {
        for _ in 0..rng.random_range(1..=config.max_len) {
            if batch.masked_rows.is_empty() || rng.random_bool(0.2) {
                batch.masked_rows.push(batch.input_ids.len());
                batch.targets.push(rng.random_range(0..config.vocab as u32));
                batch.treatments.push(Treatment::Mask);
            }
            batch.input_ids.push(rng.random_range(0..config.vocab as u32));
        }
        batch.offsets.push(batch.input_ids.len());
    }
    batch
}

/// What comes of training: all losses, the norms of all gradients, the last gradients, what is predicted then, and the weights.
type Trained = (Vec<f64>, Vec<f64>, Vec<f32>, Vec<Score>, Params);

fn train(engine: &mut Engine, batches: &[Batch]) -> Trained {
    let mut gradients = Gradients::zeros(engine).unwrap();
    let mut optimizer = AdamW::new(engine, AdamWConfig::default()).unwrap();
    let (mut losses, mut norms) = (Vec::new(), Vec::new());
    for (seed, batch) in batches.iter().enumerate() {
        losses.push(engine.forward(batch, Mode::Train { dropout_seed: seed as u64 }).unwrap());
        engine.backward(&mut gradients).unwrap();
        norms.push(gradients.clip(1.0).unwrap());
        optimizer.step(engine, &gradients, 1e-3).unwrap();
    }
    let names: Vec<String> = gradients.names().map(str::to_owned).collect();
    let numbers = |name: &String| gradients.get(name).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let last = names.iter().flat_map(numbers).collect();
    let scores = batches.iter().flat_map(|batch| engine.score(batch).unwrap()).collect();
    (losses, norms, last, scores, engine.params().unwrap())
}

/// That ranks learn, to the last bit, what one process does with as many threads as all have together.
fn check(params: &Params, batches: &[Batch], precision: Precision, shapes: &[(usize, usize)]) {
    let how = |threads| EngineConfig { threads, precision, ..EngineConfig::default() };
    let mut expected: HashMap<usize, Trained> = HashMap::new();
    for &(ranks, threads) in shapes {
        let expected = expected
            .entry(ranks * threads)
            .or_insert_with(|| train(&mut Engine::with_config(params, how(ranks * threads)).unwrap(), batches));
        let trained = on_ranks(ranks, |communicator| {
            train(&mut Engine::with_communicator(params, how(threads), communicator).unwrap(), batches)
        });
        for (rank, trained) in trained.iter().enumerate() {
            let what = format!("rank {rank} of {ranks}, {threads} threads each, {precision:?}");
            assert_eq!(trained.0, expected.0, "losses, {what}");
            assert_eq!(trained.1, expected.1, "norms, {what}");
            let differs = trained.2.iter().zip(&expected.2).position(|(ours, theirs)| ours != theirs);
            assert_eq!(differs, None, "gradients, {what}");
            assert_eq!(trained.3, expected.3, "scores, {what}");
            assert!(trained.4 == expected.4, "weights, {what}");
        }
    }
}

const SHAPES: [(usize, usize); 8] = [(1, 4), (2, 2), (4, 1), (3, 2), (2, 3), (6, 1), (5, 1), (2, 1)];

#[test]
fn ranks_learn_what_threads_do() {
    let mut rng = seeded(0);
    let config = ModelConfig { hidden_dropout: 0.1, attention_dropout: 0.1, max_len: 24, ..ModelConfig::new(200) };
    let params = Params::init(&config, &mut rng).unwrap();
    let batches: Vec<Batch> = (0..40).map(|_| ragged(&mut rng, &config, 8)).collect();
    for precision in [Precision::F32, Precision::Bf16] {
        let steps = if precision == Precision::F32 { batches.len() } else { 4 };
        check(&params, &batches[..steps], precision, &SHAPES);
    }
}

/// Of more than half a million parameters, so that threads share the weights and cut sequences; with so many words that their
/// gradients come in pieces.
#[test]
fn ranks_of_a_large_model_learn_what_threads_do() {
    let mut rng = seeded(1);
    let config = ModelConfig {
        d_model: 112,
        d_ff: 448,
        layers: 3,
        max_len: 90,
        hidden_dropout: 0.1,
        attention_dropout: 0.1,
        ..ModelConfig::new(5000)
    };
    let params = Params::init(&config, &mut rng).unwrap();
    let batches: Vec<Batch> = (0..8).map(|_| ragged(&mut rng, &config, 5)).collect();
    check(&params, &batches, Precision::F32, &SHAPES);
}

#[test]
fn an_engine_says_how_long_its_threads_wait_for_other_ranks() {
    let mut rng = seeded(2);
    let config = ModelConfig::new(200);
    let params = Params::init(&config, &mut rng).unwrap();
    let batches = [ragged(&mut rng, &config, 8)];
    let exchange = |engine: &mut Engine| engine.take_times().into_iter().find(|time| time.operation == "exchange");
    let waited = on_ranks(2, |communicator| {
        let mut engine = Engine::with_communicator(&params, EngineConfig::default(), communicator).unwrap();
        assert!(engine.time_exchange().unwrap() > Duration::ZERO);
        assert_eq!(exchange(&mut engine).unwrap().backward, Duration::ZERO);
        train(&mut engine, &batches);
        exchange(&mut engine).unwrap()
    });
    assert!(waited.iter().all(|waited| waited.forward.min(waited.backward) > Duration::ZERO), "{waited:?}");
    let mut alone = Engine::with_threads(&params, 2).unwrap();
    train(&mut alone, &batches);
    assert_eq!(exchange(&mut alone), None);
}

/// What each rank comes to: takes what one does, given its communicator.
fn on_ranks<T: Send>(ranks: usize, rank: impl Fn(Arc<dyn Communicator>) -> T + Sync) -> Vec<T> {
    let rank = &rank;
    thread::scope(|scope| {
        let ranks = communicators(ranks).into_iter().map(|communicator| scope.spawn(move || rank(communicator)));
        let ranks: Vec<_> = ranks.collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

/// A plan for a rank of so many threads.
fn of_rank(plan: &Plan, threads: usize, communicator: Arc<dyn Communicator>) -> Plan {
    let how = EngineConfig { threads, ..EngineConfig::default() };
    Plan { back_end: BackEnd::Ranks(how, communicator), ..plan.clone() }
}

#[test]
fn a_training_goes_on_with_the_same_bits_on_other_ranks() {
    let how = EngineConfig { threads: 4, ..EngineConfig::default() };
    let plan = Plan { back_end: BackEnd::Engine(how), ..Plan::new() };
    let whole = folder();
    let expected = plan.finish(whole.path()).unwrap();
    for (steps, (ranks, threads), (other_ranks, other_threads)) in
        [(0, (2, 2), (4, 1)), (5, (4, 1), (1, 4)), (6, (1, 4), (2, 2))]
    {
        let folder = folder();
        on_ranks(ranks, |communicator| {
            let mut training = of_rank(&plan, threads, communicator).start(folder.path()).unwrap();
            for _ in 0..steps {
                training.step().unwrap();
            }
            training.save().unwrap();
        });
        let models = on_ranks(other_ranks, |communicator| {
            let (is_first, plan) = (communicator.rank() == 0, of_rank(&plan, other_threads, communicator));
            let mut training = plan.resume(folder.path()).unwrap();
            assert_eq!(training.step_number(), steps);
            while !training.is_finished() {
                training.step().unwrap();
            }
            let params = training.encoder().params().unwrap();
            drop(training);
            assert!(!is_first || fs::read(folder.path().join("model.safetensors")).unwrap() == expected);
            params
        });
        assert!(models.iter().all(|model| *model == models[0]));
        assert_eq!(losses(folder.path()), losses(whole.path()));
    }
}

#[test]
fn ranks_that_are_not_at_the_same_training_say_what_differs() {
    let plan = Plan::new();
    let start = |change: &(dyn Fn(&mut Plan) + Sync), dir: &Path| {
        let results = on_ranks(3, |communicator| {
            let is_second = communicator.rank() == 1;
            let mut plan = of_rank(&plan, 1, communicator);
            if is_second {
                change(&mut plan);
            }
            message(plan.start(dir))
        });
        assert!(results.iter().all(|result| *result == results[0]), "{results:?}");
        results[0].clone()
    };
    let folder = folder();
    let said = start(&|plan| plan.texts.train = vec![vec![2, 5, 3]; 15].into(), folder.path());
    assert_says(&said, &["rank 1 on this machine has other train", "rank 0"]);
    let said = start(&|plan| plan.config.seed = 7, folder.path());
    assert_says(&said, &["rank 1 on this machine has seed 7 where it was 0"]);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is written");
}

#[test]
fn all_ranks_learn_why_the_first_one_cannot_begin() {
    let folder = folder();
    fs::write(folder.path().join("thesis.txt"), "mine").unwrap();
    let results = on_ranks(2, |communicator| message(of_rank(&Plan::new(), 1, communicator).start(folder.path())));
    assert_says(&results[0], &["thesis.txt"]);
    assert_says(&results[1], &["rank 0: ", "thesis.txt"]);
}

#[test]
fn texts_that_one_rank_has_prepared_are_all_ranks_texts() {
    let corpus = five_sentences().unwrap();
    let tokenizer = Tokenizer::train(&corpus, &TokenizerConfig::new(80)).unwrap();
    let train = tokenizer.encode_corpus(&corpus, 32).unwrap();
    let prepared = PreparedTexts { tokenizer, train, validation: EncodedCorpus::default() };
    let all = on_ranks(3, |communicator| {
        let own = (communicator.rank() == 0).then(|| prepared.clone());
        PreparedTexts::share("anywhere", own, communicator.as_ref()).unwrap()
    });
    for shared in all {
        assert_eq!(shared.train.sequences.to_vec().unwrap(), prepared.train.sequences.to_vec().unwrap());
        assert_eq!((shared.train.sentences, shared.validation.sequences.len()), (5, 0));
        assert_eq!(shared.train.coverage, prepared.train.coverage);
        let text = "the cake is a lie";
        assert_eq!(shared.tokenizer.encode(text).unwrap(), prepared.tokenizer.encode(text).unwrap());
    }
}
