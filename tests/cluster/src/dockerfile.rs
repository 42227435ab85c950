//! Builds of the repository's Dockerfiles by buildah, without an engine or a registry.
//!
//! Each Dockerfile takes its base image by ARG. A nearly empty image replaces the registry's Rust image, with this
//! machine's toolchain mounted over it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::command::run;
use crate::error::{At, ClusterError, ClusterResult};
use crate::image::{DURWARD, Image};
use crate::{paths, preflight};

/// A built image.
#[derive(Debug)]
pub struct BuiltImage {
    /// In the format of `docker save`, for [`crate::Cluster::load_archive`].
    pub archive: PathBuf,
    /// Its user.
    pub user: String,
    /// Its entrypoint.
    pub entrypoint: Vec<String>,
    /// Size of its layers in bytes.
    pub size: u64,
}

const BUILDER: &str = "durward.test/builder:test";

/// Builds the image [`DURWARD`]. Quick when nothing changed: the cache keeps cargo's target folder.
pub fn build() -> ClusterResult<BuiltImage> {
    let buildah = Buildah::new("image")?;
    eprintln!("cluster: building the durward image (minutes on first use)");
    let target = buildah.work.join("target");
    fs::create_dir_all(&target).at("create", &target)?;
    buildah.build(&Recipe {
        name: DURWARD,
        context: paths::repository(),
        base: ("BUILDER", builder()),
        volumes: mounts(&target)?,
    })
}

/// Builds the image `name` by the Dockerfile in `context`, whose argument `base` is the base image.
pub fn build_on(name: &str, context: &Path, base: (&str, Image)) -> ClusterResult<BuiltImage> {
    let folder = name.replace(['/', ':'], "-");
    Buildah::new(&folder)?.build(&Recipe { name, context: context.to_owned(), base, volumes: Vec::new() })
}

/// The inputs of a build.
struct Recipe<'a> {
    name: &'a str,
    context: PathBuf,
    base: (&'a str, Image),
    volumes: Vec<(PathBuf, &'static str, &'static str)>,
}

struct Buildah {
    work: PathBuf,
    _lock: File,
}

impl Buildah {
    fn new(folder: &str) -> ClusterResult<Self> {
        preflight::programs(&[("buildah", "buildah"), ("setpriv", "util-linux"), ("unshare", "util-linux")])?;
        let work = paths::cache()?.join(folder);
        fs::create_dir_all(&work).at("create", &work)?;
        let lock_path = work.join("lock");
        let lock = File::create(&lock_path).at("create", &lock_path)?;
        lock.lock().at("lock", &lock_path)?;
        Ok(Self { work, _lock: lock })
    }

    fn build(&self, recipe: &Recipe<'_>) -> ClusterResult<BuiltImage> {
        self.clean()?;
        let built = self.make(recipe);
        // layers are large, and the next build is quick without them
        self.clean()?;
        built
    }

    fn run<S: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = S>) -> ClusterResult<String> {
        let storage = |name: &str| self.work.join("storage").join(name);
        // in namespaces that end with this process: an interrupted build leaves neither a mount nor a compiler behind
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "--", "unshare", "--mount", "--propagation", "private"])
            .args(["--pid", "--fork", "--kill-child", "--mount-proc", "--", "buildah"])
            .arg("--root")
            .arg(storage("root"))
            .arg("--runroot")
            .arg(storage("run"))
            .args(["--storage-driver", "vfs"])
            .args(args);
        run(&mut command)
    }

    fn clean(&self) -> ClusterResult<()> {
        let storage = self.work.join("storage");
        match fs::remove_dir_all(&storage) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error).at("remove", &storage),
            _ => Ok(()),
        }
    }

    fn make(&self, recipe: &Recipe<'_>) -> ClusterResult<BuiltImage> {
        let (argument, base) = &recipe.base;
        let base_archive = self.work.join("base.tar");
        fs::write(&base_archive, base.archive()?).at("write", &base_archive)?;
        self.run(["pull", "--quiet", &format!("docker-archive:{}", base_archive.display())])?;

        let build_arg = format!("--build-arg={argument}={}", base.name());
        let mut args =
            ["bud", "--isolation=chroot", "--pull-never", "--layers=false", &build_arg, "--tag", recipe.name]
                .map(String::from)
                .to_vec();
        for (source, target, options) in &recipe.volumes {
            args.push(format!("--volume={}:{target}:{options}", source.display()));
        }
        args.push(recipe.context.display().to_string());
        self.run(&args)?;

        let inspected = self.run(["inspect", "--type=image", recipe.name])?;
        let archive = self.work.join("image.tar");
        if archive.exists() {
            fs::remove_file(&archive).at("remove", &archive)?;
        }
        self.run(["push", "--quiet", recipe.name, &format!("docker-archive:{}:{}", archive.display(), recipe.name)])?;
        let size = fs::metadata(&archive).at("read", &archive)?.len();
        let invalid = |detail: &str| ClusterError::invalid("buildah's description of the image", detail);
        let described: Value = serde_json::from_str(&inspected).map_err(|error| invalid(&error.to_string()))?;
        let config = described.pointer("/OCIv1/config").ok_or_else(|| invalid("it has no OCIv1.config"))?;
        let words = config.get("Entrypoint").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        Ok(BuiltImage {
            archive,
            user: config.get("User").and_then(Value::as_str).unwrap_or_default().to_owned(),
            entrypoint: words.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
            size,
        })
    }
}

/// The base image of the builder stage: links into the mounted folders.
fn builder() -> Image {
    ["bin", "sbin", "lib", "lib64"]
        .into_iter()
        .fold(Image::new(BUILDER), |image, name| image.link(name, &format!("usr/{name}")))
        .folder("/usr", 0o755)
        .folder("/etc", 0o755)
        .folder("/tmp", 0o1777)
        .entrypoint(["/bin/sh"])
        .env("PATH", "/toolchain/bin:/usr/local/bin:/usr/bin:/bin")
        .env("CARGO_HOME", "/cargo")
}

/// Volumes: this machine's toolchain, its crates, and the kept target folder.
fn mounts(target: &Path) -> ClusterResult<Vec<(PathBuf, &'static str, &'static str)>> {
    let sysroot = run(Command::new("rustc").current_dir(paths::repository()).args(["--print", "sysroot"]))?;
    let home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")));
    let cargo = home.ok_or_else(|| ClusterError::refused("neither CARGO_HOME nor HOME is set", "set CARGO_HOME"))?;
    Ok(vec![
        (PathBuf::from("/usr"), "/usr", "ro"),
        (PathBuf::from("/etc/ssl"), "/etc/ssl", "ro"),
        (PathBuf::from("/etc/alternatives"), "/etc/alternatives", "ro"),
        (PathBuf::from(sysroot.trim()), "/toolchain", "ro"),
        (cargo, "/cargo", "rw"),
        (target.to_owned(), "/src/target", "rw"),
    ])
}
