//! The packed weights as one file, so that a start maps them instead of packing them again.
//!
//! Layout, little-endian: the magic bytes, the length of the header (u64) and its SHA-256; the header
//! as JSON ([`Header`]); zeros up to a multiple of [`ALIGNMENT`]; then each matrix as the kernels
//! gave it, every one on a multiple of [`ALIGNMENT`]. Embeddings, biases, norms and adapters stay in
//! the checkpoint, which is needed beside the file and named in its header by size and time.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::UNIX_EPOCH;

use quintet_kernels::Cpu;
use quintet_kernels::gemm::{Format, PackedMatrix, SharedBytes};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::checkpoint::Checkpoint;
use super::mmap::FileMap;
use super::packed::Weights;
use crate::precision::Precision;

/// The digit is the version of the layout, of the packing and of the integers.
const MAGIC: &[u8; 8] = b"QNTPACK2";
const PREAMBLE: usize = MAGIC.len() + 8 + 32;
/// A page, which is also more than any line of the kernels needs.
const ALIGNMENT: usize = 4096;
/// More than any header takes; a damaged length shall not ask for gigabytes.
const HEADER_MAX: u64 = 1 << 24;

/// Why a file of packed weights is not used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(
    missing_docs,
    reason = "the fields are the facts that the message names"
)]
pub enum PackFileError {
    /// The file is missing, unreadable or cannot be written.
    #[error("cannot use the packed weights `{}`", path.display())]
    Io {
        path: PathBuf,
        source: std::io::Error,
    },
    /// The bytes are not those that were written.
    #[error("the packed weights `{}` are damaged: {found}", path.display())]
    Damaged { path: PathBuf, found: String },
    /// They were made from other weights, at another precision or by another version.
    #[error("the packed weights `{}` are out of date: {found}", path.display())]
    Stale { path: PathBuf, found: String },
}

#[derive(Serialize, Deserialize, PartialEq, Debug)]
struct Header {
    precision: String,
    /// What they were made from.
    files: Vec<SourceFile>,
    /// In the order of the layers: Wqkv, out_proj, fc1, fc2 of each.
    matrices: Vec<Entry>,
}

/// A file of the checkpoint.
#[derive(Serialize, Deserialize, PartialEq, Debug)]
struct SourceFile {
    name: String,
    bytes: u64,
    /// Last change, in nanoseconds since 1970.
    modified: u64,
}

#[derive(Serialize, Deserialize, PartialEq, Debug)]
struct Entry {
    n: usize,
    k: usize,
    format: String,
    /// Counted from the end of the header, rounded up to [`ALIGNMENT`].
    start: usize,
    bytes: usize,
    sha256: String,
}

/// The matrices of one file, all proven.
pub(crate) struct PackFile {
    matrices: Vec<PackedMatrix>,
}

impl PackFile {
    /// Maps a file and proves that it holds the weights of `checkpoint` at `precision`: every byte
    /// is read and its checksum compared.
    pub(crate) fn open(
        path: &Path,
        checkpoint: &Checkpoint,
        precision: Precision,
        cpu: &Cpu,
    ) -> Result<Self, PackFileError> {
        let damaged = |found: String| PackFileError::Damaged {
            path: path.to_owned(),
            found,
        };
        let stale = |found: String| PackFileError::Stale {
            path: path.to_owned(),
            found,
        };
        let io = |source| PackFileError::Io {
            path: path.to_owned(),
            source,
        };
        let map = FileMap::open(path).map_err(io)?;
        let bytes = map.bytes();
        let (header, data) = read_header(bytes).map_err(damaged)?;
        if header.precision != precision.name() {
            return Err(stale(format!(
                "precision {}, expected {precision}",
                header.precision
            )));
        }
        let expected = source_files(checkpoint).map_err(io)?;
        if header.files != expected {
            return Err(stale("the checkpoint has changed since".to_owned()));
        }
        let part = |entry: &Entry| {
            let start = data.checked_add(entry.start)?;
            let range = start..start.checked_add(entry.bytes)?;
            (range.end <= bytes.len()).then_some(range)
        };
        let ranges: Vec<_> = header.matrices.iter().map(part).collect();
        let is_whole = AtomicBool::new(true);
        cpu.pool().run(ranges.len(), &|index, _| {
            let found = ranges[index].clone().map(|range| hex(&bytes[range]));
            if found.as_deref() != Some(header.matrices[index].sha256.as_str()) {
                is_whole.store(false, Ordering::Relaxed);
            }
        });
        if !is_whole.into_inner() {
            return Err(damaged("a checksum differs".to_owned()));
        }
        let owner: SharedBytes = Arc::new(map);
        let matrices = header.matrices.iter().zip(ranges).map(|(entry, range)| {
            let format = FORMATS.iter().find(|(name, _)| *name == entry.format)?.1;
            PackedMatrix::from_bytes(&owner, range?, entry.n, entry.k, format)
        });
        let matrices: Option<Vec<_>> = matrices.collect();
        Ok(Self {
            matrices: matrices.ok_or_else(|| damaged("a matrix has another size".to_owned()))?,
        })
    }

