//! A timer finer than the runtime's, whose times are whole milliseconds: latency is counted from the time at
//! which a request is due, so what the timer adds would be measured with the server.

use std::io;

use tokio::time::{Instant, sleep_until};

/// Wakes one task.
pub struct Timer {
    #[cfg(target_os = "linux")]
    fd: tokio::io::unix::AsyncFd<std::os::fd::OwnedFd>,
}

#[cfg(target_os = "linux")]
impl Timer {
    /// A timer on the runtime of the caller.
    pub fn new() -> io::Result<Self> {
        use rustix::time::{TimerfdClockId, TimerfdFlags, timerfd_create};
        let fd = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        // Its successor is `unsafe` for types that may change or close their descriptor, which this one cannot.
        #[allow(deprecated)]
        let fd = tokio::io::unix::AsyncFd::new(fd)?;
        Ok(Self { fd })
    }

    /// Waits until a time has come. It may be given up at any time.
    pub async fn until(&mut self, due: Instant) {
        if self.wait(due).await.is_err() {
            sleep_until(due).await;
        }
    }

    async fn wait(&mut self, due: Instant) -> io::Result<()> {
        use rustix::time::{Itimerspec, TimerfdTimerFlags, Timespec, timerfd_settime};
        loop {
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            let value = Timespec::try_from(left).map_err(io::Error::other)?;
            let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value };
            timerfd_settime(&self.fd, TimerfdTimerFlags::empty(), &once)?;
            let mut ready = self.fd.readable().await?;
            // Setting it again takes the old expiry back; what counts is the time above.
            ready.clear_ready();
        }
    }
}

#[cfg(not(target_os = "linux"))]
impl Timer {
    /// A timer on the runtime of the caller.
    pub fn new() -> io::Result<Self> {
        Ok(Self {})
    }

    /// Waits until a time has come. It may be given up at any time.
    pub async fn until(&mut self, due: Instant) {
        sleep_until(due).await;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn it_never_wakes_early_and_can_be_given_up() {
        let mut timer = Timer::new().unwrap();
        for micros in [0, 1, 300, 2_500, 300] {
            let far = Instant::now() + Duration::from_secs(3600);
            tokio::select! {
                biased;
                () = timer.until(far) => panic!("an hour has not passed"),
                () = std::future::ready(()) => {}
            }
            let due = Instant::now() + Duration::from_micros(micros);
            timer.until(due).await;
            assert!(Instant::now() >= due);
        }
    }
}
