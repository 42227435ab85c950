//! One listing of a directory of manifests: the files with their versions, the entries that are skipped, and the names
//! that the listing depends on.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::{self, FileType, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use thiserror::Error;

/// Depth up to which subdirectories are searched.
const MAX_DEPTH: usize = 16;
/// Symlinks on one path; the same limit as that of Linux.
const MAX_LINKS: usize = 40;
/// A file that changed shortly before it was listed can change again without a new time: file systems count in ticks
/// of up to 10 ms. Ten of them are waited for.
const RACY: Duration = Duration::from_millis(100);

/// Extensions of manifest files.
const EXTENSIONS: [&str; 3] = ["yaml", "yml", "json"];

/// A directory of manifests can't be listed.
#[derive(Debug, Error)]
#[error("can't read the manifests in `{path}`: {source}")]
pub struct ManifestLoadError {
    path: String,
    source: io::Error,
}

impl ManifestLoadError {
    fn new(path: &Path, source: io::Error) -> Self {
        Self { path: path.display().to_string(), source }
    }
}

/// A listing of a directory.
#[derive(Debug, Clone)]
pub(crate) struct DirectoryTree {
    /// Manifest files by path: the path of the root, and the path inside.
    pub files: BTreeMap<PathBuf, FileVersion>,
    /// Entries that look like manifests, or that should not be here, and are not read.
    pub skipped: BTreeMap<PathBuf, SkipReason>,
    /// Device and inode of each listed directory, by its real path.
    pub directories: BTreeMap<PathBuf, (u64, u64)>,
    /// Real paths of symlinks, their targets and the root. If one of them changes, the listing does, too.
    pub names: BTreeSet<PathBuf>,
    /// Time since 1970 at which the listing began.
    at: Duration,
}

/// Identity, size and times of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileVersion {
    device: u64,
    inode: u64,
    size: u64,
    /// Seconds and nanoseconds of the last change of the content, and of the inode.
    times: [(i64, i64); 2],
}

/// Why an entry is not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum SkipReason {
    /// Its extension is not written in lower case.
    Extension,
    /// It is a symlink to a directory.
    LinkedDirectory,
    /// It is a FIFO, a socket or a device.
    NoFile,
    /// The directory is too deep inside the root.
    Depth,
}

impl fmt::Display for SkipReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Extension => f.write_str("skipped: write its extension in lower case, so that it is read"),
            Self::LinkedDirectory => {
                f.write_str("skipped: symlinks to directories are not followed; move the directory here, or link files")
            }
            Self::NoFile => f.write_str("skipped: it is not a file; move it out of the directory of manifests"),
            Self::Depth => write!(f, "skipped: it is more than {MAX_DEPTH} directories deep; move it up"),
        }
    }
}

impl FileVersion {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            times: [(metadata.mtime(), metadata.mtime_nsec()), (metadata.ctime(), metadata.ctime_nsec())],
        }
    }

    /// Whether the file may have changed after `at` without a different version.
    fn is_racy(&self, at: Duration) -> bool {
        let newest = self.times.into_iter().max().unwrap_or_default();
        let since = Duration::new(newest.0.try_into().unwrap_or(0), newest.1.try_into().unwrap_or(0));
        since + RACY >= at
    }
}

