//! Images without a registry: made from files, loaded from an archive.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

use crate::command::run;
use crate::error::{At, ClusterError, ClusterResult};
use crate::{cargo, preflight};

/// The image of every pod's sandbox.
pub const PAUSE: &str = "durward.test/pause:test";
/// A shell with the usual tools. Debian's static `wget -T` crashes: use `timeout 5 wget`.
pub const BUSYBOX: &str = "durward.test/busybox:test";
/// Durward's image: [`durward`] makes it quickly, [`crate::dockerfile::build`] by the repository's Dockerfile.
pub const DURWARD: &str = "durward.test/durward:test";

/// An image: one layer and its configuration.
///
/// Pods use it with `imagePullPolicy: Never`, or `IfNotPresent` when its tag is not `latest`.
#[derive(Debug, Clone)]
pub struct Image {
    name: String,
    entries: Vec<ImageEntry>,
    entrypoint: Vec<String>,
    command: Vec<String>,
    user: String,
    env: Vec<String>,
}

#[derive(Debug, Clone)]
struct ImageEntry {
    path: String,
    mode: u32,
    content: EntryContent,
}

#[derive(Debug, Clone)]
enum EntryContent {
    File(Vec<u8>),
    Link(String),
    Folder,
}

impl Image {
    /// An empty image called `name`, tag included, such as `durward.test/echo:test`.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            entries: Vec::new(),
            entrypoint: Vec::new(),
            command: Vec::new(),
            user: String::new(),
            env: Vec::new(),
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The same image under another name.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    /// Adds a file at the absolute `path`.
    #[must_use]
    pub fn file(self, path: &str, mode: u32, content: impl Into<Vec<u8>>) -> Self {
        self.entry(path, mode, EntryContent::File(content.into()))
    }

    /// Adds a copy of a program of this machine, and of the libraries that it loads.
    pub fn program(self, path: &str, source: &Path) -> ClusterResult<Self> {
        self.file(path, 0o755, fs::read(source).at("read", source)?).libraries(source)
    }

    /// Adds a folder of this machine, except names in `without`, and the libraries that its shared objects
    /// load.
    pub fn tree(mut self, path: &str, source: &Path, without: &[&str]) -> ClusterResult<Self> {
        for entry in fs::read_dir(source).at("read", source)? {
            let from = entry.at("read", source)?.path();
            let name = from.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let to = format!("{path}/{name}");
            if without.contains(&name.as_str()) {
                continue;
            }
            self = match from.is_dir() {
                true => self.tree(&to, &from, without)?,
                false if name.ends_with(".so") => self.program(&to, &from)?,
                false => self.file(&to, 0o644, fs::read(&from).at("read", &from)?),
            };
        }
        Ok(self)
    }

    fn libraries(mut self, of: &Path) -> ClusterResult<Self> {
        // fails for static programs
        let loaded = run(Command::new("ldd").arg(of)).unwrap_or_default();
        for library in loaded.split_whitespace().filter(|word| word.starts_with('/')).map(Path::new) {
            let path = library.display().to_string();
            if !self.entries.iter().any(|entry| entry.path == path.trim_matches('/')) {
                self = self.file(&path, 0o755, fs::read(library).at("read", library)?);
            }
        }
        Ok(self)
    }

    /// Adds a symbolic link at `path`.
    #[must_use]
    pub fn link(self, path: &str, target: &str) -> Self {
        self.entry(path, 0o777, EntryContent::Link(target.to_owned()))
    }

    /// Adds a folder. Parents of files are added automatically.
    #[must_use]
    pub fn folder(self, path: &str, mode: u32) -> Self {
        self.entry(path, mode, EntryContent::Folder)
    }

    /// Sets the entrypoint.
    #[must_use]
    pub fn entrypoint<S: Into<String>>(mut self, words: impl IntoIterator<Item = S>) -> Self {
        self.entrypoint = words.into_iter().map(Into::into).collect();
        self
    }

    /// Sets the command: the entrypoint's arguments, or the program without an entrypoint.
    #[must_use]
    pub fn command<S: Into<String>>(mut self, words: impl IntoIterator<Item = S>) -> Self {
        self.command = words.into_iter().map(Into::into).collect();
        self
    }

