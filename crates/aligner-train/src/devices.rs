//! The devices of a run, as `--device` names them.

use std::fmt;
use std::str::FromStr;

use aligner_model::DeviceSpec;
use burn::tensor::Device;

use crate::error::{Result, TrainError};

/// The devices that compute the gradients of a step; the first one holds weights and moments too, and validates.
///
/// `cpu` may stand there several times: each is a worker that shares memory and cores with the others. An accelerator may
/// not, for nothing would be gained and twice its memory needed.
///
/// ```
/// use aligner_train::DeviceList;
/// assert_eq!("cuda:0,cuda:1".parse::<DeviceList>().unwrap().len(), 2);
/// assert!("cuda:0,cuda:0".parse::<DeviceList>().is_err());
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceList {
    first: DeviceSpec,
    others: Vec<DeviceSpec>,
}

impl DeviceList {
    /// The device of weights and moments.
    pub fn first(&self) -> DeviceSpec {
        self.first
    }

    /// How many there are: at least one.
    #[allow(clippy::len_without_is_empty)] // never empty
    pub fn len(&self) -> usize {
        1 + self.others.len()
    }

    /// All of them, in their order.
    pub fn iter(&self) -> impl Iterator<Item = DeviceSpec> + '_ {
        std::iter::once(self.first).chain(self.others.iter().copied())
    }

    /// What messages call them: their place is told too where there are several.
    pub(crate) fn names(&self) -> Vec<String> {
        let count = self.len();
        self.iter()
            .enumerate()
            .map(|(index, device)| match count {
                1 => device.to_string(),
                _ => format!("{device} ({} of {count})", index + 1),
            })
            .collect()
    }
}

/// A device as training uses it.
pub(crate) fn with_gradients(device: Device, checkpointing: bool) -> Device {
    let device = device.autodiff();
    if checkpointing {
        device.gradient_checkpointing()
    } else {
        device
    }
}

/// Whether two names may mean the same accelerator. Without a number a backend chooses: CUDA its first device, the others
/// one that cannot be told from here.
fn may_be_one(a: DeviceSpec, b: DeviceSpec) -> bool {
    use DeviceSpec::{Cuda, Metal, Vulkan, Webgpu};
    match (a, b) {
        (Cuda(a), Cuda(b)) => a.unwrap_or(0) == b.unwrap_or(0),
        (Vulkan(a), Vulkan(b)) | (Metal(a), Metal(b)) | (Webgpu(a), Webgpu(b)) => {
            a.is_none() || b.is_none() || a == b
        }
        _ => false,
    }
}

impl From<DeviceSpec> for DeviceList {
    fn from(device: DeviceSpec) -> Self {
        Self {
            first: device,
            others: Vec::new(),
        }
    }
}

impl fmt::Display for DeviceList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.first)?;
        self.others.iter().try_for_each(|device| write!(f, ",{device}"))
    }
}

impl FromStr for DeviceList {
    type Err = TrainError;

    fn from_str(text: &str) -> Result<Self> {
        let mut devices = Vec::new();
        let mut names = text.split(',').map(|name| name.trim().parse::<DeviceSpec>());
        // `split` gives at least one part.
        let first = names.next().unwrap_or(Ok(DeviceSpec::Cpu))?;
        for device in names {
            let device = device?;
            let earlier = std::iter::once(&first).chain(&devices);
            if let Some(&same) = earlier.clone().find(|&&earlier| may_be_one(earlier, device)) {
                let reason = format!(
                    "`{text}` may name one accelerator twice ({same}, {device}); give each its own number: \
                     cuda:0,cuda:1"
                );
                return Err(TrainError::config("device", reason));
            }
            devices.push(device);
        }
        Ok(Self {
            first,
            others: devices,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        text.parse::<DeviceList>().unwrap_err().to_string()
    }

    #[test]
    fn lists_round_trip() {
        for text in [
            "cpu",
            "cpu,cpu",
            "cpu,cpu,cpu",
            "cuda:0,cuda:1",
            "vulkan:1,vulkan:0",
            "cpu,webgpu",
        ] {
            assert_eq!(text.parse::<DeviceList>().unwrap().to_string(), text);
        }
        let spaced: DeviceList = "cuda:0, cuda:1".parse().unwrap();
        assert_eq!(spaced.to_string(), "cuda:0,cuda:1");
        assert_eq!(spaced.names(), ["cuda:0 (1 of 2)", "cuda:1 (2 of 2)"]);
        assert_eq!("cpu".parse::<DeviceList>().unwrap().names(), ["cpu"]);
    }

    #[test]
    fn an_accelerator_that_may_stand_there_twice_is_refused() {
        for text in [
            "cuda:0,cuda:0",
            "cuda,cuda:0",
            "cpu,cuda:2,cuda:1,cuda:2",
            "vulkan,vulkan:1",
            "webgpu,webgpu",
        ] {
            let error = error(text);
            assert!(error.contains("twice") && error.starts_with("device:"), "{error}");
        }
    }

    #[test]
    fn a_name_in_a_list_is_checked_like_one_alone() {
        for text in ["", "cpu,", ",cpu", "cpu,tpu", "cuda:0;cuda:1"] {
            error(text);
        }
        assert!(error("cpu,tpu").contains("tpu"));
    }
}
