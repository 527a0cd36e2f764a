//! Shapes, strides, and the order in which elements are visited.

/// Number of elements.
pub(crate) fn count(shape: &[usize]) -> usize {
    shape.iter().product()
}

/// Strides of a dense row-major tensor.
pub(crate) fn strides(shape: &[usize]) -> Vec<isize> {
    let mut strides = vec![1; shape.len()];
    for i in (1..shape.len()).rev() {
        strides[i - 1] = strides[i] * shape[i] as isize;
    }
    strides
}

/// Strides with which a dense tensor of `shape` is read as one of shape `to`, aligned at the end: 0 where it repeats.
pub(crate) fn broadcast(shape: &[usize], to: &[usize]) -> Vec<isize> {
    let own = strides(shape);
    let skip = to.len().saturating_sub(shape.len());
    (0..to.len())
        .map(|i| match i.checked_sub(skip) {
            Some(j) if shape[j] != 1 => own[j],
            Some(_) | None => 0,
        })
        .collect()
}

/// The place of an axis that may count from the end.
pub(crate) fn axis(axis: i64, rank: usize) -> Result<usize, String> {
    let place = if axis < 0 { axis.checked_add_unsigned(rank as u64) } else { Some(axis) };
    place
        .and_then(|a| usize::try_from(a).ok())
        .filter(|a| *a < rank)
        .ok_or_else(|| format!("axis is {axis}, expected one of rank {rank}"))
}

/// The sizes before an axis, of it, and behind it, multiplied.
pub(crate) fn around(shape: &[usize], axis: usize) -> (usize, usize, usize) {
    (count(&shape[..axis]), shape[axis], count(&shape[axis + 1..]))
}

/// The places of all elements of a strided view, in row-major order.
#[derive(Clone, Debug)]
pub(crate) struct Offsets {
    shape: Vec<usize>,
    strides: Vec<isize>,
    index: Vec<usize>,
    at: isize,
    left: usize,
}

impl Offsets {
    pub fn new(shape: &[usize], strides: &[isize], start: isize) -> Offsets {
        Offsets {
            shape: shape.to_vec(),
            strides: strides.to_vec(),
            index: vec![0; shape.len()],
            at: start,
            left: count(shape),
        }
    }
}

impl Iterator for Offsets {
    type Item = usize;

    #[inline]
    fn next(&mut self) -> Option<usize> {
        if self.left == 0 {
            return None;
        }
        self.left -= 1;
        let found = self.at as usize;
        for i in (0..self.shape.len()).rev() {
            self.index[i] += 1;
            self.at += self.strides[i];
            if self.index[i] < self.shape[i] {
                break;
            }
            self.at -= self.strides[i] * self.shape[i] as isize;
            self.index[i] = 0;
        }
        Some(found)
    }
}
