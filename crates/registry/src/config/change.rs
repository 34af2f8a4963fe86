//! Docker's `--change`: the eleven Dockerfile instructions that set the configuration of an image.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::expand::{ExpandError, expand};
use super::words;
use super::{Healthcheck, RunConfig};

/// A port range may not stand for more ports than there are.
const MAX_PORT: u32 = 65535;

/// One instruction, its arguments not yet expanded: variables may be set by earlier ones.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    verb: Verb,
    /// As written, without the verb.
    args: String,
    /// As written, for errors.
    text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verb {
    Cmd,
    Entrypoint,
    Env,
    Expose,
    Healthcheck,
    Label,
    OnBuild,
    StopSignal,
    User,
    Volume,
    WorkDir,
}

/// An instruction that cannot be applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("--change {instruction:?}")]
pub struct ChangeError {
    /// As written.
    pub instruction: String,
    /// What is wrong with it.
    #[source]
    pub cause: ChangeCause,
}

/// What is wrong with an instruction.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChangeCause {
    /// An instruction that builds and does not configure.
    #[error(
        "{0} needs a build; only CMD ENTRYPOINT ENV EXPOSE HEALTHCHECK LABEL ONBUILD STOPSIGNAL USER VOLUME WORKDIR can change an image"
    )]
    Build(String),
    /// No instruction of a Dockerfile.
    #[error("no such instruction")]
    Unknown,
    /// The arguments are missing.
    #[error("arguments are missing")]
    Missing,
    /// More arguments than the instruction takes.
    #[error("it takes exactly one argument")]
    TooMany,
    /// A JSON array with something that is no string in it.
    #[error("the JSON array may hold strings only")]
    NotStrings,
    /// `A=1 b` where every word has to be a pair.
    #[error("{0:?} is not of the form NAME=value")]
    NotPair(String),
    /// `=x`.
    #[error("a name is empty")]
    EmptyName,
    /// Quotes or variables.
    #[error(transparent)]
    Expand(#[from] ExpandError),
    /// A port.
    #[error("{0:?} is not a port: number[-number][/tcp|udp|sctp]")]
    Port(String),
    /// A signal.
    #[error("{0:?} is not a signal")]
    Signal(String),
    /// A flag of HEALTHCHECK.
    #[error("{0:?} is not an option of HEALTHCHECK, or has a value that it cannot have")]
    Option(String),
    /// ONBUILD of an instruction that cannot be delayed.
    #[error("ONBUILD cannot hold {0}")]
    OnBuild(String),
}

impl Change {
    /// Parses the value of one `--change` flag: one instruction, or several, one a line.
    ///
    /// # Errors
    ///
    /// [`ChangeError`] with the first instruction that is none of the eleven, or lacks its arguments.
    pub fn parse(text: &str) -> Result<Vec<Self>, ChangeError> {
        words::lines(text).into_iter().map(Self::parse_line).collect()
    }

    fn parse_line(line: String) -> Result<Self, ChangeError> {
        let text = line.trim().to_owned();
        let (verb, args) = words::head(&text);
        let result = match verb.to_ascii_uppercase().as_str() {
            "CMD" => Ok(Verb::Cmd),
            "ENTRYPOINT" => Ok(Verb::Entrypoint),
            "ENV" => Ok(Verb::Env),
            "EXPOSE" => Ok(Verb::Expose),
            "HEALTHCHECK" => Ok(Verb::Healthcheck),
            "LABEL" => Ok(Verb::Label),
            "ONBUILD" => Ok(Verb::OnBuild),
            "STOPSIGNAL" => Ok(Verb::StopSignal),
            "USER" => Ok(Verb::User),
            "VOLUME" => Ok(Verb::Volume),
            "WORKDIR" => Ok(Verb::WorkDir),
            build @ ("ADD" | "ARG" | "COPY" | "FROM" | "MAINTAINER" | "RUN" | "SHELL") => {
                Err(ChangeCause::Build(build.to_owned()))
            }
            _ => Err(ChangeCause::Unknown),
        };
        // An empty CMD or ENTRYPOINT takes the base's away.
        let may_lack = |verb| matches!(verb, Verb::Cmd | Verb::Entrypoint);
        match result {
            Ok(verb) if args.is_empty() && !may_lack(verb) => {
                Err(ChangeError { instruction: text, cause: ChangeCause::Missing })
            }
            Ok(verb) => Ok(Self { verb, args: args.to_owned(), text }),
            Err(cause) => Err(ChangeError { instruction: text, cause }),
        }
    }
}

