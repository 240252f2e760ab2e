//! Threads that wait for work: takes a function, runs it once on each thread.
//!
//! They start once. Between two rounds of a training step lie microseconds, so a thread that has nothing to do looks for
//! the next round for a while before it sleeps; to wake it takes some 50 µs.

use std::any::Any;
use std::fmt;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::vectors::Vectors;

/// How long a thread looks for the next round before it sleeps.
const PATIENCE: Duration = Duration::from_micros(100);

/// The threads.
pub(crate) struct Pool {
    /// What they compute with.
    vectors: Vectors,
    rounds: Arc<Rounds>,
    threads: Vec<JoinHandle<()>>,
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pool {{ threads: {} }}", self.threads.len() + 1)
    }
}

/// What the threads and their owner tell each other.
#[derive(Default)]
struct Rounds {
    /// What to do in this round, given the thread's number.
    work: Mutex<Option<&'static (dyn Fn(usize) + Sync)>>,
    /// The number of rounds begun, or [`END`].
    begun: AtomicUsize,
    /// How many threads have not finished the round.
    working: AtomicUsize,
    /// How many threads sleep, or are about to.
    sleeping: AtomicUsize,
    /// Held by those who go to sleep and by the one who wakes them.
    bed: Mutex<()>,
    alarm: Condvar,
    /// What the first thread that panicked said.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

/// Instead of a number of rounds: the threads are to end.
const END: usize = usize::MAX;

impl Pool {
    /// Starts `threads - 1` threads; the caller of [`Pool::run`] is the remaining one.
    ///
    /// # Errors
    /// When the system refuses to start so many.
    pub(crate) fn new(threads: usize, vectors: Vectors) -> Result<Self> {
        let mut pool = Self { vectors, rounds: Arc::default(), threads: Vec::with_capacity(threads - 1) };
        // With more threads than cores, one that looks for work keeps another one from working.
        let patience = if threads > cores() { Duration::ZERO } else { PATIENCE };
        for nth in 1..threads {
            let rounds = Arc::clone(&pool.rounds);
            let thread = thread::Builder::new().name(format!("mlm_core {nth}")).spawn(move || {
                let mut last = 0;
                while let Some(round) = rounds.next(last, patience) {
                    last = round;
                    let work = *lock(&rounds.work);
                    rounds.note_panic(catch_unwind(AssertUnwindSafe(|| work.map(|work| vectors.within(|| work(nth))))));
                    rounds.working.fetch_sub(1, Ordering::Release);
                }
            });
            let purpose = || format!("number {} of an engine's {threads}", nth + 1);
            pool.threads.push(thread.map_err(|source| Error::thread(purpose(), source))?);
        }
        Ok(pool)
    }

