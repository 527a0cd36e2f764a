//! How a kernel is launched: its grid, its shared memory, its workspace and its arguments.

use crate::emit::prefill_block_columns;
use crate::layout::{TILE_COLS, TILE_ROWS, groups, tiles};
use crate::{CudaError, Emitted, Family, Kernel};

/// Threads of a block in every kernel.
const THREADS: u32 = 256;
/// Warps of a block.
const WARPS: usize = 8;
/// Slices of activations that prefill keeps in shared memory, 128 bytes of each column.
const PREFILL_STAGES: usize = 4;
/// Their alignment on sm_90a.
const SWIZZLE_UNIT: usize = 1024;
/// Blocks that should be there for every multiprocessor.
const BLOCKS_WANTED: usize = 3;
/// The greatest second dimension of a grid.
const GRID_Y: usize = 65_535;
/// Tokens of a block of the general kernel.
const GENERAL_TOKENS: usize = 4;

/// The sizes of a product and of the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Problem {
    /// Outputs of a token.
    pub rows: usize,
    /// Activations of a token.
    pub cols: usize,
    /// Tokens.
    pub tokens: usize,
    /// Multiprocessors of the device.
    pub multiprocessors: usize,
    /// Bytes of shared memory that a block may ask for.
    pub shared_limit: usize,
}

/// One launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Launch {
    /// Blocks in x and y; 1 in z.
    pub grid: [u32; 2],
    /// Threads of a block, in x.
    pub threads: u32,
    /// Dynamic shared memory of a block, in bytes. Above 48 KiB the function's limit must be raised first.
    pub shared_bytes: u32,
}

/// The launches of a product and the workspace that they need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// Of [`Emitted::prepare`]. Products with the same activations, element and grouping may share what it makes.
    pub prepare: Option<Launch>,
    /// Of the kernel itself.
    pub main: Launch,
    /// f32 of workspace that `partial` points to. Need not be cleared.
    pub partial: usize,
    /// u32 of workspace that `tickets` points to: 0 before the first launch, and left so by each.
    pub tickets: usize,
    /// Bytes of workspace that `prepared` points to, 16-byte aligned. Need not be cleared.
    pub prepared: usize,
}

/// What every kernel takes by value. Pointers are device addresses; those that the description does not want are 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Arguments {
    /// The planes that the width reads, in device order, 16-byte aligned.
    pub planes: u64,
    /// Scales in device order, of the map for this width.
    pub scale: u64,
    /// Zeros in device order, of the map for this width.
    pub zero: u64,
    /// [tokens, cols], 16-byte aligned.
    pub x: u64,
    /// [tokens, rows]
    pub y: u64,
    /// `[rows]`, f32
    pub bias: u64,
    /// [tokens, rows]
    pub gate: u64,
    /// [tokens, rows]
    pub residual: u64,
    /// Workspace: [`Plan::partial`].
    pub partial: u64,
    /// Workspace: [`Plan::tickets`].
    pub tickets: u64,
    /// Workspace: [`Plan::prepared`].
    pub prepared: u64,
    /// From one plane to the next, in units of 16 bytes.
    pub plane_stride: i64,
    /// Outputs of a token.
    pub rows: i32,
    /// Activations of a token.
    pub cols: i32,
    /// Tokens.
    pub tokens: i32,
    /// Groups of a row in device order.
    pub groups: i32,
}

