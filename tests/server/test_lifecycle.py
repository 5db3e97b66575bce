"""Starting and stopping: one server per port and per state folder, and an end that loses nothing."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from lmms_eval_grpc.server import ServerArgs
from lmms_eval_grpc.server.app import EvaluationServer
from lmms_eval_grpc.server.settings import ConfigError
from lmms_eval_grpc.server.state_dir import ServerStartError, make_state_dir
from lmms_eval_grpc.server.transport import Listener
from lmms_eval_grpc.v1 import evaluation_service_pb2 as pb
from lmms_eval_grpc.v1 import evaluation_service_pb2_grpc as pb_grpc
from lmms_eval_grpc.v1 import job_pb2
from tests.scheduler.doubles import PATIENCE, ScriptedExecutor, until
from tests.server.conftest import NewRig, Rig, detail, failure, states


async def test_a_second_server_on_the_same_port_does_not_start(rig: Rig, tmp_path: Path) -> None:
    port = int(rig.server.address.rpartition(":")[2])
    executor = ScriptedExecutor()
    second = EvaluationServer(ServerArgs(port=port, state_dir=tmp_path / "other"), executor=executor)
    with pytest.raises(ServerStartError, match=f"cannot listen on 127.0.0.1:{port}"):
        await second.start()
    assert not executor.started
    await second.wait_closed()
    # Nothing is left of it: its state folder is free.
    third = EvaluationServer(ServerArgs(port=0, state_dir=tmp_path / "other"), executor=ScriptedExecutor())
    await third.start()
    await third.stop(0)


async def test_a_second_server_on_the_same_state_folder_is_told_who_has_it(rig: Rig) -> None:
    second = EvaluationServer(ServerArgs(port=0, state_dir=rig.server.state_dir), executor=ScriptedExecutor())
    with pytest.raises(ServerStartError, match=rf"in use by another server \(process {os.getpid()}\)"):
        await second.start()


async def test_an_address_that_others_reach_is_refused_without_permission(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = EvaluationServer(ServerArgs(host="0.0.0.0", port=0, state_dir=tmp_path), executor=ScriptedExecutor())
    with pytest.raises(ConfigError, match="allow_insecure_remote"):
        await server.start()
    allowed = ServerArgs(host="0.0.0.0", port=0, state_dir=tmp_path, allow_insecure_remote=True)
    async with EvaluationServer(allowed, executor=ScriptedExecutor()) as server:
        assert server.address.startswith("0.0.0.0:")
    assert "whoever reaches 0.0.0.0:" in caplog.text


async def test_a_state_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    server = EvaluationServer(ServerArgs(port=0, state_dir=tmp_path / "file" / "state"), executor=ScriptedExecutor())
    with pytest.raises(ServerStartError, match=r"state_dir: .*file/state cannot be made"):
        await server.start()


async def test_a_store_that_is_none_is_named_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "jobs.sqlite3").write_bytes(b"this is no database" * 1000)
    server = EvaluationServer(ServerArgs(port=0, state_dir=tmp_path), executor=ScriptedExecutor())
    with pytest.raises(ServerStartError, match="backup"):
        await server.start()


async def test_a_device_that_is_not_there_is_named(tmp_path: Path) -> None:
    server = EvaluationServer(ServerArgs(port=0, state_dir=tmp_path, devices=("cuda:99",)))
    with pytest.raises(ServerStartError, match=r"devices: .*cuda:99"):
        await server.start()


async def test_a_folder_of_tasks_that_is_not_there_is_named(tmp_path: Path) -> None:
    args = ServerArgs(port=0, state_dir=tmp_path / "state", include_path=(tmp_path / "none",))
    with pytest.raises(ServerStartError, match=r"include_path: .*none is not a folder"):
        await EvaluationServer(args, executor=ScriptedExecutor()).start()


async def test_a_server_that_was_never_started_can_be_stopped(tmp_path: Path) -> None:
    server = EvaluationServer(ServerArgs(state_dir=tmp_path), executor=ScriptedExecutor())
    await server.stop()
    await server.wait_closed()
    with pytest.raises(RuntimeError, match="no address"):
        _ = server.address


def test_the_state_folder_is_private_and_has_a_place_of_its_own(tmp_path: Path) -> None:
    folder = make_state_dir(ServerArgs(), {"XDG_STATE_HOME": str(tmp_path)})
    assert folder == tmp_path / "lmms-eval-grpc"
    assert folder.stat().st_mode & 0o777 == 0o700
    temporary = make_state_dir(ServerArgs(temp_dir_prefix="lmms_eval_"))
    assert temporary.name.startswith("lmms_eval_")
    temporary.rmdir()


async def test_a_temporary_state_folder_goes_with_its_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    prefix = "lmms_eval_"

    async def started() -> EvaluationServer:
        server = EvaluationServer(ServerArgs(port=0, temp_dir_prefix=prefix), executor=ScriptedExecutor())
        await server.start()
        return server

    def folders() -> set[str]:
        return {path.name for path in tmp_path.iterdir()}

    # Somebody's own, though its name begins so: no server has marked it as temporary.
    (tmp_path / "lmms_eval_results" / "jobs").mkdir(parents=True)
    # As a server leaves it that was killed: the lock is free again.
    killed = tmp_path / "lmms_eval_killed"
    (killed / "jobs").mkdir(parents=True)
    (killed / "temporary").touch()
    first, second = await started(), await started()
    assert folders() == {"lmms_eval_results", first.state_dir.name, second.state_dir.name}
    await first.stop(0)
    assert folders() == {"lmms_eval_results", second.state_dir.name}
    await second.stop(0)
    assert folders() == {"lmms_eval_results"}


async def test_the_address_is_written_once_ready_and_removed_at_the_end(new_rig: NewRig, tmp_path: Path) -> None:
    file = tmp_path / "run" / "address"
    rig = await new_rig(address_file=file)
    assert file.read_text() == f"{rig.server.address}\n"
    await rig.server.stop(0)
    assert not file.exists()


async def test_a_unix_socket_is_private_from_its_first_moment(tmp_path: Path) -> None:
    path = tmp_path / "s"
    modes = []

    class Looking:
        """A server that looks at its socket as soon as it is bound."""

        def __init__(self) -> None:
            self.server = grpc.aio.server()

        def add_insecure_port(self, address: str) -> int:
            port = self.server.add_insecure_port(address)
            modes.append(path.stat().st_mode & 0o777)
            return port

    looking: Any = Looking()
    mask = os.umask(0)
    try:
        async with AsyncExitStack() as cleanup:
            Listener(ServerArgs(unix_socket=path)).open(looking, cleanup)
            await looking.server.stop(0)
        assert modes == [0o600]
        assert os.umask(0) == 0
    finally:
        os.umask(mask)


async def test_a_unix_socket_is_private_and_belongs_to_one_server(new_rig: NewRig, tmp_path: Path) -> None:
    path = tmp_path / "run" / "s"
    rig = await new_rig(unix_socket=path)
    assert rig.server.address == f"unix:{path}"
    assert path.stat().st_mode & 0o777 == 0o600
    await rig.submit()
    second = EvaluationServer(ServerArgs(unix_socket=path, state_dir=tmp_path / "o"), executor=ScriptedExecutor())
    with pytest.raises(ServerStartError, match="another program listens"):
        await second.start()
    await rig.submit()
    await rig.server.stop(0)
    assert not path.exists()
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(path))
    await (await new_rig(unix_socket=path)).submit()
    too_long = ServerArgs(unix_socket=tmp_path / ("x" * 200), state_dir=tmp_path / "o")
    with pytest.raises(ServerStartError, match="107"):
        await EvaluationServer(too_long, executor=ScriptedExecutor()).start()


async def test_jobs_survive_a_restart_and_run_again(new_rig: NewRig) -> None:
    first = await new_rig()
    running, _ = await first.running(labels={"n": "1"})
    waiting = (await first.submit()).job_id
    await first.server.stop(0)
    second = await new_rig()
    execution = await second.executor.execution(running, attempt=2)
    told = [message async for message in _until_running_twice(second, running)]
    assert states(told) == ["QUEUED", "RUNNING", "QUEUED", "RUNNING"]
    execution.complete()
    (await second.executor.execution(waiting)).complete()
    job = await second.ended(running)
    assert (job.state, job.attempt, job.labels) == (job_pb2.JOB_STATE_COMPLETED, 2, {"n": "1"})
    assert (await second.ended(waiting)).state == job_pb2.JOB_STATE_COMPLETED


async def _until_running_twice(rig: Rig, job_id: str) -> Any:
    async for message in rig.watch(job_id, after_sequence=0):
        yield message
        if message.event.state_change.attempt == 2 and message.event.sequence >= 4:
            return


async def test_while_a_job_runs_out_a_draining_server_takes_no_new_ones(new_rig: NewRig) -> None:
    rig = await new_rig()
    job_id, execution = await rig.running()
    waiting = (await rig.submit()).job_id
    watching = asyncio.create_task(_collect(rig, job_id))
    stopping = asyncio.create_task(rig.server.stop(PATIENCE))
    await until(lambda: not rig.server._scheduler.accepting)
    error = await failure(rig.stub.Evaluate(pb.EvaluateRequest(spec=rig.spec())))
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert detail(error, "ErrorInfo").reason == "NOT_ACCEPTING"
    assert detail(error, "RetryInfo").retry_delay.ToMilliseconds() > 0
    assert not (await rig.stub.QueueStatus(pb.QueueStatusRequest())).queue.accepting
    assert (await rig.get(job_id)).state == job_pb2.JOB_STATE_RUNNING
    execution.complete()
    assert states(await watching)[-1] == "COMPLETED"
    await stopping
    second = await new_rig()
    assert (await second.get(job_id)).state == job_pb2.JOB_STATE_COMPLETED
    await second.executor.execution(waiting)


async def _collect(rig: Rig, job_id: str) -> list[pb.WatchJobResponse]:
    return [message async for message in rig.watch(job_id)]


async def test_a_second_stop_is_in_more_of_a_hurry(rig: Rig) -> None:
    job_id, _ = await rig.running()
    patient = asyncio.create_task(rig.server.stop(10 * PATIENCE))
    await until(lambda: not rig.server._scheduler.accepting)
    assert not patient.done()
    async with asyncio.timeout(PATIENCE):
        await rig.server.stop(0)
        await patient
        await rig.server.wait_closed()
    assert rig.executor.stopped
    await rig.server.stop()
    assert job_id


async def test_followers_do_not_hold_up_the_end(rig: Rig) -> None:
    job_id, execution = await rig.running()
    calls = [
        rig.stub.WatchJob(pb.WatchJobRequest(job_id=job_id)),
        rig.stub.WatchQueue(pb.WatchQueueRequest()),
        rig.stub.StreamLogs(pb.StreamLogsRequest(job_id=job_id, follow=True)),
    ]
    for call in calls[:2]:
        await call.read()
    execution.complete()
    began = time.monotonic()
    await rig.server.stop(10 * PATIENCE)
    assert time.monotonic() - began < PATIENCE
    for call in calls:
        call.cancel()


@pytest.mark.slow
async def test_a_client_that_keeps_pinging_on_a_quiet_watch_is_not_cut_off(rig: Rig) -> None:
    options = [("grpc.keepalive_time_ms", 10_000), ("grpc.http2.max_pings_without_data", 0)]
    async with grpc.aio.insecure_channel(rig.server.address, options=options) as channel:
        request = pb.WatchQueueRequest()
        request.heartbeat_interval.FromSeconds(300)
        call = pb_grpc.EvaluationServiceStub(channel).WatchQueue(request)
        await call.read()
        # By default a server tolerates two such pings in five minutes, and the third ends the connection.
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(call.read(), 40)


async def test_a_burst_of_three_thousand_calls_loses_none(rig: Rig) -> None:
    job_id, _ = await rig.running()
    channels = [grpc.aio.insecure_channel(rig.server.address, options=[("n", n)]) for n in range(4)]
    stubs = [pb_grpc.EvaluationServiceStub(channel) for channel in channels]
    request = pb.GetJobRequest(job_id=job_id)
    async with asyncio.timeout(4 * PATIENCE):
        answers = await asyncio.gather(*(stubs[n % 4].GetJob(request) for n in range(3000)), return_exceptions=True)
    lost = [answer for answer in answers if isinstance(answer, BaseException)]
    assert not lost, lost[0]
    for channel in channels:
        await channel.close()
