//! The calls of the server as small numbers.

/// One of the server's calls, or [`Method::UNKNOWN`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Method(u8);

/// `AdminService.Verify`.
const LAST_OF_OURS: u8 = 17;

const PROFILES: &str = "profilestore.v1.ProfileService";
const ADMIN: &str = "profilestore.v1.AdminService";
const HEALTH: &str = "grpc.health.v1.Health";
const REFLECTION: &str = "grpc.reflection.v1.ServerReflection";
const REFLECTION_ALPHA: &str = "grpc.reflection.v1alpha.ServerReflection";

/// Service, method, and who sends several messages. A test holds this to the descriptors.
const TABLE: [(&str, &str, &str); Method::COUNT] = [
    (PROFILES, "GetProfile", "unary"),
    (PROFILES, "BatchGetProfiles", "unary"),
    (PROFILES, "ListProfiles", "unary"),
    (PROFILES, "LookupProfilesByEmail", "unary"),
    (PROFILES, "QueryProfilesByDomain", "unary"),
    (PROFILES, "CountProfiles", "unary"),
    (PROFILES, "ListDomains", "unary"),
    (PROFILES, "CreateProfile", "unary"),
    (PROFILES, "UpdateProfile", "unary"),
    (PROFILES, "DeleteProfile", "unary"),
    (PROFILES, "BatchWriteProfiles", "unary"),
    (PROFILES, "ImportProfiles", "bidi_stream"),
    (PROFILES, "ExportProfiles", "server_stream"),
    (PROFILES, "WatchProfiles", "server_stream"),
    (ADMIN, "GetStatus", "unary"),
    (ADMIN, "GetHotKeys", "unary"),
    (ADMIN, "Backup", "server_stream"),
    (ADMIN, "Verify", "server_stream"),
    (HEALTH, "Check", "unary"),
    (HEALTH, "Watch", "server_stream"),
    (HEALTH, "List", "unary"),
    (REFLECTION, "ServerReflectionInfo", "bidi_stream"),
    (REFLECTION_ALPHA, "ServerReflectionInfo", "bidi_stream"),
    ("unknown", "unknown", "unary"),
];

impl Method {
    /// The number of calls, the unknown one included.
    pub const COUNT: usize = 24;
    /// `GetProfile`, the hottest.
    pub const GET_PROFILE: Self = Self(0);
    /// A path that leads nowhere. Its name is the caller's, so it is kept nowhere.
    pub const UNKNOWN: Self = Self(Self::COUNT as u8 - 1);

    /// All of them, in the order of their numbers.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..Self::COUNT as u8).map(Self)
    }

    /// The call at a request's path, which is `/service/method`.
    pub fn of_path(path: &str) -> Self {
        let Some((service, name)) = path.strip_prefix('/').and_then(|path| path.rsplit_once('/')) else {
            return Self::UNKNOWN;
        };
        let is_it = |(its_service, its_name, _): &(&str, &str, &str)| *its_name == name && *its_service == service;
        TABLE[..Self::UNKNOWN.number()].iter().position(is_it).map_or(Self::UNKNOWN, |number| Self(number as u8))
    }

    /// Whether a caller can change something by it.
    pub fn writes(self) -> bool {
        // CreateProfile to ImportProfiles.
        (7..=11).contains(&self.0)
    }

    /// Whether it is of our own services, and no probe.
    pub fn is_ours(self) -> bool {
        self.0 <= LAST_OF_OURS
    }

    /// Whether there is one message each way, so that the server alone decides how long it takes.
    pub fn is_unary(self) -> bool {
        self.kind() == "unary"
    }

    /// Whether it goes on until its caller or the server goes away, so that neither is to blame for its end.
    pub fn is_open_ended(self) -> bool {
        // WatchProfiles, health's Watch, and reflection.
        matches!(self.0, 13 | 19 | 21 | 22)
    }

    /// Its number, less than [`Method::COUNT`].
    pub fn number(self) -> usize {
        usize::from(self.0)
    }

    /// The full name of its service.
    pub fn service(self) -> &'static str {
        TABLE[self.number()].0
    }

    /// Its name in the service.
    pub fn name(self) -> &'static str {
        TABLE[self.number()].1
    }

    /// `unary`, `server_stream` or `bidi_stream`.
    pub fn kind(self) -> &'static str {
        TABLE[self.number()].2
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use prost::Message;

    use super::*;

    #[test]
    fn every_call_of_the_interface_has_a_number_and_its_kind() {
        let set = prost_types::FileDescriptorSet::decode(crate::pb::DESCRIPTORS).unwrap();
        let mut ours = BTreeSet::new();
        for file in &set.file {
            for service in &file.service {
                for method in &service.method {
                    let service = format!("{}.{}", file.package(), service.name());
                    let kind = match (method.client_streaming(), method.server_streaming()) {
                        (false, false) => "unary",
                        (false, true) => "server_stream",
                        (true, false) => "client_stream",
                        (true, true) => "bidi_stream",
                    };
                    ours.insert((service, method.name().to_owned(), kind));
                }
            }
        }
        let known: BTreeSet<_> = Method::all()
            .filter(|method| method.service().starts_with("profilestore."))
            .map(|method| (method.service().to_owned(), method.name().to_owned(), method.kind()))
            .collect();
        assert!(ours.len() > 15);
        assert_eq!(known, ours);
    }

    #[test]
    fn writes_and_our_own_calls_are_told_from_others() {
        let written: Vec<_> = Method::all().filter(|method| method.writes()).map(Method::name).collect();
        let writes = ["CreateProfile", "UpdateProfile", "DeleteProfile", "BatchWriteProfiles", "ImportProfiles"];
        assert_eq!(written, writes);
        for method in Method::all() {
            assert_eq!(method.is_ours(), method.service().starts_with("profilestore."), "{method:?}");
        }
    }

    #[test]
    fn calls_without_an_end_of_their_own_are_told_from_those_with_one() {
        let open: Vec<_> = Method::all().filter(|method| method.is_open_ended()).map(Method::name).collect();
        assert_eq!(open, ["WatchProfiles", "Watch", "ServerReflectionInfo", "ServerReflectionInfo"]);
    }

    #[test]
    fn a_path_leads_to_its_call_and_any_other_to_the_unknown_one() {
        for method in Method::all() {
            assert_eq!(Method::of_path(&format!("/{}/{}", method.service(), method.name())), method);
        }
        let paths = ["", "/", "GetProfile", "/profilestore.v1.ProfileService/", "//GetProfile", "/a/b/c"];
        for path in paths.into_iter().chain(["/profilestore.v1.ProfileService/GetProfiles", "/x/GetProfile"]) {
            assert_eq!(Method::of_path(path), Method::UNKNOWN, "{path}");
        }
    }
}
