"""The bounds of every field of every request: a table over the descriptors, and what is done with it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct

from lmms_eval_grpc.server import caps
from lmms_eval_grpc.server.caps import TABLE, cap_of, check_caps
from lmms_eval_grpc.v1 import admin_service_pb2, evaluation_service_pb2, job_pb2
from lmms_eval_grpc.v1 import admin_service_pb2_grpc as admin_grpc
from lmms_eval_grpc.v1 import evaluation_service_pb2 as pb
from tests.server.conftest import Rig, failure, violations

PROTOS = Path(__file__).parents[2] / "protos" / "lmms_eval_grpc" / "v1"
SERVICES = (
    evaluation_service_pb2.DESCRIPTOR.services_by_name["EvaluationService"],
    admin_service_pb2.DESCRIPTOR.services_by_name["AdminService"],
)
REQUESTS = [method.input_type for service in SERVICES for method in service.methods]


def is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def is_struct(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.full_name == Struct.DESCRIPTOR.full_name


def fields(kind: Descriptor, above: tuple[FieldDescriptor, ...] = ()) -> Iterator[tuple[FieldDescriptor, ...]]:
    """Every field that has bounds, with those that lead to it."""
    for field in kind.fields:
        place = (*above, field)
        inner = field.message_type
        if field.cpp_type == FieldDescriptor.CPPTYPE_STRING or is_map(field) or is_struct(field):
            yield place
        elif inner is not None:
            yield from fields(inner, place)


def holder(request: Descriptor, place: tuple[FieldDescriptor, ...]) -> tuple[Message, Any]:
    """A request, and the message in it that has the field."""
    made = message_factory.GetMessageClass(request)()
    inner: Any = made
    for field in place[:-1]:
        inner = getattr(inner, field.name)
        inner.SetInParent()
    return made, inner


def path(place: tuple[FieldDescriptor, ...]) -> str:
    return ".".join(field.name for field in place)


PLACES = [(request, place) for request in REQUESTS for place in fields(request)]


def is_list(inner: Any, name: str) -> bool:
    return not isinstance(getattr(inner, name), str)


def told(request: Message) -> list[str]:
    return [violation.field for violation in check_caps(request)]


def test_the_table_names_fields_of_requests() -> None:
    known = {place[-1].full_name.removeprefix("lmms_eval_grpc.v1.") for _, place in PLACES}
    assert TABLE.keys() <= known
    assert len(PLACES) > 30


@pytest.mark.parametrize(
    ("request_type", "place"), PLACES, ids=lambda value: getattr(value, "name", None) or path(value)
)
def test_every_field_is_bounded(request_type: Descriptor, place: tuple[FieldDescriptor, ...]) -> None:
    field, cap, where = place[-1], cap_of(place[-1]), path(place)
    made, inner = holder(request_type, place)
    value = getattr(inner, field.name)

    def fresh() -> Any:
        inner.ClearField(field.name)
        return getattr(inner, field.name)

    if isinstance(value, Struct):
        value["key"] = "x" * cap.characters
        assert told(made) == []
        value["key"] = "x" * (cap.characters + 1)
        assert told(made) == [f"{where}.key"]
        value["key"] = "a\0b"
        assert told(made) == [f"{where}.key"]
        value = fresh()
        value[""] = 1
        assert told(made) == [where]
        value = fresh()
        value["many"] = [0] * cap.nodes
        assert told(made) == [where]
        value = fresh()
        value["number"] = float("nan")
        value["in"] = {"a": [float("inf")]}
        assert sorted(told(made)) == [f"{where}.in.a[0]", f"{where}.number"]
    elif is_map(field):
        value["k" * cap.key_characters] = "v" * cap.characters
        assert told(made) == []
        value["key"] = "v" * (cap.characters + 1)
        assert told(made) == [f"{where}.key"]
        value = fresh()
        value["k" * (cap.key_characters + 1)] = ""
        assert told(made) == [where]
        value = fresh()
        value["a\nb"] = "c\0d"
        assert told(made) == [where, f"{where}.a\nb"]
        value = fresh()
        value.update({str(number): "" for number in range(cap.entries + 1)})
        assert told(made) == [where]
    elif is_list(inner, field.name):
        value.extend(["x" * cap.characters] * 2)
        assert told(made) == []
        value.append("x" * (cap.characters + 1))
        value.append("a\0b")
        assert told(made) == [f"{where}[2]", f"{where}[3]"]
        value = fresh()
        value.extend(["x"] * (cap.entries + 1))
        assert told(made) == [where]
    else:
        setattr(inner, field.name, "x" * cap.characters)
        assert told(made) == []
        setattr(inner, field.name, "x" * (cap.characters + 1))
        assert told(made) == [where]
        for control in ("\0", "\x1b", "\x7f", "\x9b"):
            setattr(inner, field.name, f"a{control}b")
            assert told(made) == [where]
        setattr(inner, field.name, "two\nlines\twide")
        assert told(made) == ([] if cap.lines else [where])


def test_the_proto_files_state_the_bounds() -> None:
    for name, cap in TABLE.items():
        message, field = name.split(".")
        text = next(text for file in PROTOS.glob("*.proto") if f"message {message} {{" in (text := file.read_text()))
        body = text.split(f"message {message} {{", 1)[1].split("\n}", 1)[0]
        comment = re.search(rf"((?: +//[^\n]*\n)+) +[\w.<>, ]+ {field} = \d+;", body)
        assert comment is not None, name
        stated = comment[1].replace(",", "")
        wanted = {
            number
            for number, default in (
                (cap.characters, caps.DEFAULT.characters),
                (cap.key_characters, caps.DEFAULT.key_characters),
                (cap.entries, caps.DEFAULT.entries),
            )
            if number != default
        }
        assert all(re.search(rf"\b{number}\b", stated) for number in wanted), (name, wanted, comment[1])


def test_everything_is_told_but_not_without_end() -> None:
    request = pb.EvaluateRequest(spec=job_pb2.EvaluationSpec(model="a\0", tasks=["b\0"] * 500))
    found = check_caps(request)
    assert [violation.field for violation in found[:2]] == ["spec.model", "spec.tasks[0]"]
    assert len(found) == caps.MAX_VIOLATIONS + 1
    assert "more than" in found[-1].description


def test_a_structure_of_many_small_parts_is_not_looked_at_to_its_end() -> None:
    request = pb.EvaluateRequest(spec=job_pb2.EvaluationSpec(model="m", tasks=["t"]))
    request.spec.model_args.update({"a": [[0] * 10 for _ in range(2000)]})
    (violation,) = check_caps(request)
    assert violation.field == "spec.model_args"
    assert "10000" in violation.description


async def test_bytes_that_are_no_text_are_refused(rig: Rig) -> None:
    call: Any = rig.channel.unary_unary("/lmms_eval_grpc.v1.EvaluationService/GetJob")
    for data in (b"\x0a\x02\xff\xfe", b"\x0a\x03\xed\xa0\x80"):  # no UTF-8; half a surrogate pair
        error = await failure(call(data))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert violations(error)


async def test_both_services_refuse_what_is_too_large(rig: Rig) -> None:
    admin: Any = admin_grpc.AdminServiceStub(rig.channel)
    calls = {
        "job_id": [
            rig.stub.GetJob(pb.GetJobRequest(job_id="x" * 5000)),
            rig.stub.WatchJob(pb.WatchJobRequest(job_id="a\0b")),
            rig.stub.StreamLogs(pb.StreamLogsRequest(job_id="a\nb")),
            admin.SetJobPriority(admin_service_pb2.SetJobPriorityRequest(job_id="x" * 5000)),
        ],
        "reason": [
            rig.stub.CancelJob(pb.CancelJobRequest(job_id="j", reason="a\0")),
            admin.PauseQueue(admin_service_pb2.PauseQueueRequest(reason="x" * 1025)),
        ],
        "spec.checkpoint_path": [
            rig.stub.MergeCheckpoint(
                pb.MergeCheckpointRequest(spec=job_pb2.MergeSpec(checkpoint_path="/a\0b", output_path="/c"))
            )
        ],
    }
    for field, made in calls.items():
        for call in made:
            assert set(violations(await failure(call))) == {field}
