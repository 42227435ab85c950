//! Changes of manifests as users make them: in place, by a mounted ConfigMap, through symlinks, and of the root itself.

use super::*;
use durward_tests::gate::{GateFixture, GateProcess, RecordingApp, TlsCaller};
use std::os::unix::fs::symlink;
use std::path::PathBuf;

/// A process that decides by a directory: `durward up` or `durward gate`.
enum Follower {
    Up(Box<UpProcess>),
    Gate(Box<GateFollower>),
}

struct GateFollower {
    fixture: GateFixture,
    process: GateProcess,
    caller: TlsCaller,
    _app: RecordingApp,
}

impl Follower {
    /// Both tools, each with manifests of its own.
    fn both(root: &str, prepare: impl Fn(&Path)) -> [Self; 2] {
        let up = UpProcess::start_in(root, &prepare, &[], |_| ());
        let fixture = GateFixture::prepared(root, prepare);
        let app = RecordingApp::start();
        let process = fixture.gate("shop/a", &app.upstream(), &[]);
        let caller = fixture.caller(None);
        [Self::Up(Box::new(up)), Self::Gate(Box::new(GateFollower { fixture, process, caller, _app: app }))]
    }

    fn path(&self, name: &str) -> PathBuf {
        match self {
            Self::Up(up) => up.directory().join(name),
            Self::Gate(gate) => gate.fixture.path(name),
        }
    }

    fn is_open(&self) -> bool {
        match self {
            Self::Up(up) => status(up, "a.shop.svc", "/open") == 200,
            Self::Gate(gate) => {
                gate.caller.request(gate.process.address(), "GET", "/open", &[("Host", "a.shop.svc")]).status == 200
            }
        }
    }

    fn stderr(&self) -> String {
        match self {
            Self::Up(up) => up.stderr(),
            Self::Gate(gate) => gate.process.stderr(),
        }
    }

    fn becomes(&self, open: bool, what: &str) {
        eventually(what, || (self.is_open() == open).then_some(()))
            .unwrap_or_else(|error| panic!("{error}; standard error:\n{}", self.stderr()));
    }
}

fn open() -> String {
    policy("a", "a.shop.svc", "")
}

/// The operation is no longer public, so that nobody may call it.
fn closed() -> String {
    open().replace(", public: true", "")
}

#[test]
fn an_edit_in_a_relative_directory_applies() {
    let prepare = |directory: &Path| {
        fs::create_dir_all(directory.join("manifests/inner")).unwrap();
        fs::write(directory.join("manifests/inner/a.yaml"), open()).unwrap();
    };
    for follower in Follower::both("./manifests", prepare) {
        assert!(follower.is_open(), "{}", follower.stderr());
        let file = follower.path("manifests/inner/a.yaml");
        fs::write(&file, closed()).unwrap();
        follower.becomes(false, "an edit in place");
        fs::write(file.with_extension("new"), open()).unwrap();
        fs::rename(file.with_extension("new"), &file).unwrap();
        follower.becomes(true, "a file that another one replaces");
        fs::remove_file(&file).unwrap();
        follower.becomes(false, "a file that was removed");
        fs::create_dir_all(follower.path("manifests/late/later")).unwrap();
        fs::write(follower.path("manifests/late/later/a.yaml"), open()).unwrap();
        follower.becomes(true, "a file in a new directory");
    }
}

/// kubelet replaces `..data`, to which the names of the keys lead.
#[test]
fn a_mounted_config_map_applies_when_it_changes() {
    let prepare = |directory: &Path| {
        let mount = directory.join("mount");
        fs::create_dir_all(mount.join("..1")).unwrap();
        fs::write(mount.join("..1/a.yaml"), open()).unwrap();
        symlink("..1", mount.join("..data")).unwrap();
        symlink("..data/a.yaml", mount.join("a.yaml")).unwrap();
    };
    for follower in Follower::both("mount", prepare) {
        assert!(follower.is_open(), "{}", follower.stderr());
        for (version, text, open) in [("..2", closed(), false), ("..3", open(), true)] {
            let mount = follower.path("mount");
            fs::create_dir(mount.join(version)).unwrap();
            fs::write(mount.join(version).join("a.yaml"), text).unwrap();
            symlink(version, mount.join("..data_tmp")).unwrap();
            fs::rename(mount.join("..data_tmp"), mount.join("..data")).unwrap();
            follower.becomes(open, version);
        }
    }
}

