//! `busy FILE BYTES RATE`: holds a file of so many bytes open and overwrites it at a rate, until it is ended.
//!
//! Runs inside of the container that is saved meanwhile, so it is static and needs nothing.

#![forbid(unsafe_code)]

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bench::seeded::Random;

/// Bytes of one write.
const BLOCK: usize = 1 << 20;

fn main() -> Result<()> {
    let mut words = std::env::args().skip(1);
    let mut word = |what: &str| words.next().with_context(|| format!("usage: busy FILE BYTES RATE: {what}?"));
    let path = word("FILE")?;
    let bytes: u64 = word("BYTES")?.parse().context("BYTES")?;
    let rate: u64 = word("RATE")?.parse().context("RATE, in bytes per second")?;
    let file = File::options().write(true).create(true).truncate(false).open(&path).context("open FILE")?;
    let (mut random, mut block) = (Random::new(1), vec![0; BLOCK]);
    random.fill(&mut block);
    let blocks = usize::try_from(bytes / BLOCK as u64).unwrap_or(usize::MAX).max(1);
    for number in 0..blocks {
        file.write_all_at(&block, (number * BLOCK) as u64).context("fill FILE")?;
    }
    let pause = Duration::from_secs_f64(BLOCK as f64 / rate.max(1) as f64);
    let mut next = Instant::now();
    loop {
        block[..8].copy_from_slice(&random.number().to_le_bytes());
        file.write_all_at(&block, (random.below(blocks) * BLOCK) as u64).context("write FILE")?;
        next += pause;
        // after standing still it goes on at its rate, and does not catch up
        next = next.max(Instant::now());
        std::thread::sleep(next - Instant::now());
    }
}
