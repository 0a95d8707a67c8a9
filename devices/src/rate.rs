//! Token buckets: how much a guest may move, on average and at once.
//!
//! ```text
//!   time ──per_second──▶ bucket, at most burst ──take──▶ bytes, requests
//! ```
//!
//! A request is let through whole as long as anything is left in the buckets, and what it took too much
//! is paid off by those after it. So nothing is split, and no size is too large for a limit.

use std::num::NonZeroU64;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

const NANOS: u128 = 1_000_000_000;
/// The part of a second whose amount [`Rate::per_second`] lets pass at once.
const BURST: u64 = 10;

/// How much of something may pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// On average.
    pub per_second: NonZeroU64,
    /// At once, after a time of rest.
    pub burst: NonZeroU64,
}

impl Rate {
    /// So much in a second, and of it a tenth at once.
    #[must_use]
    pub fn per_second(amount: NonZeroU64) -> Self {
        Self {
            per_second: amount,
            burst: NonZeroU64::new(amount.get() / BURST).unwrap_or(NonZeroU64::MIN),
        }
    }
}

/// What may pass; `None` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RateLimit {
    /// Bytes.
    pub bytes: Option<Rate>,
    /// Frames of a network, requests of a file system or a disk.
    pub requests: Option<Rate>,
}

/// The limits of a device, or of one of its directions.
#[derive(Debug)]
pub(crate) struct Limiter {
    buckets: [Option<Bucket>; 2],
}

impl Limiter {
    pub fn new(limit: RateLimit) -> Self {
        Self {
            buckets: [limit.bytes, limit.requests].map(|rate| rate.map(Bucket::new)),
        }
    }

    /// Whether there is anything to ask before a request passes.
    pub fn is_limited(&self) -> bool {
        self.buckets.iter().any(Option::is_some)
    }

    /// When the next request may pass, if it may not now.
    pub fn blocked_until(&mut self, now: Instant) -> Option<Instant> {
        let buckets = self.buckets.iter_mut().flatten();
        let wait = buckets.filter_map(|bucket| bucket.wait(now)).max();
        wait.map(|wait| now + wait)
    }

    /// Takes bytes that a request moved beyond those that it was taken for.
    pub fn take_more(&mut self, bytes: u64) {
        if let [Some(bucket), _] = &mut self.buckets {
            bucket.tokens -= i128::from(bytes);
        }
    }

    /// Takes what a request costs. It may be more than is left: the next one waits for it then.
    pub fn take(&mut self, bytes: usize) {
        for (bucket, amount) in self.buckets.iter_mut().zip([bytes as u64, 1]) {
            if let Some(bucket) = bucket {
                bucket.tokens -= i128::from(amount);
            }
        }
    }
}

/// The limits of a device whose workers share them. Nothing is locked where there are none.
#[derive(Debug)]
pub(crate) struct SharedLimiter(Option<Mutex<Limiter>>);

impl SharedLimiter {
    pub fn new(limit: RateLimit) -> Self {
        let limiter = Some(Limiter::new(limit));
        Self(limiter.filter(Limiter::is_limited).map(Mutex::new))
    }

    /// Sleeps until the next request may pass, or the worker is to `stop`. What has to be done before
    /// a sleep is `before`'s.
    pub fn wait<E>(
        &self,
        stop: &AtomicBool,
        before: impl FnOnce() -> Result<(), E>,
    ) -> Result<(), E> {
        if let Some(Some(until)) = self.with(|limiter| limiter.blocked_until(Instant::now())) {
            before()?;
            sleep(until, stop);
        }
        Ok(())
    }

    /// Books a request that was served.
    pub fn take(&self, bytes: usize) {
        self.with(|limiter| limiter.take(bytes));
    }

    /// Books bytes that a request moved beyond those that it was booked for.
    pub fn take_more(&self, bytes: u64) {
        self.with(|limiter| limiter.take_more(bytes));
    }

    fn with<R>(&self, act: impl FnOnce(&mut Limiter) -> R) -> Option<R> {
        let limiter = self.0.as_ref()?;
        Some(act(&mut limiter
            .lock()
            .unwrap_or_else(PoisonError::into_inner)))
    }
}

/// Sleeps until then, or until the thread is unparked to end.
pub(crate) fn sleep(until: Instant, stop: &AtomicBool) {
    while !stop.load(Ordering::SeqCst)
        && let Some(left) = until.checked_duration_since(Instant::now())
        && !left.is_zero()
    {
        thread::park_timeout(left);
    }
}

#[derive(Debug)]
struct Bucket {
    rate: Rate,
    /// May be below zero: a request is let through whole as long as anything is left.
    tokens: i128,
    /// Up to when tokens have been added.
    filled: Option<Instant>,
}

