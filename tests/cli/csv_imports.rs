//! Imports of CSV: what is broken in a file, and what may be missing.

use crate::imports::{rejects, summary};
use crate::*;

#[test]
fn csv_that_is_broken_is_rejected_line_by_line() {
    let server = Server::start();
    let dir = tempfile::tempdir().unwrap();
    let twice = r#"i,"{""k"":"""",""k"":""secret""}""#;
    let text = format!(
        "id,attributes\na,{{}}\nb\nc,{{}},x\nd,\"{{}}\nsecret\n\"e\"secret,\nf,{{secret}}\n{twice}\ng,\n\"h,{{}}"
    );
    let file = write(dir.path(), "a.csv", &text);
    let ran = server.run(&["import", &file]);
    assert_eq!((ran.code, ran.out), (3, summary(2, 0, 8)));
    let found = rejects(&format!("{file}.rejects"));
    let expected = [
        (3, "has 1 column; the header has 2"),
        (4, "has 3 columns; the header has 2"),
        (5, "has something behind a closing quote"),
        (6, "has 1 column; the header has 2"),
        (7, "has something behind a closing quote"),
        (8, "column attributes is not JSON at column 2"),
        (9, "column attributes has an attribute twice, at column 21"),
        (11, "has a quote that is not closed"),
    ];
    assert_eq!(found, expected.map(|(line, reason)| (line, reason.to_owned())));
    assert_eq!(column(&server.run(&["list"])), ["a", "g"]);
    for (header, says) in [
        ("id,mail\n", "column 2 of the header is unknown"),
        ("email,attributes\n", "no column id"),
        ("id\temail\n", "column 1 of the header is unknown"),
        ("id,id\n", "the column id twice"),
        ("", "there is no header"),
    ] {
        let ran = server.run(&["import", &write(dir.path(), "b.csv", header)]);
        assert_eq!((ran.code, ran.out.as_str()), (1, ""), "{ran:?}");
        assert!(ran.err.contains("b.csv") && ran.err.contains(says), "{ran:?}");
    }
}

#[test]
fn every_column_but_the_id_may_be_missing_and_then_its_field_is_empty() {
    let server = Server::with_profiles();
    let dir = tempfile::tempdir().unwrap();
    for (text, email, name) in [
        ("id\nada\n", "", ""),
        ("display_name,id\nN,ada\n", "", "N"),
        ("etag,id,email\nsomething,ada,a@b.example\n", "a@b.example", ""),
    ] {
        let file = write(dir.path(), "a.csv", text);
        let ran = server.run(&["import", &file, "--on-conflict", "replace"]);
        assert_eq!((ran.code, ran.out), (0, summary(1, 0, 0)), "{text}");
        let ada = &json(&server.run(&["get", "ada", "--json"]))[0];
        let text_of = |field: &str| ada[field].as_str().unwrap_or_default().to_owned();
        assert_eq!((text_of("email"), text_of("displayName")), (email.to_owned(), name.to_owned()), "{text}");
        assert!(ada.get("attributes").is_none(), "{ada}");
    }
}
