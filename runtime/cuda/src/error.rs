//! What can be wrong with a kernel that is wanted, its data or its launch.

/// An error of this crate. The caller adds the name of the layer.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum CudaError {
    /// A device that no kernel is written for.
    #[error("CUDA target {found:?} is not supported; expected sm_80 or sm_90a")]
    Target {
        /// What was asked for.
        found: String,
    },
    /// A buffer of another length than its shape asks for.
    #[error("{what}: expected {expected} {unit}, found {found}")]
    Length {
        /// The buffer.
        what: &'static str,
        /// What is counted.
        unit: &'static str,
        /// Length that the shape asks for.
        expected: usize,
        /// Length found.
        found: usize,
    },
    /// A plane that no code has.
    #[error("bit plane {plane} is asked for; a code has planes 0 to 7")]
    Plane {
        /// What was asked for.
        plane: usize,
    },
    /// A kernel that a module does not have.
    #[error("there is no kernel {number} in the module")]
    NoKernel {
        /// What was asked for.
        number: usize,
    },
    /// Nothing to launch.
    #[error(
        "a product of {tokens} tokens with a weight of [{rows}, {cols}] has no outputs or nothing to add up"
    )]
    Empty {
        /// Outputs of a token.
        rows: usize,
        /// Activations of a token.
        cols: usize,
        /// Tokens.
        tokens: usize,
    },
    /// A launch of a kernel for fewer tokens.
    #[error("{tokens} tokens are given to kernel {kernel}, which takes at most {most}")]
    Tokens {
        /// Its name.
        kernel: String,
        /// Tokens given.
        tokens: usize,
        /// Its limit.
        most: usize,
    },
    /// A size that the kernels' 32-bit indices do not reach.
    #[error("{what} is {found}; the CUDA kernels take at most {most}")]
    TooLarge {
        /// The size.
        what: &'static str,
        /// What was given.
        found: usize,
        /// The limit.
        most: usize,
    },
    /// A weight of another description than the kernel's.
    #[error("kernel {kernel} is given a weight of another description: {found}")]
    Description {
        /// Its name.
        kernel: String,
        /// The weight's.
        found: String,
    },
    /// A number that no weight has.
    #[error("weight number {number} is asked for and was not added")]
    NoWeight {
        /// What was asked for.
        number: usize,
    },
    /// Fewer planes than a width reads.
    #[error(transparent)]
    Planes(#[from] TooFewPlanes),
}

/// Fewer planes than a width reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{read} bit planes are read, {stored} are there")]
pub struct TooFewPlanes {
    /// Planes that the width reads.
    pub read: usize,
    /// Planes that there are.
    pub stored: usize,
}
