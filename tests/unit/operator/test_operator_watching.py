"""Following a kind: lists, watches, broken watches and versions that are too old, from an API that plays them."""

import asyncio

import pytest

from sockethealth_operator import watching
from sockethealth_operator.api import (
    UNREADABLE,
    ApiError,
    ForbiddenError,
    InvalidError,
    NotFoundError,
    UnreachableError,
)
from sockethealth_operator.objects import OURS, Key
from sockethealth_operator.watching import Watching

HEALTH = OURS["SocketHealth"]


def item(name, version, uid=""):
    uid = uid or f"u-{name}"
    return {"metadata": {"name": name, "namespace": "shop", "uid": uid, "resourceVersion": str(version)}}


def typed(name, version):
    return {"apiVersion": HEALTH.api_version, "kind": HEALTH.kind, **item(name, version)}


class PlayedApi:
    """Each list and each watch is the next of its kind; after the last watch nothing happens any more."""

    def __init__(self, lists, watches):
        self.lists, self.watches, self.asked = list(lists), list(watches), []
        self.over = asyncio.Event()

    async def pages(self, _resource):
        self.asked.append("list")
        for number, items in enumerate(self.lists.pop(0)):
            if isinstance(items, Exception):
                raise items
            yield {"metadata": {"resourceVersion": str(100 + number)}, "items": items}

    async def watch(self, _resource, version):
        self.asked.append(version)
        if not self.watches:
            self.over.set()
            await asyncio.Event().wait()
        for event in self.watches.pop(0):
            if isinstance(event, Exception):
                raise event
            yield event


class Noted:
    """An intake that keeps names only."""

    def __init__(self):
        self.names, self.forgotten, self.told = {}, [], []

    def event(self, _resource, change, raw):
        assert (raw["kind"], raw["apiVersion"]) == (HEALTH.kind, HEALTH.api_version)
        key = Key(HEALTH.kind, raw["metadata"]["namespace"], raw["metadata"]["name"])
        if change == "DELETED":
            self.names.pop(key)
        else:
            self.names[key] = raw["metadata"]["uid"]

    def seen(self, _resource):
        return dict(self.names)

    def gone(self, _resource, key, uid):
        if self.names.get(key) == uid:
            del self.names[key]
            self.forgotten.append(key.name)

    def unreadable(self, _resource, _text):
        self.told.append("unreadable")

    def relisted(self, _resource):
        self.told.append("relisted")

    def watch_broke(self, _resource):
        self.told.append("broke")


class Played:
    def __init__(self, asked, intake, pauses):
        self.asked, self.told, self.forgotten, self.pauses = asked, intake.told, intake.forgotten, pauses
        self.names = sorted(key.name for key in intake.names)


@pytest.fixture
def follow(monkeypatch):
    pauses = []

    def no_pause(failures, retry_after_seconds):
        pauses.append((failures, retry_after_seconds))
        return 0.0

    monkeypatch.setattr(watching, "_pause_seconds", no_pause)

    def play(lists, watches):
        async def until_nothing_is_left():
            api, intake = PlayedApi(lists, watches), Noted()
            followed = Watching(api, HEALTH, intake, lambda: 0.0)
            task = asyncio.create_task(followed.run())
            async with asyncio.timeout(5):
                await api.over.wait()
            assert followed.synced.is_set()
            task.cancel()
            return Played(api.asked, intake, pauses)

        return asyncio.run(until_nothing_is_left())

    return play


def test_all_pages_are_taken_in_and_the_watch_goes_on_from_the_first(follow):
    played = follow([[[item("a", 1)], [item("b", 2)]]], [])
    assert (played.asked, played.names, played.told) == (["list", "100"], ["a", "b"], [])


def test_a_watch_that_breaks_goes_on_where_it_was(follow):
    broken = [("ADDED", typed("b", 7)), ("BOOKMARK", typed("", 9)), UnreachableError("away", 0)]
    played = follow([[[item("a", 1)]]], [broken, [("DELETED", typed("a", 12))]])
    assert (played.asked, played.names, played.told) == (["list", "100", "9", "12"], ["b"], ["broke"])


