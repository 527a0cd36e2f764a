//! What the products of a session share: threads, memory for planes, kernels, and how activations are rounded.

use std::sync::{Arc, Mutex, PoisonError};

use mqc_ir::Activations;
use mqc_kernels::cpu::{Isa, Pages, Threads};

/// Settings and threads of a session; sessions may share one.
#[derive(Debug)]
pub struct Engine {
    threads: Mutex<Arc<Threads>>,
    /// Where resident planes lie.
    pub pages: Pages,
    /// The kernels.
    pub isa: Isa,
    /// How activations are rounded.
    pub activations: Activations,
}

impl Engine {
    /// With so many threads, 0 for all processors, and the fastest kernels of this processor.
    pub fn new(threads: usize, activations: Activations) -> Engine {
        let threads = Mutex::new(Arc::new(pool(threads)));
        Engine { threads, pages: Pages::default(), isa: Isa::detect(), activations }
    }

    /// Who works.
    pub fn threads(&self) -> Arc<Threads> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Products that begin from now on have so many threads, 0 for all processors.
    pub fn set_threads(&self, count: usize) {
        let threads = Arc::new(pool(count));
        *self.threads.lock().unwrap_or_else(PoisonError::into_inner) = threads;
    }
}

impl Default for Engine {
    fn default() -> Engine {
        Engine::new(0, Activations::default())
    }
}

fn pool(count: usize) -> Threads {
    if count == 0 { Threads::available() } else { Threads::new(count) }
}
