//! Field masks: which fields to return, and which to change.

use prost_types::FieldMask;

use super::limits::MAX_MASK_PATHS;
use super::violation::Violations;
use crate::pb::Profile;

/// A field of [`Profile`] that a mask can name.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Path {
    Id,
    Email,
    DisplayName,
    Attributes,
    Attribute(String),
    Domain,
    Etag,
    CreateTime,
    UpdateTime,
}

impl Path {
    fn parse(path: &str) -> Option<Self> {
        Some(match path {
            "id" => Self::Id,
            "email" => Self::Email,
            "display_name" => Self::DisplayName,
            "attributes" => Self::Attributes,
            "domain" => Self::Domain,
            "etag" => Self::Etag,
            "create_time" => Self::CreateTime,
            "update_time" => Self::UpdateTime,
            // All after the first dot is the key, verbatim: keys may contain dots.
            _ => Self::Attribute(path.strip_prefix("attributes.").filter(|key| !key.is_empty())?.to_owned()),
        })
    }
}

/// `None` stands for `*`.
fn parse_paths(mask: &FieldMask, field: &str) -> Result<Option<Vec<Path>>, Violations> {
    if mask.paths.len() > MAX_MASK_PATHS {
        let description = format!("has {} paths; at most {MAX_MASK_PATHS} are allowed", mask.paths.len());
        return Err(Violations::one(field, description));
    }
    if mask.paths.iter().any(|path| path == "*") {
        if mask.paths.len() > 1 {
            return Err(Violations::one(field, "must not have other paths beside `*`"));
        }
        return Ok(None);
    }
    let mut paths = Vec::with_capacity(mask.paths.len());
    let mut violations = Violations::new();
    for (index, path) in mask.paths.iter().enumerate() {
        match Path::parse(path) {
            Some(path) => paths.push(path),
            None => violations.add(
                format!("{field}.paths[{index}]"),
                "is not a field of a profile; known are id, email, display_name, attributes, attributes.KEY, \
                 domain, etag, create_time, update_time and *",
            ),
        }
    }
    violations.into_result().map(|()| Some(paths))
}

/// Which fields of a profile to return.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ReadMask {
    /// `None` returns everything, and then nothing needs to be decoded.
    paths: Option<Vec<Path>>,
}

impl ReadMask {
    /// Validates a mask; absent, empty and `*` mean all fields. `field` is its path in the request.
    pub fn parse(mask: Option<&FieldMask>, field: &str) -> Result<Self, Violations> {
        match mask {
            Some(mask) if !mask.paths.is_empty() => Ok(Self { paths: parse_paths(mask, field)? }),
            _ => Ok(Self::default()),
        }
    }

    /// Whether the whole profile is wanted.
    pub fn is_all(&self) -> bool {
        self.paths.is_none()
    }

    /// A profile with only the wanted fields.
    pub fn select(&self, mut profile: Profile) -> Profile {
        let Some(paths) = &self.paths else { return profile };
        let mut selected = Profile::default();
        for path in paths {
            match path {
                Path::Id => selected.id = profile.id.clone(),
                Path::Email => selected.email = profile.email.clone(),
                Path::DisplayName => selected.display_name = profile.display_name.clone(),
                Path::Attributes => selected.attributes.append(&mut profile.attributes),
                Path::Attribute(key) => {
                    if let Some(entry) = profile.attributes.remove_entry(key) {
                        selected.attributes.extend([entry]);
                    }
                }
                Path::Domain => selected.domain = profile.domain.clone(),
                Path::Etag => selected.etag = profile.etag.clone(),
                Path::CreateTime => selected.create_time = profile.create_time,
                Path::UpdateTime => selected.update_time = profile.update_time,
            }
        }
        selected
    }
}

/// Which fields of a profile to change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UpdateMask {
    /// No mask was given: the fields that are populated.
    Populated,
    /// `*`: all fields.
    All,
    /// These fields.
    Paths(UpdatePaths),
}

/// The fields that an update names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpdatePaths(Vec<Path>);

impl UpdateMask {
    /// Validates a mask; absent and empty mean the populated fields. `field` is its path in the request.
    pub fn parse(mask: Option<&FieldMask>, field: &str) -> Result<Self, Violations> {
        match mask {
            Some(mask) if !mask.paths.is_empty() => {
                Ok(parse_paths(mask, field)?.map_or(Self::All, |paths| Self::Paths(UpdatePaths(paths))))
            }
            _ => Ok(Self::Populated),
        }
    }

