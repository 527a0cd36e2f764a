//! Which buffer each value lies in: values that are not needed at the same time share one, a pass writes over what it
//! reads last, and carried outputs over the inputs that they become.

use crate::Kind;
use crate::fuse::Kernel;
use crate::fuse::instructions::{Fused, Operand, Pattern};
use crate::lower::Lowered;
use crate::lower::task::Source;
use crate::view::Root;

/// Number of a buffer.
pub(crate) type Buffer = usize;

pub(crate) struct Memory {
    /// The buffer of each value; none for those that only live in registers.
    pub buffers: Vec<Option<Buffer>>,
    /// Kind and number of elements of each buffer.
    pub sizes: Vec<(Kind, usize)>,
}

#[derive(Clone, Copy, Debug)]
struct Life {
    from: usize,
    to: usize,
}

pub(crate) fn plan<T>(lowered: &Lowered<T>, kernels: &mut [Kernel], carried: &[(usize, usize)]) -> Memory {
    let count = lowered.places.len();
    let mut lives: Vec<Option<Life>> = vec![None; count];
    let mut fixed = vec![false; count];
    for (i, kernel) in kernels.iter().enumerate() {
        for root in writes(kernel) {
            lives[root] = Some(Life { from: i, to: i });
        }
        for root in reads(kernel) {
            match &mut lives[root] {
                Some(life) => life.to = i,
                // Inputs and constants: only the last use counts.
                life => *life = Some(Life { from: i, to: i }),
            }
        }
    }
    for root in &lowered.outputs {
        if let Some(life) = &mut lives[*root] {
            life.to = usize::MAX;
        }
    }
    for (root, place) in lowered.places.iter().enumerate() {
        fixed[root] = !matches!(place.source, Source::Computed);
    }
    let becomes = |output: Root| {
        let pair = carried.iter().find(|(_, o)| lowered.outputs[*o] == output);
        pair.map(|(input, _)| lowered.inputs[*input])
    };
    // Every value that writes over another is the same as that.
    let mut same: Vec<Root> = (0..count).collect();
    for (i, kernel) in kernels.iter_mut().enumerate() {
        let Kernel::Fused(fused) = kernel else { continue };
        let mut taken = vec![false; fused.loads.len()];
        for store in 0..fused.stores.len() {
            let (root, row, kind) = {
                let store = &fused.stores[store];
                (store.root, store.row, store.kind)
            };
            if kind != Kind::Real {
                continue;
            }
            let usable = |load: usize| {
                let l = &fused.loads[load];
                let last = lives[l.root].is_some_and(|life| life.to == i);
                let alone = fused.loads.iter().filter(|other| other.root == l.root).count() == 1;
                let whole =
                    l.kind == Kind::Real && l.pattern == Pattern::Dense && l.start == 0 && l.row == row;
                let ours = !fixed[l.root] || becomes(root) == Some(l.root);
                let equal = lowered.places[l.root].len == lowered.places[root].len;
                !taken[load] && last && alone && whole && ours && equal
            };
            let all = || (0..fused.loads.len()).filter(|load| usable(*load));
            let wanted = all().find(|load| Some(fused.loads[*load].root) == becomes(root));
            // What will be carried waits for its own place.
            let found = wanted.or_else(|| becomes(root).is_none().then(|| all().next()).flatten());
            if let Some(load) = found {
                taken[load] = true;
                fused.loads[load].in_place = Some(store);
                same[root] = same[fused.loads[load].root];
            }
        }
    }
    for kernel in kernels.iter_mut() {
        if let Kernel::Fused(fused) = kernel {
            write_directly(fused);
        }
    }
    let mut buffers: Vec<Option<Buffer>> = vec![None; count];
    let mut sizes = vec![];
    for root in 0..count {
        if fixed[root] {
            buffers[root] = Some(sizes.len());
            sizes.push((lowered.places[root].kind, lowered.places[root].len));
        }
    }
    // What becomes an input that nothing reads any more is written there at once.
    for (input, output) in carried {
        let (to, from) = (lowered.inputs[*input], lowered.outputs[*output]);
        let (old, new) = (&lowered.places[to], &lowered.places[from]);
        let done = lives[from].is_some_and(|new| lives[to].is_none_or(|old| old.to < new.from));
        let own = !fixed[from] && same[from] == from && buffers[from].is_none();
        let free = (0..count).all(|root| root == to || buffers[root] != buffers[to]);
        if done && own && free && (old.kind, old.len) == (new.kind, new.len) {
            buffers[from] = buffers[to];
        }
    }
    // The others, the largest first, each in the first buffer of its kind that is free as long as it lives.
    let mut whole = lives.clone();
    for root in 0..count {
        let first = same[root];
        if first != root
            && let (Some(a), Some(b)) = (whole[first], whole[root])
        {
            whole[first] = Some(Life { from: a.from.min(b.from), to: a.to.max(b.to) });
        }
    }
    let mut rest: Vec<(usize, Life, Root)> = (0..count)
        .filter(|root| same[*root] == *root && buffers[*root].is_none())
        .filter_map(|root| Some((lowered.places[root].len, whole[root]?, root)))
        .collect();
    rest.sort_by_key(|(len, life, root)| (std::cmp::Reverse(*len), life.from, *root));
    let mut shared: Vec<(Buffer, Kind, Vec<Life>)> = vec![];
    for (len, life, root) in rest {
        let kind = lowered.places[root].kind;
        let free = |lives: &[Life]| lives.iter().all(|l| l.to < life.from || life.to < l.from);
        let found = shared.iter_mut().find(|(_, k, lives)| *k == kind && free(lives));
        let buffer = match found {
            Some((buffer, _, lives)) => {
                lives.push(life);
                *buffer
            }
            None => {
                shared.push((sizes.len(), kind, vec![life]));
                sizes.push((kind, len));
                sizes.len() - 1
            }
        };
        buffers[root] = Some(buffer);
    }
    for root in 0..count {
        buffers[root] = buffers[same[root]];
    }
    Memory { buffers, sizes }
}

