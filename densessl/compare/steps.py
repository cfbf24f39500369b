"""The steps that runs still lack: a process each, a few at a time, and one line on the console as each ends."""

from __future__ import annotations

import os
import re
import shlex
import signal
import statistics
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from datetime import timedelta
from pathlib import Path
from threading import Lock
from time import perf_counter

from densessl.compare.runs import PRETRAIN, Evaluation, Run

Failed = dict[tuple[str, int, str], str]  # row, seed and kind of step: why


class Processes:
    """Commands whose output goes to a log. After ``stop`` none begins."""

    def __init__(self, jobs: int) -> None:
        self.stopping = False
        self._live: set[subprocess.Popen[bytes]] = set()
        self._environment = dict(os.environ)
        if jobs > 1:  # each would take all cores
            self._environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // jobs)))

    def execute(self, command: Sequence[str], log: Path) -> str | None:
        """Why it failed, if it did."""
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab+") as file:
            file.write(f"$ {shlex.join(command)}\n".encode())
            file.flush()
            start = file.tell()
            with subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=self._environment
            ) as process:
                self._live.add(process)
            self._live.discard(process)
            file.seek(start)
            code, said = process.returncode, file.read().decode(errors="replace")
            return reason(code, said) if code else None

    def stop(self, *, tell: bool) -> None:
        """``tell`` those that run: Ctrl-C they know of, from the terminal."""
        self.stopping = True
        for process in list(self._live) if tell else []:
            process.terminate()


def reason(code: int, text: str) -> str:
    """Why a process failed: densessl's message, else the last error of its output, else the last line."""
    if code < 0:
        return f"ended by {signal.Signals(-code).name}{', as when memory runs out' * (code == -signal.SIGKILL)}"
    if said := re.split(r"^densessl: ", text, flags=re.MULTILINE)[1:]:
        return said[-1].strip()
    lines = [line.strip() for line in text.splitlines() if line.strip()] or ["no output"]
    errors = [line for line in lines if re.match(r"[\w.]*(Error|Exception)\b", line)]
    return f"exit code {code}: {[*lines, *errors][-1]}"


def fill(
    runs: Sequence[Run],
    evaluations: Sequence[Evaluation],
    after: Callable[[Failed], object],
    *,
    launch: Sequence[str] = (),
    jobs: int = 1,
) -> Failed:
    """Pretrain and evaluate ``runs``, in their order and ``jobs`` at a time, leaving out what is done already.

    ``after`` is called when a run is through, with what failed so far. ``launch`` stands before ``-m densessl
    pretrain``, this Python before evaluations. Whatever stops it, Ctrl-C for one, lets pretraining save first.
    """
    left = Counter(step.kind for run in runs for step in run.missing(evaluations))
    total, lock, processes = left.total(), Lock(), Processes(jobs)
    took: defaultdict[str, list[float]] = defaultdict(list)
    failed: Failed = {}

    def work(run: Run) -> None:
        steps = run.missing(evaluations)
        while steps and not processes.stopping:
            step, *steps = steps
            began = perf_counter()
            python = launch if launch and step.kind == PRETRAIN else [sys.executable]
            why = processes.execute([*python, "-m", "densessl", *step.words], run.folder / f"{step.kind}.log")
            if processes.stopping:
                return
            if why is None and step.kind == PRETRAIN:
                run.close()
            if why is None and not step.done():
                why = "it ended without an error and without a result"
            with lock:
                left[step.kind] -= 1
                if why is None:
                    took[step.kind].append(perf_counter() - began)
                else:
                    failed[run.row.name, run.seed, step.kind] = why
                    if step.kind == PRETRAIN:
                        left.subtract(step.kind for step in steps)
                        steps = []
                report(run, step.kind, perf_counter() - began, why)

    def report(run: Run, kind: str, seconds: float, why: str | None) -> None:
        text = f"failed, {why}" if why else _duration(seconds)
        if +left and all(took[kind] for kind in +left):
            rest = sum(count * statistics.fmean(took[kind]) for kind, count in (+left).items())
            text += f"; left {_duration(rest / jobs)}"
        print(f"[{total - left.total()}/{total}] {run.row.name} seed {run.seed} {kind}: {text}", flush=True)

    with ThreadPoolExecutor(jobs) as pool:
        futures = [pool.submit(work, run) for run in runs]
        try:
            for future in as_completed(futures):
                future.result()
                after(failed)
        except BaseException as error:
            print("stopping: what is being pretrained is saved first", flush=True)
            processes.stop(tell=not isinstance(error, KeyboardInterrupt))
            pool.shutdown(cancel_futures=True)
            raise
    return failed


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
