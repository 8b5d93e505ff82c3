//! What the gate asks last: whether a reward model holds the correction for worse.

use std::sync::Arc;

use aligner_data::Turn;
use arc_swap::ArcSwapOption;
use tokio::sync::Semaphore;

/// Tells how good answers are. Scales are arbitrary; differences count.
pub trait RewardModel: Send + Sync + 'static {
    /// The reward of each answer to a question. It may compute: it is called where that holds up nobody, by one request at a time.
    ///
    /// # Errors
    /// When an answer cannot be scored; in words for the log and the client.
    fn rewards(
        &self,
        question: &str,
        chat_history: &[Turn],
        answers: [&str; 2],
    ) -> Result<[f64; 2], RewardError>;
}

/// Why there is no reward.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct RewardError(pub String);

/// The reward model of a service, if it has one.
pub(crate) struct Rewards {
    model: ArcSwapOption<Box<dyn RewardModel>>,
    turn: Arc<Semaphore>,
}

impl Rewards {
    pub fn none() -> Self {
        Self {
            model: ArcSwapOption::empty(),
            turn: Arc::new(Semaphore::new(1)),
        }
    }

    pub fn set(&self, model: impl RewardModel) {
        self.model.store(Some(Arc::new(Box::new(model))));
    }

    pub fn is_set(&self) -> bool {
        self.model.load().is_some()
    }

    /// How much better the correction is than the answer; `None` without a model.
    pub async fn gain(
        &self,
        question: &str,
        chat_history: &[Turn],
        answer: &str,
        correction: &str,
    ) -> Option<Result<f64, RewardError>> {
        let model = self.model.load_full()?;
        // It is never closed.
        let turn = Arc::clone(&self.turn).acquire_owned().await.ok()?;
        let (question, chat_history) = (question.to_string(), chat_history.to_vec());
        let (answer, correction) = (answer.to_string(), correction.to_string());
        let scoring = tokio::task::spawn_blocking(move || {
            // Whoever waited may have left: the turn ends with the computation all the same.
            let _turn = turn;
            model.rewards(&question, &chat_history, [&answer, &correction])
        });
        let scored = scoring
            .await
            .unwrap_or_else(|_| Err(RewardError("the reward model panicked".into())));
        Some(scored.and_then(|[answer, correction]| {
            let gain = correction - answer;
            match gain.is_finite() {
                true => Ok(gain),
                false => Err(RewardError(format!(
                    "the rewards {answer} and {correction} cannot be compared"
                ))),
            }
        }))
    }
}