    /// Takes the masked fields of `given` into a profile. The id and output-only fields are never changed, whether the mask
    /// names them or not.
    pub fn apply(&self, profile: &mut Profile, given: &Profile) {
        match self {
            Self::All => {
                profile.email.clone_from(&given.email);
                profile.display_name.clone_from(&given.display_name);
                profile.attributes.clone_from(&given.attributes);
            }
            Self::Populated => {
                if !given.email.is_empty() {
                    profile.email.clone_from(&given.email);
                }
                if !given.display_name.is_empty() {
                    profile.display_name.clone_from(&given.display_name);
                }
                if !given.attributes.is_empty() {
                    profile.attributes.clone_from(&given.attributes);
                }
            }
            Self::Paths(UpdatePaths(paths)) => {
                // The whole map first, so that the order of the paths has no meaning.
                if paths.contains(&Path::Attributes) {
                    profile.attributes.clone_from(&given.attributes);
                }
                for path in paths {
                    match path {
                        Path::Email => profile.email.clone_from(&given.email),
                        Path::DisplayName => profile.display_name.clone_from(&given.display_name),
                        Path::Attribute(key) => match given.attributes.get(key) {
                            Some(value) => {
                                profile.attributes.insert(key.clone(), value.clone());
                            }
                            None => {
                                profile.attributes.remove(key);
                            }
                        },
                        Path::Attributes
                        | Path::Id
                        | Path::Domain
                        | Path::Etag
                        | Path::CreateTime
                        | Path::UpdateTime => {}
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mask(paths: &[&str]) -> FieldMask {
        FieldMask { paths: paths.iter().map(|path| path.to_string()).collect() }
    }

    fn profile() -> Profile {
        Profile {
            id: "a".into(),
            email: "a@b.example".into(),
            display_name: "A".into(),
            attributes: [("x".into(), "1".into()), ("y.z".into(), "2".into())].into(),
            etag: "e".into(),
            ..Profile::default()
        }
    }

    fn update(paths: &[&str], given: Profile) -> Profile {
        let mut profile = profile();
        UpdateMask::parse(Some(&mask(paths)), "update_mask").unwrap().apply(&mut profile, &given);
        profile
    }

    #[test]
    fn unknown_paths_are_named_by_their_place() {
        let error = UpdateMask::parse(Some(&mask(&["email", "nmae", "attributes."])), "update_mask").unwrap_err();
        let fields: Vec<_> = error.iter().map(|violation| violation.field.as_str()).collect();
        assert_eq!(fields, ["update_mask.paths[1]", "update_mask.paths[2]"]);
    }

    #[test]
    fn a_read_mask_selects_fields_and_single_attributes() {
        let selected =
            ReadMask::parse(Some(&mask(&["id", "attributes.y.z"])), "read_mask").unwrap().select(profile());
        let expected =
            Profile { id: "a".into(), attributes: [("y.z".into(), "2".into())].into(), ..Profile::default() };
        assert_eq!(selected, expected);
        assert!(ReadMask::parse(Some(&mask(&["*"])), "read_mask").unwrap().is_all());
        assert!(ReadMask::parse(Some(&mask(&[])), "read_mask").unwrap().is_all());
    }

    #[test]
    fn without_a_mask_only_populated_fields_change() {
        let given = Profile { display_name: "B".into(), ..Profile::default() };
        let mut result = profile();
        UpdateMask::Populated.apply(&mut result, &given);
        assert_eq!(result, Profile { display_name: "B".into(), ..profile() });
    }

    #[test]
    fn a_star_replaces_everything_but_the_id_and_output_fields() {
        let given = Profile { id: "other".into(), etag: "forged".into(), ..Profile::default() };
        assert_eq!(update(&["*"], given), Profile { id: "a".into(), etag: "e".into(), ..Profile::default() });
    }

    #[test]
    fn an_attribute_path_sets_or_removes_one_entry() {
        let given = Profile { attributes: [("x".into(), "9".into())].into(), ..Profile::default() };
        let result = update(&["attributes.x", "attributes.y.z"], given.clone());
        assert_eq!(result.attributes, given.attributes);
        assert_eq!(result.email, profile().email);
    }

    #[test]
    fn the_order_of_paths_has_no_meaning() {
        let given = Profile { attributes: [("n".into(), "1".into())].into(), ..Profile::default() };
        assert_eq!(
            update(&["attributes.n", "attributes"], given.clone()),
            update(&["attributes", "attributes.n"], given)
        );
    }
}
