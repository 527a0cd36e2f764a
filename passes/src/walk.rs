//! Walking graphs within graphs.

use mqc_ir::{Error, Graph};

/// Calls `visit` on the bodies of If, Loop, Scan and the like, innermost first, and then on the graph itself.
pub fn for_each_graph<E: From<Error>>(
    graph: &mut Graph,
    visit: &mut dyn FnMut(&mut Graph) -> Result<(), E>,
) -> Result<(), E> {
    for id in graph.order()? {
        let mut subgraphs = match graph.node_mut(id) {
            Some(node) if !node.subgraphs.is_empty() => std::mem::take(&mut node.subgraphs),
            Some(_) | None => continue,
        };
        let result = subgraphs.iter_mut().try_for_each(|s| for_each_graph(&mut s.graph, visit));
        if let Some(node) = graph.node_mut(id) {
            node.subgraphs = subgraphs;
        }
        result?;
    }
    visit(graph)
}
