//! Convolutions and poolings of any number of spatial dimensions.

use mqc_ir::op::{AutoPad, Window};

use super::Call;
use crate::Real;
use crate::array::Data;
use crate::index::{count, strides};
use crate::product::{Matrix, product};

/// How a window slides over the spatial dimensions.
pub(crate) struct Slide {
    pub size: Vec<usize>,
    pub kernel: Vec<usize>,
    pub out: Vec<usize>,
    pub strides: Vec<i64>,
    pub dilations: Vec<i64>,
    pub before: Vec<i64>,
    pub after: Vec<i64>,
}

impl Slide {
    pub fn new(window: &Window, size: &[usize], kernel: &[usize], out: &[usize]) -> Result<Slide, String> {
        let n = size.len();
        let list = |values: &[i64], default: i64, len: usize, what: &str| match values.len() {
            0 => Ok(vec![default; len]),
            found if found == len => Ok(values.to_vec()),
            found => Err(format!("{what} has {found} values, expected {len}")),
        };
        if kernel.len() != n || out.len() != n {
            return Err(format!("a window of {} dimensions over {n}", kernel.len()));
        }
        let steps = list(&window.strides, 1, n, "strides")?;
        let dilations = list(&window.dilations, 1, n, "dilations")?;
        let (mut before, mut after) = (vec![0; n], vec![0; n]);
        match window.auto_pad {
            AutoPad::Notset => {
                let pads = list(&window.pads, 0, 2 * n, "pads")?;
                before.copy_from_slice(&pads[..n]);
                after.copy_from_slice(&pads[n..]);
            }
            AutoPad::Valid => {}
            AutoPad::SameUpper | AutoPad::SameLower => {
                for i in 0..n {
                    let extent = (kernel[i] as i64 - 1) * dilations[i] + 1;
                    let total = ((out[i] as i64 - 1) * steps[i] + extent - size[i] as i64).max(0);
                    let less = total / 2;
                    let upper = window.auto_pad == AutoPad::SameUpper;
                    (before[i], after[i]) = if upper { (less, total - less) } else { (total - less, less) };
                }
            }
        }
        Ok(Slide {
            size: size.to_vec(),
            kernel: kernel.to_vec(),
            out: out.to_vec(),
            strides: steps,
            dilations,
            before,
            after,
        })
    }

    /// Calls `visit(tap, place)` for each tap of the window at the output place `at`; `None` in the padding. Taps behind
    /// the padding, where rounding up put them, are left out.
    fn visit(&self, at: usize, mut visit: impl FnMut(usize, Option<usize>)) {
        let (out_strides, tap_strides, own) =
            (strides(&self.out), strides(&self.kernel), strides(&self.size));
        'taps: for tap in 0..count(&self.kernel) {
            let mut place = Some(0);
            for i in 0..self.size.len() {
                let step = (at / out_strides[i] as usize % self.out[i]) as i64;
                let offset = (tap / tap_strides[i] as usize % self.kernel[i]) as i64;
                let x = step * self.strides[i] - self.before[i] + offset * self.dilations[i];
                if x >= self.size[i] as i64 + self.after[i] {
                    continue 'taps;
                }
                let inside = (0..self.size[i] as i64).contains(&x);
                place = place.filter(|_| inside).map(|p| p + x as usize * own[i] as usize);
            }
            visit(tap, place);
        }
    }

    /// For each tap and output place the input place.
    fn table(&self) -> Vec<Option<usize>> {
        let places = count(&self.out);
        let mut table = vec![None; count(&self.kernel) * places];
        for at in 0..places {
            self.visit(at, |tap, place| table[tap * places + at] = place);
        }
        table
    }
}

/// Elements, batch, channels, spatial sizes.
type Image<'a, T> = (&'a [T], usize, usize, &'a [usize]);

fn image<'a, T: Real>(call: &Call<'a, T>) -> Result<Image<'a, T>, String> {
    let (x, shape) = call.real(0)?;
    match shape {
        [batch, channels, spatial @ ..] => Ok((x, *batch, *channels, spatial)),
        _ => Err(format!("X has shape {shape:?}, expected rank 2 or more")),
    }
}

fn spatial<'a, T>(call: &Call<'a, T>) -> Result<&'a [usize], String> {
    call.outputs
        .first()
        .and_then(|s| s.shape.get(2..))
        .ok_or_else(|| "the output has no spatial dimension".to_owned())
}

/// The sizes of a pooling's window.
pub(crate) fn kernel_of(window: &Window) -> Result<Vec<usize>, String> {
    window
        .kernel_shape
        .iter()
        .map(|k| usize::try_from(*k).map_err(|_| "a kernel size is negative".to_owned()))
        .collect()
}

