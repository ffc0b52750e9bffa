"""The check: a pure function from records to anomalies."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import NamedTuple

from checker.records import (
    Acked,
    Event,
    Final,
    Joined,
    Kind,
    Live,
    Lost,
    Moved,
    Records,
    Seen,
    Sent,
    SentOnce,
)

__all__ = ["Anomaly", "check"]

#: The place of a publication: room, epoch and offset.
Place = tuple[str, str, int]
#: A user who returns within 5 s is not announced. The second less allows for a busy machine.
GRACE_S = 4.0
#: How late a client that stopped reading can receive a leave.
LATE_S = 10.0
#: The client that reads the rooms at the end. It joins and leaves, and is not in a `Final`.
READER = "reader"
#: A room with more users does not announce each of them.
MAX_LISTED_USERS = 200


class Anomaly(NamedTuple):
    kind: Kind
    room: str
    detail: str

    def __str__(self) -> str:
        return f"{self.kind.name} ({self.kind}): {self.room}: {self.detail}"


def check(records: Records) -> list[Anomaly]:
    """Return every way in which `records` break a promise; an empty list if none is broken."""
    sightings = _sightings(records)
    return [
        *_views(records),
        *_epochs(records),
        *_places(sightings),
        *_identities(records, sightings),
        *_kept(records, sightings),
        *_acknowledgements(records),
        *_final_histories(records),
        *_pages(records, sightings),
        *_presence(records),
        *_machines(records),
        *_leftovers(records, sightings),
        *(Anomaly(Kind.UNSETTLED, "", what) for what in records.unsettled),
    ]


def _sightings(records: Records) -> dict[Place, set[Seen]]:
    """All received publications by place. A live publication has the epoch of its client's join."""
    sightings: dict[Place, set[Seen]] = defaultdict(set)
    for events in records.clients.values():
        epochs: dict[str, str] = {}
        for event in events:
            if isinstance(event, Joined):
                epochs[event.room] = event.position.epoch
                for each in event.publications:
                    sightings[event.room, event.position.epoch, each.offset].add(each)
            elif isinstance(event, Live):
                each = event.publication
                sightings[each.room, epochs.get(each.room, ""), each.offset].add(each)
    return sightings


# Each client's view


def _views(records: Records) -> Iterator[Anomaly]:
    for client, events in records.clients.items():
        yield from _view(client, events)


def _view(client: str, events: Iterable[Event]) -> Iterator[Anomaly]:
    newest: dict[str, int] = {}
    in_view: dict[str, set[int]] = {}
    for event in events:
        if isinstance(event, Lost):
            newest.clear()
        elif isinstance(event, Joined):
            yield from _joined(client, event)
            newest[event.room] = event.position.offset
            in_view[event.room] = {each.offset for each in event.publications}
        elif isinstance(event, Live):
            room, offset = event.publication.room, event.publication.offset
            before = newest.get(room)
            if before is None:
                yield Anomaly(Kind.ORDER, room, f"{client} got {offset} before it had joined")
                continue
            if offset > before + 1:
                yield Anomaly(Kind.GAP, room, f"{client} got {offset} after {before}")
            elif offset in in_view[room]:
                yield Anomaly(Kind.DOUBLE, room, f"{client} got {offset} twice")
            elif offset <= before:
                yield Anomaly(Kind.ORDER, room, f"{client} got {offset} after {before}")
            in_view[room].add(offset)
            newest[room] = max(before, offset)


def _joined(client: str, joined: Joined) -> Iterator[Anomaly]:
    if not joined.recovered:
        return
    since, position = joined.since, joined.position
    if since is None:
        yield Anomaly(Kind.RECOVERY, joined.room, f"{client} recovered from nowhere")
    elif since.epoch != position.epoch:
        yield Anomaly(Kind.EPOCH, joined.room, f"{client} from {since} to {position}")
    else:
        offsets = [each.offset for each in joined.publications]
        if offsets != list(range(since.offset + 1, position.offset + 1)):
            yield Anomaly(
                Kind.RECOVERY, joined.room, f"{client} from {since} to {position}: {offsets}"
            )


