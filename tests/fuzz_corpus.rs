//! Every file of the fuzz corpus, and every input that once broke a promise, through its target.
//!
//! The corpus is what libFuzzer has found to reach different code (`tests/fuzz/corpus`, minimised). Around each of its
//! files a few mutations are tried as well, the same in every run.

#[path = "fuzz/targets/mod.rs"]
mod targets;

use std::fs;
use std::path::{Path, PathBuf};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use targets::TARGETS;

/// How many mutations of each file are tried; the environment may ask for more.
const MUTATIONS_VARIABLE: &str = "PROFILESTORE_FUZZ_MUTATIONS";
const MUTATIONS: usize = 8;

fn corpus(name: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(name);
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// Runs one target with all its files.
fn replay(name: &str) {
    let files = corpus(name);
    assert!(files.len() >= 3, "the corpus of {name} is missing");
    let mutations = std::env::var(MUTATIONS_VARIABLE).map_or(MUTATIONS, |count| count.parse().unwrap());
    for file in files {
        let input = fs::read(&file).unwrap();
        // A panic of the target is the failure; this line says which file it was.
        println!("{}", file.display());
        targets::target(name)(&input);
        let mut rng = StdRng::seed_from_u64(crc32c::crc32c(&input).into());
        for _ in 0..mutations {
            let mutated = mutate(&input, &mut rng);
            println!("{mutated:02x?}");
            targets::target(name)(&mutated);
        }
    }
}

/// A few bytes changed, left out, or written twice.
fn mutate(input: &[u8], rng: &mut StdRng) -> Vec<u8> {
    let mut bytes = input.to_vec();
    for _ in 0..rng.random_range(1..4) {
        let place = rng.random_range(0..=bytes.len());
        let length = rng.random_range(0..=(bytes.len() - place).min(8));
        match rng.random_range(0..5) {
            0 if place < bytes.len() => bytes[place] ^= 1 << rng.random_range(0..8),
            1 if place < bytes.len() => bytes[place] = [0, 1, 0x7f, 0x80, 0xff, b'"', b'@'][rng.random_range(0..7)],
            2 => drop(bytes.drain(place..place + length)),
            3 => {
                let copy = bytes[place..place + length].to_vec();
                bytes.splice(place..place, copy);
            }
            _ => bytes.truncate(place),
        }
    }
    bytes
}

macro_rules! replays {
    ($($name:ident),*) => {
        const REPLAYED: &[&str] = &[$(stringify!($name)),*];

        $(
            #[test]
            fn $name() {
                replay(stringify!($name));
            }
        )*
    };
}

replays!(stored_record, commit_log, snapshot, page_token, resume_token, lane_request, email, json_lines, csv, calls);

#[test]
fn every_target_is_replayed_and_has_a_program_for_libfuzzer() {
    let names: Vec<_> = TARGETS.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, REPLAYED);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz");
    let manifest = fs::read_to_string(folder.join("Cargo.toml")).unwrap();
    for name in names {
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name} is not in the manifest");
        assert!(folder.join(format!("fuzz_targets/{name}.rs")).is_file());
    }
    let bytes: u64 =
        TARGETS.iter().flat_map(|(name, _)| corpus(name)).map(|file| file.metadata().unwrap().len()).sum();
    assert!(bytes < 200_000, "the corpus has {bytes} bytes; minimise it");
}