pub(crate) fn reads(kernel: &Kernel) -> Vec<Root> {
    match kernel {
        Kernel::Fused(fused) => fused.reads(),
        Kernel::Single(task) => task.reads(),
    }
}

pub(crate) fn writes(kernel: &Kernel) -> Vec<Root> {
    match kernel {
        Kernel::Fused(fused) => fused.writes(),
        Kernel::Single(task) => task.outputs.clone(),
    }
}

/// What only a store reads goes there at once, unless the pass still reads what lies there.
fn write_directly(fused: &mut Fused) {
    let ends = fused.ends();
    for (index, store) in fused.stores.iter_mut().enumerate() {
        let Operand::Register(register) = store.from else { continue };
        let made = fused.instructions.iter().rposition(|i| i.to == register);
        let Some(made) = made else { continue };
        let own = |operand: &Operand| *operand == store.from;
        let read =
            fused.instructions[made + 1..].iter().any(|i| i.from.iter().take(i.code.operands()).any(own))
                || ends.iter().filter(|operand| own(operand)).count() > 1;
        let over = fused.loads.iter().any(|load| load.in_place == Some(index));
        if !read && !over && !store.row && store.kind == Kind::Real && !fused.instructions[made].row {
            fused.instructions[made].into = Some(index);
            store.written = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use mqc_ir::graph::Output;
    use mqc_ir::{DType, Dim, Graph, Op, Tensor, Type};

    use super::plan;
    use crate::graph::Net;
    use crate::{Setup, fuse, lower};

    /// Keys of the past and one more, of which the last four are those of the next run.
    #[test]
    fn what_is_carried_is_written_where_it_is_read() {
        let mut graph = Graph::new("past");
        let shape = |n| Type::tensor(DType::F32, vec![Dim::Size(2), Dim::Size(n)]);
        let (past, x) = (graph.add_input("past", shape(4)), graph.add_input("x", shape(1)));
        let all = graph.apply(Op::Concat { axis: 1 }, "all", &[past, x]).unwrap();
        let mut operands = vec![all];
        for bound in [1, 5, 1] {
            let bound = Op::Constant(Tensor::i64_vector(&[bound]));
            operands.push(graph.apply(bound, "bound", &[]).unwrap());
        }
        let kept = graph.apply(Op::Slice, "kept", &operands).unwrap();
        let output = |value, name: &str| Output { value, name: name.to_owned(), declared: Type::Unknown };
        graph.set_outputs(vec![output(kept, "kept"), output(all, "all")]);
        let setup = Setup { threads: 1, carried: vec![(0, 0)] };
        let net = Net::new(&graph, &setup).unwrap();
        let lowered = lower::lower::<f32>(&net, &setup).unwrap();
        let mut kernels = fuse::schedule(&lowered);
        let memory = plan(&lowered, &mut kernels, &setup.carried);
        assert_eq!(memory.buffers[lowered.outputs[0]], memory.buffers[lowered.inputs[0]]);
        assert_ne!(memory.buffers[lowered.outputs[1]], memory.buffers[lowered.inputs[0]]);
    }
}