def _epochs(records: Records) -> Iterator[Anomaly]:
    """A room has one epoch, and another one after each time that an older history was put back."""
    epochs: dict[str, set[str]] = defaultdict(set)
    for events in records.clients.values():
        for event in events:
            if isinstance(event, Joined):
                epochs[event.room].add(event.position.epoch)
    for room, final in records.final.items():
        epochs[room].add(final.position.epoch)
    for room, found in epochs.items():
        if len(found) > 1 + records.restores:
            yield Anomaly(Kind.RENEWED, room, f"{sorted(found)}, {records.restores} restores")


# Views compared with each other


def _places(sightings: dict[Place, set[Seen]]) -> Iterator[Anomaly]:
    for (room, _, offset), all_seen in sightings.items():
        if len({each[:5] for each in all_seen}) > 1:
            yield Anomaly(Kind.REUSED, room, f"{offset}: {all_seen}")
        elif len(_texts(all_seen)) > 1:
            yield Anomaly(Kind.CONTENT, room, f"{offset}: {all_seen}")


def _texts(all_seen: Iterable[Seen]) -> set[str]:
    """The texts of a publication as it was sent, without texts from after an edit or a deletion.

    A deletion also removes the texts of the message's edits.
    """
    as_sent = {each.text for each in all_seen if not each.edited and not each.deleted}
    return as_sent - {""}


def _identities(records: Records, sightings: dict[Place, set[Seen]]) -> Iterator[Anomaly]:
    sent = {
        (event.room, event.username, event.id): event.text
        for events in records.clients.values()
        for event in events
        if isinstance(event, Sent)
    }
    sent_once = {
        (event.room, event.username, event.text)
        for events in records.clients.values()
        for event in events
        if isinstance(event, SentOnce)
    }
    # A message of a copy that was put back has a place in the old epoch and in the new one.
    places: dict[tuple[str, str, str, str], set[tuple[str, int]]] = defaultdict(set)
    for (room, epoch, offset), all_seen in _with_final(records, sightings).items():
        for each in all_seen:
            if each.kind != "message":
                continue
            identity = (room, each.username, each.id or "")
            if each.id is None:
                # Its text is its identity, as long as it has it.
                if not each.edited and not each.deleted:
                    places[room, each.username, each.text, epoch].add((epoch, offset))
                    if (room, each.username, each.text) not in sent_once:
                        yield Anomaly(Kind.PHANTOM, room, f"{each}")
                continue
            places[*identity, epoch].add((epoch, offset))
            if identity not in sent:
                yield Anomaly(Kind.PHANTOM, room, f"{each}")
            elif not each.edited and not each.deleted and each.text != sent[identity]:
                yield Anomaly(Kind.CONTENT, room, f"sent {sent[identity]!r}, got {each}")
    for identity, where in places.items():
        if len(where) > 1:
            yield Anomaly(Kind.TWICE, identity[0], f"{identity} at {sorted(where)}")


def _with_final(
    records: Records, sightings: dict[Place, set[Seen]]
) -> dict[Place, set[Seen] | frozenset[Seen]]:
    together: dict[Place, set[Seen] | frozenset[Seen]] = {**sightings}
    for room, final in records.final.items():
        for row in final.rows:
            place = (room, final.position.epoch, row.offset)
            together[place] = {*together.get(place, ()), row}
    return together


# Views compared with the stored history


