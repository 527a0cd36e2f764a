//! The vocabulary of nested quantization. A precision is parsed here and nowhere else.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A precision in bits, 1 to 8.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct Width(u8);

/// Why a text or number is not what was asked for: found, expected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected}, found {found:?}")]
pub struct ParseError {
    expected: &'static str,
    found: String,
}

impl ParseError {
    pub(crate) fn new(expected: &'static str, found: impl ToString) -> ParseError {
        ParseError { expected, found: found.to_string() }
    }
}

impl Width {
    /// The width of the stored codes.
    pub const MAX: Width = Width(8);

    /// A width of 1 to 8 bits.
    pub fn new(bits: u8) -> Result<Width, ParseError> {
        if (1..=8).contains(&bits) {
            Ok(Width(bits))
        } else {
            Err(ParseError::new("a width of 1 to 8 bits", bits))
        }
    }

    /// The number of bits.
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// All widths, narrow first.
    pub fn all() -> impl DoubleEndedIterator<Item = Width> + Clone {
        (1..=8).map(Width)
    }
}

impl TryFrom<u8> for Width {
    type Error = ParseError;

    fn try_from(bits: u8) -> Result<Width, ParseError> {
        Width::new(bits)
    }
}

impl From<Width> for u8 {
    fn from(width: Width) -> u8 {
        width.0
    }
}

impl FromStr for Width {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Width, ParseError> {
        text.trim()
            .parse()
            .ok()
            .and_then(|b| Width::new(b).ok())
            .ok_or_else(|| ParseError::new("a width of 1 to 8 bits", text))
    }
}

impl fmt::Display for Width {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A set of widths; never empty. Written wide first: `8,4,2`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Vec<Width>", into = "Vec<Width>")]
pub struct Widths {
    // Bit r - 1 stands for width r.
    members: u8,
}

impl Widths {
    /// The widths, wide first.
    pub fn iter(self) -> impl DoubleEndedIterator<Item = Width> + Clone {
        Width::all().rev().filter(move |w| self.contains(*w))
    }

    /// Whether a width is in the set.
    pub const fn contains(self, width: Width) -> bool {
        self.members >> (width.0 - 1) & 1 == 1
    }

    /// How many there are.
    pub const fn count(self) -> usize {
        self.members.count_ones() as usize
    }

    /// The widest.
    pub const fn widest(self) -> Width {
        Width(8 - self.members.leading_zeros() as u8)
    }
}

/// The widths of the paper: 8, 4 and 2.
impl Default for Widths {
    fn default() -> Widths {
        Widths { members: 0b1000_1010 }
    }
}

impl TryFrom<Vec<Width>> for Widths {
    type Error = ParseError;

    fn try_from(widths: Vec<Width>) -> Result<Widths, ParseError> {
        let mut members = 0;
        for width in widths {
            let bit = 1 << (width.0 - 1);
            if members & bit != 0 {
                return Err(ParseError::new("different widths", format!("{width} twice")));
            }
            members |= bit;
        }
        if members == 0 { Err(ParseError::new("at least one width", "none")) } else { Ok(Widths { members }) }
    }
}

impl From<Widths> for Vec<Width> {
    fn from(widths: Widths) -> Vec<Width> {
        widths.iter().collect()
    }
}

impl FromStr for Widths {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Widths, ParseError> {
        text.split(',').map(str::parse).collect::<Result<Vec<Width>, _>>()?.try_into()
    }
}

impl fmt::Display for Widths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts: Vec<_> = self.iter().map(|w| w.to_string()).collect();
        f.write_str(&texts.join(","))
    }
}

/// How an 8-bit code is cut to r bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SliceMode {
    /// The r leading bits, read at the middle of their bucket.
    #[default]
    Midpoint,
    /// Rounded half up and clamped: equation 6 of arXiv 2502.06786.
    Round,
    /// Rounded without the clamp: its Extra-Precision, 2^r + 1 levels.
    Extra,
}

impl SliceMode {
    /// Bit planes that a width reads: rounding looks at one bit more.
    pub const fn planes_read(self, width: Width) -> usize {
        match self {
            SliceMode::Midpoint => width.0 as usize,
            SliceMode::Round | SliceMode::Extra => {
                if width.0 == 8 {
                    8
                } else {
                    width.0 as usize + 1
                }
            }
        }
    }

    /// The widest width that `planes` leading planes give; `None` when they give none.
    pub fn widest(self, planes: usize) -> Option<Width> {
        Width::all().rev().find(|w| self.planes_read(*w) <= planes)
    }

    /// The name on the command line and in files.
    pub const fn name(self) -> &'static str {
        match self {
            SliceMode::Midpoint => "midpoint",
            SliceMode::Round => "round",
            SliceMode::Extra => "extra",
        }
    }
}

impl fmt::Display for SliceMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for SliceMode {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<SliceMode, ParseError> {
        [SliceMode::Midpoint, SliceMode::Round, SliceMode::Extra]
            .into_iter()
            .find(|m| m.name() == text)
            .ok_or_else(|| ParseError::new("midpoint, round or extra", text))
    }
}

