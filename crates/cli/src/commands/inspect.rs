use clap::Args;
use registry::{Digest, Image, Reference};
use serde::Serialize;
use serde_json::Value;

use super::images::familiar;
use crate::complete;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{self, OutputArgs};

/// Show all that the store knows of images, as JSON with docker's field names.
///
/// The answer is an array with an element for each image. `Layers` has what docker does not tell: the
/// blob of each layer beside its DiffId. `-o json` prints the array on one line.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  headstart inspect team/api:wip
  headstart inspect team/api:wip | jq -r '.[0].Config.Env[]'
  headstart inspect -o json team/api:wip debian:12")]
pub(crate) struct InspectArgs {
    /// Names, digests or ids of images
    #[arg(value_name = "IMAGE", required = true, add = complete::images())]
    images: Vec<String>,

    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Inspected {
    id: Digest,
    digest: Digest,
    media_type: String,
    repo_tags: Vec<String>,
    repo_digests: Vec<String>,
    created: Option<String>,
    author: Option<String>,
    comment: Option<String>,
    architecture: String,
    variant: Option<String>,
    os: String,
    size: u64,
    config: Value,
    #[serde(rename = "RootFS")]
    root_fs: RootFs,
    layers: Vec<Layer>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct RootFs {
    #[serde(rename = "Type")]
    kind: String,
    layers: Vec<Digest>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Layer {
    digest: Digest,
    diff_id: Digest,
    media_type: String,
    size: u64,
}

pub(crate) fn run(arguments: &InspectArgs, context: &Context) -> Result<Exit, Failure> {
    let store = context.store()?;
    let images: Vec<Inspected> =
        arguments.images.iter().map(|name| inspect(store.resolve(name)?)).collect::<Result<_, Failure>>()?;
    if arguments.output.is_json() {
        output::json(&images)?;
    } else {
        output::pretty_json(&images)?;
    }
    Ok(Exit::Done)
}

fn inspect(image: Image) -> Result<Inspected, Failure> {
    let (id, digest, size) = (image.id(), image.digest(), image.manifest.size());
    let mut repositories: Vec<String> = image
        .names
        .iter()
        .filter_map(|name| name.parse::<Reference>().ok())
        .map(|name| format!("{}@{digest}", name.familiar_repository()))
        .collect();
    repositories.sort();
    repositories.dedup();
    let config = image.config;
    let layers = image.manifest.layers.into_iter().zip(&config.rootfs.diff_ids);
    let layers = layers.map(|(layer, diff_id)| Layer {
        digest: layer.digest,
        diff_id: *diff_id,
        media_type: layer.media_type,
        size: layer.size,
    });
    Ok(Inspected {
        id,
        digest,
        media_type: image.descriptor.media_type,
        repo_tags: image.names.iter().map(|name| familiar(name)).collect(),
        repo_digests: repositories,
        layers: layers.collect(),
        created: config.created,
        author: config.author,
        comment: config.history.last().and_then(|step| step.comment.clone()),
        architecture: config.platform.architecture,
        variant: config.platform.variant,
        os: config.platform.os,
        size,
        config: serde_json::to_value(&config.config)
            .map_err(|error| Failure::io(format!("image {digest}"), &error.into()))?,
        root_fs: RootFs { kind: config.rootfs.kind, layers: config.rootfs.diff_ids },
    })
}
