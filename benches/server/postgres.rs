//! PostgreSQL with the same rows, an index on the expression that a domain is, and its defaults otherwise.

use std::fmt::Write as _;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;
use profilestore::pb::Profile;
use rustix::process::Signal;

use super::peer::{Peer, free_port, program};

/// The rows are kept as the encoded text of JSON, which PostgreSQL sends as it is stored. The index gives a page in
/// the same order as profilestore's: by domain, local part and id.
const SCHEMA: &str = "
    create table profiles (id text primary key, email text not null, profile json not null);
    \\copy profiles from 'FILE'
    create index profiles_by_domain on profiles
        (lower(split_part(email, '@', 2)), lower(split_part(email, '@', 1)), id);
    vacuum (freeze, analyze) profiles;
    checkpoint;
";

/// PostgreSQL and where its programs are.
pub struct Postgres {
    pub peer: Peer,
    pub pgbench: PathBuf,
    psql: PathBuf,
}

/// Starts PostgreSQL with these profiles. `None` where it is not installed.
pub fn start(dir: &Path, profiles: &[Profile]) -> anyhow::Result<Option<Postgres>> {
    let mut folders: Vec<_> = std::fs::read_dir("/usr/lib/postgresql")
        .map(|entries| entries.filter_map(|entry| Some(entry.ok()?.path().join("bin"))).collect())
        .unwrap_or_default();
    folders.sort();
    let find = |name| program(name, &folders);
    let (Some(initdb), Some(postgres), Some(psql), Some(pgbench)) =
        (find("initdb"), find("postgres"), find("psql"), find("pgbench"))
    else {
        return Ok(None);
    };
    let data = dir.join("postgres");
    std::fs::create_dir_all(&data)?;
    let user = unprivileged_user()?;
    if let Some(user) = user {
        std::fs::set_permissions(dir, PermissionsExt::from_mode(0o755))?;
        chown(&data, Some(user), None)?;
    }
    let as_user = |program: &Path| {
        let mut command = Command::new(program);
        command.current_dir(&data);
        if let Some(user) = user {
            command.uid(user);
        }
        command
    };
    let mut init = as_user(&initdb);
    init.args(["--username", "bench", "--auth", "trust", "--encoding", "UTF8", "--locale", "C", "--pgdata"]);
    run(init.arg(&data))?;
    let port = free_port()?;
    let mut command = as_user(&postgres);
    command.arg("-D").arg(&data).args(["-p", &port.to_string(), "-c", "listen_addresses=127.0.0.1"]);
    command.args(["-c", "unix_socket_directories="]);
    let peer = Peer::start("PostgreSQL", port, &mut command, dir, Signal::INT)?;
    let postgres = Postgres { peer, pgbench, psql };
    let rows = dir.join("profiles.copy");
    std::fs::write(&rows, copy_rows(profiles)?)?;
    let script = dir.join("schema.sql");
    std::fs::write(&script, SCHEMA.replace("FILE", &rows.to_string_lossy()))?;
    wait_until_it_answers(&postgres)?;
    run(postgres.psql().arg("-f").arg(&script))?;
    Ok(Some(postgres))
}

/// The statement that gives the first page of a domain.
pub fn page_statement(domain: &str, rows: usize) -> String {
    format!(
        "select profile from profiles where lower(split_part(email, '@', 2)) = '{domain}' \
         order by lower(split_part(email, '@', 2)), lower(split_part(email, '@', 1)), id limit {rows};\n"
    )
}

impl Postgres {
    /// The rows that a statement gives, one a line.
    pub fn query(&self, statement: &str) -> anyhow::Result<String> {
        run(self.psql().args(["-At", "-c", statement]))
    }

    fn psql(&self) -> Command {
        let mut command = Command::new(&self.psql);
        command.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-U", "bench", "-d", "postgres", "-p"]);
        command.arg(self.peer.port.to_string());
        command
    }
}

/// It listens before it takes connections.
fn wait_until_it_answers(postgres: &Postgres) -> anyhow::Result<()> {
    let mut last = Ok(String::new());
    for _ in 0..100 {
        last = postgres.query("select 1");
        if last.is_ok() {
            return Ok(());
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    last.map(drop)
}

/// PostgreSQL does not run as root: then it runs as the user that its package makes.
fn unprivileged_user() -> anyhow::Result<Option<u32>> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let users = std::fs::read_to_string("/etc/passwd")?;
    let line = users.lines().find(|line| line.starts_with("postgres:")).context("there is no user postgres")?;
    Ok(Some(line.split(':').nth(2).context("/etc/passwd is odd")?.parse()?))
}

fn run(command: &mut Command) -> anyhow::Result<String> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    anyhow::ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// The profiles in COPY's text format.
fn copy_rows(profiles: &[Profile]) -> anyhow::Result<String> {
    let mut rows = String::new();
    for profile in profiles {
        let time = |time: &Option<prost_types::Timestamp>| time.as_ref().map(ToString::to_string);
        let json = serde_json::json!({
            "id": profile.id,
            "email": profile.email,
            "display_name": profile.display_name,
            "attributes": profile.attributes,
            "domain": profile.domain,
            "etag": profile.etag,
            "create_time": time(&profile.create_time),
            "update_time": time(&profile.update_time),
        });
        let json = json.to_string().replace('\\', "\\\\");
        writeln!(rows, "{}\t{}\t{json}", profile.id, profile.email)?;
    }
    Ok(rows)
}
