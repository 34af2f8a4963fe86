//! How long [`Store::publish`] takes for an image of three small blobs, in the directory given.
//!
//! Beside it stands what the disk takes, in the same rounds, for as many commits of its journal as a
//! publish needs (three), one after another: on a busy machine only the ratio means something.
//!
//! `cargo run --release -p registry --example publish_latency -- DIR`

use std::io::Write;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use registry::config::{ImageConfig, Step};
use registry::media::{Compression, Format};
use registry::{Descriptor, Digest, Manifest, NewImage, Packed, Store};

const ROUNDS: usize = 50;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::args_os().nth(1).ok_or("a directory is needed")?;
    let dir = tempfile::TempDir::new_in(dir)?;
    let store = Store::open(dir.path())?;
    let (mut times, mut floor) = (Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        let mut layer = vec![0; 60_000];
        layer[..8].copy_from_slice(&round.to_le_bytes());
        let (digest, size) = (Digest::of(&layer), layer.len() as u64);
        let ingest = store.ingest()?;
        ingest.file().write_all(&layer)?;
        let mut config = ImageConfig::default();
        let created = Timestamp::UNIX_EPOCH;
        config.record(&Step { created, created_by: "bench".into(), author: None, comment: None }, &[digest]);
        let config = config.to_json();
        let new = Descriptor::new(Format::Oci.layer(Compression::Zstd)?, digest, size);
        let manifest = Manifest::compose(Format::Oci, &config, &[], vec![new])?.to_json();
        let layers = vec![Packed { ingest, digest, size }];
        let image = NewImage { layers, config, manifest, names: vec!["bench:1".parse()?] };
        let begun = Instant::now();
        store.publish(image)?;
        let published = begun.elapsed();
        let begun = Instant::now();
        for n in 0..3 {
            let path = dir.path().join(format!("floor-{round}-{n}"));
            let mut file = std::fs::File::create(path)?;
            file.write_all(&[1; 600])?;
            file.sync_data()?;
        }
        // The first publish makes the layout.
        if round > 0 {
            times.push(published);
            floor.push(begun.elapsed());
        }
    }
    report("publish of 3 blobs", times);
    report("3 journal commits", floor);
    Ok(())
}

#[expect(clippy::print_stdout, reason = "the answer of a program")]
fn report(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100].as_secs_f64() * 1e3;
    println!("{what}, {ROUNDS} rounds: median {:.2} ms, min {:.2}, p90 {:.2}", at(50), at(0), at(90));
}
