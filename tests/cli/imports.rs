//! `import`: what it takes, what it refuses, and what it says.

use std::fs;
use std::io::Write;
use std::path::PathBuf;

use crate::*;

const GOOD_CSV: &str =
    "id,email,display_name,attributes\nada,Ada@Example.com,Ada,\"{\"\"k\"\":\"\"v\"\"}\"\nbob,,,\n";
const GOOD_JSON: &str = concat!(
    "{\"id\":\"ada\",\"email\":\"Ada@Example.com\",\"displayName\":\"Ada\",\"attributes\":{\"k\":\"v\"}}\n",
    "{\"id\": \"bob\", \"display_name\": \"\", \"attributes\": {}}\n",
);
/// What is exported after one of them.
const EXPORTED: &str = concat!(
    "{\"id\":\"ada\",\"email\":\"Ada@Example.com\",\"displayName\":\"Ada\",\"attributes\":{\"k\":\"v\"}}\n",
    "{\"id\":\"bob\"}\n",
);

pub fn summary(written: u64, skipped: u64, rejected: u64) -> String {
    format!("what\tlines\nwritten\t{written}\nskipped\t{skipped}\nrejected\t{rejected}\n")
}

/// The lines and reasons of a file of rejects.
pub fn rejects(path: &str) -> Vec<(u64, String)> {
    let text = fs::read_to_string(path).unwrap();
    let parsed = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    parsed.map(|each| (each["line"].as_u64().unwrap(), each["reason"].as_str().unwrap().to_owned())).collect()
}

#[test]
fn json_lines_and_csv_are_imported_by_their_endings_or_as_told() {
    let dir = tempfile::tempdir().unwrap();
    for (name, text, format) in [
        ("a.jsonl", GOOD_JSON, None),
        ("a.JSON", GOOD_JSON.trim_end(), None),
        ("a.csv", GOOD_CSV, None),
        ("b.csv", &format!("\u{feff}{}", GOOD_CSV.replace('\n', "\r\n")), None),
        ("a.txt", GOOD_JSON, Some("jsonl")),
        ("b.jsonl", GOOD_CSV, Some("csv")),
    ] {
        let server = Server::start();
        let file = write(dir.path(), name, text);
        let format: Vec<_> = format.into_iter().flat_map(|format| ["--format", format]).collect();
        let ran = server.run(&[&["import", &file], &format[..]].concat());
        assert_eq!((ran.code, ran.out, ran.err.as_str()), (0, summary(2, 0, 0), ""), "{name}");
        assert_eq!(server.run(&["export"]).out, EXPORTED, "{name}");
        for ending in ["progress", "rejects"] {
            assert!(!PathBuf::from(format!("{file}.{ending}")).exists(), "{name}.{ending}");
        }
    }
    let ran = run(&["import", &write(dir.path(), "a.dat", GOOD_JSON)]);
    assert_eq!((ran.code, ran.out.as_str()), (2, ""));
    assert!(ran.err.contains("a.dat") && ran.err.contains("--format"), "{ran:?}");
    let absent = run(&["import", "/nowhere/at-all.csv"]);
    assert!(absent.code == 1 && absent.err.contains("at-all.csv"), "{absent:?}");
    let folder = run(&["import", dir.path().to_str().unwrap(), "--format", "csv"]);
    assert!(folder.code == 1 && folder.err.contains("cannot be read"), "{folder:?}");
}

#[test]
fn a_pipe_is_read_and_its_profiles_are_there_while_it_is_open() {
    let server = Server::start();
    let dir = tempfile::tempdir().unwrap();
    let mut command = server.command(&["import", "-", "--json"]);
    command.current_dir(dir.path()).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = command.spawn().unwrap();
    let mut pipe = process.stdin.take().unwrap();
    for number in 1..=3 {
        // Half of the next line with it: it must not keep this one back.
        let end = if number == 3 { "nonsense" } else { "" };
        write!(pipe, "{{\"id\":\"p{number}\"}}\n{end}").unwrap();
        wait_until("the profile is stored", || server.run(&["count"]).out == format!("{number}\n"));
    }
    drop(pipe);
    let ran: Ran = process.wait_with_output().unwrap().into();
    assert_eq!((ran.code, ran.out.as_str()), (3, "{\"written\":3,\"skipped\":0,\"rejected\":1}\n"));
    let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|file| file.unwrap().path()).collect();
    let [path] = &left[..] else { panic!("{left:?}") };
    assert!(ran.err.contains(path.file_name().unwrap().to_str().unwrap()), "{} in {ran:?}", path.display());
    assert_eq!(
        rejects(path.to_str().unwrap()),
        [(4, "is not a JSON object; the input ends in the middle of this line".to_owned())]
    );
    let ran = server.run_with_input(&["import", "-", "--format", "csv"], GOOD_CSV);
    assert_eq!((ran.code, ran.out), (0, summary(2, 0, 0)));
}

