"""Clients in forked children, in pickles, in several event loops; what importing them costs."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import pickle
import subprocess
import sys
import textwrap
from collections.abc import Callable
from typing import Any

import pytest

from lmms_eval_grpc.client import AsyncEvalClient, EvalClient, JobNotFound
from lmms_eval_grpc.v1 import job_pb2
from tests.client.scripted_server import ScriptedServer, state_change


def run_script(script: str, *arguments: str, timeout: float = 120, **environment: str) -> str:
    """Runs Python code in a process of its own; returns what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, **environment},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_client_is_light() -> None:
    script = """
        import sys, time
        start = time.process_time()
        from lmms_eval_grpc import AsyncEvalClient, EvalClient, JobFailed
        print(time.process_time() - start)
        heavy = {"torch", "transformers", "datasets", "numpy", "PIL", "yaml"} & sys.modules.keys()
        assert not heavy, heavy
    """
    assert min(float(run_script(script)) for _ in range(3)) < 0.5


def test_the_package_itself_imports_no_grpc() -> None:
    run_script("import lmms_eval_grpc, sys; assert 'grpc' not in sys.modules")


FORK = """
    import os, sys
    from lmms_eval_grpc.client import EvalClient

    client = EvalClient(sys.argv[1])
    if "used" in sys.argv:
        assert client.list_models() == ["dummy"]
    for _ in range(5):
        child = os.fork()
        if child == 0:
            ok = client.list_models() == ["dummy"] and len(list(client.watch_job("job-1"))) == 2
            client.close()
            os._exit(0 if ok else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert client.list_models() == ["dummy"]
    print("done")
"""


@pytest.mark.parametrize("used", ["used", "unused"])
def test_a_forked_child_dials_for_itself(server: ScriptedServer, used: str) -> None:
    _complete_a_job(server)
    assert run_script(FORK, server.address, used) == "done\n"


def test_a_lock_held_at_the_fork_does_not_block_the_child(server: ScriptedServer) -> None:
    script = """
        import os, sys
        from lmms_eval_grpc.client import EvalClient

        client = EvalClient(sys.argv[1])
        client.list_models()
        client._transport._lock.acquire()
        child = os.fork()
        if child == 0:
            os._exit(0 if client.list_models() == ["dummy"] else 1)
        assert os.waitpid(child, 0)[1] == 0
    """
    run_script(script, server.address)


def test_a_watch_goes_on_in_the_parent_while_it_forks(server: ScriptedServer) -> None:
    """As data loaders fork while a callback's thread watches."""
    server.servicer.add_job()
    script = """
        import os, sys, threading
        from lmms_eval_grpc.client import EvalClient

        client = EvalClient(sys.argv[1])
        watch, seen = client.watch_job("job-1"), []
        next(watch)
        thread = threading.Thread(target=lambda: seen.extend(watch))
        thread.start()
        for _ in range(5):
            child = os.fork()
            if child == 0:
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
        client.cancel_job("job-1")
        thread.join(30)
        assert len(seen) == 1, seen
    """
    run_script(script, server.address)


def ask(client: EvalClient) -> list[str]:
    """In a child process."""
    return client.list_models()


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_client_is_passed_to_other_processes(server: ScriptedServer, method: str) -> None:
    client = EvalClient(server.address)
    client.list_models()
    with multiprocessing.get_context(method).Pool(2) as pool:
        assert pool.map(ask, [client] * 4) == [["dummy"]] * 4


def fail(client: EvalClient) -> None:
    """In a child process."""
    client.get("nobody")


def test_errors_come_back_from_other_processes(server: ScriptedServer) -> None:
    with multiprocessing.get_context("spawn").Pool(1) as pool, pytest.raises(JobNotFound, match="nobody"):
        pool.apply(fail, [EvalClient(server.address)])


@pytest.mark.parametrize("kind", [EvalClient, AsyncEvalClient])
def test_a_pickle_carries_the_settings(kind: Callable[..., Any]) -> None:
    client = kind("unix:/run/x.sock", 7, heartbeat_interval=3, reconnect_timeout=None)
    copy = pickle.loads(pickle.dumps(client))
    assert (copy.base_url, copy.timeout, copy._settings) == (client.base_url, 7, client._settings)
    assert copy._settings.reconnect_timeout is None


async def use(client: AsyncEvalClient) -> list[str]:
    return await client.list_models()


def test_a_second_event_loop_is_refused_in_clear_words(server: ScriptedServer) -> None:
    client = AsyncEvalClient(server.address)
    assert asyncio.run(use(client)) == ["dummy"]
    for _ in range(2):
        with pytest.raises(
            RuntimeError, match=r"belongs to the event loop of its first call.*one client per asyncio\.run"
        ):
            asyncio.run(use(client))
    assert asyncio.run(use(AsyncEvalClient(server.address))) == ["dummy"]


def test_the_asyncio_client_is_refused_in_a_forked_child(server: ScriptedServer) -> None:
    script = """
        import asyncio, os, sys
        from lmms_eval_grpc.client import AsyncEvalClient

        async def main():
            client = AsyncEvalClient(sys.argv[1])
            await client.list_models()
            child = os.fork()
            if child == 0:
                try:
                    client._transport.connected()
                except RuntimeError as error:
                    os._exit(0 if "forked" in str(error) else 1)
                os._exit(2)
            assert os.waitpid(child, 0)[1] == 0
            assert await client.list_models() == ["dummy"]
            await client.close()

        asyncio.run(main())
    """
    run_script(script, server.address)


async def test_many_calls_at_once(server: ScriptedServer) -> None:
    async with AsyncEvalClient(server.address) as client:
        answers = await asyncio.gather(*(client.list_models() for _ in range(100)))
    assert answers == [["dummy"]] * 100


async def test_a_cancelled_task_stays_cancelled(server: ScriptedServer) -> None:
    server.servicer.add_job()
    async with AsyncEvalClient(server.address) as client:
        task = asyncio.create_task(client.wait_for_job("job-1", verbose=False))
        await asyncio.sleep(0.5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await client.get_job("job-1"))["status"] == "queued"


def _complete_a_job(server: ScriptedServer) -> None:
    server.servicer.add_job()
    server.servicer.publish(state_change(job_pb2.JOB_STATE_COMPLETED))
