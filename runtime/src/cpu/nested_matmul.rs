//! `y = x . W^T + bias` with a nested weight.

use mqc_kernels::cpu::{Epilogue, KernelError, MatMul};

use super::Resident;

/// `y[m, n] = sum_k x[m, k] * w[n, k] + bias[n]`, with `x` `[m, K]`, the weight `[N, K]` at its resident's
/// current width, `bias` `[N]` and `y` `[m, N]`, all row-major. The result does not depend on the number of
/// threads.
///
/// # Errors
/// If the weight cannot be read at that width, or there is no memory for its planes.
pub fn nested_matmul(
    resident: &Resident,
    x: &[f32],
    m: usize,
    bias: Option<&[f32]>,
) -> Result<Vec<f32>, KernelError> {
    let mut y = vec![0.0; m * resident.weight().rows()];
    let epilogue = Epilogue { bias, ..Epilogue::default() };
    let threads = resident.engine().threads();
    MatMul { epilogue, ..resident.product(&threads)? }.run(x, m, &mut y)?;
    Ok(y)
}
