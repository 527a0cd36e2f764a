//! From the planes that a level reads and its rounding to the constants that kernels are compiled for.

/// Calls `$f::<P, ROUND, $rest>` for a level that reads P planes; with `parts:` in front `$f::<HIGH, LOW, ROUND, $rest>`,
/// the P planes as at most four and the others.
macro_rules! by_planes {
    (parts: $level:expr, $f:ident $rest:tt $args:tt) => {
        by_planes!(@ $level, $f $rest $args, [1, 0] [2, 0] [3, 0] [4, 0] [4, 1] [4, 2] [4, 3] [4, 4])
    };
    (@ $level:expr, $f:ident $rest:tt $args:tt, $a:tt $b:tt $c:tt $d:tt $e:tt $g:tt $h:tt $i:tt) => {
        match ($level.count, $level.rounding.is_some()) {
            // Rounding reads a plane more than one.
            (1, _) => by_planes!(@call $f $a false $rest $args),
            (2, false) => by_planes!(@call $f $b false $rest $args),
            (3, false) => by_planes!(@call $f $c false $rest $args),
            (4, false) => by_planes!(@call $f $d false $rest $args),
            (5, false) => by_planes!(@call $f $e false $rest $args),
            (6, false) => by_planes!(@call $f $g false $rest $args),
            (7, false) => by_planes!(@call $f $h false $rest $args),
            (2, true) => by_planes!(@call $f $b true $rest $args),
            (3, true) => by_planes!(@call $f $c true $rest $args),
            (4, true) => by_planes!(@call $f $d true $rest $args),
            (5, true) => by_planes!(@call $f $e true $rest $args),
            (6, true) => by_planes!(@call $f $g true $rest $args),
            (7, true) => by_planes!(@call $f $h true $rest $args),
            (_, true) => by_planes!(@call $f $i true $rest $args),
            (_, false) => by_planes!(@call $f $i false $rest $args),
        }
    };
    (@call $f:ident [$($planes:tt)*] $round:literal [$($rest:tt)*] $args:tt) => {
        $f::<$($planes)*, $round, $($rest)*> $args
    };
    ($level:expr, $f:ident $rest:tt $args:tt) => {
        by_planes!(@ $level, $f $rest $args, [1] [2] [3] [4] [5] [6] [7] [8])
    };
}

pub(super) use by_planes;
