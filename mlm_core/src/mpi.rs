//! Processes on one or several machines that MPI has started together: connects their engines. The one file that calls MPI.

use std::ffi::c_int;
use std::fmt;
use std::mem;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use ::mpi::Threading;
use ::mpi::environment::Universe;
use ::mpi::ffi;
use ::mpi::topology::Communicator as _;

use crate::engine::communicator::{Communicator, Exchange, Pending};
use crate::error::{Error, Result};

/// The processes of an MPI job (`mpirun -n 4 ...`), each with an engine: a [`Communicator`].
pub struct Mpi {
    rank: usize,
    ranks: usize,
    /// Where there are several machines. It stops before MPI ends.
    caller: Option<Caller>,
    /// MPI ends with it.
    universe: Universe,
}

/// MPI is called by one thread at a time.
static CALLS: Mutex<()> = Mutex::new(());

/// The caller sleeps so long between two calls. On two machines of one core (network namespaces), 5.3 million parameters, a call
/// every 50 us made what was computed meanwhile slower by 17 %, one a millisecond by 5 %, and hid as much of the exchange.
const BETWEEN_CALLS: Duration = Duration::from_millis(1);

/// Numbers of an exchange that is worth calls: others are over when they have begun.
const WORTH_CALLS: usize = 1 << 14;

impl fmt::Debug for Mpi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mpi {{ rank: {}, ranks: {} }}", self.rank, self.ranks)
    }
}

impl Mpi {
    /// Joins the job. A process can do so once, and MPI is over for it when this is dropped.
    ///
    /// # Errors
    /// When this process has joined before, or this MPI can be called by one thread only.
    #[allow(unsafe_code)]
    pub fn join() -> Result<Self> {
        let Some((universe, threading)) = ::mpi::initialize_with_threading(Threading::Serialized) else {
            return Err(Error::Communicator("this process has joined its MPI job before".to_owned()));
        };
        if threading < Threading::Serialized {
            let reason = format!("expected an MPI that several threads can call in turns, got {threading:?}");
            return Err(Error::Communicator(reason));
        }
        // SAFETY: both are MPI's own, and it has begun. Without this it would end the process where that can say what is wrong.
        check(unsafe { ffi::MPI_Comm_set_errhandler(ffi::RSMPI_COMM_WORLD, ffi::RSMPI_ERRORS_RETURN) })?;
        let world = universe.world();
        let (rank, ranks) = (world.rank() as usize, world.size() as usize);
        // On one machine there is nobody else to move numbers: whoever calls copies them, and does not compute meanwhile.
        let is_one_machine = world.split_shared(0).size() == world.size();
        let caller = if is_one_machine { None } else { Some(Caller::start()?) };
        Ok(Self { rank, ranks, caller, universe })
    }
}

/// A thread that calls MPI while the others compute: over a network it goes on with what has begun only while somebody does.
struct Caller {
    thread: Option<JoinHandle<()>>,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    /// How many exchanges are worth calls now.
    under_way: AtomicUsize,
    is_over: AtomicBool,
}

impl Caller {
    fn start() -> Result<Self> {
        let state = Arc::<State>::default();
        let of_thread = Arc::clone(&state);
        let started = thread::Builder::new().name("mpi".to_owned()).spawn(move || of_thread.call_while_under_way());
        let thread = started.map_err(|error| Error::Communicator(format!("cannot start a thread: {error}")))?;
        Ok(Self { thread: Some(thread), state })
    }

    /// From now on it calls, until this is dropped.
    fn under_way(&self) -> UnderWay {
        if self.state.under_way.fetch_add(1, Ordering::AcqRel) == 0 {
            self.thread.iter().for_each(|caller| caller.thread().unpark());
        }
        UnderWay(Arc::clone(&self.state))
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        self.state.is_over.store(true, Ordering::Release);
        if let Some(caller) = self.thread.take() {
            caller.thread().unpark();
            // Nothing in it panics.
            let _ = caller.join();
        }
    }
}

impl State {
    #[allow(unsafe_code)]
    fn call_while_under_way(&self) {
        while !self.is_over.load(Ordering::Acquire) {
            if self.under_way.load(Ordering::Acquire) == 0 {
                thread::park();
                continue;
            }
            // Whoever calls it now lets it go on as well.
            if let Ok(_one_at_a_time) = CALLS.try_lock() {
                let mut is_there = 0;
                // SAFETY: asks whether there is a message. There is none, as exchanges are not messages; but all of MPI goes on.
                // What goes wrong, whoever waits for it is told, too.
                unsafe {
                    ffi::MPI_Iprobe(
                        ffi::RSMPI_ANY_SOURCE,
                        ffi::RSMPI_ANY_TAG,
                        ffi::RSMPI_COMM_WORLD,
                        &mut is_there,
                        ffi::RSMPI_STATUS_IGNORE,
                    );
                }
            }
            thread::sleep(BETWEEN_CALLS);
        }
    }
}