impl Plan {
    /// How to launch a kernel for these sizes.
    ///
    /// # Errors
    /// A size of 0, more tokens than the kernel takes, or sizes that its indices do not reach.
    pub fn new(emitted: &Emitted, problem: &Problem) -> Result<Plan, CudaError> {
        let Problem { rows, cols, tokens, .. } = *problem;
        if rows == 0 || cols == 0 || tokens == 0 {
            return Err(CudaError::Empty { rows, cols, tokens });
        }
        for (what, size) in [("the number of rows", rows), ("the number of columns", cols)] {
            at_most(what, size, i32::MAX as usize - TILE_COLS)?;
        }
        match emitted.family {
            Family::Decode => {
                let most = emitted.kernel.tokens.most().unwrap_or(usize::MAX);
                if tokens > most {
                    return Err(CudaError::Tokens { kernel: emitted.name.clone(), tokens, most });
                }
                decode(&emitted.kernel, problem)
            }
            Family::Prefill => prefill(&emitted.kernel, problem),
            Family::General => {
                at_most("the number of tokens", tokens, GENERAL_TOKENS * GRID_Y)?;
                let grid = [rows.div_ceil(WARPS) as u32, tokens.div_ceil(GENERAL_TOKENS) as u32];
                Ok(Plan { prepare: None, main: launch(grid, 0), partial: 0, tickets: 0, prepared: 0 })
            }
        }
    }
}

impl Arguments {
    /// The sizes; every pointer is 0.
    pub fn sizes(kernel: &Kernel, problem: &Problem) -> Arguments {
        let (down, across) = tiles(problem.rows, problem.cols);
        Arguments {
            plane_stride: (down * across * 32) as i64,
            rows: problem.rows as i32,
            cols: problem.cols as i32,
            tokens: problem.tokens as i32,
            groups: groups(kernel.grouping, problem.cols) as i32,
            ..Arguments::default()
        }
    }
}

/// The columns are split between blocks where rows alone do not fill the device, and where activations do not fit into
/// shared memory.
fn decode(kernel: &Kernel, problem: &Problem) -> Result<Plan, CudaError> {
    let (down, across) = tiles(problem.rows, problem.cols);
    let shared = |tiles: usize| decode_shared(kernel, problem.tokens, tiles);
    at_most("shared memory of a block", shared(1), problem.shared_limit)?;
    let wanted = (BLOCKS_WANTED * problem.multiprocessors).div_ceil(down.max(1));
    let splits = wanted.min(across / WARPS).max(1);
    let fits =
        (1..=across.div_ceil(splits).max(1)).rev().find(|tiles| shared(*tiles) <= problem.shared_limit);
    let splits = across.div_ceil(fits.unwrap_or(1)).max(1);
    at_most("the number of blocks along the columns", splits, GRID_Y)?;
    let split = splits > 1;
    Ok(Plan {
        prepare: None,
        main: launch([down as u32, splits as u32], shared(across.div_ceil(splits))),
        partial: if split { splits * problem.tokens * problem.rows } else { 0 },
        tickets: if split { down } else { 0 },
        prepared: 0,
    })
}

/// The arrays that the kernel puts into shared memory for so many tiles along the columns.
fn decode_shared(kernel: &Kernel, tokens: usize, tiles: usize) -> usize {
    let columns = (kernel.tokens.most().unwrap_or_default() * kernel.element.parts()).next_multiple_of(8);
    let activations = tokens * kernel.element.parts() * (32 * tiles + 4) * 16;
    let totals = WARPS * TILE_ROWS * columns;
    let powers = tokens + WARPS * tokens;
    let sums = tiles * 8 * tokens;
    activations + 4 * (totals + powers + sums)
}

/// The kernel's block is 128 rows and a number of columns of activations, which are padded to a multiple of 128.
fn prefill(kernel: &Kernel, problem: &Problem) -> Result<Plan, CudaError> {
    let (down, across) = tiles(problem.rows, problem.cols);
    let parts = kernel.element.parts();
    let columns = problem.tokens.saturating_mul(parts).next_multiple_of(128);
    let block_columns = prefill_block_columns(kernel);
    at_most("the number of tokens", columns / block_columns, GRID_Y)?;
    let groups = groups(kernel.grouping, problem.cols);
    let sums_shared = 4 * (WARPS + parts * across * 8);
    let stages_shared = PREFILL_STAGES * block_columns * 128 + SWIZZLE_UNIT;
    at_most("shared memory of a block", sums_shared.max(stages_shared), problem.shared_limit)?;
    Ok(Plan {
        prepare: Some(launch([(columns / parts) as u32, 1], sums_shared)),
        main: launch([down.div_ceil(8) as u32, (columns / block_columns) as u32], stages_shared),
        partial: 0,
        tickets: 0,
        prepared: 2 * columns * across * TILE_COLS + 4 * (groups * columns + columns / parts),
    })
}

