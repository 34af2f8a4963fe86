use std::io::Read;
use std::path::PathBuf;

use clap::Args;
use layer::codec::read::Decoder;
use registry::archive::Limits;
use registry::{Digest, Reference};
use serde::Serialize;

use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::file;
use crate::output::{self, OutputArgs};
use crate::progress::Progress;

/// Take images from an archive into the store.
///
/// OCI and docker archives are read, plain or compressed with gzip or zstd. All bytes are compared with
/// their digests before a name is changed; a damaged archive leaves the store as it was.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  headstart load -i api.tar
  docker save team/api:base | headstart load
  headstart load -i images.tar.zst -o json")]
pub(crate) struct LoadArgs {
    /// Read this file instead of standard input
    #[arg(short, long, value_name = "FILE", default_value = "-", hide_default_value = true)]
    #[arg(value_hint = clap::ValueHint::FilePath)]
    input: PathBuf,

    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Serialize)]
struct Loaded {
    digest: Digest,
    id: Digest,
    names: Vec<String>,
    /// What the archive calls the image, where that is no name.
    #[serde(skip_serializing_if = "Option::is_none")]
    unnamed: Option<String>,
}

pub(crate) fn run(arguments: &LoadArgs, context: &Context) -> Result<Exit, Failure> {
    let store = context.store()?;
    let archive = file::open(&arguments.input)?;
    let name = file::shown(&arguments.input);
    let progress = context.progress();
    progress.stage("load", None);
    let loaded = Decoder::new(context.cancel.stream(Counted { inner: archive, progress: &progress }), None)
        .map_err(|error| Failure::from(error).detail("nothing was stored"))
        .and_then(|archive| Ok(registry::archive::load(&store, archive, Limits::default())?));
    if context.cancel.is_set() {
        return Err(Failure::interrupted("nothing was stored"));
    }
    let loaded = loaded.map_err(|failure| failure.about(&name))?;
    progress.finish();
    let images: Vec<Loaded> = loaded
        .into_iter()
        .map(|image| Loaded {
            digest: image.manifest.digest,
            id: image.id,
            names: image.names.iter().map(Reference::familiar).collect(),
            unnamed: image.unnamed,
        })
        .collect();
    if arguments.output.is_json() {
        output::json(&images)?;
        return Ok(Exit::Done);
    }
    for image in &images {
        for name in &image.names {
            output::answer(&format!("Loaded image: {name}"))?;
        }
        if image.names.is_empty() {
            output::answer(&format!("Loaded image ID: {}", image.id))?;
            context.tell(&match &image.unnamed {
                Some(text) => {
                    format!("the archive calls it \"{}\", which is no name", crate::escape::text(text))
                }
                None => format!("it has no name: headstart tag {} NAME", image.id.short()),
            });
        }
    }
    Ok(Exit::Done)
}

/// Tells how much was read.
pub(super) struct Counted<'a, R> {
    pub(super) inner: R,
    pub(super) progress: &'a Progress,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.progress.advance(read as u64);
        Ok(read)
    }
}
