"""Compiles every .cu file of a folder for some targets and says what came out.

Usage: compile.py FOLDER TARGET...
A file has one kernel of the file's name. Prints a line for each and target: name, target, registers, bytes of spills, tensor
core instructions and all instructions of the main loop, separated by tabs. Leaves .sass files in the folder.
"""

import ctypes
import multiprocessing
import pathlib
import re
import subprocess
import sys

import nvidia.cu13

HOME = pathlib.Path(list(nvidia.cu13.__path__)[0])


def compile(source, name, target):
    # The library finds its other half only when that is loaded already.
    ctypes.CDLL(str(next(HOME.glob("lib/libnvrtc-builtins.so.*"))), mode=ctypes.RTLD_GLOBAL)
    nvrtc = ctypes.CDLL(str(next(HOME.glob("lib/libnvrtc.so.*"))))
    program = ctypes.c_void_p()
    check = lambda code: code == 0 or sys.exit(f"{name}: NVRTC says {code}")
    check(nvrtc.nvrtcCreateProgram(ctypes.byref(program), source, name.encode(), 0, None, None))
    options = [f"--gpu-architecture={target}".encode(), b"--std=c++17", b"--ptxas-options=-v"]
    code = nvrtc.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
    size = ctypes.c_size_t()
    check(nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size)))
    log = ctypes.create_string_buffer(size.value)
    check(nvrtc.nvrtcGetProgramLog(program, log))
    log = log.value.decode()
    if code:
        sys.exit(f"{name} for {target} does not compile ({code}):\n{log}")
    check(nvrtc.nvrtcGetCUBINSize(program, ctypes.byref(size)))
    cubin = ctypes.create_string_buffer(size.value)
    check(nvrtc.nvrtcGetCUBIN(program, cubin))
    check(nvrtc.nvrtcDestroyProgram(ctypes.byref(program)))
    return cubin.raw, log


def main_loop(sass):
    """Instructions of the smallest loop with the most tensor core instructions, and how many of these it has."""
    items, labels = [], {}
    for line in sass.splitlines():
        if label := re.match(r"\s*(\.L_\S+):", line):
            labels[label[1]] = len(items)
        elif instruction := re.match(r"\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)(.*)", line):
            items.append((instruction[1], instruction[2]))
    best = (0, 0)
    for at, (operation, operands) in enumerate(items):
        target = re.search(r"\.L_\w+", operands) if operation.startswith("BRA") else None
        if target and labels.get(target[0], at) < at:
            body = items[labels[target[0]] : at + 1]
            tensor = sum(operation.startswith(("HMMA", "HGMMA")) for operation, _ in body)
            best = max(best, (tensor, -len(body)))
    return best[0], -best[1]


def work(job):
    folder, number, paths, target = job
    # One program for several kernels: the compiler and the disassembler take longer to start than to work.
    source = "".join(f"namespace k{i} {{\n{path.read_text()}\n}}\n" for i, path in enumerate(paths))
    cubin, log = compile(source.encode(), f"{number}.cu", target)
    if "serialized" in log:
        sys.exit(f"tensor core products wait for each other:\n{log}")
    binary = folder / f"{number}.{target}.cubin"
    binary.write_bytes(cubin)
    sass = subprocess.run([HOME / "bin/nvdisasm", "-c", binary], capture_output=True, text=True, check=True).stdout
    binary.with_suffix(".sass").write_text(sass)
    logs = dict(zip(*[iter(re.split(r"Compiling entry function '(\w+)'", log)[1:])] * 2))
    bodies = dict(zip(*[iter(re.split(r"^\.text\.(\w+):", sass, flags=re.MULTILINE)[1:])] * 2))
    lines = []
    for path in paths:
        registers = int(re.search(r"Used (\d+) registers", logs[path.stem])[1])
        own = [log for name, log in logs.items() if name in (path.stem, f"{path.stem}_prepare")]
        spills = sum(int(n) for n in re.findall(r"(\d+) bytes spill", "".join(own)))
        lines.append("\t".join(map(str, (path.stem, target, registers, spills, *main_loop(bodies[path.stem])))))
    return "\n".join(lines)


if __name__ == "__main__":
    folder = pathlib.Path(sys.argv[1])
    files = sorted(folder.glob("*.cu"))
    jobs = []
    for target in sys.argv[2:]:
        # Prefill has a text for each target, the others have one for both.
        other = "_many" if target == "sm_90a" else "_many_sm90a"
        taken = [path for path in files if not path.stem.endswith(other)]
        jobs += [(folder, i, taken[i : i + 8], target) for i in range(0, len(taken), 8)]
    with multiprocessing.Pool() as pool:
        for lines in pool.imap(work, jobs):
            print(lines, flush=True)