fn launch(grid: [u32; 2], shared_bytes: usize) -> Launch {
    Launch { grid, threads: THREADS, shared_bytes: shared_bytes as u32 }
}

fn at_most(what: &'static str, found: usize, most: usize) -> Result<(), CudaError> {
    if found <= most { Ok(()) } else { Err(CudaError::TooLarge { what, found, most }) }
}

#[cfg(test)]
mod tests {
    use mqc_ir::quant::{Grouping, SliceMode, Width};

    use super::*;
    use crate::{Element, Epilogue, Target, Tokens, emit};

    fn emitted(tokens: Tokens, element: Element) -> Emitted {
        emit(&Kernel {
            width: Width::MAX,
            mode: SliceMode::Midpoint,
            grouping: Grouping::PerChannel,
            element,
            epilogue: Epilogue::default(),
            tokens,
            target: Target::Sm90a,
        })
    }

    fn problem(rows: usize, cols: usize, tokens: usize) -> Problem {
        Problem { rows, cols, tokens, multiprocessors: 132, shared_limit: 227 << 10 }
    }

    #[test]
    fn columns_are_split_where_rows_do_not_fill_the_device() {
        let kernel = emitted(Tokens::Eight, Element::F16);
        for (rows, cols, grid) in [(28672, 8192, [1792, 1]), (4096, 4096, [256, 2]), (1024, 4096, [64, 2])] {
            let plan = Plan::new(&kernel, &problem(rows, cols, 1)).unwrap();
            assert_eq!(plan.main.grid, grid, "{rows} {cols}");
            assert_eq!(plan.partial, if grid[1] > 1 { grid[1] as usize * rows } else { 0 });
            assert_eq!(plan.tickets > 0, grid[1] > 1);
        }
    }

    #[test]
    fn activations_fit_into_shared_memory() {
        for element in [Element::F16, Element::F32] {
            for cols in [1, 4096, 28672, 300_000] {
                let plan = Plan::new(&emitted(Tokens::Sixteen, element), &problem(4096, cols, 16)).unwrap();
                assert!(plan.main.shared_bytes <= 227 << 10);
                // Every block has columns.
                let (tiles, splits) = (cols.div_ceil(256), plan.main.grid[1] as usize);
                assert!((splits - 1) * tiles.div_ceil(splits) < tiles);
                // The kernel divides the tiles as the plan does.
                let needed =
                    decode_shared(&emitted(Tokens::Sixteen, element).kernel, 16, tiles.div_ceil(splits));
                assert_eq!(plan.main.shared_bytes as usize, needed);
            }
        }
    }

    #[test]
    fn wrong_sizes_are_errors() {
        let kernel = emitted(Tokens::Eight, Element::F16);
        let error = Plan::new(&kernel, &problem(16, 16, 9)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "9 tokens are given to kernel nested_r8_midpoint_channel_f16_m8, which takes at most 8"
        );
        assert!(matches!(Plan::new(&kernel, &problem(16, 0, 1)), Err(CudaError::Empty { cols: 0, .. })));
        assert!(matches!(Plan::new(&kernel, &problem(1 << 40, 16, 1)), Err(CudaError::TooLarge { .. })));
        let small = Problem { shared_limit: 1 << 10, ..problem(16, 16, 8) };
        assert!(matches!(Plan::new(&kernel, &small), Err(CudaError::TooLarge { .. })));
        let many = emitted(Tokens::Many, Element::F16);
        assert!(matches!(Plan::new(&many, &problem(16, 16, 1 << 30)), Err(CudaError::TooLarge { .. })));
    }
}
