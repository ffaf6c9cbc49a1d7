//! The header of NumPy's `.npy` format, version 1.0, for a matrix whose rows are counted at the end.
//!
//! <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>

/// Bytes before the data: room for any shape, and a multiple of 64 as the format asks.
const HEADER_BYTES: usize = 128;

/// Type of a matrix's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NpyType {
    /// Little-endian f32.
    F4,
    /// i8.
    I1,
    /// u8.
    U1,
}

/// The header of a C-ordered `[rows, columns]` matrix.
pub(crate) fn header(npy_type: NpyType, rows: u64, columns: usize) -> [u8; HEADER_BYTES] {
    let descr = match npy_type {
        NpyType::F4 => "<f4",
        NpyType::I1 => "|i1",
        NpyType::U1 => "|u1",
    };
    let dictionary =
        format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({rows}, {columns}), }}");
    let mut header = [b' '; HEADER_BYTES];
    header[..8].copy_from_slice(b"\x93NUMPY\x01\x00");
    header[8..10].copy_from_slice(&((HEADER_BYTES - 10) as u16).to_le_bytes());
    header[10..10 + dictionary.len()].copy_from_slice(dictionary.as_bytes());
    header[HEADER_BYTES - 1] = b'\n';
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_is_numpys() {
        let header = header(NpyType::F4, 3, 1024);
        assert_eq!(&header[..10], b"\x93NUMPY\x01\x00\x76\x00");
        let text = std::str::from_utf8(&header[10..]).unwrap();
        assert_eq!(
            text.trim_end(),
            "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 1024), }"
        );
        assert!(text.ends_with(" \n"));
    }

    #[test]
    fn the_largest_shape_fits() {
        let header = header(NpyType::I1, u64::MAX, usize::MAX);
        assert_eq!(header[HEADER_BYTES - 2], b' ');
    }
}
