//! What the benchmarks share: seeded input, timing of whole commands, tables and JSON.
//!
//! How to measure stands in docs/performance.md: hot cache, warm-ups dropped, contenders interleaved,
//! medians and their ratios, CPU seconds beside them, output synced on every side. A sample is a whole
//! command: its process starts in it, and its output is durable at its end.
//!
//! # Not here
//!
//! Timed asserts. A benchmark reports; what a target is stands in the documentation.

#![forbid(unsafe_code)]

pub mod image;
pub mod machine;
pub mod measure;
pub mod report;
pub mod seeded;
