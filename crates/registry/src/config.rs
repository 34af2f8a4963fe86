//! The configuration of an image: how to run it, what its layers unpack to, how it came about.
//!
//! The configuration of a new image is its base's with more layers and changes. Fields that we do not
//! know are kept, history that others wrote is not touched, and equal input gives equal bytes: the
//! time is the caller's ([`Step::created`]).

mod change;
mod expand;
mod words;

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

pub use change::{Change, ChangeCause, ChangeError};
pub use expand::ExpandError;

use crate::digest::Digest;
use crate::document::{self, Platform, null_is_default};
use crate::error::Result;

/// An image configuration, OCI's or docker's: the documents have the same shape.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// When the image was made, RFC 3339, as written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// Who made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// The machine it is for.
    #[serde(flatten)]
    pub platform: PlatformFields,
    /// How to run it.
    #[serde(default, deserialize_with = "null_is_default")]
    pub config: RunConfig,
    /// What its layers unpack to.
    pub rootfs: RootFs,
    /// How it came about, oldest first.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<History>,
    /// Fields unknown to us.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// The platform as it stands in a configuration: beside the other fields.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlatformFields {
    /// `GOARCH`. Missing in some very old images.
    #[serde(default, deserialize_with = "null_is_default")]
    pub architecture: String,
    /// `GOOS`.
    #[serde(default, deserialize_with = "null_is_default")]
    pub os: String,
    /// `v7`, `v8`, …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

/// The uncompressed layers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RootFs {
    /// Always `layers`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The digests of the plain tars, lowest first.
    #[serde(default, deserialize_with = "null_is_default")]
    pub diff_ids: Vec<Digest>,
    /// Fields unknown to us.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// One step in the making of an image.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct History {
    /// When, RFC 3339, as written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// By which command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_by: Option<String>,
    /// By whom.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// What for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// Whether the step made no layer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub empty_layer: Option<bool>,
    /// Fields unknown to us.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl History {
    /// Whether the step made no layer.
    pub fn is_empty_layer(&self) -> bool {
        self.empty_layer == Some(true)
    }
}

/// How to run the image. The fields that `--change` can set; others are in `extra`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct RunConfig {
    /// `user[:group]`, names or numbers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// `8080/tcp` and so on; the values are empty objects.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exposed_ports: Option<BTreeMap<String, Value>>,
    /// `NAME=value`, in the order they were set.
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// The command that always runs.
    #[serde(deserialize_with = "command", skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// Its arguments, or the command when there is none.
    #[serde(deserialize_with = "command", skip_serializing_if = "Option::is_none")]
    pub cmd: Option<Vec<String>>,
    /// Directories that get a volume; the values are empty objects.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volumes: Option<BTreeMap<String, Value>>,
    /// Where the command starts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub working_dir: Option<String>,
    /// What the author says about the image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,
    /// Ends the container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
    /// Tells whether it works. Docker's; OCI has no such field, but its readers let it be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Healthcheck>,
    /// Instructions for builds on top of this image.
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "Vec::is_empty")]
    pub on_build: Vec<String>,
    /// The shell of shell-form commands.
    #[serde(deserialize_with = "command", skip_serializing_if = "Option::is_none")]
    pub shell: Option<Vec<String>>,
    /// Fields unknown to us.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// How docker finds out whether a container works. Durations are nanoseconds, 0 for the default.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Healthcheck {
    /// `["NONE"]`, `["CMD", …]` or `["CMD-SHELL", command]`.
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "Vec::is_empty")]
    pub test: Vec<String>,
    /// Between two checks.
    #[serde(skip_serializing_if = "is_zero")]
    pub interval: i64,
    /// Until a check counts as failed.
    #[serde(skip_serializing_if = "is_zero")]
    pub timeout: i64,
    /// In which failures do not count.
    #[serde(skip_serializing_if = "is_zero")]
    pub start_period: i64,
    /// Between two checks in the start period.
    #[serde(skip_serializing_if = "is_zero")]
    pub start_interval: i64,
    /// Failures until the container counts as unhealthy.
    #[serde(skip_serializing_if = "is_zero")]
    pub retries: i64,
    /// Fields unknown to us.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(number: &i64) -> bool {
    *number == 0
}

/// A list of words; old docker wrote a command of one word as a string.
fn command<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<String>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Words {
        One(String),
        Many(Vec<String>),
    }
    Ok(Option::<Words>::deserialize(deserializer)?.map(|words| match words {
        Words::One(word) => vec![word],
        Words::Many(words) => words,
    }))
}

/// Where a step of an image's history comes from.
#[derive(Clone, Debug)]
pub struct Step {
    /// When: now, or `SOURCE_DATE_EPOCH`.
    pub created: Timestamp,
    /// By which command.
    pub created_by: String,
    /// By whom; nobody leaves the base's author in place.
    pub author: Option<String>,
    /// What for.
    pub comment: Option<String>,
}

impl Default for ImageConfig {
    /// Of an image without layers, for this machine.
    fn default() -> Self {
        let Platform { architecture, os, variant, .. } = Platform::host();
        Self {
            created: None,
            author: None,
            platform: PlatformFields { architecture, os, variant },
            config: RunConfig::default(),
            rootfs: RootFs { kind: "layers".to_owned(), diff_ids: Vec::new(), extra: Map::new() },
            history: Vec::new(),
            extra: Map::new(),
        }
    }
}

