use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use layer::codec::read::{Encoding, LayerDigests, Pipeline};
use layer::tar::read::{EndMarker, Reader};
use registry::config::{Change, ImageConfig, Step};
use registry::media::{Compression, Format};
use registry::{Descriptor, Digest, Ingest, Manifest, NewImage, Packed, Reference, Store};
use serde::Serialize;

use crate::context::{self, Context};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::file;
use crate::output::{self, OutputArgs};

/// Make an image of one layer from the tar of a root file system.
///
/// The archive, plain or compressed with gzip or zstd, becomes the layer as it is, byte for byte; it is read
/// once, and refused when it is no image layer: damaged, cut short, or with paths that leave the root.
/// Prints the id of the image.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  headstart import rootfs.tar.zst team/base
  debootstrap --print-tar | headstart import - team/base:debian
  headstart import -c 'CMD [\"bash\"]' -m 'from the farm' rootfs.tar.gz team/base")]
pub(crate) struct ImportArgs {
    /// The archive; `-` is standard input
    #[arg(value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    file: PathBuf,

    /// What the image is called
    #[arg(value_name = "NAME")]
    name: Option<String>,

    /// Apply a Dockerfile instruction (CMD, ENV, LABEL, …); may be repeated
    #[arg(short, long, value_name = "INSTRUCTION")]
    change: Vec<String>,

    /// Say in the history what it is
    #[arg(short, long, value_name = "TEXT")]
    message: Option<String>,

    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Serialize)]
struct Answer {
    names: Vec<String>,
    digest: Digest,
    id: Digest,
    layer: Digest,
    diff_id: Digest,
    size: u64,
}

pub(crate) fn run(arguments: &ImportArgs, context: &Context) -> Result<Exit, Failure> {
    let name = arguments.name.as_deref().map(Reference::for_tagging).transpose()?;
    let changes = changes(&arguments.change)?;
    let created = context::creation_time()?;
    let store = context.store()?;
    let from = file::shown(&arguments.file);

    let layer = take_in(&store, &arguments.file, context).map_err(|failure| failure.about(&from))?;
    let mut config = ImageConfig::default();
    config.apply(&changes)?;
    let step = Step {
        created,
        created_by: format!("import of {from}"),
        author: None,
        comment: arguments.message.clone(),
    };
    config.record(&step, &[layer.diff_id]);
    let config = config.to_json();
    let media_type = Format::Oci.layer(layer.compression)?;
    let descriptor = Descriptor::new(media_type, layer.packed.digest, layer.packed.size);
    let manifest = Manifest::compose(Format::Oci, &config, &[], vec![descriptor])?.to_json();

    let (layer_digest, size) = (layer.packed.digest, layer.packed.size);
    let names: Vec<Reference> = name.into_iter().collect();
    let image = NewImage { layers: vec![layer.packed], config, manifest, names: names.clone() };
    let published = store.publish(image)?;
    if arguments.output.is_json() {
        output::json(&Answer {
            names: names.iter().map(Reference::familiar).collect(),
            digest: published.manifest.digest,
            id: published.id,
            layer: layer_digest,
            diff_id: layer.diff_id,
            size,
        })?;
    } else {
        output::answer(&published.id.to_string())?;
    }
    Ok(Exit::Done)
}

/// The instructions of several `--change`, in order.
pub(super) fn changes(texts: &[String]) -> Result<Vec<Change>, Failure> {
    let mut changes = Vec::new();
    for text in texts {
        changes.extend(Change::parse(text).map_err(registry::Error::from)?);
    }
    Ok(changes)
}

struct Layer {
    packed: Packed,
    diff_id: Digest,
    compression: Compression,
}

/// Copies the archive into the store while it is hashed, decompressed, hashed again and read.
fn take_in(store: &Store, path: &Path, context: &Context) -> Result<Layer, Failure> {
    let source = file::open(path)?;
    let ingest = store.ingest()?;
    let progress = context.progress();
    progress.stage("import", None);
    let counted = super::load::Counted { inner: context.cancel.stream(source), progress: &progress };
    let mut copied = 0;
    let mut full = None;
    let tee = Tee { source: counted, ingest: &ingest, copied: &mut copied, failed: &mut full };
    let read = read_through(tee);
    if context.cancel.is_set() {
        return Err(Failure::interrupted("nothing was stored"));
    }
    if let Some(error) = full {
        return Err(Failure::io("the store", &error).detail("nothing was stored"));
    }
    let (encoding, digests) = read?;
    progress.finish();
    let compression = match encoding {
        Encoding::Plain => Compression::None,
        Encoding::Gzip => Compression::Gzip,
        Encoding::Zstd => Compression::Zstd,
    };
    let packed = Packed { ingest, digest: digest(&digests.digest), size: copied };
    Ok(Layer { packed, diff_id: digest(&digests.diff_id), compression })
}

/// Reads the archive to its end, so that nothing is stored that could not be unpacked.
fn read_through(source: impl Read + Send) -> Result<(Encoding, LayerDigests), Failure> {
    let nothing = |failure: Failure| failure.detail("nothing was stored");
    std::thread::scope(|scope| {
        let pipeline = Pipeline::spawn(scope, source, None).map_err(|error| nothing(error.into()))?;
        let encoding = pipeline.encoding();
        let mut archive = Reader::new(pipeline, EndMarker::Required);
        while archive.next_member().map_err(|error| nothing(error.into()))?.is_some() {}
        let digests = archive.into_inner().finish().map_err(|error| nothing(error.into()))?;
        Ok((encoding, digests))
    })
}

pub(super) fn digest(bytes: &[u8; 32]) -> Digest {
    Digest::from(*bytes)
}

/// Copies what is read.
struct Tee<'a, R> {
    source: R,
    ingest: &'a Ingest,
    copied: &'a mut u64,
    /// Why the copy could not be written: for the reader of the archive it is an error like any other.
    failed: &'a mut Option<io::Error>,
}

impl<R: Read> Read for Tee<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.source.read(buffer)?;
        if let Err(error) = self.ingest.file().write_all(&buffer[..read]) {
            let shown = io::Error::from(error.kind());
            *self.failed = Some(error);
            return Err(shown);
        }
        *self.copied += read as u64;
        Ok(read)
    }
}
