//! Reads settings layer over layer, and gathers everything that is wrong on the way.
//!
//! Invariants: nothing that is wrong ends the reading; a message repeats no line of a file and no value that may have a
//! password in it; a text stays as it was written.

use std::ffi::OsString;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use toml::{Table, Value};

use super::settings::Settings;

/// What the names of our variables begin with, in lower case.
const PREFIX: &str = "profilestore__";

const A_TIME: &str = "a time with its unit, for example 5s or 10m";

/// Every setting with its value in force so far.
pub(super) struct Layers {
    sections: Table,
    wrong: Vec<String>,
}

impl Layers {
    pub fn over(defaults: Table) -> Self {
        Self { sections: defaults, wrong: Vec::new() }
    }

    /// Everything that a file has.
    pub fn file(&mut self, path: &Path) {
        let name = path.display();
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) => return self.wrong.push(format!("{name} cannot be read: {error}")),
        };
        let sections = match text.parse::<Table>() {
            Ok(sections) => sections,
            Err(error) => {
                // The error's own text has the line itself, and what is wrong there may be the end of a password.
                let line = error.span().map_or(1, |span| text[..span.start].matches('\n').count() + 1);
                return self.wrong.push(format!("{name}, line {line}: {}", error.message()));
            }
        };
        for (section, value) in sections {
            match value {
                Value::Table(settings) if self.sections.contains_key(&section) => {
                    for (key, value) in settings {
                        self.set(&section, &key, value, &name.to_string());
                    }
                }
                Value::Table(_) => self.wrong.push(format!("there is no section {} ({name})", plain(&section))),
                _ => self.unknown(&section, &name.to_string()),
            }
        }
    }

    /// Those of the variables that are ours.
    pub fn environment(&mut self, variables: impl Iterator<Item = (OsString, OsString)>) {
        let mut ours: Vec<_> = variables
            .filter_map(|(name, value)| {
                let name = name.to_str()?.to_lowercase();
                Some((name.strip_prefix(PREFIX)?.replace("__", "."), value))
            })
            .collect();
        ours.sort();
        for (setting, value) in ours {
            match value.into_string() {
                Ok(text) => self.text(&setting, text, "environment"),
                Err(_) => self.wrong.push(format!("{} is not UTF-8 (environment)", plain(&setting))),
            }
        }
    }

    /// One setting by its dotted name, as a text.
    pub fn text(&mut self, setting: &str, text: String, origin: &str) {
        match setting.split_once('.') {
            Some((section, key)) => self.set(section, key, Value::String(text), origin),
            None => self.unknown(setting, origin),
        }
    }

    /// The settings, and what is wrong. Where a value cannot be used, the one below it is in force.
    pub fn finish(mut self) -> (Settings, Vec<String>) {
        let settings = self.sections.try_into().unwrap_or_else(|error: toml::de::Error| {
            self.wrong.push(error.message().to_owned());
            Settings::default()
        });
        (settings, self.wrong)
    }

    fn set(&mut self, section: &str, key: &str, value: Value, origin: &str) {
        let known = self.sections.get_mut(section).and_then(Value::as_table_mut);
        let Some(current) = known.and_then(|settings| settings.get_mut(key)) else {
            return self.unknown(&format!("{section}.{key}"), origin);
        };
        let may_be_secret = value.as_str().is_some_and(|text| text.contains('@'));
        match of_kind(current, value).and_then(|value| usable(section, key, value)) {
            Ok(value) => *current = value,
            Err(_) if may_be_secret => {
                self.wrong.push(format!("{section}.{key} cannot be what is given for it ({origin})"));
            }
            Err(reason) => self.wrong.push(format!("{section}.{key} {reason} ({origin})")),
        }
    }

    fn unknown(&mut self, setting: &str, origin: &str) {
        self.wrong.push(format!("there is no setting {} ({origin})", plain(setting)));
    }
}

