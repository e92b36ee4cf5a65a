//! Restores to a point as operators make them, and the worst day: the data directory is gone.

use std::fs;
use std::process::Stdio;
use std::time::Duration;

use crate::*;

/// Puts a profile and returns the number of the change, told by its position in a watch of everything.
fn put(server: &Server, id: &str, name: &str) {
    let ran = server.run(&["put", id, "--display-name", name]);
    assert_eq!(ran.code, 0, "{ran:?}");
}

/// The last token that a watch of everything so far gives.
fn token(server: &Server, changes: usize) -> String {
    let ran = server.run(&["watch", "--from", "oldest", "--limit", &changes.to_string()]);
    assert_eq!(ran.code, 0, "{ran:?}");
    json(&ran).last().unwrap()["resumeToken"].as_str().unwrap().to_owned()
}

#[test]
fn a_mistake_is_undone_by_going_back_to_the_change_or_the_time_before_it() {
    let server = Server::with_profiles();
    let file = server.dir.path().join("store.backup");
    let file = file.to_str().unwrap();
    assert_eq!(server.run(&["backup", file]).code, 0);
    put(&server, "ada", "Countess");
    let time = json(&server.run(&["get", "ada", "--json"]))[0]["updateTime"].as_str().unwrap().to_owned();
    put(&server, "ada", "a mistake");
    assert_eq!(server.run(&["delete", "eve"]).code, 0);
    let live = server.dir.path().join("data");
    let live = live.to_str().unwrap();
    for (number, until) in ["4", &time].into_iter().enumerate() {
        let dir = server.dir.path().join(number.to_string());
        let data_dir = dir.join("data");
        let data_dir = data_dir.to_str().unwrap();
        let restore = run(&["restore", file, "--data-dir", data_dir, "--log", live, "--until", until]);
        assert_eq!(restore.code, 0, "{restore:?}");
        assert!(restore.out.contains("restored 3 profiles as of change 4 "), "{restore:?}");
        assert!(restore.out.contains("1 changes of the log follow the backup's"), "{restore:?}");
        let (mut process, address) = Server::serve("127.0.0.1:0", &dir).expect("it serves");
        let got = run(&["get", "ada", "--addr", &address]);
        let count = run(&["count", "--addr", &address]);
        process.kill().unwrap();
        process.wait().unwrap();
        assert_eq!((field(&got, "display_name").as_str(), count.out.as_str()), ("Countess", "3\n"));
    }
    for (until, says) in [("yesterday", "in UTC"), ("2", "use an older backup"), ("99", "ends with change 6")] {
        let dir = server.dir.path().join("refused");
        let ran = run(&["restore", file, "--data-dir", dir.to_str().unwrap(), "--log", live, "--until", until]);
        assert!(ran.code != 0 && ran.err.contains(says), "{ran:?}");
        assert!(!dir.exists());
    }
    let alone = run(&["restore", file, "--data-dir", "nowhere", "--until", "4"]);
    assert_eq!((alone.code, alone.err.contains("--log")), (2, true), "{alone:?}");
}

#[test]
fn after_the_worst_day_the_backup_serves_on_the_old_address_and_watchers_are_told_to_start_over() {
    let mut server = Server::start_again_and_again();
    for number in 0..20 {
        put(&server, &format!("user-{number}"), "kept");
    }
    let file = server.dir.path().join("store.backup");
    let file = file.to_str().unwrap();
    assert_eq!(server.run(&["backup", file]).code, 0);
    let old_token = token(&server, 20);
    let etag = field(&server.run(&["get", "user-3"]), "etag");
    put(&server, "user-20", "lost with the machine");
    // The machine is gone, with everything on it.
    server.kill();
    let data_dir = server.dir.path().join("data");
    fs::remove_dir_all(&data_dir).unwrap();
    let restore = run(&["restore", file, "--data-dir", data_dir.to_str().unwrap()]);
    assert_eq!(
        (restore.code, restore.out.contains("restored 20 profiles as of change 20")),
        (0, true),
        "{restore:?}"
    );
    server.start_again();
    assert_eq!(server.run(&["count"]).out, "20\n");
    // A token of the old life would skip what was lost, or what is made now under the same numbers.
    let watch = server.run(&["watch", "--from", &old_token, "--limit", "1"]);
    assert_eq!((watch.code, watch.err.contains("the store was restored since; start anew")), (1, true), "{watch:?}");
    let stale = server.run(&["delete", "user-3", "--etag", &etag]);
    assert_eq!((stale.code, stale.out.as_str()), (1, ""), "{stale:?}");
    // Starting over gives everything, and then what is new.
    put(&server, "user-20", "written anew");
    let watch = server.run(&["watch", "--snapshot", "--limit", "21"]);
    assert_eq!((watch.code, json(&watch).len() >= 21), (0, true), "{watch:?}");
    assert_eq!(server.run(&["verify"]).code, 0);
}

#[test]
fn a_restore_that_is_killed_leaves_nothing_that_opens() {
    let server = Server::with_profiles();
    let file = server.dir.path().join("store.backup");
    let file = file.to_str().unwrap();
    assert_eq!(server.run(&["backup", file]).code, 0);
    let lines: String = (0..20_000).map(|number| format!("{{\"id\":\"user-{number}\"}}\n")).collect();
    assert_eq!(server.run_with_input(&["import", "-"], &lines).code, 0);
    let live = server.dir.path().join("data");
    let (mut killed, mut finished, mut milliseconds) = (0, 0, 1);
    // On a busy machine the first kills may come too late.
    while finished == 0 || killed < 3 {
        assert!(finished < 10, "killed {killed} times only");
        let dir = tempfile::tempdir().unwrap();
        let data_dir = dir.path().join("data");
        let arguments = ["restore", file, "--log", live.to_str().unwrap(), "--data-dir", data_dir.to_str().unwrap()];
        let mut restore = program().args(arguments).stdout(Stdio::null()).spawn().unwrap();
        // Later each time, until it is too late.
        std::thread::sleep(Duration::from_millis(milliseconds));
        milliseconds = milliseconds * 3 / 2 + 1;
        restore.kill().unwrap();
        let done = restore.wait().unwrap().success();
        let opened = data_dir.join("FORMAT").exists();
        if opened {
            let verify = run(&["verify", "--data-dir", data_dir.to_str().unwrap()]);
            assert_eq!(verify.code, 0, "{verify:?}");
            let (mut process, address) = Server::serve("127.0.0.1:0", dir.path()).expect("it serves");
            let count = run(&["count", "--addr", &address]);
            process.kill().unwrap();
            process.wait().unwrap();
            assert_eq!(count.out, "20003\n");
        } else {
            // An empty directory, in which nothing was begun, is a new store.
            let begun = data_dir.exists() && fs::read_dir(&data_dir).unwrap().next().is_some();
            assert!(!begun || Server::serve("127.0.0.1:0", dir.path()).is_none(), "half a restore is served");
        }
        killed += usize::from(!done);
        finished += usize::from(done);
        if done {
            milliseconds = 1;
        }
    }
}
