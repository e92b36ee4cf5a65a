//! How a call ended.

/// A gRPC status code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Code(u8);

/// The names that dashboards for gRPC servers know.
const NAMES: [&str; Code::COUNT] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];

impl Code {
    /// The number of codes.
    pub const COUNT: usize = 17;
    /// The call was answered.
    pub const OK: Self = Self(0);
    /// Nobody waited for its end.
    pub const CANCELLED: Self = Self(1);
    /// It ended without a status.
    pub const UNKNOWN: Self = Self(2);
    /// Its caller's time was over.
    pub const DEADLINE_EXCEEDED: Self = Self(4);
    /// It met a defect of the server.
    pub const INTERNAL: Self = Self(13);
    /// The server gave it up.
    pub const UNAVAILABLE: Self = Self(14);

    /// All of them, in the order of their numbers.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..Self::COUNT as u8).map(Self)
    }

    /// Reads the value of `grpc-status`; what is none is [`Code::UNKNOWN`].
    pub fn of_header(value: &[u8]) -> Self {
        let number = match value {
            [one] if one.is_ascii_digit() => one - b'0',
            [b'1', two] if two.is_ascii_digit() => 10 + two - b'0',
            _ => return Self::UNKNOWN,
        };
        if usize::from(number) < Self::COUNT { Self(number) } else { Self::UNKNOWN }
    }

    /// Its number, less than [`Code::COUNT`].
    pub fn number(self) -> usize {
        usize::from(self.0)
    }

    /// Its name, as in Go's gRPC.
    pub fn name(self) -> &'static str {
        NAMES[self.number()]
    }

    /// Whether the server is to blame: `UNKNOWN`, `DEADLINE_EXCEEDED`, `UNIMPLEMENTED`, `INTERNAL`, `UNAVAILABLE` and
    /// `DATA_LOSS`.
    pub fn is_server_error(self) -> bool {
        matches!(self.0, 2 | 4 | 12 | 13 | 14 | 15)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_read_as_its_number_and_anything_else_is_unknown() {
        for code in Code::all() {
            assert_eq!(Code::of_header(code.number().to_string().as_bytes()), code);
        }
        for other in ["", "17", "99", "-1", "1 ", "020", "x", "100"] {
            assert_eq!(Code::of_header(other.as_bytes()), Code::UNKNOWN, "{other}");
        }
        assert_eq!((Code::of_header(b"5").name(), Code::of_header(b"16").name()), ("NotFound", "Unauthenticated"));
    }
}
