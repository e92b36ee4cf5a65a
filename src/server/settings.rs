//! Every setting, its default and its bounds.
//!
//! Precedence: defaults < configuration file (TOML) < environment (`PROFILESTORE__SECTION__KEY`) < command
//! line. An unknown section or key is an error, whatever it comes from.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::observe_settings::ObserveSettings;
use super::otel_variables;
use super::publish_settings::PublishSettings;
use super::serving::ServingLimits;
use super::settings_layers::Layers;
use super::store_settings::StoreSettings;
use crate::feed::MAX_WATCHERS;
use crate::model::Canonicalization;
use crate::model::limits::MAX_REQUEST_BYTES;
use crate::observe::log_filter;
use crate::rpc;

const MIB: u64 = 1024 * 1024;

/// All settings.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Addresses and shutdown.
    pub server: ServerSettings,
    /// The store on disk.
    pub store: StoreSettings,
    /// What a canonical e-mail is.
    pub email: EmailSettings,
    /// The hot cache.
    pub cache: CacheSettings,
    /// Bounds on what callers can ask for.
    pub limits: LimitSettings,
    /// The publisher to a message queue.
    pub publish: PublishSettings,
    /// The log.
    pub log: LogSettings,
    /// What the server tells about itself.
    pub observe: ObserveSettings,
}

/// Addresses and shutdown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServerSettings {
    /// Where gRPC is served.
    pub listen: SocketAddr,
    /// Where health probes and metrics are answered.
    pub admin_listen: SocketAddr,
    /// Serve without encryption on addresses that other machines can reach.
    pub insecure: bool,
    /// How long a shutdown goes on serving while health says that it does not, so that callers can turn away.
    #[serde(with = "humantime_serde")]
    pub drain_delay: Duration,
    /// How long a shutdown waits for calls in flight.
    #[serde(with = "humantime_serde")]
    pub drain_timeout: Duration,
}

impl Default for ServerSettings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 50051)),
            admin_listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 9464)),
            insecure: false,
            drain_delay: Duration::ZERO,
            drain_timeout: Duration::from_secs(25),
        }
    }
}

/// What a canonical e-mail is, and whether it is unique.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EmailSettings {
    /// Compare local parts without regard to case. Belongs to the data directory: changing it needs
    /// `profilestore reindex`.
    pub fold_local_part: bool,
    /// Refuse a second profile with the same canonical e-mail. Profiles that are stored already are not
    /// checked.
    pub unique: bool,
}

impl Default for EmailSettings {
    fn default() -> Self {
        Self { fold_local_part: true, unique: false }
    }
}

impl EmailSettings {
    /// The settings that a data directory's index depends on.
    pub fn canonicalization(&self) -> Canonicalization {
        Canonicalization { fold_local_part: self.fold_local_part }
    }
}

/// The hot cache.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CacheSettings {
    /// The most bytes; 0 turns the cache off.
    pub max_bytes: u64,
    /// The most profiles.
    pub max_entries: usize,
    /// How long a profile stays at most.
    #[serde(with = "humantime_serde")]
    pub ttl: Duration,
    /// The most absent ids that are remembered.
    pub negative_entries: usize,
    /// How long an absence stays at most.
    #[serde(with = "humantime_serde")]
    pub negative_ttl: Duration,
    /// The most bytes of answers to queries by domain.
    pub page_bytes: u64,
}

impl Default for CacheSettings {
    fn default() -> Self {
        Self {
            max_bytes: 256 * MIB,
            max_entries: 1_000_000,
            ttl: Duration::from_secs(300),
            negative_entries: 65_536,
            negative_ttl: Duration::from_secs(5),
            page_bytes: 32 * MIB,
        }
    }
}

/// Bounds on what callers can ask for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitSettings {
    /// The most connections; more are closed at once.
    pub connections: usize,
    /// The most calls in flight on one connection; HTTP/2 makes the client wait with more.
    pub streams_per_connection: u32,
    /// The most bytes of a call's headers.
    pub header_bytes: u32,
    /// The most bytes of all requests that are being read or answered; what comes on top of it is refused.
    pub request_bytes_in_flight: usize,
    /// The most bytes of all answers that clients have not taken yet; reads on top of it are refused.
    pub answer_bytes_held: usize,
    /// The most calls of one connection that were reset before they were begun; with more it is closed.
    pub pending_resets: usize,
    /// How long a client may take to send what begins an HTTP/2 connection.
    #[serde(with = "humantime_serde")]
    pub handshake_timeout: Duration,
    /// An idle connection is probed this often.
    #[serde(with = "humantime_serde")]
    pub keepalive_interval: Duration,
    /// How long a client may take to answer a probe.
    #[serde(with = "humantime_serde")]
    pub keepalive_timeout: Duration,
    /// After about this time a connection takes no new calls, and the client opens another; zero for never.
    #[serde(with = "humantime_serde")]
    pub connection_age: Duration,
    /// How long the calls of a connection that is too old may go on.
    #[serde(with = "humantime_serde")]
    pub connection_age_grace: Duration,
    /// The most watchers; more are refused.
    pub watchers: usize,
}

