//! The running server: settings, listeners, limits, start and shutdown.
//!
//! [`Server`] tells the whole story from settings to exit. [`stack`] is the only place where stores are put
//! together; [`serving`] is the serving loop of gRPC; [`admin`] answers health probes on a thread of its
//! own, so that a busy server can still be probed, and there [`metrics`] shows what all floors know.

pub mod admin;
mod last_resort;
mod log_filter;
pub mod metrics;
mod observe_settings;
pub mod open_files;
mod otel_variables;
mod publish_settings;
pub mod publishing;
mod run;
pub mod sample;
pub mod serving;
mod settings;
mod settings_layers;
pub mod stack;
mod status_page;
mod store_settings;

pub use observe_settings::ObserveSettings;
pub use publish_settings::{BrokerUrl, PublishSettings};
pub use run::{ServeError, Server};
pub use settings::{
    CacheSettings, EmailSettings, LimitSettings, LogFormat, LogSettings, ServerSettings, Settings, SettingsError,
};
pub use store_settings::StoreSettings;