    /// Runs a function on all threads, with the thread's number, and returns when all have finished.
    ///
    /// # Panics
    /// When the function panics on one of them; the others finish, and the pool can be used again.
    pub(crate) fn run(&mut self, work: &(dyn Fn(usize) + Sync)) {
        let rounds = &self.rounds;
        *lock(&rounds.work) = Some(forever(work));
        rounds.working.store(self.threads.len(), Ordering::Relaxed);
        rounds.begin(rounds.begun.load(Ordering::Relaxed) + 1);
        rounds.note_panic(catch_unwind(AssertUnwindSafe(|| self.vectors.within(|| work(0)))));
        let waiting = Instant::now();
        while rounds.working.load(Ordering::Acquire) > 0 {
            if waiting.elapsed() < PATIENCE { std::hint::spin_loop() } else { thread::yield_now() }
        }
        *lock(&rounds.work) = None;
        let panic = lock(&rounds.panic).take();
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.rounds.begin(END);
        for thread in self.threads.drain(..) {
            // Its panics have been caught; there is nothing more that it could say.
            let _ = thread.join();
        }
    }
}

/// What the threads are given may hold references to what the caller of [`Pool::run`] owns; a type of a thread that was
/// started long ago cannot say for how long.
#[allow(unsafe_code)]
fn forever<'a>(work: &'a (dyn Fn(usize) + Sync + 'a)) -> &'static (dyn Fn(usize) + Sync) {
    // SAFETY: the lifetime is all that changes. `run`, the only caller, does not return, nor unwind, before every thread
    // has finished with the function, and takes it back before that.
    unsafe { std::mem::transmute::<&'a (dyn Fn(usize) + Sync + 'a), &'static (dyn Fn(usize) + Sync)>(work) }
}

impl Rounds {
    fn begin(&self, round: usize) {
        self.begun.store(round, Ordering::SeqCst);
        // A thread counts itself among the sleepers before it looks at `begun` for the last time: either it sees the new
        // round, or it is seen here.
        if self.sleeping.load(Ordering::SeqCst) > 0 {
            let _bed = lock(&self.bed);
            self.alarm.notify_all();
        }
    }

    /// Waits for the round after `last`; none when the threads are to end.
    fn next(&self, last: usize, patience: Duration) -> Option<usize> {
        let waiting = Instant::now();
        let mut round = self.begun.load(Ordering::Acquire);
        while round == last && waiting.elapsed() < patience {
            std::hint::spin_loop();
            round = self.begun.load(Ordering::Acquire);
        }
        if round == last {
            let mut bed = lock(&self.bed);
            self.sleeping.fetch_add(1, Ordering::SeqCst);
            round = self.begun.load(Ordering::SeqCst);
            while round == last {
                bed = self.alarm.wait(bed).unwrap_or_else(PoisonError::into_inner);
                round = self.begun.load(Ordering::SeqCst);
            }
            self.sleeping.fetch_sub(1, Ordering::SeqCst);
        }
        (round != END).then_some(round)
    }

    fn note_panic<T>(&self, result: thread::Result<T>) {
        let Err(panic) = result else { return };
        let mut first = lock(&self.panic);
        match *first {
            None => *first = Some(panic),
            // Dropped, it might panic again, here where nobody catches it: the round would never end.
            Some(_) => mem::forget(panic),
        }
    }
}

/// The number of cores that this process may use.
pub(crate) fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// A panic leaves nothing half done here that the next round would not do anew.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::panic::panic_any;
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn every_thread_works_once_a_round() {
        for threads in 1..5 {
            let counts: Vec<AtomicUsize> = (0..threads).map(|_| AtomicUsize::new(0)).collect();
            let mut pool = Pool::new(threads, Vectors::Widest).unwrap();
            for round in 1..500 {
                pool.run(&|nth| _ = counts[nth].fetch_add(1, Ordering::Relaxed));
                assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == round));
                if round % 100 == 0 {
                    thread::sleep(3 * PATIENCE); // The threads fall asleep and are woken again.
                }
            }
        }
    }

    #[test]
    fn after_a_panic_the_threads_are_there_as_before() {
        for panicking in 0..3 {
            let mut pool = Pool::new(3, Vectors::Widest).unwrap();
            for round in 0..4 {
                let ran = Mutex::new(Vec::new());
                let work = |nth| {
                    assert!(round != 1 || nth != panicking, "thread {nth}");
                    lock(&ran).push(nth);
                };
                let succeeded = catch_unwind(AssertUnwindSafe(|| pool.run(&work))).is_ok();
                assert_eq!(succeeded, round != 1);
                assert_eq!(lock(&ran).len(), if succeeded { 3 } else { 2 });
            }
        }
    }

    /// What a thread may panic with, too.
    struct PanicsWhenDropped;

    impl Drop for PanicsWhenDropped {
        fn drop(&mut self) {
            panic!("dropped");
        }
    }

    #[test]
    fn a_round_ends_when_several_threads_panic_whatever_they_panic_with() {
        let (ended, end) = mpsc::channel();
        thread::spawn(move || {
            let mut pool = Pool::new(3, Vectors::Widest).unwrap();
            let panic = catch_unwind(AssertUnwindSafe(|| pool.run(&|_| panic_any(PanicsWhenDropped)))).unwrap_err();
            assert!(panic.is::<PanicsWhenDropped>());
            mem::forget(panic);
            pool.run(&|_| ());
            ended.send(()).unwrap();
        });
        end.recv_timeout(Duration::from_secs(20)).expect("a round that ends");
    }
}
