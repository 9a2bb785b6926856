//! Where does an activity go on that computes for long? On threads of low priority, as many as there are cores.
//!
//! Whatever begins is short until it has shown that it is not. So what computes for long keeps neither the threads of those that are
//! short nor, while these have something to do, the machine. A future may be polled by another runtime than the one that it began on.

use std::future::poll_fn;
use std::panic::resume_unwind;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::thread;
use std::time::Duration;

use tokio::runtime::{Builder, Handle, Runtime};
use wasmtime_wasi::runtime::AbortOnDropJoinHandle;

use crate::priority;

/// In how many ticks of the epoch the work was found computing: after three it has computed for two ticks at least.
#[derive(Default)]
pub(super) struct Ticks(AtomicU32);

impl Ticks {
    const LONG: u32 = 3;

    pub(super) fn count(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn are_many(&self) -> bool {
        self.0.load(Ordering::Relaxed) >= Self::LONG
    }
}

/// Threads for what computes for long; there are none until they are needed.
#[derive(Default)]
pub(super) struct Background(Mutex<Option<Runtime>>);

impl Background {
    /// Runs `work` here, and from when `ticks` are many in the background. Dropping the future stops the work where it next waits.
    pub(super) async fn run<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static, ticks: &Ticks) -> T {
        let mut work: Pin<Box<dyn Future<Output = T> + Send>> = Box::pin(work);
        let done = poll_fn(|cx| match work.as_mut().poll(cx) {
            Poll::Ready(done) => Poll::Ready(Some(done)),
            Poll::Pending if ticks.are_many() => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        });
        if let Some(done) = done.await {
            return done;
        }
        let Some(threads) = self.threads() else { return work.await };
        let mut moved = AbortOnDropJoinHandle::from(threads.spawn(work));
        match (&mut *moved).await {
            Ok(done) => done,
            Err(error) if error.is_panic() => resume_unwind(error.into_panic()),
            // The server stops, and nobody is told what has come of it.
            Err(_) => std::future::pending().await,
        }
    }

    /// `None` if the machine has no more threads: then what is long stays where it is.
    fn threads(&self) -> Option<Handle> {
        let mut runtime = self.lock();
        if runtime.is_none() {
            let threads = thread::available_parallelism().map_or(2, usize::from);
            let mut builder = Builder::new_multi_thread();
            builder.worker_threads(threads).thread_name("dacapo-long").on_thread_start(priority::leave_to_others).enable_all();
            match builder.build() {
                Ok(built) => *runtime = Some(built),
                Err(error) => tracing::warn!("cannot start threads for activities that compute for long: {error}"),
            }
        }
        runtime.as_ref().map(|runtime| runtime.handle().clone())
    }

    /// Stops what is there, and waits so long until it has let go of what it holds. To be called when nothing comes any more.
    pub(super) fn close(&self, wait_max: Duration) {
        let runtime = self.lock().take();
        if let Some(runtime) = runtime {
            runtime.shutdown_timeout(wait_max);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Runtime>> {
        // Nothing panics while it holds the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        let runtime = self.lock().take();
        if let Some(runtime) = runtime {
            runtime.shutdown_background(); // Whoever drops this may be a thread that must not wait.
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// Where `work` says that it is, each time that it is polled; it counts a tick each time.
    async fn places(polls: u32) -> Vec<String> {
        let (background, ticks) = (Background::default(), Arc::new(Ticks::default()));
        let (counted, mut seen) = (ticks.clone(), Vec::new());
        let work = async move {
            for _ in 0..polls {
                seen.push(thread::current().name().unwrap_or_default().to_owned());
                counted.count();
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            seen
        };
        background.run(work, &ticks).await
    }

    #[tokio::test]
    async fn what_is_found_computing_for_the_third_time_goes_on_in_the_background() {
        let here = thread::current().name().unwrap_or_default().to_owned();
        assert_eq!(places(2).await, vec![here.clone(); 2]);
        let long = places(5).await;
        assert_eq!(long[..3], vec![here; 3]);
        assert_eq!(long[3..], ["dacapo-long", "dacapo-long"]);
    }

    #[tokio::test]
    async fn what_is_dropped_stops_in_the_background_too() {
        struct Told(Arc<AtomicU32>);
        impl Drop for Told {
            fn drop(&mut self) {
                self.0.store(1, Ordering::Relaxed);
            }
        }
        let (background, ticks, stopped) = (Background::default(), Arc::new(Ticks::default()), Arc::default());
        (0..3).for_each(|_| ticks.count());
        let told = Told(Arc::clone(&stopped));
        let work = async move {
            let _told = told;
            std::future::pending::<()>().await;
        };
        let run = tokio::time::timeout(Duration::from_millis(20), background.run(work, &ticks));
        assert!(run.await.is_err());
        while stopped.load(Ordering::Relaxed) == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}
