//! NVIDIA's compiler.

use std::path::Path;

use mqc_step::{Setup, cuda};

use crate::state::step;
use crate::support::random::{KINDS, Random};

/// NVIDIA's compiler takes the text of a program, for both architectures.
#[test]
fn text_compiles() {
    let library = mqc_cuda_standin::nvrtc::library(Path::new(env!("CARGO_TARGET_TMPDIR")));
    let compiler = mqc_cuda::device::Compiler::load(&library).unwrap();
    let mut random = Random::new(700, 6);
    for kind in 0..KINDS {
        (0..6).for_each(|i| random.grow(kind, i * 5 + usize::from(kind), i * 11));
    }
    random.finish(&(0..64).collect::<Vec<_>>());
    let (graph, setup) = step();
    for (graph, setup) in [(&graph, &setup), (&random.graph, &Setup::default())] {
        let text = cuda::text(graph, setup).unwrap();
        for architecture in ["sm_80", "sm_90a"] {
            compiler.compile(&text, architecture).unwrap();
        }
    }
}
