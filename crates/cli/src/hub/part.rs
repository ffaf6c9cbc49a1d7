//! A blob on its way: the file with the bytes that came so far, and their hash.

use std::{
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use quintet_engine::weights::hub::Etag;
use sha1::Sha1;
use sha2::{Digest, Sha256};

use super::{HubError, api::RemoteFile};

const BUFFER_BYTES: usize = 256 << 10;

/// The file with the bytes that came so far, and their hash.
pub(crate) struct Part {
    path: PathBuf,
    file: File,
    /// Bytes on disk.
    pub(crate) len: u64,
    size_bytes: u64,
    etag: Etag,
    hash: Hash,
}

impl Part {
    /// Opens what an earlier try left, or a new file.
    pub(crate) fn open(path: PathBuf, wanted: &RemoteFile) -> Result<Self, HubError> {
        let options = File::options()
            .create(true)
            .read(true)
            .write(true)
            .truncate(false)
            .open(&path);
        let file = options.map_err(|source| HubError::File {
            action: "open",
            path: path.clone(),
            source,
        })?;
        let mut part = Self {
            path,
            file,
            len: 0,
            size_bytes: wanted.size_bytes,
            etag: wanted.etag.clone(),
            hash: Hash::new(&wanted.etag, wanted.size_bytes),
        };
        part.read_again()?;
        if part.len > part.size_bytes {
            part.restart()?;
        }
        Ok(part)
    }

    /// Hashes what is on disk; the file is at its end afterwards.
    fn read_again(&mut self) -> Result<(), HubError> {
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            match self.file.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(count) => {
                    self.hash.update(&buffer[..count]);
                    self.len += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => {
                    return Err(HubError::File {
                        action: "read",
                        path: self.path.clone(),
                        source,
                    });
                }
            }
        }
    }

    /// Forgets every byte.
    pub(crate) fn restart(&mut self) -> Result<(), HubError> {
        let emptied = self
            .file
            .set_len(0)
            .and_then(|()| self.file.seek(SeekFrom::Start(0)));
        emptied.map_err(|source| self.write_error(source))?;
        self.len = 0;
        self.hash = Hash::new(&self.etag, self.size_bytes);
        Ok(())
    }

    /// Writes straight to the file: whatever ends the process, what came stays.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> Result<(), HubError> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let count = match self.file.write(rest) {
                Ok(0) => return Err(self.write_error(io::ErrorKind::WriteZero.into())),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(self.write_error(error)),
            };
            let (written, left) = rest.split_at(count);
            self.hash.update(written);
            self.len += count as u64;
            rest = left;
        }
        Ok(())
    }

    /// The hash of those bytes.
    pub(crate) fn digest(&self) -> String {
        self.hash.clone().finish()
    }

    /// Takes the file away.
    pub(crate) fn remove(&self) -> Result<(), HubError> {
        fs::remove_file(&self.path).map_err(|source| HubError::File {
            action: "remove",
            path: self.path.clone(),
            source,
        })
    }

    /// Makes the bytes last, then gives them their name.
    pub(crate) fn finish(self, blob: &Path) -> Result<(), HubError> {
        self.file
            .sync_all()
            .map_err(|source| self.write_error(source))?;
        fs::rename(&self.path, blob).map_err(|source| HubError::File {
            action: "rename to its final name",
            path: self.path,
            source,
        })
    }

    fn write_error(&self, source: io::Error) -> HubError {
        HubError::write(self.path.clone(), self.len, self.size_bytes, source)
    }
}

/// The hash that an etag of its length is.
#[derive(Clone)]
enum Hash {
    Sha256(Sha256),
    GitBlob(Sha1),
}

impl Hash {
    /// Git's id of a blob is the SHA-1 of `blob <length>\0` and the bytes.
    fn new(etag: &Etag, size_bytes: u64) -> Self {
        if etag.is_sha256() {
            Self::Sha256(Sha256::new())
        } else {
            Self::GitBlob(Sha1::new_with_prefix(format!("blob {size_bytes}\0")))
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hash) => hash.update(bytes),
            Self::GitBlob(hash) => hash.update(bytes),
        }
    }

    fn finish(self) -> String {
        match self {
            Self::Sha256(hash) => format!("{:x}", hash.finalize()),
            Self::GitBlob(hash) => format!("{:x}", hash.finalize()),
        }
    }
}

#[cfg(test)]
mod tests {
    use quintet_engine::weights::hub::RepoPath;

    use super::*;

    fn file(etag: &str, size_bytes: u64) -> RemoteFile {
        RemoteFile {
            path: RepoPath::parse("config.json").unwrap(),
            size_bytes,
            etag: Etag::parse(etag).unwrap(),
        }
    }

    #[test]
    fn hashes_are_those_of_git_and_sha256sum() {
        // printf 'hello\n' | git hash-object --stdin; printf 'hello\n' | sha256sum
        let cases = [
            "ce013625030ba8dba906f756967f9e9ca394464a",
            "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03",
        ];
        for expected in cases {
            let mut hash = Hash::new(&Etag::parse(expected).unwrap(), 6);
            hash.update(b"hel");
            hash.update(b"lo\n");
            assert_eq!(hash.finish(), expected);
        }
    }

    #[test]
    fn a_part_continues_with_its_hash() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.incomplete");
        let file = file("ce013625030ba8dba906f756967f9e9ca394464a", 6);
        let mut part = Part::open(path.clone(), &file).unwrap();
        part.append(b"hel").unwrap();
        drop(part);
        let mut part = Part::open(path.clone(), &file).unwrap();
        assert_eq!(part.len, 3);
        part.append(b"lo\n").unwrap();
        assert_eq!(part.digest(), file.etag.as_str());
        part.finish(&folder.path().join("x")).unwrap();
        assert_eq!(fs::read(folder.path().join("x")).unwrap(), b"hello\n");
        assert!(!path.exists());
    }

    #[test]
    fn a_part_that_is_too_long_begins_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.incomplete");
        fs::write(&path, "longer than six").unwrap();
        let file = file("ce013625030ba8dba906f756967f9e9ca394464a", 6);
        let mut part = Part::open(path, &file).unwrap();
        assert_eq!(part.len, 0);
        part.append(b"hello\n").unwrap();
        assert_eq!(part.digest(), file.etag.as_str());
    }
}