/// Applies instructions in their order.
pub(super) fn apply(config: &mut RunConfig, changes: &[Change]) -> Result<(), ChangeError> {
    let mut cmd_set = false;
    for change in changes {
        apply_one(config, change, &mut cmd_set)
            .map_err(|cause| ChangeError { instruction: change.text.clone(), cause })?;
    }
    Ok(())
}

fn apply_one(config: &mut RunConfig, change: &Change, cmd_set: &mut bool) -> Result<(), ChangeCause> {
    let args = change.args.as_str();
    // All of an instruction sees the environment from before it: `ENV a=1 b=$a` is docker's example.
    let env = config.env.clone();
    let variable = |name: &str| {
        let values = env.iter().rev().filter_map(|pair| pair.split_once('='));
        values.clone().find(|(key, _)| *key == name).map(|(_, value)| value.to_owned())
    };
    let expanded = |word: &str| expand(word, &variable);
    match change.verb {
        Verb::Cmd => {
            config.cmd = command(config, args)?;
            *cmd_set = true;
        }
        Verb::Entrypoint => {
            config.entrypoint = command(config, args)?;
            // The base's arguments were meant for its own entry point; docker drops them too.
            if !*cmd_set {
                config.cmd = None;
            }
        }
        Verb::Env => {
            for (name, value) in pairs(args, &expanded)? {
                let pair = format!("{name}={value}");
                let same = |old: &&mut String| old.split('=').next() == Some(name.as_str());
                match config.env.iter_mut().find(same) {
                    Some(old) => *old = pair,
                    None => config.env.push(pair),
                }
            }
        }
        Verb::Label => {
            let labels = config.labels.get_or_insert_default();
            labels.extend(pairs(args, &expanded)?);
        }
        Verb::Expose => {
            let mut ports = config.exposed_ports.take().unwrap_or_default();
            // Expanded first: a variable may hold several ports.
            for word in expanded(args)?.split_whitespace() {
                expose(&mut ports, word)?;
            }
            config.exposed_ports = Some(ports);
        }
        Verb::Healthcheck => config.healthcheck = Some(healthcheck(args)?),
        Verb::OnBuild => {
            let verb = words::head(args).0.to_ascii_uppercase();
            if matches!(verb.as_str(), "ONBUILD" | "FROM" | "MAINTAINER") {
                return Err(ChangeCause::OnBuild(verb));
            }
            config.on_build.push(args.to_owned());
        }
        Verb::StopSignal => config.stop_signal = Some(signal(&one(expanded(args)?)?)?),
        Verb::User => config.user = Some(one(expanded(args)?)?),
        Verb::WorkDir => {
            let dir = some(expanded(args)?)?;
            config.working_dir = Some(join(config.working_dir.as_deref().unwrap_or("/"), &dir));
        }
        Verb::Volume => {
            let dirs = match json_words(args)? {
                Some(dirs) => dirs,
                None => words::split(args),
            };
            let volumes = config.volumes.get_or_insert_default();
            for dir in dirs {
                volumes.insert(some(expanded(&dir)?)?, Value::Object(Map::new()));
            }
        }
    }
    Ok(())
}

/// The JSON form, or the shell form run by the image's shell; an empty one takes the command away.
fn command(config: &RunConfig, args: &str) -> Result<Option<Vec<String>>, ChangeCause> {
    if let Some(words) = json_words(args)? {
        return Ok((!words.is_empty()).then_some(words));
    }
    if args.is_empty() {
        return Ok(None);
    }
    let mut words = config.shell.clone().unwrap_or_else(|| vec!["/bin/sh".to_owned(), "-c".to_owned()]);
    words.push(args.to_owned());
    Ok(Some(words))
}

/// The words of a JSON array; `None` for what is no JSON: docker then takes it for the shell form.
fn json_words(args: &str) -> Result<Option<Vec<String>>, ChangeCause> {
    if !args.starts_with('[') {
        return Ok(None);
    }
    match serde_json::from_str::<Vec<Value>>(args) {
        Err(_) => Ok(None),
        Ok(values) => values
            .into_iter()
            .map(|value| match value {
                Value::String(word) => Ok(word),
                _ => Err(ChangeCause::NotStrings),
            })
            .collect::<Result<_, _>>()
            .map(Some),
    }
}

