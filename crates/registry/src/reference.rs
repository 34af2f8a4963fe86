//! Names of images, by docker's grammar: `[domain/]path[:tag][@digest]`.
//!
//! A name is kept whole (`docker.io/library/debian:latest`) and shown short (`debian:latest`), as
//! docker does: no domain means `docker.io`, and no path in it means `library/`.

use std::fmt;
use std::str::FromStr;

use crate::digest::{Digest, DigestError};
use crate::error::Error;

const DEFAULT_DOMAIN: &str = "docker.io";
const DEFAULT_TAG: &str = "latest";
/// The distribution grammar's limit on domain and path together.
const MAX_NAME: usize = 255;
const MAX_TAG: usize = 128;

/// The name of an image.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Which rule a text breaks that was to be a [`Reference`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// Nothing there.
    #[error("the name is empty")]
    Empty,
    /// Domain and path together are too long.
    #[error("the name is longer than 255 characters")]
    Length,
    /// The registry's host is malformed.
    #[error("the registry host is malformed")]
    Domain,
    /// Upper-case letters in the path: the most usual mistake.
    #[error("the repository must be lower case")]
    Case,
    /// A path component is malformed.
    #[error("the repository may hold lower-case letters and digits, separated by . _ __ - or /")]
    Path,
    /// The tag is malformed.
    #[error("a tag holds up to 128 letters, digits, _ . and -, and begins with none of the last two")]
    Tag,
    /// The digest is malformed.
    #[error(transparent)]
    Digest(#[from] DigestError),
    /// 64 hex digits are an image id.
    #[error("64 hex digits are an image id, not a name")]
    Id,
    /// A digest where only a tag can be given.
    #[error("a new name cannot carry a digest")]
    Digested,
}

impl Reference {
    /// The registry's host, with its port: `docker.io`.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The repository within it: `library/debian`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Domain and path: `docker.io/library/debian`.
    pub fn repository(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// The tag; `latest` unless another was written, and none where only a digest was.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, if one was written.
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// The repository as docker shows it: `debian`, `team/api`, `quay.io/team/api`.
    pub fn familiar_repository(&self) -> String {
        if self.domain != DEFAULT_DOMAIN {
            return self.repository();
        }
        match self.path.strip_prefix("library/") {
            Some(path) if !path.contains('/') => path.to_owned(),
            _ => self.path.clone(),
        }
    }

    /// The name as docker shows it: `debian:latest`.
    pub fn familiar(&self) -> String {
        self.suffixed(self.familiar_repository())
    }

    /// Parses a name to be given to an image: it may have a tag, but no digest.
    ///
    /// # Errors
    ///
    /// [`Error::Name`] with the rule that is broken.
    pub fn for_tagging(text: &str) -> Result<Self, Error> {
        let reference: Self = text.parse()?;
        reference.check_taggable().map(|()| reference)
    }

    /// An image is what its digest says, so a name that says so too could only lie.
    pub(crate) fn check_taggable(&self) -> Result<(), Error> {
        match self.digest {
            None => Ok(()),
            Some(_) => Err(Error::Name { name: self.to_string(), cause: NameError::Digested }),
        }
    }

    fn suffixed(&self, mut name: String) -> String {
        if let Some(tag) = &self.tag {
            name.push(':');
            name.push_str(tag);
        }
        if let Some(digest) = self.digest {
            name.push('@');
            name.push_str(&digest.to_string());
        }
        name
    }

    fn parse(text: &str) -> Result<Self, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse()?)),
            None => (text, None),
        };
        // A colon after the last slash begins the tag; one before it is the port of the host.
        let path_from = rest.rfind('/').map_or(0, |slash| slash + 1);
        let (name, tag) = match rest[path_from..].find(':') {
            Some(colon) => (&rest[..path_from + colon], Some(&rest[path_from + colon + 1..])),
            None => (rest, None),
        };
        if name.is_empty() {
            return Err(NameError::Empty);
        }
        if tag.is_none() && digest.is_none() && Digest::from_hex(name).is_ok() {
            return Err(NameError::Id);
        }
        let (domain, path) = match name.split_once('/') {
            Some((first, path)) if is_host(first) => (first, path.to_owned()),
            _ => (DEFAULT_DOMAIN, name.to_owned()),
        };
        let domain = if domain == "index.docker.io" { DEFAULT_DOMAIN } else { domain };
        let path =
            if domain == DEFAULT_DOMAIN && !path.contains('/') { format!("library/{path}") } else { path };
        if domain.len() + 1 + path.len() > MAX_NAME {
            return Err(NameError::Length);
        }
        check_domain(domain)?;
        path.split('/').try_for_each(check_component)?;
        tag.map_or(Ok(()), check_tag)?;
        let tag = match (tag, digest) {
            (None, None) => Some(DEFAULT_TAG),
            (tag, _) => tag,
        };
        Ok(Self { domain: domain.to_owned(), path, tag: tag.map(str::to_owned), digest })
    }
}

/// Docker's rule that tells `localhost/x` and `quay.io/x` from `team/x`.
fn is_host(first: &str) -> bool {
    first == "localhost" || first.contains(['.', ':']) || first.bytes().any(|b| b.is_ascii_uppercase())
}