#[test]
fn the_target_of_a_symlink_applies_when_it_changes() {
    let prepare = |directory: &Path| {
        fs::create_dir(directory.join("elsewhere")).unwrap();
        fs::write(directory.join("elsewhere/a.txt"), open()).unwrap();
        fs::create_dir(directory.join("manifests")).unwrap();
        symlink("../elsewhere/a.txt", directory.join("manifests/a.yaml")).unwrap();
    };
    for follower in Follower::both("manifests", prepare) {
        assert!(follower.is_open(), "{}", follower.stderr());
        fs::write(follower.path("elsewhere/a.txt"), closed()).unwrap();
        follower.becomes(false, "an edit of the target");
        fs::write(follower.path("elsewhere/a.new"), open()).unwrap();
        fs::rename(follower.path("elsewhere/a.new"), follower.path("elsewhere/a.txt")).unwrap();
        follower.becomes(true, "another target");
    }
}

#[test]
fn a_root_that_is_replaced_applies() {
    let release = |directory: &Path, version: &str, text: &str| {
        fs::create_dir_all(directory.join("releases").join(version)).unwrap();
        fs::write(directory.join("releases").join(version).join("a.yaml"), text).unwrap();
    };
    let prepare = |directory: &Path| {
        release(directory, "1", &open());
        symlink("releases/1", directory.join("current")).unwrap();
    };
    for follower in Follower::both("current", prepare) {
        assert!(follower.is_open(), "{}", follower.stderr());
        release(&follower.path(""), "2", &closed());
        symlink("releases/2", follower.path("next")).unwrap();
        fs::rename(follower.path("next"), follower.path("current")).unwrap();
        follower.becomes(false, "another release");
        fs::write(follower.path("releases/2/a.yaml"), open()).unwrap();
        follower.becomes(true, "an edit in the new release");
    }
}

#[test]
fn a_root_that_is_made_again_applies() {
    let prepare = |directory: &Path| {
        fs::create_dir(directory.join("manifests")).unwrap();
        fs::write(directory.join("manifests/a.yaml"), open()).unwrap();
    };
    for follower in Follower::both("manifests", prepare) {
        assert!(follower.is_open(), "{}", follower.stderr());
        let root = follower.path("manifests");
        fs::rename(&root, follower.path("old")).unwrap();
        eventually("the missing root", || follower.stderr().contains("can't read the manifests").then_some(()))
            .unwrap();
        assert!(follower.is_open(), "the loaded manifests stay in force");
        fs::create_dir(&root).unwrap();
        fs::write(root.join("a.yaml"), closed()).unwrap();
        follower.becomes(false, "the new root");
        fs::write(root.join("a.yaml"), open()).unwrap();
        follower.becomes(true, "an edit in the new root");
    }
}

/// Voluntary context switches of the threads that list directories: a thread that sleeps makes no system calls.
fn wakeups(process: u32) -> u64 {
    let read = |path: &Path, file: &str| fs::read_to_string(path.join(file)).unwrap_or_default();
    let tasks = fs::read_dir(format!("/proc/{process}/task")).unwrap().map(|task| task.unwrap().path());
    let watching: Vec<_> = tasks.filter(|task| read(task, "comm").trim() == "watch").collect();
    assert!(!watching.is_empty(), "the threads have another name");
    let switches = watching.iter().filter_map(|task| {
        let status = read(task, "status");
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
        line.trim().parse::<u64>().ok()
    });
    switches.sum()
}

#[test]
fn a_directory_at_rest_causes_no_work() {
    let prepare = |directory: &Path| {
        fs::create_dir(directory.join("manifests")).unwrap();
        (0..50).for_each(|number| {
            let name = format!("p{number}");
            fs::write(directory.join(format!("manifests/{name}.yaml")), policy(&name, &format!("{name}.shop.svc"), ""))
                .unwrap();
        });
    };
    let [up, gate] = Follower::both("manifests", prepare);
    let ids = match (&up, &gate) {
        (Follower::Up(up), Follower::Gate(gate)) => [up.id(), gate.process.id()],
        _ => unreachable!(),
    };
    for (id, tool) in ids.into_iter().zip(["up", "gate"]) {
        // ten seconds in which the listing every 30 seconds is not due
        let quiet = (0..5).any(|_| {
            let before = wakeups(id);
            std::thread::sleep(Duration::from_secs(10));
            wakeups(id) == before
        });
        assert!(quiet, "{tool} never rests");
    }
}
