//! Tensors as they lie in a file, safetensors or GGUF: name, dtype, shape and bytes.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use quintet_kernels::Cpu;
use quintet_kernels::gemm::Rows;

use super::CheckpointError;
use super::mmap::FileMap;

/// How the numbers of a tensor are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dtype {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of an IEEE single.
    Bf16,
    /// ggml's blocks of 32 signed bytes behind one half-precision scale.
    Q8_0,
}

/// Values and bytes of one `Q8_0` block: an f16 scale, then 32 signed bytes (ggml's `block_q8_0`).
const Q8_0_VALUES: usize = 32;
const Q8_0_BYTES: usize = 34;

impl Dtype {
    /// Bytes that `values` numbers take, `None` where they do not fill whole blocks or overflow.
    pub(crate) fn byte_len(self, values: usize) -> Option<usize> {
        match self {
            Self::F32 => values.checked_mul(4),
            Self::F16 | Self::Bf16 => values.checked_mul(2),
            Self::Q8_0 => values
                .is_multiple_of(Q8_0_VALUES)
                .then(|| (values / Q8_0_VALUES).checked_mul(Q8_0_BYTES))
                .flatten(),
        }
    }

    /// Writes the numbers of `bytes` to `out`; both hold the same count of numbers.
    fn widen(self, bytes: &[u8], out: &mut [f32]) {
        match self {
            Self::F32 => {
                for (value, raw) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
                    *value = f32::from_le_bytes(*raw);
                }
            }
            Self::F16 => {
                for (value, raw) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
                    *value = half::f16::from_le_bytes(*raw).to_f32();
                }
            }
            Self::Bf16 => {
                for (value, raw) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
                    *value = f32::from_bits(u32::from(u16::from_le_bytes(*raw)) << 16);
                }
            }
            Self::Q8_0 => {
                let blocks = bytes.as_chunks::<Q8_0_BYTES>().0;
                for (values, block) in out.chunks_exact_mut(Q8_0_VALUES).zip(blocks) {
                    let scale = half::f16::from_le_bytes([block[0], block[1]]).to_f32();
                    for (value, &raw) in values.iter_mut().zip(&block[2..]) {
                        *value = scale * f32::from(raw.cast_signed());
                    }
                }
            }
        }
    }

    /// Whether any number stored in `bytes` is NaN or infinite.
    fn has_non_finite(self, bytes: &[u8]) -> bool {
        // Folded without a branch, so that the scan vectorises: it reads a gigabyte at every start.
        let halves = |exponent: u16, bytes: &[u8]| {
            bytes.as_chunks::<2>().0.iter().fold(false, |bad, raw| {
                bad | (u16::from_le_bytes(*raw) & exponent == exponent)
            })
        };
        match self {
            Self::F32 => bytes.as_chunks::<4>().0.iter().fold(false, |bad, raw| {
                bad | (u32::from_le_bytes(*raw) & 0x7f80_0000 == 0x7f80_0000)
            }),
            Self::F16 => halves(0x7c00, bytes),
            Self::Bf16 => halves(0x7f80, bytes),
            Self::Q8_0 => bytes
                .as_chunks::<Q8_0_BYTES>()
                .0
                .iter()
                .any(|block| halves(0x7c00, &block[..2])),
        }
    }
}

impl std::fmt::Display for Dtype {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::Q8_0 => "q8_0",
        })
    }
}

/// Where a tensor lies in its file.
#[derive(Debug)]
pub(super) struct TensorInfo {
    /// `Err` holds the file's own name of a dtype that no weight of this model may have.
    pub(super) dtype: Result<Dtype, String>,
    /// Row-major, outermost first.
    pub(super) shape: Vec<usize>,
    /// Byte range in the file.
    pub(super) range: Range<usize>,
}

/// A mapped file and the index of its tensors.
#[derive(Debug)]
pub(super) struct TensorFile {
    pub(super) path: PathBuf,
    pub(super) map: Arc<FileMap>,
    pub(super) tensors: BTreeMap<String, TensorInfo>,
}

impl TensorFile {
    /// Maps `path` and refuses what is plainly no weights file: a pointer, a page, an archive.
    pub(super) fn map(path: &Path) -> Result<Arc<FileMap>, CheckpointError> {
        let map = FileMap::open(path).map_err(|source| CheckpointError::Read {
            path: path.to_owned(),
            source,
        })?;
        match impostor(map.bytes()) {
            Some(found) => Err(CheckpointError::NotWeights {
                path: path.to_owned(),
                found,
            }),
            None => Ok(Arc::new(map)),
        }
    }

    /// Opens a safetensors file.
    pub(super) fn open_safetensors(path: &Path) -> Result<Self, CheckpointError> {
        Self::parse_safetensors(path, Self::map(path)?)
    }

