"""Requests that mean something to this server: good ones, good ones with a change, and damaged ones.

The grammar learns from answers: ids of jobs, page tokens, sequences, cursors.
"""

from __future__ import annotations

import base64
import json
import random
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from lmms_eval_grpc.v1 import admin_service_pb2 as admin
from lmms_eval_grpc.v1 import evaluation_service_pb2 as pb
from lmms_eval_grpc.v1.job_pb2 import JOB_ERROR_CODE_TIMEOUT, JOB_ERROR_CODE_WORKER_DIED, JOB_STATE_QUEUED
from tests.fuzz.methods import METHODS, Method
from tests.fuzz.values import Maker, mutate
from tests.fuzz.wire import damage, nested

HUGE_REQUEST = 9 * 1024 * 1024
"""Bytes of a request that is larger than a server takes."""


@dataclass
class Facts:
    """What is known of a server."""

    folder: Path
    """Of the caller: checkpoints, task files, places for outputs."""
    owners: list[str] = field(default_factory=lambda: ["anonymous", ""])
    tasks: list[str] = field(default_factory=list)
    models: list[str] = field(default_factory=list)
    jobs: deque[str] = field(default_factory=lambda: deque(["job-0"], maxlen=200))
    queued: deque[str] = field(default_factory=lambda: deque(["job-0"], maxlen=3))
    """Those of the jobs that were queued last; most start soon."""
    tokens: deque[str] = field(default_factory=lambda: deque([""], maxlen=50))
    places: deque[int] = field(default_factory=lambda: deque([0], maxlen=100))
    """Sequences, cursors and offsets that answers named."""

    def learn(self, response: Any) -> None:
        """Keeps what later requests can name."""
        for name in ("job", "snapshot"):
            part = getattr(response, name, None)
            if (job_id := getattr(part, "job_id", "")) and job_id not in self.jobs:
                self.jobs.append(job_id)
                if part.state == JOB_STATE_QUEUED:
                    self.queued.append(job_id)
        for job in getattr(response, "jobs", ()):
            if job.job_id not in self.jobs:
                self.jobs.append(job.job_id)
        if token := getattr(response, "next_page_token", ""):
            self.tokens.append(token)
        for name in ("next_cursor", "end_offset"):
            if place := getattr(response, name, 0):
                self.places.append(place)


_MODEL_ARGS = ("pretrained", "trust_remote_code", "dtype", "attn_implementation", "base_url", "model", "min_pixels",
               "max_pixels", "device_map", "revision", "max_new_tokens")  # fmt: skip
_GEN_KWARGS = (
    "max_new_tokens",
    "temperature",
    "top_p",
    "num_beams",
    "do_sample",
    "until",
    "max_gen_toks",
    "max_tokens",
)
_SYMBOLS = (
    "lmms_eval_grpc.v1.EvaluationService", "lmms_eval_grpc.v1.AdminService", "lmms_eval_grpc.v1.Job",
    "google.protobuf.Any", "google.protobuf.FieldOptions", "lmms_eval_grpc/v1/job.proto",
    "google/protobuf/descriptor.proto", "grpc.health.v1.Health",
)  # fmt: skip


