//! The running server: settings, listeners, limits, start and shutdown.
//!
//! [`Server`] tells the whole story from settings to exit. [`stack`] is the only place where stores are put
//! together; [`serving`] is the serving loop of gRPC; [`admin`] answers health probes on a thread of its
//! own, so that a busy server can still be probed, and there [`metrics`] shows what all floors know.

pub mod admin;
pub mod metrics;
mod observe_settings;
pub mod open_files;
mod run;
pub mod sample;
pub mod serving;
mod settings;
pub mod stack;
mod store_settings;

pub use observe_settings::ObserveSettings;
pub use run::{ServeError, Server};
pub use settings::{
    CacheSettings, EmailSettings, LimitSettings, LogFormat, LogSettings, ServerSettings, Settings, SettingsError,
};
pub use store_settings::StoreSettings;
