//! A profile as one line of JSON, in the proto's JSON form.
//!
//! Names may be camelCase or snake_case; unknown names are refused, and those that stand twice, of attributes too; null is as good as nothing. What only the server decides (domain, etag and
//! times) is written on demand, and read and ignored. No error text repeats what stands in the line.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::client::Profile;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Given {
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    email: Option<String>,
    #[serde(default, alias = "display_name")]
    display_name: Option<String>,
    #[serde(default)]
    attributes: Option<Attributes>,
    #[serde(default)]
    etag: Option<String>,
    #[serde(default, rename = "domain")]
    _domain: Option<String>,
    #[serde(default, rename = "createTime", alias = "create_time")]
    _create_time: Option<String>,
    #[serde(default, rename = "updateTime", alias = "update_time")]
    _update_time: Option<String>,
}

/// Attributes, each once: of two values for one key nobody could say which is meant.
struct Attributes(BTreeMap<String, String>);

const TWICE: &str = "an attribute twice";

impl<'de> Deserialize<'de> for Attributes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OfMap;

        impl<'de> Visitor<'de> for OfMap {
            type Value = Attributes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of strings")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Attributes, A::Error> {
                let mut attributes = BTreeMap::new();
                while let Some((key, value)) = map.next_entry()? {
                    if attributes.insert(key, value).is_some() {
                        return Err(A::Error::custom(TWICE));
                    }
                }
                Ok(Attributes(attributes))
            }
        }

        deserializer.deserialize_map(OfMap)
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Written<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    id: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    email: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    display_name: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    attributes: &'a BTreeMap<String, String>,
    #[serde(skip_serializing_if = "str::is_empty")]
    domain: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    etag: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    create_time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    update_time: Option<String>,
}

/// Reads a profile. An error says what is wrong and where, without the line's content.
pub fn parse(json: &[u8]) -> Result<Profile, String> {
    // serde would also take the fields' values in order from an array.
    if json.trim_ascii_start().first() != Some(&b'{') {
        return Err("is not a JSON object".to_owned());
    }
    let given: Given = serde_json::from_slice(json).map_err(|error| describe(&error))?;
    Ok(Profile {
        id: given.id.unwrap_or_default(),
        email: given.email.unwrap_or_default(),
        display_name: given.display_name.unwrap_or_default(),
        attributes: given.attributes.map(|attributes| attributes.0).unwrap_or_default(),
        etag: given.etag.unwrap_or_default(),
        ..Profile::default()
    })
}

/// Reads the attributes of a profile, a JSON object of strings.
pub fn parse_attributes(json: &str) -> Result<BTreeMap<String, String>, String> {
    if !json.trim_start().starts_with('{') {
        return Err("is not a JSON object".to_owned());
    }
    serde_json::from_str(json).map(|Attributes(attributes)| attributes).map_err(|error| describe(&error))
}

/// serde's text without the values that it quotes: it names types and unknown fields, whose values may be personal.
fn describe(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let place = format!("at column {}", error.column());
    if text.starts_with("unknown field") || text.starts_with("duplicate field") {
        let name = text.split('`').nth(1).unwrap_or_default();
        let kind = if text.starts_with("unknown") { "an unknown field" } else { "twice the field" };
        let is_a_name = name.len() <= 32 && name.bytes().all(|byte| byte.is_ascii_alphabetic() || byte == b'_');
        // Anything else may be a value at the place of a name.
        let name = if is_a_name { format!(" {name:?},") } else { String::new() };
        return format!("has {kind},{name} {place}");
    }
    if text.starts_with(TWICE) {
        return format!("has {TWICE}, {place}");
    }
    match error.classify() {
        serde_json::error::Category::Eof => format!("ends too early, {place}"),
        serde_json::error::Category::Data => format!("has a value of the wrong type {place}"),
        _ => format!("is not JSON {place}"),
    }
}

/// Appends a profile, with what the server decides if `all_fields` are wanted.
pub fn write(profile: &Profile, all_fields: bool, out: &mut Vec<u8>) {
    let time = |time: &Option<prost_types::Timestamp>| time.filter(|_| all_fields).map(|time| time.to_string());
    let written = Written {
        id: &profile.id,
        email: &profile.email,
        display_name: &profile.display_name,
        attributes: &profile.attributes,
        domain: if all_fields { &profile.domain } else { "" },
        etag: if all_fields { &profile.etag } else { "" },
        create_time: time(&profile.create_time),
        update_time: time(&profile.update_time),
    };
    // Writing strings and maps of strings to memory cannot fail.
    let _ = serde_json::to_writer(out, &written);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(profile: &Profile, all_fields: bool) -> String {
        let mut out = Vec::new();
        write(profile, all_fields, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_profile_that_was_written_is_read_back() {
        let profile = Profile {
            id: "a".into(),
            email: "a@b.example".into(),
            display_name: "Ä \"b\"\n".into(),
            attributes: [("k".into(), "v".into()), ("".into(), "".into())].into(),
            ..Profile::default()
        };
        assert_eq!(parse(line(&profile, false).as_bytes()), Ok(profile.clone()));
        let time = Some(prost_types::Timestamp { seconds: 1, nanos: 500_000_000 });
        let stored = Profile { domain: "b.example".into(), etag: "e".into(), create_time: time, ..profile.clone() };
        let all = line(&stored, true);
        assert!(all.contains(r#""domain":"b.example","etag":"e","createTime":"1970-01-01T00:00:01.5"#), "{all}");
        assert_eq!(parse(all.as_bytes()), Ok(Profile { etag: "e".into(), ..profile }));
        assert_eq!(line(&stored, false), line(&parse(all.as_bytes()).unwrap(), false));
    }

    #[test]
    fn both_spellings_are_read() {
        for name in ["displayName", "display_name"] {
            let json = format!(r#"{{"id":"a","{name}":"N"}}"#);
            assert_eq!(parse(json.as_bytes()).unwrap().display_name, "N");
        }
        let nulls =
            br#"{"id":null,"email":null,"displayName":null,"attributes":null,"domain":null,"createTime":null}"#;
        assert_eq!(parse(nulls), Ok(Profile::default()));
    }

    #[test]
    fn an_error_says_what_is_wrong_and_not_what_stands_there() {
        for (json, says) in [
            (r#"{"id":"secret""#, "ends too early, at column 14"),
            ("secret", "is not a JSON object"),
            ("{secret", "is not JSON at column 2"),
            (r#"{"id":"secret","nick":"secret"}"#, "has an unknown field, \"nick\", at column 21"),
            (r#"{"id":"a","secret@a.example":""}"#, "has an unknown field, at column 28"),
            (r#"{"id":"a","id":"secret"}"#, "has twice the field, \"id\", at column 14"),
            (r#"{"id":7,"email":"secret"}"#, "has a value of the wrong type at column 7"),
            (r#"{"attributes":{"secret":"","secret":""}}"#, "has an attribute twice, at column 39"),
            (r#"{"attributes":{"secret":["secret"]}}"#, "has a value of the wrong type"),
            ("[]", "is not a JSON object"),
            ("", "is not a JSON object"),
            ("{} {}", "is not JSON at column 4"),
        ] {
            let error = parse(json.as_bytes()).unwrap_err();
            assert!(error.starts_with(says) && !error.contains("secret"), "{json}: {error}");
        }
    }
}
