"""Training examples that come while training: shuffled in a buffer, encoded, shared out, and gone on with exactly."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from luthier.data.batches.encoders import Encoder
from luthier.data.batches.packing import PACKED_TOGETHER, Packer, tokens_of
from luthier.data.batches.workers import InOrder
from luthier.data.reading.places import Reading
from luthier.data.rows.canonical import UNCHECKED
from luthier.data.schemas import TaskSchema
from luthier.errors import DataError

_ENCODED_TOGETHER = 256
Row = dict[str, Any]


class Rows(Protocol):
    """Canonical rows that can be read on from where an earlier reading was."""

    def read(self, place: Mapping[str, Any] | None = None) -> Reading[Row]:
        """The rows from a place on, from the beginning by default."""
        ...

    @property
    def checked_later(self) -> bool:
        """Whether rows can be read first and checked when they are used."""
        ...

    def read_unchecked(self, place: Mapping[str, Any] | None = None) -> Reading[Row]:
        """The rows from a place on, before they are checked."""
        ...

    def check(self, row: Row) -> Row:
        """A row of `read_unchecked`, checked."""
        ...


@dataclass(frozen=True)
class Share:
    """Which rows of a stream one process gets: of every `processes * batch_size` rows, those of one pass, the process p
    has `batch_size`, from p * batch_size on. The workers of a data loader take the passes in turn, as it asks them to.
    """

    batch_size: int = 1
    process: int = 0
    processes: int = 1

    def told(self) -> str:
        return f"process {self.process} of {self.processes} with {self.batch_size} rows at a time"

    def has(self, number: int) -> bool:
        """Whether this process, or this worker of it, has the row with that number in the stream, from 0."""
        number, within = divmod(number, self.batch_size * self.processes)
        worker = get_worker_info()
        if worker is not None and number % worker.num_workers != worker.id:
            return False
        return within // self.batch_size == self.process


@dataclass
class _Position:
    """All that decides on what a stream gives next.

    Attributes:
        seed, epoch: of the order.
        given: encoded rows (or, before they are encoded, rows) of the whole stream that all processes together took.
        place: of the source, behind the rows in the buffer; None at its beginning.
        ended: whether the source has no more rows.
        buffer: rows that are shuffled together.
        draws: where the generator of the shuffle is.
        waiting: own rows that are to be encoded and given next.
        ids, owners: tokens that are in no block yet, and the row of each.
    """

    seed: int
    epoch: int = 0
    given: int = 0
    place: Mapping[str, Any] | None = None
    ended: bool = False
    buffer: list[Row] = field(default_factory=list)
    draws: dict[str, Any] = field(default_factory=dict)
    waiting: list[Row] = field(default_factory=list)
    ids: Any = ()
    owners: Any = ()


class ShuffledStream(IterableDataset[Row]):
    """Rows of a source in the order of a shuffle buffer, encoded on the way if asked.

    Iterating gives one epoch. The order depends on the seed, the buffer and the epoch alone, not on who shares the
    stream: every process and every worker reads the source and takes its own rows of that one order, so that together
    they get each row once. Under several processes all read every row, and each checks and encodes its
    own; blocks that are cut from all texts together are made by all.

    With workers of its own, this process reads, shuffles and packs, and the workers tokenize what comes next: the rows
    and their order stay the same.

    `state_dict` has the place in the source, the rows in the buffer and all else that `load_state_dict` needs to go on
    without reading a row again; whether there are workers makes no difference to it.

    Args:
        rows: gives the rows.
        seed: of the shuffle.
        buffer: rows that are shuffled together: each one that is given is drawn among so many.
        schema: the task; needed to encode.
        encoder: how rows become token ids; None leaves them as they are.
        share: which rows are given; all by default.
        workers: processes that encode rows before they are asked for; 0 encodes them here.
    """

    def __init__(
        self,
        rows: Rows,
        *,
        seed: int,
        buffer: int,
        schema: TaskSchema | None = None,
        encoder: Encoder | None = None,
        share: Share | None = None,
        workers: int = 0,
    ) -> None:
        self.rows = rows
        self.seed, self.buffer, self.schema, self.encoder = seed, buffer, schema, encoder
        self.share = share or Share()
        self._now = _Position(seed)
        self._next: _Position | None = None
        self._reading: Reading[Row] | None = None
        self._live: _Position | None = None
        self._draw: np.random.Generator | None = None
        self._work = InOrder(partial(_tokenized, encoder, schema), workers)

    @property
    def workers(self) -> int:
        """Processes that encode its rows, beside this one."""
        return self._work.workers

    def close(self) -> None:
        """End the workers; whoever iterates again starts others."""
        self._work.close()

    @property
    def epoch(self) -> int:
        """The number of the pass over the source, from 0."""
        return (self._next or self._now).epoch

    @property
    def given(self) -> int:
        """Rows that all who share the stream were given together, over all epochs."""
        return (self._next or self._now).given

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of an epoch, and start at its beginning."""
        if epoch != self.epoch:
            self._next = _Position(self.seed, epoch)

    def next_epoch(self) -> None:
        """Begin the epoch that follows; its rows are shared out where those of the last one ended."""
        self._next = _Position(self.seed, self._now.epoch + 1, self._now.given)

    def encoded(self, options: Encoder) -> ShuffledStream:
        """The same stream, encoded for a model."""
        if self.schema is None:
            raise ValueError("a stream of no task can't be encoded")
        schema = self.schema if options.form is None else self.schema.posed_as(options.form)
        return ShuffledStream(self.rows, seed=self.seed, buffer=self.buffer, schema=schema, encoder=options)

    def shared(self, share: Share, workers: int = 0) -> ShuffledStream:
        """The same stream, of which only a share is given, encoded by so many workers."""
        return ShuffledStream(
            self.rows,
            seed=self.seed,
            buffer=self.buffer,
            schema=self.schema,
            encoder=self.encoder,
            share=share,
            workers=workers,
        )

    def state_dict(self) -> dict[str, Any]:
        """What decides on the rows behind the one that was given last."""
        now = self._next or self._now
        state = {**vars(self._here(now)), "share": vars(self.share)}
        return state | {name: torch.tensor(state[name], dtype=torch.int64) for name in ("ids", "owners")}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on behind the row that was given last when `state` was taken.

        Raises:
            DataError: the state is that of another share of the stream.
        """
        state = dict(state)
        share = Share(**state.pop("share"))
        if share != self.share:
            raise DataError(
                f"the stream was left by {share.told()}, and {self.share.told()} can't go on with it",
                fix="go on with as many processes and the same batch_size, or start afresh",
            )
        self._next = _Position(**state | {name: state[name].tolist() for name in ("ids", "owners")})

    def __iter__(self) -> Iterator[Row]:
        """The rows of an epoch, or of the rest of it.

        Raises:
            DataError: a row can't be used.
        """
        now = self._next or _Position(self.seed, self._now.epoch)
        now.buffer = list(now.buffer)
        self._now, self._next, self._reading, self._live, self._draw = now, None, None, now, None
        if self.encoder is None or self.schema is None:
            yield from self._own(self._shuffled(now), now)
        elif self.schema.packed:
            yield from self._blocks(now, self.encoder)
        else:
            yield from self._encoded(now)

    # -- reading: these move `now` behind the row that they give ----------------------------------------------------

    def _read(self, now: _Position) -> Iterator[Row]:
        if not now.ended:
            self._reading = self.rows.read_unchecked(now.place) if self._checks_own else self.rows.read(now.place)
            yield from self._reading
            now.ended = True

    def _shuffled(self, now: _Position) -> Iterator[Row]:
        draw = np.random.Generator(np.random.PCG64([now.seed, now.epoch]))
        if now.draws:
            draw.bit_generator.state = dict(now.draws)
        rows, self._draw = self._read(now), draw
        while True:
            now.buffer += itertools.islice(rows, self.buffer - len(now.buffer))
            if not now.buffer:
                return
            place = int(draw.integers(len(now.buffer)))
            now.buffer[place], now.buffer[-1] = now.buffer[-1], now.buffer[place]
            yield now.buffer.pop()

    def _own(self, rows: Iterator[Row], now: _Position) -> Iterator[Row]:
        for row in rows:
            now.given += 1
            if self.share.has(now.given - 1):
                yield self.rows.check(row) if UNCHECKED in row else row

    @property
    def _checks_own(self) -> bool:
        """Whether rows of other processes are passed over unchecked; one alone finds faults when it reads them."""
        packed = self.schema is not None and self.schema.packed and self.encoder is not None
        return self.share.processes > 1 and not packed and self.rows.checked_later

    def _here(self, now: _Position) -> _Position:
        """A copy of a position, which does not move along with what is read."""
        place, draws = now.place, copy.deepcopy(dict(now.draws))
        if now is self._live:
            place = now.place if self._reading is None else self._reading.place()
            draws = draws if self._draw is None else dict(self._draw.bit_generator.state)
        return replace(now, place=place, buffer=list(now.buffer), draws=draws)

    # -- encoding, which workers may do while more is read: the position of what was given comes along with it ---------

    def _groups(self, rows: Iterator[Row], now: _Position, size: int) -> Iterator[tuple[list[Row], _Group]]:
        if now.waiting:
            waiting, now.waiting = now.waiting, []
            yield waiting, _Group(waiting, self._here(now))
        while group := list(itertools.islice(rows, size)):
            yield group, _Group(group, self._here(now))

    def _encoded(self, now: _Position) -> Iterator[Row]:
        own = self._own(self._shuffled(now), now)
        for encoded, group in self._work(self._groups(own, now, _ENCODED_TOGETHER)):
            self._now = group.behind
            for number, row in enumerate(encoded, 1):
                group.behind.waiting = group.rows[number:]
                yield row
        self._now = now

    def _blocks(self, now: _Position, encoder: Encoder) -> Iterator[Row]:
        packer = Packer(encoder, now.ids, now.owners)
        now.ids, now.owners = packer.ids, packer.owners
        self._now = self._here(now)
        yield from self._own(packer.blocks(), self._now)
        for tokens, group in self._work(self._groups(self._shuffled(now), now, PACKED_TOGETHER)):
            group.behind.given, self._now = self._now.given, group.behind
            packer.add([row["row"] for row in group.rows], tokens)
            yield from self._own(packer.blocks(), self._now)
        now.given, self._now = self._now.given, now
        yield from self._own(packer.rest(), now)


@dataclass
class _Group:
    """Rows that are encoded together, and where the stream is behind them."""

    rows: list[Row]
    behind: _Position


def _tokenized(encoder: Encoder | None, schema: TaskSchema | None, rows: list[Row]) -> list[Any]:
    """The encoded rows; of texts that are packed, the tokens of each."""
    assert encoder is not None
    assert schema is not None
    if schema.packed:
        return tokens_of([row["text"] for row in rows], encoder)
    encoded = schema.encode({name: [row[name] for row in rows] for name in rows[0]}, encoder)
    encoder.cut.clear()
    return [{name: values[i] for name, values in encoded.items()} for i in range(len(rows))]


class EndlessStream(IterableDataset[Row]):
    """A stream that starts again, in another order, whenever it ends."""

    def __init__(self, stream: ShuffledStream) -> None:
        self.stream = stream

    @property
    def workers(self) -> int:
        """Processes that encode its rows, beside this one."""
        return self.stream.workers

    def close(self) -> None:
        """End the workers."""
        self.stream.close()

    def state_dict(self) -> dict[str, Any]:
        return self.stream.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.stream.load_state_dict(state)

    def __iter__(self) -> Iterator[Row]:
        """Raises:
        DataError: a whole pass gives no row.
        """
        given = None
        while True:
            yield from self.stream
            if self.stream.given == given:
                raise DataError("the stream holds no rows", fix="name a source with training rows")
            given = self.stream.given
            self.stream.next_epoch()