/// Where the range of codes lies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scheme {
    /// From the least to the greatest weight.
    #[default]
    Asymmetric,
    /// The same distance on both sides of zero.
    Symmetric,
}

impl Scheme {
    /// The name on the command line and in files.
    pub const fn name(self) -> &'static str {
        match self {
            Scheme::Asymmetric => "asymmetric",
            Scheme::Symmetric => "symmetric",
        }
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Scheme {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Scheme, ParseError> {
        [Scheme::Asymmetric, Scheme::Symmetric]
            .into_iter()
            .find(|s| s.name() == text)
            .ok_or_else(|| ParseError::new("asymmetric or symmetric", text))
    }
}

/// How the range is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RangeMethod {
    /// All weights fit.
    #[default]
    Minmax,
    /// The clipping that minimises the lambda-weighted squared error over all widths.
    Mse,
}

impl RangeMethod {
    /// The name on the command line and in files.
    pub const fn name(self) -> &'static str {
        match self {
            RangeMethod::Minmax => "minmax",
            RangeMethod::Mse => "mse",
        }
    }
}

impl fmt::Display for RangeMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for RangeMethod {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<RangeMethod, ParseError> {
        [RangeMethod::Minmax, RangeMethod::Mse]
            .into_iter()
            .find(|r| r.name() == text)
            .ok_or_else(|| ParseError::new("minmax or mse", text))
    }
}

/// Whether all widths read a weight with one scale and zero point.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Affine {
    /// One for all widths.
    #[default]
    Shared,
    /// One for each width that counts; the others use that of the nearest wider one.
    PerWidth,
}

impl Affine {
    /// The name on the command line and in files.
    pub const fn name(self) -> &'static str {
        match self {
            Affine::Shared => "shared",
            Affine::PerWidth => "per-width",
        }
    }
}

impl fmt::Display for Affine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Affine {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Affine, ParseError> {
        [Affine::Shared, Affine::PerWidth]
            .into_iter()
            .find(|a| a.name() == text)
            .ok_or_else(|| ParseError::new("shared or per-width", text))
    }
}

/// Which weights share a scale and a zero point.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Option<u32>", into = "Option<u32>")]
pub enum Grouping {
    /// A whole row: one output channel.
    #[default]
    PerChannel,
    /// Runs of so many weights of a row, a multiple of 8 so that they begin at whole bytes of a plane; the last may be shorter.
    Group(u32),
}

impl Grouping {
    /// Runs of `size` weights. Error unless that is a multiple of 8; 0 is per channel.
    pub fn group(size: u32) -> Result<Grouping, ParseError> {
        Grouping::try_from(Some(size))
    }

    /// Scales of a row of `cols` weights.
    pub fn groups(self, cols: usize) -> usize {
        match self {
            Grouping::PerChannel => 1,
            Grouping::Group(size) => cols.div_ceil(size.max(1) as usize).max(1),
        }
    }

    /// Weights that share a scale in a row of `cols` weights.
    pub fn size(self, cols: usize) -> usize {
        match self {
            Grouping::PerChannel => cols.max(1),
            Grouping::Group(size) => size.max(1) as usize,
        }
    }
}

/// None or 0 is per channel.
impl TryFrom<Option<u32>> for Grouping {
    type Error = ParseError;

    fn try_from(size: Option<u32>) -> Result<Grouping, ParseError> {
        match size {
            None | Some(0) => Ok(Grouping::PerChannel),
            Some(size) if size.is_multiple_of(8) => Ok(Grouping::Group(size)),
            Some(size) => Err(ParseError::new("a group size that is a multiple of 8", size)),
        }
    }
}

impl From<Grouping> for Option<u32> {
    fn from(grouping: Grouping) -> Option<u32> {
        match grouping {
            Grouping::PerChannel => None,
            Grouping::Group(size) => Some(size),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widths_outside_1_to_8_are_errors() {
        for bad in ["0", "9", "-1", "", "4.0", "int4", "8,,2", "8,8"] {
            assert!(bad.parse::<Widths>().is_err(), "{bad}");
        }
        assert_eq!(
            "9".parse::<Width>().unwrap_err().to_string(),
            "expected a width of 1 to 8 bits, found \"9\""
        );
        assert_eq!("2, 8,4".parse::<Widths>().unwrap().to_string(), "8,4,2");
    }

    #[test]
    fn rounding_reads_one_plane_more() {
        let w = |b| Width::new(b).unwrap();
        assert_eq!(SliceMode::Midpoint.planes_read(w(3)), 3);
        assert_eq!(SliceMode::Round.planes_read(w(3)), 4);
        assert_eq!(SliceMode::Extra.planes_read(w(8)), 8);
        assert_eq!(SliceMode::Round.widest(4), Some(w(3)));
        assert_eq!(SliceMode::Round.widest(1), None);
        assert_eq!(SliceMode::Midpoint.widest(1), Some(w(1)));
    }
}
