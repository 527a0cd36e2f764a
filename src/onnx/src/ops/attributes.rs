//! Taking attributes from a node so that none is overlooked, and giving them to a node without the defaults.

use std::collections::BTreeMap;

use mqc_ir::{Attribute, F32, Tensor, Text};

use super::names::Named;

/// The attributes of a node that have not been read yet.
pub(super) struct Reader<'a> {
    left: BTreeMap<&'a str, &'a Attribute>,
    opset: i64,
    sound: bool,
}

impl<'a> Reader<'a> {
    pub fn new(attributes: &'a BTreeMap<String, Attribute>, opset: i64) -> Reader<'a> {
        let left = attributes.iter().map(|(name, value)| (name.as_str(), value)).collect();
        Reader { left, opset, sound: true }
    }

    /// Whether every attribute was read and had the kind that was asked for.
    pub fn all_understood(&self) -> bool {
        self.sound && self.left.is_empty()
    }

    pub fn int(&mut self, name: &str, default: i64) -> i64 {
        self.opt_int(name).unwrap_or(default)
    }

    pub fn opt_int(&mut self, name: &str) -> Option<i64> {
        self.take(name, |a| if let Attribute::Int(i) = a { Some(*i) } else { None })
    }

    /// Without a default: the node is not understood when it is absent.
    pub fn required_int(&mut self, name: &str) -> i64 {
        let value = self.opt_int(name);
        self.sound &= value.is_some();
        value.unwrap_or_default()
    }

    /// 0 or 1.
    pub fn flag(&mut self, name: &str, default: bool) -> bool {
        let value = self.int(name, i64::from(default));
        self.sound &= matches!(value, 0 | 1);
        value == 1
    }

    pub fn float(&mut self, name: &str, default: f32) -> F32 {
        self.opt_float(name).unwrap_or(F32(default))
    }

    pub fn opt_float(&mut self, name: &str) -> Option<F32> {
        self.take(name, |a| if let Attribute::Float(f) = a { Some(*f) } else { None })
    }

    pub fn floats(&mut self, name: &str) -> Option<&'a [F32]> {
        self.take(name, |a| if let Attribute::Floats(v) = a { Some(v.as_slice()) } else { None })
    }

    pub fn ints(&mut self, name: &str) -> Option<Vec<i64>> {
        self.take(name, |a| if let Attribute::Ints(v) = a { Some(v.clone()) } else { None })
    }

    pub fn tensor(&mut self, name: &str) -> Option<Tensor> {
        self.take(name, |a| if let Attribute::Tensor(t) = a { Some(t.clone()) } else { None })
    }

    pub fn text(&mut self, name: &str) -> Option<&'a Text> {
        self.take(name, |a| if let Attribute::String(s) = a { Some(s) } else { None })
    }

    pub fn texts(&mut self, name: &str) -> Option<&'a [Text]> {
        self.take(name, |a| if let Attribute::Strings(v) = a { Some(v.as_slice()) } else { None })
    }

    /// A value of an enumeration, by its ONNX name.
    pub fn choice<T: Named>(&mut self, name: &str, default: T) -> T {
        let Some(text) = self.text(name) else { return default };
        let value = std::str::from_utf8(&text.0).ok().and_then(|text| T::from_onnx(text, self.opset));
        self.sound &= value.is_some();
        value.unwrap_or(default)
    }

    fn take<T>(&mut self, name: &str, value: impl Fn(&'a Attribute) -> Option<T>) -> Option<T> {
        let value = value(self.left.remove(name)?);
        self.sound &= value.is_some();
        value
    }
}

/// The attributes of a node that is written.
#[derive(Default)]
pub(super) struct Writer(pub BTreeMap<String, Attribute>);

impl Writer {
    fn put(mut self, name: &str, value: Option<Attribute>) -> Writer {
        if let Some(value) = value {
            self.0.insert(name.to_owned(), value);
        }
        self
    }

    pub fn int(self, name: &str, value: i64, default: i64) -> Writer {
        self.put(name, (value != default).then_some(Attribute::Int(value)))
    }

    pub fn opt_int(self, name: &str, value: Option<i64>) -> Writer {
        self.put(name, value.map(Attribute::Int))
    }

    pub fn flag(self, name: &str, value: bool, default: bool) -> Writer {
        self.int(name, i64::from(value), i64::from(default))
    }

    pub fn float(self, name: &str, value: F32, default: f32) -> Writer {
        self.put(name, (value != F32(default)).then_some(Attribute::Float(value)))
    }

    pub fn opt_ints(self, name: &str, value: Option<&[i64]>) -> Writer {
        self.put(name, value.map(|v| Attribute::Ints(v.to_vec())))
    }

    /// An empty list is the default.
    pub fn ints(self, name: &str, value: &[i64]) -> Writer {
        self.opt_ints(name, (!value.is_empty()).then_some(value))
    }

    pub fn tensor(self, name: &str, value: Option<&Tensor>) -> Writer {
        self.put(name, value.cloned().map(Attribute::Tensor))
    }

    pub fn text(self, name: &str, value: &str) -> Writer {
        self.put(name, Some(Attribute::String(Text(value.as_bytes().to_vec()))))
    }

    pub fn choice<T: Named + PartialEq + Copy>(self, name: &str, value: T, default: T) -> Writer {
        if value == default { self } else { self.text(name, value.onnx().0) }
    }
}
