//! Bytes of strangers as text that is safe to show.
//!
//! Names in containers and images are any bytes. On a terminal they must neither move the cursor nor
//! turn the line around; in JSON they must be text. Both show the same, readable escapes.

use serde::Serialize;

/// The bytes as one line of printable text. What is not printable UTF-8 is written as in a Rust string
/// (`\n`, `\x1b`, `\xff`, `\u{202e}`), and a backslash as two.
pub(crate) fn bytes(bytes: &[u8]) -> String {
    let mut shown = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for char in chunk.valid().chars() {
            match char {
                '\\' => shown.push_str("\\\\"),
                char if is_harmless(char) => shown.push(char),
                char if char.is_ascii() && !matches!(char, '\n' | '\t' | '\r') => {
                    shown.push_str(&format!("\\x{:02x}", u32::from(char)));
                }
                char => shown.extend(char.escape_default()),
            }
        }
        for byte in chunk.invalid() {
            shown.push_str(&format!("\\x{byte:02x}"));
        }
    }
    shown
}

/// [`bytes`], for text.
pub(crate) fn text(text: &str) -> String {
    bytes(text.as_bytes())
}

/// Neither a control character nor one that changes the direction or has no width.
fn is_harmless(char: char) -> bool {
    !char.is_control()
        && !matches!(char, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// A path in JSON: `path` is for people; where it is not exactly the path, `path_base64` has the bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct JsonPath {
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_base64: Option<String>,
}

impl JsonPath {
    /// Of a path relative to the root of an image, shown with the slash in front.
    pub(crate) fn rooted(path: &[u8]) -> Self {
        let whole = rooted(path);
        let shown = bytes(&whole);
        let path_base64 = (shown.as_bytes() != whole).then(|| base64(&whole));
        Self { path: shown, path_base64 }
    }
}

/// The path with a slash in front.
pub(crate) fn rooted(path: &[u8]) -> Vec<u8> {
    [b"/", path].concat()
}

/// RFC 4648, with padding.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let word =
            group.iter().enumerate().fold(0u32, |word, (at, &byte)| word | u32::from(byte) << (16 - 8 * at));
        for at in 0..4 {
            let digit = DIGITS[(word >> (18 - 6 * at) & 63) as usize];
            text.push(if at <= group.len() { char::from(digit) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_moves_a_cursor_gets_out() {
        assert_eq!(bytes(b"caf\xc3\xa9 \x1b[2J\n\\ \xff"), "café \\x1b[2J\\n\\\\ \\xff");
        assert_eq!(text("a\u{202e}b\u{85}c"), "a\\u{202e}b\\u{85}c");
        assert_eq!(text("\"quoted\" e\u{301}"), "\"quoted\" e\u{301}");
    }

    #[test]
    fn json_has_the_exact_bytes_where_text_has_not() {
        assert_eq!(JsonPath::rooted(b"etc/hosts").path_base64, None);
        let path = JsonPath::rooted(b"a\xff");
        assert_eq!((path.path.as_str(), path.path_base64.as_deref()), ("/a\\xff", Some("L2H/")));
    }

    #[test]
    fn base64_pads() {
        for (bytes, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")]
        {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }
}
