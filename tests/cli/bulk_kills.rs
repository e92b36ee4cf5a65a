//! Kills of the server and of the client in the middle of imports and exports. The oracle is the input.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::*;

const PROFILES: usize = 6000;
/// Every so many lines one cannot be imported.
const BAD_EVERY: usize = 97;

/// An input in the form of an export, with bad lines in it.
struct Input {
    file: String,
    /// What is exported when all of it is imported.
    good: String,
    /// The numbers of the bad lines.
    bad: Vec<u64>,
}

impl Input {
    fn new(dir: &Path, count: usize) -> Self {
        let (mut text, mut good, mut bad) = (String::new(), String::new(), Vec::new());
        for number in 0..count {
            if number % BAD_EVERY == BAD_EVERY - 1 {
                // In turn found here and by the server.
                let id = if number % 2 == 0 { "1" } else { "\"no spaces\"" };
                text += &format!("{{\"id\":{id}}}\n");
                bad.push(number as u64 + 1);
                continue;
            }
            let (domain, padding) = (number % 7, "p".repeat(number % 500));
            let line = format!(
                "{{\"id\":\"u{number:06}\",\"email\":\"u{number}@d{domain}.example\",\"attributes\":{{\"p\":\"{padding}\"}}}}\n"
            );
            text += &line;
            good += &line;
        }
        Self { file: write(dir, "input.jsonl", &text), good, bad }
    }

    fn progress(&self) -> PathBuf {
        PathBuf::from(format!("{}.progress", self.file))
    }

    /// How many lines the import is known to have settled; `None` where nothing is known.
    fn lines_settled(&self) -> Option<u64> {
        let progress: serde_json::Value = serde_json::from_slice(&fs::read(self.progress()).ok()?).ok()?;
        progress["place"]["lines"].as_u64()
    }

    /// Everything is stored once, every bad line is reported once, and nothing is left behind.
    #[track_caller]
    fn assert_imported(&self, server: &Server, last: &Ran, skipped_allowed: bool) {
        assert_eq!(last.code, 3, "{last:?}");
        let count = |what| field(last, what).parse::<usize>().unwrap();
        let good = self.good.lines().count();
        assert_eq!((count("written") + count("skipped"), count("rejected")), (good, self.bad.len()), "{last:?}");
        assert!(skipped_allowed || count("skipped") == 0, "{last:?}");
        let rejects = fs::read_to_string(format!("{}.rejects", self.file)).unwrap();
        let number = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["line"].as_u64().unwrap();
        assert_eq!(rejects.lines().map(number).collect::<Vec<_>>(), self.bad);
        assert!(!self.progress().exists());
        assert!(server.run(&["export"]).out == self.good, "what is stored is not what was given");
    }
}