impl Bucket {
    fn new(rate: Rate) -> Self {
        Self {
            rate,
            tokens: i128::from(rate.burst.get()),
            filled: None,
        }
    }

    /// Time until something is left.
    fn wait(&mut self, now: Instant) -> Option<Duration> {
        self.fill(now);
        if self.tokens > 0 {
            return None;
        }
        let missing = 1 - self.tokens;
        let nanos = missing.unsigned_abs() * NANOS;
        let nanos = nanos.div_ceil(u128::from(self.rate.per_second.get()));
        Some(Duration::from_nanos(
            u64::try_from(nanos).unwrap_or(u64::MAX),
        ))
    }

    fn fill(&mut self, now: Instant) {
        let filled = *self.filled.get_or_insert(now);
        let elapsed = now.saturating_duration_since(filled).as_nanos();
        let rate = u128::from(self.rate.per_second.get());
        let tokens = elapsed * rate / NANOS;
        if tokens == 0 {
            return;
        }
        // Only the time that gave whole tokens is used up, or slow rates would never give one.
        let used = Duration::from_nanos(u64::try_from(tokens * NANOS / rate).unwrap_or(u64::MAX));
        self.filled = Some(filled + used);
        let tokens = i128::try_from(tokens).unwrap_or(i128::MAX);
        self.tokens = self
            .tokens
            .saturating_add(tokens)
            .min(i128::from(self.rate.burst.get()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(per_second: u64, burst: u64) -> Option<Rate> {
        Some(Rate {
            per_second: NonZeroU64::new(per_second).unwrap(),
            burst: NonZeroU64::new(burst).unwrap(),
        })
    }

    /// Frames of `size` that pass within `time` if there is always one more.
    fn passed(limiter: &mut Limiter, start: Instant, time: Duration, size: usize) -> u64 {
        let mut now = start;
        let mut frames = 0;
        while now <= start + time {
            match limiter.blocked_until(now) {
                Some(until) => {
                    assert!(until > now, "a wait gets somewhere");
                    now = until;
                }
                None => {
                    limiter.take(size);
                    frames += 1;
                }
            }
        }
        frames
    }

    #[test]
    fn the_burst_comes_first_and_the_rate_after_it() {
        let mut limiter = Limiter::new(RateLimit {
            bytes: rate(1_000_000, 50_000),
            requests: None,
        });
        let start = Instant::now();
        assert_eq!(passed(&mut limiter, start, Duration::ZERO, 1000), 50);
        let later = passed(&mut limiter, start, Duration::from_secs(2), 1000);
        assert!((1999..=2001).contains(&later), "{later} frames");
        // An hour of rest gives one burst and no more.
        let start = start + Duration::from_secs(3600);
        assert_eq!(passed(&mut limiter, start, Duration::ZERO, 1000), 50);
    }

    #[test]
    fn a_frame_larger_than_the_bucket_passes_and_is_paid_off() {
        let mut limiter = Limiter::new(RateLimit {
            bytes: rate(1000, 1),
            requests: None,
        });
        let start = Instant::now();
        assert_eq!(limiter.blocked_until(start), None);
        limiter.take(60_000);
        let until = limiter.blocked_until(start).unwrap();
        assert_eq!(until - start, Duration::from_secs(60));
        assert_eq!(limiter.blocked_until(until), None);
    }

    #[test]
    fn the_tighter_of_two_limits_counts_and_slow_rates_get_there() {
        let mut limiter = Limiter::new(RateLimit {
            bytes: rate(u64::MAX, u64::MAX),
            requests: rate(3, 1),
        });
        let start = Instant::now();
        let mut now = start;
        for _ in 0..3 {
            limiter.take(usize::MAX >> 1);
            // Asked again and again in between, as a busy worker would.
            while limiter.blocked_until(now).is_some() {
                now += Duration::from_micros(100);
            }
        }
        let took = (now - start).as_millis();
        assert!((999..=1001).contains(&took), "{took} ms for three frames");
    }

    #[test]
    fn no_limit_is_no_limit() {
        let mut limiter = Limiter::new(RateLimit::default());
        assert!(!limiter.is_limited());
        limiter.take(usize::MAX);
        assert_eq!(limiter.blocked_until(Instant::now()), None);
    }

    #[test]
    fn a_rate_lets_a_tenth_of_a_second_pass_at_once() {
        for (per_second, burst) in [(1_000_000, 100_000), (10, 1), (1, 1)] {
            assert_eq!(
                Some(Rate::per_second(NonZeroU64::new(per_second).unwrap())),
                rate(per_second, burst)
            );
        }
    }
}
