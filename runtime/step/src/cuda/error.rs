//! Errors of programs on a device.

use mqc_cuda::device::DeviceError;
use mqc_ir::quant::Width;

/// What can be wrong with a program on a device.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages are the documentation")]
pub enum DeviceProgramError {
    #[error(transparent)]
    Program(#[from] crate::Error),
    #[error(transparent)]
    Device(Box<DeviceError>),
    #[error("layer {layer}: {error}")]
    Layer { layer: String, error: Box<DeviceError> },
    #[error("layer {layer} has no width; give a default")]
    NoWidth { layer: String },
    #[error("layer {layer} is asked for at {width} bits, but only {most} are stored")]
    WidthNotStored { layer: String, width: Width, most: Width },
}

impl From<DeviceError> for DeviceProgramError {
    fn from(error: DeviceError) -> DeviceProgramError {
        DeviceProgramError::Device(Box::new(error))
    }
}

impl DeviceProgramError {
    /// Of a layer.
    pub(super) fn layer(layer: &str) -> impl Fn(DeviceError) -> DeviceProgramError + Copy {
        move |error| DeviceProgramError::Layer { layer: layer.to_owned(), error: Box::new(error) }
    }
}