impl DirectoryTree {
    /// Lists the manifest files in a directory and its subdirectories, without hidden ones. A single file is its own
    /// directory.
    pub fn list(root: &Path) -> Result<Self, ManifestLoadError> {
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut tree = Self {
            files: BTreeMap::new(),
            skipped: BTreeMap::new(),
            directories: BTreeMap::new(),
            names: names_of(root),
            at,
        };
        let error = |source| ManifestLoadError::new(root, source);
        let metadata = fs::metadata(root).map_err(error)?;
        if metadata.is_file() {
            tree.files.insert(root.to_owned(), FileVersion::of(&metadata));
            return Ok(tree);
        }
        let real = fs::canonicalize(root).map_err(error)?;
        let mut directories = vec![(root.to_owned(), real, 0)];
        while let Some((directory, real, depth)) = directories.pop() {
            let error = |source| ManifestLoadError::new(&directory, source);
            let metadata = fs::metadata(&directory).map_err(error)?;
            tree.directories.insert(real.clone(), (metadata.dev(), metadata.ino()));
            for entry in fs::read_dir(&directory).map_err(error)? {
                let entry = entry.map_err(error)?;
                let name = entry.file_name();
                if name.to_string_lossy().starts_with('.') {
                    continue;
                }
                let path = entry.path();
                let kind = entry.file_type().map_err(error)?;
                if !kind.is_dir() {
                    tree.add_entry(path, &real.join(name), kind);
                } else if depth < MAX_DEPTH {
                    directories.push((path, real.join(name), depth + 1));
                } else {
                    tree.skipped.insert(path, SkipReason::Depth);
                }
            }
        }
        Ok(tree)
    }

    /// Adds an entry that is not a directory itself.
    fn add_entry(&mut self, path: PathBuf, real: &Path, kind: FileType) {
        if kind.is_symlink() {
            self.names.append(&mut names_of(real));
        }
        // a symlink without a target is a manifest that can't be read, not one that was removed
        let Ok(metadata) = fs::metadata(&path).or_else(|_| fs::symlink_metadata(&path)) else { return };
        let extension = path.extension().map(|extension| extension.to_string_lossy().into_owned()).unwrap_or_default();
        let manifest = EXTENSIONS.contains(&extension.as_str());
        if metadata.is_dir() {
            self.skipped.insert(path, SkipReason::LinkedDirectory);
        } else if !metadata.is_file() && !metadata.is_symlink() {
            self.skipped.insert(path, SkipReason::NoFile);
        } else if manifest {
            self.files.insert(path, FileVersion::of(&metadata));
        } else if EXTENSIONS.contains(&extension.to_ascii_lowercase().as_str()) {
            self.skipped.insert(path, SkipReason::Extension);
        }
    }

    /// The files that are new or that may have changed since an older listing.
    pub fn outdated_since(&self, older: &Self) -> BTreeSet<PathBuf> {
        let unchanged = |path: &PathBuf, version: &FileVersion| {
            older.files.get(path).is_some_and(|old| old == version && !old.is_racy(older.at))
        };
        self.files.iter().filter(|(path, version)| !unchanged(path, version)).map(|(path, _)| path.clone()).collect()
    }

    /// Whether a file was added, changed or removed since an older listing, or an entry is skipped for the first time.
    pub fn differs_from(&self, older: &Self) -> bool {
        !self.outdated_since(older).is_empty()
            || older.files.keys().any(|path| !self.files.contains_key(path))
            || self.skipped != older.skipped
    }

    /// The names that the listing of a root depends on, whether it exists or not.
    pub fn names_of(root: &Path) -> BTreeSet<PathBuf> {
        names_of(root)
    }

    /// Device and inode of a directory; `None` if it does not exist.
    pub fn identity(directory: &Path) -> Option<(u64, u64)> {
        fs::metadata(directory).ok().map(|metadata| (metadata.dev(), metadata.ino()))
    }

    /// Whether a path has the extension of a manifest, in whatever case.
    pub fn is_manifest_name(path: &Path) -> bool {
        let extension = path.extension().map(|extension| extension.to_string_lossy().to_ascii_lowercase());
        extension.is_some_and(|extension| EXTENSIONS.contains(&extension.as_str()))
    }
}