def _kept(records: Records, sightings: dict[Place, set[Seen]]) -> Iterator[Anomaly]:
    """Each received publication is in the file and in the pages, unless the history dropped it."""
    rows = {room: {row.offset: row for row in final.rows} for room, final in records.final.items()}
    for (room, epoch, offset), all_seen in sightings.items():
        final = records.final.get(room)
        if records.restores and final is not None and final.position.epoch != epoch:
            continue  # it was lost with the history of this epoch, or is in the copy as well
        if final is None or final.position.epoch != epoch:
            yield Anomaly(Kind.LOST, room, f"{offset}, and all of epoch {epoch}")
            continue
        row = rows[room].get(offset)
        if row is None:
            if offset >= min(rows[room], default=0):
                yield Anomaly(Kind.LOST, room, f"{offset} is not in the file: {all_seen}")
        elif any(each[:5] != row[:5] for each in all_seen):
            yield Anomaly(Kind.REUSED, room, f"{offset}: in the file {row}, seen {all_seen}")
        elif row.kind == "message" and len(_texts({row, *all_seen})) > 1:
            yield Anomaly(Kind.CONTENT, room, f"{offset}: in the file {row}, seen {all_seen}")


def _acknowledgements(records: Records) -> Iterator[Anomaly]:
    for client, events in records.clients.items():
        epochs: dict[str, str] = {}
        for event in events:
            if isinstance(event, Joined):
                epochs[event.room] = event.position.epoch
            if not isinstance(event, Acked):
                continue
            final = records.final.get(event.room)
            if records.restores and final and epochs.get(event.room) != final.position.epoch:
                continue
            rows = {row.offset: row for row in final.rows} if final else {}
            row = rows.get(event.offset)
            detail = f"{client}: {event.id} at {event.offset}"
            if row is None and event.offset >= min(rows, default=0):
                yield Anomaly(Kind.LOST, event.room, f"{detail} is not in the file")
            elif row is not None and (row.id, row.username) != (event.id, event.username):
                yield Anomaly(Kind.ACK, event.room, f"{detail}, where the file has {row}")


def _final_histories(records: Records) -> Iterator[Anomaly]:
    for room, final in records.final.items():
        offsets = [row.offset for row in final.rows]
        for before, offset in pairwise(offsets):
            if offset != before + 1:
                yield Anomaly(Kind.GAP, room, f"the file has {offset} after {before}")
        if offsets and offsets[-1] != final.position.offset:
            yield Anomaly(
                Kind.GAP, room, f"the file ends at {offsets[-1]}, the room at {final.position}"
            )
        expected = [row.offset for row in final.rows if row.kind == "message"]
        if [each.offset for each in final.pages] != expected:
            yield Anomaly(Kind.PAGE, room, "the pages have other messages than the file")


# Pages compared with the stream


def _pages(records: Records, sightings: dict[Place, set[Seen]]) -> Iterator[Anomaly]:
    """Each page has the newest messages, in their state at the page's position."""
    streams = {room: _Stream(room, final, sightings) for room, final in records.final.items()}
    for client, events in records.clients.items():
        for event in events:
            if not isinstance(event, Joined) or event.room not in streams:
                continue
            stream, position = streams[event.room], event.position
            if position.epoch != stream.epoch:
                continue  # the epoch is lost, which _kept() reports
            if not event.recovered and not stream.has_newest(event):
                yield Anomaly(Kind.PAGE, event.room, f"{client} at {position}: {event}")
            for each in event.publications:
                if each.kind == "message" and not stream.allows(each, position.offset):
                    yield Anomaly(Kind.FOLD, event.room, f"{client} at {position}: {each}")
    for room, final in records.final.items():
        for each in (*final.pages, *(row for row in final.rows if row.kind == "message")):
            if not streams[room].allows(each, final.position.offset):
                yield Anomaly(Kind.FOLD, room, f"at the end: {each}")


