//! Splitting the text of an instruction into words; quotes and escapes stay in them for the expansion.

/// Splits at white space that is neither quoted nor escaped.
pub(super) fn split(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quote = None;
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        match (c, quote) {
            ('\\', None | Some('"')) => {
                word.push(c);
                word.extend(rest.next());
                continue;
            }
            ('\'' | '"', None) => quote = Some(c),
            (_, Some(open)) if open == c => quote = None,
            _ => {}
        }
        if c.is_whitespace() && quote.is_none() {
            words.extend((!word.is_empty()).then(|| std::mem::take(&mut word)));
        } else {
            word.push(c);
        }
    }
    words.extend((!word.is_empty()).then_some(word));
    words
}

/// The first word and what follows it.
pub(super) fn head(text: &str) -> (&str, &str) {
    let text = text.trim();
    text.split_once(char::is_whitespace).map_or((text, ""), |(head, rest)| (head, rest.trim_start()))
}

/// Logical lines: a backslash at the end of a line joins the next one; comments and empty lines go.
pub(super) fn lines(text: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut current = String::new();
    for line in text.lines() {
        if line.trim_start().starts_with('#') {
            continue;
        }
        match line.trim_end().strip_suffix('\\') {
            Some(begun) => current.push_str(begun),
            None => {
                current.push_str(line);
                lines.push(std::mem::take(&mut current));
            }
        }
    }
    lines.push(current);
    lines.retain(|line| !line.trim().is_empty());
    lines
}

/// A Go duration (`1m30s`, `500ms`, `1.5h`) in nanoseconds; `None` when it is none or too long.
pub(super) fn duration(text: &str) -> Option<i64> {
    const UNITS: [(&str, f64); 8] = [
        ("ns", 1.0),
        ("us", 1e3),
        ("µs", 1e3),
        ("μs", 1e3),
        ("ms", 1e6),
        ("s", 1e9),
        ("m", 60e9),
        ("h", 3600e9),
    ];
    if text == "0" {
        return Some(0);
    }
    let mut rest = text;
    let mut total = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let (_, scale) = UNITS.iter().find(|(unit, _)| *unit == &rest[..end])?;
        total += number * scale;
        rest = &rest[end..];
    }
    // Exact below 2^53 ns, which is 104 days; beyond that a nanosecond more or less is nobody's loss.
    #[expect(clippy::cast_possible_truncation, reason = "checked against the range first")]
    (!text.is_empty() && total < 9.2e18).then_some(total.round() as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_and_escapes_hold_words_together() {
        assert_eq!(split(r#" a="b c" d\ e  'f "g' "#), [r#"a="b c""#, r"d\ e", r#"'f "g'"#]);
        assert_eq!(lines("A \\\n  b\n# no\n\nC"), ["A   b", "C"]);
    }

    #[test]
    fn durations_are_gos() {
        assert_eq!(duration("1m30s"), Some(90_000_000_000));
        assert_eq!(duration("1.5h"), Some(5_400_000_000_000));
        assert_eq!(duration("500ms"), Some(500_000_000));
        assert_eq!(duration("0"), Some(0));
        for bad in ["", "5", "s", "1x", "-1s", "1..2s", "99999999999h", "1é"] {
            assert_eq!(duration(bad), None, "{bad}");
        }
    }
}
