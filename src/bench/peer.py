"""onnxruntime's side of `mqc bench`: a JSON object a line comes in, one a line goes out."""
import json
import sys
import time


def answer(**fields):
    print(json.dumps(fields), flush=True)


try:
    import onnxruntime
    import numpy
except ImportError as error:
    answer(error=f"it cannot import {error.name}")
    sys.exit()

sessions = {}
inputs = {}


def load(path, threads):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Its threads would otherwise keep turning while it is our turn.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    number = max(sessions, default=0) + 1
    sessions[number] = session
    return {"session": number}


def read(path):
    inputs.clear()
    inputs.update(numpy.load(path))
    return {}


def run(number):
    session = sessions[number]
    feeds = {i.name: inputs[i.name] for i in session.get_inputs()}
    start = time.perf_counter_ns()
    session.run(None, feeds)
    return {"micros": (time.perf_counter_ns() - start) / 1000}


def clear():
    sessions.clear()
    return {}


HANDLERS = {"load": load, "read": read, "run": run, "clear": clear}

answer(version=onnxruntime.__version__)
for line in sys.stdin:
    request = json.loads(line)
    try:
        answer(**HANDLERS[request.pop("do")](**request))
    except Exception as error:
        answer(error=f"{type(error).__name__}: {error}".splitlines()[0])
