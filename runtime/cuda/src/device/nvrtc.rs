//! NVIDIA's run-time compiler, loaded when it is first needed.

use std::error::Error;
use std::ffi::{CString, c_char, c_int};
use std::path::{Path, PathBuf};
use std::ptr;

use cudarc::nvrtc::sys::{nvrtcProgram, nvrtcResult};
use libloading::Library;

use super::DeviceError;

/// The CUDA whose compiler is wanted: kernels were counted and tested with it.
pub const MAJOR: u32 = 13;
/// The environment variable with the path of the library.
pub const VARIABLE: &str = "MQC_NVRTC";
/// How kernels are compiled, besides their architecture.
pub(super) const OPTIONS: [&str; 1] = ["--std=c++17"];

/// The compiler.
#[derive(Debug)]
pub struct Compiler {
    library: Library,
    /// Stays open as long as the library that looks for it.
    _builtins: Option<Library>,
    version: (u32, u32),
}

/// A compiled kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Machine code of one architecture, an ELF file.
    pub cubin: Vec<u8>,
    /// The same for the driver's own compiler.
    pub ptx: Vec<u8>,
}

impl Compiler {
    /// Loads the library that the environment names, or else the one that the system's loader finds.
    ///
    /// # Errors
    /// There is none, or it is of another CUDA.
    pub fn find() -> Result<Compiler, DeviceError> {
        match std::env::var_os(VARIABLE) {
            Some(path) => Compiler::load(Path::new(&path)),
            None => Compiler::load(Path::new(&format!("libnvrtc.so.{MAJOR}")))
                .or_else(|_| Compiler::load(Path::new("libnvrtc.so"))),
        }
    }

    /// Loads a library by its path, or by its name from where the system's loader looks.
    ///
    /// # Errors
    /// It is not there or lacks a function, or it is of another CUDA.
    pub fn load(path: &Path) -> Result<Compiler, DeviceError> {
        let missing = |error: libloading::Error| DeviceError::NoCompiler {
            tried: format!("{}: {}", path.display(), reason(&error)),
        };
        // SAFETY: NVRTC's initialisers have no conditions.
        let library = unsafe { Library::new(path) }.map_err(missing)?;
        let (mut major, mut minor): (c_int, c_int) = (0, 0);
        // SAFETY: the signature is nvrtc.h's; the pointers are to integers that live on.
        let code = unsafe {
            let version = library
                .get::<unsafe extern "C" fn(*mut c_int, *mut c_int) -> nvrtcResult>(b"nvrtcVersion\0")
                .map_err(missing)?;
            version(&mut major, &mut minor)
        };
        succeed("say its version", code)?;
        let version = (major.unsigned_abs(), minor.unsigned_abs());
        if version.0 != MAJOR {
            return Err(DeviceError::CompilerVersion {
                path: path.to_owned(),
                major: version.0,
                minor: version.1,
            });
        }
        let _builtins = builtins(path, version);
        Ok(Compiler { library, _builtins, version })
    }

    /// Its version.
    pub fn version(&self) -> (u32, u32) {
        self.version
    }

    /// Compiles a text for an architecture such as `sm_90a`.
    ///
    /// # Errors
    /// With the compiler's log, if it does not take the text.
    pub fn compile(&self, text: &str, architecture: &str) -> Result<Image, CompileError> {
        let program = self.program(text)?;
        let architecture = format!("--gpu-architecture={architecture}");
        // None of our options has a byte of 0 inside.
        let options: Vec<CString> = [architecture.as_str()]
            .into_iter()
            .chain(OPTIONS)
            .filter_map(|option| CString::new(option).ok())
            .collect();
        let pointers: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
        // SAFETY: the signature is nvrtc.h's; the options live until the call returns.
        let code = unsafe {
            let compile = self.function::<unsafe extern "C" fn(
                nvrtcProgram,
                c_int,
                *const *const c_char,
            ) -> nvrtcResult>(b"nvrtcCompileProgram\0", "compile")?;
            compile(program.handle, pointers.len() as c_int, pointers.as_ptr())
        };
        if code != nvrtcResult::NVRTC_SUCCESS {
            let log = program.bytes(b"nvrtcGetProgramLogSize\0", b"nvrtcGetProgramLog\0")?;
            let log = String::from_utf8_lossy(&log);
            return Err(CompileError::Rejected(format!("{code:?}\n{}", log.trim_end_matches(['\0', '\n']))));
        }
        Ok(Image {
            cubin: program.bytes(b"nvrtcGetCUBINSize\0", b"nvrtcGetCUBIN\0")?,
            ptx: program.bytes(b"nvrtcGetPTXSize\0", b"nvrtcGetPTX\0")?,
        })
    }

