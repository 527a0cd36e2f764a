//! Device memory of a program: buffers of values, workspaces, tables, and the words that say an index was wrong.

use mqc_cuda::device::{Buffer, Device, DeviceError};

use super::kernel::Slot;
use super::{build, host};
use crate::Kind;
use crate::array::Data;
use crate::engine::memory::Memory as Planned;
use crate::graph::Net;
use crate::lower::Lowered;
use crate::lower::task::Source;
use crate::view::Root;

/// Where values lie.
pub(super) struct Memory {
    pub places: Vec<Option<usize>>,
    pub kinds: Vec<Kind>,
    pub lens: Vec<usize>,
    /// Each is away while a product writes to it.
    pub buffers: Vec<Option<Buffer>>,
    pub workspaces: Vec<Buffer>,
    pub tables: Vec<Buffer>,
    /// A word for each node of the graph.
    pub faults: Buffer,
}

impl Memory {
    pub fn new(
        device: &Device,
        net: &Net,
        lowered: &Lowered<f32>,
        planned: &Planned,
        plan: &build::Plan,
    ) -> Result<Memory, DeviceError> {
        let mut buffers = vec![];
        for (kind, len) in &planned.sizes {
            buffers.push(Some(device.zeros("the values of a program", host::size(*kind, *len))?));
        }
        let floats = |len: &usize| device.zeros("the workspace of a program", 4 * len);
        let table = |table: &Vec<u64>| device.upload("a table of a program", bytemuck::cast_slice(table));
        let mut memory = Memory {
            places: planned.buffers.clone(),
            kinds: lowered.places.iter().map(|place| place.kind).collect(),
            lens: lowered.places.iter().map(|place| place.len).collect(),
            buffers,
            workspaces: plan.workspaces.iter().map(floats).collect::<Result<_, _>>()?,
            tables: plan.tables.iter().map(table).collect::<Result<_, _>>()?,
            faults: device.zeros("the faults of a program", 4 * net.steps.len())?,
        };
        for (root, place) in lowered.places.iter().enumerate() {
            if let Source::Constant(data) = &place.source {
                memory.write(device, root, data)?;
            }
        }
        Ok(memory)
    }

    pub fn address(&self, device: &Device, slot: Slot) -> u64 {
        match slot {
            Slot::Root(root) => self.buffer(root).map_or(0, |buffer| device.address(buffer)),
            Slot::Workspace(number) => device.address(&self.workspaces[number]),
            Slot::Table(number) => device.address(&self.tables[number]),
            Slot::Fault(step) => device.address(&self.faults) + 4 * step as u64,
        }
    }

    pub fn bytes(&self, root: Root) -> usize {
        host::size(self.kinds[root], self.lens[root])
    }

    pub fn buffer(&self, root: Root) -> Option<&Buffer> {
        self.buffers[self.places[root]?].as_ref()
    }

    pub fn buffer_mut(&mut self, root: Root) -> Option<&mut Buffer> {
        self.buffers[self.places[root]?].as_mut()
    }

    pub fn write(&mut self, device: &Device, root: Root, data: &Data<f32>) -> Result<(), DeviceError> {
        match self.buffer_mut(root) {
            Some(buffer) => device.write(&host::bytes(data), buffer),
            None => Ok(()),
        }
    }

    pub fn read(&self, device: &Device, root: Root) -> Result<Data<f32>, DeviceError> {
        let bytes = match self.buffer(root) {
            Some(buffer) => device.read(buffer, self.bytes(root))?,
            None => vec![0; self.bytes(root)],
        };
        Ok(host::elements(self.kinds[root], &bytes))
    }

    pub fn copy(&self, device: &Device, root: Root) -> Result<Option<Buffer>, DeviceError> {
        let Some(from) = self.buffer(root) else { return Ok(None) };
        let mut to = device.zeros("a value that is carried", self.bytes(root))?;
        device.copy_bytes(from, &mut to, self.bytes(root))?;
        Ok(Some(to))
    }
}
