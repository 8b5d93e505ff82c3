//! An iterator that works ahead on a thread of its own.

use std::iter::Fuse;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;

/// Gives what `inner` gives, in its order; up to a number of items are ready before they are asked for.
///
/// A panic of the thread is one of whoever asks. When no thread is to be had, items are made as they are asked for.
pub(crate) enum Ahead<I: Iterator> {
    Thread {
        /// `None` once the iterator has ended or goes.
        items: Option<Receiver<I::Item>>,
        thread: Option<JoinHandle<()>>,
    },
    Inline(Fuse<I>),
}

impl<I> Ahead<I>
where
    I: Iterator + Clone + Send + 'static,
    I::Item: Send + 'static,
{
    /// Begins to work `items` ahead.
    pub fn new(inner: I, items: usize) -> Self {
        let (sender, receiver) = sync_channel(items);
        let work = inner.clone();
        let thread = std::thread::Builder::new().name("batches".into()).spawn(move || {
            for item in work {
                // Nobody asks any more.
                if sender.send(item).is_err() {
                    return;
                }
            }
        });
        match thread {
            Ok(thread) => Self::Thread {
                items: Some(receiver),
                thread: Some(thread),
            },
            Err(error) => {
                tracing::warn!(%error, "batches are not prepared ahead");
                Self::Inline(inner.fuse())
            }
        }
    }
}

impl<I: Iterator> Iterator for Ahead<I> {
    type Item = I::Item;

    fn next(&mut self) -> Option<I::Item> {
        match self {
            Self::Inline(inner) => inner.next(),
            Self::Thread { items, thread } => {
                let item = items.as_ref()?.recv().ok();
                if item.is_none() {
                    *items = None;
                    if let Some(Err(panic)) = thread.take().map(JoinHandle::join) {
                        std::panic::resume_unwind(panic);
                    }
                }
                item
            }
        }
    }
}

impl<I: Iterator> Drop for Ahead<I> {
    fn drop(&mut self) {
        if let Self::Thread { items, thread } = self {
            // Without a receiver the thread ends after the item it is at.
            *items = None;
            if let Some(thread) = thread.take() {
                let _ = thread.join();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    #[test]
    fn items_come_in_their_order_and_the_end_stays_the_end() {
        let mut ahead = Ahead::new(0..1000, 3);
        assert!(ahead.by_ref().eq(0..1000));
        assert_eq!(ahead.next(), None);
    }

    #[test]
    fn it_works_ahead_but_no_further_than_asked() {
        let made = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&made);
        let mut ahead = Ahead::new(
            (0..100).inspect(move |_| {
                count.fetch_add(1, Ordering::SeqCst);
            }),
            2,
        );
        assert_eq!(ahead.next(), Some(0));
        // One was taken, two are ready, and the thread holds one more that it cannot hand over.
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        while made.load(Ordering::SeqCst) < 4 && std::time::Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(made.load(Ordering::SeqCst), 4);
        drop(ahead);
        assert_eq!(made.load(Ordering::SeqCst), 4, "dropped, it makes no more");
    }

    #[test]
    fn a_panic_is_not_taken_for_the_end() {
        let mut ahead = Ahead::new((0..3).inspect(|&item| assert!(item < 2, "broken")), 1);
        assert_eq!((ahead.next(), ahead.next()), (Some(0), Some(1)));
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| ahead.next()));
        assert!(caught.is_err());
    }
}
