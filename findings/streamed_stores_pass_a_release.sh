#!/usr/bin/env bash
# Guess: who reads with Acquire what was stored with Release sees everything that the other thread has written before. And if
#        streamed stores (_mm_stream_ps, past the caches) were an exception, tests with several threads would show it.
# Found: on x86-64 numbers that were streamed arrive after the word that they are there, more than half of them, unless an
#        sfence stands between. A SeqCst store, or giving up the core once, hides that, since both wait for all stores: a
#        test whose threads meet at a mutex or yield passes without the fence.
set -euo pipefail
[ "$(uname -m)" = x86_64 ] || { echo "needs an x86-64 processor"; exit 2; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
rustc --version
grep -m 1 "model name" /proc/cpuinfo

cat >main.rs <<'RUST'
use std::arch::x86_64::{_mm_set1_ps, _mm_sfence, _mm_stream_ps};
use std::cell::UnsafeCell;
use std::hint::spin_loop;
use std::sync::atomic::{AtomicUsize, Ordering::*};
use std::thread;

// A whole line of the cache and a quarter of the next.
#[repr(align(64))]
struct Numbers(UnsafeCell<[f32; 20]>);

unsafe impl Sync for Numbers {}

static NUMBERS: Numbers = Numbers(UnsafeCell::new([0.0; 20]));
static WRITTEN: AtomicUsize = AtomicUsize::new(0);
static READ: AtomicUsize = AtomicUsize::new(0);

const ROUNDS: usize = 20_000;

fn until(count: &AtomicUsize, round: usize) {
    let mut looks = 0;
    while count.load(Acquire) < round {
        looks += 1;
        if looks % 10_000 == 0 { thread::yield_now() } else { spin_loop() }
    }
}

/// How many numbers are the last round's, of those that are read after the word that this round's are there.
fn late(tell: fn(usize)) -> usize {
    WRITTEN.store(0, SeqCst);
    READ.store(0, SeqCst);
    thread::scope(|threads| {
        threads.spawn(|| {
            for round in 1..=ROUNDS {
                let numbers = NUMBERS.0.get().cast::<f32>();
                for i in (0..20).step_by(4) {
                    unsafe { _mm_stream_ps(numbers.add(i), _mm_set1_ps(round as f32)) };
                }
                tell(round);
                until(&READ, round);
            }
        });
        let mut late = 0;
        for round in 1..=ROUNDS {
            until(&WRITTEN, round);
            let numbers = NUMBERS.0.get().cast::<f32>();
            late += (0..20).filter(|&i| unsafe { numbers.add(i).read_volatile() } != round as f32).count();
            READ.store(round, Release);
        }
        late
    })
}

fn main() {
    let release = late(|round| WRITTEN.store(round, Release));
    let fenced = late(|round| {
        unsafe { _mm_sfence() };
        WRITTEN.store(round, Release);
    });
    let seq_cst = late(|round| WRITTEN.store(round, SeqCst));
    let yields = late(|round| {
        thread::yield_now();
        WRITTEN.store(round, Release);
    });
    println!("late, of {} numbers:", 20 * ROUNDS);
    println!("Release           {release}");
    println!("sfence, Release   {fenced}");
    println!("SeqCst            {seq_cst}");
    println!("yield, Release    {yields}");
    assert!(release > 0 && fenced == 0 && seq_cst == 0, "this is no longer so");
}
RUST
rustc --edition 2024 -O main.rs
./main
