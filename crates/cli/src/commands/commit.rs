mod compression;
pub(crate) mod detached;
mod report;

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{ArgAction, Args, ValueEnum};
use registry::Reference;
use registry::media::Format;

use self::compression::CompressionArg;
use super::source::{SelectionArgs, SourceArgs};
use crate::context::{self, Context};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{self, OutputArgs};
use crate::saving::{self, Request, Shape, TimePolicy, WithEnv, Words};

/// Save what a container changed as an image, while it runs.
///
/// Only the change is read, so a save costs what changed, not what the image holds. The container stands
/// still only for what could not be read cleanly while it ran (`headstart help pause`). The image is its base
/// and a few layers of growing size (`headstart help tiers`).
///
/// Prints the id of the image. What was saved, and what was not, is told on standard error and in
/// `-o json`. Exit status 7 says that the image was made but lacks a path that is named, or has a file that
/// changed while it was read; `--strict` makes no such image.
///
/// Environment and arguments of the running process are taken only with `--with-env`: they hold secrets.
///
/// In JSON a path whose bytes are not all printable UTF-8 is escaped in `path`, and `path_base64` has the
/// bytes themselves.
#[derive(Debug, Args)]
#[command(
    override_usage = "headstart commit [OPTIONS] <SOURCE> [NAME]",
    after_help = "\
Examples:
  headstart commit --pid 4121 team/api:wip
  headstart commit --pid 4121 -m 'before the rebase' -c 'CMD [\"bash\"]' team/api:wip
  headstart commit --dry-run --upper up --lower root
All flags: headstart help commit"
)]
pub(crate) struct CommitArgs {
    /// What the image is called; without a tag, `latest`
    #[arg(value_name = "NAME")]
    name: Option<String>,

    #[command(flatten)]
    source: SourceArgs,

    #[command(flatten)]
    selection: SelectionArgs,

    #[command(flatten)]
    image: ImageArgs,

    #[command(flatten)]
    layers: LayerArgs,

    #[command(flatten)]
    saving: SavingArgs,

    #[command(flatten)]
    output: OutputArgs,
}

/// What the image says about itself.
#[derive(Debug, Args)]
#[command(next_help_heading = "Image")]
struct ImageArgs {
    /// Who made it
    #[arg(short, long, value_name = "WHO")]
    author: Option<String>,

    /// What for
    #[arg(short, long, value_name = "TEXT")]
    message: Option<String>,

    /// Apply a Dockerfile instruction (CMD, ENV, LABEL, …); may be repeated
    #[arg(short, long, value_name = "INSTRUCTION")]
    change: Vec<String>,

    /// Take arguments and environment of the process, or these variables only
    #[arg(long, value_name = "KEY,…", num_args = 0..=1, require_equals = true, value_delimiter = ',')]
    with_env: Option<Vec<String>>,

    /// Whose media types; docker's go with gzip
    #[arg(long, value_enum, value_name = "oci|docker", default_value = "oci")]
    #[arg(hide_possible_values = true, hide_default_value = true)]
    format: FormatArg,

    /// Write the id of the image to this file, too
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath, hide_short_help = true)]
    iidfile: Option<PathBuf>,
}

/// How new layers are made.
#[derive(Debug, Args)]
#[command(next_help_heading = "Image")]
struct LayerArgs {
    /// none, gzip, zstd or auto, and a level: zstd:3
    #[arg(long, value_name = "HOW[:LEVEL]")]
    compression: Option<CompressionArg>,

    /// One layer over the base, as docker has it
    #[arg(long, conflicts_with = "squash")]
    cumulative: bool,

    /// One layer over the base, packed from nothing
    #[arg(long, hide_short_help = true)]
    squash: bool,

    /// Rewrite own layers that hold what was deleted since
    #[arg(long, hide_short_help = true)]
    purge: bool,

    /// Times of files in nanoseconds, or in seconds as stock containerd has them
    #[arg(long, value_enum, value_name = "ns|s", default_value = "ns")]
    #[arg(hide_possible_values = true, hide_default_value = true, hide_short_help = true)]
    mtime: Mtime,

