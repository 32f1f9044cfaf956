"""The cluster's API as the driver reads it: one connection's worth of kr8s, and errors that say what was tried.

What changes anything is not here but in :mod:`ftharness.k8s.guard`, which has the only calls that do.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from ftharness.k8s.deployment import Deployment
from ftharness.k8s.needs import needed
from ftharness.stack import NotAvailable

_CONNECT_S = 10.0
GONE, NOT_FOUND, FORBIDDEN = 410, 404, 403


class ApiError(Exception):
    """The API server refused, or could not be reached; the message says what was asked, and what it answered.

    Attributes:
        status: The HTTP status, or None where there was no answer.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class Api:
    """Reads from one namespace. Made by :meth:`connect`.

    Args:
        client: kr8s's.
        namespace: The only one that is ever asked.
    """

    def __init__(self, client: Any, namespace: str) -> None:
        self.client = client
        self.namespace = namespace

    @classmethod
    async def connect(cls, deployment: Deployment) -> "Api":
        """Connect as the kubeconfig says, and ask for the version.

        Raises:
            NotAvailable: There is no kr8s, no kubeconfig, or no cluster behind it; says what was tried.
        """
        kr8s = needed("kr8s._api")
        where = deployment.kubeconfig or "$KUBECONFIG, ~/.kube/config, or a pod's service account"
        try:
            async with asyncio.timeout(_CONNECT_S):
                # Not by kr8s.api(): that keeps clients by the loop's id, which the next loop may have as well.
                client = await kr8s.Api(
                    bypass_factory=True,
                    kubeconfig=deployment.kubeconfig or None,
                    context=deployment.context or None,
                    namespace=deployment.namespace,
                )
        except TimeoutError:
            raise NotAvailable(
                f"no Kubernetes cluster answers within {_CONNECT_S:g} s (as {where} says); try `kubectl version`"
            ) from None
        except Exception as error:  # kr8s lets through whatever its parts raise: of files, of YAML, of HTTP, of TLS
            why = f"{type(error).__name__}: {error}".rstrip(": ")
            raise NotAvailable(
                f"no Kubernetes cluster can be reached (tried {where}): {why}; `kubectl version` has to work first"
            ) from error
        return cls(client, deployment.namespace)

    async def close(self) -> None:
        """Close its connections."""
        session = self.client._session  # noqa: SLF001 - kr8s has no other way
        if session is not None:
            await session.aclose()

    async def get(self, version: str, url: str, **params: str) -> dict[str, Any]:
        """``GET`` of a resource in the namespace, such as ``pods/NAME``.

        Raises:
            ApiError: It is not there, or was refused.
        """
        async with self._call("GET", version, url, params=params) as response:
            found: dict[str, Any] = response.json()
            return found

    async def send(self, method: str, version: str, url: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """A call that changes something: the guard's, and nobody else's.

        Raises:
            ApiError: It was refused.
        """
        async with self._call(method, version, url, json=body) as response:
            found: dict[str, Any] = response.json()
            return found

    @asynccontextmanager
    async def stream(self, version: str, url: str, **params: str) -> AsyncIterator[Any]:
        """A response whose body is read as it comes.

        Raises:
            ApiError: It was refused, or broke.
        """
        async with self._call("GET", version, url, params=params, stream=True) as response:
            yield response

    @asynccontextmanager
    async def websocket(self, url: str, params: Mapping[str, Any], *subprotocols: str) -> AsyncIterator[Any]:
        """A websocket to a pod: ``pods/NAME/exec``, ``pods/NAME/portforward``.

        Raises:
            ApiError: It was refused, or broke.
        """
        try:
            async with self.client.open_websocket(
                version="v1", url=url, namespace=self.namespace, params=dict(params), subprotocols=list(subprotocols)
            ) as socket:
                yield socket
        except needed("httpx_ws").HTTPXWSException as error:
            status = getattr(getattr(error, "response", None), "status_code", None)
            raise ApiError(f"{url}: {_why(error)}", status) from error
        except needed("httpx").HTTPError as error:
            raise ApiError(f"{url}: {_why(error)}") from error

    @asynccontextmanager
    async def _call(self, method: str, version: str, url: str, **more: Any) -> AsyncIterator[Any]:
        kr8s = needed("kr8s")
        try:
            async with self.client.call_api(
                method, version=version, namespace=self.namespace, url=url, **more
            ) as response:
                yield response
        except kr8s.ServerError as error:
            status = error.response.status_code if error.response is not None else None
            raise ApiError(f"{method} {url} in namespace {self.namespace}: {status} {error}", status) from error
        except (kr8s.APITimeoutError, needed("httpx").HTTPError) as error:
            raise ApiError(f"{method} {url} in namespace {self.namespace}: {_why(error)}") from error


def _why(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".rstrip(": ")
