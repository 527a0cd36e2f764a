//! Why a device, its driver or its compiler does not do what is wanted: one line each, with what can be done.

use std::path::{Path, PathBuf};

use super::memory::OutOfMemory;
use crate::CudaError;

/// An error of the device's side.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The driver's library is not there.
    #[error("no CUDA driver: libcuda is not found; install NVIDIA's driver or run on the CPU")]
    NoDriver,
    /// The driver is there and has no device that this process may use.
    #[error("the CUDA driver finds no device{}", reason(.0.as_deref()))]
    NoDevice(Option<String>),
    /// A device beyond the last.
    #[error("CUDA device {asked} is asked for; there are {found}, counted from 0")]
    Ordinal {
        /// What was asked for.
        asked: usize,
        /// How many there are.
        found: usize,
    },
    /// A device that no kernel is written for.
    #[error("{name} has compute capability {major}.{minor}; the CUDA kernels need 8.0 (Ampere) or later")]
    Architecture {
        /// The device's name.
        name: String,
        /// First part of its compute capability.
        major: u32,
        /// Second part.
        minor: u32,
    },
    /// The compiler's library is not there.
    #[error(
        "NVRTC is not found ({tried}); install CUDA {wanted}'s, for example with `pip install nvidia-cuda-nvrtc`, \
         and name libnvrtc.so.{wanted} in {variable}",
        wanted = super::nvrtc::MAJOR,
        variable = super::nvrtc::VARIABLE
    )]
    NoCompiler {
        /// What was opened, and what the loader said.
        tried: String,
    },
    /// The compiler of another CUDA.
    #[error(
        "{} is NVRTC {major}.{minor}; expected version {wanted}, named in {variable}",
        path.display(),
        wanted = super::nvrtc::MAJOR,
        variable = super::nvrtc::VARIABLE
    )]
    CompilerVersion {
        /// The library.
        path: PathBuf,
        /// Version found.
        major: u32,
        /// Second part of it.
        minor: u32,
    },
    /// A driver that does not know what the compiler makes.
    #[error("the CUDA driver is made for CUDA {found}; kernels need {wanted}.0 or later: update the driver",
        wanted = super::nvrtc::MAJOR)]
    OldDriver {
        /// Version of the driver.
        found: String,
    },
    /// A kernel that the compiler does not take. It is a defect of the generator, or of the compiler.
    #[error("kernel {name} does not compile for {architecture}; its text is in {}\n{log}", text.display())]
    Compile {
        /// Its name.
        name: String,
        /// What it was compiled for.
        architecture: String,
        /// Where its text is kept.
        text: PathBuf,
        /// What the compiler says.
        log: String,
    },
    /// The compiler fails in another way.
    #[error("NVRTC fails to {what}: {code}")]
    Compiler {
        /// What was asked of it.
        what: &'static str,
        /// Its answer.
        code: String,
    },
    /// A file of the cache that cannot be written.
    #[error("cannot {what} {}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// No room for planes or for a workspace.
    #[error(transparent)]
    Memory(OutOfMemory),
    /// The driver refuses something, or the device is lost.
    #[error("the CUDA driver fails to {what}: {message}")]
    Driver {
        /// What was asked of it.
        what: &'static str,
        /// Its answer.
        message: String,
    },
    /// cuBLAS refuses something.
    #[error("cuBLAS fails to {what}: {message}; MQC_CUBLAS=off does without it")]
    Blas {
        /// What was asked of it.
        what: &'static str,
        /// Its answer.
        message: String,
    },
    /// A launch whose data do not have the sizes that it needs.
    #[error(transparent)]
    Launch(#[from] CudaError),
}

impl DeviceError {
    /// Of an answer of the driver.
    pub(super) fn driver(what: &'static str) -> impl FnOnce(cudarc::driver::DriverError) -> DeviceError {
        move |error| DeviceError::Driver { what, message: error.to_string() }
    }

    /// Of a file.
    pub(super) fn io(what: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> DeviceError {
        let path = path.to_owned();
        move |source| DeviceError::Io { what, path, source }
    }
}

fn reason(message: Option<&str>) -> String {
    message.map(|message| format!(": {message}")).unwrap_or_default()
}
