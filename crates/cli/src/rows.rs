//! Embeddings on their way out: JSON Lines, one JSON array, or a NumPy matrix.

use std::io::{self, Write};
use std::path::Path;

use clap::ValueEnum;
use quintet_engine::embedding::{EmbeddingType, EncodedEmbedding, encode};
use serde::{Serialize, Serializer};

use crate::failure::UserError;
use crate::npy::{self, NpyType};
use crate::output::Output;

/// How rows are written.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RowFormat {
    /// One JSON object per line, written as soon as it is known
    Jsonl,
    /// One JSON array of the same objects
    Json,
    /// A NumPy matrix [inputs, dimensions]; needs --output
    Npy,
}

/// Numbers of an embedding as `--type` names them.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TypeArg {
    /// 32-bit floats
    Float,
    /// Signed bytes: component times 127, rounded
    Int8,
    /// Unsigned bytes: the signed byte plus 128
    Uint8,
    /// One bit a component, eight to a signed byte: the unsigned byte minus 128
    Binary,
    /// One bit a component, eight to an unsigned byte, most significant first
    Ubinary,
    /// Little-endian 32-bit floats in base64
    Base64,
}

impl From<TypeArg> for EmbeddingType {
    fn from(embedding_type: TypeArg) -> Self {
        match embedding_type {
            TypeArg::Float => Self::Float,
            TypeArg::Int8 => Self::Int8,
            TypeArg::Uint8 => Self::Uint8,
            TypeArg::Binary => Self::Binary,
            TypeArg::Ubinary => Self::Ubinary,
            TypeArg::Base64 => Self::Base64,
        }
    }
}

impl TypeArg {
    fn npy(self, dimensions: usize) -> Option<(NpyType, usize)> {
        Some(match self {
            Self::Float => (NpyType::F4, dimensions),
            Self::Int8 => (NpyType::I1, dimensions),
            Self::Uint8 => (NpyType::U1, dimensions),
            Self::Binary => (NpyType::I1, dimensions.div_ceil(8)),
            Self::Ubinary => (NpyType::U1, dimensions.div_ceil(8)),
            Self::Base64 => return None,
        })
    }
}

/// A vector in the type that was asked for, as JSON shows it.
#[derive(Debug)]
pub(crate) struct Vector(EncodedEmbedding);

impl Vector {
    /// Encodes an embedding.
    pub(crate) fn new(embedding: &[f32], embedding_type: TypeArg) -> Self {
        Self(encode(embedding, embedding_type.into()))
    }

    fn write_bytes(&self, output: &mut impl Write) -> io::Result<()> {
        match &self.0 {
            EncodedEmbedding::Float(values) => values
                .iter()
                .try_for_each(|value| output.write_all(&value.to_le_bytes())),
            EncodedEmbedding::Signed(values) => values
                .iter()
                .try_for_each(|value| output.write_all(&value.to_le_bytes())),
            EncodedEmbedding::Unsigned(values) => output.write_all(values),
            EncodedEmbedding::Text(text) => output.write_all(text.as_bytes()),
        }
    }
}

impl Serialize for Vector {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.0 {
            EncodedEmbedding::Float(values) => values.serialize(serializer),
            EncodedEmbedding::Signed(values) => values.serialize(serializer),
            EncodedEmbedding::Unsigned(values) => values.serialize(serializer),
            EncodedEmbedding::Text(text) => serializer.serialize_str(text),
        }
    }
}

/// A row that has a vector, and more for those who read JSON.
pub(crate) trait Row: Serialize {
    /// The vector, `None` where the row has none.
    fn vector(&self) -> Option<&Vector>;
}

/// Writes rows in one format.
pub(crate) struct RowWriter {
    output: Output,
    shape: Shape,
    rows: u64,
}

enum Shape {
    Jsonl,
    Json,
    Npy { npy_type: NpyType, columns: usize },
}

impl RowWriter {
    /// Whether a matrix of this type can be written to this place, before anything is loaded.
    ///
    /// # Errors
    /// [`UserError`] when it cannot.
    pub(crate) fn check_npy(
        embedding_type: TypeArg,
        output: Option<&Path>,
    ) -> Result<(), UserError> {
        embedding_type.npy(0).ok_or_else(npy_has_no_text)?;
        output.map(|_| ()).ok_or_else(npy_needs_a_file)
    }

