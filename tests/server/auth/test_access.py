"""The access list while the server runs: what changes at once, and what a bad file changes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from lmms_eval_grpc.client import AsyncEvalClient, EvalClient, Unauthenticated
from lmms_eval_grpc.jobs.errors import Unauthenticated as Refused
from lmms_eval_grpc.server.around import AllAround
from lmms_eval_grpc.server.auth.access import Access
from lmms_eval_grpc.server.auth.access_file import add_entry, read_entries, remove_entries
from lmms_eval_grpc.server.auth.entries import Entry
from lmms_eval_grpc.server.auth.interceptor import Authenticate
from lmms_eval_grpc.server.interceptors import MaskErrors
from lmms_eval_grpc.server.principals import ANONYMOUS, Principal, Role, current_principal
from lmms_eval_grpc.server.state_dir import ServerStartError
from lmms_eval_grpc.v1 import evaluation_service_pb2 as pb
from tests.scheduler.doubles import PATIENCE, until
from tests.server.conftest import Guarded, NewRig, failure, following
from tests.support.access import bearer, give_token


async def test_a_token_counts_from_the_moment_it_is_made(guarded: Guarded) -> None:
    metadata = guarded.give("new", Role.READ)
    await guarded.stub.QueueStatus(pb.QueueStatusRequest(), metadata=metadata)


@pytest.mark.parametrize("how", ["garbage", "readable by all", "removed"])
async def test_a_bad_file_changes_nothing_until_it_is_mended(
    guarded: Guarded, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    ask = guarded.stub.QueueStatus
    good = guarded.file.read_text()
    if how == "garbage":
        guarded.file.write_text("nonsense\n")
    elif how == "removed":
        guarded.file.unlink()
    else:
        guarded.file.chmod(0o644)
    for _ in range(3):
        await ask(pb.QueueStatusRequest(), metadata=guarded.as_("rita"))
        assert (await failure(ask(pb.QueueStatusRequest()))).code() is grpc.StatusCode.UNAUTHENTICATED
    told = [record for record in caplog.records if "stays in force" in record.message]
    assert len(told) == 1
    guarded.file.write_text("\n".join(line for line in good.splitlines() if '"rita"' not in line) + "\n")
    guarded.file.chmod(0o600)
    refused = await failure(ask(pb.QueueStatusRequest(), metadata=guarded.as_("rita")))
    assert refused.code() is grpc.StatusCode.UNAUTHENTICATED
    await ask(pb.QueueStatusRequest(), metadata=guarded.as_("alice"))


async def test_a_server_does_not_start_with_a_file_that_is_missing_or_open(new_rig: NewRig, tmp_path: Path) -> None:
    file = tmp_path / "access"
    with pytest.raises(ServerStartError, match=r"access_file: .*there is no such file; lmms-eval-grpc token create"):
        await new_rig(access_file=file)
    give_token(file, "alice", Role.READ)
    file.chmod(0o644)
    with pytest.raises(ServerStartError, match=r"access_file: .*chmod 600"):
        await new_rig(access_file=file)


@pytest.mark.parametrize("stream", ["WatchQueue", "WatchJob", "StreamLogs", "reflection"])
async def test_a_stream_ends_when_its_token_is_revoked(guarded: Guarded, stream: str) -> None:
    job = (await guarded.stub.Evaluate(pb.EvaluateRequest(spec=guarded.rig.spec()), metadata=guarded.as_("alice"))).job
    (guarded.rig.job_dir(job.job_id) / "worker.log").write_text("begun\n")
    requests = {
        "WatchQueue": pb.WatchQueueRequest(),
        "WatchJob": pb.WatchJobRequest(job_id=job.job_id),
        "StreamLogs": pb.StreamLogsRequest(job_id=job.job_id, follow=True),
    }
    if stream == "reflection":
        path = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
        call: Any = guarded.rig.channel.stream_stream(path)(metadata=guarded.as_("bob"))
        await call.write(b"")
    else:
        call = getattr(guarded.stub, stream)(requests[stream], metadata=guarded.as_("bob"))
    async with asyncio.timeout(PATIENCE):
        assert await call.read() is not grpc.aio.EOF
    other = following(guarded.stub.WatchQueue(pb.WatchQueueRequest(), metadata=guarded.as_("rita")))
    await anext(other)
    remove_entries(guarded.file, "bob")
    ended = await failure(call)
    assert ended.code() is grpc.StatusCode.UNAUTHENTICATED, ended
    assert "during the call" in (ended.details() or "")
    await guarded.stub.CancelJob(pb.CancelJobRequest(job_id=job.job_id), metadata=guarded.as_("alice"))
    assert (await anext(other)).HasField("change")  # somebody else's goes on


@pytest.fixture
async def access(tmp_path: Path) -> AsyncIterator[Callable[..., Access]]:
    """Starts access lists of a file that are looked at all the time."""
    made: list[Access] = []

    def start(file: Path, clock: Callable[[], float] | None = None) -> Access:
        made.append(Access(file, interval=0.01, clock=clock))
        made[-1].start()
        return made[-1]

    yield start
    for one in made:
        await one.stop()


async def test_what_is_under_way_ends_when_its_token_expires(tmp_path: Path, access: Callable[..., Access]) -> None:
    now = [datetime.now(UTC).timestamp()]
    token = give_token(tmp_path / "access", "alice", Role.READ, valid_for=60)
    checked = access(tmp_path / "access", lambda: now[0])
    grant = checked.identify([f"bearer {token}"], None)
    assert grant.principal == Principal("alice", Role.READ)
    begun, ends = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        begun.set()
        await ends.wait()

    running = asyncio.create_task(checked.while_valid(grant, work()))
    await begun.wait()
    await asyncio.sleep(0.05)
    assert not running.done()
    now[0] += 61
    with pytest.raises(Refused, match="during the call"):
        async with asyncio.timeout(PATIENCE):
            await running
    with pytest.raises(Refused, match="the token of alice expired at"):
        checked.identify([f"Bearer {token}"], None)


async def test_what_work_returns_and_raises_and_its_own_timeouts_pass_through(
    tmp_path: Path, access: Callable[..., Access]
) -> None:
    token = give_token(tmp_path / "access", "alice", Role.READ)
    checked = access(tmp_path / "access")
    grant = checked.identify([bearer(token)[0][1]], None)
    assert await checked.while_valid(grant, asyncio.sleep(0, "done")) == "done"

    async def too_slow() -> None:
        async with asyncio.timeout(0.01):
            await asyncio.sleep(PATIENCE)

    with pytest.raises(TimeoutError):
        await checked.while_valid(grant, too_slow())
    running = asyncio.create_task(checked.while_valid(grant, asyncio.sleep(PATIENCE)))
    await asyncio.sleep(0.02)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_names_of_certificates_have_roles_of_their_own(tmp_path: Path, access: Callable[..., Access]) -> None:
    file = tmp_path / "access"
    token = give_token(file, "alice", Role.READ)
    add_entry(file, Entry("certificate", "trainer 7", Role.SUBMIT, datetime.now(UTC)))
    past = datetime.now(UTC) - timedelta(seconds=1)
    add_entry(file, Entry("certificate", "old", Role.SUBMIT, past, expires=past))
    checked = access(file)
    assert checked.identify([], "trainer 7").principal == Principal("trainer 7", Role.SUBMIT)
    assert checked.identify([f"Bearer {token}"], "trainer 7").principal == Principal("alice", Role.READ)
    for name, says in (("stranger", "'stranger' of the client certificate is not in"), ("old", "expired at")):
        with pytest.raises(Refused, match=says):
            checked.identify([], name)
    # A token's name is not a certificate's, and a wrong token is not made up for.
    with pytest.raises(Refused, match="'alice' of the client certificate"):
        checked.identify([], "alice")
    with pytest.raises(Refused, match="the token is not in"):
        checked.identify(["Bearer leg_wrong"], "trainer 7")
    remove_entries(file, "trainer 7")
    with pytest.raises(Refused):
        checked.identify([], "trainer 7")


async def test_of_a_certificates_entries_one_that_is_valid_counts(
    tmp_path: Path, access: Callable[..., Access]
) -> None:
    file = tmp_path / "access"
    past, now = datetime.now(UTC) - timedelta(seconds=1), datetime.now(UTC)
    for entry in (
        Entry("certificate", "trainer", Role.READ, past, expires=past),
        Entry("certificate", "trainer", Role.SUBMIT, now),
    ):
        add_entry(file, entry, another=True)
    assert access(file).identify([], "trainer").principal == Principal("trainer", Role.SUBMIT)


@pytest.mark.parametrize("name", ["anonymous", "unknown", "two\nlines", "\x1b[31mred", "x" * 256])
def test_without_a_list_no_certificate_has_a_name_that_nobody_can_have(name: str) -> None:
    with pytest.raises(Refused, match="the client certificate cannot be used: name: "):
        Access(None).identify([], name)


def test_without_a_list_everybody_is_an_administrator_by_the_certificates_name_if_there_is_one() -> None:
    nobody_asked = Access(None)
    assert nobody_asked.identify([], None).principal == ANONYMOUS
    assert nobody_asked.identify(["Bearer whatever"], None).principal == ANONYMOUS
    assert nobody_asked.identify([], "trainer").principal == Principal("trainer", Role.ADMIN)


async def test_a_method_that_is_served_and_has_no_role_is_nobodys(
    tmp_path: Path, access: Callable[..., Access]
) -> None:
    token = give_token(tmp_path / "access", "root", Role.ADMIN)

    async def answer(request: bytes, context: object) -> bytes:
        return current_principal().name.encode()

    for checked in (access(tmp_path / "access"), Access(None)):
        around = AllAround([MaskErrors(), Authenticate(checked)], unknown=lambda: None, unary=lambda: None)
        server = grpc.aio.server(interceptors=[around])
        handler: Any = grpc.unary_unary_rpc_method_handler(answer)
        handlers = {"New": handler, "Check": handler}
        for service in ("lmms_eval_grpc.v1.EvaluationService", "grpc.health.v1.Health"):
            server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            call: Any = channel.unary_unary("/lmms_eval_grpc.v1.EvaluationService/New")
            error = await failure(call(b"", metadata=bearer(token)))
            assert error.code() is grpc.StatusCode.PERMISSION_DENIED
            assert "no role is set for it" in (error.details() or "")
            check: Any = channel.unary_unary("/grpc.health.v1.Health/Check")
            assert await check(b"") == (b"unknown" if checked.is_asked_for else b"anonymous")
        await server.stop(0)


async def test_a_watch_goes_on_when_the_token_in_its_file_is_renewed(
    guarded: Guarded, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "token"
    file.write_text(guarded.tokens["bob"] + "\n")
    (old,) = [entry.id for entry in read_entries(guarded.file) if entry.name == "bob"]
    async with AsyncEvalClient(guarded.rig.server.address, token_file=file) as client:
        model_args = {"pretrained": str(guarded.rig.checkpoint)}
        job = await client.evaluate(model="idefics3", tasks="handwritten_digits", model_args=model_args)
        execution = await guarded.rig.executor.execution(job["job_id"])
        told: list[object] = []

        async def watch() -> None:
            async for event in client.watch_job(job["job_id"]):
                told.append(event)  # noqa: PERF401 (the list is looked at meanwhile)

        watching = asyncio.create_task(watch())
        await until(lambda: len(told) >= 2)
        file.write_text(give_token(guarded.file, "bob", Role.SUBMIT))
        remove_entries(guarded.file, old)
        await until(lambda: "the connection broke" in caplog.text)  # the stream of the old token is ended
        execution.complete()
        async with asyncio.timeout(PATIENCE):
            await watching
        remove_entries(guarded.file, "bob")
        with pytest.raises(Unauthenticated, match="not in the server's access list"):
            await client.get(job["job_id"])


async def test_a_watch_whose_token_is_revoked_for_good_ends_with_the_reason(guarded: Guarded) -> None:
    def watch() -> None:
        with EvalClient(guarded.rig.server.address, token=guarded.tokens["bob"]) as client:
            for _ in client.watch_queue():
                remove_entries(guarded.file, "bob")

    with pytest.raises(Unauthenticated, match="revoked"):
        await asyncio.to_thread(watch)
