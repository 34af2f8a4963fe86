use std::collections::HashMap;

use clap::Args;
use jiff::Timestamp;
use registry::store::{Listed, UsedBy};
use registry::{Digest, Reference};
use serde::Serialize;

use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{self, OutputArgs, Table};
use crate::{complete, escape, human};

/// List the images in the store.
///
/// SIZE is what the image takes in the store, UNIQUE what removing it would free: layers are shared. An
/// image without a name is listed by its id. With `-q` only the ids are printed.
///
/// An image that cannot be read is listed as damaged, and the exit status is 7.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  headstart images
  headstart images team/api
  headstart images -o json 'team/*'")]
pub(crate) struct ImagesArgs {
    /// Only images of this name; without a tag, all tags; `*` stands for anything
    #[arg(value_name = "NAME", add = complete::images())]
    name: Option<String>,

    /// Print whole digests and ids
    #[arg(long)]
    no_trunc: bool,

    /// Print the digests of manifests, too
    #[arg(long)]
    digests: bool,

    #[command(flatten)]
    output: OutputArgs,
}

/// One image as JSON.
#[derive(Debug, Serialize)]
struct Line<'a> {
    names: Vec<String>,
    digest: Digest,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<Digest>,
    layers: Option<usize>,
    size: u64,
    unique: u64,
    created: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    damage: Option<String>,
}

pub(crate) fn run(arguments: &ImagesArgs, context: &Context) -> Result<Exit, Failure> {
    let store = context.store()?;
    let mut images = store.images()?;
    if let Some(pattern) = &arguments.name {
        for image in &mut images {
            image.names.retain(|name| matches(pattern, name));
        }
        images.retain(|image| !image.names.is_empty());
    }
    if context.quiet && !arguments.output.is_json() {
        return list_ids(&images, arguments.no_trunc);
    }
    let usage = store.usage()?;
    let used: HashMap<Digest, &UsedBy> = usage.images.iter().map(|used| (used.digest, used)).collect();
    if arguments.output.is_json() {
        let lines: Vec<Line<'_>> = images.iter().map(|image| json_line(image, &used)).collect();
        output::json(&lines)?;
    } else {
        table(arguments, &images, &used).print()?;
    }
    let damaged = images.iter().filter_map(|image| Some((image, image.image.as_ref().err()?)));
    let mut exit = Exit::Done;
    for (image, error) in damaged {
        output::warn(&escape::text(&format!("image {}: {error}", image.digest)));
        exit = Exit::Partial;
    }
    Ok(exit)
}

fn list_ids(images: &[Listed], whole: bool) -> Result<Exit, Failure> {
    for image in images {
        let id = image.image.as_ref().map_or(image.digest, registry::Image::id);
        output::answer(&if whole { id.to_string() } else { id.short() })?;
    }
    Ok(Exit::Done)
}

fn table(arguments: &ImagesArgs, images: &[Listed], used: &HashMap<Digest, &UsedBy>) -> Table {
    let mut heading = vec!["NAME", "LAYERS", "SIZE", "UNIQUE", "CREATED"];
    if arguments.digests {
        heading.insert(1, "DIGEST");
    }
    let mut table = Table::new(&heading);
    let (now, relative) = (Timestamp::now(), output::is_terminal());
    let shown = |digest: &Digest| if arguments.no_trunc { digest.to_string() } else { digest.short() };
    for image in images {
        let used = used.get(&image.digest);
        let (layers, created) = match &image.image {
            Ok(image) => (
                image.manifest.layers.len().to_string(),
                human::time(image.config.created.as_deref(), now, relative),
            ),
            Err(_) => (human::NONE.to_owned(), "damaged".to_owned()),
        };
        let mut names: Vec<String> = image.names.iter().map(|name| familiar(name)).collect();
        if names.is_empty() {
            // what can be pasted into another command
            names.push(shown(&image.digest));
        }
        for name in names {
            let size = |bytes: Option<u64>| bytes.map_or_else(|| human::NONE.to_owned(), human::size);
            let mut cells = vec![
                name,
                layers.clone(),
                size(used.map(|used| used.size)),
                size(used.map(|used| used.unique)),
                created.clone(),
            ];
            if arguments.digests {
                cells.insert(1, shown(&image.digest));
            }
            table.row(cells);
        }
    }
    table
}

fn json_line<'a>(image: &'a Listed, used: &HashMap<Digest, &UsedBy>) -> Line<'a> {
    let used = used.get(&image.digest);
    let read = image.image.as_ref();
    Line {
        names: image.names.iter().map(|name| familiar(name)).collect(),
        digest: image.digest,
        id: read.ok().map(registry::Image::id),
        layers: read.ok().map(|image| image.manifest.layers.len()),
        size: used.map_or(0, |used| used.size),
        unique: used.map_or(0, |used| used.unique),
        created: read.ok().and_then(|image| image.config.created.as_deref()),
        damage: read.err().map(|error| escape::text(&error.to_string())),
    }
}

/// The name as docker shows it. Foreign tools may have written one that is none by docker's grammar.
pub(super) fn familiar(name: &str) -> String {
    match name.parse::<Reference>() {
        Ok(reference) => reference.familiar(),
        Err(_) => escape::text(name),
    }
}

/// Whether an image of this name is meant: by the name, whole or short, or its repository.
fn matches(pattern: &str, name: &str) -> bool {
    let Ok(reference) = name.parse::<Reference>() else { return glob(pattern, name) };
    let short = reference.familiar_repository();
    [name.to_owned(), reference.familiar(), reference.repository(), short]
        .iter()
        .any(|name| glob(pattern, name))
}

/// `*` stands for any text, everything else for itself.
fn glob(pattern: &str, text: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut text) = text.strip_prefix(start) else { return false };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let last = parts.pop().unwrap_or_default();
    for part in parts {
        // the first place leaves the most for what follows
        let Some(at) = text.find(part) else { return false };
        text = &text[at + part.len()..];
    }
    text.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_match_as_docker_filters() {
        for (pattern, name, expected) in [
            ("debian", "docker.io/library/debian:12", true),
            ("debian:12", "docker.io/library/debian:12", true),
            ("debian:11", "docker.io/library/debian:12", false),
            ("docker.io/library/debian", "docker.io/library/debian:12", true),
            ("deb", "docker.io/library/debian:12", false),
            ("team/*", "docker.io/team/api:wip", true),
            ("*:wip", "docker.io/team/api:wip", true),
            ("*ap*:w*p", "docker.io/team/api:wip", true),
            ("*x*", "docker.io/team/api:wip", false),
            ("a*a", "docker.io/library/a:latest", false),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }
}
