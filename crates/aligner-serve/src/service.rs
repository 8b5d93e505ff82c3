//! What all requests share: settings that can be exchanged, the engine, the upstream, and what is counted.

use std::sync::Arc;

use arc_swap::ArcSwap;
use serde_json::Value;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::task::TaskTracker;

use crate::api_error::ApiError;
use crate::config::ServeConfig;
use crate::engine::{Engine, SharedEngine};
use crate::error::Result;
use crate::keys::Keys;
use crate::metrics::Metrics;
use crate::reward::{RewardModel, Rewards};
use crate::shadow::Shadow;
use crate::upstream::Upstream;

/// A service: an engine behind settings, and perhaps an upstream before it. Cheap to clone.
#[derive(Clone)]
pub struct Service(Arc<Shared>);

struct Shared {
    settings: ArcSwap<Settings>,
    engine: ArcSwap<SharedEngine>,
    metrics: Metrics,
    shadow: Option<Shadow>,
    background: TaskTracker,
    rewards: Rewards,
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Service")
            .field("model", &self.engine().model())
            .finish_non_exhaustive()
    }
}

/// What a configuration comes to; a request keeps those it began with.
pub(crate) struct Settings {
    pub config: ServeConfig,
    pub keys: Keys,
    pub upstream: Option<Upstream>,
    requests: Arc<Semaphore>,
    background: Arc<Semaphore>,
}

impl Settings {
    fn new(config: ServeConfig) -> Result<Self> {
        config.check()?;
        let keys = Keys::new(&config.auth.key_sha256);
        let upstream = match &config.upstream {
            Some(upstream) => Some(Upstream::new(upstream, keys.is_open())?),
            None => None,
        };
        Ok(Self {
            requests: Arc::new(Semaphore::new(config.limits.max_requests)),
            background: Arc::new(Semaphore::new(config.limits.max_background)),
            keys,
            upstream,
            config,
        })
    }

    /// A place among the requests that are served at once.
    pub fn admit(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        let busy = |_| ApiError::busy(self.config.limits.max_requests);
        Arc::clone(&self.requests).try_acquire_owned().map_err(busy)
    }

    /// A place among the corrections that are made behind answers.
    pub fn admit_background(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.background).try_acquire_owned().ok()
    }

    /// The upstream, where there is one.
    pub fn upstream(&self) -> Result<&Upstream, ApiError> {
        self.upstream.as_ref().ok_or_else(|| {
            ApiError::not_found(
                "this service has no upstream: send question and answer to /v1/corrections, or start it with --upstream",
            )
        })
    }
}

impl Service {
    /// A service with these settings.
    ///
    /// # Errors
    /// When a setting cannot be used, or shadow rows cannot be written.
    pub fn new(config: ServeConfig, engine: impl Engine) -> Result<Self> {
        let shadow = match &config.shadow {
            Some(shadow) => Some(Shadow::open(shadow.clone())?),
            None => None,
        };
        Ok(Self(Arc::new(Shared {
            settings: ArcSwap::from_pointee(Settings::new(config)?),
            engine: ArcSwap::from_pointee(Arc::new(engine)),
            metrics: Metrics::new(),
            shadow,
            background: TaskTracker::new(),
            rewards: Rewards::none(),
        })))
    }

    /// Exchanges the settings: keys, upstream, policies, guards and limits. Requests that are being served keep those they began
    /// with. The file of shadow rows stays as it was.
    ///
    /// # Errors
    /// When a setting cannot be used; everything stays as it was then.
    pub fn reload(&self, config: ServeConfig) -> Result<()> {
        self.0.settings.store(Arc::new(Settings::new(config)?));
        Ok(())
    }

    /// Exchanges the engine: corrections that are being made end with the one they began with.
    pub fn swap_engine(&self, engine: impl Engine) {
        self.0.engine.store(Arc::new(Arc::new(engine)));
    }

    /// Has the gate ask a reward model about each correction that differs from its answer.
    pub fn set_reward_model(&self, model: impl RewardModel) {
        self.0.rewards.set(model);
    }

    pub(crate) fn rewards(&self) -> &Rewards {
        &self.0.rewards
    }

    pub(crate) fn settings(&self) -> Arc<Settings> {
        self.0.settings.load_full()
    }

    pub(crate) fn engine(&self) -> SharedEngine {
        Arc::clone(&self.0.engine.load())
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// Tasks that outlive the request that began them; a service that stops waits for them.
    pub(crate) fn background(&self) -> &TaskTracker {
        &self.0.background
    }

    /// Hands a row over to be written, where rows are.
    pub(crate) fn write_shadow(&self, row: impl FnOnce() -> Value) {
        let Some(shadow) = &self.0.shadow else { return };
        if shadow.write(row()) {
            self.metrics().shadow_row();
        } else {
            self.metrics().dropped();
        }
    }
}