impl Default for LimitSettings {
    fn default() -> Self {
        let serving = ServingLimits::default();
        Self {
            connections: serving.connections,
            streams_per_connection: serving.streams_per_connection,
            header_bytes: serving.header_bytes,
            request_bytes_in_flight: rpc::REQUEST_BYTES_IN_FLIGHT,
            answer_bytes_held: rpc::ANSWER_BYTES_HELD,
            pending_resets: serving.pending_resets,
            handshake_timeout: serving.handshake_timeout,
            keepalive_interval: serving.keepalive_interval,
            keepalive_timeout: serving.keepalive_timeout,
            connection_age: serving.connection_age,
            connection_age_grace: serving.connection_age_grace,
            watchers: MAX_WATCHERS,
        }
    }
}

impl LimitSettings {
    /// Checks all values, and says what is wrong with each.
    fn check(&self, require: &mut impl FnMut(bool, &str)) {
        let seconds = |from: u64, to: u64| Duration::from_secs(from)..=Duration::from_secs(to);
        require((1..=1_000_000).contains(&self.connections), "limits.connections must be 1 to 1000000");
        require(
            (1..=10_000).contains(&self.streams_per_connection),
            "limits.streams_per_connection must be 1 to 10000",
        );
        require((4096..=1_048_576).contains(&self.header_bytes), "limits.header_bytes must be 4096 to 1048576");
        require(
            self.request_bytes_in_flight >= MAX_REQUEST_BYTES,
            "limits.request_bytes_in_flight must be at least 4194304, the largest request",
        );
        require(
            self.answer_bytes_held >= MAX_REQUEST_BYTES,
            "limits.answer_bytes_held must be at least 4194304, more than the largest answer",
        );
        require((1..=10_000).contains(&self.pending_resets), "limits.pending_resets must be 1 to 10000");
        require(seconds(1, 600).contains(&self.handshake_timeout), "limits.handshake_timeout must be 1s to 10m");
        require(
            seconds(1, 86_400).contains(&self.keepalive_interval),
            "limits.keepalive_interval must be 1s to 1day",
        );
        require(seconds(1, 3600).contains(&self.keepalive_timeout), "limits.keepalive_timeout must be 1s to 1h");
        require(
            self.connection_age.is_zero() || seconds(60, 31_536_000).contains(&self.connection_age),
            "limits.connection_age must be 1m to 365days, or 0s for connections of any age",
        );
        require(
            seconds(1, 86_400).contains(&self.connection_age_grace),
            "limits.connection_age_grace must be 1s to 1day",
        );
        require((1..=60_000).contains(&self.watchers), "limits.watchers must be 1 to 60000");
    }
}

/// The log, which goes to standard error.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogSettings {
    /// What is logged, as `level` or `target=level` joined by commas.
    pub filter: String,
    /// How it looks.
    pub format: LogFormat,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self { filter: "info".into(), format: LogFormat::Auto }
    }
}

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Pretty on a terminal, JSON otherwise.
    Auto,
    /// For people.
    Pretty,
    /// One JSON object a line.
    Json,
}

/// Everything that is wrong with the settings, one thing a line.
#[derive(Debug, thiserror::Error)]
#[error("the configuration cannot be used:\n  {}", .0.join("\n  "))]
pub struct SettingsError(Vec<String>);

impl Settings {
    /// The bounds of the serving loop.
    pub fn serving_limits(&self) -> ServingLimits {
        ServingLimits {
            connections: self.limits.connections,
            streams_per_connection: self.limits.streams_per_connection,
            header_bytes: self.limits.header_bytes,
            pending_resets: self.limits.pending_resets,
            handshake_timeout: self.limits.handshake_timeout,
            keepalive_interval: self.limits.keepalive_interval,
            keepalive_timeout: self.limits.keepalive_timeout,
            connection_age: self.limits.connection_age,
            connection_age_grace: self.limits.connection_age_grace,
            drain_timeout: self.server.drain_timeout,
        }
    }