    /// Reads the index: an 8-byte header length, a JSON header, then the data. `path` is for messages.
    pub(super) fn parse_safetensors(
        path: &Path,
        map: Arc<FileMap>,
    ) -> Result<Self, CheckpointError> {
        let bytes = map.bytes();
        let truncated = |tensor: Option<String>, expected: usize| CheckpointError::Truncated {
            path: path.to_owned(),
            tensor,
            expected_bytes: expected,
            found_bytes: bytes.len(),
        };
        let Some((length, rest)) = bytes.split_first_chunk::<8>() else {
            return Err(truncated(None, 8));
        };
        let header_len = usize::try_from(u64::from_le_bytes(*length)).unwrap_or(usize::MAX);
        // The format's own limit on headers; a larger number means that this is another kind of file.
        if header_len > 100_000_000 {
            return Err(CheckpointError::NotWeights {
                path: path.to_owned(),
                found: "a file without a safetensors header",
            });
        }
        let data_start = 8 + header_len;
        let header = rest
            .get(..header_len)
            .ok_or_else(|| truncated(None, data_start))?;
        let metadata: safetensors::tensor::Metadata =
            serde_json::from_slice(header).map_err(|source| CheckpointError::Header {
                path: path.to_owned(),
                source,
            })?;
        let expected = data_start + metadata.data_len();
        let mut tensors = BTreeMap::new();
        let mut cut: Option<(usize, String)> = None;
        for (name, info) in metadata.tensors() {
            let range = data_start + info.data_offsets.0..data_start + info.data_offsets.1;
            if range.end > bytes.len() && cut.as_ref().is_none_or(|(end, _)| range.end < *end) {
                cut = Some((range.end, name.clone()));
            }
            let known = [
                (safetensors::Dtype::F32, Dtype::F32),
                (safetensors::Dtype::F16, Dtype::F16),
                (safetensors::Dtype::BF16, Dtype::Bf16),
            ];
            let found = known.into_iter().find(|(theirs, _)| *theirs == info.dtype);
            let dtype = found
                .map(|(_, ours)| ours)
                .ok_or_else(|| info.dtype.to_string());
            tensors.insert(
                name,
                TensorInfo {
                    dtype,
                    shape: info.shape.clone(),
                    range,
                },
            );
        }
        if expected != bytes.len() {
            return Err(truncated(cut.map(|(_, name)| name), expected));
        }
        Ok(Self {
            path: path.to_owned(),
            map,
            tensors,
        })
    }

    pub(super) fn tensor(&self, name: &str) -> Option<Tensor<'_>> {
        let (name, info) = self.tensors.get_key_value(name)?;
        Some(Tensor {
            file: self,
            name,
            info,
        })
    }
}

/// Says what a file is that should have been weights, from its first bytes.
fn impostor(bytes: &[u8]) -> Option<&'static str> {
    let head = bytes[..bytes.len().min(512)].trim_ascii_start();
    let starts = |prefix: &str| {
        head.get(..prefix.len())
            .is_some_and(|h| h.eq_ignore_ascii_case(prefix.as_bytes()))
    };
    if bytes.is_empty() {
        Some("an empty file")
    } else if starts("version https://git-lfs") {
        Some("a git-LFS pointer: the file itself was never downloaded")
    } else if starts("<!doctype") || starts("<html") || starts("<?xml") {
        Some("a web page, most likely an error page saved under this name")
    } else if starts("{\"error") || starts("{ \"error") {
        Some("a JSON error answer saved under this name")
    } else if head.starts_with(b"PK\x03\x04") || head.starts_with(b"\x80\x02") {
        Some("a PyTorch pickle, which can run code when it is opened")
    } else {
        None
    }
}

/// One tensor of a [`TensorFile`].
#[derive(Clone, Copy)]
pub(super) struct Tensor<'a> {
    file: &'a TensorFile,
    pub(super) name: &'a str,
    info: &'a TensorInfo,
}

