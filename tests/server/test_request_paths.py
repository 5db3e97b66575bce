"""Which paths a request may name: every field that can name one, and every way to say one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.struct_pb2 import Struct

from lmms_eval_grpc.engine.checkpoints.companions import find_companions
from lmms_eval_grpc.engine.checkpoints.layouts import find_shards
from lmms_eval_grpc.engine.models import registry
from lmms_eval_grpc.jobs.secrets import SECRETS_FILE
from lmms_eval_grpc.jobs.spec import EvaluationSpec, MergeMode, MergeSpec
from lmms_eval_grpc.server.state_dir import ServerStartError
from lmms_eval_grpc.v1 import evaluation_service_pb2 as pb
from lmms_eval_grpc.v1 import job_pb2
from lmms_eval_grpc.worker.path_rules import Access, PathRules
from lmms_eval_grpc.worker.request_paths import USES, Use, refused_paths
from tests.server.conftest import TASK, NewRig, Rig, failure, violations

READ_REFUSAL, WRITE_REFUSAL = "(checkpoint_root)", "(output_root)"


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """``allowed/in`` and ``allowed/out`` are for requests, ``private`` is not, and links lead from the one to the
    other."""
    for name in ("allowed/in/ckpt", "allowed/in/tasks", "allowed/out", "private/ckpt", "private/tasks"):
        (tmp_path / name).mkdir(parents=True)
    for place in ("allowed/in", "private"):
        (tmp_path / place / "ckpt" / "config.json").write_text("{}")
        (tmp_path / place / "samples.jsonl").write_text("{}")
        (tmp_path / place / "prompt.txt").write_text("hello")
    (tmp_path / "allowed/in/link").symlink_to(tmp_path / "private")
    (tmp_path / "allowed/out/link").symlink_to(tmp_path / "private")
    (tmp_path / "allowed-not").symlink_to(tmp_path / "private")
    return tmp_path


@pytest.fixture
async def bounded(new_rig: NewRig, folders: Path) -> Rig:
    rig = await new_rig(checkpoint_root=(folders / "allowed/in",), output_root=(folders / "allowed/out",))
    rig.checkpoint = folders / "allowed/in/ckpt"
    return rig


def ways(target: Path, folders: Path) -> list[str]:
    """Ways to say a path that no request may name, though each begins well or looks like something else."""
    rest = target.relative_to(folders / "private")
    return [
        str(target),
        str(folders / "allowed/in/../../private" / rest),
        str(folders / "allowed/in/link" / rest),
        str(folders / "allowed/out/link" / rest),
        str(folders / "allowed-not" / rest),
        f"//{target}",
        f"/proc/self/root{target}",
        os.path.relpath(target),
        "../" * 40 + str(target).lstrip("/"),
    ]


def fields() -> list[tuple[str, str, str, Callable[[job_pb2.EvaluationSpec, str], None]]]:
    """Fields of an evaluation that name paths: name, what it names in ``private``, the refusal, and how to set it."""

    def plain(name: str) -> Callable[[job_pb2.EvaluationSpec, str], None]:
        return lambda spec, text: setattr(spec, name, text)

    def many(name: str, form: str = "{}") -> Callable[[job_pb2.EvaluationSpec, str], None]:
        return lambda spec, text: getattr(spec, name).append(form.format(text))

    def argument(name: str) -> Callable[[job_pb2.EvaluationSpec, str], None]:
        return lambda spec, text: spec.model_args.update({name: text})

    return [
        ("spec.output_dir", "results", WRITE_REFUSAL, plain("output_dir")),
        ("spec.use_cache", "cache", WRITE_REFUSAL, plain("use_cache")),
        ("spec.baseline", "samples.jsonl", READ_REFUSAL, plain("baseline")),
        ("spec.include_path[0]", "tasks", READ_REFUSAL, many("include_path")),
        ("spec.tasks[1]", "tasks/mine.yaml", READ_REFUSAL, many("tasks")),
        ("spec.model_args.pretrained", "ckpt", READ_REFUSAL, argument("pretrained")),
        ("spec.model_args.chat_template", "prompt.txt", READ_REFUSAL, argument("chat_template")),
        ("spec.model_args.system_prompt", "prompt.txt", READ_REFUSAL, argument("system_prompt")),
        ("spec.model_args.reasoning_prompt", "prompt.txt", READ_REFUSAL, argument("reasoning_prompt")),
    ]


async def refused(rig: Rig, spec: job_pb2.EvaluationSpec) -> dict[str, str]:
    return violations(await failure(rig.stub.Evaluate(pb.EvaluateRequest(spec=spec, validate_only=True))))


@pytest.mark.parametrize("case", fields(), ids=lambda case: case[0])
async def test_no_field_of_an_evaluation_leads_out_of_the_roots(bounded: Rig, folders: Path, case: Any) -> None:
    field, name, refusal, put = case
    for there in (True, False):
        target = folders / "private" / (name if there else f"no-such-{name}".replace("/", "-"))
        for text in ways(target, folders):
            spec = bounded.spec()
            put(spec, text)
            found = await refused(bounded, spec)
            assert set(found) == {field}, text
            # The same whether or not it is there, and without the server's own folders.
            assert refusal in found[field] or "neither an absolute path" in found[field], (text, found)
            assert str(folders / "allowed") not in found[field].replace(text, "")


async def test_a_tracker_stays_within_the_roots(bounded: Rig, folders: Path) -> None:
    for text in ways(folders / "private/runs", folders):
        if not text.startswith("/"):
            continue  # which a tracker's name may not be
        found = await refused(bounded, bounded.spec(track=[f"tensorboard:{text}"]))
        assert set(found) == {"spec.track[0]"}
    await bounded.stub.Evaluate(
        pb.EvaluateRequest(spec=bounded.spec(track=[f"tensorboard:{folders}/allowed/out/runs"]), validate_only=True)
    )


async def test_no_field_of_a_merge_leads_out_of_the_roots(bounded: Rig, folders: Path) -> None:
    private, good = folders / "private", str(folders / "allowed/in/ckpt")
    for field, refusal in (
        ("checkpoint_path", READ_REFUSAL),
        ("config_path", READ_REFUSAL),
        ("output_path", WRITE_REFUSAL),
    ):
        for target in (private / "ckpt", private / "none"):
            for text in ways(target, folders):
                values: dict[str, Any] = {
                    "checkpoint_path": good,
                    "output_path": str(folders / "allowed/out/m"),
                    field: text,
                }
                error = await failure(
                    bounded.stub.MergeCheckpoint(pb.MergeCheckpointRequest(spec=job_pb2.MergeSpec(**values)))
                )
                found = violations(error)
                assert refusal in found[f"spec.{field}"], (field, text, found)


async def test_what_is_in_the_roots_is_taken(bounded: Rig, folders: Path) -> None:
    inside, out = folders / "allowed/in", folders / "allowed/out"
    (inside / "again").symlink_to(inside / "ckpt")
    spec = bounded.spec(
        output_dir=str(out / "new/results"),
        use_cache=str(out / "cache"),
        baseline=str(inside / "samples.jsonl"),
        include_path=[str(inside / "tasks")],
        track=[f"tensorboard:{out}/runs"],
    )
    for pretrained in (inside / "ckpt", inside / "again", inside / ".." / "in" / "ckpt"):
        spec.model_args.update({"pretrained": str(pretrained), "system_prompt": str(inside / "prompt.txt")})
        await bounded.stub.Evaluate(pb.EvaluateRequest(spec=spec, validate_only=True))
    for name in ("gpt2", "Qwen/Qwen2.5-VL-3B-Instruct", "s3://bucket/ckpt", "hf://user/repo"):
        spec.model_args.update({"pretrained": name, "system_prompt": "Answer / briefly."})
        await bounded.stub.Evaluate(pb.EvaluateRequest(spec=spec, validate_only=True))


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("file://{private}/ckpt", READ_REFUSAL),
        ("local://{private}/ckpt", READ_REFUSAL),
        ("FILE://{private}/ckpt", READ_REFUSAL),
        ("file://~/ckpt", READ_REFUSAL),
        ("file://{allowed}/in/../../private/ckpt", READ_REFUSAL),
        ("simplecache::file://{private}/ckpt", READ_REFUSAL),
        ("zip://ckpt::file://{private}/x.zip", "checkpoint_schemes"),
        ("http://169.254.169.254/latest", "checkpoint_schemes"),
        ("ssh://host/ckpt", "checkpoint_schemes"),
        ("file:{private}/ckpt", "neither"),
        ("a/b/c", "neither"),
        ("..", "neither"),
    ],
)
async def test_urls_and_relative_names_do_not_lead_out_either(bounded: Rig, folders: Path, url: str, why: str) -> None:
    spec = bounded.spec()
    spec.model_args["pretrained"] = url.format(private=folders / "private", allowed=folders / "allowed")
    found = await refused(bounded, spec)
    assert set(found) == {"spec.model_args.pretrained"}
    assert why in found["spec.model_args.pretrained"]


async def test_schemes_can_be_chosen(new_rig: NewRig, folders: Path) -> None:
    rig = await new_rig(checkpoint_schemes=("s3",))
    for name, taken in (("s3://b/c", True), ("gs://b/c", False), (f"file://{folders}/private/ckpt", False)):
        spec = rig.spec()
        spec.model_args["pretrained"] = name
        request = pb.EvaluateRequest(spec=spec, validate_only=True)
        if taken:
            await rig.stub.Evaluate(request)
        else:
            assert (
                "checkpoint_schemes"
                in violations(await failure(rig.stub.Evaluate(request)))["spec.model_args.pretrained"]
            )


async def test_a_checkpoint_whose_files_are_elsewhere_is_refused(bounded: Rig, folders: Path) -> None:
    (folders / "allowed/in/ckpt/model.safetensors").symlink_to(folders / "private/samples.jsonl")
    found = await refused(bounded, bounded.spec())
    assert "'model.safetensors'" in found["spec.model_args.pretrained"]


async def test_without_roots_only_the_servers_own_state_is_closed(rig: Rig, tmp_path: Path) -> None:
    job = await rig.submit()
    folder = rig.job_dir(job.job_id)
    (folder / SECRETS_FILE).write_text("{}")
    (folder / "samples.jsonl").write_text("{}")
    state = rig.server.state_dir
    for field, value in (
        ("output_dir", str(state / "mine")),
        ("output_dir", str(folder / "results")),
        ("use_cache", str(state)),
        ("baseline", str(folder / SECRETS_FILE)),
    ):
        found = await refused(rig, rig.spec(**{field: value}))
        assert "state of the server" in found[f"spec.{field}"]
    spec = rig.spec()
    spec.model_args["system_prompt"] = str(folder / SECRETS_FILE)
    assert set(await refused(rig, spec)) == {"spec.model_args.system_prompt"}
    spec = rig.spec(output_dir=str(tmp_path / "elsewhere"), baseline=str(folder / "samples.jsonl"))
    await rig.stub.Evaluate(pb.EvaluateRequest(spec=spec, validate_only=True))


@pytest.mark.parametrize("field", ["chat_template", "system_prompt", "reasoning_prompt"])
async def test_a_relative_name_does_not_lead_into_the_servers_state(
    rig: Rig, field: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers have the server's working folder."""
    folder = rig.job_dir((await rig.submit()).job_id)
    (folder / SECRETS_FILE).write_text("{}")
    monkeypatch.chdir(rig.server.state_dir.parent)
    spec = rig.spec()
    spec.model_args[field] = str((folder / SECRETS_FILE).relative_to(rig.server.state_dir.parent))
    found = await refused(rig, spec)
    assert "state of the server" in found[f"spec.model_args.{field}"]
    monkeypatch.chdir(rig.server.state_dir)
    spec.model_args[field] = f"jobs/{folder.name}/{SECRETS_FILE}"
    assert "state of the server" in (await refused(rig, spec))[f"spec.model_args.{field}"]
    for text in ("Answer yes/no.", "a/" * 4000):
        spec.model_args[field] = text
        await rig.stub.Evaluate(pb.EvaluateRequest(spec=spec, validate_only=True))


