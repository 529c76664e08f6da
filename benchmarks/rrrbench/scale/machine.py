"""Processor cores and threads of a simulated machine: who runs when several want the same core (simpy)."""

import heapq
from collections import deque
from collections.abc import Callable
from itertools import count

import simpy


class Machine:
    """Some cores. When all are busy each is slower than one alone: they share caches, memory and perhaps a real core.

    Args:
        env: the simulation.
        cores: how many; a single one is slow always, as one of many whose others are busy.
        slowdown: how many times as long the same work takes on a core while all are busy; in proportion between.
    """

    def __init__(self, env: simpy.Environment, cores: int, *, slowdown: float = 1.0) -> None:
        self._slowdown, self._busy = slowdown, 0
        self.cores = [Core(env, self._turned) for _ in range(cores)]

    def idlest(self) -> "Core":
        """The core with the least to do now."""
        return min(self.cores, key=lambda core: core.weight)

    def _turned(self, change: int) -> None:
        self._busy += change
        others = len(self.cores) - 1
        share = max(0, self._busy - 1) / others if others else 1.0
        for core in self.cores:
            core.set_speed(1 / (1 + share * (self._slowdown - 1)))


class Core:
    """A core, shared by weight among all that want it (generalised processor sharing), as Linux shares it.

    Work is done in *virtual time*, which passes at the core's speed over the sum of weights: what each job still needs
    never has to be counted anew when another comes or goes. Source: A. Parekh, R. Gallager, "A Generalized Processor
    Sharing Approach to Flow Control" (1993).

    Attributes:
        weight: of all jobs that want it now.
    """

    def __init__(self, env: simpy.Environment, turned: Callable[[int], None]) -> None:
        """Args: `turned` is told +1 when the core begins to be busy and -1 when it ends."""
        self._env, self._turned = env, turned
        self._jobs: list[tuple[float, int, float, simpy.Event]] = []  # virtual end, order, weight, what to tell
        self._order = count()
        self._speed, self._virtual, self._looked = 1.0, 0.0, env.now
        self._plan = 0  # of the alarm that still counts; those set before are void
        self.weight = 0.0

    def work(self, seconds: float, weight: float = 1.0) -> simpy.Event:
        """What happens when so many seconds of this core, were it alone, have been spent."""
        done = self._env.event()
        if seconds <= 0:
            return done.succeed()
        self._look()
        heapq.heappush(self._jobs, (self._virtual + seconds / weight, next(self._order), weight, done))
        self.weight += weight
        if len(self._jobs) == 1:
            self._turned(1)
        self._set_alarm()
        return done

    def set_speed(self, speed: float) -> None:
        """Go on at another speed; 1 is that of a core alone."""
        if speed != self._speed:
            self._look()
            self._speed = speed
            self._set_alarm()

    def _look(self) -> None:
        if self._jobs:
            self._virtual += (self._env.now - self._looked) * self._speed / self.weight
        self._looked = self._env.now

    def _set_alarm(self) -> None:
        self._plan += 1
        if self._jobs:
            left = max(0.0, self._jobs[0][0] - self._virtual) * self.weight / self._speed
            alarm = self._env.timeout(left, self._plan)
            assert alarm.callbacks is not None
            alarm.callbacks.append(self._ring)

    def _ring(self, alarm: simpy.Event) -> None:
        if alarm.value != self._plan:
            return
        self._look()
        virtual_end, _, weight, done = heapq.heappop(self._jobs)
        self._virtual = virtual_end  # exactly: rounding would leave it a little before
        self.weight = self.weight - weight if self._jobs else 0.0
        done.succeed()
        if not self._jobs:
            self._turned(-1)
        self._set_alarm()


class Thread:
    """Does one job after the other, in the order in which they came.

    Args:
        env: the simulation.
        place: gives the core for each job.
        weight: its share of the core, beside others there.
    """

    def __init__(self, env: simpy.Environment, place: Callable[[], Core], *, weight: float = 1.0) -> None:
        self._env, self._place, self._weight = env, place, weight
        self._waiting: deque[tuple[float, simpy.Event]] = deque()
        self._at_work = False

    def do(self, seconds: float) -> simpy.Event:
        """What happens when this job is done."""
        done = self._env.event()
        self._waiting.append((seconds, done))
        if not self._at_work:
            self._next()
        return done

    def _next(self) -> None:
        self._at_work = bool(self._waiting)
        if self._waiting:
            seconds, done = self._waiting.popleft()
            worked = self._place().work(seconds, self._weight)
            assert worked.callbacks is not None

            def ended(_: object) -> None:
                done.succeed()
                self._next()

            worked.callbacks.append(ended)
