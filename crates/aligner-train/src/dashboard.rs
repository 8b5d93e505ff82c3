//! burn-train's metrics and terminal dashboard.

use std::marker::PhantomData;
use std::sync::Arc;

use burn::tensor::TensorReadError;
use burn_train::logger::{EvaluationProgressLogger, TrainingProgressLogger};
use burn_train::metric::state::{FormatOptions, NumericMetricState};
use burn_train::metric::{
    Metric, MetricAttributes, MetricDefinition, MetricMetadata, MetricName, Numeric, NumericAttributes,
    NumericEntry, SerializedEntry,
};
use burn_train::renderer::{
    EvaluationName, MetricState, MetricsRenderer, MetricsRendererEvaluation, MetricsRendererTraining,
};

/// Norm of the gradient of a step.
#[derive(Debug, Clone, Copy)]
pub struct GradNorm(pub f64);

/// Tokens that are not padding, a second.
#[derive(Debug, Clone, Copy)]
pub struct TokensPerSecond(pub f64);

/// A number of a step with its name and unit.
pub trait Quantity: Copy + Send + Sync + 'static {
    /// Shown above its plot.
    const NAME: &'static str;
    /// Unit, if any.
    const UNIT: Option<&'static str>;
    /// Digits behind the point.
    const PRECISION: usize = 2;
    /// The value; `None` where there is none this time.
    fn value(self) -> Option<f64>;
}

impl Quantity for GradNorm {
    const NAME: &'static str = "Gradient norm";
    const UNIT: Option<&'static str> = None;
    fn value(self) -> Option<f64> {
        Some(self.0)
    }
}

impl Quantity for TokensPerSecond {
    const NAME: &'static str = "Speed";
    const UNIT: Option<&'static str> = Some("tokens/s");
    fn value(self) -> Option<f64> {
        Some(self.0)
    }
}

macro_rules! text_measures {
    ($($(#[$doc:meta])+ $measure:ident: $name:literal),+) => {$(
        $(#[$doc])+
        #[derive(Debug, Clone, Copy)]
        pub struct $measure(pub Option<f64>);

        impl Quantity for $measure {
            const NAME: &'static str = $name;
            const UNIT: Option<&'static str> = None;
            const PRECISION: usize = 3;
            fn value(self) -> Option<f64> {
                self.0
            }
        }
    )+};
}

text_measures!(
    /// Share of a validation's corrections that are the reference.
    ExactMatch: "Exact match",
    /// Share of a validation's corrections that are the answer.
    CopyRate: "Copy rate",
    /// Mean share of the words that a validation's corrections change.
    EditRatio: "Edit ratio",
    /// Share of a validation's references that are left alone.
    CopyRetention: "Copy retention"
);

/// Plots a [`Quantity`].
#[derive(Clone)]
pub struct QuantityMetric<Q> {
    state: NumericMetricState,
    /// Whether the last item had a value.
    has_value: bool,
    quantity: PhantomData<Q>,
}

impl<Q> Default for QuantityMetric<Q> {
    fn default() -> Self {
        Self {
            state: NumericMetricState::default(),
            has_value: false,
            quantity: PhantomData,
        }
    }
}

impl<Q: Quantity> QuantityMetric<Q> {
    fn format(&self) -> FormatOptions {
        let format = FormatOptions::new(self.name()).precision(Q::PRECISION);
        match Q::UNIT {
            Some(unit) => format.unit(unit),
            None => format,
        }
    }
}

impl<Q: Quantity> Metric for QuantityMetric<Q> {
    type Input = Q;

    fn name(&self) -> MetricName {
        Arc::new(Q::NAME.to_string())
    }

    fn attributes(&self) -> MetricAttributes {
        NumericAttributes {
            unit: Q::UNIT.map(str::to_string),
            higher_is_better: true,
        }
        .into()
    }

    fn update(&mut self, item: &Q, _: &MetricMetadata) -> Result<SerializedEntry, TensorReadError> {
        let value = item.value();
        self.has_value = value.is_some();
        Ok(match value {
            Some(value) => {
                self.state.update(value, 1);
                self.state.compute_update(self.format())
            }
            None => SerializedEntry::not_available(Q::UNIT),
        })
    }

    fn compute(&mut self) -> Result<SerializedEntry, TensorReadError> {
        Ok(self.state.compute_final(self.format()))
    }

    fn clear(&mut self) {
        self.state.reset();
        self.has_value = false;
    }
}

impl<Q: Quantity> Numeric for QuantityMetric<Q> {
    fn value(&self) -> Option<NumericEntry> {
        self.has_value.then(|| self.state.current_value())
    }

    fn running_value(&self) -> Option<NumericEntry> {
        self.has_value.then(|| self.state.running_value())
    }

    fn final_value(&self) -> NumericEntry {
        self.state.final_value()
    }
}

/// Draws nothing: where there is no terminal, the observer of the run prints its lines.
#[derive(Debug, Default)]
pub struct NoDashboard;

impl MetricsRendererTraining for NoDashboard {
    fn update_train(&mut self, _: MetricState) {}
    fn update_valid(&mut self, _: MetricState) {}
}

impl MetricsRendererEvaluation for NoDashboard {
    fn update_test(&mut self, _: EvaluationName, _: MetricState) {}
}

impl TrainingProgressLogger for NoDashboard {
    fn start(&mut self, _: usize, _: usize, _: Option<usize>, _: Option<&str>) {}
    fn start_split(&mut self, _: &str, _: usize) {}
    fn update_split(&mut self, _: usize) {}
    fn update_epoch(&mut self, _: usize) {}
    fn end_split(&mut self) {}
    fn end(&mut self) {}
    fn log_event_training(&mut self, _: String) {}
}

impl EvaluationProgressLogger for NoDashboard {
    fn start_global_progress(&mut self, _: usize) {}
    fn start_test(&mut self, _: &str, _: usize) {}
    fn update_test_progress(&mut self, _: usize) {}
    fn end_test(&mut self) {}
    fn end_global_progress(&mut self) {}
    fn log_event_evaluation(&mut self, _: String) {}
}

impl MetricsRenderer for NoDashboard {
    fn manual_close(&mut self) {}
    fn register_metric(&mut self, _: MetricDefinition) {}
}
