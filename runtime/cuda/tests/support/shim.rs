//! Runs kernels on the CPU: their text is compiled by the C++ compiler against a shim that has CUDA's part of it.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use mqc_cuda::layout::{permute, permute_map};
use mqc_cuda::{Arguments, Emitted, Launch, Plan};
use mqc_cuda_standin::build;
use mqc_kernels::nested;

use super::case::{Case, Values};

/// A program that runs some kernels.
pub struct Program {
    path: PathBuf,
    kernels: Vec<Emitted>,
    /// For each kernel its number in the program, after that of the kernel that lays out activations.
    numbers: Vec<u32>,
}

impl Program {
    /// Compiles kernels into a program of this name.
    pub fn compile(name: &str, kernels: Vec<Emitted>) -> Program {
        let mut source = String::from("#include \"runner.h\"\n");
        let mut entries = vec![];
        let mut numbers = vec![];
        for (i, kernel) in kernels.iter().enumerate() {
            // Kernels share no names: each has its own constants.
            let _ = writeln!(source, "namespace k{i} {{\n{}\n", kernel.text);
            for name in kernel.prepare.iter().chain([&kernel.name]) {
                let run = format!("run_{name}");
                let _ =
                    writeln!(source, "static void {run}(const void* a) {{ {name}(*(const Arguments*)a); }}");
                entries.push(format!("{{k{i}::{run}}}"));
            }
            numbers.push(entries.len() as u32 - 1);
            source.push_str("}\n");
        }
        let entries = entries.join(", ");
        let _ = writeln!(
            source,
            "int main() {{\n    static const Entry entries[] = {{{entries}}};\n    return serve(entries);\n}}"
        );
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let (path, file) = (folder.join(name), folder.join(format!("{name}.cpp")));
        std::fs::write(&file, source).unwrap();
        build(&file, &path, &[]);
        Program { path, kernels, numbers }
    }

    /// Runs each case on the kernel of its number, first threads first and then last threads first, which must give the same
    /// bits. Says what is wrong with all that are.
    pub fn check(&self, cases: &[(usize, Case)]) {
        let input: Vec<u8> = cases
            .iter()
            .flat_map(|(kernel, case)| [0, 1].map(|reverse| self.job(*kernel, case, reverse)).concat())
            .collect();
        let mut child =
            Command::new(&self.path).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let writer = std::thread::spawn(move || stdin.write_all(&input));
        let output = child.wait_with_output().unwrap();
        let sent = writer.join().unwrap();
        let mut rest = output.stdout.as_slice();
        let mut wrong = vec![];
        for (kernel, case) in cases {
            let name = &self.kernels[*kernel].name;
            let what = format!("{name} {:?} {:?}", case.problem, case.data);
            let bytes = case.problem.rows * case.problem.tokens * case.kernel.element.bytes();
            if rest.len() < 2 * bytes {
                wrong.push(format!("{what}: the program ended with {}", output.status));
                break;
            }
            let (found, reversed) = rest[..2 * bytes].split_at(bytes);
            rest = &rest[2 * bytes..];
            if let Err(error) = case.check(found) {
                wrong.push(format!("{what}: {error}"));
            } else if found != reversed {
                wrong.push(format!("{what}: depends on the order of threads"));
            }
        }
        assert!(wrong.is_empty(), "{} of {} are wrong:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
        assert!(output.status.success() && sent.is_ok(), "the program ended with {}", output.status);
    }

    /// A case as the runner reads it.
    fn job(&self, kernel: usize, case: &Case, reverse: u32) -> Vec<u8> {
        let emitted = &self.kernels[kernel];
        let plan = Plan::new(emitted, &case.problem).unwrap();
        let (rows, cols, element) = (case.problem.rows, case.problem.cols, case.kernel.element);
        let mut job = vec![];
        let number = self.numbers[kernel];
        let launches =
            plan.prepare.map(|launch| (number - 1, launch)).into_iter().chain([(number, plan.main)]);
        let launches: Vec<_> = launches.collect();
        job.extend((launches.len() as u32).to_le_bytes());
        for (number, Launch { grid, threads, shared_bytes }) in launches {
            let launch = [number, grid[0], grid[1], threads, shared_bytes, reverse];
            launch.iter().for_each(|v| job.extend(v.to_le_bytes()));
        }

        let Arguments { plane_stride, rows: r, cols: c, tokens, groups, .. } =
            Arguments::sizes(&case.kernel, &case.problem);
        job.extend([0; 11 * 8]);
        job.extend(plane_stride.to_le_bytes());
        [r, c, tokens, groups].iter().for_each(|v| job.extend(v.to_le_bytes()));

        let stored = nested::pack(&case.codes, rows, cols).unwrap();
        let read = case.kernel.mode.planes_read(case.kernel.width);
        let planes = stored
            .iter()
            .enumerate()
            .take(read)
            .flat_map(|(p, plane)| permute(plane, p, rows, cols).unwrap());
        let map = |stored: &[f32]| floats(&permute_map(stored, case.kernel.grouping, rows, cols).unwrap());
        let epilogue = case.kernel.epilogue;
        let wanted = |wanted, bytes: Vec<u8>| if wanted { bytes } else { vec![] };
        let inputs = [
            planes.flat_map(u32::to_le_bytes).collect(),
            map(&case.scale),
            map(&case.zero),
            element.bytes_of(&case.x),
            wanted(epilogue.bias, floats(&case.bias)),
            wanted(epilogue.gate, element.bytes_of(&case.gate)),
            wanted(epilogue.residual, element.bytes_of(&case.residual)),
        ];
        let outputs =
            [rows * case.problem.tokens * element.bytes(), 4 * plan.partial, 4 * plan.tickets, plan.prepared];
        inputs
            .iter()
            .map(Vec::len)
            .chain(outputs)
            .for_each(|length| job.extend((length as u64).to_le_bytes()));
        inputs.iter().for_each(|bytes| job.extend(bytes));
        job
    }
}

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}
