//! Several devices compute one step: each the gradients of its share of the micro-batches.
//!
//! ```text
//!  weights, moments ── first device ──┬──▶ worker 1   forward and backward of its share ──┐
//!        ▲                            ├──▶ worker 2                                       ├─▶ sum ─▶ AdamW
//!        └── step ◀───────────────────┴──▶ …                                              ┘
//! ```
//!
//! Each loss is divided by the target tokens of the *whole* step, so gradients are summed, never averaged, and the sum is
//! that of one device. Every step begins by giving each worker the weights as they are: one set of weights and moments
//! exists, replicas cannot drift apart, and a checkpoint knows nothing of workers.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use aligner_model::on_pool;
use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::{Device, Tensor};
use burn_train::TrainOutput;

use crate::batches::StepBatch;
use crate::devices::{DeviceList, with_gradients};
use crate::error::{Result, TrainError};
use crate::learner::{Share, ShareOutput, StepOutput, TrainedModel};

/// As the main thread has; a new one has 2 MiB.
const STACK_BYTES: usize = 8 << 20;

/// What a worker could not do.
#[derive(Debug)]
pub(crate) struct WorkerFailure {
    /// The device, as messages call it.
    pub device: String,
    /// The cause.
    pub reason: String,
}

/// A thread for each device of a run that has several.
#[derive(Debug)]
pub(crate) struct Workers {
    workers: Vec<Worker>,
    answers: Receiver<Answer>,
    /// All share one memory. Then gradients are summed in the order of the micro-batches, which one device does too, and the
    /// sum is the same to the last bit. Between memories that would move every micro-batch's gradients: each device sums its
    /// own first.
    in_order: bool,
}

#[derive(Debug)]
struct Worker {
    name: String,
    /// `None` when the thread is to end.
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

struct Job {
    model: TrainedModel,
    share: Share,
}

/// From the worker of this place.
type Answer = (usize, std::result::Result<ShareOutput, String>);

impl Workers {
    /// Starts a worker for each device; `None` for a single one, which needs none.
    ///
    /// # Errors
    /// When a device cannot be opened or the system has no thread.
    pub fn start(devices: &DeviceList, checkpointing: bool) -> Result<Option<Self>> {
        if devices.len() == 1 {
            return Ok(None);
        }
        let opened: Vec<Device> = devices.iter().map(|spec| spec.open()).collect::<Result<_, _>>()?;
        Self::on(&opened, devices.names(), checkpointing).map(Some)
    }

    fn on(devices: &[Device], names: Vec<String>, checkpointing: bool) -> Result<Self> {
        let (sender, answers) = channel();
        let home = &devices[0];
        let workers = devices
            .iter()
            .zip(names)
            .enumerate()
            .map(|(place, (device, name))| {
                let replica = Replica {
                    device: with_gradients(device.clone(), checkpointing),
                    home: home.clone(),
                    is_at_home: device == home,
                    kept: None,
                };
                Worker::start(name, replica, place, sender.clone())
            });
        Ok(Self {
            workers: workers.collect::<Result<_>>()?,
            answers,
            in_order: devices.iter().all(|device| device == home),
        })
    }

    /// Gradients and losses of all micro-batches of a step; `seed` is that of the adapter's dropout.
    ///
    /// # Errors
    /// When a worker failed; the others have come to their end then, and none holds the model.
    pub fn step(
        &self,
        model: &TrainedModel,
        batch: StepBatch,
        seed: Option<u64>,
    ) -> Result<TrainOutput<StepOutput>, WorkerFailure> {
        let mut output = StepOutput::of(&batch, model.unit());
        let mut sum = GradientsAccumulator::new();
        let Share {
            micro_batches,
            scale,
            seed,
        } = Share::whole(batch, seed, model.unit());
        for round in rounds(micro_batches, self.workers.len(), self.in_order) {
            let shares = round.into_iter().map(|micro_batches| Share {
                micro_batches,
                scale,
                seed,
            });
            for ShareOutput { gradients, losses } in self.round(model, shares)? {
                on_pool(|| sum.accumulate(model, gradients));
                output.loss_sum = losses.iter().fold(output.loss_sum, |sum, loss| sum + loss);
            }
        }
        Ok(TrainOutput {
            grads: sum.grads(),
            item: output,
        })
    }

