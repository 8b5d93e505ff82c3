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
    /// The value.
    fn value(self) -> f64;
}

impl Quantity for GradNorm {
    const NAME: &'static str = "Gradient norm";
    const UNIT: Option<&'static str> = None;
    fn value(self) -> f64 {
        self.0
    }
}

impl Quantity for TokensPerSecond {
    const NAME: &'static str = "Speed";
    const UNIT: Option<&'static str> = Some("tokens/s");
    fn value(self) -> f64 {
        self.0
    }
}

/// Plots a [`Quantity`].
#[derive(Clone)]
pub struct QuantityMetric<Q> {
    state: NumericMetricState,
    quantity: PhantomData<Q>,
}

impl<Q> Default for QuantityMetric<Q> {
    fn default() -> Self {
        Self {
            state: NumericMetricState::default(),
            quantity: PhantomData,
        }
    }
}

impl<Q: Quantity> QuantityMetric<Q> {
    fn format(&self) -> FormatOptions {
        let format = FormatOptions::new(self.name()).precision(2);
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
        self.state.update(item.value(), 1);
        Ok(self.state.compute_update(self.format()))
    }

    fn compute(&mut self) -> Result<SerializedEntry, TensorReadError> {
        Ok(self.state.compute_final(self.format()))
    }

    fn clear(&mut self) {
        self.state.reset();
    }
}

impl<Q: Quantity> Numeric for QuantityMetric<Q> {
    fn value(&self) -> Option<NumericEntry> {
        Some(self.state.current_value())
    }

    fn running_value(&self) -> Option<NumericEntry> {
        Some(self.state.running_value())
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