def test_a_version_that_is_too_old_means_listing_again_and_what_is_not_there_is_gone(follow):
    lists = [[[item("a", 1), item("b", 2)]], [[item("b", 2), item("c", 3)]]]
    played = follow(lists, [[NotFoundError("too old", 410)]])
    assert played.asked == ["list", "100", "list", "100"]
    assert (played.names, played.forgotten, played.told) == (["b", "c"], ["a"], ["relisted"])


def test_a_version_that_is_none_means_listing_again(follow):
    played = follow([[[item("a", 1)]], [[item("a", 1)]]], [[InvalidError("no such version", 400)]])
    assert played.asked == ["list", "100", "list", "100"]


def test_an_object_that_took_the_place_of_another_is_not_forgotten(follow):
    lists = [[[item("a", 1)]], [[item("a", 5, uid="successor")]]]
    played = follow(lists, [[NotFoundError("too old", 410)]])
    assert (played.names, played.forgotten) == (["a"], [])


def test_a_list_whose_pages_expire_starts_over_and_forgets_nothing_by_halves(follow):
    lists = [
        [[item("a", 1), item("b", 2)]],
        [[item("b", 2)], NotFoundError("the continue token has expired", 410)],
        [[item("a", 1)], [item("b", 2)]],
    ]
    played = follow(lists, [[NotFoundError("too old", 410)]])
    assert played.asked == ["list", "100", "list", "list", "100"]
    assert (played.names, played.forgotten) == (["a", "b"], [])


def test_a_kind_that_is_gone_is_asked_for_until_it_is_back(follow):
    gone = NotFoundError("the server could not find the requested resource", 404)
    played = follow([[[item("a", 1)]], [gone], [gone], [[item("b", 2)]]], [[gone]])
    assert (played.names, played.forgotten) == (["b"], ["a"])
    assert [failures for failures, _ in played.pauses] == [1, 2, 3], "the pauses must grow"


def test_what_the_server_asks_for_is_waited_for(follow):
    played = follow([[ApiError("too many", 429, retry_after_seconds=7.0)], [[item("a", 1)]]], [])
    assert (played.asked, played.pauses) == (["list", "list", "100"], [(1, 7.0)])


def test_pauses_are_at_least_what_the_server_asks_for_and_grow_to_a_bound():
    assert watching._pause_seconds(1, 7.0) == 7.0
    assert 0 < watching._pause_seconds(1, 0.0) <= 0.5
    assert 2.5 <= watching._pause_seconds(10_000, 0.0) <= 5.0


def test_a_line_that_cannot_be_read_is_counted_and_the_next_ones_are_not_lost(follow):
    events = [("ADDED", typed("a", 5)), (UNREADABLE, {}), ("ADDED", typed("b", 6))]
    played = follow([[[]]], [events])
    assert (played.names, played.told, played.asked) == (["a", "b"], ["unreadable"], ["list", "100", "6"])


def test_watches_that_end_at_once_are_not_asked_for_in_a_tight_loop(follow):
    played = follow([[[]]], [[], [], [], [("BOOKMARK", typed("", 9))], []])
    assert [failures for failures, _ in played.pauses] == [1, 2, 1], "a bookmark must end the count"


def test_a_missing_permission_is_said_once(follow, caplog):
    refused = ForbiddenError('cannot list resource "sockethealths"', 403)
    follow([[refused], [refused], [[]]], [[refused], [refused]])
    assert [record.levelname for record in caplog.records if "grant both" in record.getMessage()] == ["ERROR"]


def test_others_have_their_turn_while_a_page_is_taken_in(follow, monkeypatch):
    turns = []

    class Counting(Noted):
        def event(self, resource, change, raw):
            super().event(resource, change, raw)
            turns.append(0)

    async def scenario():
        api, intake = PlayedApi([[[item(f"a-{n}", n) for n in range(1, 501)]]], []), Counting()
        task = asyncio.create_task(Watching(api, HEALTH, intake, lambda: 0.0).run())
        while not api.over.is_set():
            if turns:
                turns[-1] += 1
            await asyncio.sleep(0)
        task.cancel()

    asyncio.run(scenario())
    longest, since = 0, 0
    for turn in turns:
        since = 0 if turn else since + 1
        longest = max(longest, since)
    assert longest < 50, f"{longest} objects were taken in without a turn for anyone else"