    /// Sets the user, `uid:gid`; the default is root.
    #[must_use]
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.user = user.into();
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.retain(|set| !set.starts_with(&format!("{name}=")));
        self.env.push(format!("{name}={value}"));
        self
    }

    fn entry(mut self, path: &str, mode: u32, content: EntryContent) -> Self {
        self.entries.push(ImageEntry { path: path.trim_matches('/').to_owned(), mode, content });
        self
    }

    /// The image as an archive in the format of `docker save`.
    pub fn archive(&self) -> ClusterResult<Vec<u8>> {
        let failed = |source| ClusterError::Io { action: "pack", path: PathBuf::from(&self.name), source };
        let layer = self.layer().map_err(failed)?;
        let digest = crate::hex(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &layer).as_ref());
        let config = json!({
            "architecture": architecture(),
            "os": "linux",
            "config": {"Entrypoint": self.entrypoint, "Cmd": self.command, "User": self.user, "Env": self.env},
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{digest}")]},
        });
        let manifest = json!([{"Config": "config.json", "RepoTags": [self.name], "Layers": ["layer.tar"]}]);
        let mut archive = tar::Builder::new(Vec::new());
        let files = [
            ("layer.tar", layer),
            ("config.json", config.to_string().into()),
            ("manifest.json", manifest.to_string().into()),
        ];
        for (name, bytes) in files {
            append(&mut archive, name, 0o644, &bytes).map_err(failed)?;
        }
        archive.into_inner().map_err(failed)
    }

    /// The archive in a temporary file of its own, since tests load the same image at the same time.
    pub(crate) fn archive_file(&self) -> ClusterResult<tempfile::NamedTempFile> {
        let file = tempfile::NamedTempFile::new().at("create a file in", &std::env::temp_dir())?;
        fs::write(file.path(), self.archive()?).at("write", file.path())?;
        Ok(file)
    }

    fn layer(&self) -> std::io::Result<Vec<u8>> {
        let mut layer = tar::Builder::new(Vec::new());
        let mut folders = BTreeSet::new();
        for entry in &self.entries {
            let ancestors: Vec<_> =
                Path::new(&entry.path).ancestors().skip(1).filter(|path| *path != Path::new("")).collect();
            for folder in ancestors.into_iter().rev() {
                if folders.insert(folder.to_owned()) {
                    append_folder(&mut layer, folder, 0o755)?;
                }
            }
            match &entry.content {
                EntryContent::File(bytes) => append(&mut layer, &entry.path, entry.mode, bytes)?,
                EntryContent::Link(target) => {
                    let mut header = header(tar::EntryType::Symlink, entry.mode, 0);
                    layer.append_link(&mut header, &entry.path, target)?;
                }
                EntryContent::Folder => {
                    folders.insert(PathBuf::from(&entry.path));
                    append_folder(&mut layer, Path::new(&entry.path), entry.mode)?;
                }
            }
        }
        layer.into_inner()
    }
}

fn append(archive: &mut tar::Builder<Vec<u8>>, path: &str, mode: u32, bytes: &[u8]) -> std::io::Result<()> {
    archive.append_data(&mut header(tar::EntryType::Regular, mode, bytes.len() as u64), path, bytes)
}

fn append_folder(archive: &mut tar::Builder<Vec<u8>>, path: &Path, mode: u32) -> std::io::Result<()> {
    archive.append_data(&mut header(tar::EntryType::Directory, mode, 0), path, std::io::empty())
}

/// A header without time and user names: the same files make the same image.
fn header(kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

/// The name of this machine's architecture in images.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// [`BUSYBOX`] from this machine's static busybox, its tools under `/bin`.
pub fn busybox() -> ClusterResult<Image> {
    let program = preflight::static_busybox()?;
    let tools = run(Command::new(&program).arg("--list"))?;
    let image = Image::new(BUSYBOX).program("/bin/busybox", &program)?;
    let image = tools
        .lines()
        .filter(|tool| *tool != "busybox")
        .fold(image, |image, tool| image.link(&format!("/bin/{tool}"), "busybox"));
    Ok(image.folder("/tmp", 0o1777).folder("/etc", 0o755).env("PATH", "/bin").command(["/bin/sh"]))
}

/// [`DURWARD`] with the program of this checkout, like the Dockerfile's but compiled in a minute.
pub fn durward() -> ClusterResult<Image> {
    eprintln!("cluster: building the durward image (minutes on first use)");
    let program = cargo::build_static()?;
    let authorities = Path::new("/etc/ssl/certs/ca-certificates.crt");
    let image = Image::new(DURWARD).file("/durward", 0o755, fs::read(&program).at("read", &program)?).file(
        "/etc/ssl/certs/ca-certificates.crt",
        0o644,
        fs::read(authorities).at("read", authorities)?,
    );
    Ok(image.user("65532:65532").entrypoint(["/durward"]))
}

/// [`PAUSE`]: a program that does nothing until it is killed.
pub(crate) fn pause() -> ClusterResult<Image> {
    Ok(Image::new(PAUSE).program("/sleep", &preflight::static_busybox()?)?.entrypoint(["/sleep", "infinity"]))
}