/// A name as it may be printed: what stands in the place of a name is not always one.
fn plain(name: &str) -> &str {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if name.bytes().all(is_plain) { name } else { "of that name" }
}

/// The value as one of the kind that is there already. A text is read as what is wanted, since variables and flags are
/// texts; nothing else is.
fn of_kind(current: &Value, value: Value) -> Result<Value, String> {
    let expected = match current {
        Value::String(time) if is_time(time) => A_TIME,
        Value::String(_) => "a text",
        Value::Integer(number) => &format!("a whole number without a unit, for example {number}"),
        Value::Float(_) => "a number",
        Value::Boolean(_) => "true or false",
        _ => "something else",
    };
    let read = match (current, value) {
        (Value::Integer(_), Value::String(text)) => text.parse().ok().map(Value::Integer),
        (Value::Float(_), Value::String(text)) => text.parse().ok().map(Value::Float),
        (Value::Float(_), value @ Value::Integer(_)) => Some(value),
        (Value::Boolean(_), Value::String(text)) => match text.to_lowercase().as_str() {
            "true" | "1" | "on" | "yes" => Some(Value::Boolean(true)),
            "false" | "0" | "off" | "no" => Some(Value::Boolean(false)),
            _ => None,
        },
        (current, value) => current.same_type(&value).then_some(value),
    };
    read.ok_or_else(|| format!("must be {expected}"))
}

/// The value, if it is one for the setting by itself; its bounds are looked at when all are there.
fn usable(section: &str, key: &str, value: Value) -> Result<Value, String> {
    let alone = Table::from_iter([(key.to_owned(), value.clone())]);
    let settings = Table::from_iter([(section.to_owned(), Value::Table(alone))]);
    match settings.try_into::<Settings>() {
        Ok(_) => Ok(value),
        Err(error) => Err(format!("cannot be used: {}{}", error.message(), form(section, key, &value))),
    }
}

fn is_time(text: &str) -> bool {
    humantime_serde::re::humantime::parse_duration(text).is_ok()
}

