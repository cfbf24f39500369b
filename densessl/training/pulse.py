"""Who is still at work: processes leave word of themselves, so that one that waits in vain names whom it waits for.

A thread of each process writes every second into the store that brought the processes together: its host, its step and
where in densessl its main thread is. The main thread only sets a number. Who has not moved for the timeout looks twice
who is silent, or behind. What is found is written into the store too, where every process sees it within a second.
"""

from __future__ import annotations

import atexit
import json
import os
import queue
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, NoReturn

EXIT = 75  # EX_TEMPFAIL of sysexits.h: another try may do
BEAT = 1.0  # seconds from word to word
BETWEEN = 4 * BEAT  # of two looks; who left no word in so long is silent
ANSWER = 10.0  # seconds in which the store must answer
NAMED = 8  # processes that one message names
VERDICT = "verdict"


class Pulse:
    """This process's word and its watch over the others. One of at least two processes has one.

    ``store`` has get, set, check, compare_set and clone, as torch's have. Functions of the modules ``waits`` wait for
    other processes. The thread that makes a Pulse is the one that is watched; ``step`` and ``saved``, the newest state
    that is whole, are for it to set.
    """

    def __init__(self, store: Any, rank: int, size: int, seconds: float, waits: tuple[str, ...]) -> None:
        self.step: int | None = None
        self.saved: int | None = None
        self._store, self._rank, self._size, self._seconds = store.clone(), rank, size, seconds
        self._waits = (*waits, __name__)
        self._watched, self._host, self._beats = (os.getpid(), threading.get_ident()), socket.gethostname(), 0
        self._verdict, self._alone = "", False
        self._long_works, self._patient = 0, False
        self._stopped, self._ending = threading.Event(), threading.Lock()
        self._tell()
        # Nobody's word is missing later, and the host that may fall silent together with the store is known.
        self._hosts = [json.loads(self._store.get(str(each)))["host"] for each in range(size)]
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._beat, self._watch)]
        for thread in self._threads:
            thread.start()
        atexit.register(self.stop)  # a thread that is in C++ when Python ends would abort it

    def stop(self) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join(2 * BEAT)
        atexit.unregister(self.stop)

    @contextmanager
    def long_work(self) -> Iterator[None]:
        """Work of process 0 in the block may take longer than the timeout; the others begin theirs when it is done.

        No message is under way meanwhile, which would have a timeout of its own, and nobody is behind. Who falls silent
        is found as ever.
        """
        self._long_works, self._patient = self._long_works + 1, True
        ended = f"long work {self._long_works}"
        while self._rank and not self._store.check([ended]):
            time.sleep(BEAT / 4)
        try:
            yield
        finally:
            self._patient = False
            if not self._rank:
                self._store.set(ended, "")

    def failed(self, error: BaseException, at_others: bool) -> None:
        """This process ends by ``error``. The others hear of it; does not return where it is another's fault.

        ``at_others``: the error says that another process could not be reached.
        """
        if (os.getpid(), threading.get_ident()) != self._watched:
            return  # a worker that was forked, or a thread: neither's end is that of the process
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # by which the launcher ends who is left, before it is said
        told = re.sub(r"^\[\S+\] |\. .*", "", str(error).split("\n")[0])[:300]
        if not at_others:
            self._accuse(f"process {self._rank} on {self._host} ended by {type(error).__name__}: {told}")
        elif found := self._missing():
            self._give_up(found, f" ({told})")

    # --- the threads --------------------------------------------------------------------------------------------------

    def _beat(self) -> None:
        try:
            while not self._stopped.wait(BEAT):
                self._tell()
                if self._store.check([VERDICT]):
                    self._verdict = self._store.get(VERDICT).decode()
                    return
        except Exception:  # the store is gone: at the end of a run, or the watch will find out
            return

    def _watch(self) -> None:
        before, since = self._now(), time.monotonic()
        while not self._stopped.wait(BEAT):
            if self._verdict:
                self._give_up(self._verdict)
            now = self._now()
            if now != before:
                before, since = now, time.monotonic()
            elif time.monotonic() - since > self._seconds and (found := self._missing()) and self._now() == before:
                self._give_up(found, f" after {self._seconds / 60:.3g} minutes")

    def _now(self) -> tuple[int, str, bool]:
        """Step; file, line, function of densessl that the watched thread is in; whether it waits for others there."""
        frame: FrameType | None = sys._current_frames().get(self._watched[1])
        waiting = False
        while frame is not None:
            module = frame.f_globals.get("__name__", "")
            waiting = waiting or (module.startswith(self._waits) and not self._patient)
            # Where others are waited for is no place: who asked for it is.
            if module.startswith("densessl.") and not module.startswith(self._waits):
                place = f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno}, {frame.f_code.co_name}"
                return self.step or 0, place, waiting
            frame = frame.f_back
        return self.step or 0, "", waiting

    # --- words --------------------------------------------------------------------------------------------------------

    def _tell(self) -> None:
        self._beats += 1
        step, place, waiting = self._now()
        word = {"host": self._host, "beat": self._beats, "time": time.strftime("%H:%M:%S"), "step": step}
        self._store.set(str(self._rank), json.dumps({**word, "place": place, "waiting": waiting}))

    def _asked(self, accusation: str = "") -> list[dict[str, Any]] | None:
        """Everyone's last word; None if the store does not answer. ``accusation`` becomes the verdict, if none is."""
        answer: queue.Queue[list[dict[str, Any]] | None] = queue.Queue()

        def ask() -> None:
            try:
                if accusation or self._store.check([VERDICT]):
                    self._verdict = self._store.compare_set(VERDICT, "", accusation).decode()
                answer.put([json.loads(self._store.get(str(each))) for each in range(self._size)])
            except Exception:
                answer.put(None)

        threading.Thread(target=ask, daemon=True).start()
        words = None
        with suppress(queue.Empty):
            words = answer.get(timeout=ANSWER)
        self._alone = words is None
        return words

    def _missing(self) -> str:
        """Who does not answer or is behind, in words. Empty where all are alike, as in a long work of all."""
        first = self._asked()
        time.sleep(0 if first is None else BETWEEN)
        second = first and self._asked()
        if self._verdict:
            return self._verdict
        if first is None or second is None:
            return (
                f"nobody answers on {self._hosts[0]}, where process 0 is and where processes leave word of themselves"
            )
        others = [each for each in range(self._size) if each != self._rank]
        silent = [each for each in others if first[each]["beat"] == second[each]["beat"]]
        if silent:
            return self._named(silent, second, "does not answer any more: last heard of at {time}")
        step, _, waiting = self._now()
        behind = [
            each
            for each in others
            if all((words[each]["step"], words[each]["waiting"]) < (step, waiting) for words in (first, second))
        ]
        return self._named(behind, second, "does not go on: it is") if behind else ""

    def _named(self, who: list[int], words: list[dict[str, Any]], what: str) -> str:
        named = [
            f"process {each} on {word['host']} {what.format(**word)}"
            + (f" in step {word['step']}" if word["step"] else " at the start")
            + (f" ({word['place']})" if word["place"] else "")
            for each in who[:NAMED]
            for word in [words[each]]
        ]
        return "; ".join(named + ([f"and {len(who) - NAMED} more"] if len(who) > NAMED else []))

    # --- the end ------------------------------------------------------------------------------------------------------

    def _accuse(self, text: str) -> str:
        """The first verdict stands, since who gives up falls silent too."""
        if not self._alone:
            self._asked(text)
        return self._verdict or text

    def _give_up(self, found: str, why: str = "") -> NoReturn:
        with self._ending:  # the second thread that comes waits for the end
            found = self._accuse(found)
            where = f"in step {self.step}" if self.step else "at the start"
            saved = "No state was saved yet"
            if self.saved:
                saved = f"The state after {self.saved} steps is whole, --resume goes on from there"
            sys.stdout.flush()
            message = f"densessl: process {self._rank} on {self._host} gives up {where}{why}: {found}. {saved}"
            print(message, file=sys.stderr, flush=True)
            if self._rank == 0:
                time.sleep(3 * BEAT)  # the store may end with this process, and the others have yet to read it
            os._exit(EXIT)  # the main thread may be where nothing else ends it