#[test]
fn rejected_lines_are_told_by_number_and_reason_and_the_others_are_imported() {
    let server = Server::start();
    let dir = tempfile::tempdir().unwrap();
    let long = format!("{{\"id\":\"{}\"}}", "x".repeat(300_000));
    let large = format!("{{\"id\":\"large\",\"attributes\":{{\"k\":\"{}\"}}}}", "s".repeat(20_000));
    let lines: Vec<&[u8]> = vec![
        b"{\"id\":\"a\"}",
        b"secret",
        b"{\"id\":\"b\",\"nick\":\"secret\"}",
        b"",
        long.as_bytes(),
        b"{\"id\":\"sec ret\",\"email\":\"secret\"}",
        b"{\"id\":\"a\",\"email\":\"secret@a.example\"}",
        b"{\"id\":\"c\",\"email\":\"secret\xff@a.example\"}",
        large.as_bytes(),
        b"{\"id\":\"d\"}",
        b"{\"id\":\"secret",
    ];
    let file = dir.path().join("a.jsonl");
    fs::write(&file, lines.join(&b'\n')).unwrap();
    let file = file.to_str().unwrap();
    let ran = server.run(&["import", file]);
    assert_eq!((ran.code, ran.out), (3, summary(2, 0, 8)));
    assert!(ran.err.contains("8 lines were rejected") && ran.err.contains("a.jsonl.rejects"), "{}", ran.err);
    let expected = [
        (2, "is not a JSON object"),
        (3, "has an unknown field, \"nick\", at column 16"),
        (5, "has more than 262144 bytes"),
        (6, "id must be printable ASCII without spaces (0x21 to 0x7E) (and 1 more)"),
        (7, "there already is a profile with this id"),
        (8, "is not UTF-8 at byte 26"),
        (9, "has 2"),
        (11, "ends too early, at column 13; the input ends in the middle of this line"),
    ];
    let path = format!("{file}.rejects");
    let found = rejects(&path);
    assert_eq!(found.iter().map(|(line, _)| *line).collect::<Vec<_>>(), expected.map(|(line, _)| line));
    for ((line, reason), (_, says)) in found.iter().zip(expected) {
        assert!(reason.starts_with(says), "{line}: {reason} and not {says}");
        assert!(!reason.contains("sec") && !reason.contains("profiles["), "{line}: {reason}");
    }
    assert_eq!(column(&server.run(&["list"])), ["a", "d"]);
    // Each rejected line is there as it was, for whoever mends it.
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(r#""text":"{\"id\":\"b\",\"nick\":\"secret\"}""#), "{text}");

    let elsewhere = dir.path().join("elsewhere");
    let ran = server.run(&["import", file, "--on-conflict", "skip", "--rejects", elsewhere.to_str().unwrap()]);
    assert_eq!((ran.code, ran.out), (3, summary(0, 3, 7)));
    assert_eq!(rejects(elsewhere.to_str().unwrap()).len(), 7);
    // What an earlier import has rejected does not outlive one that rejects nothing.
    fs::write(file, GOOD_JSON).unwrap();
    assert_eq!(server.run(&["import", file]).code, 0);
    assert!(!PathBuf::from(path).exists());
}

#[test]
fn the_rejected_lines_are_never_written_to_what_an_import_needs_by_whatever_name() {
    let server = Server::start();
    let dir = tempfile::tempdir().unwrap();
    // What was rejected once, imported: by its content alone it could be written over.
    let text = "{\"line\":1,\"reason\":\"\",\"text\":\"\"}\n";
    let file = write(dir.path(), "a.jsonl", text);
    fs::create_dir(dir.path().join("folder")).unwrap();
    let path = |name: &str| dir.path().join(name);
    fs::hard_link(&file, path("hard")).unwrap();
    std::os::unix::fs::symlink("a.jsonl.progress.tmp", path("link")).unwrap();
    for name in
        ["a.jsonl", "hard", "a.jsonl.progress", "folder/../a.jsonl.progress", "./a.jsonl.progress.tmp", "link"]
    {
        let mut command = server.command(&["import", "a.jsonl", "--rejects", name]);
        let ran: Ran = command.current_dir(dir.path()).output().unwrap().into();
        assert!(ran.code == 2 && ran.err.contains("has another use"), "{name}: {ran:?}");
        assert_eq!(fs::read_to_string(&file).unwrap(), text, "{name}");
        assert!(!path("a.jsonl.progress").exists() && !path("a.jsonl.progress.tmp").exists(), "{name}");
    }
    let ran = server.run(&["import", &file]);
    assert_eq!((ran.code, ran.out), (3, summary(0, 0, 1)));
}

#[test]
fn a_taken_id_is_rejected_skipped_or_replaced_as_told() {
    let server = Server::with_profiles();
    let dir = tempfile::tempdir().unwrap();
    let file = write(dir.path(), "a.jsonl", "{\"id\":\"ada\",\"email\":\"new@a.example\"}\n{\"id\":\"new\"}\n");
    let import = |on_conflict| {
        let ran = server.run(&["import", &file, "--on-conflict", on_conflict]);
        (ran.code, ran.out, field(&server.run(&["get", "ada"]), "email"))
    };
    assert_eq!(import("fail"), (3, summary(1, 0, 1), "Ada@Example.com".to_owned()));
    assert_eq!(import("skip"), (0, summary(0, 2, 0), "Ada@Example.com".to_owned()));
    assert_eq!(import("replace"), (0, summary(2, 0, 0), "new@a.example".to_owned()));
}

#[test]
fn an_import_that_broke_off_goes_on_only_with_the_same_file_and_in_the_same_way() {
    let mut server = Server::start_again_and_again();
    let dir = tempfile::tempdir().unwrap();
    let text: String = (0..3000).map(|number| format!("{{\"id\":\"{number:04}\"}}\n")).collect();
    let file = write(dir.path(), "a.jsonl", &text);
    let file = &file;
    server.kill();
    let broken_off = server.run(&["import", file, "--timeout", "300ms"]);
    assert_eq!((broken_off.code, broken_off.out.as_str()), (1, ""));
    for says in ["the same command goes on", "profilestore serve", "0 written"] {
        assert!(broken_off.err.contains(says), "{says} in {broken_off:?}");
    }
    server.start_again();
    for other in [&["--on-conflict", "skip"][..], &["--format", "csv"], &["--rejects", "x"]] {
        let ran = server.run(&[&["import", file], other].concat());
        assert_eq!(ran.code, 1, "{ran:?}");
        assert!(ran.err.contains(other[0]) && ran.err.contains("a.jsonl.progress"), "{ran:?}");
    }
    fs::write(file, text.replace("0001", "xxxx")).unwrap();
    let changed = server.run(&["import", file]);
    assert!(changed.code == 1 && changed.err.contains("has changed since"), "{changed:?}");
    assert!(changed.err.contains("remove") && changed.err.contains("a.jsonl.progress"), "{changed:?}");
    fs::write(format!("{file}.progress"), "{}").unwrap();
    assert!(server.run(&["import", file]).err.contains("is not the progress of an import"));
    fs::remove_file(format!("{file}.progress")).unwrap();
    let ran = server.run(&["import", file]);
    assert_eq!((ran.code, ran.out), (0, summary(3000, 0, 0)));
}

#[test]
fn two_imports_of_one_file_do_not_run_at_once() {
    let server = Server::start();
    let dir = tempfile::tempdir().unwrap();
    let file = write(dir.path(), "a.jsonl", GOOD_JSON);
    let held = fs::File::open(&file).unwrap();
    held.lock().unwrap();
    let ran = server.run(&["import", &file]);
    assert!(ran.code == 1 && ran.err.contains("another import"), "{ran:?}");
    // Closed it could still be open for a moment, in a process that another test begins.
    held.unlock().unwrap();
    assert_eq!(server.run(&["import", &file]).code, 0);
}

#[test]
fn on_a_terminal_of_40_columns_progress_is_shown_and_fits() {
    let server = Server::start();
    let dir = tempfile::tempdir().unwrap();
    let text: String = (0..3000).map(|number| format!("{{\"id\":\"{number:04}\"}}\n")).collect();
    let file = write(dir.path(), "a.jsonl", &text);
    let exported = dir.path().join("b.jsonl");
    for (arguments, parts) in [
        (format!("import {file}"), &["%", "/s", "left"][..]),
        (format!("import - --on-conflict skip < {file}"), &["profiles", "/s"]),
        (format!("export --output {}", exported.display()), &["%", "/s", "left"]),
    ] {
        let command = format!("stty rows 24 cols 40 && {PROGRAM} {arguments}");
        let mut script = Command::new("script");
        script.args(["-qec", &command, "/dev/null"]).env("PROFILESTORE_ADDR", &server.address).env("TERM", "xterm");
        let ran: Ran = script.stdin(Stdio::null()).output().unwrap().into();
        assert_eq!(ran.code, 0, "{ran:?}");
        let plain = console::strip_ansi_codes(&ran.out);
        let lines: Vec<_> = plain.split(['\r', '\n']).collect();
        let shown = lines.iter().filter(|line| parts.iter().all(|part| line.contains(part))).count();
        assert!(shown > 0, "{arguments}: {ran:?}");
        // But for the sentence at the end, which names a file.
        let mut shown = lines.iter().filter(|line| !line.starts_with("exported "));
        assert!(shown.all(|line| line.chars().count() <= 40), "{arguments}: {ran:?}");
    }
    assert_eq!(fs::read_to_string(exported).unwrap(), text);
    // Off a terminal there is none.
    assert_eq!(server.run(&["import", &file, "--on-conflict", "skip"]).err, "");
}

#[test]
fn an_import_whose_rejects_nobody_takes_breaks_off_and_says_so() {
    let server = Server::start();
    let dir = tempfile::tempdir().unwrap();
    // More than a pipe holds.
    let text = "nonsense\n".repeat(5000) + GOOD_JSON;
    let file = write(dir.path(), "a.jsonl", &text);
    let pipe = named_pipe(dir.path(), "pipe");
    let (path, reader) = (pipe.clone(), std::thread::spawn(move || drop(fs::File::open(pipe).unwrap())));
    let ran = server.run(&["import", &file, "--rejects", &path]);
    reader.join().unwrap();
    assert!(ran.code == 1 && ran.err.contains("cannot be written"), "{ran:?}");
}

/// Runs an import whose standard output nobody reads.
fn import_unread(server: &Server, file: &str, output: impl Into<Stdio>) -> Ran {
    server.command(&["import", file]).stdout(output).stderr(Stdio::piped()).output().unwrap().into()
}

#[test]
fn the_exit_code_of_an_import_does_not_depend_on_who_reads_the_counts() {
    let server = Server::start();
    let dir = tempfile::tempdir().unwrap();
    let closed = || {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        writer
    };
    for (text, code) in [("{\"id\":\"a\"}\n", 0), ("nonsense\n", 3)] {
        let file = write(dir.path(), "a.jsonl", text);
        let ran = import_unread(&server, &file, closed());
        assert_eq!((ran.code, ran.err.is_empty()), (code, code == 0), "{ran:?}");
        assert!(!PathBuf::from(format!("{file}.progress")).exists());
    }
}

#[test]
fn an_import_that_could_not_print_its_counts_is_not_made_again() {
    let server = Server::start();
    let dir = tempfile::tempdir().unwrap();
    let file = write(dir.path(), "a.jsonl", "{\"email\":\"a@a.example\"}\n");
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let ran = import_unread(&server, &file, full);
    assert!(ran.code == 1 && ran.err.contains("the import has ended"), "{ran:?}");
    let again = server.run(&["import", &file]);
    assert_eq!((again.code, again.out), (0, summary(1, 0, 0)));
    assert_eq!(server.run(&["count"]).out, "1\n");
}

#[test]
fn two_imports_from_pipes_in_one_folder_keep_the_rejects_of_both() {
    let server = Server::start();
    let dir = tempfile::tempdir().unwrap();
    for input in ["first\n", "second\n"] {
        let mut command = server.command(&["import", "/dev/stdin", "--format", "jsonl"]);
        command.current_dir(dir.path()).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = command.spawn().unwrap();
        process.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let ran: Ran = process.wait_with_output().unwrap().into();
        assert_eq!(ran.code, 3, "{ran:?}");
    }
    let files = fs::read_dir(dir.path()).unwrap().map(|file| fs::read_to_string(file.unwrap().path()).unwrap());
    let mut texts: Vec<_> = files.collect();
    texts.sort();
    assert!(texts.len() == 2 && texts[0].contains("first") && texts[1].contains("second"), "{texts:?}");
}

#[test]
fn a_file_of_another_use_or_of_another_import_is_not_written_over() {
    let server = Server::start();
    let dir = tempfile::tempdir().unwrap();
    let file = write(dir.path(), "a.jsonl", "nonsense\n");
    let notes = write(dir.path(), "notes.txt", "mine");
    let ran = server.run(&["import", &file, "--rejects", &notes]);
    assert!(ran.code == 1 && ran.err.contains("notes.txt is not a file of rejected lines"), "{ran:?}");
    assert_eq!(fs::read_to_string(&notes).unwrap(), "mine");
    let nowhere = server.run(&["import", &file, "--rejects", "/nowhere/at-all"]);
    assert!(nowhere.code == 1 && nowhere.err.contains("/nowhere/at-all"), "{nowhere:?}");
    let used = write(dir.path(), "used", "{\"line\":1,\"reason\":\"x\",\"text\":\"\"}\n");
    let held = fs::File::open(&used).unwrap();
    held.lock().unwrap();
    let ran = server.run(&["import", &file, "--rejects", &used]);
    assert!(ran.code == 1 && ran.err.contains("another import"), "{ran:?}");
    assert!(fs::read_to_string(&used).unwrap().contains("\"x\""));
    held.unlock().unwrap();
    assert_eq!(server.run(&["import", &file, "--rejects", &used]).code, 3);
    assert_eq!(rejects(&used).len(), 1);
}

#[test]
fn what_was_there_before_an_import_that_sent_nothing_is_a_conflict_when_it_goes_on() {
    let mut server = Server::start_again_and_again();
    let dir = tempfile::tempdir().unwrap();
    let file = write(dir.path(), "a.jsonl", "{\"id\":\"a\"}\n");
    assert_eq!(server.run(&["put", "a"]).code, 0);
    server.kill();
    let broken_off = server.run(&["import", &file, "--timeout", "300ms"]);
    assert!(broken_off.code == 1 && broken_off.err.contains("the same command goes on"), "{broken_off:?}");
    server.start_again();
    let ran = server.run(&["import", &file]);
    assert_eq!((ran.code, ran.out), (3, summary(0, 0, 1)));
}

#[test]
fn a_file_that_changes_while_it_is_imported_is_told() {
    let server = Server::start();
    let dir = tempfile::tempdir().unwrap();
    // More rejects than a pipe holds, so the import waits for their reader.
    let file = write(dir.path(), "a.jsonl", &("nonsense\n".repeat(5000) + GOOD_JSON));
    let pipe = named_pipe(dir.path(), "pipe");
    let mut command = server.command(&["import", &file, "--rejects", &pipe]);
    let process = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut reader = fs::File::open(&pipe).unwrap();
    fs::File::options().append(true).open(&file).unwrap().write_all(b"\n").unwrap();
    std::io::copy(&mut reader, &mut std::io::sink()).unwrap();
    let ran: Ran = process.wait_with_output().unwrap().into();
    assert_eq!((ran.code, ran.out.as_str()), (1, ""), "{ran:?}");
    assert!(ran.err.contains("has changed while it was imported"), "{ran:?}");
}

#[test]
fn a_file_is_imported_whose_name_is_not_utf_8() {
    use std::os::unix::ffi::OsStrExt;
    let server = Server::start();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join(std::ffi::OsStr::from_bytes(b"a\xff.jsonl"));
    fs::write(&file, GOOD_JSON).unwrap();
    let ran: Ran = server.command(&["import"]).arg(&file).output().unwrap().into();
    assert_eq!((ran.code, ran.out), (0, summary(2, 0, 0)));
}
