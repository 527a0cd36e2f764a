"""What every peer of the benchmark shares: requests and answers, one JSON object a line, and how a turn is timed."""
import json
import sys
import time

TURN = 0.05  # seconds that one turn takes at least


def answer(**fields):
    print(json.dumps(fields), flush=True)


def serve(name, cases, peer):
    """Says who the peer is and what it can run, then answers requests until the input ends."""
    answer(name=name, cases=cases)
    requests = {"load": peer.load, "turn": peer.turn, "drop": peer.drop}
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer(**requests[request.pop("do")](**request))
        except Exception as error:
            answer(error=f"{type(error).__name__}: {error}".splitlines()[0])


class Stopwatch:
    """Times runs of one case: process CPU time of one thread, which nothing else on the machine disturbs, else wall time."""

    def __init__(self, threads):
        self.clock = time.process_time if threads == 1 else time.perf_counter
        self.runs = {}

    def seconds_per_run(self, key, run):
        """The first turn of a `key` is for warming up: it finds how many runs fill the turns that follow."""
        if key not in self.runs:
            run()
            start = self.clock()
            run()
            self.runs[key] = max(1, round(TURN / max(self.clock() - start, 1e-6)))
        start = self.clock()
        for _ in range(self.runs[key]):
            run()
        seconds = (self.clock() - start) / self.runs[key]
        sleep_well()
        return seconds


def sleep_well():
    """Returns when no thread of this process works any more: workers that wait for the next run would be in the way of others."""
    for _ in range(400):
        start = time.process_time()
        time.sleep(0.005)
        if time.process_time() - start < 0.0005:
            return
    raise RuntimeError("worker threads do not go to sleep")