class _Stream:
    """A room's whole stream, from received publications and the rows of the file."""

    def __init__(self, room: str, final: Final, sightings: dict[Place, set[Seen]]) -> None:
        self.epoch = final.position.epoch
        self._messages = [row.offset for row in final.rows if row.kind == "message"]
        self._originals: dict[int, str | None] = {}
        self._changes: dict[int, list[Seen]] = defaultdict(list)
        for row in final.rows:
            all_seen = {row, *sightings.get((room, self.epoch, row.offset), ())}
            texts = _texts(all_seen)
            text = texts.pop() if texts else None  # None: no client got it before it was changed
            if row.kind == "message":
                self._originals[row.offset] = text
            else:
                self._changes[row.facts[2]].append(row._replace(text=text or ""))

    def has_newest(self, joined: Joined) -> bool:
        """Whether a newcomer's page had the messages that were newest then."""
        offsets = [each.offset for each in joined.publications]
        kept = [offset for offset in self._messages if offset <= joined.position.offset]
        # The history can have dropped its oldest messages since.
        offsets = [offset for offset in offsets if not kept or offset >= kept[0]]
        return offsets == kept[len(kept) - len(offsets) :]

    def allows(self, message: Seen, at: int) -> bool:
        """Whether a message was in this state when the stream ended at offset `at`."""
        text = self._originals.get(message.offset)
        edited, deleted, reactions = None, False, dict[str, list[str]]()
        for change in self._changes.get(message.offset, ()):
            if change.offset > at:
                break
            username, timestamp, _, emoji, remove = change.facts
            if change.kind == "edit":
                text, edited = change.text or None, timestamp
            elif change.kind == "delete":
                text, edited, deleted = "", None, True
                reactions.clear()
            else:
                names = [name for name in reactions.pop(emoji, ()) if name != username]
                if not remove:
                    names.append(username)
                if names:
                    reactions[emoji] = names
        folded = tuple(sorted((emoji, tuple(names)) for emoji, names in reactions.items()))
        return (message.edited, message.deleted, message.reactions) == (
            edited,
            deleted,
            folded,
        ) and text in (None, message.text)


# Presence


def _presence(records: Records) -> Iterator[Anomaly]:
    absences = _absences(records)
    there = _there(records)
    for client, events in records.clients.items():
        yield from _announced(client, events, absences)
        yield from _views_of_rooms(client, events, records)
    for room, final in records.final.items():
        if final.online <= MAX_LISTED_USERS and set(final.users) != there[room]:
            differing = sorted(set(final.users) ^ there[room])
            yield Anomaly(Kind.ROSTER, room, f"at the end, present or absent: {differing}")
        for name in final.doubles:
            yield Anomaly(Kind.NAME, room, f"another user could take the name {name}, too")


def _there(records: Records) -> dict[str, set[str]]:
    """The users of each room at the end, from the clients' own records."""
    there: dict[str, set[str]] = defaultdict(set)
    for client, events in records.clients.items():
        for event in events:
            if isinstance(event, Joined):
                there[event.room].add(client)
            elif isinstance(event, Lost):
                for users in there.values():
                    users.discard(client)
    return there


def _absences(records: Records) -> dict[tuple[str, str], list[tuple[float, float]]]:
    """The times at which each client left a room, and returned to it or did not."""
    absences: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    for place, times in records.absences.items():
        absences[place] += times
    for client, events in records.clients.items():
        left: dict[str, float] = {}
        joined: set[str] = set()
        for event in events:
            if isinstance(event, Joined):
                if event.room in left:
                    absences[client, event.room].append((left.pop(event.room), event.at))
                joined.add(event.room)
            elif isinstance(event, Lost):
                left |= dict.fromkeys(joined, event.at)
                joined.clear()
        for room, at in left.items():
            absences[client, room].append((at, float("inf")))
        for room, machine, joined_at, lost_at in _stays(events):
            for outage in records.outages:
                if (
                    outage.machine == machine
                    and joined_at < outage.ended
                    and outage.began < lost_at
                ):
                    # Its machine was silent, so the client was away without knowing it.
                    absence = max(outage.began, joined_at), min(outage.ended, lost_at)
                    absences[client, room].append(absence)
    return absences


