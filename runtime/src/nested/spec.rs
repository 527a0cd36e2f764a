//! How a weight is quantized: bit widths, slicing mode, scheme, range method and grouping.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A quantization option that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// A bit width outside 1..=8.
    #[error("width must be 1 to 8, found {0}")]
    Width(String),
    /// A list that names one width twice.
    #[error("width {0} is given twice; give each width once")]
    DuplicateWidth(Width),
    /// An empty list of widths.
    #[error("no width is given; give at least one of 1 to 8, such as 8,4,2")]
    NoWidth,
    /// A group size that does not fill whole bytes of a bit plane.
    #[error("group size must be a multiple of 8, at least 8, found {0}")]
    GroupSize(u32),
    /// A name that is not one of the choices.
    #[error("{what} must be {choices}, found '{found}'")]
    Choice {
        /// The option.
        what: &'static str,
        /// The names that it accepts.
        choices: &'static str,
        /// The text given.
        found: String,
    },
}

/// A bit width r, 1 to 8.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct Width(u8);

impl Width {
    /// The width of the codes themselves.
    pub const FULL: Width = Width(8);

    /// A width of `bits`.
    ///
    /// # Errors
    /// `bits` is not 1 to 8.
    pub fn new(bits: u8) -> Result<Width, SpecError> {
        if (1..=8).contains(&bits) { Ok(Width(bits)) } else { Err(SpecError::Width(bits.to_string())) }
    }

    /// The number of bits.
    pub fn get(self) -> u8 {
        self.0
    }

    /// Every width, from 1 to 8.
    pub fn all() -> impl DoubleEndedIterator<Item = Width> + Clone {
        (1..=8).map(Width)
    }
}

impl TryFrom<u8> for Width {
    type Error = SpecError;

    fn try_from(bits: u8) -> Result<Width, SpecError> {
        Width::new(bits)
    }
}

impl From<Width> for u8 {
    fn from(width: Width) -> u8 {
        width.0
    }
}

impl fmt::Display for Width {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Width {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Width, SpecError> {
        let text = text.trim();
        text.parse().ok().and_then(|bits| Width::new(bits).ok()).ok_or_else(|| SpecError::Width(text.to_string()))
    }
}

/// A non-empty set of widths, listed from the widest to the narrowest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Vec<Width>", into = "Vec<Width>")]
pub struct Widths {
    /// Bit r - 1 is set when width r is a member.
    members: u8,
}

impl Widths {
    /// The set of `widths`, in any order.
    ///
    /// # Errors
    /// The list is empty, or names a width twice.
    pub fn new(widths: impl IntoIterator<Item = Width>) -> Result<Widths, SpecError> {
        let mut members = 0;
        for width in widths {
            let bit = 1 << (width.get() - 1);
            if members & bit != 0 {
                return Err(SpecError::DuplicateWidth(width));
            }
            members |= bit;
        }
        if members == 0 { Err(SpecError::NoWidth) } else { Ok(Widths { members }) }
    }

    /// The members, widest first.
    pub fn iter(self) -> impl DoubleEndedIterator<Item = Width> + Clone {
        Width::all().rev().filter(move |&width| self.contains(width))
    }

    /// Whether `width` is a member.
    pub fn contains(self, width: Width) -> bool {
        self.members >> (width.get() - 1) & 1 == 1
    }

    /// How many members there are, at least 1.
    pub fn count(self) -> usize {
        self.members.count_ones() as usize
    }

    /// The widest member.
    pub fn widest(self) -> Width {
        Width(8 - self.members.leading_zeros() as u8)
    }
}

impl TryFrom<Vec<Width>> for Widths {
    type Error = SpecError;

