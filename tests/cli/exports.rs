//! `export`: what it writes, and that a file is there as a whole or not at all.

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;

use crate::*;

/// Profiles that are hard to write, in the order of their ids.
fn hard_profiles() -> String {
    let nasty = "q\\\"q,c\\n\\r\\t\\u0001 'é\u{1F600} ,,";
    format!(
        concat!(
            "{{\"id\":\"\\\"a,b\\\"\",\"email\":\"A.B@Mail.Example.com\",\"displayName\":\"N, \\\"N\\\"\"}}\n",
            "{{\"id\":\"1\",\"attributes\":{{\"\u{e9}\":\"\",\"A\":\"{nasty}\",\"a\":\"{nasty}\",\"b c\":\"{{}}\"}}}}\n",
            "{{\"id\":\"2\",\"email\":\"b@example.com\"}}\n",
            "{{\"id\":\"3\",\"email\":\"c@other.example\",\"displayName\":\" spaces \"}}\n",
        ),
        nasty = nasty
    )
}

fn sorted_attributes(json: &str) -> Vec<serde_json::Value> {
    json.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn what_is_exported_can_be_imported_and_is_exported_again_byte_for_byte() {
    let dir = tempfile::tempdir().unwrap();
    let first = Server::start();
    let given = write(dir.path(), "given.jsonl", &hard_profiles());
    assert_eq!(first.run(&["import", &given]).code, 0);
    let exported = first.run(&["export"]);
    assert_eq!((exported.code, exported.err.as_str()), (0, ""));
    assert_eq!(sorted_attributes(&exported.out), sorted_attributes(&hard_profiles()));
    let attributes = exported.out.find("\"A\":").zip(exported.out.find("\"a\":")).zip(exported.out.find("\"b c\":"));
    assert!(attributes.is_some_and(|((upper, lower), last)| upper < lower && lower < last), "{}", exported.out);
    for (name, options) in [("a.jsonl", &[][..]), ("a.csv", &[]), ("b.csv", &["--all-fields"])] {
        let file = dir.path().join(name);
        let file = file.to_str().unwrap();
        let ran = first.run(&[&["export", "--output", file], options].concat());
        let sentence = format!("exported {} profiles to {file}\n", exported.out.lines().count());
        assert_eq!((ran.code, ran.out, ran.err.as_str()), (0, sentence, ""));
        let second = Server::start();
        let ran = second.run(&["import", file]);
        assert_eq!(ran.code, 0, "{name}: {ran:?}");
        assert_eq!(second.run(&["export"]).out, exported.out, "{name}");
        assert_eq!(second.run(&["export", "--format", "csv"]).out, first.run(&["export", "--format", "csv"]).out);
    }
    let header = |options: &[&str]| {
        let ran = first.run(&[&["export", "--format", "csv"], options].concat());
        ran.out.lines().next().unwrap().to_owned()
    };
    assert_eq!(header(&[]), "id,email,display_name,attributes");
    assert_eq!(header(&["--all-fields"]), "id,email,display_name,attributes,domain,etag,create_time,update_time");
    let all = json(&first.run(&["export", "--all-fields"]));
    assert_eq!((&all[0]["domain"], all[0]["etag"].is_string()), (&"mail.example.com".into(), true));
    assert!(all[0]["createTime"].as_str().unwrap().ends_with('Z'));
}

#[test]
fn a_domain_is_exported_with_or_without_its_subdomains() {
    let server = Server::start();
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(server.run(&["import", &write(dir.path(), "a.jsonl", &hard_profiles())]).code, 0);
    let ids = |options: &[&str]| -> Vec<String> {
        let found = json(&server.run(&[&["export"], options].concat()));
        found.iter().map(|each| each["id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(ids(&["--domain", "example.com"]), ["2"]);
    assert_eq!(ids(&["--domain", "example.com", "--subdomains"]), ["2", "\"a,b\""]);
    assert!(ids(&["--domain", "nobody.example"]).is_empty());
    let empty = server.run(&["export", "--domain", "nobody.example", "--format", "csv"]);
    assert_eq!((empty.code, empty.out.as_str()), (0, "id,email,display_name,attributes\n"));
    assert_eq!(server.run(&["export", "--subdomains"]).code, 2);
    let bad = server.run(&["export", "--domain", "bad..example"]);
    assert!(bad.code == 1 && bad.out.is_empty() && bad.err.contains("domain"), "{bad:?}");
}

#[test]
fn a_file_gets_its_name_when_it_is_complete() {
    let server = Server::with_profiles();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.jsonl");
    let file = path.to_str().unwrap();
    let names = || fs::read_dir(dir.path()).unwrap().count();
    assert_eq!(server.run(&["export", "--output", file]).code, 0);
    let exported = fs::read_to_string(&path).unwrap();
    assert_eq!((exported.lines().count(), names()), (3, 1));
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    // A failed export leaves what was there, and its permissions stay when it is replaced.
    fs::write(&path, "before").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let failed = server.run(&["export", "--output", file, "--domain", "bad..example"]);
    assert_eq!((failed.code, fs::read_to_string(&path).unwrap().as_str(), names()), (1, "before", 1));
    assert_eq!(server.run(&["export", "--output", file]).code, 0);
    assert_eq!((fs::read_to_string(&path).unwrap(), names()), (exported.clone(), 1));
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
    // Behind a link, and to a device.
    let link = dir.path().join("link.jsonl");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    fs::write(&path, "before").unwrap();
    assert_eq!(server.run(&["export", "--output", link.to_str().unwrap()]).code, 0);
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(fs::read_to_string(&path).unwrap(), exported);
    assert_eq!(server.run(&["export", "--output", "/dev/stdout"]).out, exported);
    assert_eq!(server.run(&["export", "--output", "-"]).out, exported);
    let full = server.run(&["export", "--output", "/dev/full"]);
    assert!(full.code == 1 && full.err.contains("/dev/full"), "{full:?}");
    let nowhere = server.run(&["export", "--output", "/nowhere/at-all.jsonl"]);
    assert!(nowhere.code == 1 && nowhere.err.contains("/nowhere/at-all.jsonl"), "{nowhere:?}");
}

#[test]
fn a_reader_that_goes_away_ends_an_export_quietly() {
    let server = Server::start();
    let dir = tempfile::tempdir().unwrap();
    let lines =
        |number: usize| format!("{{\"id\":\"{number:04}\",\"attributes\":{{\"k\":\"{}\"}}}}\n", "v".repeat(2000));
    let text: String = (0..2000).map(lines).collect();
    assert_eq!(server.run(&["import", &write(dir.path(), "a.jsonl", &text)]).code, 0);
    for take in [0, 1, 100_000] {
        let mut process = server.command(&["export"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut out = process.stdout.take().unwrap();
        out.read_exact(&mut vec![0; take]).unwrap();
        drop(out);
        let ran: Ran = process.wait_with_output().unwrap().into();
        assert_eq!((ran.code, ran.err.as_str()), (0, ""), "after {take} bytes");
    }
}

#[test]
fn a_named_pipe_whose_reader_goes_away_fails_an_export() {
    let server = Server::start();
    let dir = tempfile::tempdir().unwrap();
    let lines = |number: usize| format!("{{\"id\":\"{number:04}\",\"displayName\":\"{}\"}}\n", "v".repeat(200));
    let text: String = (0..2000).map(lines).collect();
    assert_eq!(server.run(&["import", &write(dir.path(), "a.jsonl", &text)]).code, 0);
    let pipe = named_pipe(dir.path(), "pipe");
    let (path, reader) = (pipe.clone(), std::thread::spawn(move || drop(fs::File::open(pipe).unwrap())));
    let ran = server.run(&["export", "--output", &path]);
    reader.join().unwrap();
    assert!(ran.code == 1 && ran.err.contains("cannot be written"), "{ran:?}");
}