/// An exchange that is worth calls.
struct UnderWay(Arc<State>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Drop for Mpi {
    fn drop(&mut self) {
        // To leave MPI takes all ranks.
        if thread::panicking() {
            self.abort(101);
        }
    }
}

impl Communicator for Mpi {
    fn rank(&self) -> usize {
        self.rank
    }

    fn ranks(&self) -> usize {
        self.ranks
    }

    fn host(&self) -> String {
        let _one_at_a_time = call();
        ::mpi::environment::processor_name().unwrap_or_default()
    }

    fn abort(&self, status: u8) -> ! {
        // Not behind the lock: whoever has it may wait for ever.
        self.universe.world().abort(status.into())
    }

    #[allow(unsafe_code)]
    fn begin(&self, exchange: Exchange) -> Result<Box<dyn Pending>> {
        let [to, from] = [Places::new(&exchange.to)?, Places::new(&exchange.from)?];
        let mut kept = Box::new(Kept { to, from, exchange });
        let Kept { to, from, exchange } = &mut *kept;
        assert!(to.end <= exchange.sent.len() && from.end <= exchange.received.len(), "ranges of the numbers");
        let _one_at_a_time = call();
        // SAFETY: MPI reads and writes the numbers within the places, as asserted, until it says that it has done so; all of them
        // belong to what is kept where it is till then.
        let request = unsafe {
            let mut of_mpi = mem::MaybeUninit::uninit();
            check(ffi::MPI_Ialltoallv(
                exchange.sent.as_ptr().cast(),
                to.counts.as_ptr(),
                to.starts.as_ptr(),
                ffi::RSMPI_FLOAT,
                exchange.received.as_mut_ptr().cast(),
                from.counts.as_ptr(),
                from.starts.as_ptr(),
                ffi::RSMPI_FLOAT,
                ffi::RSMPI_COMM_WORLD,
                of_mpi.as_mut_ptr(),
            ))?;
            Request(of_mpi.assume_init())
        };
        let is_worth_calls = kept.exchange.sent.len().max(kept.exchange.received.len()) >= WORTH_CALLS;
        let under_way = self.caller.as_ref().filter(|_| is_worth_calls).map(Caller::under_way);
        Ok(Box::new(InFlight { request, kept: Some(kept), under_way }))
    }
}

/// Which numbers are whose, as MPI wants to know it.
struct Places {
    counts: Vec<c_int>,
    starts: Vec<c_int>,
    /// Where the last of them ends.
    end: usize,
}

impl Places {
    fn new(ranges: &[Range<usize>]) -> Result<Self> {
        let end = ranges.iter().map(|range| range.end).max().unwrap_or(0);
        if c_int::try_from(end).is_err() {
            return Err(Error::Communicator(format!("expected at most {} of them at once, got {end}", c_int::MAX)));
        }
        let counts = ranges.iter().map(|range| range.len() as c_int).collect();
        let starts = ranges.iter().map(|range| range.start as c_int).collect();
        Ok(Self { counts, starts, end })
    }
}

/// What MPI knows an exchange by: a number or an address.
struct Request(ffi::MPI_Request);

// SAFETY: any thread may pass it to MPI, one at a time.
#[allow(unsafe_code)]
unsafe impl Send for Request {}

/// What MPI looks at until an exchange is over.
struct Kept {
    to: Places,
    from: Places,
    exchange: Exchange,
}

/// An exchange; nothing is kept of it when it is over.
struct InFlight {
    request: Request,
    kept: Option<Box<Kept>>,
    under_way: Option<UnderWay>,
}

impl Pending for InFlight {
    #[allow(unsafe_code)]
    fn test(&mut self) -> Result<Option<Exchange>> {
        let mut is_over: c_int = 0;
        {
            let _one_at_a_time = call();
            // SAFETY: the request is one that MPI has begun, or the one that it leaves when that is over.
            check(unsafe { ffi::MPI_Test(&mut self.request.0, &mut is_over, ffi::RSMPI_STATUS_IGNORE) })?;
        }
        if is_over == 0 {
            return Ok(None);
        }
        self.under_way = None;
        Ok(self.kept.take().map(|kept| kept.exchange))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        // MPI may still write to its memory: nobody else is to have it.
        mem::forget(self.kept.take());
    }
}

fn call() -> MutexGuard<'static, ()> {
    CALLS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What MPI says of a call that did not succeed.
#[allow(unsafe_code)]
fn check(code: c_int) -> Result<()> {
    const LONGEST: usize = 4096;
    if code == 0 {
        return Ok(());
    }
    let (mut text, mut length) = ([0u8; LONGEST], 0);
    // SAFETY: the text has room for the longest that MPI writes (512 bytes in MPICH, 256 in Open MPI).
    unsafe { ffi::MPI_Error_string(code, text.as_mut_ptr().cast(), &mut length) };
    let text = &text[..LONGEST.min(length.max(0) as usize)];
    Err(Error::Communicator(format!("MPI says: {}", String::from_utf8_lossy(text))))
}
