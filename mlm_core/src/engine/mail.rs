//! Numbers for another thread: takes some that this thread has computed, writes them to a place that others read.
//!
//! Each core keeps the memory that it uses in a cache of its own, in lines of 64 bytes. Before it can write to a line that
//! another core has read, that core must let go of it; on some machines, or at some times, this takes 5 ns a line, at
//! others 70, and a training step would do little else. So threads compute in memory that nobody else looks at, and what
//! others are to know they write past the caches, with stores that do not need the line.

/// Copies numbers to where other threads read them. They may read when a lock, or the end of a round, says so.
///
/// # Panics
/// When the slices differ in length.
#[allow(unsafe_code)]
pub(crate) fn post(from: &[f32], to: &mut [f32]) {
    assert_eq!(from.len(), to.len());
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_mm_loadu_ps, _mm_sfence, _mm_stream_ps};

        // The stores write 4 numbers to addresses that are multiples of 16 bytes.
        let (before, rest) = from.split_at(to.as_ptr().align_offset(16).min(to.len()));
        let (to_before, to_rest) = to.split_at_mut(before.len());
        to_before.copy_from_slice(before);
        let (fours, tail) = rest.as_chunks::<4>();
        let (to_fours, to_tail) = to_rest.as_chunks_mut::<4>();
        for (from, to) in fours.iter().zip(to_fours) {
            // SAFETY: both are 4 numbers; the second ones start at a multiple of 16 bytes. Every x86_64 has SSE.
            unsafe { _mm_stream_ps(to.as_mut_ptr(), _mm_loadu_ps(from.as_ptr())) };
        }
        to_tail.copy_from_slice(tail);
        // SAFETY: as above. Without it, other threads might see these stores only after later ones, such as a lock's.
        unsafe { _mm_sfence() };
    }
    #[cfg(not(target_arch = "x86_64"))]
    to.copy_from_slice(from);
}

#[cfg(test)]
mod tests {
    use std::cell::UnsafeCell;
    use std::hint;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    use super::*;

    #[test]
    fn copies_slices_of_any_length_to_any_address() {
        let from: Vec<f32> = (0..100).map(|i| i as f32).collect();
        for start in 0..9 {
            for length in 0..40 {
                let mut to = vec![-1.0; 60];
                post(&from[..length], &mut to[start..start + length]);
                for (i, &value) in to.iter().enumerate() {
                    let inside = (start..start + length).contains(&i);
                    assert_eq!(value, if inside { (i - start) as f32 } else { -1.0 });
                }
            }
        }
    }

    /// Numbers that two threads take turns with.
    #[repr(align(64))]
    struct Letter(UnsafeCell<[f32; 20]>);

    // SAFETY: the test below writes and reads them in turns, and its atomics say whose turn it is.
    #[allow(unsafe_code)]
    unsafe impl Sync for Letter {}

    impl Letter {
        fn numbers(&self) -> *mut [f32; 20] {
            self.0.get()
        }
    }

    /// Instructions that lock something wait for all stores before them; the reader here is told by one that does not.
    #[test]
    #[allow(unsafe_code)]
    fn who_sees_a_later_store_sees_all_numbers() {
        const ROUNDS: usize = 20_000;
        let letter = Letter(UnsafeCell::new([0.0; 20]));
        let (posted, read) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let wait = |count: &AtomicUsize, round: usize| {
            let mut looks = 0;
            while count.load(Ordering::Acquire) < round {
                looks += 1;
                if looks % 1000 == 0 { thread::yield_now() } else { hint::spin_loop() }
            }
        };
        thread::scope(|threads| {
            threads.spawn(|| {
                for round in 1..=ROUNDS {
                    // SAFETY: the reader has read the round before, and waits for this one.
                    let numbers = unsafe { &mut *letter.numbers() };
                    post(&[round as f32; 20], numbers);
                    posted.store(round, Ordering::Release);
                    wait(&read, round);
                }
            });
            let mut late = 0;
            for round in 1..=ROUNDS {
                wait(&posted, round);
                // SAFETY: the writer waits until it is told that they are read.
                let numbers = unsafe { &*letter.numbers() };
                late += numbers.iter().filter(|&&number| number != round as f32).count();
                read.store(round, Ordering::Release);
            }
            assert_eq!(late, 0, "numbers that came later than the word that they are there");
        });
    }
}
