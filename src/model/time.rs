//! Commit times.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prost_types::Timestamp;

const NANOS_PER_SECOND: i64 = 1_000_000_000;

/// When a commit was made: nanoseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct CommitTime(i64);

impl CommitTime {
    /// From a stored count of nanoseconds.
    pub fn from_unix_nanos(nanos: i64) -> Self {
        Self(nanos)
    }

    /// From the clock; times outside of the years 1678 to 2262 become the nearest one that fits.
    pub fn from_system_time(time: SystemTime) -> Self {
        let nanos = match time.duration_since(UNIX_EPOCH) {
            Ok(after) => i64::try_from(after.as_nanos()).unwrap_or(i64::MAX),
            Err(before) => i64::try_from(before.duration().as_nanos()).map_or(i64::MIN, |nanos| -nanos),
        };
        Self(nanos)
    }

    /// Nanoseconds since the Unix epoch.
    pub fn unix_nanos(self) -> i64 {
        self.0
    }

    /// This time less a duration.
    pub fn saturating_sub(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)))
    }

    /// As the protobuf message.
    pub fn to_timestamp(self) -> Timestamp {
        Timestamp { seconds: self.0.div_euclid(NANOS_PER_SECOND), nanos: self.0.rem_euclid(NANOS_PER_SECOND) as i32 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_the_epoch_have_positive_nanos() {
        let timestamp = CommitTime::from_unix_nanos(-1).to_timestamp();
        assert_eq!((timestamp.seconds, timestamp.nanos), (-1, 999_999_999));
    }
}
