//! The floors of the building: imports point down only, and fenced crates stay in their rooms.

use std::fs;
use std::path::{Path, PathBuf};

/// Each module's floor. A module may use modules of its own name and of lower floors.
const FLOORS: [(&str, u32); 13] = [
    ("pb", 0),
    ("trace", 0),
    ("model", 0),
    ("figures", 0),
    ("store", 1),
    ("engine", 2),
    ("cache", 3),
    ("feed", 3),
    ("observe", 3),
    ("rpc", 4),
    ("server", 5),
    ("client", 5),
    ("cli", 6),
];

/// Crates that may be named only below these paths.
const FENCES: [(&str, &[&str]); 22] = [
    ("sled", &["src/engine/sled"]),
    ("lru", &["src/cache"]),
    ("rustix", &["src/engine", "src/server/open_files.rs", "src/cli/load/timer.rs"]),
    ("async_nats", &["src/feed/publisher/nats.rs"]),
    ("idna", &["src/model"]),
    ("email_address", &["src/model"]),
    ("opentelemetry", &["src/trace", "src/observe"]),
    ("opentelemetry_sdk", &["src/observe"]),
    ("opentelemetry_otlp", &["src/observe"]),
    ("tonic", &["src/rpc", "src/client", "src/pb.rs"]),
    ("h2", &["src/server/serving"]),
    // The admin listener speaks HTTP/1 by hyper itself.
    ("hyper", &["src/server/admin"]),
    ("axum", &["src/server"]),
    ("clap", &["src/cli", "src/main.rs"]),
    ("anyhow", &["src/cli", "src/main.rs"]),
    ("comfy_table", &["src/cli"]),
    ("indicatif", &["src/cli"]),
    ("csv", &["src/cli"]),
    ("csv_core", &["src/cli"]),
    ("hdrhistogram", &["src/cli/load"]),
    ("metrics_exporter_prometheus", &["src/server/metrics"]),
    ("metrics_process", &["src/server/metrics"]),
];

const MAX_LINES: usize = 420;

fn sources() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    let mut folders = vec![root.join("src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path.strip_prefix(root).unwrap().to_owned(), text));
            }
        }
    }
    assert!(found.len() > 20, "the sources were not found");
    found
}

/// The code of a line without its comment.
fn code(line: &str) -> &str {
    line.split("//").next().unwrap_or_default()
}

/// The names that follow `crate::` in a source, also those in braces behind it.
fn modules_used(text: &str) -> Vec<String> {
    let code: String = text.lines().map(code).collect::<Vec<_>>().join("\n");
    let mut used = Vec::new();
    for (position, _) in code.match_indices("crate::") {
        let before = code[..position].chars().next_back();
        if before.is_some_and(|before| before.is_alphanumeric() || before == '_' || before == '$') {
            continue;
        }
        let rest = &code[position + "crate::".len()..];
        let names = match rest.strip_prefix('{') {
            Some(group) => group.split('}').next().unwrap_or_default().split(',').map(str::trim).collect(),
            None => vec![rest],
        };
        let first_word =
            |name: &str| name.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default().to_owned();
        used.extend(names.into_iter().map(first_word));
    }
    used
}

fn floor_of(module: &str) -> Option<u32> {
    FLOORS.iter().find(|(name, _)| *name == module).map(|(_, floor)| *floor)
}

fn module_of(path: &Path) -> String {
    let below_src = path.strip_prefix("src").unwrap();
    below_src.components().next().unwrap().as_os_str().to_string_lossy().trim_end_matches(".rs").to_owned()
}

#[test]
fn imports_point_down_only() {
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        let module = module_of(&path);
        if module == "lib" || module == "main" {
            continue;
        }
        let floor = floor_of(&module).unwrap_or_else(|| panic!("{module} has no floor: give it one in FLOORS"));
        for used in modules_used(&text) {
            if let Some(below) = floor_of(&used)
                && used != module
                && (below > floor || (below == floor && floor > 0))
            {
                wrong.push(format!("{} (floor {floor}) uses crate::{used} (floor {below})", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "a module may use only lower floors (ARCHITECTURE.md):\n{}", wrong.join("\n"));
}

#[test]
fn fenced_crates_stay_in_their_rooms() {
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        for (name, rooms) in FENCES {
            if rooms.iter().any(|room| path.starts_with(room)) {
                continue;
            }
            let uses = |line: &str| {
                line.match_indices(&format!("{name}::")).any(|(position, _)| {
                    let before = &line[..position];
                    let part_of_a_name = before.ends_with(|c: char| c.is_alphanumeric() || c == '_');
                    // `engine::sled` is our module and not the crate.
                    let our_module = before.ends_with("engine::") || before.ends_with("super::");
                    !part_of_a_name && !our_module
                })
            };
            for line in text.lines().map(code).filter(|line| uses(line)) {
                wrong.push(format!("{} uses {name}: {}", path.display(), line.trim()));
            }
        }
    }
    assert!(wrong.is_empty(), "these crates have a room of their own (ARCHITECTURE.md):\n{}", wrong.join("\n"));
}

/// What sled does badly, and why nobody asks it for it.
const NEVER_OF_SLED: [(&str, &str); 3] = [
    ("flush_async", "it hands the flush to threads that nobody watches"),
    ("watch_prefix", "its queues have no bound, and a slow reader holds up who writes"),
    ("generate_id", "it skips numbers after a crash; sequence numbers have no gaps"),
];

#[test]
fn what_sled_does_badly_is_never_asked_of_it() {
    for (path, text) in sources() {
        for (name, why) in NEVER_OF_SLED {
            let is_used = text.lines().map(code).any(|line| line.contains(name));
            assert!(!is_used, "{} names {name}: {why}", path.display());
        }
    }
}

#[test]
fn unsafe_code_is_in_the_sync_hook_only() {
    for (path, text) in sources() {
        let has_unsafe = text
            .lines()
            .map(code)
            .any(|line| line.contains("unsafe ") || line.contains("unsafe(") || line.contains("allow(unsafe_code)"));
        let allowed = path == Path::new("src/engine/sled/sync_hook.rs");
        assert!(!has_unsafe || allowed, "{} has unsafe code; only the sync hook may", path.display());
    }
}

#[test]
fn files_hold_one_idea() {
    for (path, text) in sources() {
        let lines = text.lines().count();
        assert!(lines <= MAX_LINES, "{} has {lines} lines; over about 400 a file holds two ideas", path.display());
    }
}
