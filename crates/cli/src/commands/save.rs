use std::path::PathBuf;

use clap::Args;
use registry::{Digest, Image, Reference, Store};
use serde::Serialize;

use crate::complete;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::file::Output;
use crate::output;

/// Write images to an archive that OCI tools and docker both read.
///
/// The archive is an OCI layout and a docker archive in one; `headstart load`, `docker load`, `podman load`
/// and skopeo read it. Each layer is compared with its digest before it is written. Readers of docker
/// archives older than docker 25 do not know zstd: save those images with `commit --format docker`.
///
/// The file gets its name when it is whole. Without `-o` the archive goes to standard output.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  headstart save -o api.tar team/api:wip
  headstart save team/api:wip | ssh build docker load
  headstart save -o all.tar team/api:wip team/web:wip")]
pub(crate) struct SaveArgs {
    /// Names, digests or ids of images; a name is kept in the archive, an id has none
    #[arg(value_name = "IMAGE", required = true, add = complete::images())]
    images: Vec<String>,

    /// Write to this file instead of standard output
    #[arg(short, long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    output: Option<PathBuf>,

    /// Print what was written as one line of JSON
    #[arg(long, requires = "output")]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Answer {
    file: Option<String>,
    images: Vec<Saved>,
}

#[derive(Debug, Serialize)]
struct Saved {
    digest: Digest,
    id: Digest,
    names: Vec<String>,
    size: u64,
}

pub(crate) fn run(arguments: &SaveArgs, context: &Context) -> Result<Exit, Failure> {
    let store = context.store()?;
    let images = find(&store, &arguments.images)?;
    let file = Output::create(arguments.output.as_deref(), "save")?;
    let progress = context.progress();
    progress.stage("save", Some(images.iter().map(|(image, _)| image.manifest.size()).sum()));
    let mut stream = context.cancel.stream(Counted { inner: file, progress: &progress });
    let saved = registry::archive::save(&store, &images, &mut stream);
    let file = stream.into_inner().inner;
    if context.cancel.is_set() {
        return Err(Failure::interrupted("nothing was written"));
    }
    saved.map_err(|error| match error {
        registry::Error::Archive(registry::archive::ArchiveError::Write(error)) => file.failed(&error),
        error => error.into(),
    })?;
    file.finish()?;
    progress.finish();
    if arguments.json {
        let images = images.iter().map(|(image, names)| Saved {
            digest: image.digest(),
            id: image.id(),
            names: names.iter().map(Reference::familiar).collect(),
            size: image.manifest.size(),
        });
        let file = arguments.output.as_ref().map(|path| crate::escape::text(&path.display().to_string()));
        output::json(&Answer { file, images: images.collect() })?;
    }
    Ok(Exit::Done)
}

/// Each image once, under the names by which it was asked for.
fn find(store: &Store, asked: &[String]) -> Result<Vec<(Image, Vec<Reference>)>, Failure> {
    let mut images: Vec<(Image, Vec<Reference>)> = Vec::new();
    for text in asked {
        let image = store.resolve(text)?;
        // an id is no name, even where it could be one
        let name = text.parse::<Reference>().ok().filter(|name| image.names.contains(&name.to_string()));
        match images.iter_mut().find(|(known, _)| known.digest() == image.digest()) {
            Some((_, names)) => names.extend(name.filter(|name| !names.contains(name))),
            None => images.push((image, name.into_iter().collect())),
        }
    }
    Ok(images)
}

/// Tells how much was written.
#[derive(Debug)]
struct Counted<'a> {
    inner: Output,
    progress: &'a crate::progress::Progress,
}

impl std::io::Write for Counted<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.progress.advance(written as u64);
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}