@pytest.fixture
def shards(folders: Path) -> Path:
    """A checkpoint in shards, by the names of its files, and beside a folder that is private one with its files."""
    checkpoint = folders / "allowed/in/run/checkpoint-7"
    (checkpoint / "pytorch_model_fsdp_0").mkdir(parents=True)
    for name in (".metadata", "__0_0.distcp"):
        (checkpoint / "pytorch_model_fsdp_0" / name).write_bytes(b"")
    for folder in (checkpoint, folders / "private"):
        (folder / "config.json").write_text('{"model_type": "llava"}')
    (folders / "private/tokenizer.json").write_text("{}")
    return checkpoint


def merges(checkpoint: str, folders: Path) -> list[Any]:
    """Both ways to have a checkpoint merged."""
    arguments = {"pretrained": checkpoint}
    return [
        MergeSpec(checkpoint, str(folders / "allowed/out/m")),
        EvaluationSpec("idefics3", (TASK,), arguments, merge=MergeMode.AUTO),
    ]


@pytest.mark.parametrize(
    "link",
    [
        "tokenizer.json",
        "pytorch_model_fsdp_0/__1_0.distcp",
        "pytorch_model_fsdp_0/tokenizer.model",
        "chat_templates/a.jinja",
        "../hf",
    ],
)
@pytest.mark.parametrize("which", [0, 1])
def test_what_a_merge_reads_and_copies_is_no_link_that_leads_out(
    folders: Path, shards: Path, link: str, which: int
) -> None:
    rules = PathRules((str(folders / "allowed/in"),), (str(folders / "allowed/out"),))
    spec = merges(str(shards), folders)[which]
    assert not list(refused_paths(spec, rules))
    if link == "../hf":
        (shards / "config.json").unlink()  # so that it is looked for above
    target = folders / ("private" if link == "../hf" else "private/tokenizer.json")
    (shards / link).parent.mkdir(exist_ok=True)
    (shards / link).symlink_to(target)
    for in_use in (False, True):
        assert [problem for _, problem in refused_paths(spec, rules, in_use=in_use) if "leads out" in problem]


