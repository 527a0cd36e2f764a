//! Launches that are recorded once and replayed, which costs less than to launch each.

use cudarc::driver::sys::{CUevent_flags, CUgraphInstantiate_flags, CUstreamCaptureMode};
use cudarc::driver::{CudaEvent, CudaGraph};

use super::{Device, DeviceError};

/// Recorded launches. What they read and write must live as long.
pub struct Graph {
    graph: CudaGraph,
}

impl Device {
    /// Records what `work` puts onto the stream, without doing it. `work` may not allocate: launch it once before, so that
    /// workspaces have their size.
    ///
    /// # Errors
    /// Those of `work`; work that cannot be recorded.
    pub fn record(&self, work: impl FnOnce() -> Result<(), DeviceError>) -> Result<Graph, DeviceError> {
        self.stream()
            .begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
            .map_err(DeviceError::driver("record"))?;
        let worked = work();
        let ended =
            self.stream().end_capture(CUgraphInstantiate_flags(0)).map_err(DeviceError::driver("record"));
        worked?;
        let nothing = || DeviceError::Driver { what: "record", message: "there was no work".to_owned() };
        Ok(Graph { graph: ended?.ok_or_else(nothing)? })
    }

    /// The time of `work` on the device in milliseconds.
    ///
    /// # Errors
    /// Those of `work`.
    pub fn time(&self, work: impl FnOnce() -> Result<(), DeviceError>) -> Result<f32, DeviceError> {
        let event = || -> Result<CudaEvent, DeviceError> {
            let event = self.stream().record_event(Some(CUevent_flags::CU_EVENT_DEFAULT));
            event.map_err(DeviceError::driver("read its clock"))
        };
        let before = event()?;
        work()?;
        let after = event()?;
        self.finish()?;
        before.elapsed_ms(&after).map_err(DeviceError::driver("read its clock"))
    }
}

impl Graph {
    /// Puts the recorded launches onto the stream again.
    ///
    /// # Errors
    /// If the driver refuses; errors of the work itself come with [`Device::finish`].
    pub fn replay(&self) -> Result<(), DeviceError> {
        self.graph.launch().map_err(DeviceError::driver("replay"))
    }
}