fn check_domain(domain: &str) -> Result<(), NameError> {
    let (host, port) = match domain.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']').ok_or(NameError::Domain)?;
            let hex = !address.is_empty() && address.bytes().all(|b| b.is_ascii_hexdigit() || b == b':');
            match (hex, port.strip_prefix(':')) {
                (true, Some(port)) => (None, Some(port)),
                (true, None) if port.is_empty() => (None, None),
                _ => return Err(NameError::Domain),
            }
        }
        None => match domain.split_once(':') {
            Some((host, port)) => (Some(host), Some(port)),
            None => (Some(domain), None),
        },
    };
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    let digits = |port: &str| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
    match host.is_none_or(|host| host.split('.').all(label)) && port.is_none_or(digits) {
        true => Ok(()),
        false => Err(NameError::Domain),
    }
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn check_component(component: &str) -> Result<(), NameError> {
    if component.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err(NameError::Case);
    }
    let alphanumeric = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let mut rest = component.as_bytes();
    loop {
        let word = rest.iter().take_while(|b| alphanumeric(b)).count();
        if word == 0 {
            return Err(NameError::Path);
        }
        rest = &rest[word..];
        let separator = rest.iter().take_while(|b| !alphanumeric(b)).count();
        match &rest[..separator] {
            [] => return Ok(()),
            b"." | b"_" | b"__" => {}
            dashes if dashes.iter().all(|b| *b == b'-') => {}
            _ => return Err(NameError::Path),
        }
        rest = &rest[separator..];
    }
}

fn check_tag(tag: &str) -> Result<(), NameError> {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let begins = tag.bytes().next().is_some_and(word);
    match begins && tag.len() <= MAX_TAG && tag.bytes().all(|b| word(b) || b == b'.' || b == b'-') {
        true => Ok(()),
        false => Err(NameError::Tag),
    }
}

impl FromStr for Reference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::parse(text).map_err(|cause| Error::Name { name: text.to_owned(), cause })
    }
}

/// The whole, normalised name: `docker.io/library/debian:latest`.
impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.suffixed(self.repository()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn normalises_as_docker_does() {
        let digest = Digest::of(b"");
        for (text, whole, short) in [
            ("debian", "docker.io/library/debian:latest", "debian:latest"),
            ("team/api:wip", "docker.io/team/api:wip", "team/api:wip"),
            ("docker.io/debian", "docker.io/library/debian:latest", "debian:latest"),
            ("index.docker.io/a/b", "docker.io/a/b:latest", "a/b:latest"),
            ("localhost/x", "localhost/x:latest", "localhost/x:latest"),
            ("localhost:5000/x:1", "localhost:5000/x:1", "localhost:5000/x:1"),
            ("[::1]:5000/x", "[::1]:5000/x:latest", "[::1]:5000/x:latest"),
            ("Quay/x", "Quay/x:latest", "Quay/x:latest"),
            ("a__b/c--d.e:V_1.0-x", "docker.io/a__b/c--d.e:V_1.0-x", "a__b/c--d.e:V_1.0-x"),
        ] {
            let reference: Reference = text.parse().unwrap();
            assert_eq!((reference.to_string().as_str(), reference.familiar().as_str()), (whole, short));
        }
        let text = format!("quay.io/x@{digest}");
        let reference: Reference = text.parse().unwrap();
        assert_eq!((reference.tag(), reference.digest()), (None, Some(digest)));
        assert_eq!(reference.to_string(), text);
    }

    #[test]
    fn refuses_with_the_rule() {
        let long = "a".repeat(256);
        let id = Digest::of(b"").hex();
        for (text, cause) in [
            ("", NameError::Empty),
            (":x", NameError::Empty),
            ("Debian", NameError::Case),
            ("a/B", NameError::Case),
            ("a//b", NameError::Path),
            ("../etc", NameError::Domain),
            ("a/../b", NameError::Path),
            ("a___b", NameError::Path),
            ("a.-b", NameError::Path),
            ("-a", NameError::Path),
            ("a:", NameError::Tag),
            ("a:.x", NameError::Tag),
            ("a:b/c", NameError::Domain),
            ("a@sha256:12", NameError::Digest(DigestError::Hex)),
            ("a@md5:12", NameError::Digest(DigestError::Algorithm)),
            (long.as_str(), NameError::Length),
            (id.as_str(), NameError::Id),
        ] {
            assert_eq!(Reference::parse(text), Err(cause), "{text}");
        }
    }

    proptest! {
        #[test]
        fn whole_and_short_name_parse_to_the_same(text in "([a-z]{1,3}\\.[a-z]{2}(:[0-9]{2})?/)?[a-z0-9]{1,4}(/[a-z]{1,3}(_[a-z])?){0,2}(:[A-Za-z0-9_.-]{1,4})?") {
            if let Ok(reference) = Reference::parse(&text) {
                prop_assert_eq!(&Reference::parse(&reference.to_string()).unwrap(), &reference);
                prop_assert_eq!(&Reference::parse(&reference.familiar()).unwrap(), &reference);
            }
        }

        #[test]
        fn any_text_is_refused_or_parsed(text in ".{0,40}") {
            let _ = Reference::parse(&text);
        }
    }
}
