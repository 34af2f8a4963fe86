use std::fs::File;
use std::path::{Path, PathBuf};

use clap::Args;
use layer::codec::read::LayerDigests;
use layer::unpack::{self, Form, Namespace, Options, Report};
use registry::{Digest, Image, Store};
use serde::Serialize;

use crate::complete;
use crate::context::{self, Context};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::file;
use crate::human;
use crate::output::{self, OutputArgs};

/// Unpack an image, or the tar of one layer, into a new directory.
///
/// The directory appears when all is written, every digest is right and the data is on the disk; otherwise
/// nothing appears. The store remembers what was unpacked where: a save of a container that runs on this
/// directory then knows its base.
///
/// A first argument that begins with `/` or `.`, or is `-`, is a file: the tar of one layer, plain or
/// compressed. Whoever is not root gets files of their own, as with tar.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  headstart unpack team/api:wip /srv/root
  headstart unpack --overlay-upper ./layer.tar.zst /srv/upper
  headstart unpack -o json debian:12 rootfs")]
pub(crate) struct UnpackArgs {
    /// Name, digest or id of an image; or a file
    #[arg(value_name = "IMAGE|FILE", add = complete::images())]
    source: String,

    /// A directory that does not exist, or is empty
    #[arg(value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    target: PathBuf,

    /// Write deletions as overlayfs has them: for a layer of an overlay mount
    #[arg(long)]
    overlay_upper: bool,

    /// With --overlay-upper: for a mount with the option userxattr
    #[arg(long, requires = "overlay_upper")]
    userxattr: bool,

    /// Make all files your own, as is the default for users other than root
    #[arg(long)]
    no_same_owner: bool,

    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Serialize)]
struct Answer {
    target: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<Digest>,
    layers: Vec<Layer>,
    entries: u64,
    bytes: u64,
    skipped: u64,
    xattrs_left_out: u64,
    warnings: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Layer {
    digest: Digest,
    diff_id: Digest,
}

pub(crate) fn run(arguments: &UnpackArgs, context: &Context) -> Result<Exit, Failure> {
    let same_owner = context::is_root() && !arguments.no_same_owner;
    let form = match (arguments.overlay_upper, arguments.userxattr) {
        (false, _) => Form::Plain,
        (true, false) => Form::Upper(Namespace::Trusted),
        (true, true) => Form::Upper(Namespace::User),
    };
    let progress = Telling::new(context);
    let tell = |done: unpack::Progress| progress.tell(done);
    let options = Options {
        form,
        same_owner,
        devices: context::is_root(),
        progress: Some(&tell),
        cancel: Some(context.cancel.flag()),
        ..Options::default()
    };
    let (report, image) = if is_file(&arguments.source) {
        (unpack_file(Path::new(&arguments.source), &arguments.target, options)?, None)
    } else {
        let store = context.store()?;
        let image = store.resolve(&arguments.source)?;
        let report = unpack_image(&store, &image, &arguments.source, &arguments.target, options)?;
        // all is there; only the next save of a container on it has to be told its base
        if let Err(error) = store.record_unpacked(&[&arguments.target], &image.digest()) {
            crate::output::warn(&format!("a save over this directory will need --base: {error}"));
        }
        (report, Some(image))
    };
    progress.finish();

    let mut warnings = Vec::new();
    if report.xattrs_left_out > 0 {
        let count = human::count(report.xattrs_left_out, "extended attribute", "extended attributes");
        warnings.push(format!("{count} not set: not of a kind that images carry, or not supported here"));
    }
    if !same_owner && !arguments.no_same_owner {
        warnings.push("not root: all files are yours, whatever the image says".to_owned());
    }
    if arguments.output.is_json() {
        output::json(&answer(arguments, &report, image.as_ref(), warnings))?;
        return Ok(Exit::Done);
    }
    for warning in &warnings {
        output::warn(warning);
    }
    context.tell(&format!(
        "Unpacked {} ({}) into {}",
        human::count(report.progress.entries, "entry", "entries"),
        human::size(report.progress.bytes),
        crate::escape::text(&arguments.target.display().to_string())
    ));
    Ok(Exit::Done)
}

/// Names of images begin with a letter or a digit.
fn is_file(source: &str) -> bool {
    source == "-" || source.starts_with(['/', '.'])
}

fn unpack_file(path: &Path, target: &Path, options: Options<'_>) -> Result<Report, Failure> {
    let archive = file::open(path)?;
    unpack::unpack(target, [(archive, None)], options).map_err(|error| match error {
        // it is the only one
        unpack::Error::Layer { source, .. } => Failure::from(*source).about(file::shown(path)),
        error => error.into(),
    })
}

/// Unpacks all layers of the image that the user calls `name`, each compared with its digests.
pub(super) fn unpack_image(
    store: &Store,
    image: &Image,
    name: &str,
    target: &Path,
    options: Options<'_>,
) -> Result<Report, Failure> {
    // nothing may be collected while it is read
    let _pin = store.pin(&image.digest())?;
    let layers = image.manifest.layers.iter().zip(&image.config.rootfs.diff_ids);
    let layers = layers.map(|(layer, diff_id)| {
        let expect = LayerDigests { digest: *layer.digest.as_bytes(), diff_id: *diff_id.as_bytes() };
        Ok((store.blob(&layer.digest)?, Some(expect)))
    });
    let layers: Vec<(File, Option<LayerDigests>)> = layers.collect::<Result<_, Failure>>()?;
    unpack::unpack(target, layers, options).map_err(|error| match error {
        error @ unpack::Error::Layer { .. } => Failure::from(error).about(name),
        // what is wrong with the target is no fault of the image
        error => error.into(),
    })
}

fn answer(arguments: &UnpackArgs, report: &Report, image: Option<&Image>, warnings: Vec<String>) -> Answer {
    let digest = super::import::digest;
    let layers = report.layers.iter();
    Answer {
        target: crate::escape::text(&arguments.target.display().to_string()),
        digest: image.map(Image::digest),
        layers: layers
            .map(|layer| Layer { digest: digest(&layer.digest), diff_id: digest(&layer.diff_id) })
            .collect(),
        entries: report.progress.entries,
        bytes: report.progress.bytes,
        skipped: report.skipped,
        xattrs_left_out: report.xattrs_left_out,
        warnings,
    }
}

/// Turns the totals that an unpack tells into what was done since.
pub(super) struct Telling {
    progress: crate::progress::Progress,
    told: std::sync::atomic::AtomicU64,
}

impl Telling {
    pub(super) fn new(context: &Context) -> Self {
        let progress = context.progress();
        progress.stage("unpack", None);
        Self { progress, told: std::sync::atomic::AtomicU64::new(0) }
    }

    pub(super) fn tell(&self, done: unpack::Progress) {
        let before = self.told.swap(done.bytes, std::sync::atomic::Ordering::Relaxed);
        self.progress.advance(done.bytes.saturating_sub(before));
    }

    pub(super) fn finish(&self) {
        self.progress.finish();
    }
}
