//! The few shapes that our own records are made of: unsigned LEB128 numbers and counted bytes.
//!
//! Reading never panics and never allocates by an untrusted length: a count is checked against the
//! bytes that are there.

use crate::entry::{Time, Xattrs};

/// A record does not read as what it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed record: {0}")]
pub struct Malformed(
    /// What is wrong with it.
    pub &'static str,
);

/// Appends the shapes to a buffer.
pub trait Put {
    /// A number, in 1 to 10 bytes.
    fn number(&mut self, value: u64);
    /// A count and that many bytes.
    fn bytes(&mut self, bytes: &[u8]);
    /// Seconds and nanoseconds.
    fn time(&mut self, time: Time);
    /// A count and that many names with values.
    fn pairs(&mut self, pairs: &[(Vec<u8>, Vec<u8>)]);
}

impl Put for Vec<u8> {
    fn number(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.push((value & 0x7f) as u8);
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.extend_from_slice(bytes);
    }

    fn time(&mut self, time: Time) {
        // zigzag keeps times before 1970 short
        self.number(time.secs.wrapping_shl(1).cast_unsigned() ^ (time.secs >> 63).cast_unsigned());
        self.number(u64::from(time.nanos));
    }

    fn pairs(&mut self, pairs: &[(Vec<u8>, Vec<u8>)]) {
        self.number(pairs.len() as u64);
        for (name, value) in pairs {
            self.bytes(name);
            self.bytes(value);
        }
    }
}

/// Takes the shapes from the front of a slice.
#[derive(Debug, Clone, Copy)]
pub struct Take<'a>(pub &'a [u8]);

impl<'a> Take<'a> {
    /// One byte.
    ///
    /// # Errors
    /// [`Malformed`] when the record ends early or says what cannot be.
    pub fn byte(&mut self) -> Result<u8, Malformed> {
        let (&first, rest) = self.0.split_first().ok_or(Malformed("ends early"))?;
        self.0 = rest;
        Ok(first)
    }

    /// A number.
    ///
    /// # Errors
    /// [`Malformed`] when the record ends early or says what cannot be.
    pub fn number(&mut self) -> Result<u64, Malformed> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let part = u64::from(byte & 0x7f);
            if shift == 63 && part > 1 {
                break;
            }
            value |= part << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Malformed("number over 64 bits"))
    }

    /// A number below 2³².
    ///
    /// # Errors
    /// [`Malformed`] when the record ends early or says what cannot be.
    pub fn number32(&mut self) -> Result<u32, Malformed> {
        u32::try_from(self.number()?).map_err(|_| Malformed("number over 32 bits"))
    }

    /// So many bytes as they are.
    ///
    /// # Errors
    /// [`Malformed`] when the record ends early or says what cannot be.
    pub fn fixed<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(Malformed("ends early"))?;
        self.0 = rest;
        Ok(*head)
    }

    /// Counted bytes.
    ///
    /// # Errors
    /// [`Malformed`] when the record ends early or says what cannot be.
    pub fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let len = usize::try_from(self.number()?).map_err(|_| Malformed("length over memory"))?;
        let (head, rest) = self.0.split_at_checked(len).ok_or(Malformed("ends early"))?;
        self.0 = rest;
        Ok(head)
    }

    /// A time.
    ///
    /// # Errors
    /// [`Malformed`] when the record ends early or says what cannot be.
    pub fn time(&mut self) -> Result<Time, Malformed> {
        let zigzag = self.number()?;
        let secs = (zigzag >> 1).cast_signed() ^ -((zigzag & 1).cast_signed());
        let nanos = self.number32()?;
        if nanos > 999_999_999 {
            return Err(Malformed("nanoseconds over a second"));
        }
        Ok(Time { secs, nanos })
    }

    /// Names with values.
    ///
    /// # Errors
    /// [`Malformed`] when the record ends early or says what cannot be.
    pub fn pairs(&mut self) -> Result<Xattrs, Malformed> {
        let count = self.number()?;
        let mut pairs = Vec::new();
        for _ in 0..count {
            pairs.push((self.bytes()?.to_vec(), self.bytes()?.to_vec()));
        }
        Ok(pairs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_put_is_taken(number: u64, secs: i64, nanos in 0u32..1_000_000_000, bytes: Vec<u8>) {
            let mut buffer = Vec::new();
            buffer.number(number);
            buffer.time(Time { secs, nanos });
            buffer.bytes(&bytes);
            let mut take = Take(&buffer);
            prop_assert_eq!(take.number(), Ok(number));
            prop_assert_eq!(take.time(), Ok(Time { secs, nanos }));
            prop_assert_eq!(take.bytes(), Ok(&bytes[..]));
            prop_assert!(take.0.is_empty());
        }

        #[test]
        fn any_bytes_are_taken_or_refused(bytes: Vec<u8>) {
            let mut take = Take(&bytes);
            let _ = take.number().and_then(|_| take.time()).and_then(|_| take.pairs());
        }
    }
}