@pytest.mark.parametrize("which", [0, 1])
def test_a_merge_looks_above_the_checkpoint_and_nowhere_else(folders: Path, shards: Path, which: int) -> None:
    rules = PathRules((str(folders / "allowed/in/run"),), (str(folders / "allowed/out"),))
    (shards / "config.json").rename(folders / "allowed/in/config.json")
    assert not list(refused_paths(merges(str(shards), folders)[which], rules))
    (folders / "allowed/in/config.json").unlink()
    shards.rename(folders / "allowed/ckpt")
    rules = PathRules((str(folders / "allowed"),), (str(folders / "allowed/out"),))
    # Above by the letters of the path only.
    roundabout = f"{folders}/private/../allowed/ckpt"
    assert find_companions(find_shards(Path(roundabout)), None).config_folder.name == "private"
    problems = [problem for _, problem in refused_paths(merges(roundabout, folders)[which], rules)]
    assert len(problems) == 1
    assert "leads out" in problems[0]


async def test_a_merge_of_a_checkpoint_that_leads_out_is_refused(bounded: Rig, folders: Path, shards: Path) -> None:
    (shards / "tokenizer.json").symlink_to(folders / "private/tokenizer.json")
    spec = job_pb2.MergeSpec(checkpoint_path=str(shards), output_path=str(folders / "allowed/out/m"))
    found = violations(await failure(bounded.stub.MergeCheckpoint(pb.MergeCheckpointRequest(spec=spec))))
    assert "'tokenizer.json'" in found["spec.checkpoint_path"]


