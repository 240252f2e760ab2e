//! Which vector instructions the threads compute with.

use std::cell::Cell;

use pulp::Arch;

/// How many numbers the engine computes with at a time: as many as the processor's widest vector instructions take, or
/// fewer, to see what these are worth.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Vectors {
    /// One at a time, as on any processor, wherever the compiler finds no vectors of its own.
    None,
    /// At most 8 f32 at a time: AVX2 with FMA, or the 4 of NEON.
    Bits256,
    /// All that there is, up to the 16 f32 of AVX-512.
    #[default]
    Widest,
}

thread_local! {
    static ON_THIS_THREAD: Cell<Vectors> = const { Cell::new(Vectors::Widest) };
}

impl Vectors {
    /// Runs a function whose operations use these.
    pub(crate) fn within<T>(self, work: impl FnOnce() -> T) -> T {
        /// Puts things back, whatever happens.
        struct Before(Vectors);
        impl Drop for Before {
            fn drop(&mut self) {
                ON_THIS_THREAD.set(self.0);
            }
        }
        let _before = Before(ON_THIS_THREAD.replace(self));
        work()
    }
}

/// For the operations that this thread computes now.
pub(crate) fn arch() -> Arch {
    match (ON_THIS_THREAD.get(), Arch::new()) {
        (Vectors::None, _) => Arch::Scalar,
        #[cfg(target_arch = "x86_64")]
        (Vectors::Bits256, Arch::V4(_)) => pulp::x86::V3::try_new().map_or(Arch::Scalar, Arch::V3),
        (_, widest) => widest,
    }
}

/// What the terms of all values add up to, in f64 and in lanes, which the compiler turns into vectors where this is inlined into an
/// operation that uses them.
#[inline(always)]
pub(crate) fn sum_of<T: Copy>(values: &[T], term: impl Fn(T) -> f64) -> f64 {
    const LANES: usize = 16;
    let mut lanes = [0f64; LANES];
    let (chunks, rest) = values.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, &value) in lanes.iter_mut().zip(chunk) {
            *lane += term(value);
        }
    }
    for (lane, &value) in lanes.iter_mut().zip(rest) {
        *lane += term(value);
    }
    lanes.iter().sum()
}
