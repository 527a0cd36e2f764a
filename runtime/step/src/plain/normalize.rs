//! Softmax and normalizations.

use super::{Call, scalar};
use crate::Real;
use crate::array::Data;
use crate::index::{Offsets, around, axis, broadcast, count};

pub(super) fn softmax<T: Real>(call: &Call<T>, at: i64, flatten: bool, log: bool) -> Result<Data<T>, String> {
    let (x, shape) = call.real(0)?;
    let (outer, size, inner) = if flatten {
        let rank = shape.len();
        let at = if at == rank as i64 { rank } else { axis(at, rank)? };
        (count(&shape[..at]), count(&shape[at..]), 1)
    } else {
        around(shape, axis(at, shape.len())?)
    };
    let mut out = vec![T::ZERO; x.len()];
    for (o, i) in (0..outer).flat_map(|o| (0..inner).map(move |i| (o, i))) {
        let place = |j: usize| (o * size + j) * inner + i;
        let greatest = (0..size).map(|j| x[place(j)].f64()).fold(f64::NEG_INFINITY, scalar::max);
        let shift = if greatest == f64::NEG_INFINITY { 0.0 } else { greatest };
        let sum: f64 = (0..size).map(|j| (x[place(j)].f64() - shift).exp()).sum();
        for j in 0..size {
            let value = x[place(j)].f64() - shift;
            out[place(j)] = T::of(if log { value - sum.ln() } else { value.exp() / sum });
        }
    }
    Ok(Data::Real(out))
}

pub(super) fn batch<T: Real>(call: &Call<T>, epsilon: f64) -> Result<Data<T>, String> {
    if call.outputs.len() > 1 {
        return Err("batch normalization has only the form of inference, expected one output".to_owned());
    }
    let (x, shape) = call.real(0)?;
    let channels = shape.get(1).copied().unwrap_or(1);
    let inner = count(shape.get(2..).unwrap_or_default());
    let parameter = |slot: usize| -> Result<&[T], String> {
        let values = call.real(slot)?.0;
        if values.len() == channels {
            Ok(values)
        } else {
            Err(format!("operand {slot} is not one value a channel"))
        }
    };
    let (scale, bias, mean, variance) = (parameter(1)?, parameter(2)?, parameter(3)?, parameter(4)?);
    let value = |(i, v): (usize, &T)| {
        let c = i / inner % channels;
        let deviation = (variance[c].f64() + epsilon).sqrt();
        T::of((v.f64() - mean[c].f64()) / deviation * scale[c].f64() + bias[c].f64())
    };
    Ok(Data::Real(x.iter().enumerate().map(value).collect()))
}

/// Output, then mean and inverse deviation of every row when they are asked for.
pub(super) fn layer<T: Real>(call: &Call<T>, at: i64, epsilon: f64) -> Result<Vec<Data<T>>, String> {
    let (x, shape) = call.real(0)?;
    let at = axis(at, shape.len())?;
    let (rows, size) = (count(&shape[..at]), count(&shape[at..]));
    let (mut values, mut means, mut inverses) = (Vec::with_capacity(x.len()), vec![], vec![]);
    for row in (0..rows).map(|r| &x[r * size..(r + 1) * size]) {
        let mean = row.iter().map(|v| v.f64()).sum::<f64>() / size as f64;
        let variance = row.iter().map(|v| (v.f64() - mean).powi(2)).sum::<f64>() / size as f64;
        let inverse = 1.0 / (variance + epsilon).sqrt();
        values.extend(row.iter().map(|v| (v.f64() - mean) * inverse));
        means.push(T::of(mean));
        inverses.push(T::of(inverse));
    }
    let values = affine(call, values, shape)?;
    let all = [Data::Real(values), Data::Real(means), Data::Real(inverses)];
    Ok(all.into_iter().take(call.outputs.len()).collect())
}

pub(super) fn rms<T: Real>(call: &Call<T>, at: i64, epsilon: f64) -> Result<Data<T>, String> {
    let (x, shape) = call.real(0)?;
    let at = axis(at, shape.len())?;
    let (rows, size) = (count(&shape[..at]), count(&shape[at..]));
    let mut values = Vec::with_capacity(x.len());
    for row in (0..rows).map(|r| &x[r * size..(r + 1) * size]) {
        let square = row.iter().map(|v| v.f64().powi(2)).sum::<f64>() / size as f64;
        values.extend(row.iter().map(|v| v.f64() / (square + epsilon).sqrt()));
    }
    Ok(Data::Real(affine(call, values, shape)?))
}

/// Times operand 1, plus operand 2 when there is one.
fn affine<T: Real>(call: &Call<T>, values: Vec<f64>, shape: &[usize]) -> Result<Vec<T>, String> {
    let (scale, scale_shape) = call.real(1)?;
    let scales = Offsets::new(shape, &broadcast(scale_shape, shape), 0);
    let values = values.into_iter().zip(scales).map(|(v, at)| v * scale[at].f64());
    Ok(match call.optional(2) {
        None => values.map(T::of).collect(),
        Some(_) => {
            let (bias, bias_shape) = call.real(2)?;
            let biases = Offsets::new(shape, &broadcast(bias_shape, shape), 0);
            values.zip(biases).map(|(v, at)| T::of(v + bias[at].f64())).collect()
        }
    })
}
