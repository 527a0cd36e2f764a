"""What the peers share: a name first, then for every line of the input a turn and its time, as JSON lines."""
import json
import sys
import time

TURN = 0.1  # seconds that one turn takes at least


def serve(name, threads, step):
    """Warms up, then answers until the input ends. One thread: CPU time of the process, else wall time."""
    for _ in range(3):
        step()
    print(json.dumps({"name": name}), flush=True)
    clock = time.process_time if threads == 1 else time.perf_counter
    for _ in sys.stdin:
        start, wall, steps = clock(), time.perf_counter(), 0
        while time.perf_counter() - wall < TURN or steps == 0:
            step()
            steps += 1
        print(json.dumps({"seconds": (clock() - start) / steps}), flush=True)
        sleep_well()


def sleep_well():
    """Returns when no thread of this process works any more: workers that wait for the next step would be in the way."""
    for _ in range(400):
        start = time.process_time()
        time.sleep(0.005)
        if time.process_time() - start < 0.0005:
            return
    raise RuntimeError("worker threads do not go to sleep")
