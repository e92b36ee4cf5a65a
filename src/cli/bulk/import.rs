//! `profilestore import`.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, anyhow, bail};
use clap::{Args, ValueEnum};
use futures_util::{StreamExt, stream};
use serde::Serialize;
use tokio::sync::mpsc;

use super::course::Course;
use super::meter::Meter;
use super::progress::{Binding, Progress, ProgressFile};
use super::rejects::Rejects;
use super::source::{Batch, Source};
use super::{Format, beside};
use crate::cli::connection::ConnectionArgs;
use crate::cli::interrupt::Interrupt;
use crate::cli::output::{OutputArgs, is_stdout_closed, to_json};
use crate::cli::{SomeRejected, WrongUsage};
use crate::client::{Client, ImportOptions, OnConflict, Profile};

#[derive(Debug, Args)]
pub struct ImportArgs {
    /// The file, or `-` for standard input.
    file: PathBuf,
    /// Its form; without this its ending tells it, and standard input has JSON lines.
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// What to do with a profile whose id is taken.
    #[arg(long, value_enum, default_value = "fail")]
    on_conflict: Conflict,
    /// Where to write the rejected lines [default: FILE.rejects; for a pipe stdin-TIME-PID.rejects].
    #[arg(long, value_name = "FILE")]
    rejects: Option<PathBuf>,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    connection: ConnectionArgs,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Conflict {
    /// Reject the line.
    Fail,
    /// Keep the stored profile.
    Skip,
    /// Replace the stored profile.
    Replace,
}

#[derive(Serialize)]
struct Summary {
    written: u64,
    skipped: u64,
    rejected: u64,
}

pub fn run(args: &ImportArgs) -> anyhow::Result<()> {
    let Prepared { batches, course, meter, in_doubt, lock } = args.prepare()?;
    let options = ImportOptions { in_doubt, ..args.options() };
    // Before this there is nothing to say about a signal.
    let interrupt = Interrupt::watch()?;
    let course = args
        .connection
        .run_bulk(async |client| args.transfer(client, options, batches, course, &meter, interrupt).await);
    drop(meter);
    let course = course?;
    let Progress { written, skipped, rejected, .. } = *course.progress();
    if let Some(file) = &lock
        && !course.progress().binding.is_of(&file.metadata().with_context(|| args.cannot_be_read())?)
    {
        // The place stays, so that the same command does not begin anew as if nothing had been written.
        bail!("{} has changed while it was imported: what was imported may be torn", args.name());
    }
    let rejects = course.rejects().to_owned();
    // Whoever has seen no summary gives the command again, so until then it must know that there is nothing left to do.
    match args.print(&Summary { written, skipped, rejected }) {
        Err(error) if !is_stdout_closed(&error) => return Err(error.context("the import has ended")),
        // That nobody reads the counts does not change how the import has ended.
        _ => course.finish()?,
    }
    match rejected {
        0 => Ok(()),
        count => {
            let lines = if count == 1 { "1 line was".to_owned() } else { format!("{count} lines were") };
            Err(SomeRejected(format!("{lines} rejected; {} has the reasons", rejects.display())).into())
        }
    }
}

/// Everything that an import needs beside the server.
struct Prepared {
    batches: mpsc::Receiver<Batch>,
    course: Course,
    meter: Meter,
    in_doubt: u64,
    /// The file that is imported, which nobody else imports meanwhile; `None` for a pipe.
    lock: Option<File>,
}

impl ImportArgs {
    fn print(&self, summary: &Summary) -> anyhow::Result<()> {
        let mut rows = self.output.rows(&["what", "lines"])?;
        if self.output.json() {
            rows.row(&[], to_json(summary))?;
        } else {
            let Summary { written, skipped, rejected } = summary;
            for (what, lines) in [("written", written), ("skipped", skipped), ("rejected", rejected)] {
                rows.row(&[what.to_owned(), lines.to_string()], |_| {})?;
            }
        }
        Ok(rows.finish()?)
    }

    fn is_stdin(&self) -> bool {
        self.file == Path::new("-")
    }

    /// What becomes of the rejected lines of a pipe, whose own name says nothing: a file that no other import has.
    fn rejects_of_pipe(&self) -> anyhow::Result<Rejects> {
        if let Some(path) = &self.rejects {
            return Rejects::begin(path);
        }
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis();
        Rejects::begin_new(&PathBuf::from(format!("stdin-{now}-{}.rejects", std::process::id())))
    }