/// `NAME=value NAME=value …`, or the old form `NAME the whole rest`.
fn pairs(
    args: &str,
    expanded: &dyn Fn(&str) -> Result<String, ExpandError>,
) -> Result<Vec<(String, String)>, ChangeCause> {
    let words = words::split(args);
    let pair = |(name, value): (&str, &str)| match expanded(name)? {
        name if name.is_empty() => Err(ChangeCause::EmptyName),
        name => Ok((name, expanded(value)?)),
    };
    match words.first() {
        Some(first) if !first.contains('=') => {
            let (name, value) = words::head(args);
            let value = some(value.to_owned())?;
            Ok(vec![pair((name, &value))?])
        }
        _ => words
            .iter()
            .map(|word| pair(word.split_once('=').ok_or_else(|| ChangeCause::NotPair(word.clone()))?))
            .collect(),
    }
}

fn expose(ports: &mut BTreeMap<String, Value>, word: &str) -> Result<(), ChangeCause> {
    let bad = || ChangeCause::Port(word.to_owned());
    let (range, protocol) = word.split_once('/').unwrap_or((word, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let number = |text: &str| match text.bytes().all(|b| b.is_ascii_digit()) {
        true => text.parse().ok().filter(|port: &u32| *port <= MAX_PORT).ok_or_else(bad),
        false => Err(bad()),
    };
    let (first, last) = (number(first)?, number(last)?);
    if first > last || !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        return Err(bad());
    }
    ports.extend((first..=last).map(|port| (format!("{port}/{protocol}"), Value::Object(Map::new()))));
    Ok(())
}

fn healthcheck(args: &str) -> Result<Healthcheck, ChangeCause> {
    let mut check = Healthcheck::default();
    let mut rest = args;
    loop {
        let (word, after) = words::head(rest);
        let Some(option) = word.strip_prefix("--") else { break };
        let bad = || ChangeCause::Option(word.to_owned());
        let (name, value) = option.split_once('=').ok_or_else(bad)?;
        // Docker's least, below which it would do nothing else.
        let time = || words::duration(value).filter(|t| *t == 0 || *t >= 1_000_000).ok_or_else(bad);
        match name {
            "interval" => check.interval = time()?,
            "timeout" => check.timeout = time()?,
            "start-period" => check.start_period = time()?,
            "start-interval" => check.start_interval = time()?,
            "retries" => check.retries = value.parse::<u32>().map_err(|_| bad())?.into(),
            _ => return Err(bad()),
        }
        rest = after;
    }
    let (kind, args) = words::head(rest);
    match kind.to_ascii_uppercase().as_str() {
        "NONE" if check != Healthcheck::default() => Err(ChangeCause::Option(words::head(rest).0.to_owned())),
        "NONE" if !args.is_empty() => Err(ChangeCause::TooMany),
        "NONE" => Ok(Healthcheck { test: vec!["NONE".to_owned()], ..check }),
        "CMD" => {
            let (form, words) = match json_words(args)? {
                Some(words) => ("CMD", words),
                None => ("CMD-SHELL", vec![some(args.to_owned())?]),
            };
            if words.is_empty() {
                return Err(ChangeCause::Missing);
            }
            check.test = std::iter::once(form.to_owned()).chain(words).collect();
            Ok(check)
        }
        "" => Err(ChangeCause::Missing),
        _ => Err(ChangeCause::Option(kind.to_owned())),
    }
}

/// A number, or a name with or without `SIG`, as it is to be written down.
fn signal(text: &str) -> Result<String, ChangeCause> {
    const NAMES: [&str; 35] = [
        "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL",
        "PIPE", "POLL", "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP",
        "TTIN", "TTOU", "UNUSED", "URG", "USR1", "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ",
    ];
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let real_time = |rest: &str, sign: char| {
        rest.is_empty() || rest.strip_prefix(sign).and_then(|n| n.parse::<u8>().ok()).is_some_and(|n| n <= 30)
    };
    let known = NAMES.contains(&name)
        || name.strip_prefix("RTMIN").is_some_and(|rest| real_time(rest, '+'))
        || name.strip_prefix("RTMAX").is_some_and(|rest| real_time(rest, '-'))
        || text.parse::<u8>().is_ok_and(|n| (1..=64).contains(&n));
    if known { Ok(text.to_owned()) } else { Err(ChangeCause::Signal(text.to_owned())) }
}

fn some(text: String) -> Result<String, ChangeCause> {
    if text.is_empty() { Err(ChangeCause::Missing) } else { Ok(text) }
}

fn one(text: String) -> Result<String, ChangeCause> {
    if text.contains(char::is_whitespace) { Err(ChangeCause::TooMany) } else { some(text) }
}

/// Joins as a shell's `cd` would, without looking at the disk.
fn join(from: &str, to: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    let from = if to.starts_with('/') { "" } else { from };
    for part in from.split('/').chain(to.split('/')) {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

#[cfg(test)]
mod tests;
