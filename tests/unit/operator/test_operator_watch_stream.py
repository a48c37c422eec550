"""What a watch makes of the bytes that arrive, from a server that sends what a real one sends seldom."""

import asyncio
import json

import pytest
from aiohttp import web
from kubernetes.aio import client

from sockethealth_operator import api as api_module
from sockethealth_operator.api import UNREADABLE, Api, ApiError, NotFoundError, UnreachableError
from sockethealth_operator.objects import OURS

HEALTH = OURS["SocketHealth"]


def line(change, name, **fields):
    document = {"metadata": {"name": name, "resourceVersion": "7"}, **fields}
    return json.dumps({"type": change, "object": document}).encode() + b"\n"


async def answered(respond, use):
    """Serve one kind of answer, and use it."""
    server = web.Application()
    server.router.add_get("/{path:.*}", respond)
    runner = web.AppRunner(server, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        configuration = client.Configuration(host=f"http://127.0.0.1:{runner.addresses[0][1]}")
        async with Api(configuration) as api:
            return await use(api)
    finally:
        await runner.cleanup()


def streamed(*chunks, hold=False, abort=False):
    async def respond(request):
        response = web.StreamResponse()
        await response.prepare(request)
        for chunk in chunks:
            await response.write(chunk)
            await asyncio.sleep(0.01)
        if hold:
            await asyncio.sleep(30)
        if abort:
            request.transport.abort()
        return response

    async def watch(api):
        seen = []
        error = None
        try:
            async for change, raw in api.watch(HEALTH, "5"):
                seen.append((change, raw.get("metadata", {}).get("name")))
        except ApiError as caught:
            error = caught
        return seen, error

    return asyncio.run(answered(respond, watch))


def test_a_line_may_come_in_pieces_and_several_in_one():
    whole = line("ADDED", "a") + line("MODIFIED", "b") + line("DELETED", "c")
    pieces = [whole[start : start + 7] for start in range(0, len(whole), 7)]
    assert streamed(*pieces) == ([("ADDED", "a"), ("MODIFIED", "b"), ("DELETED", "c")], None)
    assert streamed(whole) == ([("ADDED", "a"), ("MODIFIED", "b"), ("DELETED", "c")], None)


def test_a_line_may_be_larger_than_any_buffer():
    seen, error = streamed(line("ADDED", "large", text="x" * 6_000_000) + line("ADDED", "next"))
    assert (seen, error) == ([("ADDED", "large"), ("ADDED", "next")], None)


def test_half_a_line_at_the_end_is_no_change():
    seen, error = streamed(line("ADDED", "a") + line("ADDED", "b")[:20])
    assert (seen, error) == ([("ADDED", "a")], None)


def test_a_connection_that_breaks_says_so_after_what_arrived():
    seen, error = streamed(line("ADDED", "a"), abort=True)
    assert seen == [("ADDED", "a")]
    assert isinstance(error, UnreachableError)


def test_a_line_that_cannot_be_read_is_passed_on_as_such_and_the_next_are_read():
    broken = b'{"type": "ADDED", "object": \n' + b'{"type": "ADDED"}\n' + b"\xff\xfe\n"
    seen, error = streamed(broken + line("ADDED", "a"))
    assert (seen, error) == ([(UNREADABLE, None)] * 3 + [("ADDED", "a")], None)


def test_too_old_a_version_may_be_said_in_the_stream():
    status = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version: 5 (9)"}
    seen, error = streamed(
        line("ADDED", "a"), json.dumps({"type": "ERROR", "object": status}).encode() + b"\n", line("ADDED", "b")
    )
    assert seen == [("ADDED", "a")]
    assert isinstance(error, NotFoundError)
    assert (error.status, str(error)) == (410, "too old resource version: 5 (9)")


def test_an_error_in_the_stream_says_how_long_to_wait():
    status = {"kind": "Status", "code": 429, "message": "busy", "details": {"retryAfterSeconds": 9}}
    _, error = streamed(json.dumps({"type": "ERROR", "object": status}).encode() + b"\n")
    assert (error.status, error.retry_after_seconds) == (429, 9.0)


def test_a_watch_that_is_silent_is_broken_off(monkeypatch):
    monkeypatch.setattr(api_module, "_SILENCE_SECONDS", 0.2)
    seen, error = streamed(line("ADDED", "a"), hold=True)
    assert seen == [("ADDED", "a")]
    assert isinstance(error, UnreachableError)
    assert "broke off" in str(error)


@pytest.mark.parametrize("status", [410, 429])
def test_a_watch_may_be_refused_from_the_start(status):
    async def respond(_request):
        return web.json_response({"message": "no"}, status=status, headers={"Retry-After": "3"})

    async def watch(api):
        with pytest.raises(ApiError) as caught:
            await anext(api.watch(HEALTH, "5"))
        return caught.value

    error = asyncio.run(answered(respond, watch))
    assert (error.status, error.retry_after_seconds, isinstance(error, NotFoundError)) == (status, 3.0, status == 410)


def test_an_answer_that_is_no_json_is_an_error_of_the_api():
    async def respond(_request):
        return web.Response(text="<html>a proxy's page</html>")

    async def read(api):
        with pytest.raises(ApiError, match="no JSON"):
            await api.get(HEALTH, "shop", "web-1")
        with pytest.raises(ApiError, match="no JSON"):
            await anext(api.pages(HEALTH))

    asyncio.run(answered(respond, read))


def test_pages_are_asked_for_one_after_the_other():
    asked = []

    async def respond(request):
        asked.append((request.query.get("limit"), request.query.get("continue")))
        following = {None: "second", "second": ""}[asked[-1][1]]
        return web.json_response({"metadata": {"continue": following, "resourceVersion": "5"}, "items": []})

    async def read(api):
        async for page in api.pages(HEALTH):
            # Appended one by one, as the order in which requests and pages alternate is what counts.
            asked.append(("taken in", page["metadata"]["continue"]))  # noqa: PERF401

    asyncio.run(answered(respond, read))
    assert asked == [("500", None), ("taken in", "second"), ("500", "second"), ("taken in", "")]


DEEP = b'{"type": "ADDED", "object": {"spec": ' + b"[" * 5000 + b"]" * 5000 + b"}}"
"""managedFields repeat how deep an object is, and the API server takes objects that are deeper than a decoder goes."""


def test_an_object_deeper_than_can_be_read_is_unreadable_and_the_next_one_is_not():
    assert streamed(DEEP + b"\n" + line("ADDED", "a")) == ([(UNREADABLE, None), ("ADDED", "a")], None)


def test_an_answer_deeper_than_can_be_read_is_an_error_of_the_api():
    async def respond(_request):
        return web.Response(body=DEEP, content_type="application/json")

    async def get(api):
        with pytest.raises(ApiError, match="recursion"):
            await api.get(HEALTH, "shop", "web")

    asyncio.run(answered(respond, get))