    fn options(&self) -> ImportOptions {
        let on_conflict = match self.on_conflict {
            Conflict::Fail => OnConflict::Fail,
            Conflict::Skip => OnConflict::Skip,
            Conflict::Replace => OnConflict::Replace,
        };
        ImportOptions { on_conflict, ..ImportOptions::default() }
    }

    fn format(&self) -> anyhow::Result<Format> {
        let format =
            self.format.or_else(|| if self.is_stdin() { Some(Format::Jsonl) } else { Format::of(&self.file) });
        let unknown = || {
            let file = self.file.display();
            WrongUsage(format!("the ending of {file} does not tell its form: say --format jsonl or --format csv"))
        };
        Ok(format.ok_or_else(unknown)?)
    }

    fn prepare(&self) -> anyhow::Result<Prepared> {
        let format = self.format()?;
        if self.is_stdin() {
            return self.prepare_pipe(io::stdin(), format);
        }
        let file = File::open(&self.file).with_context(|| format!("{} cannot be opened", self.file.display()))?;
        if file.metadata()?.is_file() { self.prepare_file(file, format) } else { self.prepare_pipe(file, format) }
    }

    fn open<R: Read>(&self, input: R, format: Format) -> anyhow::Result<Source<R>> {
        let source = Source::open(input, format).with_context(|| self.cannot_be_read())?;
        source.map_err(|reason| anyhow!("{}: {reason}", self.name()))
    }

    fn name(&self) -> String {
        if self.is_stdin() { "standard input".to_owned() } else { self.file.display().to_string() }
    }

    fn cannot_be_read(&self) -> String {
        format!("{} cannot be read", self.name())
    }

    fn binding(&self, file: &fs::Metadata, format: Format, rejects: &Path) -> Binding {
        let on_conflict = self.on_conflict.to_possible_value().map(|value| value.get_name().to_owned());
        let server = self.connection.addr().to_owned();
        Binding::of(file, format, on_conflict.unwrap_or_default(), server, rejects)
    }

    /// A pipe is read once: its import cannot go on later.
    fn prepare_pipe(&self, input: impl Read + Send + 'static, format: Format) -> anyhow::Result<Prepared> {
        let source = self.open(input, format)?;
        let nothing = File::open("/dev/null")?.metadata()?;
        let rejects = self.rejects_of_pipe()?;
        let progress = Progress::new(self.binding(&nothing, format, rejects.path()), source.place());
        let batches = source.start(progress.ids)?;
        let course = Course::new(progress, None, rejects, 0);
        Ok(Prepared { batches, course, meter: Meter::new(None, 0), in_doubt: 0, lock: None })
    }

    fn prepare_file(&self, file: File, format: Format) -> anyhow::Result<Prepared> {
        // The lock ends with the process, however that ends; where there are no locks nothing is guarded.
        if let Err(TryLockError::WouldBlock) = file.try_lock() {
            bail!("another import of {} is under way", self.file.display());
        }
        let lock = file.try_clone()?;
        let metadata = file.metadata()?;
        let rejects = self.rejects.clone().unwrap_or_else(|| beside(&self.file, ".rejects"));
        let progress_file = ProgressFile::of(&self.file);
        self.check_rejects(&rejects, &progress_file)?;
        let binding = self.binding(&metadata, format, &rejects);
        let before = progress_file.load(&self.file, &binding)?;
        let mut source = self.open(file.try_clone()?, format)?;
        let in_doubt = before.as_ref().map_or(0, |progress| progress.in_flight);
        let (progress, rejects) = match before {
            None => {
                let progress = Progress::new(binding, source.place());
                (progress, Rejects::begin(&rejects)?)
            }
            Some(progress) => {
                if !source.go_on_at(file, progress.place).with_context(|| self.cannot_be_read())? {
                    return Err(progress_file.is_of_another_file(&self.file));
                }
                eprintln!("profilestore: the import goes on behind line {}", progress.place.lines);
                let rejects = Rejects::go_on(&rejects, progress.rejects_bytes)?;
                (progress, rejects)
            }
        };
        // Now that there is one for sure, by whatever name it goes.
        self.check_rejects(rejects.path(), &progress_file)?;
        let meter = Meter::new(Some(metadata.len()), progress.written + progress.skipped + progress.rejected);
        meter.begin_at(progress.place.offset);
        let batches = source.start(progress.ids)?;
        let mut course = Course::new(progress, Some(progress_file), rejects, self.options().most_in_flight());
        course.save()?;
        Ok(Prepared { batches, course, meter, in_doubt, lock: Some(lock) })
    }

