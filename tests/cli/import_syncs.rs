//! An import waits for the disk, and not all the time: a power cut takes it back by about a second.

use std::fs;
use std::path::PathBuf;

use crate::*;

/// The library that notes syncs.
fn noting(dir: &Path) -> String {
    let library = dir.join("note_syncs.so").to_str().unwrap().to_owned();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cli/note_syncs.c");
    let built = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o", &library]).arg(source).arg("-ldl").status();
    assert!(built.unwrap().success());
    library
}

#[test]
fn the_rejects_and_then_the_place_are_on_disk_before_anything_is_sent_and_then_once_a_second() {
    let server = Server::start();
    let dir = tempfile::tempdir().unwrap();
    // Enough for some seconds, with something to reject now and then.
    let line = |number: usize| match number % 100 {
        99 => "nonsense\n".to_owned(),
        _ => format!("{{\"id\":\"u{number:06}\",\"display_name\":\"{}\"}}\n", "x".repeat(250)),
    };
    let file = write(dir.path(), "a.jsonl", &(0..20_000).map(line).collect::<String>());
    let notes = dir.path().join("notes");
    let mut command = server.command(&["import", &file]);
    command.env("LD_PRELOAD", noting(dir.path())).env("SYNCS_NOTED", &notes);
    let ran: Ran = command.output().unwrap().into();
    assert_eq!(ran.code, 3, "{ran:?}");
    let notes = fs::read_to_string(notes).unwrap();
    let parse = |line: &str| {
        let (time, path) = line.split_once(' ').unwrap();
        let name = path.trim_end_matches(" (deleted)").rsplit('/').next().unwrap().to_owned();
        (time.parse::<u64>().unwrap(), name)
    };
    let syncs: Vec<_> = notes.lines().map(parse).collect();
    let names: Vec<_> = syncs.iter().map(|(_, name)| name.as_str()).collect();
    assert!(!names.is_empty() && names.len() % 2 == 0, "{names:?}");
    for pair in names.chunks(2) {
        assert_eq!(pair, ["a.jsonl.rejects", "a.jsonl.progress.tmp"]);
    }
    let times: Vec<_> = syncs.iter().skip(1).step_by(2).map(|(time, _)| *time).collect();
    assert!(times.windows(2).all(|pair| pair[1] - pair[0] >= 990), "more often than once a second: {times:?}");
}

#[test]
fn an_import_of_several_seconds_syncs_several_times() {
    let mut server = Server::start_again_and_again();
    let dir = tempfile::tempdir().unwrap();
    let file = write(
        dir.path(),
        "a.jsonl",
        &(0..4000).map(|number| format!("{{\"id\":\"{number}\"}}\n")).collect::<String>(),
    );
    let notes = dir.path().join("notes");
    let mut command = server.command(&["import", &file, "--timeout", "60s"]);
    command
        .env("LD_PRELOAD", noting(dir.path()))
        .env("SYNCS_NOTED", &notes)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    // It waits for the server, and when that is back more than a second has gone by.
    server.kill();
    let mut process = command.spawn().unwrap();
    let progress = PathBuf::from(format!("{file}.progress"));
    wait_until("the import has begun", || progress.exists() || process.try_wait().unwrap().is_some());
    let began = Instant::now();
    wait_until("more than a second has gone by", || began.elapsed() > Duration::from_millis(1200));
    server.start_again();
    let ran: Ran = process.wait_with_output().unwrap().into();
    assert_eq!(ran.code, 0, "{ran:?}");
    let places = fs::read_to_string(notes).unwrap().lines().filter(|line| line.ends_with(".progress.tmp")).count();
    assert!(places >= 2, "{places}");
}