async def test_the_results_of_jobs_are_a_baseline_with_roots_too(bounded: Rig) -> None:
    folder = bounded.job_dir((await bounded.submit()).job_id)
    (folder / "samples.jsonl").write_text("{}")
    spec = bounded.spec(baseline=str(folder / "samples.jsonl"))
    await bounded.stub.Evaluate(pb.EvaluateRequest(spec=spec, validate_only=True))


async def test_a_root_that_is_not_there_stops_the_start(new_rig: NewRig, tmp_path: Path) -> None:
    for name in ("checkpoint_root", "output_root"):
        with pytest.raises(ServerStartError, match=f"{name}: .*missing is not a folder"):
            await new_rig(**{name: (tmp_path / "missing",)})


def text_fields(message: Descriptor) -> Iterator[FieldDescriptor]:
    for field in message.fields:
        inner = field.message_type
        if field.cpp_type == FieldDescriptor.CPPTYPE_STRING or (
            inner is not None and inner.full_name == Struct.DESCRIPTOR.full_name
        ):
            yield field
        elif inner is not None and inner.full_name.startswith("lmms_eval_grpc."):
            yield from text_fields(inner)


def test_every_text_of_a_specification_is_classified() -> None:
    messages = (job_pb2.EvaluationSpec.DESCRIPTOR, job_pb2.MergeSpec.DESCRIPTOR)
    wanted = {
        field.full_name.removeprefix("lmms_eval_grpc.v1.") for message in messages for field in text_fields(message)
    }
    assert wanted == set(USES)