def _stays(events: Iterable[Event]) -> Iterator[tuple[str, int, float, float]]:
    """The times in which a client was in a room, by its own records, and on which machine."""
    stays: dict[str, tuple[int, float]] = {}
    for event in events:
        if isinstance(event, Joined):
            stays.setdefault(event.room, (event.machine, event.at))
        elif isinstance(event, Lost):
            for room, (machine, joined_at) in stays.items():
                yield room, machine, joined_at, event.at
            stays.clear()
    for room, (machine, joined_at) in stays.items():
        yield room, machine, joined_at, float("inf")


def _announced(
    client: str,
    events: Iterable[Event],
    absences: dict[tuple[str, str], list[tuple[float, float]]],
) -> Iterator[Anomaly]:
    """Each user whose leave is announced was away for at least the grace period."""
    for event in events:
        if (
            isinstance(event, Moved)
            and not event.came
            and event.username != READER
            and not any(
                back - left >= GRACE_S and left + GRACE_S <= event.at <= back + LATE_S
                for left, back in absences[event.username, event.room]
            )
        ):
            yield Anomaly(Kind.AWAY, event.room, f"{client} was told {event}")


def _views_of_rooms(client: str, events: Iterable[Event], records: Records) -> Iterator[Anomaly]:
    """Every join and leave is announced, so that each client has the right users and number."""
    views: dict[str, set[str]] = {}
    for event in events:
        if isinstance(event, Lost):
            views.clear()
        elif isinstance(event, Joined):
            if len(set(event.users)) != len(event.users):
                yield Anomaly(Kind.NAME, event.room, f"{client} found {sorted(event.users)}")
            if event.online <= MAX_LISTED_USERS:
                views[event.room] = set(event.users)
        elif isinstance(event, Moved) and (view := views.get(event.room)) is not None:
            (view.add if event.came else view.discard)(event.username)
            if len(view) != event.online:
                yield Anomaly(Kind.ROSTER, event.room, f"{client} was told {event}: {sorted(view)}")
                del views[event.room]  # report it once
    for room, view in views.items():
        final = records.final.get(room)
        if final is not None and view - {READER} != set(final.users):
            differing = sorted((view - {READER}) ^ set(final.users))
            yield Anomaly(Kind.ROSTER, room, f"{client} is wrong at the end about {differing}")


# Several machines


def _machines(records: Records) -> Iterator[Anomaly]:
    """At the end, all machines have the same messages and users in every room."""
    for number, rooms in enumerate(records.machines):
        for room, final in records.final.items():
            other = rooms[room]
            if other.position[:2] != final.position[:2]:
                detail = f"machine {number} is at {other.position}, the first at {final.position}"
                yield Anomaly(Kind.MACHINES, room, detail)
            elif other.pages != final.pages:
                differing = sorted({*other.pages} ^ {*final.pages})
                yield Anomaly(Kind.MACHINES, room, f"machine {number} differs in {differing}")
            users, others = {*final.users}, {*other.users}
            if users != others:
                detail = f"machine {number} differs in {sorted(users ^ others)}"
                yield Anomaly(Kind.MACHINES, room, detail)
            for name in other.doubles:
                detail = f"another user could take the name {name} on machine {number}"
                yield Anomaly(Kind.NAME, room, detail)


def _leftovers(records: Records, sightings: dict[Place, set[Seen]]) -> Iterator[Anomaly]:
    """The text of a deleted message, and those of its edits, are nowhere any more."""
    if not records.stored:
        return
    for room, final in records.final.items():
        deleted = {row.offset for row in final.rows if row.deleted}
        for row in final.rows:
            if row.offset not in deleted and row.facts[2] not in deleted:
                continue
            for text in _texts(sightings.get((room, final.position.epoch, row.offset), ())):
                if text in records.stored:
                    yield Anomaly(Kind.LEFTOVER, room, f"{row.offset}: {text!r}")
