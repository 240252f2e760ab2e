//! Starts programs that the tests are compiled with.

use std::env;
use std::path::Path;
use std::process::Command;

/// A program, started by `MLM_TEST_RUNNER` where this computer cannot start it: `scripts/test --arm` emulates its processor.
pub fn command(program: impl AsRef<Path>) -> Command {
    let runner = env::var("MLM_TEST_RUNNER").unwrap_or_default();
    let mut words = runner.split_whitespace();
    let Some(first) = words.next() else { return Command::new(program.as_ref()) };
    let mut command = Command::new(first);
    command.args(words).arg(program.as_ref());
    command
}
