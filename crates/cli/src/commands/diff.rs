use std::io::{self, BufWriter, Write as _};

use clap::Args;
use serde::Serialize;

use super::source::{SelectionArgs, SourceArgs};
use crate::context::Context;
use crate::escape::{self, JsonPath};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::human;
use crate::output::OutputArgs;
use crate::saving::{self, Compression, DiffKind, DiffLine, Request, Shape, TimePolicy, Words};

/// Show what a save would add, change and delete, in docker's letters: A, C, D.
///
/// Lines come in the order of a walk, while it is walked. In text, bytes of a name that are not printable
/// are escaped (`\n`, `\xff`); in JSON, one object on each line, such a name has its bytes in `path_base64`.
#[derive(Debug, Args)]
#[command(
    override_usage = "headstart diff [OPTIONS] <SOURCE>",
    after_help = "\
Examples:
  headstart diff --pid 4121
  headstart diff --size --upper up --lower root | grep ^A
  headstart diff -o json --pid 4121 --only /etc"
)]
pub(crate) struct DiffArgs {
    #[command(flatten)]
    source: SourceArgs,

    #[command(flatten)]
    selection: SelectionArgs,

    /// Print the sizes of files, too
    #[arg(short, long, help_heading = "Output")]
    size: bool,

    #[command(flatten, next_help_heading = "Output")]
    output: OutputArgs,
}

#[derive(Debug, Serialize)]
struct Line {
    kind: &'static str,
    #[serde(flatten)]
    path: JsonPath,
    size: Option<u64>,
}

pub(crate) fn run(arguments: DiffArgs, context: &Context) -> Result<Exit, Failure> {
    let request = request(&arguments)?;
    let store = context.store()?;
    let mut out = BufWriter::new(io::stdout().lock());
    let mut gone = None;
    let compared = saving::diff(
        &store,
        &request,
        &mut |line| {
            print(&mut out, &line, &arguments).inspect_err(|error| {
                // what the room makes of it does not say that it was stdout
                gone.get_or_insert(io::Error::from(error.kind()));
            })
        },
        context,
    );
    let flushed = out.flush();
    match gone.or(flushed.err()) {
        Some(error) => Err(Failure::stdout(&error)),
        None => compared.map(|()| Exit::Done),
    }
}

fn print(out: &mut impl io::Write, line: &DiffLine, arguments: &DiffArgs) -> io::Result<()> {
    let letter = match line.what {
        DiffKind::Added => "A",
        DiffKind::Changed => "C",
        DiffKind::Deleted => "D",
    };
    if arguments.output.is_json() {
        let line = Line { kind: letter, path: JsonPath::rooted(&line.path), size: line.size };
        serde_json::to_writer(&mut *out, &line)?;
        return out.write_all(b"\n");
    }
    let path = escape::bytes(&escape::rooted(&line.path));
    match line.size.filter(|_| arguments.size) {
        Some(size) => writeln!(out, "{letter} {path:<45} {:>10}", human::size(size)),
        None => writeln!(out, "{letter} {path}"),
    }
}

/// A request of which only source and selection matter.
fn request(arguments: &DiffArgs) -> Result<Request, Failure> {
    Ok(Request {
        source: arguments.source.spec("diff")?,
        find: arguments.source.find_options(),
        base: arguments.source.base.clone(),
        names: Vec::new(),
        format: registry::media::Format::default(),
        compression: Compression::None,
        threads: None,
        pause: false,
        shape: Shape::default(),
        purge: false,
        verify: false,
        selection: arguments.selection.selection(),
        include_mounts: arguments.selection.include_mount.clone(),
        xattrs: arguments.selection.xattrs(),
        times: TimePolicy::default(),
        strict: false,
        words: Words::default(),
    })
}
