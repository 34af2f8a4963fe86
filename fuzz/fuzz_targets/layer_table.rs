//! Any bytes as the records of a layer's table.
//!
//! # Oracle
//! * No panic, and no memory beyond a few times the input.
//! * A file without the right checksum is refused. With it (it is put there), every record is read or refused
//!   by an error, and the pass ends.
//! * What is read and written again is a table that reads the same.
#![no_main]

use std::fs::File;
use std::io::Write as _;

use layer::record_file::{Format, RecordFileWriter};
use layer::table::{Record, Table, TableWriter};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut file = tempfile::tempfile().expect("a file");
    file.write_all(bytes).expect("write");
    assert!(Table::open(file).is_err(), "BLAKE3 by chance");

    // each record: a length byte, then so many bytes
    let format = Format { magic: *b"HSTABLE\0", version: 1 };
    let mut writer = RecordFileWriter::create(tempfile::tempfile().expect("a file"), format).expect("create");
    let mut rest = bytes;
    while let Some((&len, more)) = rest.split_first() {
        let (record, later) = more.split_at(usize::from(len).min(more.len()));
        rest = later;
        if !record.is_empty() {
            writer.push(|out| out.extend_from_slice(record)).expect("push");
        }
    }
    let file = writer.finish().expect("finish");
    let records = read(file);
    let mut writer = TableWriter::create(tempfile::tempfile().expect("a file")).expect("create");
    records.iter().for_each(|record| writer.push(record).expect("push"));
    assert_eq!(read(writer.finish().expect("finish")), records);
});

/// All records up to the first that is none.
fn read(file: File) -> Vec<Record> {
    let table = Table::open(file).expect("the checksum is right");
    table.records().map_while(Result::ok).collect()
}
