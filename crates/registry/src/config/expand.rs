//! A word of a Dockerfile: quotes, escapes, and variables.
//!
//! Single quotes hold everything literally; double quotes hold spaces, but variables and `\" \$ \\` are
//! still seen in them; elsewhere a backslash takes the next character as it is. Variables are `$NAME`,
//! `${NAME}`, and `${NAME:-word}`, `${NAME:+word}`, `${NAME:?word}` with or without the colon.

use std::iter::Peekable;
use std::str::Chars;

/// Words within words: deeper than anybody writes, and far from the end of a stack.
const MAX_NESTING: usize = 16;

/// Doubling an environment in each of 40 instructions would otherwise make a terabyte.
const MAX_WORD: usize = 1 << 20;

/// Why a word cannot be expanded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ExpandError {
    /// A quote is not closed.
    #[error("a quote is not closed")]
    Quote,
    /// A brace is not closed.
    #[error("${{ is not closed")]
    Brace,
    /// `${…}` holds no name.
    #[error("${{…}} must begin with a name")]
    Name,
    /// A modifier other than `- + ?`.
    #[error("unsupported modifier {0:?} in ${{…}}")]
    Modifier(char),
    /// `${NAME:?word}` and `NAME` is not set.
    #[error("{name}: {message}")]
    Unset {
        /// The variable.
        name: String,
        /// The word.
        message: String,
    },
    /// Too many levels of `${…}`.
    #[error("${{…}} is nested too deeply")]
    Nesting,
    /// The result is absurdly long.
    #[error("the expanded text is longer than 1 MiB")]
    Length,
}

/// Expands a word; `variable` looks names up.
pub(super) fn expand(word: &str, variable: &dyn Fn(&str) -> Option<String>) -> Result<String, ExpandError> {
    let mut expansion = Expansion { rest: word.chars().peekable(), variable, depth: 0 };
    let text = expansion.until(None)?;
    if text.len() > MAX_WORD { Err(ExpandError::Length) } else { Ok(text) }
}

struct Expansion<'a> {
    rest: Peekable<Chars<'a>>,
    variable: &'a dyn Fn(&str) -> Option<String>,
    depth: usize,
}