def test_every_argument_that_may_name_a_file_is_classified() -> None:
    """By what its description says."""
    for entry in registry.entries():
        for key, argument in entry.arguments.items():
            if "a file with" in argument.description:
                assert entry.names(key) == "file", (entry.name, key)
            if "Folder of a checkpoint" in argument.description:
                assert {entry.names(name) for name in (key, *argument.other_names)} == {"checkpoint"}


@pytest.mark.parametrize("model", ["vllm", "sglang", "transformers_serve"])
def test_requests_to_a_server_that_the_job_starts_name_nothing_outside_the_roots(folders: Path, model: str) -> None:
    rules = PathRules((str(folders / "allowed/in"),))
    outside, inside = f"{folders}/private/a.png", f"{folders}/allowed/in/a.png"
    for url, field in ((f"file://{outside}", "u"), (f"FILE://{outside}", "u"), (inside, ""), ("http://a/b", "")):
        body = {"messages": [{"u": url}]}
        spec = EvaluationSpec(model, (TASK,), {"pretrained": str(folders / "allowed/in/ckpt"), "extra_body": body})
        found = [place for place, _ in refused_paths(spec, rules)]
        assert found == ([f"spec.model_args.extra_body.messages[0].{field}"] if field else [])
    elsewhere = {"model": "m", "base_url": "http://a/v1", "extra_body": {"path": "/private"}}
    assert not list(refused_paths(EvaluationSpec("openai", (TASK,), elsewhere), rules))


@pytest.mark.parametrize("use", [Use.READ, Use.WRITE])
def test_a_link_that_is_set_later_is_found_when_the_path_is_used(folders: Path, use: Use) -> None:
    rules = PathRules((str(folders / "allowed/in"),), (str(folders / "allowed/out"),))
    later = folders / ("allowed/in/later" if use is Use.READ else "allowed/out/later")
    spec: Any = (
        EvaluationSpec("idefics3", (TASK,), {"pretrained": str(later)})
        if use is Use.READ
        else MergeSpec(str(folders / "allowed/in/ckpt"), str(later))
    )
    assert not list(refused_paths(spec, rules))
    later.symlink_to(folders / "private")
    assert list(refused_paths(spec, PathRules.of_environment(rules.environment()), in_use=True))


def test_what_a_checkpoint_names_is_looked_at_when_it_is_used(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rules = PathRules((str(folders / "allowed/in"),))
    folder = folders / "allowed/in/ckpt"
    assert not rules.checkpoint_problem(str(folder), in_use=True)
    index = folder / "model.safetensors.index.json"
    index.write_text('{"weight_map": {"a": "../../../private/samples.jsonl"}}')
    assert "leads out" in rules.checkpoint_problem(str(folder), in_use=True)
    index.write_text('{"weight_map": {"a": "model-1.safetensors"}}')
    assert not rules.checkpoint_problem(str(folder), in_use=True)
    (folder / "adapter_config.json").write_text(f'{{"base_model_name_or_path": "{folders}/private/ckpt"}}')
    assert "adapter" in rules.checkpoint_problem(str(folder), in_use=True)
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "private/ckpt"}')
    assert not rules.checkpoint_problem(str(folder), in_use=True)
    monkeypatch.chdir(folders)
    assert "adapter" in rules.checkpoint_problem(str(folder), in_use=True)


def test_a_relative_name_is_no_way_out_when_it_is_used(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rules = PathRules((str(folders / "allowed/in"),))
    monkeypatch.chdir(folders)
    assert rules.checkpoint_problem("private/ckpt", in_use=True)
    assert rules.file_problem("private/prompt.txt", in_use=True)
    assert not rules.file_problem("a prompt", in_use=True)
    assert not rules.path_problem(str(folders / "allowed/in/x"), Access.READ)
