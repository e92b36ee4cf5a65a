//! How a report looks: a screen that stays in its place on a terminal, tab-separated lines off it, or a line of JSON.

use std::io::{self, BufWriter, IsTerminal, Write};

use super::report::{KeyReport, MethodReport, Report};
use crate::cli::output::{Stdout, printable, size, stdout};
use crate::cli::table::TerminalTable;

/// The methods that a screen shows.
const MAX_METHODS: usize = 8;
/// A terminal with fewer columns than this gets less in its tables, and the rest in more lines.
const NARROW: u16 = 60;
const LINE_HEADER: &str =
    "kind\tname\tper_second\tserver_errors_per_second\thit_ratio\tp50_ms\tp99_ms\treads\terror_bound";
/// The size of a terminal that does not tell it.
const DEFAULT_SIZE: (u16, u16) = (24, 80);

/// Shows reports.
pub struct Display {
    form: Form,
    out: BufWriter<Stdout>,
    shown: u64,
}

enum Form {
    Screen { addr: String },
    Lines,
    Json,
}

impl Display {
    /// Shows what the server at an address does.
    pub fn new(json: bool, addr: &str) -> Self {
        let form = if json {
            Form::Json
        } else if io::stdout().is_terminal() {
            Form::Screen { addr: addr.to_owned() }
        } else {
            Form::Lines
        };
        Self { form, out: BufWriter::new(stdout()), shown: 0 }
    }

    /// Shows a report, on a terminal in place of the one before.
    pub fn show(&mut self, report: &Report) -> io::Result<()> {
        match &self.form {
            Form::Screen { addr } => {
                let size = console::Term::stdout().size_checked().unwrap_or(DEFAULT_SIZE);
                let start = if self.shown == 0 { "\x1b[2J\x1b[H" } else { "\x1b[H" };
                write!(self.out, "{start}{}\x1b[J", on_terminal(&screen(report, addr, size)))?;
            }
            Form::Lines => {
                if self.shown == 0 {
                    writeln!(self.out, "{LINE_HEADER}")?;
                }
                self.out.write_all(lines(report).as_bytes())?;
            }
            Form::Json => {
                serde_json::to_writer(&mut self.out, report)?;
                writeln!(self.out)?;
            }
        }
        self.shown += 1;
        self.out.flush()
    }
}

/// Each line takes the place of a longer one.
fn on_terminal(screen: &str) -> String {
    screen.lines().map(|line| format!("{line}\x1b[K\n")).collect()
}

/// A report as it fits a terminal of so many rows and columns.
fn screen(report: &Report, addr: &str, (rows, columns): (u16, u16)) -> String {
    let mut text = flowing(
        columns,
        &[
            format!("profilestore {} at {addr}", printable(&report.version)),
            format!("up {}", uptime(report.uptime_seconds)),
            report.time_of_day(),
        ],
    );
    text += &flowing(
        columns,
        &[
            format!("{} calls/s", number(report.calls_per_second, 0)),
            format!("{} server errors/s", number(report.server_errors_per_second, 1)),
            format!("p50 {} ms", number(report.p50_millis, 2)),
            format!("p99 {} ms", number(report.p99_millis, 2)),
            format!("hit ratio {}", percent(report.hit_ratio)),
        ],
    );
    text += &flowing(
        columns,
        &[
            format!("{} profiles", report.profile_count),
            format!("{} domains", report.domain_count),
            format!("{} live", size(report.live_bytes)),
            format!("{} on disk", report.disk_bytes.map_or_else(|| "?".to_owned(), size)),
            format!("{} cached", size(report.cache_bytes)),
            format!("{} watchers", report.watcher_count),
        ],
    );
    if report.calls_per_second.is_none() {
        text += "the server counts no calls: observe.metrics is off\n";
    }
    let mut tables = vec![methods_table(report, columns)];
    let window = format!("last {:.0} s", report.window_seconds);
    tables.push(keys_table("hot id", &window, &report.ids, columns));
    tables.push(keys_table("hot domain", &window, &report.domains, columns));
    for table in tables {
        text += &format!("\n{table}\n");
    }
    let columns = usize::from(columns);
    let cut = |line: &str| line.chars().take(columns).collect::<String>() + "\n";
    // The last row is left free, so that nothing scrolls.
    text.lines().take(usize::from(rows.max(2)) - 1).map(cut).collect()
}

/// Parts in as few lines as they fit; none is broken.
fn flowing(columns: u16, parts: &[String]) -> String {
    const BETWEEN: &str = "   ";
    let (mut text, mut used) = (String::new(), 0);
    for part in parts {
        let width = part.chars().count();
        if used > 0 && used + BETWEEN.len() + width > usize::from(columns) {
            text.push('\n');
            used = 0;
        }
        if used > 0 {
            text += BETWEEN;
            used += BETWEEN.len();
        }
        text += part;
        used += width;
    }
    text + "\n"
}

fn methods_table(report: &Report, columns: u16) -> TerminalTable {
    let headers = ["method", "calls/s", "errors/s", "p50 ms", "p99 ms"];
    let shown = |column: usize| columns >= NARROW || [0, 1, 4].contains(&column);
    let mut table = TerminalTable::new(&some(headers, shown), columns);
    for of in report.methods.iter().take(MAX_METHODS) {
        let cells = [
            printable(short(&of.method)),
            format!("{:.1}", of.calls_per_second),
            format!("{:.1}", of.errors_per_second),
            number(of.p50_millis, 2),
            number(of.p99_millis, 2),
        ];
        table.add_row(some(cells, shown));
    }
    table
}

