//! Sizes in settings, and the memory limit of the container that the process runs in.

use std::fs;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Where Linux mounts control groups.
const CGROUPS: &str = "/sys/fs/cgroup";
/// The control groups of this process.
const OWN_CGROUPS: &str = "/proc/self/cgroup";
/// Limits from here on mean "none": version 1 has a huge number where version 2 has `max`.
const UNLIMITED: u64 = 1 << 50;

/// The text is not a size.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{0}` is not a size; write a number of bytes, or a number with Ki, Mi or Gi, such as `64Mi`")]
pub struct SizeError(String);

/// Parses a number of bytes, with the suffixes of Kubernetes quantities.
///
/// # Errors
/// When the text is not a size, or the size is zero.
pub fn parse_size(text: &str) -> Result<usize, SizeError> {
    let units = [("Ki", 1 << 10), ("Mi", 1 << 20), ("Gi", 1 << 30)];
    let (number, unit) =
        units.iter().find_map(|(suffix, unit)| Some((text.strip_suffix(suffix)?, *unit))).unwrap_or((text, 1));
    let size = number.parse::<usize>().ok().and_then(|number| number.checked_mul(unit));
    size.filter(|size| *size > 0).ok_or_else(|| SizeError(text.to_owned()))
}

/// The memory limit of the container, in bytes; `None` where there is none, or none that can be read.
#[must_use]
pub fn container_limit() -> Option<u64> {
    limit_of(&fs::read_to_string(OWN_CGROUPS).unwrap_or_default(), Path::new(CGROUPS))
}

/// The smallest limit of the control groups in `own` and of their parents, in either version of control groups.
fn limit_of(own: &str, root: &Path) -> Option<u64> {
    let groups = own.lines().filter_map(|line| {
        // hierarchy-ID:controller-list:cgroup-path
        let mut fields = line.splitn(3, ':');
        let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        match controllers {
            "" => Some((root.to_owned(), path, "memory.max")),
            _ if controllers.split(',').any(|controller| controller == "memory") => {
                Some((root.join("memory"), path, "memory.limit_in_bytes"))
            }
            _ => None,
        }
    });
    groups.flat_map(|(root, path, file)| limits_up_to(&root, path, file)).min()
}

/// The limits of a group and of its parents. Inside a container, the path can be one of the host: then only the root
/// is there, and it is the container's own group.
fn limits_up_to(root: &Path, path: &str, file: &str) -> Vec<u64> {
    let group: PathBuf = root.join(path.trim_start_matches('/'));
    let groups = group.ancestors().take_while(|group| group.starts_with(root));
    groups.filter_map(|group| read_limit(&group.join(file))).collect()
}

fn read_limit(file: &Path) -> Option<u64> {
    let limit = fs::read_to_string(file).ok()?.trim().parse().ok()?;
    (limit < UNLIMITED).then_some(limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_bytes_or_have_a_binary_suffix() {
        for (text, size) in [
            ("4096", Some(4096)),
            ("16Ki", Some(16 << 10)),
            ("64Mi", Some(64 << 20)),
            ("2Gi", Some(2 << 30)),
            ("0", None),
            ("0Mi", None),
            ("", None),
            ("Mi", None),
            ("-1", None),
            ("64M", None),
            ("99999999999Gi", None),
        ] {
            assert_eq!(parse_size(text).ok(), size, "{text}");
        }
    }

    #[test]
    fn the_smallest_limit_of_both_versions_is_found() {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |path: &str, text: &str| {
            let file = folder.path().join(path);
            fs::create_dir_all(file.parent().expect("a folder")).expect("created");
            fs::write(file, text).expect("written");
        };
        let limit = |own: &str| limit_of(own, folder.path());
        assert_eq!(limit(""), None);
        assert_eq!(limit("0::/pods/one\n"), None, "no file");
        write("pods/one/memory.max", "max\n");
        assert_eq!(limit("0::/pods/one\n"), None, "no limit");
        write("pods/memory.max", "268435456\n");
        assert_eq!(limit("0::/pods/one\n"), Some(256 << 20), "the parent's limit");
        write("pods/one/memory.max", "134217728\n");
        assert_eq!(limit("0::/pods/one\n"), Some(128 << 20), "the smaller one");
        write("memory.max", "67108864\n");
        assert_eq!(limit("0::/../../host/path\n"), Some(64 << 20), "the container's own group");
        write("memory/docker/memory.limit_in_bytes", "33554432\n");
        write("memory/memory.limit_in_bytes", "9223372036854771712\n");
        assert_eq!(limit("4:cpu,memory:/docker\n1:name=systemd:/x\n"), Some(32 << 20));
    }
}
