//! What the tests of kernels share.

#![allow(dead_code, reason = "each test binary uses its part")]

pub mod case;
pub mod driver;
pub mod kernels;
pub mod nvrtc;
pub mod shim;
