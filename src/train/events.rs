//! Event files of TensorBoard: records with lengths and checksums around protobuf messages.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use prost::Message;

/// An event, as far as mqc writes it. <https://github.com/tensorflow/tensorboard/blob/master/tensorboard/compat/proto/event.proto>
#[derive(Clone, PartialEq, Message)]
pub struct Event {
    /// Seconds since 1970.
    #[prost(double, tag = "1")]
    pub wall_time: f64,
    /// Step of the training.
    #[prost(int64, tag = "2")]
    pub step: i64,
    /// What happened.
    #[prost(oneof = "What", tags = "3, 5, 7")]
    pub what: Option<What>,
}

/// What an event tells.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum What {
    /// The first event of a file.
    #[prost(string, tag = "3")]
    FileVersion(String),
    /// Values.
    #[prost(message, tag = "5")]
    Summary(Summary),
    /// A start: what other files say about this step and later ones is void.
    #[prost(message, tag = "7")]
    SessionLog(SessionLog),
}

/// Values of a step.
#[derive(Clone, PartialEq, Message)]
pub struct Summary {
    /// The values.
    #[prost(message, repeated, tag = "1")]
    pub value: Vec<Value>,
}

/// A number under a name.
#[derive(Clone, PartialEq, Message)]
pub struct Value {
    /// `train/loss`
    #[prost(string, tag = "1")]
    pub tag: String,
    /// The number.
    #[prost(float, tag = "2")]
    pub simple_value: f32,
}

/// A start of a session.
#[derive(Clone, PartialEq, Message)]
pub struct SessionLog {
    /// 1 for a start.
    #[prost(int32, tag = "1")]
    pub status: i32,
}

const START: i32 = 1;

/// An event file under way.
pub struct Events {
    file: File,
}

impl Events {
    /// Starts a file for a training that has done `step` steps; TensorBoard forgets what older files say of later ones.
    pub fn create(folder: &Path, step: u64) -> Result<Events> {
        let path = folder.join(format!("events.out.tfevents.{:010}.mqc.{step}", seconds() as u64));
        let file = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
        let mut events = Events { file };
        events.write(0, What::FileVersion("brain.Event:2".to_owned()))?;
        // A training that starts has a validation at step 0.
        let first = if step == 0 { 0 } else { step + 1 };
        events.write(first, What::SessionLog(SessionLog { status: START }))?;
        Ok(events)
    }

    /// Adds numbers by name.
    pub fn values(&mut self, step: u64, values: &[(String, f32)]) -> Result<()> {
        let value = values.iter().map(|(tag, v)| Value { tag: tag.clone(), simple_value: *v }).collect();
        self.write(step, What::Summary(Summary { value }))
    }

    fn write(&mut self, step: u64, what: What) -> Result<()> {
        let event = Event { wall_time: seconds(), step: step as i64, what: Some(what) };
        self.file.write_all(&record(&event.encode_to_vec())).context("cannot write the TensorBoard events")
    }
}

fn seconds() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let mut record = length.to_vec();
    record.extend(masked_crc(&length).to_le_bytes());
    record.extend(data);
    record.extend(masked_crc(data).to_le_bytes());
    record
}

fn masked_crc(data: &[u8]) -> u32 {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// The events of a file, whose checksums must fit. A record that was cut off at the end is left out.
pub fn parse(mut file: &[u8]) -> Result<Vec<Event>> {
    let mut events = vec![];
    while let Some((length, rest)) = file.split_first_chunk::<8>() {
        let Some((crc, rest)) = rest.split_first_chunk::<4>() else { break };
        if u32::from_le_bytes(*crc) != masked_crc(length) {
            bail!("the length of record {} has another checksum", events.len());
        }
        let length = usize::try_from(u64::from_le_bytes(*length))?;
        let Some((data, rest)) = rest.split_at_checked(length) else { break };
        let Some((crc, rest)) = rest.split_first_chunk::<4>() else { break };
        if u32::from_le_bytes(*crc) != masked_crc(data) {
            bail!("record {} has another checksum", events.len());
        }
        events.push(Event::decode(data)?);
        file = rest;
    }
    Ok(events)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_of_tensorflow() {
        // RFC 3720, appendix B.4: 32 bytes of zeros have the checksum 0x8a9136aa.
        let expected = 0x8a91_36aau32.rotate_right(15).wrapping_add(0xa282_ead8);
        assert_eq!(masked_crc(&[0; 32]), expected);
        // Every event file of TensorFlow starts with these bytes: a record of 24 bytes.
        assert_eq!(record(&[0; 24])[..12], [0x18, 0, 0, 0, 0, 0, 0, 0, 0xa3, 0x7f, 0x4b, 0x22]);
    }

    #[test]
    fn files_are_read_back_and_damage_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let mut events = Events::create(folder.path(), 7).unwrap();
        events
            .values(8, &[("train/loss".to_owned(), 1.5), ("validation/loss/int2".to_owned(), -2.0)])
            .unwrap();
        let path = std::fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
        let file = std::fs::read(path).unwrap();
        assert_eq!(file[..12], [0x18, 0, 0, 0, 0, 0, 0, 0, 0xa3, 0x7f, 0x4b, 0x22]);
        let read = parse(&file).unwrap();
        let value = |tag: &str, simple_value| Value { tag: tag.to_owned(), simple_value };
        let values = vec![value("train/loss", 1.5), value("validation/loss/int2", -2.0)];
        let expected = [
            (0, What::FileVersion("brain.Event:2".to_owned())),
            (8, What::SessionLog(SessionLog { status: 1 })),
            (8, What::Summary(Summary { value: values })),
        ];
        assert_eq!(read.iter().map(|e| (e.step, e.what.clone().unwrap())).collect::<Vec<_>>(), expected);
        assert!(read.iter().all(|e| e.wall_time > 1.7e9));
        assert_eq!(parse(&file[..file.len() - 1]).unwrap().len(), 2);
        for place in 0..file.len() {
            let mut damaged = file.clone();
            damaged[place] ^= 4;
            assert!(parse(&damaged).is_err(), "byte {place}");
        }
    }
}