    fn try_from(widths: Vec<Width>) -> Result<Widths, SpecError> {
        Widths::new(widths)
    }
}

impl From<Widths> for Vec<Width> {
    fn from(widths: Widths) -> Vec<Width> {
        widths.iter().collect()
    }
}

impl fmt::Display for Widths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, width) in self.iter().enumerate() {
            write!(f, "{}{width}", if i == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

impl FromStr for Widths {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Widths, SpecError> {
        if text.trim().is_empty() {
            return Err(SpecError::NoWidth);
        }
        let widths: Vec<Width> = text.split(',').map(str::parse).collect::<Result<_, _>>()?;
        Widths::new(widths)
    }
}

/// How an r-bit value is read from an 8-bit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SliceMode {
    /// The leading r bits, read at the centre of their bucket.
    Midpoint,
    /// The code rounded half up to r bits and clamped (MatQuant, Eq. 6).
    Round,
    /// `Round` without the clamp: 2^r + 1 levels (MatQuant, Extra-Precision).
    Extra,
}

impl SliceMode {
    /// How many bit planes a slice to `width` reads: rounding needs the bit below the last one kept.
    pub fn planes_read(self, width: Width) -> usize {
        let bits = usize::from(width.get());
        match self {
            SliceMode::Midpoint => bits,
            SliceMode::Round | SliceMode::Extra => (bits + 1).min(8),
        }
    }

    /// The widest slice that the leading `planes` planes (1 to 8) can give; `None` when they give none.
    pub fn widest_from(self, planes: usize) -> Option<Width> {
        Width::all().rev().find(|&width| self.planes_read(width) <= planes)
    }
}

/// Where the zero point lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scheme {
    /// The codes span [min, max]; the zero point is not rounded.
    Asymmetric,
    /// The codes span [-max|w|, max|w|]; the zero point is the same for every group.
    Symmetric,
}

/// How the range of a group is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RangeMethod {
    /// From its smallest to its largest weight.
    Minmax,
    /// The clipped range with the smallest squared error, weighted over the widths.
    Mse,
}

/// Which weights of a row share a scale and a zero point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Grouping {
    /// The whole row.
    PerChannel,
    /// Each run of that many weights along the row; the last run may be shorter.
    Group(GroupSize),
}

impl Grouping {
    /// Groups of `size` weights.
    ///
    /// # Errors
    /// `size` is not a multiple of 8, or is 0.
    pub fn group(size: u32) -> Result<Grouping, SpecError> {
        GroupSize::new(size).map(Grouping::Group)
    }

    /// The number of groups in a row of `k` weights.
    pub fn groups(self, k: usize) -> usize {
        match self {
            Grouping::PerChannel => 1,
            Grouping::Group(size) => k.div_ceil(size.get()),
        }
    }

    /// The number of weights in a full group of a row of `k` weights, at least 1.
    pub fn group_len(self, k: usize) -> usize {
        match self {
            Grouping::PerChannel => k.max(1),
            Grouping::Group(size) => size.get(),
        }
    }
}

impl fmt::Display for Grouping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Grouping::PerChannel => f.write_str("per_channel"),
            Grouping::Group(size) => size.0.fmt(f),
        }
    }
}

impl FromStr for Grouping {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Grouping, SpecError> {
        match (text, text.parse()) {
            ("per_channel", _) => Ok(Grouping::PerChannel),
            (_, Ok(size)) => Grouping::group(size),
            (_, Err(_)) => Err(SpecError::Choice {
                what: "grouping",
                choices: "per_channel or a group size such as 32, 64 or 128",
                found: text.to_string(),
            }),
        }
    }
}

/// A group size: a multiple of 8, at least 8, so that a group fills whole bytes of a bit plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct GroupSize(u32);

impl GroupSize {
    /// A group size of `size` weights.
    ///
    /// # Errors
    /// `size` is not a multiple of 8, or is 0.
    pub fn new(size: u32) -> Result<GroupSize, SpecError> {
        if size > 0 && size.is_multiple_of(8) { Ok(GroupSize(size)) } else { Err(SpecError::GroupSize(size)) }
    }

    /// The number of weights.
    pub fn get(self) -> usize {
        self.0 as usize
    }
}

impl TryFrom<u32> for GroupSize {
    type Error = SpecError;

    fn try_from(size: u32) -> Result<GroupSize, SpecError> {
        GroupSize::new(size)
    }
}

impl From<GroupSize> for u32 {
    fn from(size: GroupSize) -> u32 {
        size.0
    }
}

