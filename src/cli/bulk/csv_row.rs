//! A profile as a row of CSV: its columns, and how it is written.

use std::borrow::Cow;
use std::io;

use super::profile_json;
use crate::client::Profile;

/// A column of a file of profiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Column {
    Id,
    Email,
    DisplayName,
    Attributes,
    /// What only the server decides: it is written on demand, and read and ignored.
    Domain,
    Etag,
    CreateTime,
    UpdateTime,
}

impl Column {
    /// Those that a caller decides come first.
    pub const ALL: [Self; 8] = [
        Self::Id,
        Self::Email,
        Self::DisplayName,
        Self::Attributes,
        Self::Domain,
        Self::Etag,
        Self::CreateTime,
        Self::UpdateTime,
    ];

    /// The columns to write.
    pub fn written(all_fields: bool) -> &'static [Self] {
        if all_fields { &Self::ALL } else { &Self::ALL[..4] }
    }

    /// Its name in the header: that of the field in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Id => "id",
            Self::Email => "email",
            Self::DisplayName => "display_name",
            Self::Attributes => "attributes",
            Self::Domain => "domain",
            Self::Etag => "etag",
            Self::CreateTime => "create_time",
            Self::UpdateTime => "update_time",
        }
    }

    /// Puts what stands in this column into a profile.
    pub fn read(self, field: &[u8], profile: &mut Profile) -> Result<(), String> {
        let text = std::str::from_utf8(field).map_err(|_| format!("column {} is not UTF-8", self.name()))?;
        match self {
            Self::Id => text.clone_into(&mut profile.id),
            Self::Email => text.clone_into(&mut profile.email),
            Self::DisplayName => text.clone_into(&mut profile.display_name),
            Self::Attributes if text.trim_ascii().is_empty() => {}
            Self::Attributes => {
                profile.attributes = profile_json::parse_attributes(text)
                    .map_err(|reason| format!("column {} {reason}", self.name()))?;
            }
            Self::Domain | Self::Etag | Self::CreateTime | Self::UpdateTime => {}
        }
        Ok(())
    }

    fn write(self, profile: &Profile) -> Cow<'_, str> {
        let time = |time: Option<prost_types::Timestamp>| time.map(|time| time.to_string()).unwrap_or_default();
        match self {
            Self::Id => profile.id.as_str().into(),
            Self::Email => profile.email.as_str().into(),
            Self::DisplayName => profile.display_name.as_str().into(),
            // A map of strings always has a form in JSON.
            Self::Attributes => serde_json::to_string(&profile.attributes).unwrap_or_default().into(),
            Self::Domain => profile.domain.as_str().into(),
            Self::Etag => profile.etag.as_str().into(),
            Self::CreateTime => time(profile.create_time).into(),
            Self::UpdateTime => time(profile.update_time).into(),
        }
    }
}

/// Appends the header.
pub fn write_header(columns: &[Column], out: Vec<u8>) -> io::Result<Vec<u8>> {
    let mut writer = csv::Writer::from_writer(out);
    writer.write_record(columns.iter().map(|column| column.name()))?;
    writer.into_inner().map_err(|error| error.into_error())
}

/// Appends a row for each profile.
pub fn write(profiles: &[Profile], columns: &[Column], out: Vec<u8>) -> io::Result<Vec<u8>> {
    let mut writer = csv::Writer::from_writer(out);
    for profile in profiles {
        for column in columns {
            writer.write_field(column.write(profile).as_bytes())?;
        }
        writer.write_record(None::<&[u8]>)?;
    }
    writer.into_inner().map_err(|error| error.into_error())
}
