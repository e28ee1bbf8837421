//! Bytes that nobody thought of: everything that reads what peers and people write is given mutated inputs, and must keep
//! what it promises, which is more than not to panic.
//!
//! A driver for stable Rust: it replays the inputs each target begins with, then mutates them for as long as its time lasts,
//! about a second each, or `OPTIMACORE_FUZZ_SECONDS`. A failure prints the input; put it among the target's own inputs then,
//! so that it is replayed for ever. `OPTIMACORE_SOAK_SEED` sets the seed.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that fails panics")]

mod ini;
mod protocol;
mod sasl;
mod text;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

/// Longest input; longer ones teach nothing more.
const LEN_MAX: usize = 4096;
/// Mutated inputs that are mutated further.
const KEPT_MAX: usize = 256;

/// What is tried, and what it is tried with.
struct Target {
    name: &'static str,
    inputs: &'static [&'static [u8]],
    /// Pieces that mean something to it.
    words: &'static [&'static [u8]],
    /// Panics when a promise is broken.
    check: fn(&[u8]),
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

fn drive(target: &Target) {
    let seed = number("OPTIMACORE_SOAK_SEED").unwrap_or_else(|| fastrand::u64(..));
    let time = number("OPTIMACORE_FUZZ_SECONDS").map_or(Duration::from_millis(1_200), Duration::from_secs);
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut kept: Vec<Vec<u8>> = target.inputs.iter().map(|input| input.to_vec()).collect();
    for input in &kept {
        check(target, input, seed);
    }
    let until = Instant::now() + time;
    let mut count: u64 = 0;
    while Instant::now() < until {
        let mut input = kept.get(rng.usize(..kept.len())).unwrap().clone();
        let other = kept.get(rng.usize(..kept.len())).unwrap().clone();
        for _ in 0..=rng.usize(..4) {
            mutate(&mut rng, &mut input, &other, target.words);
        }
        input.truncate(LEN_MAX);
        check(target, &input, seed);
        count += 1;
        if rng.u32(..16) == 0 {
            let room = kept.len() < target.inputs.len() + KEPT_MAX;
            let at = if room { kept.len() } else { rng.usize(target.inputs.len()..kept.len()) };
            if room {
                kept.push(input);
            } else if let Some(old) = kept.get_mut(at) {
                *old = input;
            }
        }
    }
    assert!(count > 100, "{}: only {count} inputs", target.name);
}

fn check(target: &Target, input: &[u8], seed: u64) {
    let outcome = catch_unwind(AssertUnwindSafe(|| (target.check)(input)));
    assert!(outcome.is_ok(), "{}, seed {seed}, broke its promise for b\"{}\"", target.name, input.escape_ascii());
}

/// Numbers at which arithmetic goes wrong.
const EDGES: [u32; 14] =
    [0, 1, 2, 3, 4, 5, 8, 255, 10_000, 0x3fff_ffff, 0x7fff_ffff, 0x8000_0000, 0xffff_fff0, 0xffff_ffff];

fn mutate(rng: &mut fastrand::Rng, input: &mut Vec<u8>, other: &[u8], words: &[&[u8]]) {
    let at = rng.usize(..=input.len());
    let len = rng.usize(..=(input.len() - at).min(32));
    match rng.u32(..9) {
        0 => {
            if let Some(byte) = input.get_mut(at) {
                *byte ^= 1 << rng.u32(..8);
            }
        }
        1 => {
            if let Some(byte) = input.get_mut(at) {
                *byte = rng.u8(..);
            }
        }
        2 => {
            input.drain(at..at + len);
        }
        3 => {
            let copy: Vec<u8> = input.iter().skip(at).take(len).copied().collect();
            input.splice(at..at, copy);
        }
        4 | 5 => {
            let edge = EDGES.get(rng.usize(..EDGES.len())).unwrap().to_be_bytes();
            let edge = edge.get(rng.usize(..2) * 2..).unwrap_or_default().iter().copied();
            let over = (at + edge.len()).min(input.len());
            input.splice(at..over, edge);
        }
        6 => {
            let from = rng.usize(..=other.len());
            input.truncate(at);
            input.extend(other.iter().skip(from));
        }
        7 if !words.is_empty() => {
            let word = words.get(rng.usize(..words.len())).unwrap();
            input.splice(at..at, word.iter().copied());
        }
        _ => input.splice(at..at, std::iter::repeat_with(|| rng.u8(..)).take(3)).for_each(drop),
    }
}

#[test]
fn frames_and_messages() {
    drive(&protocol::FRAMES);
}

#[test]
fn startup_packets() {
    drive(&protocol::STARTUP);
}

#[test]
fn what_backends_say() {
    drive(&protocol::BACKEND);
}

#[test]
fn what_is_owed() {
    drive(&protocol::PIPELINE);
}

#[test]
fn proofs_of_both_sides() {
    drive(&sasl::EXCHANGE);
}

#[test]
fn secrets() {
    drive(&sasl::SECRETS);
}

#[test]
fn statements() {
    drive(&text::SQL);
}

#[test]
fn configurations() {
    drive(&text::CONFIG);
}

#[test]
fn configurations_of_pgbouncer() {
    drive(&ini::INI);
}

#[test]
fn snapshots() {
    drive(&text::SNAPSHOT);
}