    /// Begins the output.
    ///
    /// # Errors
    /// [`UserError`] when the output cannot take the format, and those of writing.
    pub(crate) fn new(
        output: Output,
        format: RowFormat,
        embedding_type: TypeArg,
        dimensions: usize,
    ) -> anyhow::Result<Self> {
        let shape = match format {
            RowFormat::Jsonl => Shape::Jsonl,
            RowFormat::Json => Shape::Json,
            RowFormat::Npy => {
                let (npy_type, columns) =
                    embedding_type.npy(dimensions).ok_or_else(npy_has_no_text)?;
                if !output.is_seekable() {
                    return Err(npy_needs_a_file().into());
                }
                Shape::Npy { npy_type, columns }
            }
        };
        let mut writer = Self {
            output,
            shape,
            rows: 0,
        };
        if let Shape::Npy { npy_type, columns } = writer.shape {
            writer
                .output
                .write_all(&npy::header(npy_type, 0, columns))?;
        }
        Ok(writer)
    }

    /// Writes one row.
    ///
    /// # Errors
    /// Those of writing, and [`UserError`] for a row without a vector in a matrix.
    pub(crate) fn write(&mut self, row: &impl Row) -> anyhow::Result<()> {
        match self.shape {
            Shape::Jsonl => {
                self.write_json(row)?;
                self.output.write_all(b"\n")?;
            }
            Shape::Json => {
                self.output
                    .write_all(if self.rows == 0 { b"[\n" } else { b",\n" })?;
                self.write_json(row)?;
            }
            Shape::Npy { .. } => {
                let vector = row.vector().ok_or_else(|| no_vector(self.rows))?;
                vector.write_bytes(&mut self.output)?;
            }
        }
        self.rows += 1;
        Ok(())
    }

    fn write_json(&mut self, row: &impl Row) -> io::Result<()> {
        serde_json::to_writer(&mut self.output, row).map_err(io::Error::from)
    }

    /// Hands on what was written so far.
    ///
    /// # Errors
    /// Those of writing.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }

    /// Ends the output.
    ///
    /// # Errors
    /// Those of writing.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        match self.shape {
            Shape::Jsonl => {}
            Shape::Json => {
                self.output
                    .write_all(if self.rows == 0 { b"[]\n" } else { b"\n]\n" })?;
            }
            Shape::Npy { npy_type, columns } => {
                self.output
                    .overwrite_start(&npy::header(npy_type, self.rows, columns))?;
            }
        }
        self.output.finish()
    }
}

fn npy_has_no_text() -> UserError {
    UserError::new("--type base64 does not go with --format npy")
        .hint("a NumPy file holds the bytes themselves: leave --type out")
}

fn npy_needs_a_file() -> UserError {
    UserError::new("--format npy needs a file: the number of rows is written at its beginning last")
        .hint("add `--output FILE.npy`")
}

fn no_vector(row: u64) -> UserError {
    UserError::new(format!(
        "chunk {row} lies behind the cut and has no vector, a matrix needs one"
    ))
    .hint("leave `--truncate end` out, so that the whole document is read in windows")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize)]
    struct Plain {
        embedding: Vector,
    }

    impl Row for Plain {
        fn vector(&self) -> Option<&Vector> {
            Some(&self.embedding)
        }
    }

    fn written(format: RowFormat, rows: usize) -> Vec<u8> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("out");
        let output = Output::open(Some(&path)).unwrap();
        let mut writer = RowWriter::new(output, format, TypeArg::Float, 2).unwrap();
        for _ in 0..rows {
            writer
                .write(&Plain {
                    embedding: Vector::new(&[0.1, -1.0], TypeArg::Float),
                })
                .unwrap();
        }
        writer.finish().unwrap();
        std::fs::read(&path).unwrap()
    }

    #[test]
    fn floats_are_the_shortest_that_read_back_the_same() {
        assert_eq!(
            written(RowFormat::Jsonl, 1),
            b"{\"embedding\":[0.1,-1.0]}\n"
        );
    }

    #[test]
    fn an_array_is_one_json_value_at_any_length() {
        for rows in 0..3 {
            let value: serde_json::Value =
                serde_json::from_slice(&written(RowFormat::Json, rows)).unwrap();
            assert_eq!(value.as_array().unwrap().len(), rows);
        }
    }

    #[test]
    fn a_matrix_knows_its_rows() {
        let bytes = written(RowFormat::Npy, 2);
        assert_eq!(bytes.len(), 128 + 2 * 2 * 4);
        assert!(bytes.windows(6).any(|window| window == b"(2, 2)"));
        assert_eq!(bytes[128..132], 0.1f32.to_le_bytes());
    }
}