/// What a value should look like where its type's own error does not say so, and the value if it is an address.
fn form(section: &str, key: &str, given: &Value) -> String {
    let defaults = Table::try_from(Settings::default()).unwrap_or_default();
    let default = defaults.get(section).and_then(|settings| settings.get(key)).and_then(Value::as_str);
    match default {
        Some(address) if address.parse::<SocketAddr>().is_ok() => {
            format!(": {given} is not IP:PORT, for example {address}")
        }
        Some(time) if is_time(time) => format!("; it is {A_TIME}"),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layers() -> Layers {
        Layers::over(Table::try_from(Settings::default()).unwrap())
    }

    fn with_variables(variables: &[(&str, &str)]) -> (Settings, Vec<String>) {
        let mut layers = layers();
        layers.environment(variables.iter().map(|(name, value)| (name.into(), value.into())));
        layers.finish()
    }

    fn with_file(toml: &str) -> (Settings, Vec<String>) {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.toml");
        fs::write(&file, toml).unwrap();
        let mut layers = layers();
        layers.file(&file);
        layers.finish()
    }

    #[test]
    fn a_text_from_the_environment_stays_as_it_is() {
        let (settings, wrong) = with_variables(&[
            ("PROFILESTORE__STORE__DATA_DIR", "007"),
            ("PROFILESTORE__PUBLISH__SUBJECT", "1e3"),
            ("PROFILESTORE__PUBLISH__SOURCE", "TRUE"),
            ("PROFILESTORE__CACHE__MAX_ENTRIES", "007"),
            ("PROFILESTORE__OBSERVE__TRACE_RATIO", "1"),
            ("profilestore__email__unique", "Yes"),
            ("PROFILESTORE_ADDR", "is not ours"),
        ]);
        assert_eq!(wrong, Vec::<String>::new());
        assert_eq!(settings.store.data_dir, Path::new("007"));
        assert_eq!((settings.publish.subject.as_str(), settings.publish.source.as_str()), ("1e3", "TRUE"));
        assert_eq!((settings.cache.max_entries, settings.observe.trace_ratio), (7, 1.0));
        assert!(settings.email.unique);
    }

    #[test]
    fn what_cannot_be_used_is_said_with_an_example() {
        let (_, wrong) = with_file(
            "[server]\nlisten = \"localhost:6000\"\n[cache]\nttl = \"soon\"\nmax_bytes = \"5MB\"\nnegative_ttl = 5\n[limits]\nconnection_age = \"\"\n",
        );
        let said = |key: &str| wrong.iter().find(|each| each.starts_with(key)).expect(key);
        assert!(
            said("server.listen").contains("\"localhost:6000\" is not IP:PORT, for example 127.0.0.1:50051"),
            "{wrong:?}"
        );
        assert!(said("cache.ttl").contains("for example 5s"), "{wrong:?}");
        assert!(
            said("cache.max_bytes").contains("a whole number without a unit, for example 268435456"),
            "{wrong:?}"
        );
        assert!(said("cache.negative_ttl").contains("must be a time with its unit, for example 5s"), "{wrong:?}");
        assert!(said("limits.connection_age").contains("for example 5s"), "{wrong:?}");
    }

    #[test]
    fn a_number_is_no_text_and_a_fraction_no_whole_number() {
        let (settings, wrong) = with_file(
            "[store]\ndata_dir = 1e3\nqueued_commits = 1.5\n[email]\nunique = 1\n[observe]\ntrace_ratio = 1\n",
        );
        let said: Vec<_> = wrong.iter().map(|each| each.split(" (").next().unwrap()).collect();
        let expected =
            ["email.unique must be true or false", "store.data_dir must be a text", "store.queued_commits must be"];
        assert_eq!(said.len(), expected.len(), "{wrong:?}");
        assert!(said.iter().zip(expected).all(|(said, expected)| said.starts_with(expected)), "{wrong:?}");
        assert_eq!(settings.observe.trace_ratio, 1.0);
    }

    #[test]
    fn nothing_that_may_be_a_password_is_repeated() {
        for toml in [
            "[publish]\nurl = \"nats://u:geheim@h:4222\n",
            "[publish]\nurl = nats://u:geheim@h:4222\n",
            "[publish]\nnats://u:geheim@h:4222\n",
            "[publish]\nurl = [\"nats://u:geheim@h:4222\"]\n",
            "[publish]\nmax_in_flight = \"nats://u:geheim@h:4222\"\n",
            "[publish]\nack_timeout = \"nats://u:geheim@h:4222\"\n",
            "[publish]\nstart = \"nats://u:geheim@h:4222\"\n",
            "[publish]\n\"nats://u:geheim@h:4222\" = \"\"\n",
            "\"nats://u:geheim@h:4222\" = \"\"\n",
            "[\"nats://u:geheim@h:4222\"]\n",
            "publish = \"nats://u:geheim@h:4222\"\n",
        ] {
            let (_, wrong) = with_file(toml);
            assert_eq!(wrong.len(), 1, "{toml}");
            assert!(!wrong[0].contains("geheim") && wrong[0].contains("a.toml"), "{toml}: {wrong:?}");
        }
        let (_, wrong) = with_file("[publish]\nsource = \"a\"\nurl = \"nats://u:geheim@h:4222\n\n");
        assert!(wrong[0].contains("line 3"), "{wrong:?}");
        let mut layers = layers();
        let not_utf8 = std::os::unix::ffi::OsStringExt::from_vec(b"nats://u:geheim@\xff".to_vec());
        layers.environment([("PROFILESTORE__PUBLISH__URL".into(), not_utf8)].into_iter());
        let wrong = layers.finish().1;
        assert_eq!(wrong, ["publish.url is not UTF-8 (environment)"]);
    }
}