    /// A share for each of the first workers; what they gave, in their order.
    fn round(
        &self,
        model: &TrainedModel,
        shares: impl Iterator<Item = Share>,
    ) -> Result<Vec<ShareOutput>, WorkerFailure> {
        let mut given: Vec<Option<ShareOutput>> = Vec::new();
        let mut failure = None;
        for (worker, share) in self.workers.iter().zip(shares) {
            let model = model.clone();
            let job = Job { model, share };
            if worker.jobs.as_ref().is_none_or(|jobs| jobs.send(job).is_err()) {
                failure = Some(worker.failed("its thread has ended".into()));
                break;
            }
            given.push(None);
        }
        // Every answer is waited for, after a failure too: one that was left would be taken for one of the next step.
        for _ in 0..given.len() {
            match self.answers.recv() {
                Ok((place, Ok(output))) => given[place] = Some(output),
                Ok((place, Err(reason))) => failure = Some(self.workers[place].failed(reason)),
                Err(_) => {
                    failure = Some(self.workers[0].failed("all workers have ended".into()));
                    break;
                }
            }
        }
        match failure {
            Some(failure) => Err(failure),
            None => Ok(given.into_iter().flatten().collect()),
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        for worker in &mut self.workers {
            worker.jobs = None;
        }
        for worker in &mut self.workers {
            if let Some(thread) = worker.thread.take() {
                let _ = thread.join();
            }
        }
    }
}

impl Worker {
    fn start(name: String, mut replica: Replica, place: usize, answers: Sender<Answer>) -> Result<Self> {
        let (sender, jobs) = channel::<Job>();
        let thread = std::thread::Builder::new()
            .name(format!("worker {name}"))
            .stack_size(STACK_BYTES)
            .spawn(move || {
                for job in jobs {
                    // A device that fails panics in Burn.
                    let computed = catch_unwind(AssertUnwindSafe(|| replica.compute(job)));
                    let answer = computed.unwrap_or_else(|panic| {
                        replica.kept = None;
                        Err(message(panic.as_ref()))
                    });
                    if answers.send((place, answer)).is_err() {
                        return;
                    }
                }
            })
            .map_err(|error| TrainError::Learner(format!("there is no thread for {name}: {error}")))?;
        Ok(Self {
            name,
            jobs: Some(sender),
            thread: Some(thread),
        })
    }

    fn failed(&self, reason: String) -> WorkerFailure {
        WorkerFailure {
            device: self.name.clone(),
            reason,
        }
    }
}

/// The model on a worker's device.
struct Replica {
    /// With gradients.
    device: Device,
    /// Where the gradients go.
    home: Device,
    /// Whether the device is that of the weights: then they are shared while a share is computed, not copied.
    is_at_home: bool,
    /// On another device: what never changes stays there between steps.
    kept: Option<TrainedModel>,
}

impl Replica {
    /// Nothing of the job's model is held when this returns: a weight that is shared cannot be updated in place.
    fn compute(&mut self, Job { model, share }: Job) -> std::result::Result<ShareOutput, String> {
        let replica = match self.kept.take() {
            Some(kept) => renewed(kept, &model, &self.device),
            None => model.fork(&self.device),
        };
        let ShareOutput { gradients, losses } = on_pool(|| replica.gradients(&share))?;
        let gradients = gradients.to_device(&self.home, &replica);
        if !self.is_at_home {
            self.kept = Some(replica);
        }
        Ok(ShareOutput { gradients, losses })
    }
}

/// A replica with the trained weights as they are in `model` now; an adapter's frozen base is not moved again.
fn renewed(replica: TrainedModel, model: &TrainedModel, device: &Device) -> TrainedModel {
    struct Trained(GradientsParams);
    impl ModuleVisitor for Trained {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if param.is_require_grad() {
                self.0.register(param.id, param.val());
            }
        }
    }
    struct Renew<'a> {
        trained: GradientsParams,
        device: &'a Device,
    }
    impl ModuleMapper for Renew<'_> {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let Some(now) = self.trained.remove::<D>(param.id) else {
                return param;
            };
            let (id, _, mapper) = param.consume();
            // As `Module::fork` does it: a leaf of a graph of its own.
            let here = now.to_device(self.device).detach().require_grad();
            Param::from_mapped_value(id, here, mapper)
        }
    }
    let mut trained = Trained(GradientsParams::new());
    model.visit(&mut trained);
    replica.map(&mut Renew {
        trained: trained.0,
        device,
    })
}

/// Who computes what of a step's micro-batches, in rounds: in a round, a share for each of the first places.
///
/// In order, a round has one micro-batch a place; otherwise there is one round, of neighbours for each place. Places that are
/// left without a micro-batch are idle.
fn rounds<T>(micro_batches: Vec<T>, places: usize, in_order: bool) -> Vec<Vec<Vec<T>>> {
    let count = micro_batches.len();
    let mut rest = micro_batches.into_iter();
    if in_order {
        let one_each = |_| rest.by_ref().take(places).map(|one| vec![one]).collect();
        return (0..count.div_ceil(places)).map(one_each).collect();
    }
    let of_place = |place| count / places + usize::from(place < count % places);
    let shares = (0..places.min(count)).map(|place| rest.by_ref().take(of_place(place)).collect());
    vec![shares.collect()]
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "it panicked".into())
}

#[cfg(test)]
mod tests;