    fn program(&self, text: &str) -> Result<Program<'_>, DeviceError> {
        let text = CString::new(text).map_err(|_| DeviceError::Compiler {
            what: "take a text",
            code: "it has a byte of 0 inside".to_owned(),
        })?;
        let mut handle: nvrtcProgram = ptr::null_mut();
        // SAFETY: the signature is nvrtc.h's; without headers the arrays may be null; the text is copied.
        let code = unsafe {
            let create = self.function::<unsafe extern "C" fn(
                *mut nvrtcProgram,
                *const c_char,
                *const c_char,
                c_int,
                *const *const c_char,
                *const *const c_char,
            ) -> nvrtcResult>(b"nvrtcCreateProgram\0", "create a program")?;
            create(&mut handle, text.as_ptr(), ptr::null(), 0, ptr::null(), ptr::null())
        };
        succeed("create a program", code)?;
        Ok(Program { compiler: self, handle, _text: text })
    }

    /// A function of the library.
    ///
    /// # Safety
    /// `F` must be its type.
    unsafe fn function<F>(
        &self,
        name: &[u8],
        what: &'static str,
    ) -> Result<libloading::Symbol<'_, F>, DeviceError> {
        // SAFETY: the caller's.
        unsafe { self.library.get(name) }
            .map_err(|error| DeviceError::Compiler { what, code: reason(&error) })
    }
}

/// Why a text has no image.
#[derive(Debug)]
pub enum CompileError {
    /// The text is wrong: the answer and the log.
    Rejected(String),
    /// The compiler fails.
    Failed(DeviceError),
}

impl From<DeviceError> for CompileError {
    fn from(error: DeviceError) -> CompileError {
        CompileError::Failed(error)
    }
}

/// What the compiler has of one text.
struct Program<'a> {
    compiler: &'a Compiler,
    handle: nvrtcProgram,
    _text: CString,
}

impl Program<'_> {
    /// What a pair of functions has: one says the size, the other writes it.
    fn bytes(&self, size: &[u8], write: &[u8]) -> Result<Vec<u8>, DeviceError> {
        let what = "return what it made";
        let mut length = 0usize;
        // SAFETY: the signatures are nvrtc.h's; the buffer has the size that the compiler asks for.
        unsafe {
            let size = self
                .compiler
                .function::<unsafe extern "C" fn(nvrtcProgram, *mut usize) -> nvrtcResult>(size, what)?;
            succeed(what, size(self.handle, &mut length))?;
            let mut bytes = vec![0u8; length];
            let write = self
                .compiler
                .function::<unsafe extern "C" fn(nvrtcProgram, *mut c_char) -> nvrtcResult>(write, what)?;
            succeed(what, write(self.handle, bytes.as_mut_ptr().cast()))?;
            Ok(bytes)
        }
    }
}

impl Drop for Program<'_> {
    fn drop(&mut self) {
        // SAFETY: the signature is nvrtc.h's; the handle is valid and not used again. A failure leaves nothing to do.
        unsafe {
            let destroy = self.compiler.function::<unsafe extern "C" fn(*mut nvrtcProgram) -> nvrtcResult>(
                b"nvrtcDestroyProgram\0",
                "destroy a program",
            );
            if let Ok(destroy) = destroy {
                destroy(&mut self.handle);
            }
        }
    }
}

/// The other half of the library, beside it: it is found there only if it is open already.
fn builtins(path: &Path, (major, minor): (u32, u32)) -> Option<Library> {
    let beside: PathBuf = path.parent()?.join(format!("libnvrtc-builtins.so.{major}.{minor}"));
    if !beside.is_file() {
        return None;
    }
    #[cfg(unix)]
    {
        use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
        // SAFETY: it has no initialisers with conditions.
        unsafe { Library::open(Some(beside), RTLD_NOW | RTLD_GLOBAL) }.ok().map(Into::into)
    }
    #[cfg(not(unix))]
    None
}

fn succeed(what: &'static str, code: nvrtcResult) -> Result<(), DeviceError> {
    match code {
        nvrtcResult::NVRTC_SUCCESS => Ok(()),
        _ => Err(DeviceError::Compiler { what, code: format!("{code:?}") }),
    }
}

/// The first line of what the loader says.
fn reason(error: &libloading::Error) -> String {
    let text = error.source().map_or_else(|| error.to_string(), ToString::to_string);
    text.lines().next().unwrap_or_default().to_owned()
}
