"""Server reflection, so that grpcurl, ``buf curl`` and the like need no proto files.

The two versions of the protocol have the same messages; the library brings those of ``v1alpha`` only, so the method of
``v1`` is served with them too.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Sequence
from typing import Any

import grpc
import grpc.aio
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_reflection.v1alpha import reflection_pb2

_PROTOCOLS = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")


def add_reflection(server: grpc.aio.Server, services: Sequence[str]) -> None:
    """Lets clients ask ``server`` for the descriptors of everything that is loaded; listed are ``services``."""
    servicer = ReflectionServicer(services)
    for protocol in _PROTOCOLS:
        handler = grpc.stream_stream_rpc_method_handler(
            servicer.answer_all,
            request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
            response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
        )
        handlers = {"ServerReflectionInfo": handler}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(protocol, handlers),))


class ReflectionServicer:
    """Answers from the descriptor pool of this process."""

    def __init__(self, services: Sequence[str]) -> None:
        self._services = sorted(services)
        self._pool = descriptor_pool.Default()

    async def answer_all(self, requests: AsyncIterable[Any], context: grpc.aio.ServicerContext[Any, Any]) -> None:
        """The method itself."""
        async for request in requests:
            response = self._answer(request)
            response.valid_host = request.host
            response.original_request.CopyFrom(request)
            await context.write(response)

    def _answer(self, request: Any) -> Any:
        response = reflection_pb2.ServerReflectionResponse()
        try:
            match request.WhichOneof("message_request"):
                case "list_services":
                    for name in self._services:
                        response.list_services_response.service.add(name=name)
                case "file_by_filename":
                    _add_files(response, self._pool.FindFileByName(request.file_by_filename))
                case "file_containing_symbol":
                    _add_files(response, self._pool.FindFileContainingSymbol(request.file_containing_symbol))
                case "file_containing_extension":
                    wanted = request.file_containing_extension
                    message = self._pool.FindMessageTypeByName(wanted.containing_type)
                    extension = self._pool.FindExtensionByNumber(message, wanted.extension_number)
                    _add_files(response, self._pool.FindFileContainingSymbol(extension.full_name))
                case "all_extension_numbers_of_type":
                    message = self._pool.FindMessageTypeByName(request.all_extension_numbers_of_type)
                    numbers = response.all_extension_numbers_response
                    numbers.base_type_name = message.full_name
                    numbers.extension_number.extend(item.number for item in self._pool.FindAllExtensions(message))
                case _:
                    _set_error(response, grpc.StatusCode.INVALID_ARGUMENT, "the request asks for nothing known")
        except KeyError:
            _set_error(response, grpc.StatusCode.NOT_FOUND, "there is nothing of that name here")
        return response


def _set_error(response: Any, code: grpc.StatusCode, message: str) -> None:
    response.error_response.error_code = code.value[0]
    response.error_response.error_message = message


def _add_files(response: Any, file: FileDescriptor) -> None:
    """Adds ``file`` and all that it depends on, each once."""
    waiting, seen = [file], {file.name}
    while waiting:
        current = waiting.pop()
        proto = FileDescriptorProto()
        current.CopyToProto(proto)
        response.file_descriptor_response.file_descriptor_proto.append(proto.SerializeToString())
        for needed in current.dependencies:
            if needed.name not in seen:
                seen.add(needed.name)
                waiting.append(needed)
