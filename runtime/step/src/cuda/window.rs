//! Convolutions and poolings as kernels: a thread an output, loops over the taps of its window.

use std::fmt::Write as _;

use mqc_ir::Op;
use mqc_ir::op::Window;

use super::kernel::{Kernel, Slot, THREADS};
use crate::graph::{Net, Step};
use crate::index::{count, strides};
use crate::lower::task::Task;
use crate::plain::window::{Slide, kernel_of};
use crate::view::{Root, View};

/// What is made of the taps of a window.
enum Taps {
    /// Added up with weights: groups, and whether there is a bias.
    Weighted { group: usize, bias: bool },
    /// The greatest.
    Greatest,
    /// The mean; whether the padding counts.
    Mean { padded: bool },
}

/// The kernel of a convolution or pooling of floats; `None` for other operations, and for poolings that say where their values
/// come from.
pub(super) fn emit(net: &Net, task: &Task, args: &[Option<View>]) -> Option<Kernel> {
    let step = &net.steps[task.step];
    let whole = Window::default();
    let (window, taps) = match &step.op {
        Op::Conv(window) => {
            let group = usize::try_from(window.group).unwrap_or(0).max(1);
            (window, Taps::Weighted { group, bias: args.get(2).is_some_and(Option::is_some) })
        }
        Op::MaxPool { window, .. } if step.outputs.len() == 1 => (window, Taps::Greatest),
        Op::AveragePool { window, count_include_pad, .. } => {
            (window, Taps::Mean { padded: *count_include_pad })
        }
        Op::GlobalAveragePool => (&whole, Taps::Mean { padded: false }),
        Op::GlobalMaxPool => (&whole, Taps::Greatest),
        _ => return None,
    };
    let [batch, channels, size @ ..] = shape(net, step, 0)? else { return None };
    let out = net.values[*step.outputs.first()?].spec.shape.get(2..)?;
    let kernel = match &step.op {
        Op::Conv(_) => shape(net, step, 1)?.get(2..)?.to_vec(),
        Op::GlobalAveragePool | Op::GlobalMaxPool => size.to_vec(),
        _ => kernel_of(window).ok()?,
    };
    let slide = Slide::new(window, size, &kernel, out).ok()?;
    let features = match &taps {
        Taps::Weighted { .. } => *shape(net, step, 1)?.first()?,
        Taps::Greatest | Taps::Mean { .. } => *channels,
    };
    let roots: Vec<Root> =
        task.outputs.iter().copied().chain(args.iter().flatten().map(|v| v.root)).collect();
    let outputs = batch * features * count(out);
    let body = text(&slide, &taps, (*channels, features), outputs);
    Some(Kernel::new(body, roots.into_iter().map(Slot::Root).collect(), [outputs.div_ceil(THREADS), 1], 0))
}

fn shape<'a>(net: &'a Net, step: &Step, slot: usize) -> Option<&'a [usize]> {
    let id = step.args.get(slot).copied().flatten()?;
    Some(&net.values[id].spec.shape)
}

fn text(slide: &Slide, taps: &Taps, (channels, features): (usize, usize), outputs: usize) -> String {
    let (places, pixels, dims) = (count(&slide.out), count(&slide.size), slide.size.len());
    let mut text = format!(
        "KERNEL(NAME, 256, 1) {{\n    const u64 i = (u64)blockIdx.x * 256 + threadIdx.x;\n    if (i >= {outputs}u) return;\n    \
         const i64 at = i % {places}u, plane = i / {places}u;\n    const float* const x = (const float*)a.at[1];\n"
    );
    for (axis, stride) in strides(&slide.out).iter().enumerate() {
        let start =
            format!("at / {stride} % {} * {} - {}", slide.out[axis], slide.strides[axis], slide.before[axis]);
        let _ = writeln!(text, "    const i64 o{axis} = {start};");
    }
    let own = strides(&slide.size);
    let place: Vec<String> = (0..dims).map(|axis| format!("x{axis} * {}", own[axis])).collect();
    let place = if place.is_empty() { "0".to_owned() } else { place.join(" + ") };
    // Where a tap lies: left out behind the padding, counted within.
    let mut loops = String::new();
    for axis in 0..dims {
        let _ = writeln!(
            loops,
            "    for (i64 k{axis} = 0; k{axis} < {}; k{axis}++) {{\n    const i64 x{axis} = o{axis} + k{axis} * {};\n    \
             if (x{axis} >= {}) continue;",
            slide.kernel[axis],
            slide.dilations[axis],
            slide.size[axis] as i64 + slide.after[axis]
        );
    }
    let inside: Vec<String> =
        (0..dims).map(|axis| format!("x{axis} >= 0 && x{axis} < {}", slide.size[axis])).collect();
    let inside = if inside.is_empty() { "true".to_owned() } else { inside.join(" && ") };
    let end = "    }\n".repeat(dims);
    let body = match taps {
        Taps::Weighted { group, bias } => {
            let (per_group, rows) = (channels / group, features / group);
            let taps = strides(&slide.kernel);
            let tap: Vec<String> = (0..dims).map(|axis| format!("k{axis} * {}", taps[axis])).collect();
            let tap = if tap.is_empty() { "0".to_owned() } else { tap.join(" + ") };
            let first = if *bias { "((const float*)a.at[3])[m]" } else { "0.f" };
            format!(
                "    const i64 m = plane % {features}, first = plane / {features} * {channels} + m / {rows} * {per_group};\n    \
                 const float* const w = (const float*)a.at[2];\n    float v = {first};\n    \
                 for (i64 c = 0; c < {per_group}; c++) {{\n{loops}    \
                 if ({inside}) v = fmaf(x[(first + c) * {pixels} + {place}], w[(m * {per_group} + c) * {} + {tap}], v);\n{end}    }}\n",
                count(&slide.kernel)
            )
        }
        Taps::Greatest => format!(
            "    float v = bits(0xff800000u);\n    bool none = true;\n{loops}    if ({inside}) {{\n    \
             const float e = x[plane * {pixels} + {place}];\n    \
             if (none || e > v || (e != e && v == v)) v = e, none = false;\n    }}\n{end}"
        ),
        Taps::Mean { padded } => format!(
            "    float v = 0.f, taps = 0.f;\n{loops}    const bool in = {inside};\n    \
             if (in) v += x[plane * {pixels} + {place}];\n    if (in || {padded}) taps += 1.f;\n{end}    v /= taps;\n"
        ),
    };
    text.push_str(&body);
    text.push_str("    ((float*)a.at[0])[i] = v;\n}\n");
    text
}
