//! Elements of small tensors in other places: broadcasting, transposition, selection along an axis.

use super::Item;
use crate::infer::site::Ints;

/// The coordinates of an element in row-major order.
fn unravel(mut index: usize, shape: &[usize]) -> Vec<usize> {
    let mut place = vec![0; shape.len()];
    for (at, size) in place.iter_mut().zip(shape).rev() {
        *at = index % size;
        index /= size;
    }
    place
}

fn item(data: &Ints, place: impl IntoIterator<Item = usize>) -> Item {
    let index = place.into_iter().zip(&data.shape).fold(0, |index, (at, size)| index * size + at);
    data.items.get(index).cloned().flatten()
}

/// The elements broadcast to a shape that the tensor broadcasts to.
pub(super) fn spread(data: &Ints, shape: &[usize]) -> Option<Vec<Item>> {
    let skip = shape.len().checked_sub(data.shape.len())?;
    let at = |index| {
        let place = unravel(index, shape);
        item(data, place[skip..].iter().zip(&data.shape).map(|(at, size)| if *size == 1 { 0 } else { *at }))
    };
    Some((0..shape.iter().product()).map(at).collect())
}

/// The elements with axes permuted; `shape` is that of the result.
pub(super) fn transpose(data: &Ints, perm: &Option<Vec<i64>>, shape: &[usize]) -> Option<Vec<Item>> {
    let rank = data.shape.len();
    let perm: Vec<usize> = match perm {
        None => (0..rank).rev().collect(),
        Some(perm) => crate::infer::site::axes(perm, rank).ok().filter(|p| p.len() == rank)?,
    };
    let at = |index| {
        let place = unravel(index, shape);
        let mut source = vec![0; rank];
        for (axis, at) in perm.iter().zip(place) {
            source[*axis] = at;
        }
        item(data, source)
    };
    Some((0..shape.iter().product()).map(at).collect())
}

/// The elements at `places` of one axis, in their order.
pub(super) fn take(data: &Ints, axis: usize, places: &[usize]) -> Option<Ints> {
    let mut shape = data.shape.clone();
    *shape.get_mut(axis)? = places.len();
    let count = shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d)).filter(|n| *n <= super::MAX_ITEMS)?;
    let at = |index| {
        let mut place = unravel(index, &shape);
        place[axis] = places[place[axis]];
        item(data, place)
    };
    let items = (0..count).map(at).collect();
    Some(Ints { shape, items })
}
