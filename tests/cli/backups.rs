//! Backup, restore, verify and repair as operators use them.

use std::fs;

use crate::*;

#[test]
fn a_backup_is_restored_into_a_store_that_serves_the_same_profiles() {
    let server = Server::with_profiles();
    let file = server.dir.path().join("store.backup");
    let file = file.to_str().unwrap();
    let backup = server.run(&["backup", file]);
    assert_eq!((backup.code, backup.out.contains("backed up 3 profiles")), (0, true), "{backup:?}");
    assert!(!fs::exists(format!("{file}.partial")).unwrap());
    let restored = tempfile::tempdir().unwrap();
    let data_dir = restored.path().join("data");
    let data_dir = data_dir.to_str().unwrap();
    let restore = run(&["restore", file, "--data-dir", data_dir]);
    assert_eq!((restore.code, restore.out.contains("restored 3 profiles")), (0, true), "{restore:?}");
    let verify = run(&["verify", "--data-dir", data_dir, "--json"]);
    assert_eq!((verify.code, verify.out.as_str()), (0, ""), "{verify:?}");
    let again = run(&["restore", file, "--data-dir", data_dir]);
    assert_eq!((again.code, again.err.contains("is not empty")), (1, true), "{again:?}");
    let (mut process, address) = Server::serve("127.0.0.1:0", restored.path()).expect("it serves");
    let exported = run(&["export", "--addr", &address]);
    process.kill().unwrap();
    process.wait().unwrap();
    assert_eq!(exported.out, server.run(&["export"]).out);
}

#[test]
fn a_backup_that_fails_leaves_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("store.backup");
    let backup = run(&["backup", file.to_str().unwrap(), "--addr", "127.0.0.1:1"]);
    assert_eq!((backup.code, backup.err.contains("no server answers")), (1, true), "{backup:?}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    fs::write(&file, "something else").unwrap();
    let restore = run(&["restore", file.to_str().unwrap(), "--data-dir", dir.path().join("data").to_str().unwrap()]);
    assert_eq!((restore.code, restore.err.contains("not a backup")), (1, true), "{restore:?}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn verify_says_by_its_exit_code_whether_a_store_is_sound_and_repair_mends_it() {
    let mut server = Server::with_profiles();
    let sound = server.run(&["verify"]);
    assert_eq!((sound.code, sound.out.as_str(), sound.err.contains("checked 3")), (0, "problem\tremedy\n", true));
    let data_dir = server.dir.path().join("data");
    let data_dir = data_dir.to_str().unwrap();
    let held = run(&["repair", "--data-dir", data_dir]);
    assert_eq!((held.code, held.err.contains("in use by another process")), (1, true), "{held:?}");
    server.kill();
    fs::write(format!("{data_dir}/sled-suspect"), "a test says so").unwrap();
    let damaged = run(&["verify", "--data-dir", data_dir, "--json"]);
    assert_eq!(damaged.code, 1, "{damaged:?}");
    let [problem] = &json(&damaged)[..] else { panic!("one problem in {damaged:?}") };
    assert!(problem["description"].as_str().unwrap().contains("a test says so"));
    assert!(problem["remedy"].as_str().unwrap().contains("profilestore repair"));
    let repaired = run(&["repair", "--data-dir", data_dir]);
    assert_eq!((repaired.code, repaired.out.contains("nothing was lost")), (0, true), "{repaired:?}");
    assert_eq!(run(&["verify", "--data-dir", data_dir]).code, 0);
    server.start_again();
    assert_eq!(server.run(&["count"]).out, "3\n");
}

/// Three times, since with the third the oldest state that was set aside goes.
#[test]
fn a_repair_of_a_whole_store_is_told_as_one_that_was_asked_for() {
    let mut server = Server::with_profiles();
    server.kill();
    let data_dir = server.dir.path().join("data");
    for _ in 0..3 {
        let repaired = run(&["repair", "--data-dir", data_dir.to_str().unwrap()]);
        assert_eq!((repaired.code, repaired.out.contains("nothing was lost")), (0, true), "{repaired:?}");
        let lines: Vec<serde_json::Value> =
            repaired.err.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert!(lines.iter().all(|line| line["level"] == "INFO"), "{lines:#?}");
        let texts: Vec<_> = lines.iter().map(|line| line["fields"]["message"].as_str().unwrap()).collect();
        assert!(texts[0].starts_with("a repair was asked for: "), "{texts:?}");
        assert!(texts.iter().all(|text| !text.contains("damage")), "{texts:?}");
    }
    server.start_again();
    assert_eq!(server.run(&["count"]).out, "3\n");
}

/// What marks a state as damaged is told as damage, also by a repair.
#[test]
fn a_repair_of_a_store_that_is_known_to_be_damaged_says_with_what() {
    let mut server = Server::with_profiles();
    server.kill();
    let data_dir = server.dir.path().join("data");
    fs::write(data_dir.join("sled-suspect"), "a test says so").unwrap();
    let repaired = run(&["repair", "--data-dir", data_dir.to_str().unwrap()]);
    assert_eq!(repaired.code, 0, "{repaired:?}");
    assert!(repaired.err.contains("\"level\":\"ERROR\"") && repaired.err.contains("a test says so"), "{repaired:?}");
}
