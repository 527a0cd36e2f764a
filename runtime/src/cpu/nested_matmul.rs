//! `y = epilogue(x . W^T)` with a nested weight.

use mqc_kernels::cpu::{Epilogue, KernelError, MatMul};

use super::Resident;
use super::epilogue::finish;

/// `y[m, n] = activation(sum_k x[m, k] * w[n, k] + bias[n]) * gate[m, n] + residual[m, n]`, with `x` `[m, K]`, the weight
/// `[N, K]` at its resident's current width, `bias` `[N]`, and `gate`, `residual` and `y` `[m, N]`, all row-major. The result
/// does not depend on the number of threads.
///
/// # Errors
/// If the weight cannot be read at that width, there is no memory for its planes, or a part has another length.
pub fn nested_matmul(
    resident: &Resident,
    x: &[f32],
    m: usize,
    epilogue: Epilogue,
) -> Result<Vec<f32>, KernelError> {
    let mut y = vec![0.0; m * resident.weight().rows()];
    let threads = resident.engine().threads();
    let biased = Epilogue { bias: epilogue.bias, ..Epilogue::default() };
    MatMul { epilogue: biased, ..resident.product(&threads)? }.run(x, m, &mut y)?;
    for (what, part) in [("gate", epilogue.gate), ("residual", epilogue.residual)] {
        let (expected, found) = (y.len(), part.map_or(y.len(), <[f32]>::len));
        if expected != found {
            return Err(KernelError::Length { what, expected, found });
        }
    }
    finish(&mut y, &epilogue, &threads);
    Ok(y)
}