    /// What is emptied at the beginning, and written, must not be a file of another purpose.
    fn check_rejects(&self, rejects: &Path, progress: &ProgressFile) -> anyhow::Result<()> {
        let identity = |path: &Path| fs::metadata(path).ok().map(|there| (there.dev(), there.ino()));
        let is_rejects =
            |path: &Path| path == rejects || identity(path).is_some_and(|it| identity(rejects) == Some(it));
        if is_rejects(&self.file) || progress.paths().into_iter().any(is_rejects) {
            let file = rejects.display();
            return Err(
                WrongUsage(format!("the rejected lines cannot be written to {file}, which has another use")).into()
            );
        }
        Ok(())
    }

    /// Sends everything. Returns the course, with everything settled.
    async fn transfer(
        &self,
        client: Client,
        options: ImportOptions,
        mut batches: mpsc::Receiver<Batch>,
        mut course: Course,
        meter: &Meter,
        mut interrupt: Interrupt,
    ) -> anyhow::Result<Course> {
        // Nothing can have been sent to a server that was never there, so nothing is in doubt then.
        let is_there = tokio::select! {
            counted = client.count("", false) => counted.map_err(|error| self.connection.explain(error)),
            interrupted = interrupt.heard() => Err(interrupted.into()),
        };
        if let Err(error) = is_there {
            return Err(self.broken_off(error, &course));
        }
        let (feed, mut fed) = mpsc::channel::<Vec<Profile>>(1);
        let mut feed = Some(feed);
        let profiles = stream::poll_fn(move |context| fed.poll_recv(context)).flat_map(stream::iter);
        let mut import = client.import(profiles, options);
        let mut unreadable = None;
        loop {
            tokio::select! {
                report = import.next() => match report {
                    None => break,
                    Some(Ok(report)) => course.settle(report)?,
                    Some(Err(error)) => return Err(self.broken_off(self.connection.explain(error), &course)),
                },
                next = next(feed.clone(), &mut batches), if feed.is_some() && course.has_room() => match next {
                    Some((_, Ok(batch))) if batch.is_empty() => feed = None,
                    Some((room, Ok(batch))) => drop(room.send(course.take(batch)?)),
                    Some((_, Err(error))) => (unreadable, feed) = (Some(error), None),
                    // Nothing that stands behind is known, so this is not the end.
                    None => (unreadable, feed) = (Some(io::Error::other("its reader has failed")), None),
                },
                interrupted = interrupt.heard() => return Err(self.broken_off(interrupted.into(), &course)),
            }
            let progress = course.progress();
            meter.show(progress.place.offset, progress.written + progress.skipped + progress.rejected);
        }
        match unreadable {
            Some(error) => {
                let error = anyhow::Error::from(error).context(self.cannot_be_read());
                Err(self.broken_off(error, &course))
            }
            None => Ok(course),
        }
    }

    fn broken_off(&self, error: anyhow::Error, course: &Course) -> anyhow::Error {
        let Progress { place, written, skipped, rejected, .. } = course.progress();
        let so_far = format!("{written} written, {skipped} skipped, {rejected} rejected");
        if !course.can_go_on() {
            return error.context(format!(
                "the import broke off behind line {} ({so_far}), and a pipe cannot be read again",
                place.lines
            ));
        }
        error.context(format!(
            "the import broke off behind line {} ({so_far}); the same command goes on there",
            place.lines
        ))
    }
}

/// The next batch, when the client has room for its profiles.
async fn next(
    feed: Option<mpsc::Sender<Vec<Profile>>>,
    batches: &mut mpsc::Receiver<Batch>,
) -> Option<(mpsc::OwnedPermit<Vec<Profile>>, Batch)> {
    let room = feed?.reserve_owned().await.ok()?;
    Some((room, batches.recv().await?))
}

#[cfg(test)]
#[path = "import_tests.rs"]
mod tests;
