//! The loop as a supervised strategy of burn-train.

use std::sync::{Mutex, PoisonError};

use burn::data::dataloader::Progress;
use burn_train::{
    EventProcessorTraining, Interrupter, Learner, LearnerEvent, SupervisedLearningStrategy,
    SupervisedTrainingEventProcessor, TrainLoader, TrainingComponents, TrainingItem, ValidLoader,
};

use crate::error::{Result, TrainError};
use crate::learner::{StepOutput, TrainedModel};
use crate::metrics::StepRecord;
use crate::session::{Outcome, Screen, Session};

/// Runs a [`Session`] inside burn-train's `SupervisedTraining`, which brings metrics, dashboard and interruption.
pub(crate) struct LanguageModelStrategy {
    session: Mutex<Option<Session>>,
    result: Mutex<Option<Result<Outcome>>>,
}

impl LanguageModelStrategy {
    pub fn new(session: Session) -> Self {
        Self {
            session: Mutex::new(Some(session)),
            result: Mutex::new(None),
        }
    }

    /// What the session gave.
    pub fn result(&self) -> Result<Outcome> {
        let result = self.result.lock().unwrap_or_else(PoisonError::into_inner).take();
        result.unwrap_or_else(|| Err(TrainError::Learner("the training loop did not run".into())))
    }
}

impl SupervisedLearningStrategy<TrainedModel> for LanguageModelStrategy {
    fn fit(
        &self,
        components: TrainingComponents<TrainedModel>,
        learner: Learner<TrainedModel>,
        train: TrainLoader<TrainedModel>,
        valid: ValidLoader<TrainedModel>,
        _: usize,
    ) -> (TrainedModel, SupervisedTrainingEventProcessor<TrainedModel>) {
        let model = learner.model();
        // The learner's handle would keep every weight shared, and a shared weight cannot be updated in place.
        drop(learner);
        let mut screen = Dashboard {
            processor: components.event_processor,
            interrupter: components.interrupter,
            total: train.num_items(),
            done: 0,
        };
        let session = self.session.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut session) = session else {
            return (model, screen.processor);
        };
        screen.done = session.state.step as usize;
        screen.train_split();
        let validation = match valid.iter().collect::<std::result::Result<Vec<_>, _>>() {
            Ok(validation) => validation,
            Err(error) => {
                let error = TrainError::Learner(error.to_string());
                *self.result.lock().unwrap_or_else(PoisonError::into_inner) = Some(Err(error));
                return (model, screen.processor);
            }
        };
        let steps = train
            .iter()
            .map(|step| step.map_err(|error| TrainError::Learner(error.to_string())));
        let (model, outcome) = session.run(model, steps, &validation, &mut screen);
        screen.send(LearnerEvent::EndSplit(1));
        *self.result.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome);
        (model, screen.processor)
    }
}

/// Sends what happens to burn-train's metrics and renderer.
struct Dashboard {
    processor: SupervisedTrainingEventProcessor<TrainedModel>,
    interrupter: Interrupter,
    total: usize,
    done: usize,
}

impl Dashboard {
    fn send(&mut self, event: LearnerEvent<StepOutput>) {
        let sent = self.processor.process_train(event);
        self.interrupter.fail_on_error(sent);
    }

    fn send_valid(&mut self, event: LearnerEvent<StepOutput>) {
        let sent = self.processor.process_valid(event);
        self.interrupter.fail_on_error(sent);
    }

    fn train_split(&mut self) {
        self.send(LearnerEvent::StartSplit {
            epoch_number: 1,
            total_items: self.total,
        });
    }
}

impl Screen for Dashboard {
    fn trained(&mut self, output: StepOutput, record: &StepRecord) {
        self.done = record.step as usize;
        let progress = Progress::new(self.done, self.total, Some("steps".to_string()));
        let lr = record.lr.map(Into::into);
        self.send(LearnerEvent::ProcessedItem(TrainingItem::new(
            output,
            progress,
            Some(self.done),
            lr,
        )));
    }

    fn validating(&mut self, batches: usize) {
        self.send_valid(LearnerEvent::StartSplit {
            epoch_number: 1,
            total_items: batches,
        });
    }

    fn validated_batch(&mut self, output: StepOutput, done: usize, total: usize) {
        let progress = Progress::new(done, total, Some("batches".to_string()));
        self.send_valid(LearnerEvent::ProcessedItem(TrainingItem::new(
            output,
            progress,
            Some(done),
            None,
        )));
    }

    fn validated(&mut self) {
        self.send_valid(LearnerEvent::EndSplit(1));
        self.train_split();
    }
}