    /// Reads the settings from a file, if one is named, and the environment. `overrides` are from the
    /// command line: a dotted key and a value each.
    pub fn load(file: Option<&Path>, overrides: &[(&str, String)]) -> Result<Self, SettingsError> {
        let mut layers =
            Layers::over(toml::Table::try_from(Self::default()).expect("the defaults have a form in TOML"));
        for (setting, value) in otel_variables::standard().settings {
            layers.text(setting, value, "environment");
        }
        if let Some(file) = file {
            layers.file(file);
        }
        layers.environment(std::env::vars_os());
        for (setting, value) in overrides {
            layers.text(setting, value.clone(), "command line");
        }
        let (settings, mut wrong) = layers.finish();
        wrong.extend(settings.out_of_bounds());
        if wrong.is_empty() { Ok(settings) } else { Err(SettingsError(wrong)) }
    }

    /// What is wrong with values by their bounds and each other.
    fn out_of_bounds(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut require = |holds: bool, what: &str| {
            if !holds {
                wrong.push(what.to_owned());
            }
        };
        for (key, address) in
            [("server.listen", self.server.listen), ("server.admin_listen", self.server.admin_listen)]
        {
            require(
                address.ip().is_loopback() || self.server.insecure,
                &format!(
                    "{key} = {address} can be reached from other machines without encryption; use a loopback address, or allow it with server.insecure = true (--insecure)"
                ),
            );
        }
        require(self.server.drain_delay <= Duration::from_secs(600), "server.drain_delay must be at most 10m");
        require(self.server.drain_timeout <= Duration::from_secs(600), "server.drain_timeout must be at most 10m");
        self.store.check(&mut require);
        require(
            !self.cache.ttl.is_zero(),
            "cache.ttl must be longer than 0s; to turn the cache off set cache.max_bytes = 0",
        );
        require(!self.cache.negative_ttl.is_zero(), "cache.negative_ttl must be longer than 0s");
        self.limits.check(&mut require);
        self.publish.check(&mut require);
        self.observe.check(&mut require);
        if let Err(error) = log_filter::check(&self.log.filter) {
            require(false, &format!("log.filter cannot be used: {error}"));
        }
        wrong
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load_toml(toml: &str) -> Result<Settings, SettingsError> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.toml");
        std::fs::write(&file, toml).unwrap();
        Settings::load(Some(&file), &[])
    }

    #[test]
    fn the_command_line_wins_over_the_file_and_the_file_over_defaults() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.toml");
        std::fs::write(&file, "[cache]\nttl = \"1m\"\nmax_bytes = 5\n[server]\nlisten = \"127.0.0.1:1\"").unwrap();
        let settings = Settings::load(Some(&file), &[("server.listen", "127.0.0.1:2".into())]).unwrap();
        assert_eq!(settings.server.listen.port(), 2);
        assert_eq!((settings.cache.ttl, settings.cache.max_bytes), (Duration::from_secs(60), 5));
        assert_eq!(settings.cache.max_entries, CacheSettings::default().max_entries);
    }

    #[test]
    fn an_unknown_setting_is_named() {
        let error = load_toml("[cache]\nmax_byte = 5").unwrap_err().to_string();
        assert!(error.contains("max_byte"), "{error}");
        let error = load_toml("[cash]\nx = 5").unwrap_err().to_string();
        assert!(error.contains("cash"), "{error}");
    }

    #[test]
    fn everything_that_is_wrong_is_reported_at_once() {
        let file = "[server]\nlisten = \"0.0.0.0:1\"\n[store]\nrunning_scans = 0\nqueued_commits = true\n\
                    [log]\nfilter = \"a=b=c\"\n[cache]\nmax_byte = 5\nttl = \"soon\"\n[cash]\nx = 1\ny = 1\n";
        let error = load_toml(file).unwrap_err().to_string();
        let settings = ["server.listen", "store.running_scans", "store.queued_commits", "log.filter"];
        for each in settings.into_iter().chain(["cache.max_byte", "cache.ttl", "cash"]) {
            assert_eq!(error.matches(each).count(), 1, "{each} in {error}");
        }
        assert_eq!(error.lines().count(), 8, "{error}");
    }

    #[test]
    fn a_mistyped_log_level_is_refused_with_the_levels() {
        let error = load_toml("[log]\nfilter = \"loud\"").unwrap_err().to_string();
        assert!(error.contains("log.filter") && error.contains("off, error, warn, info or debug"), "{error}");
    }

    #[test]
    fn every_limit_has_bounds() {
        let limits = toml::Table::try_from(LimitSettings::default()).unwrap();
        for (key, value) in limits {
            let wrong = if value.is_str() { "\"400days\"" } else { "0" };
            let error = load_toml(&format!("[limits]\n{key} = {wrong}")).unwrap_err().to_string();
            assert!(error.contains(&format!("limits.{key} must be ")), "{error}");
        }
    }

    #[test]
    fn an_age_of_zero_is_none() {
        assert!(load_toml("[limits]\nconnection_age = \"0s\"").is_ok());
    }
}