class Grammar:
    """Draws requests. The same seed and the same answers draw the same requests."""

    def __init__(self, rng: random.Random, facts: Facts, seeds: Sequence[tuple[str, bytes]] = ()) -> None:
        """``seeds``: method paths and requests that others are made of."""
        self.rng = rng
        self.facts = facts
        self.maker = Maker(rng, self.words)
        self._request_ids = [str(uuid.UUID(int=rng.getrandbits(128), version=4)) for _ in range(30)]
        self._seeds: dict[str, list[bytes]] = {}
        for path, data in seeds:
            self._seeds.setdefault(path, []).append(data)
        self._weights = [_WEIGHTS.get(method.name, 4) for method in METHODS]

    def draw_method(self) -> Method:
        return self.rng.choices(METHODS, self._weights)[0]

    def draw(self, method: Method) -> bytes:
        """A request of ``method``: good, changed, of hostile values only, or damaged."""
        kind = self.rng.random()
        if kind < 0.25:
            return self._good(method).SerializeToString()
        if kind < 0.55:
            message = self._good(method)
            mutate(message, self.maker)
            return _serialized(message)
        if kind < 0.70:
            message = method.make()
            self.maker.fill(message, share=self.rng.choice((0.1, 0.3, 0.7, 1.0)))
            return _serialized(message)
        seeds = self._seeds.get(method.path)
        data = self.rng.choice(seeds) if seeds and self.rng.random() < 0.4 else self._good(method).SerializeToString()
        if kind < 0.97:
            return damage(data, self.rng)
        if kind < 0.998:
            return nested(self.rng.randint(1, 16), self.rng.choice((50, 98, 200, 3_000)), data)
        return data + bytes(HUGE_REQUEST) if self.rng.random() < 0.05 else data

    def words(self, field: FieldDescriptor) -> Sequence[str]:
        """Texts that mean something in a field."""
        folder = str(self.facts.folder)
        match field.name:
            case "job_id":
                return self.facts.jobs
            case "page_token":
                return [*list(self.facts.tokens)[-3:], self._forged_token()]
            case "request_id":
                return self._request_ids
            case "tasks" | "task":
                return [*self.facts.tasks, f"{folder}/tasks/digits.yaml", f"{folder}/tasks/bomb.yaml", "broken_task",
                        "*", "broken_*"]  # fmt: skip
            case "filter":
                return [*self.facts.tasks, "*", "?*[", "hand*", "[a-z]*"]
            case "model":
                return self.facts.models
            case "service":
                return ["", *_SYMBOLS]
            case (
                "output_dir"
                | "use_cache"
                | "checkpoint_path"
                | "output_path"
                | "config_path"
                | "include_path"
                | "baseline"
            ):
                names = ("checkpoint", "sharded", "tasks", "tasks/digits.yaml", "out/new", "../caller/tasks", "pipe",
                         "loop", "tasks/../../state", "cache.db")  # fmt: skip
                return [
                    *(f"{folder}/{name}" for name in names),
                    "hf://user/repo/file.json",
                    "preset:x",
                    "/dev",
                    "~/x",
                    "rel",
                ]
            case "track":
                return [f"tensorboard:{folder}/board", "wandb:a/b", "mlflow:x", "tensorboard:rel", ":"]
            case "device":
                return ["cpu", "cuda", "cuda:0", "cpu:0", "host/cpu"]
            case "timezone":
                return ["UTC", "Asia/Singapore", "../../etc/passwd", "/etc/localtime", "Etc"]
            case "reasoning_tags":
                return ["none", '[["<think>","</think>"]]', '[["a"]]', "[[1,2]]"]
            case "agentic_trace_mode":
                return ["basic", "full"]
            case "owner":
                return self.facts.owners
            case "compat":
                return ["fewshot_stream"]
            case "fields":
                return (*_MODEL_ARGS, *_GEN_KWARGS)
            case "file_by_filename" | "file_containing_symbol" | "containing_type" | "all_extension_numbers_of_type":
                return _SYMBOLS
        return ()

    def _good(self, method: Method) -> Message:
        make: Callable[[], Message] | None = getattr(self, f"_{method.name.lower()}", None)
        if make is not None:
            return make()
        message = method.make()
        fields = {item.name: item for item in method.request.fields}
        for name in ("job_id", "page_token", "filter", "service", "reason", "owner"):
            if name in fields and (name == "job_id" or self.rng.random() < 0.4):
                setattr(message, name, self.rng.choice(self.words(fields[name]) or ("because",)))
        for name in ("page_size", "view", "follow", "priority", "dry_run", "finish_queued"):
            if name in fields and self.rng.random() < 0.5:
                setattr(message, name, self.rng.choice((0, 1, 1, 2) if name != "page_size" else (0, 1, 3, 50, 5_000)))
        for name in ("after_sequence", "after_cursor", "after_offset", "keep"):
            if name in fields and self.rng.random() < 0.6:
                setattr(message, name, self.rng.choice((0, 1, 2, 3, 5, *self.facts.places)) & 2**31 - 1)
        for name in ("file_by_filename", "file_containing_symbol", "list_services", "all_extension_numbers_of_type"):
            if name in fields and self.rng.random() < 0.4:
                setattr(message, name, self.rng.choice(_SYMBOLS))
        return message

    def _evaluate(self) -> pb.EvaluateRequest:
        rng, folder = self.rng, self.facts.folder
        request = pb.EvaluateRequest(validate_only=rng.random() < 0.5, priority=rng.randint(-3, 3))
        spec = request.spec
        spec.model = "idefics3" if rng.random() < 0.6 or not self.facts.models else rng.choice(self.facts.models)
        names = self.facts.tasks or ["handwritten_digits"]
        spec.tasks.extend(rng.choice(names) for _ in range(rng.choice((1, 1, 1, 2, 4))))
        spec.model_args["pretrained"] = str(folder / rng.choice(("checkpoint", "checkpoint", "checkpoint", "sharded")))
        if rng.random() < 0.3:
            request.request_id = rng.choice(self._request_ids)
        if rng.random() < 0.3:
            request.labels["run"] = rng.choice(("a", "b"))
        if rng.random() < 0.3:
            spec.gen_kwargs.update({"max_new_tokens": rng.randint(1, 99), "until": ["\n"], "temperature": 0.5})
        if rng.random() < 0.3:
            spec.limit.count = rng.randint(1, 100)
        if rng.random() < 0.2:
            spec.retry_policy.max_attempts = 2
            spec.retry_policy.retry_on.extend([JOB_ERROR_CODE_WORKER_DIED, JOB_ERROR_CODE_TIMEOUT])
        if rng.random() < 0.2:
            spec.include_path.append(str(folder / "tasks"))
        if rng.random() < 0.2:
            spec.batch_size.fixed = 4
        if rng.random() < 0.1:
            spec.merge = rng.randint(0, 2)  # type: ignore[assignment]
        if rng.random() < 0.2:
            spec.log_samples = False
        return request

    def _mergecheckpoint(self) -> pb.MergeCheckpointRequest:
        rng = self.rng
        request = pb.MergeCheckpointRequest(priority=rng.randint(-3, 3))
        request.spec.checkpoint_path = str(self.facts.folder / rng.choice(("sharded", "sharded", "checkpoint", "run")))
        if rng.random() < 0.7:
            request.spec.output_path = str(self.facts.folder / "out" / str(rng.randint(0, 10**6)))
        if rng.random() < 0.3:
            request.request_id = rng.choice(self._request_ids)
        return request

    def _setjobpriority(self) -> admin.SetJobPriorityRequest:
        return admin.SetJobPriorityRequest(job_id=self.rng.choice(self.facts.queued), priority=self.rng.randint(-3, 3))

    def _forged_token(self) -> str:
        """A page token with its digest and a position that no listing has given out."""
        token = self.rng.choice(self.facts.tokens)
        try:
            digest, position = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
        except ValueError:
            digest, position = "0", 0
        other: Any = self.rng.choice(
            (0, -1, 2**63, 10**30, 10**5_000, "", "\ud800", "zzz", None, 1.5, True, [], {}, [digest, position])
        )
        if self.rng.random() < 0.1:
            text = "[" * 20_000
        else:
            try:
                text = json.dumps(self.rng.choice(([digest, other], other, [digest], [digest, position, other])))
            except ValueError:  # a number that Python does not write
                text = f'["{digest}",{"9" * 5_000}]'
        return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


_WEIGHTS = {
    "Evaluate": 20, "MergeCheckpoint": 6, "GetJob": 8, "ListJobs": 8, "CancelJob": 6, "WatchJob": 8, "StreamSamples": 8,
    "StreamLogs": 8, "SetJobPriority": 5, "PauseQueue": 2, "ResumeQueue": 6, "CollectGarbage": 1, "ListTasks": 6,
    "ServerReflectionInfo": 2, "Check": 2, "Watch": 2, "List": 1, "Drain": 2,
}  # fmt: skip


def _serialized(message: Message) -> bytes:
    # A map's entry without a value, say, cannot be written by some runtimes.
    return message.SerializePartialToString()
