//! The processes that MPI has started together, if it has: which of them this one is, how many threads it takes, and how all of
//! them end. The first one speaks for all.

use std::env;
use std::fs;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use mlm_core::Communicator;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::{Failure, end, note, say, silence};

/// Where launchers tell each process how many there are: Open MPI, MPICH and its kind, Slurm.
const SIZES: [&str; 3] = ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"];

/// This process among those that MPI has started.
pub(crate) struct Job {
    communicator: Option<Arc<dyn Communicator>>,
    /// There was a SIGCONT.
    continues: Arc<AtomicBool>,
}

/// Runs a command in the job that this process was started in.
pub(crate) fn in_job(command: impl FnOnce(&Job) -> Result<String, Failure>) -> ExitCode {
    match Job::join() {
        Ok(job) => {
            let outcome = job.expect_same().and_then(|()| command(&job));
            job.end(outcome)
        }
        Err(failure) => end(Err(failure)),
    }
}

impl Job {
    fn join() -> Result<Self, Failure> {
        let mut sizes = SIZES.iter().filter_map(|name| env::var(name).ok()?.parse().ok());
        let communicator = if sizes.any(|size: usize| size > 1) { Some(communicator()?) } else { None };
        let job = Self { communicator, continues: Arc::default() };
        #[cfg(feature = "mpi")]
        if job.communicator.is_some() {
            signal_hook::flag::register(signal_hook::consts::SIGCONT, Arc::clone(&job.continues))
                .map_err(|error| Failure::Error(error.to_string()))?;
        }
        if !job.leads() {
            silence();
        }
        Ok(job)
    }

    /// What connects it with the others, where there are others.
    pub(crate) fn communicator(&self) -> Option<&Arc<dyn Communicator>> {
        self.communicator.as_ref()
    }

    /// Whether it is the one that reads, writes and speaks.
    pub(crate) fn leads(&self) -> bool {
        self.communicator.as_ref().is_none_or(|communicator| communicator.rank() == 0)
    }

    /// Whether it may be about to end, asked once for each time: a quarter of a second before SIGTERM and half a second before
    /// SIGKILL, Open MPI sends SIGCONT. So does a shell after a pause.
    pub(crate) fn may_end(&self) -> bool {
        self.continues.swap(false, Ordering::Relaxed)
    }

    /// How many threads each process takes, where so many are asked for or nothing is said: all cores that it may use, which it
    /// may have to share.
    pub(crate) fn threads(&self, asked: Option<usize>) -> Result<usize, Failure> {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let Some(communicator) = &self.communicator else { return Ok(asked.unwrap_or(cores)) };
        // Processes on the same cores of the same machine.
        let place = format!("{} {}", communicator.host(), cores_of_process());
        let places = communicator.tell(place.as_bytes())?;
        let sharing = places.iter().filter(|other| *other == place.as_bytes()).count();
        let own = (cores / sharing).max(1);
        let least = of_ranks(communicator, own as f64)?.into_iter().fold(own as f64, f64::min) as usize;
        let threads = asked.unwrap_or(least);
        note(&format!("ranks: {}, threads of each: {threads}", communicator.ranks()));
        if threads > least {
            note(&format!(
                "warning: not every rank has as many cores (the fewest: {least}); with Open MPI, --map-by slot:pe={threads} \
                 gives each {threads}, and --bind-to none lets all of them use all"
            ));
        }
        Ok(threads)
    }

    /// An error where the processes are not given the same options, or are not the same program.
    fn expect_same(&self) -> Result<(), Failure> {
        let Some(communicator) = &self.communicator else { return Ok(()) };
        let program = env::current_exe().and_then(fs::read).unwrap_or_default();
        let mut said = options(env::args().skip(1));
        said.insert("version".to_owned(), json!(env!("CARGO_PKG_VERSION")));
        said.insert("build".to_owned(), json!(format!("{:x}", Sha256::digest(program))));
        Ok(communicator.expect_same(&Value::Object(said))?)
    }

    /// How the process ends. Where one has failed of which the others do not know, all are ended.
    fn end(self, outcome: Result<String, Failure>) -> ExitCode {
        let Some(communicator) = self.communicator else { return end(outcome) };
        let is_common = !matches!(outcome, Err(Failure::Error(_)));
        let rank = communicator.rank();
        if let (1.., Err(Failure::Error(reason))) = (rank, &outcome) {
            say(&format!("mlm: rank {rank} on {}: {reason}", communicator.host()));
        }
        let status = end(outcome);
        if is_common { status } else { communicator.abort(1) }
    }
}

/// A number of each rank, in their order; takes this one's.
pub(crate) fn of_ranks(communicator: &Arc<dyn Communicator>, own: f64) -> Result<Vec<f64>, Failure> {
    let said = communicator.tell(&own.to_le_bytes())?;
    Ok(said.into_iter().filter_map(|bytes| bytes.try_into().ok()).map(f64::from_le_bytes).collect())
}

#[cfg(feature = "mpi")]
fn communicator() -> Result<Arc<dyn Communicator>, Failure> {
    Ok(Arc::new(mlm_core::Mpi::join()?))
}

#[cfg(not(feature = "mpi"))]
fn communicator() -> Result<Arc<dyn Communicator>, Failure> {
    let reason = "this is one of several processes that MPI has started, but mlm was built without it; scripts/mpi builds it \
                  with MPI (docs/cluster.md)";
    Err(Failure::Error(reason.to_owned()))
}

/// Options with their values, all of those that are given several times.
fn options(arguments: impl Iterator<Item = String>) -> Map<String, Value> {
    let mut options = Map::new();
    let mut name = "arguments".to_owned();
    for argument in arguments {
        let value = if argument.starts_with("--") {
            let (option, value) = argument.split_once('=').unwrap_or((&argument, ""));
            name = option.to_owned();
            value
        } else {
            &argument
        };
        let values = options.entry(&name).or_insert(json!(""));
        *values = json!(format!("{} {value}", values.as_str().unwrap_or_default()).trim());
    }
    options
}

/// The cores that this process may use, where the system says it.
fn cores_of_process() -> String {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().find_map(|line| line.strip_prefix("Cpus_allowed:")).unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::options;

    #[test]
    fn all_values_of_an_option_are_compared() {
        let given = ["train", "--corpus", "a", "b", "--json", "--corpus=c", "--lr", "1e-3"];
        let expected = json!({ "arguments": "train", "--corpus": "a b c", "--json": "", "--lr": "1e-3" });
        assert_eq!(json!(options(given.map(str::to_owned).into_iter())), expected);
    }
}
