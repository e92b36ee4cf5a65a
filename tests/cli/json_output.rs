//! `--json`: every command that says something to people says it to programs too.

use crate::*;

/// These print something of a form of its own, or nothing that ends.
const WITHOUT: [&str; 7] = ["serve", "config", "export", "watch", "completions", "man", "help"];

#[track_caller]
fn object(ran: &Ran) -> serde_json::Value {
    assert_eq!(ran.code, 0, "{ran:?}");
    let [object] = &json(ran)[..] else { panic!("not one line: {ran:?}") };
    object.clone()
}

#[test]
fn every_command_takes_it() {
    let help = run(&["--help"]).out;
    let commands = help.split("Commands:").nth(1).unwrap().split("Options:").next().unwrap();
    let names = commands.lines().filter_map(|line| line.strip_prefix("  ")?.split(' ').next());
    let mut seen = 0;
    for name in names.filter(|name| !name.is_empty() && !WITHOUT.contains(name)) {
        assert!(run(&[name, "--help"]).out.contains("--json"), "{name}");
        seen += 1;
    }
    assert!(seen >= 16, "{seen} commands");
}

#[test]
fn what_was_done_is_one_object() {
    let mut server = Server::with_profiles();
    assert_eq!(object(&server.run(&["health", "--json"]))["status"], "SERVING");
    assert_eq!(object(&server.run(&["delete", "bob", "--json"]))["id"], "bob");
    let shown = object(&run(&["config", "show", "--json"]));
    assert_eq!((&shown["cache"]["ttl"], &shown["email"]["unique"]), (&"5m".into(), &false.into()));
    assert_eq!(object(&run(&["config", "check", "--json"]))["canBeUsed"], true);
    let dir = server.dir.path().to_owned();
    let path = |name: &str| dir.join(name).to_str().unwrap().to_owned();
    let (file, data, restored) = (path("a.backup"), path("data"), path("restored"));
    let backup = object(&server.run(&["backup", &file, "--json"]));
    assert_eq!((&backup["profileCount"], &backup["file"]), (&2.into(), &file.as_str().into()));
    let restore = ["restore", &file, "--data-dir", &restored, "--log", &data, "--json"];
    let restore = object(&run(&restore));
    assert_eq!((&restore["profileCount"], &restore["replayedCount"]), (&2.into(), &0.into()));
    assert_eq!((&restore["change"], &restore["logWasTorn"]), (&backup["change"], &false.into()));
    assert!(restore["commitTime"].as_str().unwrap().ends_with('Z'), "{restore}");
    server.kill();
    let repaired = object(&run(&["repair", "--data-dir", &data, "--json"]));
    assert_eq!((&repaired["profileCount"], &repaired["isWhole"]), (&2.into(), &true.into()));
    let reindexed = object(&run(&["reindex", "--data-dir", &data, "--json"]));
    assert_eq!((&reindexed["profileCount"], &reindexed["changedCount"]), (&2.into(), &0.into()));
}

#[test]
fn a_backup_whose_sentence_nobody_reads_is_made() {
    let server = Server::with_profiles();
    let file = server.dir.path().join("a.backup");
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = server.command(&["backup", file.to_str().unwrap()]);
    let ran: Ran = command.stdout(writer).stderr(Stdio::piped()).output().unwrap().into();
    assert_eq!((ran.code, ran.err.as_str(), file.exists()), (0, "", true));
}

#[test]
fn a_reindex_changes_how_addresses_are_compared() {
    let mut server = Server::with_profiles();
    server.kill();
    let data = server.dir.path().join("data");
    let fold = [("PROFILESTORE__EMAIL__FOLD_LOCAL_PART", "false")];
    assert!(Server::serve_with("127.0.0.1:0", server.dir.path(), &fold).is_none(), "the index is another");
    let mut command = program();
    command.args(["reindex", "--data-dir"]).arg(&data).envs(fold);
    let ran: Ran = command.output().unwrap().into();
    let sentence = "rebuilt the index of 3 profiles; 1 of them have a new key\n";
    assert_eq!((ran.code, ran.out.as_str()), (0, sentence), "{ran:?}");
    (server.process, server.address) =
        Server::serve_with("127.0.0.1:0", server.dir.path(), &fold).expect("the index fits");
    assert_eq!(column(&server.run(&["lookup", "Ada@example.com"])), ["ada"]);
    assert_eq!(column(&server.run(&["lookup", "ada@example.com"])), Vec::<&str>::new());
    assert_eq!(column(&server.run(&["lookup", "bob@example.com"])), ["bob"]);
    assert_eq!(server.run(&["verify"]).code, 0);
}
