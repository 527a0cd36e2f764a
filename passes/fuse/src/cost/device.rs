//! What devices can do, read from a table.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::Error;

/// Rates of a device: bytes and operations a second, multiplication and addition counted apart.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Device {
    /// Bytes of constants, read from memory.
    pub memory_bytes: f64,
    /// Bytes of values between nodes.
    pub cache_bytes: f64,
    /// Operations of float products.
    pub float_products: f64,
    /// Operations of nested products.
    pub nested_products: f64,
    /// Operations on single elements.
    pub elementwise: f64,
    /// Nanoseconds to start a node.
    pub node_ns: f64,
    /// Nanoseconds of a node that only gives elements another shape.
    pub view_ns: f64,
}

/// Devices by name: `cpu`, `cuda:sm_90a`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Devices(BTreeMap<String, Device>);

impl Devices {
    /// Reads a table: one TOML section a device, with the fields of [`Device`].
    ///
    /// # Errors
    /// No TOML, a field that is missing or unknown, or a value that is not a positive number.
    pub fn parse(text: &str) -> Result<Devices, Error> {
        let devices: Devices = toml::from_str(text)?;
        for (name, device) in &devices.0 {
            device.check(name)?;
        }
        Ok(devices)
    }

    /// The devices that come with the compiler.
    ///
    /// # Errors
    /// Those of [`Devices::parse`], if the compiler's own table were wrong.
    pub fn builtin() -> Result<Devices, Error> {
        Devices::parse(include_str!("devices.toml"))
    }

    /// These and the others; where both have a device, that of the others.
    pub fn extended(mut self, others: Devices) -> Devices {
        self.0.extend(others.0);
        self
    }

    /// A table of one device.
    pub fn of(name: &str, device: Device) -> Devices {
        Devices(BTreeMap::from([(name.to_owned(), device)]))
    }

    /// The device of a name.
    ///
    /// # Errors
    /// There is none; the error lists those there are.
    pub fn get(&self, name: &str) -> Result<&Device, Error> {
        self.0.get(name).ok_or_else(|| Error::UnknownDevice {
            name: name.to_owned(),
            known: self.0.keys().cloned().collect(),
        })
    }

    /// All names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}

/// As [`Devices::parse`] reads it; rates to four digits.
impl fmt::Display for Devices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, device) in &self.0 {
            writeln!(f, "[{name:?}]")?;
            for (field, value, _) in device.fields() {
                writeln!(f, "{field} = {value:.3e}")?;
            }
        }
        Ok(())
    }
}

impl Device {
    /// Every field: its name, its value, whether that may be 0.
    fn fields(&self) -> [(&'static str, f64, bool); 7] {
        [
            ("memory_bytes", self.memory_bytes, false),
            ("cache_bytes", self.cache_bytes, false),
            ("float_products", self.float_products, false),
            ("nested_products", self.nested_products, false),
            ("elementwise", self.elementwise, false),
            ("node_ns", self.node_ns, true),
            ("view_ns", self.view_ns, true),
        ]
    }

    fn check(&self, name: &str) -> Result<(), Error> {
        let bad = |(_, found, may_be_zero): &(&str, f64, bool)| {
            !found.is_finite() || *found < 0.0 || (*found == 0.0 && !may_be_zero)
        };
        match self.fields().into_iter().find(bad) {
            Some((field, found, _)) => Err(Error::CostValue { device: name.to_owned(), field, found }),
            None => Ok(()),
        }
    }
}
