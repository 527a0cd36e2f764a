//! Products of floats by cuBLAS, where it is installed.

use cudarc::cublas::result::CublasError;
use cudarc::cublas::sys::cublasOperation_t::{CUBLAS_OP_N, CUBLAS_OP_T};
use cudarc::cublas::{CudaBlas, result, sys};
use cudarc::driver::{CudaSlice, DevicePtr};

use super::{Device, DeviceError};
use crate::CudaError;

/// The variable that keeps cuBLAS from being used where it is `off`.
const VARIABLE: &str = "MQC_CUBLAS";

/// What NVIDIA recommends for Hopper. With a workspace of its own launches can be recorded, and results are the same in every
/// run.
const WORKSPACE: usize = 32 << 20;

/// cuBLAS on the stream of a device.
#[derive(Debug)]
pub struct Blas {
    library: CudaBlas,
    /// What the library works in: it must live as long.
    _workspace: CudaSlice<u8>,
}

/// One factor of a product: row-major matrices at equal distances.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Side {
    /// Whether it is the transposed matrix that lies in memory.
    pub transposed: bool,
    /// Elements from a row in memory to the next, at least as many as a row has.
    pub row: usize,
    /// Elements from a matrix to the next, 0 for one that all batches read.
    pub step: usize,
}

/// `c [batches, m, n] = a [m, k] b [k, n]` in each batch, all f32, c dense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "as the formula names them")]
pub struct Gemm {
    pub batches: usize,
    pub m: usize,
    pub k: usize,
    pub n: usize,
    pub a: Side,
    pub b: Side,
}

impl Blas {
    /// Opens cuBLAS; `None` where it is not installed, or the environment variable `MQC_CUBLAS` is `off`.
    ///
    /// # Errors
    /// It is there and does not open; no room for its workspace.
    pub fn open(device: &Device) -> Result<Option<Blas>, DeviceError> {
        let off = std::env::var_os(VARIABLE).is_some_and(|value| value == "off");
        // SAFETY: it loads the library, whose initialisers have no conditions, and closes it again.
        if off || !unsafe { sys::is_culib_present() } {
            return Ok(None);
        }
        let stream = device.stream();
        let workspace = device.zeros::<u8>("the workspace of cuBLAS", WORKSPACE)?;
        let library = CudaBlas::new(stream.clone()).map_err(failed("open"))?;
        let address = workspace.device_ptr(stream).0 as *mut core::ffi::c_void;
        // SAFETY: the handle is open, and the workspace lives as long.
        let taken = unsafe { sys::cublasSetWorkspace_v2(*library.handle(), address, WORKSPACE) };
        taken.result().map_err(failed("take its workspace"))?;
        Ok(Some(Blas { library, _workspace: workspace }))
    }

    /// Puts a product onto the device's stream; `a`, `b` and `c` are addresses.
    ///
    /// # Errors
    /// Sizes that the library does not take, and what it refuses.
    ///
    /// # Safety
    /// The addresses are those of device memory as large as the sizes say, which lives until the work is done.
    pub unsafe fn launch(&mut self, gemm: &Gemm, [a, b, c]: [u64; 3]) -> Result<(), DeviceError> {
        let Gemm { batches, m, k, n, a: of_a, b: of_b } = *gemm;
        let size = |what: &'static str, found: usize| {
            i32::try_from(found).map_err(|_| CudaError::TooLarge { what, found, most: i32::MAX as usize })
        };
        let [rows, cols, depth, count] = [
            size("the number of rows", m)?,
            size("the number of columns", n)?,
            size("the length of the sums", k)?,
            size("the number of batches", batches)?,
        ];
        let [a_row, b_row] = [size("a row of a", of_a.row)?, size("a row of b", of_b.row)?];
        let operation = |side: Side| if side.transposed { CUBLAS_OP_T } else { CUBLAS_OP_N };
        let handle = *self.library.handle();
        let (a_address, b_address, c_address) = (a as *const f32, b as *const f32, c as *mut f32);
        // The library has columns where we have rows: it makes the transposed c of the transposed factors, in the other order.
        // SAFETY: the caller's; the factors 1 and 0 are read before the call returns.
        let done = unsafe {
            result::sgemm_strided_batched(
                handle,
                operation(of_b),
                operation(of_a),
                cols,
                rows,
                depth,
                &1.0,
                b_address,
                b_row,
                of_b.step as i64,
                a_address,
                a_row,
                of_a.step as i64,
                &0.0,
                c_address,
                cols,
                (m * n) as i64,
                count,
            )
        };
        done.map_err(failed("multiply"))
    }
}

fn failed(what: &'static str) -> impl FnOnce(CublasError) -> DeviceError {
    move |error| DeviceError::Blas { what, message: error.to_string() }
}
