//! The limit on open files, which is also one on connections.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What the process opens beside its connections: listeners, threads' pollers, sled, the commit log, a backup.
const OTHER_FILES: u64 = 512;

/// Raises the soft limit on open files as far as the process may, which the defaults of most systems (1024) need for
/// more than a thousand connections. Gives the limit that holds now; `None` means that there is none.
pub fn raise_limit() -> Option<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum && setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).is_err() {
        return current;
    }
    maximum
}

/// Raises the limit, and returns how many connections it has room for, of those that are wanted. When these are fewer that is
/// said: as a warning where somebody has asked for more by a setting of his own.
pub fn room_for(connections: usize, default: usize) -> usize {
    let Some(open_files) = raise_limit() else { return connections };
    let room = most_connections(open_files);
    if connections <= room {
        return connections;
    }
    let needed = connections as u64 + OTHER_FILES;
    if connections == default {
        tracing::info!(
            open_files,
            connections = room,
            "the limit on open files has room for fewer connections than the default, which are taken"
        );
    } else {
        tracing::warn!(
            open_files,
            connections = room,
            wanted = connections,
            needed,
            "the limit on open files is too low for limits.connections, so fewer are taken: raise it (ulimit -n, LimitNOFILE=) or lower that"
        );
    }
    room
}

/// How many connections so many open files have room for; with very few half of them.
fn most_connections(open_files: u64) -> usize {
    let room = open_files.saturating_sub(OTHER_FILES).max(open_files / 2).max(1);
    usize::try_from(room).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_is_raised_to_the_hard_one() {
        let before = getrlimit(Resource::Nofile);
        let lowered = Rlimit { current: Some(before.current.unwrap_or(1024).min(1024)), ..before };
        setrlimit(Resource::Nofile, lowered).unwrap();
        assert_eq!(raise_limit(), before.maximum);
        assert_eq!(getrlimit(Resource::Nofile).current, before.maximum);
    }

    #[test]
    fn connections_leave_room_for_everything_else() {
        assert_eq!(most_connections(20_000 + OTHER_FILES), 20_000);
        assert_eq!(most_connections(4096), 3584);
        assert_eq!([most_connections(1024), most_connections(256), most_connections(0)], [512, 128, 1]);
    }
}
