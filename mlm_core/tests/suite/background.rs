//! A training in the background is the one in the foreground, and nothing that is done to it meanwhile is lost.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use mlm_core::*;

use crate::training::{Plan, folder, losses};
use crate::{assert_says, message};

impl Plan {
    /// Long enough to be met while it trains.
    fn long() -> Self {
        let plan = Self::new();
        Self { config: TrainingConfig { epochs: 2000, ..plan.config }, ..plan }
    }

    fn run(&self, dir: &Path) -> Result<Run> {
        Run::resume(dir, &self.texts, &self.model, &self.config, &self.back_end)
    }
}

fn weights(engine: &Engine) -> Vec<f32> {
    engine.params().unwrap().as_slice().to_vec()
}

fn wait_for_step(run: &Run, step: usize) {
    while run.progress().step < step && run.progress().state == RunState::Training {
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_run_ends_with_the_bits_of_a_training_in_the_foreground() {
    let plan = Plan::new();
    let (foreground, background) = (folder(), folder());
    let expected = plan.finish(foreground.path()).unwrap();
    let run = Run::start(background.path(), &plan.texts, &plan.model, &plan.config, &plan.back_end).unwrap();
    let trained = run.wait().unwrap();
    assert!(fs::read(background.path().join("model.safetensors")).unwrap() == expected);
    assert_eq!(weights(&trained), Params::from_pretrained(background.path()).unwrap().as_slice());
    let progress = run.progress();
    assert_eq!((progress.state, progress.step), (RunState::Finished, progress.steps));
    assert_eq!(progress.history, History::load(background.path()).unwrap());
    // What has ended can still be asked.
    assert_eq!(weights(&run.model().unwrap()), weights(&trained));
    assert_eq!(weights(&run.stop().unwrap()), weights(&trained));
}

/// As a cell that is run again and again: the variable of before is still there when the new run starts.
#[test]
fn running_the_cell_again_leaves_one_run_that_goes_on() {
    let plan = Plan { config: TrainingConfig { epochs: 100, ..Plan::new().config }, ..Plan::new() };
    let (whole, folder) = (folder(), folder());
    let expected = plan.run(whole.path()).unwrap().wait().unwrap();
    let mut runs = vec![plan.run(folder.path()).unwrap()];
    for _ in 0..10 {
        let step = runs.last().unwrap().progress().step;
        wait_for_step(runs.last().unwrap(), step + 7);
        runs.push(plan.run(folder.path()).unwrap());
        for old in &runs[..runs.len() - 1] {
            assert_ne!(old.progress().state, RunState::Training);
        }
    }
    assert_eq!(weights(&runs.last().unwrap().wait().unwrap()), weights(&expected));
    let says = message(plan.start(folder.path()));
    assert_says(&says, &["an empty folder or a new one"]);
}

#[test]
fn a_run_can_be_asked_drawn_and_dropped_while_it_trains() {
    let plan = Plan::long();
    let folders = [folder(), folder()];
    let [first, second] = folders.each_ref().map(|folder| plan.run(folder.path()).unwrap());
    for run in [&first, &second] {
        let before = run.plot().unwrap(); // also before the first step
        wait_for_step(run, 3);
        let (step, early) = (run.progress().step, run.model().unwrap());
        wait_for_step(run, step + 10);
        assert_ne!(weights(&early), weights(&run.model().unwrap()));
        assert_eq!(fill_mask(&early, &plan.texts.tokenizer, "the [MASK] is a lie", 3).unwrap().masks.len(), 1);
        assert_ne!(run.plot().unwrap(), before);
        let progress = run.progress();
        assert_eq!((progress.state, progress.steps), (RunState::Training, 8000));
        assert!(progress.loss().is_some() && progress.tokens_per_second.is_some() && progress.lr.is_some());
    }
    let both = plot::progress(&[&first.progress(), &second.progress()]).unwrap().to_html();
    assert!(both.contains("of 8000"), "{both}");
    drop(first);
    // The folder is free, and the state of the last step is in it.
    let training = plan.resume(folders[0].path()).unwrap();
    assert!(training.step_number() >= 13 && !training.is_finished());
    let stopped = second.stop().unwrap();
    assert_eq!(second.progress().state, RunState::Stopped);
    assert_eq!(weights(&stopped), weights(&second.model().unwrap()));
    assert_eq!(weights(&stopped), Params::from_pretrained(folders[1].path()).unwrap().as_slice());
}

/// On a test that takes many times as long as a step.
#[test]
fn a_run_that_is_stopped_while_an_epoch_is_evaluated_ends_soon_and_evaluates_it_when_it_goes_on() {
    let plan = Plan::new();
    let five = plan.texts.validation.to_vec().unwrap();
    let validation = five.iter().cycle().take(10_000).cloned().collect::<Vec<_>>().into();
    let plan = Plan { texts: Texts { validation, ..plan.texts }, ..plan };
    let [whole, stopped] = [folder(), folder()];
    let expected = plan.finish(whole.path()).unwrap();
    let mut in_evaluation = 0;
    for nth in 0..20 {
        let run = plan.run(stopped.path()).unwrap();
        thread::sleep(Duration::from_millis(20 * (nth % 5)));
        run.stop().unwrap();
        let told = run.progress();
        let training = plan.resume(stopped.path()).unwrap();
        assert_eq!(training.step_number(), told.step);
        let evaluated = training.history().records().len() - told.history.records().len();
        if told.state == RunState::Finished || evaluated == 0 {
            assert_eq!(evaluated, 0);
        } else {
            assert_eq!((told.state, told.step % 4, evaluated), (RunState::Stopped, 0, 1));
            in_evaluation += 1;
        }
    }
    assert!(in_evaluation > 0);
    assert!(plan.finish(stopped.path()).unwrap() == expected);
    assert_eq!(losses(stopped.path()), losses(whole.path()));
}

#[test]
fn a_run_that_fails_says_why_and_where_its_last_state_is() {
    let plan = Plan::long();
    let folder = folder();
    let run = plan.run(folder.path()).unwrap();
    wait_for_step(&run, 5);
    // A file where the model's should come; as root, no permission would stop it.
    fs::remove_file(folder.path().join("model.safetensors")).unwrap();
    fs::create_dir_all(folder.path().join("model.safetensors/in the way")).unwrap();
    while run.progress().state == RunState::Training {
        thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(run.progress().state, RunState::Failed);
    for says in [message(run.stop()), message(run.model()), message(run.wait())] {
        assert_says(&says, &["ended after step", "cannot write", "model.safetensors", "checkpoints", "Run::resume"]);
    }
    fs::remove_dir_all(folder.path().join("model.safetensors")).unwrap();
    let step = run.progress().step;
    assert!(plan.run(folder.path()).unwrap().progress().step >= step, "the checkpoint had been written before");
}
