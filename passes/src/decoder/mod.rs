//! What makes a decoder fast one token at a time: caches that stay in the session, logits of the last position only.

pub mod cache_attention;
pub mod last_logits;
mod pattern;

/// The domain of the operators that only the CPU session knows.
const DOMAIN: &str = mqc_runtime::cpu::DOMAIN;
