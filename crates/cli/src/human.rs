//! Sizes, durations, counts and times as people read them.
//!
//! Units are decimal, three digits are enough, and the same value looks the same everywhere. Exact
//! values are in the JSON.

use std::time::Duration;

use jiff::Timestamp;

/// What stands for a value that is not there.
pub(crate) const NONE: &str = "–";

/// `187 B`, `61.4 KB`, `1.3 GB`.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KB", "MB", "GB", "TB", "PB", "EB"];
    let (mut value, mut unit) = (bytes as f64, 0);
    // 999,960 would be rounded to 1000 KB
    while value >= if unit == 0 { 1000.0 } else { 999.5 } && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let digits = if unit == 0 { 0 } else { usize::from(value < 99.95) };
    format!("{} {}", decimal(value, digits), UNITS[unit])
}

/// `0.3 ms`, `18 ms`, `1.9 s`, `3 min 20 s`, `2 h 05 min`.
pub(crate) fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    if seconds < 0.9995 {
        let millis = seconds * 1e3;
        let digits = if millis < 0.095 { 2 } else { usize::from(millis < 9.95) };
        return format!("{} ms", decimal(millis, digits));
    }
    if seconds < 119.5 {
        return format!("{} s", decimal(seconds, usize::from(seconds < 9.95)));
    }
    let whole = duration.as_secs() + u64::from(duration.subsec_millis() >= 500);
    match whole / 60 {
        minutes @ ..120 => format!("{minutes} min {:02} s", whole % 60),
        minutes => format!("{} h {:02} min", minutes / 60, minutes % 60),
    }
}

/// [`duration`], or a dash.
pub(crate) fn maybe_duration(length: Option<Duration>) -> String {
    length.map_or_else(|| NONE.to_owned(), duration)
}

/// At most this many digits after the point, and no `.0`.
fn decimal(value: f64, digits: usize) -> String {
    let text = format!("{value:.digits$}");
    match text.strip_suffix(".0") {
        Some(whole) => whole.to_owned(),
        None => text,
    }
}

/// `3,118`.
pub(crate) fn number(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// `1 file`, `3,118 files`; `plural` is only asked for when needed.
pub(crate) fn count(count: u64, singular: &str, plural: &str) -> String {
    format!("{} {}", number(count), if count == 1 { singular } else { plural })
}

/// A time as a table shows it: how long ago on a terminal, RFC 3339 elsewhere.
pub(crate) fn time(written: Option<&str>, now: Timestamp, relative: bool) -> String {
    let Some(written) = written else { return NONE.to_owned() };
    match written.parse::<Timestamp>() {
        Ok(time) if relative => ago(time, now),
        // the fraction is noise beside minutes
        Ok(time) => Timestamp::from_second(time.as_second()).unwrap_or(time).to_string(),
        // an image may say anything
        Err(_) => crate::escape::text(written),
    }
}

/// `12 seconds ago`.
fn ago(time: Timestamp, now: Timestamp) -> String {
    let seconds = now.as_second().saturating_sub(time.as_second());
    let units = [
        (365 * 86400, "year"),
        (30 * 86400, "month"),
        (7 * 86400, "week"),
        (86400, "day"),
        (3600, "hour"),
        (60, "minute"),
        (1, "second"),
    ];
    // of something small, the finer unit says more: 30 hours rather than 1 day
    let found = units.iter().find(|(length, _)| seconds >= length * 2 || seconds == *length);
    let found = found.or_else(|| units.iter().find(|(length, _)| seconds >= *length));
    match found {
        _ if seconds < 0 => time.to_string(),
        None => "now".to_owned(),
        Some((length, unit)) => {
            let many = seconds / length;
            format!("{many} {unit}{} ago", if many == 1 { "" } else { "s" })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_digits() {
        for (bytes, text) in [
            (0, "0 B"),
            (187, "187 B"),
            (999, "999 B"),
            (1000, "1 KB"),
            (1049, "1 KB"),
            (61_440, "61.4 KB"),
            (99_960, "100 KB"),
            (212_345, "212 KB"),
            (999_499, "999 KB"),
            (999_960, "1 MB"),
            (1_300_000_000, "1.3 GB"),
            (u64::MAX, "18.4 EB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn durations_keep_what_matters() {
        for (nanos, text) in [
            (0, "0.00 ms"),
            (40_000, "0.04 ms"),
            (300_000, "0.3 ms"),
            (1_812_345, "1.8 ms"),
            (6_020_000, "6 ms"),
            (18_400_000, "18 ms"),
            (999_700_000, "1 s"),
            (1_900_000_000, "1.9 s"),
            (64_000_000_000, "64 s"),
            (200_400_000_000, "3 min 20 s"),
            (7_500_000_000_000, "2 h 05 min"),
        ] {
            assert_eq!(duration(Duration::from_nanos(nanos)), text);
        }
    }

    #[test]
    fn counts_are_grouped_and_agree() {
        assert_eq!(count(1, "file", "files"), "1 file");
        assert_eq!(count(3118, "file", "files"), "3,118 files");
        assert_eq!(number(1_000_000), "1,000,000");
        assert_eq!(number(0), "0");
    }

    #[test]
    fn times_are_relative_only_for_people() {
        let now: Timestamp = "2026-09-01T12:00:00Z".parse().unwrap();
        for (written, text) in [
            ("2026-09-01T12:00:00Z", "now"),
            ("2026-09-01T11:59:48Z", "12 seconds ago"),
            ("2026-09-01T11:58:30Z", "90 seconds ago"),
            ("2026-09-01T11:00:00Z", "1 hour ago"),
            ("2026-08-31T06:00:00Z", "30 hours ago"),
            ("2020-08-31T06:00:00Z", "6 years ago"),
            ("2026-09-01T12:00:05Z", "2026-09-01T12:00:05Z"),
            ("soon\u{1b}", "soon\\x1b"),
        ] {
            assert_eq!(time(Some(written), now, true), text);
        }
        assert_eq!(time(Some("2026-09-01T14:00:00.25+02:00"), now, false), "2026-09-01T12:00:00Z");
        assert_eq!(time(None, now, true), NONE);
    }
}