fn keys_table(name: &'static str, window: &str, keys: &[KeyReport], columns: u16) -> TerminalTable {
    let headers = [name, "reads/s", window, "at most too high by"];
    let shown = |column: usize| columns >= NARROW || [0, 1].contains(&column);
    let mut table = TerminalTable::new(&some(headers, shown), columns);
    for key in keys {
        let cells = [
            printable(&key.key),
            format!("{:.1}", key.reads_per_second),
            key.read_count.to_string(),
            key.error_bound.to_string(),
        ];
        table.add_row(some(cells, shown));
    }
    table
}

/// Those that are shown, by their columns.
fn some<T, const N: usize>(all: [T; N], shown: impl Fn(usize) -> bool) -> Vec<T> {
    all.into_iter().enumerate().filter(|(column, _)| shown(*column)).map(|(_, each)| each).collect()
}

/// A report as tab-separated lines: all calls, the methods, the ids, the domains.
fn lines(report: &Report) -> String {
    let line = |cells: [String; 9]| cells.map(|cell| printable(&cell)).join("\t") + "\n";
    let mut text = line([
        "all".into(),
        String::new(),
        number(report.calls_per_second, 1),
        number(report.server_errors_per_second, 1),
        number(report.hit_ratio, 4),
        number(report.p50_millis, 3),
        number(report.p99_millis, 3),
        String::new(),
        String::new(),
    ]);
    for MethodReport { method, calls_per_second, server_errors_per_second, p50_millis, p99_millis, .. } in
        &report.methods
    {
        text += &line([
            "method".into(),
            method.clone(),
            format!("{calls_per_second:.1}"),
            format!("{server_errors_per_second:.1}"),
            String::new(),
            number(*p50_millis, 3),
            number(*p99_millis, 3),
            String::new(),
            String::new(),
        ]);
    }
    for (kind, keys) in [("id", &report.ids), ("domain", &report.domains)] {
        for key in keys {
            text += &line([
                kind.into(),
                key.key.clone(),
                format!("{:.1}", key.reads_per_second),
                String::new(),
                String::new(),
                String::new(),
                String::new(),
                key.read_count.to_string(),
                key.error_bound.to_string(),
            ]);
        }
    }
    text
}

/// The method without its service, which tells little.
fn short(method: &str) -> &str {
    method.rsplit('/').next().unwrap_or(method)
}

fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
}

fn percent(part: Option<f64>) -> String {
    part.map_or_else(|| "-".to_owned(), |part| format!("{:.1}%", part * 100.0))
}

fn uptime(seconds: i64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, _, _) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let key =
            |name: &str| KeyReport { key: name.into(), reads_per_second: 12.0, read_count: 600, error_bound: 7 };
        Report {
            time: 3.0,
            version: "1\x1b[31m".into(),
            uptime_seconds: 3_700,
            interval_seconds: 2.0,
            calls_per_second: Some(1234.5),
            server_errors_per_second: Some(0.0),
            p50_millis: Some(0.31),
            p99_millis: None,
            hit_ratio: Some(0.987),
            profile_count: 10,
            domain_count: 2,
            live_bytes: 4096,
            disk_bytes: Some(8192),
            cache_bytes: 100,
            watcher_count: 0,
            methods: (0..30).map(|number| method(&format!("a.Service/Call{number}"))).collect(),
            window_seconds: 50.0,
            ids: vec![key("ada"), key("a-very-long-id-that-goes-on-and-on-and-on-until-it-fits-no-terminal-at-all")],
            domains: vec![key("example.com")],
        }
    }

    fn method(name: &str) -> MethodReport {
        MethodReport {
            method: name.into(),
            calls_per_second: 3.0,
            errors_per_second: 0.0,
            server_errors_per_second: 0.0,
            p50_millis: Some(1.0),
            p99_millis: Some(2.0),
        }
    }

    #[test]
    fn a_screen_fits_its_terminal() {
        for (rows, columns) in [(24, 80), (60, 200), (10, 40), (2, 20), (0, 0)] {
            let screen = screen(&report(), "127.0.0.1:50051", (rows, columns));
            assert!(screen.lines().count() < usize::from(rows.max(2)), "{rows} rows:\n{screen}");
            assert!(screen.lines().all(|line| line.chars().count() <= usize::from(columns)), "{columns}:\n{screen}");
            assert!(!screen.contains('\x1b'), "what a server says cannot steer the terminal");
        }
        let whole = screen(&report(), "127.0.0.1:50051", (60, 120));
        for part in ["up 1 h 1 min", "1234 calls/s", "98.7%", "p99 - ms", "ada", "example.com", "Call7"] {
            assert!(whole.contains(part), "{part} in\n{whole}");
        }
        assert!(!whole.contains("Call8"), "{whole}");
    }

    #[test]
    fn lines_have_as_many_cells_as_the_header() {
        let text = lines(&report());
        assert!(text.lines().all(|line| line.split('\t').count() == LINE_HEADER.split('\t').count()), "{text}");
        assert!(text.contains("id\tada\t12.0\t\t\t\t\t600\t7\n"), "{text}");
        assert!(text.starts_with("all\t\t1234.5\t0.0\t0.9870\t0.310\t-\t\t\n"), "{text}");
    }
}
