"""What must be true of a log at rest, whatever has happened to it. Works on any Redis that holds one.

Each check reads the raw keys and yields a sentence for everything it finds wrong.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from eventstore import codec, keys
from eventstore.connection import Pipe
from eventstore.errors import CommandFailed
from eventstore.schema import ORIGIN, OrgId, Position
from tests.support.snapshots import Snapshot, snapshot

Fields = dict[bytes, bytes]
Entries = dict[Position, Fields]


async def assert_invariants(pipe: Pipe, *organizations: OrgId) -> None:
    """Fails with every violation found, of all organizations of the store unless some are named."""
    found = []
    for org in organizations or await organizations_of(pipe):
        found += [f"{org}: {sentence}" for sentence in await violations(pipe, org)]
    assert not found, "\n".join(found)


async def organizations_of(pipe: Pipe) -> list[OrgId]:
    state = await snapshot(pipe, "tl:*:log")
    return [OrgId(name.split(":")[2]) for name in state if name.count(":") == 3]


async def violations(pipe: Pipe, org: OrgId) -> list[str]:
    own = keys.of(org)
    state = await snapshot(pipe, own.prefix + "*")
    log, tok = _entries(state.get(own.log, ())), _entries(state.get(own.tok, ()))
    work = await snapshot(pipe, own.work)
    delayed = await pipe.call("ZRANGE", own.delay, 0, -1)
    doorbells = {
        entry_id: fields[3].decode()
        for entry_id, fields in work.get(own.work, ())
        if len(fields) == 4 and fields[1].decode() == org
    }
    reachable = await _reachable(pipe, own.work, work)
    waiting = {m.decode().partition("|")[2] for m in delayed if m.decode().partition("|")[0] == org}
    listed = await pipe.call("ZRANGE", keys.parked(own.shard), 0, -1)
    stopped = {m.decode().partition("|")[2] for m in listed if m.decode().partition("|")[0] == org}
    return [
        *_clock(state.get(own.meta, {}), log, tok),
        *_facts(state.get(own.meta, {}), log),
        *_conversations(own, state, log),
        *_runs(own, state, log, tok),
        *_lanes(own, state, log, doorbells, reachable, waiting, stopped),
        *_pending(own, state),
    ]


def _pending(own: keys.OrgKeys, state: Snapshot) -> Iterator[str]:
    queued = sum(len(queue) for name, queue in state.items() if _is(own, name, "l", "q"))
    if (counted := int(state.get(own.meta, {}).get(b"q", 0))) != queued:
        yield f"{queued} items are queued, the record counts {counted}"


def _clock(meta: Fields, log: Entries, tok: Entries) -> Iterator[str]:
    if not log and not tok:
        return
    latest = max([*log, *tok])
    clock = Position(int(meta.get(b"ms", 0)), int(meta.get(b"sq", 0)))
    if clock < latest:
        yield f"the clock is at {clock}, behind the event at {latest}"
    if both := log.keys() & tok.keys():
        yield f"a fact and a delta share a position: {sorted(both)}"
    if log and (last := int(log[max(log)][b"n"])) != int(meta.get(b"n", 0)):
        yield f"the last fact is number {last}, the record says {meta.get(b'n')!r}"


def _facts(meta: Fields, log: Entries) -> Iterator[str]:
    numbers = [int(fields[b"n"]) for fields in log.values()]
    if numbers and numbers[0] != 1 and b"tp" not in meta:
        yield f"numbers begin at {numbers[0]}, and nothing was trimmed"
    if numbers and numbers != list(range(numbers[0], numbers[0] + len(numbers))):
        yield f"numbers are not dense: {numbers}"
    for position, fields in log.items():
        type_, conversation, actor = fields[b"t"], fields[b"c"].decode(), fields[b"a"].decode()
        if fields[b"h"] != codec.digest(type_, conversation, actor, fields[b"d"], fields[b"p"]):
            yield f"the digest at {position} is not that of its content"


def _conversations(own: keys.OrgKeys, state: Snapshot, log: Entries) -> Iterator[str]:
    by_conversation: dict[str, list[tuple[Position, int]]] = defaultdict(list)
    for position, fields in log.items():
        if fields[b"c"]:
            by_conversation[fields[b"c"].decode()].append((position, int(fields[b"v"])))
    indexed = {name[len(own.prefix) + 2 : -3] for name in state if _is(own, name, "c", "ix")}
    for conversation in by_conversation.keys() | indexed:
        facts = by_conversation.get(conversation, [])
        record, index = own.conversation(conversation)
        ids = [Position.parse(entry) for entry in state.get(index, ())]
        if _untrimmed(ids, log) != [position for position, _ in facts]:
            yield f"index of {conversation} is {_text(ids)}, its facts are {_text(p for p, _ in facts)}"
        versions = [version for _, version in facts]
        if versions and versions != list(range(versions[0], versions[0] + len(versions))):
            yield f"versions of {conversation} are not dense: {versions}"
        if facts:
            stored = state.get(record, {})
            if int(stored.get(b"v", 0)) != versions[-1]:
                yield f"{conversation} ends at {versions[-1]} ({facts[-1][0]}), its record says {stored}"


def _runs(own: keys.OrgKeys, state: Snapshot, log: Entries, tok: Entries) -> Iterator[str]:
    for entries, part in ((log, "f"), (tok, "d")):
        by_run: dict[str, list[Position]] = defaultdict(list)
        for position, fields in entries.items():
            if fields[b"r"]:
                by_run[fields[b"r"].decode()].append(position)
        indexed = {name[len(own.prefix) + 4 : -2] for name in state if _is(own, name, "run", part)}
        for run in by_run.keys() | indexed:
            listed = state.get(f"{own.prefix}run:{run}:{part}", ())
            ids = [Position.parse(item.partition(b"\0")[0]) for item in listed]
            for delta in codec.deltas(own.org, run.encode(), listed[0], listed) if part == "d" and listed else ():
                if delta.position in tok and delta != codec.recorded(own.org, *_stored(delta.position, tok)):
                    yield f"index d of run {run} says {delta}, the stream {tok[delta.position]}"
            if _untrimmed(ids, entries) != by_run.get(run, []):
                yield f"index {part} of run {run} is {_text(ids)}, its entries are {_text(by_run.get(run, []))}"


def _lanes(
    own: keys.OrgKeys,
    state: Snapshot,
    log: Entries,
    doorbells: dict[bytes, str],
    reachable: set[bytes],
    waiting: set[str],
    stopped: set[str],
) -> Iterator[str]:
    parked = {lane.decode() for lane in state.get(own.parked, [])[::2]}
    if stopped != parked:
        yield f"parked are {sorted(parked)}, those of the shard are {sorted(stopped)}"
    lanes = {name[len(own.prefix) + 2 : -2] for name in state if _is(own, name, "l", "m") or _is(own, name, "l", "q")}
    for lane in lanes | parked:
        record_key, queue_key = own.lane(lane)
        record, queue = state.get(record_key, {}), state.get(queue_key, [])
        items = [Position.parse(item) for item in queue]
        if items != sorted(set(items)):
            yield f"queue of {lane} is out of order: {_text(items)}"
        if _untrimmed(items, log) != [item for item in items if item in log]:
            yield f"queue of {lane} names what the log does not hold: {_text(items)}"
        bell = record.get(b"w", b"")
        rings = doorbells.get(bell) == lane
        if record.get(b"s") == b"parked":
            if lane not in parked or not queue:
                yield f"{lane} is parked with {len(queue)} items, listed as parked: {lane in parked}"
        elif lane in parked:
            yield f"{lane} is listed as parked and is not"
        elif queue and not rings and lane not in waiting:
            yield f"{lane} has work, no doorbell and no delay: {record}"
        elif rings and bell not in reachable:
            yield f"the doorbell of {lane} was acknowledged and will not be seen again: {bell!r}"
        elif not queue and not rings:
            yield f"{lane} has a record and neither work nor doorbell: {record}"


async def _reachable(pipe: Pipe, work: str, state: Snapshot) -> set[bytes]:
    """Doorbells that some worker will still get: not handed out yet, or handed out and not acknowledged."""
    entries = [entry_id for entry_id, _ in state.get(work, ())]
    try:
        groups = await pipe.call("XINFO", "GROUPS", work)
    except CommandFailed:
        return set(entries)  # no stream, so no group either: a new one starts at its beginning
    for group in groups:
        about = dict(zip(group[::2], group[1::2], strict=True))
        if about[b"name"] == keys.WORKERS_GROUP.encode():
            seen = Position.parse(about[b"last-delivered-id"])
            handed_out = {entry for entry, _ in state.get(work + " pending", ())}
            return {entry for entry in entries if Position.parse(entry) > seen or entry in handed_out}
    return set(entries)


def _entries(stream: Any) -> Entries:
    return {Position.parse(entry_id): dict(zip(fields[::2], fields[1::2], strict=True)) for entry_id, fields in stream}


def _stored(position: Position, entries: Entries) -> tuple[bytes, list[bytes]]:
    return str(position).encode(), [part for field in entries[position].items() for part in field]


def _untrimmed(ids: list[Position], entries: Entries) -> list[Position]:
    """Without what lies before the first entry that retention has left."""
    first = min(entries, default=None)
    if first is None:
        return []
    return [position for position in ids if position >= max(first, ORIGIN)]


def _is(own: keys.OrgKeys, name: str, family: str, part: str) -> bool:
    return name.startswith(f"{own.prefix}{family}:") and name.endswith(f":{part}")


def _text(positions: Any) -> str:
    return "[" + " ".join(str(position) for position in positions) + "]"
