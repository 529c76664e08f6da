"""What the supervisor and its HTTP workers tell each other: small pages of 8-byte words in shared memory.

    state       of the service: a `Service`, then a `_Slot` for each process
    state-N     of version N of the repository: a `Triton`, then for each process an `_Asked` for each model

There are two versions while `rrr reload` puts one in the place of the other. Slot 0 is the supervisor's own, or that of
a worker without a supervisor (`bentoml serve`), whose state lies in its own memory. A page begins with zeros: no count,
no version, never. Times are those of `time.monotonic_ns`, which all processes of a machine have in common.

No locks: a word has one writer, and an aligned word is written whole.
"""

import ctypes
import enum
import mmap
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

STATE = "state"  # the page's name in the service's private folder
RESTARTED_PARTS = ("triton", "worker")
RELOAD_OUTCOMES = ("switched", "unchanged", "refused")
FIRST_VERSION = 1

Page = mmap.mmap | bytearray
Record = TypeVar("Record", bound=type[ctypes.Structure])


class Phase(enum.IntEnum):
    """How far the service is on its way down."""

    SERVING = 0
    DRAINING = 1  # not ready any more, but requests are answered
    REFUSING = 2  # new requests are refused, those under way are answered


def _words(record: Record) -> Record:
    """Lay a record out: each annotated name is a signed word, in their order."""
    record._fields_ = [(name, ctypes.c_int64) for name in record.__annotations__]
    return record


@_words
class Service(ctypes.Structure):
    """Written by the supervisor."""

    slots: int  # how many processes have one
    phase: int  # a `Phase`
    version: int  # that workers are to answer from
    restarts_triton: int  # how often it was started again, as the next
    restarts_worker: int
    reloads_switched: int  # how many ended so, as the next
    reloads_unchanged: int
    reloads_refused: int


@_words
class _Slot(ctypes.Structure):
    """Written by its process; cleared by the supervisor when that has died."""

    images: int  # that it is at
    beat: int  # when its event loop last turned
    version: int  # that it answers from, with nothing under way with another
    routing: int  # number of the routing that it chooses models by
    requests: int  # that it, and those before it in this slot, admitted


@_words
class Triton(ctypes.Structure):
    """Written by the supervisor."""

    up: int  # whether it is worth asking; the circuit breaker
    generation: int  # how many were started: a connection to an older one is of no use
    known: int  # of several behind one address, how many there are; 0 where there is one
    answering: int  # and how many of them have just answered as they should


@_words
class _Asked(ctypes.Structure):
    """Of one model and one process, written by that; the supervisor forgets answers of a Triton that has ended."""

    answered: int  # when it last gave a good answer
    failed: int  # when it last gave none, or a wrong one


