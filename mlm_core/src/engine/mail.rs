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
}
