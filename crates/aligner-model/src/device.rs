//! Devices as values: parsed from text, opened when they are compiled in.

use std::fmt;
use std::str::FromStr;

use burn::tensor::Device;

use crate::error::{ModelError, Result};

/// A device by name: `cpu`, `cuda[:N]`, `vulkan[:N]`, `metal[:N]` or `webgpu[:N]`.
///
/// Without `:N` a GPU backend chooses its default device. A build contains the CPU and every backend whose Cargo feature
/// was switched on; asking for another one is an error that names the feature.
///
/// ```
/// use aligner_model::DeviceSpec;
/// assert_eq!("cpu".parse::<DeviceSpec>().unwrap(), DeviceSpec::Cpu);
/// assert_eq!("cuda:1".parse::<DeviceSpec>().unwrap(), DeviceSpec::Cuda(Some(1)));
/// assert!("tpu".parse::<DeviceSpec>().is_err());
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum DeviceSpec {
    /// Burn's Flex backend on the processor.
    #[default]
    Cpu,
    /// An NVIDIA device (feature `cuda`).
    Cuda(Option<usize>),
    /// A Vulkan device (feature `vulkan`).
    Vulkan(Option<usize>),
    /// An Apple device (feature `metal`).
    Metal(Option<usize>),
    /// A device through WGSL shaders (feature `webgpu`).
    Webgpu(Option<usize>),
}

/// The names of the devices this build contains.
pub fn compiled_devices() -> Vec<&'static str> {
    let mut names = vec!["cpu"];
    for (name, compiled) in [
        ("cuda", cfg!(feature = "cuda")),
        ("vulkan", cfg!(feature = "vulkan")),
        ("metal", cfg!(feature = "metal")),
        ("webgpu", cfg!(feature = "webgpu")),
    ] {
        if compiled {
            names.push(name);
        }
    }
    names
}

impl DeviceSpec {
    fn parts(self) -> (&'static str, Option<usize>) {
        match self {
            Self::Cpu => ("cpu", None),
            Self::Cuda(index) => ("cuda", index),
            Self::Vulkan(index) => ("vulkan", index),
            Self::Metal(index) => ("metal", index),
            Self::Webgpu(index) => ("webgpu", index),
        }
    }

    /// Opens the device for inference; call `.autodiff()` on the result to train on it.
    ///
    /// # Errors
    /// [`ModelError::Device`] when this build does not contain the backend; the message names the Cargo feature.
    pub fn open(self) -> Result<Device> {
        #[cfg(any(feature = "cuda", feature = "vulkan", feature = "metal", feature = "webgpu"))]
        if self != Self::Cpu {
            in_one_stream();
        }
        match self {
            Self::Cpu => Ok(Device::flex()),
            #[cfg(feature = "cuda")]
            Self::Cuda(index) => Ok(Device::cuda(index.unwrap_or(0))),
            #[cfg(feature = "vulkan")]
            Self::Vulkan(index) => Ok(Device::vulkan(gpu_kind(index))),
            #[cfg(feature = "metal")]
            Self::Metal(index) => Ok(Device::metal(gpu_kind(index))),
            #[cfg(feature = "webgpu")]
            Self::Webgpu(index) => Ok(Device::wgpu(gpu_kind(index))),
            #[allow(unreachable_patterns)] // reachable unless every backend is compiled in
            missing => {
                let (name, _) = missing.parts();
                Err(ModelError::Device {
                    device: missing.to_string(),
                    reason: format!(
                        "this build contains {}; build again with `--features {name}`",
                        compiled_devices().join(", ")
                    ),
                })
            }
        }
    }
}

/// Puts the work of all threads into one stream of each device, unless the program has configured CubeCL before.
///
/// By default CubeCL 0.11 gives threads streams of their own, and what one reads of another's may be what was there before its last
/// change: losses of single steps and validations were off by some 10⁻³ on `webgpu`, and with them gradients.
#[cfg(any(feature = "cuda", feature = "vulkan", feature = "metal", feature = "webgpu"))]
fn in_one_stream() {
    use burn_cubecl::cubecl::config::{CubeClRuntimeConfig, RuntimeConfig};
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let mut config = CubeClRuntimeConfig::from_current_dir().override_from_env();
        config.streaming.max_streams = 1;
        if !CubeClRuntimeConfig::try_set(config) {
            tracing::warn!(
                "CubeCL is configured already: with more than one stream a device's results may be wrong"
            );
        }
    });
}

#[cfg(any(feature = "vulkan", feature = "metal", feature = "webgpu"))]
fn gpu_kind(index: Option<usize>) -> burn::tensor::DeviceKind {
    index.map_or(
        burn::tensor::DeviceKind::DefaultDevice,
        burn::tensor::DeviceKind::DiscreteGpu,
    )
}

impl fmt::Display for DeviceSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.parts() {
            (name, None) => f.write_str(name),
            (name, Some(index)) => write!(f, "{name}:{index}"),
        }
    }
}

impl FromStr for DeviceSpec {
    type Err = ModelError;

    fn from_str(text: &str) -> Result<Self> {
        let error = |reason: &str| ModelError::Device {
            device: text.to_string(),
            reason: reason.to_string(),
        };
        let (name, index) = match text.split_once(':') {
            None => (text, None),
            Some((name, index)) => {
                let index = index
                    .parse()
                    .map_err(|_| error("the part behind `:` must be a device number"))?;
                (name, Some(index))
            }
        };
        match name {
            "cpu" if index.is_none() => Ok(Self::Cpu),
            "cpu" => Err(error(
                "`cpu` takes no number; threads are set with RAYON_NUM_THREADS",
            )),
            "cuda" => Ok(Self::Cuda(index)),
            "vulkan" => Ok(Self::Vulkan(index)),
            "metal" => Ok(Self::Metal(index)),
            "webgpu" | "wgpu" => Ok(Self::Webgpu(index)),
            _ => Err(error(
                "known names are cpu, cuda[:N], vulkan[:N], metal[:N], webgpu[:N]",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for name in ["cpu", "cuda", "cuda:3", "vulkan:0", "metal", "webgpu:1"] {
            assert_eq!(name.parse::<DeviceSpec>().unwrap().to_string(), name);
        }
    }

    #[test]
    fn nonsense_is_refused_with_the_known_names() {
        for name in ["", "gpu", "cuda:", "cuda:x", "cpu:1", "cuda:-1"] {
            assert!(name.parse::<DeviceSpec>().is_err(), "{name:?}");
        }
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn a_device_that_is_not_compiled_in_names_its_feature() {
        let error = DeviceSpec::Cuda(None).open().unwrap_err().to_string();
        assert!(error.contains("--features cuda"), "{error}");
    }
}
