//! Nodes that compute the same from the same become one.
//!
//! Before: `%a = shape %x`, `%b = shape %x`, `%y = concat %a, %b {axis = 0}`
//!
//! After:  `%a = shape %x`, `%y = concat %a, %a {axis = 0}`
//!
//! Parameters merge only when they are views of the same bytes: equal initial values are no reason to tie weights.

use std::collections::HashMap;

use mqc_ir::{DType, Graph, NodeId, Op, Operands, Value};

use crate::walk::for_each_graph;
use crate::{Context, Error, Pass};

/// See the module.
pub const MERGE_DUPLICATES: Pass =
    Pass { name: "merge-duplicates", about: "equal nodes with equal operands become one", run };

#[derive(PartialEq, Eq, Hash)]
enum Key {
    Computed(Box<Op>, Operands, usize),
    View { start: usize, dtype: DType, shape: Vec<usize> },
}

fn run(graph: &mut Graph, context: &mut Context) -> Result<(), Error> {
    for_each_graph(graph, &mut |graph| {
        let mut seen: HashMap<Key, NodeId> = HashMap::new();
        for id in graph.order()? {
            let Some(key) = key(graph, id) else { continue };
            let Some(&first) = seen.get(&key) else {
                seen.insert(key, id);
                continue;
            };
            if !context.rewrite() {
                break;
            }
            let outputs = graph.node(id).map_or(0, |n| n.outputs.len());
            for slot in 0..outputs {
                graph.replace_uses(Value { node: id, slot }, Value { node: first, slot })?;
            }
        }
        graph.erase_dead();
        Ok(())
    })
}

fn key(graph: &Graph, id: NodeId) -> Option<Key> {
    let node = graph.node(id)?;
    match &node.op {
        // An opaque node may draw random numbers or have effects; an input is itself.
        Op::Input | Op::Opaque(_) | Op::Dropout { .. } => None,
        Op::Weight(tensor) => {
            let bytes = tensor.bytes();
            (!bytes.is_empty() && !graph.inputs().contains(&id)).then(|| Key::View {
                start: bytes.as_ptr().addr(),
                dtype: tensor.dtype(),
                shape: tensor.shape().to_vec(),
            })
        }
        op => Some(Key::Computed(Box::new(op.clone()), graph.operands(id), node.outputs.len())),
    }
}