impl<'a> Tensor<'a> {
    pub(super) fn shape(&self) -> &'a [usize] {
        &self.info.shape
    }

    pub(super) fn path(&self) -> &'a Path {
        &self.file.path
    }

    fn bytes(&self) -> &'a [u8] {
        &self.file.map.bytes()[self.info.range.clone()]
    }

    pub(super) fn dtype(&self) -> Result<Dtype, CheckpointError> {
        self.info
            .dtype
            .clone()
            .map_err(|found| CheckpointError::Dtype {
                path: self.file.path.clone(),
                name: self.name.to_owned(),
                found,
            })
    }

    pub(super) fn expect_shape(&self, expected: &[usize]) -> Result<(), CheckpointError> {
        if self.info.shape == expected {
            return Ok(());
        }
        Err(CheckpointError::Shape {
            path: self.file.path.clone(),
            name: self.name.to_owned(),
            found: self.info.shape.clone(),
            expected: expected.to_vec(),
        })
    }

    /// Refuses NaN and infinities, naming the first one's place.
    pub(super) fn check_finite(&self, cpu: &Cpu) -> Result<(), CheckpointError> {
        self.check_chunks(cpu, &|_| ())
    }

    /// The same; pages are given back while it reads, so that a large tensor is never resident.
    pub(super) fn check_finite_and_release(&self, cpu: &Cpu) -> Result<(), CheckpointError> {
        let start = self.info.range.start;
        self.check_chunks(cpu, &|chunk| {
            let range = start + chunk.start..start + chunk.end;
            self.file.map.release(&range);
        })
    }

    fn check_chunks(
        &self,
        cpu: &Cpu,
        done: &(dyn Fn(Range<usize>) + Sync),
    ) -> Result<(), CheckpointError> {
        // A multiple of every dtype's unit, large enough that handing it out costs nothing.
        const CHUNK_BYTES: usize = Q8_0_BYTES * 65_536;
        let dtype = self.dtype()?;
        let chunks: Vec<&[u8]> = self.bytes().chunks(CHUNK_BYTES).collect();
        let bad = std::sync::atomic::AtomicBool::new(false);
        cpu.pool().run(chunks.len(), &|task, _| {
            let chunk = chunks[task];
            if dtype.has_non_finite(chunk) {
                bad.store(true, std::sync::atomic::Ordering::Relaxed);
            }
            done(task * CHUNK_BYTES..task * CHUNK_BYTES + chunk.len());
        });
        if !bad.into_inner() {
            return Ok(());
        }
        let values = self.to_f32()?;
        let index = values
            .iter()
            .position(|value| !value.is_finite())
            .unwrap_or(0);
        Err(CheckpointError::NotFinite {
            path: self.file.path.clone(),
            name: self.name.to_owned(),
            index,
            value: values.get(index).copied().unwrap_or(f32::NAN),
        })
    }

    /// All numbers, row-major.
    pub(super) fn to_f32(self) -> Result<Vec<f32>, CheckpointError> {
        let mut values = vec![0.0; self.info.shape.iter().product()];
        self.dtype()?.widen(self.bytes(), &mut values);
        Ok(values)
    }

    /// Numbers `start..start + len` of the row-major tensor, for one task of a stack.
    pub(super) fn slice_f32(self, start: usize, len: usize) -> Result<Vec<f32>, CheckpointError> {
        let dtype = self.dtype()?;
        let range = dtype
            .byte_len(start)
            .zip(dtype.byte_len(len))
            .map(|(from, len)| from..from + len);
        let Some(bytes) = range.and_then(|range| self.bytes().get(range)) else {
            // Only a quantised stack whose slices split blocks comes here.
            return Ok(self.to_f32()?[start..start + len].to_vec());
        };
        let mut values = vec![0.0; len];
        dtype.widen(bytes, &mut values);
        Ok(values)
    }

    /// The bytes as the kernels pack them; quantised blocks are widened to f32 first.
    pub(super) fn packable(&self) -> Result<(Dtype, Cow<'a, [u8]>), CheckpointError> {
        Ok(match self.dtype()? {
            Dtype::Q8_0 => {
                let bytes = self
                    .to_f32()?
                    .iter()
                    .flat_map(|value| value.to_le_bytes())
                    .collect();
                (Dtype::F32, Cow::Owned(bytes))
            }
            dtype @ (Dtype::F32 | Dtype::F16 | Dtype::Bf16) => (dtype, Cow::Borrowed(self.bytes())),
        })
    }

    /// Gives the tensor's pages back once its numbers live elsewhere.
    pub(super) fn release(&self) {
        self.file.map.release(&self.info.range);
    }

    /// A table whose rows stay in the file and are widened when read.
    pub(super) fn to_table(self) -> Result<Table, CheckpointError> {
        Ok(Table {
            map: Arc::clone(&self.file.map),
            range: self.info.range.clone(),
            dtype: self.dtype()?,
            columns: self.info.shape.last().copied().unwrap_or(1),
        })
    }
}

/// Borrowed bytes of `dtype` as the kernels take them.
pub(super) fn rows(dtype: Dtype, bytes: &[u8]) -> Rows<'_> {
    match dtype {
        Dtype::Bf16 => Rows::Bf16(bytes),
        Dtype::F16 => Rows::F16(bytes),
        Dtype::F32 | Dtype::Q8_0 => Rows::F32(bytes),
    }
}

/// A row-major table that stays in its file.
#[derive(Debug)]
pub(crate) struct Table {
    map: Arc<FileMap>,
    range: Range<usize>,
    dtype: Dtype,
    columns: usize,
}

impl Table {
    /// Widens row `index` to `out`, which has the table's width.
    pub(crate) fn read_row(&self, index: usize, out: &mut [f32]) {
        let row_bytes = self.dtype.byte_len(self.columns).unwrap_or(0);
        let start = self.range.start + index * row_bytes;
        self.dtype
            .widen(&self.map.read(start..start + row_bytes), out);
    }
}