pub(super) fn conv<T: Real>(call: &Call<T>, window: &Window) -> Result<Data<T>, String> {
    let (x, batch, channels, size) = image(call)?;
    let (w, w_shape) = call.real(1)?;
    let bias = call.optional(2).map(|_| call.real(2)).transpose()?.map(|b| b.0);
    let [features, per_group, kernel @ ..] = w_shape else {
        return Err(format!("W has shape {w_shape:?}, expected rank 3 or more"));
    };
    let group = usize::try_from(window.group).unwrap_or(0).max(1);
    if features % group != 0 || per_group * group != channels {
        return Err(format!("W of shape {w_shape:?} and group {group} do not fit {channels} channels"));
    }
    let slide = Slide::new(window, size, kernel, spatial(call)?)?;
    let (places, pixels, taps) = (count(&slide.out), count(size), count(kernel));
    let (depth, rows) = (per_group * taps, features / group);
    let table = slide.table();
    let mut columns = vec![T::ZERO; depth * places];
    let mut out = vec![T::ZERO; batch * features * places];
    for (b, g) in (0..batch).flat_map(|b| (0..group).map(move |g| (b, g))) {
        for (channel, columns) in columns.chunks_mut((taps * places).max(1)).enumerate() {
            let start = (b * channels + g * per_group + channel) * pixels;
            for (column, place) in columns.iter_mut().zip(&table) {
                *column = place.map_or(T::ZERO, |p| x[start + p]);
            }
        }
        let w_matrix = Matrix::dense(g * rows * depth, rows, depth);
        let to = Matrix::dense((b * features + g * rows) * places, rows, places);
        product(w, w_matrix, &columns, Matrix::dense(0, depth, places), &mut out, to, false);
    }
    if let Some(bias) = bias {
        for (i, values) in out.chunks_mut(places.max(1)).enumerate() {
            values.iter_mut().for_each(|v| *v += bias[i % features]);
        }
    }
    Ok(Data::Real(out))
}

pub(super) fn max_pool<T: Real>(
    call: &Call<T>,
    window: &Window,
    storage_order: i64,
) -> Result<Vec<Data<T>>, String> {
    let (x, batch, channels, size) = image(call)?;
    let slide = Slide::new(window, size, &kernel_of(window)?, spatial(call)?)?;
    let (places, pixels) = (count(&slide.out), count(size));
    let mut values = Vec::with_capacity(batch * channels * places);
    let mut indices = Vec::with_capacity(batch * channels * places);
    for plane in 0..batch * channels {
        for at in 0..places {
            let (mut best, mut index) = (f64::NEG_INFINITY, None);
            slide.visit(at, |_, place| {
                let Some(place) = place else { return };
                let value = x[plane * pixels + place].f64();
                if index.is_none() || value > best || value.is_nan() && !best.is_nan() {
                    (best, index) = (value, Some(place));
                }
            });
            values.push(T::of(best));
            indices.push((plane * pixels + order(index.unwrap_or(0), size, storage_order)) as i64);
        }
    }
    let mut outputs = vec![Data::Real(values)];
    if call.outputs.len() > 1 {
        outputs.push(Data::Int(indices));
    }
    Ok(outputs)
}

/// The place counted row by row, or column by column when the storage order is 1.
fn order(place: usize, size: &[usize], storage_order: i64) -> usize {
    if storage_order == 0 {
        return place;
    }
    let own = strides(size);
    let mut stride = 1;
    let mut found = 0;
    for i in 0..size.len() {
        found += place / own[i] as usize % size[i] * stride;
        stride *= size[i];
    }
    found
}

pub(super) fn average_pool<T: Real>(
    call: &Call<T>,
    window: &Window,
    count_include_pad: bool,
) -> Result<Data<T>, String> {
    let (x, batch, channels, size) = image(call)?;
    let slide = Slide::new(window, size, &kernel_of(window)?, spatial(call)?)?;
    let (places, pixels) = (count(&slide.out), count(size));
    let mut out = Vec::with_capacity(batch * channels * places);
    for plane in 0..batch * channels {
        for at in 0..places {
            let (mut sum, mut taps) = (0.0, 0u32);
            slide.visit(at, |_, place| {
                sum += place.map_or(0.0, |p| x[plane * pixels + p].f64());
                taps += u32::from(place.is_some() || count_include_pad);
            });
            out.push(T::of(sum / f64::from(taps)));
        }
    }
    Ok(Data::Real(out))
}

/// All spatial dimensions pooled to one value.
pub(super) fn global<T: Real>(call: &Call<T>, pool: impl Fn(&[T]) -> f64) -> Result<Data<T>, String> {
    let (x, batch, channels, size) = image(call)?;
    let pixels = count(size);
    Ok(Data::Real((0..batch * channels).map(|i| T::of(pool(&x[i * pixels..(i + 1) * pixels]))).collect()))
}
