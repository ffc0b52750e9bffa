"""The checker finds each planted anomaly, and none in correct records."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from checker import Final, Joined, Kind, Live, Lost, Position, Records, Seen, Sent, check
from checker.records import Acked, Moved, Outage, SentOnce

ROOM = "lobby"


def message(offset: int, text: str | None = None, **state: object) -> Seen:
    facts = ("ann", f"t{offset}", None, None, False)
    text = f"text {offset}" if text is None else text
    return Seen(ROOM, offset, "message", f"id{offset}", facts, text, **state)  # type: ignore[arg-type]


def change(offset: int, kind: str, target: int, text: str = "", emoji: str | None = None) -> Seen:
    return Seen(ROOM, offset, kind, None, ("ann", f"t{offset}", target, emoji, False), text)


def at(offset: int, epoch: str = "e") -> Position:
    return Position(epoch, offset)


def clean() -> Records:
    """Correct records: Ann sends three messages and changes them; Bob misses two; Cem joins late.

    From the 10th second on Bob is disconnected for a second, and Dan for a minute.
    """
    reaction = (("👍", ("ann",)),)
    stream = [
        message(1),
        message(2),
        change(3, "edit", 1, text="better"),
        message(4),
        change(5, "delete", 2),
        change(6, "react", 4, emoji="👍"),
    ]
    now = (
        message(1, "better", edited="t3"),
        message(2, "", deleted=True),
        message(4, reactions=reaction),
    )
    records = Records()
    records.clients["ann"] = [
        Joined(ROOM, None, at(0), False, (), 0.0, ("dan", "ann"), 2),
        Moved(ROOM, "bob", True, 3, 1.0),
        Moved(ROOM, "dan", False, 2, 16.0),
        Moved(ROOM, "cem", True, 3, 50.0),
        Moved(ROOM, "dan", True, 4, 70.0),
        *(Sent(ROOM, "ann", f"id{number}", f"text {number}") for number in (1, 2, 4)),
        *map(Live, stream),
        Sent(ROOM, "ann", "id4", "text 4"),
        Acked(ROOM, "ann", "id4", 4),
    ]
    records.clients["bob"] = [
        Joined(ROOM, None, at(0), False, (), 1.0, ("dan", "ann", "bob"), 3),
        *map(Live, stream[:2]),
        Lost(10.0),
        Joined(ROOM, at(2), at(4), True, tuple(stream[2:4]), 11.0, ("dan", "ann", "bob"), 3),
        Moved(ROOM, "dan", False, 2, 16.0),
        Moved(ROOM, "cem", True, 3, 50.0),
        Moved(ROOM, "dan", True, 4, 70.0),
        *map(Live, stream[4:]),
    ]
    records.clients["cem"] = [
        Joined(
            ROOM, None, at(5), False, (now[0], now[1], message(4)), 50.0, ("ann", "bob", "cem"), 3
        ),
        Live(stream[5]),
        Moved(ROOM, "dan", True, 4, 70.0),
    ]
    records.clients["dan"] = [
        Joined(ROOM, None, at(0), False, (), 0.0, ("dan",), 1),
        Lost(10.0),
        Joined(ROOM, None, at(6), False, now, 70.0, ("ann", "bob", "cem", "dan"), 4),
    ]
    rows = (now[0], now[1], stream[2], now[2], stream[4], stream[5])
    records.final[ROOM] = Final(at(6), now, rows, ("ann", "bob", "cem", "dan"), 4)
    return records


def kinds(records: Records) -> set[Kind]:
    return {anomaly.kind for anomaly in check(records)}


def final(records: Records) -> Final:
    return records.final[ROOM]


def test_clean_records_have_no_anomaly() -> None:
    """The records of a run without a fault have no anomaly."""
    assert check(clean()) == []


def test_publications_dropped_by_the_history_are_no_loss() -> None:
    """Publications that the history has dropped at its old end are not lost."""
    records = clean()
    records.final[ROOM] = final(records)._replace(
        pages=final(records).pages[1:], rows=final(records).rows[1:]
    )
    assert check(records) == []


def test_announced_change_of_epoch_is_no_anomaly_after_a_restore() -> None:
    """A client that is informed in an empty room that its position is invalid has no anomaly."""
    records = clean()
    records.clients["dan"][2:2] = [
        Joined(ROOM, at(0), at(0, "other"), False, (), 70.0, ("ann", "bob", "cem", "dan"), 4),
        Lost(71.0),
    ]
    records.restores = 1
    assert check(records) == []


def swapped(records: Records) -> None:
    events = records.clients["bob"]
    events[1], events[2] = events[2], events[1]


def gap(records: Records) -> None:
    del records.clients["bob"][1]


def gap_after_recovery(records: Records) -> None:
    del records.clients["bob"][8]


def hole_in_the_file(records: Records) -> None:
    rows = final(records).rows
    records.final[ROOM] = final(records)._replace(rows=rows[:4] + rows[5:])


def end_of_the_file_missing(records: Records) -> None:
    records.final[ROOM] = final(records)._replace(position=at(7))


def double(records: Records) -> None:
    records.clients["bob"].insert(2, records.clients["bob"][1])


def double_after_recovery(records: Records) -> None:
    records.clients["bob"].insert(8, Live(message(4)))


def before_joining(records: Records) -> None:
    records.clients["bob"].insert(4, Live(change(3, "edit", 1, text="better")))


def other_text(records: Records) -> None:
    records.clients["bob"][1] = Live(message(1, "something else"))


def other_text_than_sent(records: Records) -> None:
    records.clients["ann"][5] = Sent(ROOM, "ann", "id1", "what was meant")


def other_text_in_the_file(records: Records) -> None:
    rows = list(final(records).rows)
    rows[3] = rows[3]._replace(text="something else")
    records.final[ROOM] = final(records)._replace(rows=tuple(rows))


def other_edit(records: Records) -> None:
    joined = records.clients["bob"][4]
    assert isinstance(joined, Joined)
    edited = joined.publications[0]._replace(text="worse")
    records.clients["bob"][4] = joined._replace(publications=(edited, joined.publications[1]))


def reused(records: Records) -> None:
    records.clients["bob"][2] = Live(message(2)._replace(id="id4"))


def reused_in_the_file(records: Records) -> None:
    rows = list(final(records).rows)
    rows[5] = change(6, "react", 1, emoji="👍")
    records.final[ROOM] = final(records)._replace(rows=tuple(rows))


def seen_and_lost(records: Records) -> None:
    records.final[ROOM] = final(records)._replace(position=at(5), rows=final(records).rows[:5])


def acknowledged_and_lost(records: Records) -> None:
    records.clients = {"ann": [Acked(ROOM, "ann", "id9", 9)]}


def room_lost(records: Records) -> None:
    records.final.clear()


def history_replaced(records: Records) -> None:
    records.final[ROOM] = final(records)._replace(position=at(6, "another"))


def twice(records: Records) -> None:
    again = message(7)._replace(id="id4", text="text 4")
    records.clients["bob"].append(Live(again))
    records.final[ROOM] = final(records)._replace(
        position=at(7),
        pages=(*final(records).pages, again),
        rows=(*final(records).rows, again),
    )


def twice_in_the_file_only(records: Records) -> None:
    again = message(7)._replace(id="id4", text="text 4")
    records.final[ROOM] = final(records)._replace(
        position=at(7),
        pages=(*final(records).pages, again),
        rows=(*final(records).rows, again),
    )


def wrong_ack(records: Records) -> None:
    records.clients["ann"][-1] = Acked(ROOM, "ann", "id4", 1)


def phantom(records: Records) -> None:
    del records.clients["ann"][5]


def recovery_skipped(records: Records) -> None:
    joined = records.clients["bob"][4]
    assert isinstance(joined, Joined)
    records.clients["bob"][4] = joined._replace(publications=joined.publications[1:])


def recovery_repeated(records: Records) -> None:
    joined = records.clients["bob"][4]
    assert isinstance(joined, Joined)
    records.clients["bob"][4] = joined._replace(publications=(message(2), *joined.publications))


def recovery_short(records: Records) -> None:
    joined = records.clients["bob"][4]
    assert isinstance(joined, Joined)
    records.clients["bob"][4] = joined._replace(publications=joined.publications[:1])


def recovery_from_nowhere(records: Records) -> None:
    joined = records.clients["cem"][0]
    assert isinstance(joined, Joined)
    records.clients["cem"][0] = joined._replace(recovered=True)


def epoch_unannounced(records: Records) -> None:
    joined = records.clients["bob"][4]
    assert isinstance(joined, Joined)
    records.clients["bob"][4] = joined._replace(since=at(2, "before"))


def page_skipped(records: Records) -> None:
    joined = records.clients["cem"][0]
    assert isinstance(joined, Joined)
    first, _, third = joined.publications
    records.clients["cem"][0] = joined._replace(publications=(first, third))


def page_not_newest(records: Records) -> None:
    joined = records.clients["cem"][0]
    assert isinstance(joined, Joined)
    records.clients["cem"][0] = joined._replace(publications=joined.publications[:2])


def final_page_skipped(records: Records) -> None:
    records.final[ROOM] = final(records)._replace(pages=final(records).pages[1:])


def edit_forgotten(records: Records) -> None:
    joined = records.clients["cem"][0]
    assert isinstance(joined, Joined)
    records.clients["cem"][0] = joined._replace(publications=(message(1), *joined.publications[1:]))


def deleted_text_is_back(records: Records) -> None:
    pages = list(final(records).pages)
    pages[1] = message(2)
    records.final[ROOM] = final(records)._replace(pages=tuple(pages))


def deleted_text_stays_in_the_file(records: Records) -> None:
    rows = list(final(records).rows)
    rows[1] = message(2, deleted=True)
    records.final[ROOM] = final(records)._replace(rows=tuple(rows))


def reaction_forgotten(records: Records) -> None:
    pages = list(final(records).pages)
    pages[2] = message(4)
    records.final[ROOM] = final(records)._replace(pages=tuple(pages))


def reaction_too_early(records: Records) -> None:
    joined = records.clients["cem"][0]
    assert isinstance(joined, Joined)
    early = message(4, reactions=(("👍", ("ann",)),))
    records.clients["cem"][0] = joined._replace(publications=(*joined.publications[:2], early))


def said_to_be_gone(records: Records) -> None:
    """Bob was disconnected for only a second."""
    records.clients["ann"][2] = Moved(ROOM, "bob", False, 2, 16.0)


def said_to_be_gone_too_soon(records: Records) -> None:
    records.clients["ann"][2] = Moved(ROOM, "dan", False, 2, 11.0)


def said_to_be_gone_before(records: Records) -> None:
    records.clients["ann"].insert(1, Moved(ROOM, "cem", False, 2, 0.5))


def departure_unsaid(records: Records) -> None:
    del records.clients["bob"][5]


def arrival_unsaid(records: Records) -> None:
    """The last join is not announced, so that no number reveals it."""
    del records.clients["cem"][-1]


def wrong_number(records: Records) -> None:
    records.clients["ann"][4] = Moved(ROOM, "dan", True, 5, 70.0)


def ghost(records: Records) -> None:
    """A user is listed who is not in the room."""
    records.clients["dan"].append(Lost(80.0))


def forgotten(records: Records) -> None:
    users = ("ann", "bob", "cem")
    records.final[ROOM] = final(records)._replace(users=users, online=3)


def listed_twice(records: Records) -> None:
    joined = records.clients["dan"][2]
    assert isinstance(joined, Joined)
    users = ("ann", "bob", "bob", "cem", "dan")
    records.clients["dan"][2] = joined._replace(users=users)


def name_had_twice(records: Records) -> None:
    records.final[ROOM] = final(records)._replace(doubles=("ann",))


def unsettled(records: Records) -> None:
    records.unsettled.append("bob has not got offset 6")


def renewed(records: Records) -> None:
    """A kill, after which a client that is at the end gets another epoch."""
    records.clients["dan"].append(
        Joined(ROOM, at(6), at(6, "other"), False, (), 71.0, ("ann", "bob", "cem", "dan"), 4)
    )


def restored_without_a_new_epoch(records: Records) -> None:
    records.restores = 1
    reused(records)


def machine_is_behind(records: Records) -> None:
    _on_two_machines(records, position=at(5))


def machine_has_another_page(records: Records) -> None:
    _on_two_machines(records, pages=records.final[ROOM].pages[1:])


def machine_lacks_a_user(records: Records) -> None:
    _on_two_machines(records, users=records.final[ROOM].users[1:])


def machine_gives_a_name_twice(records: Records) -> None:
    _on_two_machines(records, doubles=("ann",))


def _on_two_machines(records: Records, **differences: object) -> None:
    final = records.final[ROOM]
    records.machines = [{ROOM: final}, {ROOM: final._replace(**differences)}]  # type: ignore[arg-type]


def deleted_text_is_kept(records: Records) -> None:
    records.stored = "before text 2 after"


def text_of_an_edit_is_kept(records: Records) -> None:
    edit = change(7, "edit", 2, text="a better text 2")
    records.clients["ann"].append(Live(edit))
    final = records.final[ROOM]
    records.final[ROOM] = final._replace(position=at(7), rows=(*final.rows, edit))
    records.stored = "before a better text 2 after"


def sent_once_and_published_twice(records: Records) -> None:
    _say_once(records, "once", 7, 8)


def nobody_sent_it_without_an_id(records: Records) -> None:
    _say_once(records, "never", 7)


def _say_once(records: Records, text: str, *offsets: int) -> None:
    facts = ("ann", "t7", None, None, False)
    records.clients["ann"].append(SentOnce(ROOM, "ann", "once"))
    for offset in offsets:
        records.clients["ann"].append(Live(Seen(ROOM, offset, "message", None, facts, text)))


@pytest.mark.parametrize(
    ("plant", "kind"),
    [
        (swapped, Kind.ORDER),
        (before_joining, Kind.ORDER),
        (gap, Kind.GAP),
        (gap_after_recovery, Kind.GAP),
        (hole_in_the_file, Kind.GAP),
        (end_of_the_file_missing, Kind.GAP),
        (double, Kind.DOUBLE),
        (double_after_recovery, Kind.DOUBLE),
        (other_text, Kind.CONTENT),
        (other_text_than_sent, Kind.CONTENT),
        (other_text_in_the_file, Kind.CONTENT),
        (other_edit, Kind.CONTENT),
        (reused, Kind.REUSED),
        (reused_in_the_file, Kind.REUSED),
        (seen_and_lost, Kind.LOST),
        (acknowledged_and_lost, Kind.LOST),
        (room_lost, Kind.LOST),
        (history_replaced, Kind.LOST),
        (twice, Kind.TWICE),
        (twice_in_the_file_only, Kind.TWICE),
        (wrong_ack, Kind.ACK),
        (phantom, Kind.PHANTOM),
        (recovery_skipped, Kind.RECOVERY),
        (recovery_repeated, Kind.RECOVERY),
        (recovery_short, Kind.RECOVERY),
        (recovery_from_nowhere, Kind.RECOVERY),
        (epoch_unannounced, Kind.EPOCH),
        (renewed, Kind.RENEWED),
        (restored_without_a_new_epoch, Kind.REUSED),
        (page_skipped, Kind.PAGE),
        (page_not_newest, Kind.PAGE),
        (final_page_skipped, Kind.PAGE),
        (edit_forgotten, Kind.FOLD),
        (deleted_text_is_back, Kind.FOLD),
        (deleted_text_stays_in_the_file, Kind.FOLD),
        (reaction_forgotten, Kind.FOLD),
        (reaction_too_early, Kind.FOLD),
        (said_to_be_gone, Kind.AWAY),
        (said_to_be_gone_too_soon, Kind.AWAY),
        (said_to_be_gone_before, Kind.AWAY),
        (departure_unsaid, Kind.ROSTER),
        (arrival_unsaid, Kind.ROSTER),
        (wrong_number, Kind.ROSTER),
        (ghost, Kind.ROSTER),
        (forgotten, Kind.ROSTER),
        (listed_twice, Kind.NAME),
        (name_had_twice, Kind.NAME),
        (unsettled, Kind.UNSETTLED),
        (machine_is_behind, Kind.MACHINES),
        (machine_has_another_page, Kind.MACHINES),
        (machine_lacks_a_user, Kind.MACHINES),
        (machine_gives_a_name_twice, Kind.NAME),
        (deleted_text_is_kept, Kind.LEFTOVER),
        (text_of_an_edit_is_kept, Kind.LEFTOVER),
        (sent_once_and_published_twice, Kind.TWICE),
        (nobody_sent_it_without_an_id, Kind.PHANTOM),
    ],
)
def test_planted_fault_is_found(plant: Callable[[Records], None], kind: Kind) -> None:
    """Records with one planted fault have an anomaly of its kind."""
    records = clean()
    plant(records)
    assert kind in kinds(records)


def test_every_kind_of_anomaly_is_planted() -> None:
    """Each kind of anomaly has a planted fault."""
    (mark,) = test_planted_fault_is_found.pytestmark  # type: ignore[attr-defined]
    assert {kind for _, kind in mark.args[1]} == set(Kind)


def test_message_without_an_id_is_no_anomaly() -> None:
    """A message that was sent without an id is expected once."""
    records = clean()
    _say_once(records, "once", 7)
    assert kinds(records).isdisjoint({Kind.TWICE, Kind.PHANTOM})


def test_silent_machine_explains_a_leave() -> None:
    """A user on a machine that was cut off for long can be announced as gone; on another, not."""
    for machine, is_explained in ((0, True), (1, False)):
        records = clean()
        said_to_be_gone(records)
        records.outages.append(Outage(machine, 0.0, 100.0))
        assert (Kind.AWAY not in kinds(records)) is is_explained
