//! The windows of one answer in a batch: corrected side by side, told in their order.

use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};

use crate::corrector::Correction;
use crate::engine::{CancelToken, FinishReason};
use crate::error::Result;
use crate::scheduler::Reply;
use crate::windows::{Joined, Windows};

/// An answer whose windows are being corrected.
pub(crate) struct Whole {
    /// Told as if it were one correction.
    reply: Box<dyn Reply>,
    /// Ends the windows that nobody waits for any more.
    cancel: CancelToken,
    joined: Joined,
    windows: Vec<Waiting>,
    /// White space behind the last window.
    rest: String,
    /// The window whose text is told as it is written.
    at: usize,
    is_over: bool,
}

/// A window, and what has to wait until those before it are done.
struct Waiting {
    gap: String,
    text: String,
    done: Option<Correction>,
}

impl Whole {
    /// A reply for each of the windows.
    pub fn replies(windows: &Windows<'_>, reply: Box<dyn Reply>, cancel: CancelToken) -> Vec<Box<dyn Reply>> {
        let waiting = windows.windows.iter().map(|window| Waiting {
            gap: window.gap.to_string(),
            text: String::new(),
            done: None,
        });
        let mut whole = Self {
            reply,
            cancel,
            joined: Joined::new(),
            windows: waiting.collect(),
            rest: windows.rest.to_string(),
            at: 0,
            is_over: false,
        };
        let count = whole.windows.len();
        whole.begin();
        let whole = Arc::new(Mutex::new(whole));
        let reply = |index| -> Box<dyn Reply> { Box::new(Part(Arc::clone(&whole), index)) };
        (0..count).map(reply).collect()
    }

    fn text(&mut self, index: usize, piece: &str) -> bool {
        if self.is_over {
            return false;
        }
        if index == self.at {
            self.tell(piece);
        } else {
            self.windows[index].text.push_str(piece);
        }
        !self.is_over
    }

    fn done(&mut self, index: usize, result: Result<Correction>) {
        if self.is_over {
            return;
        }
        match result {
            Err(error) => self.end(Err(error)),
            Ok(correction) => {
                self.windows[index].done = Some(correction);
                self.advance();
            }
        }
    }

    /// Goes on to the first window that is still being written.
    fn advance(&mut self) {
        while let Some(done) = self.windows[self.at].done.take() {
            let is_cancelled = done.finish_reason == FinishReason::Cancelled;
            self.joined.push(done);
            self.at += 1;
            if is_cancelled || self.at == self.windows.len() {
                let rest = std::mem::take(&mut self.rest);
                if !is_cancelled {
                    self.gap(&rest);
                }
                let joined = std::mem::replace(&mut self.joined, Joined::new());
                return self.end(Ok(joined.done));
            }
            self.begin();
        }
    }

    /// Tells what has been written of the window whose turn it is.
    fn begin(&mut self) {
        let window = &mut self.windows[self.at];
        let (gap, text) = (std::mem::take(&mut window.gap), std::mem::take(&mut window.text));
        self.gap(&gap);
        if !text.is_empty() {
            self.tell(&text);
        }
    }

    fn gap(&mut self, gap: &str) {
        let reply = &mut self.reply;
        let mut on_text = |text: &str| match reply.text(text) {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(()),
        };
        if self.joined.separator(gap, &mut on_text).is_break() {
            self.leave();
        }
    }

    fn tell(&mut self, text: &str) {
        if !self.reply.text(text) {
            self.leave();
        }
    }

    /// Nobody listens any more.
    fn leave(&mut self) {
        self.is_over = true;
        self.cancel.cancel();
    }

    fn end(&mut self, result: Result<Correction>) {
        if !self.is_over {
            self.leave();
            self.reply.done(result);
        }
    }
}

/// What one of the windows is told to.
struct Part(Arc<Mutex<Whole>>, usize);

impl Reply for Part {
    fn text(&mut self, piece: &str) -> bool {
        let mut whole = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        whole.text(self.1, piece)
    }

    fn done(&mut self, result: Result<Correction>) {
        let mut whole = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        whole.done(self.1, result);
    }
}
