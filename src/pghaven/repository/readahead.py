"""Packs read ahead: what is needed next is on its way from a server while what came before is used.

The one idea: whoever reads packs one after another tells of each as soon as he knows of it. One thread then asks for
their indexes and another for their ranges, in that order and across packs, so the line is never idle while there is
room. Room is two ranges: the one that is used and the one that comes; so memory does not depend on how many packs wait.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from queue import SimpleQueue

from pghaven.repository.codec import Buffer
from pghaven.repository.container import Index
from pghaven.repository.pack import PackPlace, PackRef, Span, list_spans, load_pack_index, open_span

RANGES_HELD = 2
# Work may come in parts of a pack, from few packs at a time.
_INDEXES_KEPT = 4

Choose = Callable[[Index], Iterable[int]]
"""Which frames of a pack are needed, in increasing order."""


class Reading:
    """One pack on its way. What comes after it waits until it is read to its end, or left."""

    def __init__(self, place: PackPlace, ref: PackRef, choose: Choose, room: threading.Semaphore) -> None:
        self.place = place
        self.ref = ref
        self.found: Future[Index] = Future()
        self._choose = choose
        self._room = room
        self._lock = threading.Lock()
        self._is_left = False
        self._came: SimpleQueue[tuple[Span, Buffer] | BaseException | None] = SimpleQueue()

    @property
    def index(self) -> Index:
        """The proven index; waits for it. Raises as ``load_pack_index``."""
        return self.found.result()

    def iter_frames(self) -> Iterator[tuple[int, Buffer]]:
        """The proven frames that were chosen, in their order. Raises as ``iter_pack_frames``, and what choosing did."""
        index = self.index
        try:
            while (came := self._came.get()) is not None:
                if isinstance(came, BaseException):
                    raise came
                try:
                    yield from open_span(self.place, self.ref, index, *came)
                finally:
                    del came  # before the next range may take its place
                    self._room.release()
        finally:
            self._leave()

    def _leave(self) -> None:
        with self._lock:
            self._is_left = True
            while not self._came.empty():
                if isinstance(self._came.get(), tuple):
                    self._room.release()

    def fetch(self) -> None:
        """All ranges, each when there is room: what the thread does that fetches."""
        store, name = self.place.store, self.place.name(self.ref.label, self.ref.id)
        try:
            index = self.index
            for span in list_spans(store, index, self._choose(index)):
                self._room.acquire()
                if not self._deliver(span, lambda span=span: store.read_range(name, span.start, span.length)):  # type: ignore[misc]
                    return
            self._came.put(None)
        except BaseException as error:  # noqa: BLE001  the root of a thread; raised again by whoever reads
            self._came.put(error)

    def _deliver(self, span: Span, fetch: Callable[[], Buffer]) -> bool:
        """Pass a range on, with the room it takes; false when nobody wants more."""
        is_passed = False
        try:
            content = b"" if self._is_left else fetch()
            with self._lock:
                if not self._is_left:
                    self._came.put((span, content))
                    is_passed = True
        finally:
            if not is_passed:
                self._room.release()
        return is_passed


class ReadAhead:
    """The packs that one process reads, in the order it tells of them. ``begin`` may be called from any thread."""

    def __init__(self, place: PackPlace) -> None:
        self._place = place
        self._room = threading.Semaphore(RANGES_HELD)
        self._to_find: SimpleQueue[Reading | None] = SimpleQueue()
        self._to_fetch: SimpleQueue[Reading | None] = SimpleQueue()
        self._kept: OrderedDict[bytes, Index] = OrderedDict()
        # Not waited for at the end of the process: what they are asking then nobody wants.
        for name, work in (("indexes", self._find), ("ranges", self._fetch)):
            threading.Thread(target=work, name=name, daemon=True).start()

    def begin(self, ref: PackRef, choose: Choose) -> Reading:
        """Have a pack read after those that were begun before. ``choose`` is called in another thread."""
        reading = Reading(self._place, ref, choose, self._room)
        self._to_find.put(reading)
        self._to_fetch.put(reading)
        return reading

    def close(self) -> None:
        """Nothing more comes; what was begun and not read is left."""
        self._to_find.put(None)
        self._to_fetch.put(None)

    def _find(self) -> None:
        while (reading := self._to_find.get()) is not None:
            ref = reading.ref
            try:
                index = self._kept.pop(ref.id, None) or load_pack_index(self._place, ref)
            except BaseException as error:  # noqa: BLE001  the root of a thread; raised again by whoever reads
                reading.found.set_exception(error)
                continue
            self._kept[ref.id] = index
            if len(self._kept) > _INDEXES_KEPT:
                self._kept.popitem(last=False)
            reading.found.set_result(index)

    def _fetch(self) -> None:
        while (reading := self._to_fetch.get()) is not None:
            reading.fetch()