/// Gives an option its names: one table for printing and reading.
macro_rules! names {
    ($type:ident, $what:literal, $choices:literal, $($variant:ident = $name:literal),+) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $($type::$variant => $name),+ })
            }
        }

        impl FromStr for $type {
            type Err = SpecError;

            fn from_str(text: &str) -> Result<$type, SpecError> {
                match text {
                    $($name => Ok($type::$variant),)+
                    _ => Err(SpecError::Choice { what: $what, choices: $choices, found: text.to_string() }),
                }
            }
        }
    };
}

names!(SliceMode, "slice mode", "midpoint, round or extra", Midpoint = "midpoint", Round = "round", Extra = "extra");
names!(Scheme, "scheme", "asymmetric or symmetric", Asymmetric = "asymmetric", Symmetric = "symmetric");
names!(RangeMethod, "range method", "minmax or mse", Minmax = "minmax", Mse = "mse");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_width_outside_1_to_8_is_refused() {
        for text in ["0", "9", "300", "-1", "two", ""] {
            let error = text.parse::<Width>().unwrap_err();
            assert_eq!(error.to_string(), format!("width must be 1 to 8, found {text}"));
        }
        assert_eq!(" 4".parse::<Width>().unwrap().get(), 4);
        assert!(Width::new(0).is_err() && Width::new(9).is_err());
    }

    #[test]
    fn widths_are_sorted_and_unique() {
        let widths: Widths = "2,8, 4".parse().unwrap();
        assert_eq!(widths.to_string(), "8,4,2");
        assert_eq!((widths.count(), widths.widest().get()), (3, 8));
        assert_eq!("3".parse::<Widths>().unwrap().widest().get(), 3);
        assert_eq!("4,2,4".parse::<Widths>(), Err(SpecError::DuplicateWidth(Width(4))));
        assert_eq!("".parse::<Widths>(), Err(SpecError::NoWidth));
        assert_eq!("8,,2".parse::<Widths>(), Err(SpecError::Width(String::new())));
    }

    #[test]
    fn names_are_read_back() {
        for mode in [SliceMode::Midpoint, SliceMode::Round, SliceMode::Extra] {
            assert_eq!(mode.to_string().parse(), Ok(mode));
        }
        for scheme in [Scheme::Asymmetric, Scheme::Symmetric] {
            assert_eq!(scheme.to_string().parse(), Ok(scheme));
        }
        for range in [RangeMethod::Minmax, RangeMethod::Mse] {
            assert_eq!(range.to_string().parse(), Ok(range));
        }
        for grouping in [Grouping::PerChannel, Grouping::Group(GroupSize(64))] {
            assert_eq!(grouping.to_string().parse(), Ok(grouping));
        }
        let error = "centre".parse::<SliceMode>().unwrap_err();
        assert_eq!(error.to_string(), "slice mode must be midpoint, round or extra, found 'centre'");
    }

    #[test]
    fn rounding_reads_one_plane_more() {
        let planes = |mode: SliceMode| Width::all().map(|width| mode.planes_read(width)).collect::<Vec<_>>();
        assert_eq!(planes(SliceMode::Midpoint), [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(planes(SliceMode::Round), [2, 3, 4, 5, 6, 7, 8, 8]);
        assert_eq!(planes(SliceMode::Extra), planes(SliceMode::Round));
        assert_eq!(SliceMode::Midpoint.widest_from(3), Some(Width(3)));
        assert_eq!(SliceMode::Round.widest_from(3), Some(Width(2)));
        assert_eq!(SliceMode::Round.widest_from(8), Some(Width(8)));
        assert_eq!(SliceMode::Round.widest_from(1), None);
    }

    #[test]
    fn groups_cover_the_row() {
        let group = Grouping::group(32).unwrap();
        assert_eq!([0, 1, 32, 33].map(|k| group.groups(k)), [0, 1, 1, 2]);
        assert_eq!([0, 33].map(|k| Grouping::PerChannel.groups(k)), [1, 1]);
        assert_eq!(Grouping::group(12), Err(SpecError::GroupSize(12)));
        assert_eq!(Grouping::group(0), Err(SpecError::GroupSize(0)));
        assert_eq!("0".parse::<Grouping>(), Err(SpecError::GroupSize(0)));
    }
}
