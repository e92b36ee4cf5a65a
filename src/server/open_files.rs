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

/// Raises the limit and says so when it is too low for this many connections.
pub fn prepare_for(connections: usize) {
    let limit = raise_limit();
    if let Some(limit) = limit
        && !is_enough(limit, connections)
    {
        tracing::warn!(
            open_files = limit,
            connections,
            needed = connections as u64 + OTHER_FILES,
            "the limit on open files is too low for limits.connections: raise it (ulimit -n, LimitNOFILE=) or lower that"
        );
    }
}

fn is_enough(open_files: u64, connections: usize) -> bool {
    open_files >= connections as u64 + OTHER_FILES
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
    fn connections_need_room_for_everything_else_too() {
        assert!(is_enough(20_000 + OTHER_FILES, 20_000));
        assert!(!is_enough(20_000, 20_000));
    }
}