impl ImageConfig {
    /// Parses the configuration with this digest.
    ///
    /// # Errors
    ///
    /// [`crate::Error::Document`].
    pub fn from_json(digest: Digest, bytes: &[u8]) -> Result<Self> {
        document::parse(|| format!("configuration {digest}"), bytes)
    }

    /// The document. Equal values give equal bytes.
    pub fn to_json(&self) -> Vec<u8> {
        document::to_json(self)
    }

    /// Records a step that made `layers`, given by their digests as plain tars: none, one, or several
    /// of which the last gets the step's own words.
    pub fn record(&mut self, step: &Step, layers: &[Digest]) {
        self.align_history();
        let created = step.created.to_string();
        let entry = History {
            created: Some(created.clone()),
            created_by: Some(step.created_by.clone()),
            author: step.author.clone(),
            comment: step.comment.clone(),
            empty_layer: layers.is_empty().then_some(true),
            extra: Map::new(),
        };
        // Earlier tiers of one save carry the command but not the message.
        let earlier = History { comment: None, ..entry.clone() };
        self.history.extend(layers.iter().skip(1).map(|_| earlier.clone()));
        self.history.push(entry);
        self.rootfs.diff_ids.extend(layers);
        self.created = Some(created);
        if step.author.is_some() {
            self.author.clone_from(&step.author);
        }
    }

    /// Applies `--change` instructions, in their order.
    ///
    /// # Errors
    ///
    /// [`crate::Error::Change`] with the instruction; nothing is changed then.
    pub fn apply(&mut self, changes: &[Change]) -> Result<()> {
        let mut config = self.config.clone();
        change::apply(&mut config, changes)?;
        self.config = config;
        Ok(())
    }

    /// Readers match history and layers by counting. Where the base's history has fewer entries than
    /// layers (it may be absent), the oldest are supplied, so that ours stands beside our layer.
    fn align_history(&mut self) {
        let written = self.history.iter().filter(|h| !h.is_empty_layer()).count();
        let missing = self.rootfs.diff_ids.len().saturating_sub(written);
        let unknown = History { comment: Some("not recorded".to_owned()), ..History::default() };
        self.history.splice(0..0, std::iter::repeat_n(unknown, missing));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step() -> Step {
        Step {
            created: Timestamp::from_second(1_700_000_000).unwrap(),
            created_by: "sh -c make".into(),
            author: Some("me".into()),
            comment: Some("before the rebase".into()),
        }
    }

    #[test]
    fn keeps_what_it_does_not_know() {
        let text = br#"{"architecture":"arm64","os":"linux","os.features":["x"],
            "config":{"Env":null,"Cmd":"sh","ArgsEscaped":true,"Memory":18446744073709551615},
            "rootfs":{"type":"layers","diff_ids":null,"q":1},
            "history":[{"created":"0001-01-01T00:00:00Z","v":{"a":1}}],"docker_version":"1"}"#;
        let config = ImageConfig::from_json(Digest::of(text), text).unwrap();
        assert_eq!(config.config.cmd, Some(vec!["sh".to_owned()]));
        let mut value: Value = serde_json::from_slice(&config.to_json()).unwrap();
        assert_eq!(value["os.features"][0], "x");
        assert_eq!(value["config"]["ArgsEscaped"], true);
        assert_eq!(value["config"]["Memory"], u64::MAX);
        assert_eq!(value["rootfs"]["q"], 1);
        assert_eq!(value["history"][0]["v"]["a"], 1);
        assert_eq!(value["docker_version"], "1");
        assert!(value["config"].as_object_mut().unwrap().get("Volumes").is_none());
    }

    #[test]
    fn history_is_aligned_from_the_newest() {
        let mut config = ImageConfig::default();
        config.rootfs.diff_ids = vec![Digest::of(b"1"), Digest::of(b"2")];
        config.history = vec![History { created_by: Some("RUN 2".into()), ..History::default() }];
        config.record(&step(), &[Digest::of(b"3"), Digest::of(b"4")]);
        config.record(&step(), &[]);
        let comments: Vec<_> = config.history.iter().map(|h| h.comment.as_deref()).collect();
        let message = Some("before the rebase");
        assert_eq!(comments, [Some("not recorded"), None, None, message, message]);
        assert_eq!(config.history.iter().filter(|h| !h.is_empty_layer()).count(), 4);
        assert_eq!(config.history[4].empty_layer, Some(true));
        assert_eq!(config.created.as_deref(), Some("2023-11-14T22:13:20Z"));
        assert_eq!(config.author.as_deref(), Some("me"));
    }

    #[test]
    fn equal_input_gives_equal_bytes() {
        let make = || {
            let mut config = ImageConfig::default();
            config.apply(&Change::parse("LABEL b=1 a=2 c=3").unwrap()).unwrap();
            config.record(&step(), &[Digest::of(b"x")]);
            config.to_json()
        };
        assert_eq!(make(), make());
    }
}