class SharedState:
    """The pages as one process sees them.

    Attributes:
        slot: this process's own.
        slots: how many there are.
        service: the service's words.
        triton: those of one version's Triton.
        models: of that version.
    """

    def __init__(
        self,
        page: Page,
        slot: int,
        path: Path | None = None,
        version_page: Page | None = None,
        models: Sequence[str] = (),
    ) -> None:
        """Without a version: for a worker that has yet to find out which one is served."""
        self._page, self._path = page, path
        self.service = Service.from_buffer(page)
        self.slot, self.slots, self.models = slot, self.service.slots, tuple(models)
        self._slots = list((_Slot * self.slots).from_buffer(page, ctypes.sizeof(Service)))
        version_page = version_page or bytearray(ctypes.sizeof(Triton))
        self.triton = Triton.from_buffer(version_page)
        asked = (_Asked * len(self.models) * self.slots).from_buffer(version_page, ctypes.sizeof(Triton))
        self._asked = [dict(zip(self.models, row, strict=True)) for row in asked]

    @classmethod
    def in_process(cls, models: Sequence[str]) -> "SharedState":
        """A state that nobody else sees, with Triton taken to be up until something tells otherwise."""
        state = cls.create(None, models, 0)
        state.triton.up = True
        return state

    @classmethod
    def create(cls, path: Path | None, models: Sequence[str], workers: int) -> "SharedState":
        """New pages for a supervisor, so many workers and a first version; in this process's memory without a path."""
        page = _page(path, ctypes.sizeof(Service) + (1 + workers) * ctypes.sizeof(_Slot))
        Service.from_buffer(page).slots = 1 + workers
        return cls(page, 0, path).new_version(FIRST_VERSION, models)

    @classmethod
    def open(cls, path: Path, slot: int) -> "SharedState":
        """The service's page at `path`, seen from a worker's slot."""
        return cls(_page(path), slot, path)

    def new_version(self, number: int, models: Sequence[str]) -> "SharedState":
        """Make the page of another version; the view sees that one, and the same service."""
        return self.of_version(number, models, ctypes.sizeof(Triton) + self.slots * len(models) * ctypes.sizeof(_Asked))

    def of_version(self, number: int, models: Sequence[str], new_bytes: int = 0) -> "SharedState":
        """A view of another version and the same service."""
        page = _page(self._path and _version_path(self._path, number), new_bytes)
        return SharedState(self._page, self.slot, self._path, page, models)

    def forget_version(self, number: int) -> None:
        """Remove a version's page; views that have it keep it."""
        if self._path is not None:
            _version_path(self._path, number).unlink(missing_ok=True)

    def use_version(self, number: int) -> None:
        """Tell that this process answers from a version, and has nothing under way with another."""
        self._slots[self.slot].version = number

    def use_current_version(self) -> int:
        """Begin with the version that is served, which cannot be taken away from now on; its number."""
        while True:
            number = self.service.version
            self.use_version(number)
            if self.service.version == number:  # else it was replaced before the supervisor could see it in use
                return number

    def versions_in_use(self) -> set[int]:
        """The versions that running workers answer from."""
        return {slot.version for slot in self._slots[1:]} - {0}

    def use_routing(self, number: int) -> None:
        """Tell by which routing this process chooses models."""
        self._slots[self.slot].routing = number

    def routings_in_use(self) -> set[int]:
        """Those that running workers choose models by."""
        return {slot.routing for slot in self._slots[1:]} - {0}

    @property
    def draining(self) -> bool:
        """Whether the service is on its way down: it says that it is not ready, and closes connections it answered."""
        return self.service.phase != Phase.SERVING

    def add(self, delta: int) -> None:
        """Count images that this process is at."""
        self._slots[self.slot].images += delta

    def total(self) -> int:
        """Images that all processes are at."""
        return sum(slot.images for slot in self._slots)

    def note_request(self) -> None:
        """Count a request that this process has admitted."""
        self._slots[self.slot].requests += 1

    def requests(self) -> int:
        """Requests that all processes have admitted so far."""
        return sum(slot.requests for slot in self._slots)

    def note_answer(self, model: str) -> None:
        """A model has just given a good answer to this process."""
        self._asked[self.slot][model].answered = time.monotonic_ns()

    def note_failure(self, model: str) -> None:
        """A model has just failed to answer this process, or answered wrongly."""
        self._asked[self.slot][model].failed = time.monotonic_ns()

    def since_answer(self, model: str) -> float:
        """Seconds since a model last gave a good answer to any process; infinite if it never has."""
        return _seconds_since(max(asked[model].answered for asked in self._asked))

    def answers(self, model: str) -> bool:
        """Whether a model answered when any process last asked it, and can be asked."""
        found = [asked[model] for asked in self._asked]
        return bool(self.triton.up) and max(one.answered for one in found) > max(one.failed for one in found)

    def take_over(self, others: Sequence["SharedState"]) -> None:
        """Note as this process's own what others have seen, each of one Triton: a failure only where it is one of all.

        Args:
            others: states of one process each, with the same models.
        """
        for name, mine in self._asked[self.slot].items():
            theirs = [other._asked[other.slot][name] for other in others]
            mine.answered = max((one.answered for one in theirs), default=0)
            if all(one.failed >= one.answered for one in theirs):
                mine.failed = max((one.failed for one in theirs), default=0)

    def forget_answers(self) -> None:
        """Answers of a Triton that has ended are no evidence about the next."""
        for asked in self._asked:
            for one in asked.values():
                one.answered = 0

    def beat(self) -> None:
        """Tell that the event loop of this process turns."""
        self._slots[self.slot].beat = time.monotonic_ns()

    def since_beat(self, slot: int) -> float:
        """Seconds since the event loop of a slot's process last turned; infinite if it never has."""
        return _seconds_since(self._slots[slot].beat)

    def clear(self, slot: int) -> None:
        """Forget what a dead worker had in flight, its heartbeat, version and routing; its answers still count."""
        dead = self._slots[slot]
        dead.images = dead.beat = dead.version = dead.routing = 0


def _version_path(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}-{number}")


def _page(path: Path | None, new_bytes: int = 0) -> Page:
    """The page at `path`, made of zeros where a size is given; without a path one in this process's memory."""
    if path is None:
        return bytearray(new_bytes)
    if new_bytes:
        path.write_bytes(bytes(new_bytes))
    with path.open("r+b") as file:
        return mmap.mmap(file.fileno(), 0)


def _seconds_since(moment_ns: int) -> float:
    return float("inf") if not moment_ns else (time.monotonic_ns() - moment_ns) / 1e9
