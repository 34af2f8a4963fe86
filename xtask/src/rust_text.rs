//! Rust source with comments and literals told apart from code, as far as looking for words needs it.

/// A source text in two views of the same length and lines: each keeps its own bytes and has spaces
/// in place of the others.
#[derive(Debug)]
pub(crate) struct RustText {
    /// Without comments, and without what stands in string and character literals.
    pub(crate) code: String,
    /// Only the comments.
    pub(crate) comments: String,
}

impl RustText {
    pub(crate) fn new(source: &str) -> Self {
        let mut scanner = Scanner { rest: source, code: String::new(), comments: String::new() };
        while !scanner.rest.is_empty() {
            scanner.step();
        }
        Self { code: scanner.code, comments: scanner.comments }
    }
}

struct Scanner<'a> {
    rest: &'a str,
    code: String,
    comments: String,
}

enum View {
    Code,
    Comment,
    Literal,
}

impl Scanner<'_> {
    fn step(&mut self) {
        let after_word = self.code.ends_with(|c: char| c.is_alphanumeric() || c == '_');
        if self.rest.starts_with("//") {
            let length = self.rest.find('\n').unwrap_or(self.rest.len());
            self.take(length, &View::Comment);
        } else if self.rest.starts_with("/*") {
            self.take(block_comment(self.rest), &View::Comment);
        } else if let Some(length) = (!after_word).then(|| raw_string(self.rest)).flatten() {
            self.take(length, &View::Literal);
        } else if self.rest.starts_with('"') {
            self.take(quoted(self.rest, '"'), &View::Literal);
        } else if let Some(length) = character(self.rest) {
            self.take(length, &View::Literal);
        } else {
            let length = self.rest.chars().next().map_or(0, char::len_utf8);
            self.take(length, &View::Code);
        }
    }

    fn take(&mut self, length: usize, view: &View) {
        let (taken, rest) = self.rest.split_at(length);
        self.rest = rest;
        let blank = |text: &str| -> String {
            text.bytes().map(|byte| if byte == b'\n' { '\n' } else { ' ' }).collect()
        };
        match view {
            View::Code => self.code.push_str(taken),
            View::Comment | View::Literal => self.code.push_str(&blank(taken)),
        }
        match view {
            View::Comment => self.comments.push_str(taken),
            View::Code | View::Literal => self.comments.push_str(&blank(taken)),
        }
    }
}

/// The length of a block comment; they nest.
fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < text.len() {
        match text.as_bytes().get(at..at + 2) {
            Some(b"/*") => (depth, at) = (depth + 1, at + 2),
            Some(b"*/") if depth == 1 => return at + 2,
            Some(b"*/") => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
    }
    text.len()
}

/// The length of `r"…"`, `r#"…"#`, `br"…"`, `cr"…"` at the start of `text`.
fn raw_string(text: &str) -> Option<usize> {
    let after_r = text.strip_prefix(['b', 'c']).unwrap_or(text).strip_prefix('r')?;
    let body = after_r.trim_start_matches('#');
    let hashes = "#".repeat(after_r.len() - body.len());
    let start = text.len() - body.strip_prefix('"')?.len();
    let end = format!("\"{hashes}");
    Some(text[start..].find(&end).map_or(text.len(), |length| start + length + end.len()))
}

/// The length of a literal that begins with `quote` and may hold escapes.
fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return at + c.len_utf8(),
            _ => {}
        }
    }
    text.len()
}

/// The length of a character literal; a lifetime is none.
fn character(text: &str) -> Option<usize> {
    let inner = text.strip_prefix('\'')?;
    let first = inner.chars().next()?;
    let is_literal = first == '\\' || inner[first.len_utf8()..].starts_with('\'');
    is_literal.then(|| quoted(text, '\''))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_seen_only_where_they_are_code() {
        let text = RustText::new(
            "fn a<'a>(x: &'a str) -> char { // unsafe in a comment\n\
             /* unsafe /* nested */ unsafe */ let s = \"unsafe \\\" unsafe\";\n\
             let r = r#\"unsafe \" unsafe\"#; let c = '\"'; let q = '\\''; unsafe { b() } }",
        );
        assert_eq!(text.code.matches("unsafe").count(), 1);
        assert_eq!(text.comments.matches("unsafe").count(), 3);
        assert!(text.code.contains("<'a>(x: &'a str)"));
        assert!(text.code.contains("unsafe { b() } }"));
        assert_eq!(text.code.lines().count(), 3);
        assert_eq!(text.comments.lines().count(), 3);
    }

    #[test]
    fn an_open_end_is_no_panic() {
        for source in ["\"open", "/* open", "r#\"open\"", "'\\", "'", "//", "b", "é'é'", "r#"] {
            let text = RustText::new(source);
            assert_eq!(text.code.len(), text.comments.len(), "{source}");
        }
    }
}