    /// Compressing threads; as many as processors by default
    #[arg(long, value_name = "N", hide_short_help = true)]
    threads: Option<NonZeroUsize>,
}

/// How it is saved.
#[derive(Debug, Args)]
#[command(next_help_heading = "Saving")]
struct SavingArgs {
    /// Stop the container for what must stand still (default: true)
    #[arg(short, long, value_name = "true|false", action = ArgAction::Set)]
    #[arg(num_args = 0..=1, require_equals = true, default_value = "true", default_missing_value = "true")]
    #[arg(hide_possible_values = true, hide_default_value = true)]
    pause: bool,

    /// Make no image that lacks a path or has a torn file
    #[arg(long, hide_short_help = true)]
    strict: bool,

    /// Read everything again, whatever is known to be unchanged
    #[arg(long, hide_short_help = true)]
    verify: bool,

    /// Return when the content is fixed, or when it survives a power cut (default)
    #[arg(long, value_enum, value_name = "sealed|durable", default_value = "durable")]
    #[arg(hide_possible_values = true, hide_default_value = true, hide_short_help = true)]
    wait: WaitArg,

    /// Say what would be saved, and write nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum FormatArg {
    Oci,
    Docker,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Mtime {
    Ns,
    S,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum WaitArg {
    Sealed,
    Durable,
}

pub(crate) fn run(arguments: CommitArgs, context: &Context) -> Result<Exit, Failure> {
    let request = request(&arguments)?;
    let waits_for_less = arguments.saving.wait == WaitArg::Sealed && !arguments.saving.dry_run;
    if waits_for_less && !detached::is_second() {
        return detached::first(arguments.name.as_deref(), arguments.output.is_json(), context);
    }
    let store = context.store()?;
    let progress = context.progress();
    let report = saving::commit(&store, &request, !arguments.saving.dry_run, context, &progress)?;
    progress.finish();
    if waits_for_less && !report.is_partial() {
        detached::done();
    }

    if let (Some(path), Some(id)) = (&arguments.image.iidfile, report.id) {
        std::fs::write(path, id.to_string()).map_err(|error| Failure::io(path.display(), &error))?;
    }
    // the summary first: a reader of stdout that goes away must not keep it from the user
    if !context.quiet && !arguments.output.is_json() {
        output::tell(report::summary(&report, arguments.saving.dry_run).trim_end());
    }
    if arguments.output.is_json() {
        output::json(&report::Json::of(&report))?;
    } else if let Some(id) = report.id {
        output::answer(&id.to_string())?;
    }
    Ok(if report.is_partial() { Exit::Partial } else { Exit::Done })
}

fn request(arguments: &CommitArgs) -> Result<Request, Failure> {
    let CommitArgs { source, selection, image, layers, saving, .. } = arguments;
    let format = match image.format {
        FormatArg::Oci => Format::Oci,
        FormatArg::Docker => Format::Docker,
    };
    let epoch = context::source_date_epoch()?.map(jiff::Timestamp::as_second);
    let name = arguments.name.as_deref().map(Reference::for_tagging).transpose()?;
    Ok(Request {
        source: source.spec("commit")?,
        find: source.find_options(),
        base: source.base.clone(),
        names: name.into_iter().collect(),
        format,
        compression: compression::choose(layers.compression, format)?,
        threads: layers.threads.map(NonZeroUsize::get),
        pause: saving.pause,
        shape: match (layers.cumulative, layers.squash) {
            (true, _) => Shape::Cumulative,
            (false, true) => Shape::Squash,
            (false, false) => Shape::Tiered,
        },
        purge: layers.purge,
        verify: saving.verify,
        selection: selection.selection(),
        include_mounts: selection.include_mount.clone(),
        xattrs: selection.xattrs(),
        times: TimePolicy { whole_seconds: layers.mtime == Mtime::S, latest: epoch },
        strict: saving.strict,
        words: Words {
            author: image.author.clone(),
            message: image.message.clone(),
            changes: super::import::changes(&image.change)?,
            created_by: None,
            with_env: image.with_env.as_ref().map(|keys| match &keys[..] {
                [] => WithEnv::All,
                keys => WithEnv::Keys(keys.to_vec()),
            }),
            created: epoch,
        },
    })
}