    /// Takes the matrices out, in their order.
    pub(crate) fn into_matrices(self) -> std::vec::IntoIter<PackedMatrix> {
        self.matrices.into_iter()
    }

    /// Writes the matrices of loaded weights. The file appears only when it is whole.
    pub(crate) fn write(
        path: &Path,
        checkpoint: &Checkpoint,
        precision: Precision,
        weights: &Weights,
        cpu: &Cpu,
    ) -> Result<u64, PackFileError> {
        let io = |source| PackFileError::Io {
            path: path.to_owned(),
            source,
        };
        let matrices: Vec<&PackedMatrix> = weights.matrices().collect();
        let hashes: Vec<Mutex<String>> = matrices.iter().map(|_| Mutex::default()).collect();
        cpu.pool().run(matrices.len(), &|index, _| {
            let hash = hex(matrices[index].bytes());
            *hashes[index].lock().unwrap_or_else(PoisonError::into_inner) = hash;
        });
        let mut start = 0;
        let entries = matrices.iter().zip(hashes).map(|(matrix, sha256)| {
            let bytes = matrix.bytes().len();
            let entry = Entry {
                n: matrix.n(),
                k: matrix.k(),
                format: format_name(matrix.format()).to_owned(),
                start,
                bytes,
                sha256: sha256.into_inner().unwrap_or_else(PoisonError::into_inner),
            };
            start = (start + bytes).next_multiple_of(ALIGNMENT);
            entry
        });
        let header = Header {
            matrices: entries.collect(),
            precision: precision.name().to_owned(),
            files: source_files(checkpoint).map_err(io)?,
        };
        let temporary = path.with_extension(format!("{}.part", std::process::id()));
        let written = write_parts(&temporary, &header, &matrices)
            .and_then(|bytes| std::fs::rename(&temporary, path).map(|()| bytes));
        if written.is_err() {
            // The error of the writing is the one to tell.
            let _ = std::fs::remove_file(&temporary);
        }
        written.map_err(io)
    }
}

fn write_parts(path: &Path, header: &Header, matrices: &[&PackedMatrix]) -> std::io::Result<u64> {
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)?;
    }
    let json = serde_json::to_vec(header)?;
    let mut file = BufWriter::new(File::create(path)?);
    let mut len = 0;
    let mut put = |bytes: &[u8]| {
        len += bytes.len();
        file.write_all(bytes)
    };
    put(MAGIC)?;
    put(&(json.len() as u64).to_le_bytes())?;
    put(&Sha256::digest(&json))?;
    put(&json)?;
    let fill = |len: usize| vec![0; len.next_multiple_of(ALIGNMENT) - len];
    put(&fill(PREAMBLE + json.len()))?;
    for matrix in matrices {
        put(matrix.bytes())?;
        put(&fill(matrix.bytes().len()))?;
    }
    file.into_inner()?.sync_all()?;
    Ok(len as u64)
}

/// The header, and where the data begin.
fn read_header(bytes: &[u8]) -> Result<(Header, usize), String> {
    let cut = || format!("{} bytes are too few", bytes.len());
    let (preamble, rest) = bytes.split_at_checked(PREAMBLE).ok_or_else(cut)?;
    let (magic, preamble) = preamble.split_at(MAGIC.len());
    if magic != MAGIC {
        return Err("they begin with other bytes, or are of another version".to_owned());
    }
    let (len, sha256) = preamble.split_at(8);
    let len = u64::from_le_bytes(len.try_into().map_err(|_| cut())?);
    if len > HEADER_MAX {
        return Err(format!("a header of {len} bytes"));
    }
    let json = rest.get(..len as usize).ok_or_else(cut)?;
    if Sha256::digest(json).as_slice() != sha256 {
        return Err("the checksum of the header differs".to_owned());
    }
    let header = serde_json::from_slice(json).map_err(|error| error.to_string())?;
    Ok((header, (PREAMBLE + json.len()).next_multiple_of(ALIGNMENT)))
}

/// What the weights of a checkpoint lie in.
fn source_files(checkpoint: &Checkpoint) -> std::io::Result<Vec<SourceFile>> {
    let describe = |path: &Path| {
        let metadata = path.metadata()?;
        let modified = metadata.modified()?.duration_since(UNIX_EPOCH);
        Ok(SourceFile {
            name: path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned(),
            bytes: metadata.len(),
            modified: modified.map_or(0, |since| since.as_nanos() as u64),
        })
    };
    checkpoint
        .files
        .iter()
        .map(|file| describe(&file.path))
        .collect()
}

const FORMATS: [(&str, Format); 4] = [
    ("f32", Format::F32),
    ("bf16", Format::Bf16),
    ("int16", Format::Int16),
    ("int8", Format::Int8),
];

fn format_name(format: Format) -> &'static str {
    let named = FORMATS.iter().find(|(_, known)| *known == format);
    named.map_or("unknown", |(name, _)| name)
}

fn hex(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}
