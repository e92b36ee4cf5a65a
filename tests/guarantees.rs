//! Every promise that the README makes under "Guarantees" has a test that holds it, named there and here today.

use std::fs;
use std::path::Path;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The text of a section of the README, without its title, on one line for each paragraph, item or row.
fn section(title: &str) -> Vec<String> {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let begin = readme.find(&format!("\n{title}\n")).unwrap_or_else(|| panic!("there is no section {title}"));
    let rest = &readme[begin + title.len() + 2..];
    let level = title.chars().take_while(|each| *each == '#').count();
    let is_title = |line: &str| (1..=level).any(|level| line.starts_with(&format!("{} ", "#".repeat(level))));
    let mut lines: Vec<String> = Vec::new();
    for line in rest.lines().take_while(|line| !is_title(line)) {
        match lines.last_mut() {
            Some(last) if line.starts_with("  ") => {
                last.push(' ');
                last.push_str(line.trim());
            }
            _ => lines.push(line.trim().to_owned()),
        }
    }
    lines
}

/// The sentences of the promises.
fn promises() -> Vec<String> {
    let items = section("## Guarantees").into_iter().take_while(|line| !line.starts_with('#'));
    let items: Vec<_> = items.filter_map(|line| line.strip_prefix("- ").map(str::to_owned)).collect();
    assert!(items.len() > 8, "the promises were not found");
    items.iter().flat_map(|item| item.split_inclusive(". ")).map(|sentence| sentence.trim().to_owned()).collect()
}

/// The rows of the table: words of a promise, and what stands in backticks in its second column.
fn rows() -> Vec<(String, Vec<String>)> {
    let rows = section("### What holds them").into_iter().filter(|line| line.starts_with('|'));
    let rows: Vec<_> = rows.skip(2).collect();
    assert!(rows.len() > 8, "the table was not found");
    let parse = |row: String| {
        let cells: Vec<_> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        let [words, tests] = cells[..] else { panic!("two columns are wanted: {row}") };
        (words.to_owned(), tests.split('`').skip(1).step_by(2).map(str::to_owned).collect())
    };
    rows.into_iter().map(parse).collect()
}

#[test]
fn every_sentence_of_the_guarantees_has_its_row_and_every_row_its_sentence() {
    let (promises, rows) = (promises(), rows());
    for promise in &promises {
        // It takes something back instead of promising it.
        if promise == "Pages together are not a snapshot." {
            continue;
        }
        assert!(rows.iter().any(|(words, _)| promise.contains(words)), "no row is about: {promise}");
    }
    for (words, tests) in &rows {
        assert!(promises.iter().any(|promise| promise.contains(words)), "no promise says: {words}");
        assert!(tests.len() >= 2, "no test holds: {words}");
    }
}

#[test]
fn the_tests_that_hold_the_guarantees_exist() {
    let mut named = 0;
    for (words, tests) in rows() {
        let mut file: Option<(String, String)> = None;
        for name in tests {
            if name.contains('.') {
                let path = root().join("tests").join(&name);
                let text = fs::read_to_string(&path).unwrap_or_else(|_| panic!("there is no tests/{name}: {words}"));
                file = Some((name, text));
                continue;
            }
            let (file, text) = file.as_ref().unwrap_or_else(|| panic!("{name} is in no file: {words}"));
            let is_there = text.lines().any(|line| {
                let line = line.trim_start().trim_start_matches("pub ").trim_start_matches("async ");
                line.strip_prefix("fn ")
                    .or(line.strip_prefix("def "))
                    .is_some_and(|rest| rest.starts_with(&format!("{name}(")))
            });
            assert!(is_there, "there is no {name} in tests/{file}");
            named += 1;
        }
    }
    assert!(named > 25, "{named} tests are named");
}

/// What stands in backticks in the second column of the table of bugs.
fn bugs() -> Vec<(String, Vec<String>)> {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let table = text.split("### Bugs that were found\n").nth(1).expect("there is no such section");
    let table = table.split("\n## ").next().unwrap();
    let rows = table.lines().filter(|line| line.starts_with('|')).skip(2);
    let parse = |row: &str| {
        let (what, tests) = row.trim_matches('|').rsplit_once(" | ").expect("two columns are wanted");
        (what.trim().to_owned(), tests.split('`').skip(1).step_by(2).map(str::to_owned).collect())
    };
    rows.map(parse).collect()
}

#[test]
fn every_bug_that_was_found_has_a_test_that_is_there() {
    let bugs = bugs();
    assert!(bugs.len() > 15, "the table was not found");
    for (what, tests) in bugs {
        let (mut text, mut named) = (None, 0);
        for name in tests {
            if name.contains('/') {
                let path = root().join(&name);
                text = Some(fs::read_to_string(path).unwrap_or_else(|_| panic!("there is no {name}: {what}")));
                continue;
            }
            let text = text.as_ref().unwrap_or_else(|| panic!("{name} is in no file: {what}"));
            let begins = [format!("fn {name}("), format!("def {name}(")];
            assert!(begins.iter().any(|begin| text.contains(begin)), "there is no {name}: {what}");
            named += 1;
        }
        assert!(named > 0, "no test holds: {what}");
    }
}
