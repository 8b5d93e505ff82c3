//! The windows of one answer in a batch: corrected side by side, told in their order.
//!
//! The next goes in as one ends, behind those of others that came meanwhile, so that a long answer does not keep them waiting
//! until its end. The end is told when none is in the batch any more: whoever counts requests by their ends counts windows too.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::batcher::{Batcher, Prepared};
use crate::causal_lm::CausalLm;
use crate::corrector::{CorrectOptions, Correction};
use crate::engine::{CancelToken, FinishReason};
use crate::error::{InferError, Result};
use crate::scheduler::Reply;
use crate::windows::{Joined, Windows, of_window};

/// An answer whose windows are being corrected.
pub(crate) struct Whole<L: CausalLm + 'static> {
    /// Told as if it were one correction.
    reply: Box<dyn Reply>,
    /// Whether it takes more text.
    listens: bool,
    batcher: Batcher<L>,
    /// Ends the windows that nobody waits for any more.
    cancel: CancelToken,
    joined: Joined,
    /// All windows; when no more are told, those that were.
    windows: Vec<Waiting>,
    /// White space behind the last window.
    rest: String,
    /// The window whose text is told as it is written.
    at: usize,
    /// What was not sent yet, and the number of its first window.
    unsent: VecDeque<Prepared<L>>,
    sent: usize,
    /// Windows that were sent and have not ended.
    in_batch: usize,
    /// How it ends, once that is known.
    end: Option<Result<FinishReason>>,
}

/// A window, and what has to wait until those before it are done.
struct Waiting {
    gap: String,
    text: String,
    done: Option<Correction>,
}

impl<L: CausalLm + 'static> Whole<L> {
    /// Sends the first windows of an answer; each that ends sends the next. All are checked before the first is sent.
    pub fn start(
        batcher: &Batcher<L>,
        windows: Windows<'_, Vec<u32>>,
        options: &CorrectOptions,
        mut reply: Box<dyn Reply>,
    ) {
        let (mut waiting, mut unsent) = (Vec::new(), VecDeque::new());
        for (index, window) in windows.windows.into_iter().enumerate() {
            match batcher.prepare(window.measured, window.text, &of_window(options, index)) {
                Ok(prepared) => unsent.push_back(prepared),
                Err(error) => return reply.done(Err(error)),
            }
            waiting.push(Waiting {
                gap: window.gap.to_string(),
                text: String::new(),
                done: None,
            });
        }
        let whole = Arc::new(Mutex::new(Self {
            reply,
            listens: true,
            batcher: batcher.clone(),
            cancel: options.cancel.clone(),
            joined: Joined::new(),
            windows: waiting,
            rest: windows.rest.to_string(),
            at: 0,
            unsent,
            sent: 0,
            in_batch: 0,
            end: None,
        }));
        let mut state = lock(&whole);
        state.begin();
        state.go_on(&whole);
    }

    /// Sends what there is a place for, or tells the end. `whole` is this.
    fn go_on(&mut self, whole: &Arc<Mutex<Self>>) {
        if self.cancel.is_cancelled() {
            self.end_as(Ok(FinishReason::Cancelled));
        }
        while self.end.is_none()
            && !self.unsent.is_empty()
            && self.batcher.take_window_place(self.in_batch == 0)
        {
            self.send_next(whole);
        }
        if self.in_batch == 0
            && let Some(end) = self.end.take()
        {
            let mut done = std::mem::replace(&mut self.joined, Joined::new()).done;
            self.reply.done(end.map(|finish_reason| {
                done.finish_reason = finish_reason;
                done
            }));
        }
    }

    /// Sends the next window, which has a place.
    fn send_next(&mut self, whole: &Arc<Mutex<Self>>) {
        let Some(prepared) = self.unsent.pop_front() else {
            return self.batcher.give_window_place_back();
        };
        let part = Box::new(Part(Arc::clone(whole), self.sent));
        // The part that comes back is not told: this is locked, and it is told here.
        match self.batcher.send(prepared, part) {
            Ok(()) => {
                self.sent += 1;
                self.in_batch += 1;
            }
            Err(_) => {
                self.batcher.give_window_place_back();
                self.end_as(Err(InferError::BrokenOff));
            }
        }
    }

    /// Takes text of a window; whether more of it is wanted.
    fn text(&mut self, index: usize, piece: &str) -> bool {
        let Some(window) = self.windows.get_mut(index) else {
            return false;
        };
        if index == self.at {
            self.tell(piece);
        } else {
            window.text.push_str(piece);
        }
        self.end.is_none()
    }

    /// Takes what became of a window, which has left the batch.
    fn done(&mut self, index: usize, result: Result<Correction>) {
        self.in_batch -= 1;
        self.batcher.give_window_place_back();
        match result {
            Err(error) => self.end_as(Err(error)),
            Ok(correction) => {
                if let Some(window) = self.windows.get_mut(index) {
                    window.done = Some(correction);
                }
                self.advance();
            }
        }
    }

    /// Goes on to the first window that is still being written.
    fn advance(&mut self) {
        while let Some(window) = self.windows.get_mut(self.at)
            && let Some(done) = window.done.take()
        {
            let is_cancelled = done.finish_reason == FinishReason::Cancelled;
            self.joined.push(done);
            self.at += 1;
            if is_cancelled || self.end.is_some() {
                self.end_as(Ok(FinishReason::Cancelled));
                return self.windows.truncate(self.at);
            }
            if self.at == self.windows.len() {
                let rest = std::mem::take(&mut self.rest);
                self.gap(&rest);
                return self.end_as(Ok(self.joined.done.finish_reason));
            }
            self.begin();
        }
    }

    /// Tells what was kept back of the window whose turn it is.
    fn begin(&mut self) {
        let window = &mut self.windows[self.at];
        let (gap, text) = (std::mem::take(&mut window.gap), std::mem::take(&mut window.text));
        self.gap(&gap);
        if !self.listens {
            // What the window became does not belong to it any more.
            return self.windows.truncate(self.at);
        }
        if !text.is_empty() {
            self.tell(&text);
        }
    }

    /// White space of the answer.
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
        if self.listens && !self.reply.text(text) {
            self.leave();
        }
    }

    /// Nobody listens any more.
    fn leave(&mut self) {
        self.listens = false;
        self.end_as(Ok(FinishReason::Cancelled));
    }

    /// Notes how it ends, if that is not known yet; windows that are in the batch end as soon as they can.
    fn end_as(&mut self, end: Result<FinishReason>) {
        if self.end.is_none() {
            self.end = Some(end);
            self.unsent.clear();
            if self.in_batch > 0 {
                self.cancel.cancel();
            }
        }
    }
}

fn lock<L: CausalLm>(whole: &Mutex<Whole<L>>) -> MutexGuard<'_, Whole<L>> {
    whole.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What one of the windows is told to.
struct Part<L: CausalLm + 'static>(Arc<Mutex<Whole<L>>>, usize);

impl<L: CausalLm + 'static> Reply for Part<L> {
    fn text(&mut self, piece: &str) -> bool {
        lock(&self.0).text(self.1, piece)
    }

    fn done(&mut self, result: Result<Correction>) {
        let mut whole = lock(&self.0);
        whole.done(self.1, result);
        whole.go_on(&self.0);
    }
}
