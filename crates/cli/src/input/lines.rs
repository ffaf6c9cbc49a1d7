//! Lines of UTF-8 text from a stream of any length.

use std::io::{BufRead, Read};
use std::sync::Arc;

use super::error::{InputError, Place};

/// Longest line in bytes: far beyond any text that fits the model, small enough to hold.
pub(crate) const MAX_LINE_BYTES: usize = 32 << 20;

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Reads lines one by one. A byte order mark at the beginning and the `\r` of `\r\n` are dropped; an
/// empty line is an empty text, so that line n is always input n - 1.
pub(crate) struct Lines<R> {
    reader: R,
    name: Arc<str>,
    number: u64,
    bytes_read: u64,
    max_line_bytes: usize,
}

impl<R: BufRead> Lines<R> {
    /// `name` is what messages call the stream.
    pub(crate) fn new(reader: R, name: Arc<str>) -> Self {
        Self {
            reader,
            name,
            number: 0,
            bytes_read: 0,
            max_line_bytes: MAX_LINE_BYTES,
        }
    }

    /// Bytes read so far.
    pub(crate) fn bytes_read(&self) -> u64 {
        self.bytes_read
    }

    /// The next line with its place, `None` at the end.
    ///
    /// # Errors
    /// [`InputError`] when the stream cannot be read, or a line is too long or no UTF-8.
    pub(crate) fn next(&mut self) -> Result<Option<(Place, String)>, InputError> {
        let mut line = Vec::new();
        let limit = self.max_line_bytes as u64 + 2;
        let read = self
            .reader
            .by_ref()
            .take(limit)
            .read_until(b'\n', &mut line);
        self.number += 1;
        let place = Place::Line {
            number: self.number,
            name: Arc::clone(&self.name),
        };
        if let Err(source) = read {
            return Err(InputError::Read { place, source });
        }
        if line.is_empty() {
            return Ok(None);
        }
        self.bytes_read += line.len() as u64;
        if self.number == 1 && line.starts_with(BYTE_ORDER_MARK) {
            line.drain(..BYTE_ORDER_MARK.len());
        }
        if line.last() == Some(&b'\n') {
            line.pop();
            if line.last() == Some(&b'\r') {
                line.pop();
            }
        }
        if line.len() > self.max_line_bytes {
            return Err(InputError::TooLong {
                place,
                max_bytes: self.max_line_bytes,
            });
        }
        match String::from_utf8(line) {
            Ok(text) => Ok(Some((place, text))),
            Err(error) => {
                let start = error.as_bytes();
                let is_utf16 =
                    self.number == 1 && matches!(start, [0xff, 0xfe, ..] | [0xfe, 0xff, ..]);
                let byte = error.utf8_error().valid_up_to();
                Err(InputError::NotUtf8 {
                    place,
                    found: start[byte],
                    byte: byte + 1,
                    is_utf16,
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lines(bytes: &[u8], max_line_bytes: usize) -> Lines<&[u8]> {
        Lines {
            max_line_bytes,
            ..Lines::new(bytes, Arc::from("test"))
        }
    }

    fn all(bytes: &[u8]) -> Vec<String> {
        let mut lines = lines(bytes, 100);
        std::iter::from_fn(|| lines.next().unwrap())
            .map(|(_, text)| text)
            .collect()
    }

    #[test]
    fn every_line_is_a_text() {
        assert_eq!(all(b""), [""; 0]);
        assert_eq!(all(b"\n"), [""]);
        assert_eq!(all(b"a\nb"), ["a", "b"]);
        assert_eq!(all(b"a\r\n\r\nb\r\n"), ["a", "", "b"]);
        assert_eq!(all(b"\xef\xbb\xbfa\n\xef\xbb\xbfb\n"), ["a", "\u{feff}b"]);
        assert_eq!(all(b"\xef\xbb\xbf"), [""]);
        assert_eq!(all(b"a\rb\r"), ["a\rb\r"]);
    }

    #[test]
    fn a_line_may_have_the_most_bytes_and_no_more() {
        assert!(lines(b"12345\r\n", 5).next().is_ok());
        assert!(lines(b"12345", 5).next().is_ok());
        for long in [&b"123456"[..], b"123456\n", b"1234567\r\n", b"1234567890"] {
            let error = lines(long, 5).next().unwrap_err();
            assert!(
                matches!(error, InputError::TooLong { max_bytes: 5, .. }),
                "{error}"
            );
        }
    }

    #[test]
    fn a_wrong_byte_is_named_by_line_and_place() {
        let mut lines = lines(b"fine\nb\xe9d\n", 100);
        lines.next().unwrap();
        let error = lines.next().unwrap_err();
        assert_eq!(
            error.to_string(),
            "line 2 of test is not UTF-8: byte 0xe9 at column 2"
        );
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut lines = lines(&bytes, 40);
            while let Ok(Some(_)) = lines.next() {}
        }

        #[test]
        fn lines_joined_again_are_the_input(texts in prop::collection::vec("[^\r\n\u{feff}]{0,9}", 1..9)) {
            let text: String = texts.iter().map(|line| format!("{line}\n")).collect();
            prop_assert_eq!(all(text.as_bytes()), texts);
        }
    }
}