impl Expansion<'_> {
    /// Up to an unquoted `end`, which is consumed, or to the end of the text.
    fn until(&mut self, end: Option<char>) -> Result<String, ExpandError> {
        let mut text = String::new();
        while let Some(c) = self.rest.next() {
            match c {
                _ if Some(c) == end => return Ok(text),
                '\'' => loop {
                    match self.rest.next().ok_or(ExpandError::Quote)? {
                        '\'' => break,
                        c => text.push(c),
                    }
                },
                '"' => self.double_quoted(&mut text)?,
                '$' => self.dollar(&mut text)?,
                // A backslash at the very end stands for itself.
                '\\' => text.push(self.rest.next().unwrap_or('\\')),
                c => text.push(c),
            }
            if text.len() > MAX_WORD {
                return Err(ExpandError::Length);
            }
        }
        if end.is_some() { Err(ExpandError::Brace) } else { Ok(text) }
    }

    fn double_quoted(&mut self, text: &mut String) -> Result<(), ExpandError> {
        loop {
            match self.rest.next().ok_or(ExpandError::Quote)? {
                '"' => return Ok(()),
                '$' => self.dollar(text)?,
                '\\' => match self.rest.next().ok_or(ExpandError::Quote)? {
                    c @ ('"' | '$' | '\\') => text.push(c),
                    c => text.extend(['\\', c]),
                },
                c => text.push(c),
            }
        }
    }

    fn dollar(&mut self, text: &mut String) -> Result<(), ExpandError> {
        if self.rest.next_if_eq(&'{').is_none() {
            match self.name() {
                // A lone dollar is a dollar.
                name if name.is_empty() => text.push('$'),
                name => text.push_str(&(self.variable)(&name).unwrap_or_default()),
            }
            return Ok(());
        }
        let name = self.name();
        if name.is_empty() {
            return Err(ExpandError::Name);
        }
        let value = (self.variable)(&name);
        let mut modifier = self.rest.next().ok_or(ExpandError::Brace)?;
        if modifier == '}' {
            text.push_str(&value.unwrap_or_default());
            return Ok(());
        }
        // With a colon, an empty variable counts as unset.
        let mut value = value;
        if modifier == ':' {
            value = value.filter(|v| !v.is_empty());
            modifier = self.rest.next().ok_or(ExpandError::Brace)?;
        }
        if !matches!(modifier, '-' | '+' | '?') {
            return Err(ExpandError::Modifier(modifier));
        }
        if self.depth == MAX_NESTING {
            return Err(ExpandError::Nesting);
        }
        self.depth += 1;
        let word = self.until(Some('}'))?;
        self.depth -= 1;
        match (modifier, value) {
            ('-', value) => text.push_str(&value.unwrap_or(word)),
            ('+', Some(_)) => text.push_str(&word),
            ('+', None) => {}
            (_, Some(value)) => text.push_str(&value),
            (_, None) if word.is_empty() => {
                return Err(ExpandError::Unset { name, message: "is not set".to_owned() });
            }
            (_, None) => return Err(ExpandError::Unset { name, message: word }),
        }
        Ok(())
    }

    /// A name, or a single digit: Docker's builder knows positional parameters, which are never set.
    fn name(&mut self) -> String {
        let mut name = String::new();
        if let Some(digit) = self.rest.next_if(char::is_ascii_digit) {
            name.push(digit);
            return name;
        }
        while let Some(c) = self.rest.next_if(|c| c.is_ascii_alphanumeric() || *c == '_') {
            name.push(c);
        }
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn with_env(word: &str) -> Result<String, ExpandError> {
        expand(word, &|name| match name {
            "HOME" => Some("/root".into()),
            "EMPTY" => Some(String::new()),
            _ => None,
        })
    }

    #[test]
    fn expands_as_the_dockerfile_reference_says() {
        for (word, expected) in [
            ("a b", "a b"),
            ("$HOME/x", "/root/x"),
            ("${HOME}x", "/rootx"),
            (r"\$HOME", "$HOME"),
            ("'$HOME'", "$HOME"),
            (r#""$HOME \"q\" \n""#, r#"/root "q" \n"#),
            (r"a\ b", "a b"),
            ("x'y z'\"w\"", "xy zw"),
            ("$NO", ""),
            ("$", "$"),
            ("$.", "$."),
            (r"\", r"\"),
            ("${NO:-d}", "d"),
            ("${EMPTY:-d}", "d"),
            ("${EMPTY-d}", ""),
            ("${HOME:+set}", "set"),
            ("${EMPTY:+set}", ""),
            ("${EMPTY+set}", "set"),
            ("${NO:-${HOME}/x}", "/root/x"),
            ("${NO:-'}'}", "}"),
            ("$1x", "x"),
            ("é$HOMEé", "é/rooté"),
        ] {
            assert_eq!(with_env(word).as_deref(), Ok(expected), "{word}");
        }
    }

    #[test]
    fn refuses_what_it_would_misread() {
        let deep = "${A:-".repeat(100) + &"}".repeat(100);
        for (word, error) in [
            ("'a", ExpandError::Quote),
            ("\"a", ExpandError::Quote),
            ("${HOME", ExpandError::Brace),
            ("${NO:-x", ExpandError::Brace),
            ("${}", ExpandError::Name),
            ("${HOME#x}", ExpandError::Modifier('#')),
            ("${NO:?no value}", ExpandError::Unset { name: "NO".into(), message: "no value".into() }),
            (deep.as_str(), ExpandError::Nesting),
        ] {
            assert_eq!(with_env(word), Err(error), "{word}");
        }
    }

    proptest! {
        #[test]
        fn any_word_is_refused_or_expanded(word in "[a$\\{}:'\"\\\\ -]{0,24}") {
            let _ = with_env(&word);
        }
    }
}