fn start(server: &Server, arguments: &[&str]) -> Child {
    server.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn ended(process: Child) -> Ran {
    process.wait_with_output().unwrap().into()
}

fn has_ended(process: &mut Child) -> bool {
    process.try_wait().unwrap().is_some()
}

/// Repeats what a machine that stalls may have been too slow for.
fn in_time(what: &str, mut was_in_time: impl FnMut() -> bool) {
    assert!((0..10).any(|_| was_in_time()), "never in time: {what}");
}

#[test]
fn a_client_that_is_killed_again_and_again_loses_nothing_and_writes_nothing_twice() {
    for (round, on_conflict) in ["fail", "skip", "replace", "fail"].into_iter().enumerate() {
        in_time("four kills", || import_over_kills(900 + round * 50, on_conflict) >= 4);
    }
}

/// Kills an import as soon as its progress is there, and then ever further on. Returns how often it was killed.
fn import_over_kills(step: usize, on_conflict: &str) -> usize {
    let server = Server::start();
    let dir = tempfile::tempdir().unwrap();
    let input = Input::new(dir.path(), PROFILES);
    let import = ["import", &input.file, "--on-conflict", on_conflict];
    let (mut kills, mut last) = (0, None);
    for kill_behind in (0..PROFILES as u64).step_by(step) {
        let mut process = start(&server, &import);
        wait_until("the import has come so far", || {
            input.lines_settled().is_some_and(|lines| lines >= kill_behind) || has_ended(&mut process)
        });
        process.kill().unwrap();
        // On a busy machine it may come to its end before the kill that was meant for its last lines.
        if process.wait().unwrap().code().is_some() {
            last = Some(ended(process));
            break;
        }
        // Or to the end of its work, and is killed before its own end: the next one would begin anew.
        if !input.progress().exists() {
            return 0;
        }
        kills += 1;
    }
    let last = last.unwrap_or_else(|| server.run(&import));
    assert!(kills == 0 || last.err.contains("goes on behind line"), "{last:?}");
    input.assert_imported(&server, &last, on_conflict == "skip");
    kills
}

#[test]
fn a_server_that_is_killed_in_an_import_is_waited_for() {
    in_time("a kill", || import_over_kills_of_the_server() > 0);
}

fn import_over_kills_of_the_server() -> usize {
    let mut server = Server::start_again_and_again();
    let dir = tempfile::tempdir().unwrap();
    let input = Input::new(dir.path(), PROFILES);
    let mut process = start(&server, &["import", &input.file, "--timeout", "60s"]);
    let mut kills = 0;
    for kill_behind in (0..PROFILES as u64 - 1000).step_by(1000) {
        wait_until("the import has come so far", || {
            input.lines_settled().is_some_and(|lines| lines >= kill_behind) || has_ended(&mut process)
        });
        if has_ended(&mut process) {
            break;
        }
        server.kill();
        // It may have come to its end meanwhile.
        kills += usize::from(!has_ended(&mut process));
        server.start_again();
    }
    input.assert_imported(&server, &ended(process), false);
    kills
}

#[test]
fn an_import_that_gave_the_server_up_goes_on_with_the_same_command() {
    in_time("a kill", || import_that_gives_up() > 0);
}

/// Kills the server under an import that does not wait for it. Returns how often it gave up.
fn import_that_gives_up() -> usize {
    let mut server = Server::start_again_and_again();
    let dir = tempfile::tempdir().unwrap();
    let input = Input::new(dir.path(), PROFILES);
    let import = ["import", &input.file, "--timeout", "500ms"];
    let (mut gave_up, mut last) = (0, None);
    for kill_behind in (1..PROFILES as u64 / 2 + 2).step_by(1000) {
        let mut process = start(&server, &import);
        wait_until("the import has come so far", || {
            // On a busy machine it may also give up a server that is only slow.
            if process.try_wait().unwrap().is_some_and(|ended| ended.code() == Some(1)) {
                process = start(&server, &import);
            }
            input.lines_settled().is_some_and(|lines| lines >= kill_behind) || has_ended(&mut process)
        });
        server.kill();
        let broken_off = ended(process);
        server.start_again();
        // Or it comes to its end before the kill.
        if broken_off.code != 1 {
            last = Some(broken_off);
            break;
        }
        assert_eq!(broken_off.out.as_str(), "", "{broken_off:?}");
        assert!(broken_off.err.contains("the same command goes on there"), "{broken_off:?}");
        assert_a_change_is_noticed(&server, &input.file);
        gave_up += 1;
    }
    let last = last.unwrap_or_else(|| server.run(&["import", &input.file, "--timeout", "60s"]));
    input.assert_imported(&server, &last, false);
    gave_up
}

fn signal(name: &str, process: &Child) {
    assert!(Command::new("kill").args([name, &process.id().to_string()]).status().unwrap().success());
}

#[test]
fn an_import_that_is_interrupted_says_so_and_goes_on_with_the_same_command() {
    for (name, code) in [("-INT", 130), ("-TERM", 143)] {
        let server = Server::start();
        let dir = tempfile::tempdir().unwrap();
        let input = Input::new(dir.path(), 4 * PROFILES);
        let import = ["import", &input.file, "--timeout", "60s"];
        let process = start(&server, &import);
        wait_until("the import has begun", || input.lines_settled().is_some_and(|lines| lines > 0));
        // So that it does not come to its end before it is interrupted.
        signal("-STOP", &server.process);
        signal(name, &process);
        let broken_off = ended(process);
        signal("-CONT", &server.process);
        assert_eq!((broken_off.code, broken_off.out.as_str()), (code, ""), "{broken_off:?}");
        assert_eq!(broken_off.err.lines().count(), 1, "{broken_off:?}");
        for says in ["broke off behind line", "the same command goes on there", "it was interrupted"] {
            assert!(broken_off.err.contains(says), "{says} in {broken_off:?}");
        }
        let last = server.run(&import);
        assert!(last.err.contains("goes on behind line"), "{last:?}");
        input.assert_imported(&server, &last, false);
    }
}

#[test]
fn an_import_from_a_pipe_that_is_interrupted_says_how_far_it_came() {
    let server = Server::start();
    let dir = tempfile::tempdir().unwrap();
    let mut command = server.command(&["import", "-"]);
    command.current_dir(dir.path()).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = command.spawn().unwrap();
    let mut pipe = process.stdin.take().unwrap();
    writeln!(pipe, "{{\"id\":\"one\"}}").unwrap();
    wait_until("the profile is stored", || server.run(&["count"]).out == "1\n");
    signal("-INT", &process);
    let ran = ended(process);
    drop(pipe);
    assert_eq!((ran.code, ran.out.as_str()), (130, ""), "{ran:?}");
    assert!(ran.err.contains("a pipe cannot be read again") && ran.err.contains("it was interrupted"), "{ran:?}");
}

/// Also where the changed file has the same size and time, if the change is before the place.
fn assert_a_change_is_noticed(server: &Server, file: &str) {
    let before = fs::read(file).unwrap();
    let modified = fs::metadata(file).unwrap().modified().unwrap();
    let rewrite = |content: &[u8]| {
        fs::write(file, content).unwrap();
        fs::File::options().append(true).open(file).unwrap().set_modified(modified).unwrap();
    };
    let mut changed = before.clone();
    changed[10] ^= 1;
    rewrite(&changed);
    let ran = server.run(&["import", file]);
    rewrite(&before);
    assert_eq!((ran.code, ran.out.as_str()), (1, ""));
    assert!(ran.err.contains("has changed since its import was begun"), "{ran:?}");
}

#[test]
fn profiles_without_an_id_are_made_once_over_kills() {
    in_time("a kill", || import_without_ids_over_kills() > 0);
}

fn import_without_ids_over_kills() -> usize {
    let server = Server::start();
    let dir = tempfile::tempdir().unwrap();
    let text: String = (0..PROFILES).map(|number| format!("{{\"email\":\"u{number}@a.example\"}}\n")).collect();
    let file = write(dir.path(), "a.jsonl", &text);
    let import = ["import", &file];
    let (mut kills, mut last) = (0, None);
    for kill in 1..=3 {
        let mut process = start(&server, &import);
        let stored = || server.run(&["count"]).out.trim().parse::<usize>().unwrap();
        wait_until("something is stored", || stored() >= kill * 1000);
        process.kill().unwrap();
        // Once more it would make all of them anew.
        if process.wait().unwrap().success() {
            last = Some(ended(process));
            break;
        }
        // Or to the end of its work, and is killed before its own end: the next one would begin anew.
        if !fs::exists(format!("{file}.progress")).unwrap() {
            return 0;
        }
        kills += 1;
    }
    let last = last.unwrap_or_else(|| server.run(&import));
    assert_eq!(last.code, 0, "{last:?}");
    assert_eq!(field(&last, "written"), PROFILES.to_string());
    assert_eq!(server.run(&["count"]).out, format!("{PROFILES}\n"));
    kills
}

#[test]
fn an_export_goes_on_when_the_server_is_killed_and_started_again() {
    let mut server = Server::start_again_and_again();
    let dir = tempfile::tempdir().unwrap();
    // Far more than the connection and the pipe hold, so that a reader who waits stops the export in its middle.
    let input = Input::new(dir.path(), 4 * PROFILES);
    assert_eq!(server.run(&["import", &input.file]).code, 3);
    let length = input.good.len();
    for first in [1, length / 7, length / 3] {
        let mut process = start(&server, &["export", "--timeout", "60s"]);
        let mut out = process.stdout.take().unwrap();
        let mut exported = vec![0; first];
        out.read_exact(&mut exported).unwrap();
        server.kill();
        server.start_again();
        out.read_to_end(&mut exported).unwrap();
        let ran = ended(process);
        assert_eq!((ran.code, ran.err.as_str()), (0, ""));
        assert!(exported == input.good.as_bytes(), "the export has {} bytes of {length}", exported.len());
    }
}

#[test]
fn an_export_that_is_killed_leaves_no_file_that_looks_complete() {
    let server = Server::start();
    let dir = tempfile::tempdir().unwrap();
    let input = Input::new(dir.path(), 2 * PROFILES);
    assert_eq!(server.run(&["import", &input.file]).code, 3);
    let path = dir.path().join("exported.jsonl");
    let file = path.to_str().unwrap();
    let partial = dir.path().join("exported.jsonl.partial");
    for before in [None, Some("before")] {
        let mut killed = 0;
        for part in [1, 2, 4, 8].repeat(10) {
            // Each part once, and more of them only on a machine on which every kill came too late.
            if killed > 0 && part == 1 {
                break;
            }
            match before {
                Some(text) => fs::write(&path, text).unwrap(),
                None => drop(fs::remove_file(&path)),
            }
            let mut process = start(&server, &["export", "--output", file]);
            let enough = input.good.len() as u64 / 16 * part;
            wait_until("some of it is written", || {
                fs::metadata(&partial).is_ok_and(|file| file.len() >= enough) || has_ended(&mut process)
            });
            process.kill().unwrap();
            if process.wait().unwrap().success() {
                continue;
            }
            let found = fs::read_to_string(&path).ok();
            // The kill may have come between the new name and the end.
            if found.as_deref() != Some(&input.good) {
                killed += 1;
                assert_eq!(found.as_deref(), before);
            }
        }
        assert!(killed > 0, "every kill came too late");
        assert_eq!(server.run(&["export", "--output", file]).code, 0);
        assert!(fs::read_to_string(&path).unwrap() == input.good);
        assert!(!partial.exists());
    }
}
