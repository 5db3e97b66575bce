"""What the server can evaluate, and who asks it: the same methods for the sync and the asyncio client."""

from __future__ import annotations

from collections.abc import Iterable

from lmms_eval_grpc.client.aio_transport import AioTransport
from lmms_eval_grpc.client.transport import Transport
from lmms_eval_grpc.v1 import catalog_pb2 as catalog
from lmms_eval_grpc.v1 import evaluation_service_pb2 as service


class CatalogMethods:
    """Part of `EvalClient`."""

    _transport: Transport

    def list_tasks(self) -> list[str]:
        """Names of all tasks, groups and tags."""
        return [task.name for task in self.list_tasks_detailed()]

    def list_tasks_detailed(
        self, filter: str = "", kinds: Iterable[catalog.TaskKind.ValueType] = ()
    ) -> list[catalog.TaskInfo]:
        """Tasks, groups and tags with what the server knows of them.

        Args:
            filter: Only names that match: a prefix, or a glob when it has one of ``*``, ``?``, ``[``.
            kinds: Only names of these kinds. Empty: any.
        """
        # Pages as long as there are: lmms-eval's two thousand names come in one.
        request = service.ListTasksRequest(filter=filter, kinds=kinds, page_size=5000)
        return [task for page in self._transport.pages(lambda stub: stub.ListTasks, request) for task in page.tasks]

    def list_models(self) -> list[str]:
        """Names of all model backends."""
        return [model.name for model in self.list_models_detailed()]

    def list_models_detailed(self) -> list[catalog.ModelInfo]:
        """Model backends with their aliases, arguments, and whether they are installed on the server."""
        request = service.ListModelsRequest()
        return [model for page in self._transport.pages(lambda stub: stub.ListModels, request) for model in page.models]

    def server_info(self) -> catalog.ServerInfo:
        """Versions, devices and limits of the server."""
        return self._transport.unary(lambda stub: stub.GetServerInfo, service.GetServerInfoRequest()).server

    def whoami(self) -> catalog.Principal:
        """The name that the server knows this client by, and the role that says what it may do."""
        return self._transport.unary(lambda stub: stub.GetServerInfo, service.GetServerInfoRequest()).caller


class AsyncCatalogMethods:
    """Part of `AsyncEvalClient`."""

    _transport: AioTransport

    async def list_tasks(self) -> list[str]:
        return [task.name for task in await self.list_tasks_detailed()]

    async def list_tasks_detailed(
        self, filter: str = "", kinds: Iterable[catalog.TaskKind.ValueType] = ()
    ) -> list[catalog.TaskInfo]:
        # Pages as long as there are: lmms-eval's two thousand names come in one.
        request = service.ListTasksRequest(filter=filter, kinds=kinds, page_size=5000)
        return [
            task async for page in self._transport.pages(lambda stub: stub.ListTasks, request) for task in page.tasks
        ]

    async def list_models(self) -> list[str]:
        return [model.name for model in await self.list_models_detailed()]

    async def list_models_detailed(self) -> list[catalog.ModelInfo]:
        request = service.ListModelsRequest()
        return [
            model
            async for page in self._transport.pages(lambda stub: stub.ListModels, request)
            for model in page.models
        ]

    async def server_info(self) -> catalog.ServerInfo:
        return (await self._transport.unary(lambda stub: stub.GetServerInfo, service.GetServerInfoRequest())).server

    async def whoami(self) -> catalog.Principal:
        return (await self._transport.unary(lambda stub: stub.GetServerInfo, service.GetServerInfoRequest())).caller
