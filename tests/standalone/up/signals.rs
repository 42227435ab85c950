//! SIGHUP reads all files again and reopens the audit log; other signals for users end nothing.

use super::*;

fn inode(path: &Path) -> Option<u64> {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(path).ok().map(|metadata| metadata.ino())
}

#[test]
fn signals_reload_and_end_nothing() {
    let mut up = UpProcess::with(&[("a.yaml", &policy("a", "a.shop.svc", ""))]);
    for signal in ["HUP", "USR1", "USR2", "HUP"] {
        up.signal(signal);
    }
    up.wait_for_stderr("SIGUSR1 has no effect");
    up.wait_for_stderr("reading all manifests again");
    assert_eq!(status(&up, "a.shop.svc", "/open"), 200);
    assert!(up.runs());
    assert_eq!(up.interrupt().0, Some(0));
}

#[test]
fn a_renamed_or_removed_log_is_written_anew() {
    let mut up = UpProcess::with(&[("a.yaml", &policy("a", "a.shop.svc", ""))]);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let ask = || assert_eq!(status(&up, "a.shop.svc", "/open"), 200);
    ask();
    up.records(1);
    assert_eq!(mode(&up.audit), 0o600);
    // logrotate renames the file; a signal is the usual way to say so
    let rotated = up.audit.with_extension("log.1");
    let first = inode(&up.audit);
    fs::rename(&up.audit, &rotated).unwrap();
    up.signal("HUP");
    eventually("a new log", || inode(&up.audit).filter(|_| inode(&up.audit) != first)).unwrap();
    assert_eq!(mode(&up.audit), 0o600);
    ask();
    up.records(1);
    // without a signal, the next record notices
    let rotated_again = up.audit.with_extension("log.2");
    fs::rename(&up.audit, &rotated_again).unwrap();
    ask();
    eventually("another log", || inode(&up.audit)).unwrap();
    up.records(1);
    let keys = up.state.parent().unwrap().join("keys.json");
    let (code, jwks, stderr) = run(durward().args(["audit", "keys", "--state"]).arg(&up.state));
    assert_eq!(code, 0, "{stderr}");
    fs::write(&keys, jwks).unwrap();
    assert_eq!(up.interrupt().0, Some(0));
    let verify = |files: &[&Path]| run(durward().args(["audit", "verify", "--keys"]).arg(&keys).args(files));
    let (code, text, stderr) = verify(&[&rotated, &rotated_again, &up.audit]);
    assert!(code == 0 && text.contains("INTACT"), "{text}{stderr}");
    // a log that was removed is missed
    up.restart();
    fs::remove_file(&up.audit).unwrap();
    assert_eq!(status(&up, "a.shop.svc", "/open"), 200);
    eventually("a log after the removal", || inode(&up.audit)).unwrap();
    up.wait_for_stderr("the audit log was renamed or removed");
    up.records(1);
}