/// The real paths that a path depends on: each symlink on the way, and the end. A name that does not exist ends the way.
fn names_of(path: &Path) -> BTreeSet<PathBuf> {
    let mut names = BTreeSet::new();
    let mut real = PathBuf::new();
    let Ok(absolute) = std::path::absolute(path) else { return names };
    let mut rest: Vec<PathBuf> = reversed(&absolute);
    let mut links = 0;
    while let Some(component) = rest.pop() {
        match component.components().next() {
            Some(Component::RootDir | Component::Prefix(_)) => real = component,
            Some(Component::ParentDir) => drop(real.pop()),
            Some(Component::Normal(_)) => {
                let candidate = real.join(&component);
                match link_target(&candidate) {
                    Ok(Some(target)) if links < MAX_LINKS => {
                        links += 1;
                        rest.extend(reversed(&target));
                        names.insert(candidate);
                    }
                    Ok(_) => real = candidate,
                    Err(_) => {
                        names.insert(candidate);
                        return names;
                    }
                }
            }
            Some(Component::CurDir) | None => {}
        }
    }
    names.insert(real);
    names
}

fn reversed(path: &Path) -> Vec<PathBuf> {
    path.components().rev().map(|component| PathBuf::from(component.as_os_str())).collect()
}

/// The target of a symlink; `None` for anything else.
fn link_target(path: &Path) -> io::Result<Option<PathBuf>> {
    if fs::symlink_metadata(path)?.is_symlink() { fs::read_link(path).map(Some) } else { Ok(None) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_path_depends_on_each_symlink_and_its_end() {
        let directory = tempfile::tempdir().expect("a folder");
        let root = fs::canonicalize(directory.path()).expect("a path");
        fs::create_dir_all(root.join("..2026/inner")).expect("created");
        fs::write(root.join("..2026/p.yaml"), "").expect("written");
        symlink("..2026", root.join("..data")).expect("linked");
        symlink("..data/p.yaml", root.join("p.yaml")).expect("linked");
        let expected = ["p.yaml", "..data", "..2026/p.yaml"].map(|name| root.join(name));
        assert_eq!(names_of(&root.join("p.yaml")), BTreeSet::from(expected));
        symlink("loop", root.join("loop")).expect("linked");
        assert!(names_of(&root.join("loop")).contains(&root.join("loop")));
        assert_eq!(names_of(&root.join("..data/none/x")).last(), Some(&root.join("..data")));
    }

    #[test]
    fn a_file_written_just_now_is_read_again() {
        let directory = tempfile::tempdir().expect("a folder");
        let file = directory.path().join("p.yaml");
        fs::write(&file, "a").expect("written");
        let first = DirectoryTree::list(directory.path()).expect("listed");
        let second = DirectoryTree::list(directory.path()).expect("listed");
        assert_eq!(second.outdated_since(&first), BTreeSet::from([file.clone()]), "it may have changed meanwhile");
        let later = DirectoryTree { at: first.at + Duration::from_secs(1), ..first };
        assert!(!second.differs_from(&later), "it can't have changed without another time");
    }

    #[test]
    fn what_is_not_read_has_a_reason() {
        let directory = tempfile::tempdir().expect("a folder");
        let root = directory.path();
        for name in ["a.yaml", "b.yml", "c.json", "d.YAML", "e.Json", "README.md", ".hidden.yaml"] {
            fs::write(root.join(name), "").expect("written");
        }
        fs::create_dir(root.join("inner")).expect("created");
        symlink("inner", root.join("linked")).expect("linked");
        symlink("nowhere", root.join("gone.yaml")).expect("linked");
        assert!(std::process::Command::new("mkfifo").arg(root.join("pipe.yaml")).status().expect("run").success());
        let tree = DirectoryTree::list(root).expect("listed");
        let names = |paths: Vec<&PathBuf>| -> Vec<String> {
            paths.iter().map(|path| path.strip_prefix(root).expect("inside").display().to_string()).collect()
        };
        assert_eq!(names(tree.files.keys().collect()), ["a.yaml", "b.yml", "c.json", "gone.yaml"]);
        assert_eq!(names(tree.skipped.keys().collect()), ["d.YAML", "e.Json", "linked", "pipe.yaml"]);
    }
}
