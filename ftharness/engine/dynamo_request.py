"""One request that Dynamo's frontend gave us: what its parts are asked, and the stream that they make."""

import asyncio
from collections.abc import Iterator
from typing import Any, NamedTuple

from ftharness.engine.parts import Message
from ftharness.engine.tokens import VOCABULARY, WORDS, choice_seed, logprob

#: What a request without ``max_tokens`` gets.
DEFAULT_MAX_TOKENS = 256


class Whereabouts(NamedTuple):
    """Where the KV of a request is held: what a prefill worker answers, and the frontend passes on to a decode worker.

    Attributes:
        worker: The name of the prefill worker.
        port: Where it awaits those that decode, on loopback.
        keys: What it calls the KV of each choice.
    """

    worker: str
    port: int
    keys: list[str]


class Lost(Exception):  # noqa: N818  it names what happened
    """A part cannot go on here; says why."""


class Request:
    """``n`` choices, each a part of its own, and one stream back. To its parts it is who asked for them.

    Args:
        request: As the frontend sent it.
        request_id: Its own.
        default_seed: For one that brings none.
        worker: Who answers it: each chunk says so, for a client that asks for ``nvext.extra_fields: ["engine_data"]``.
        key: Unique among those of all workers of the stack.
        held: Where its KV will be held, without keys, when it is for a prefill; None: for an answer.
    """

    name = "frontend"

    def __init__(
        self,
        request: Message,
        request_id: str,
        default_seed: int,
        key: str,
        *,
        worker: str,
        held: Whereabouts | None = None,
    ) -> None:
        stop = request.get("stop_conditions") or {}
        sampling = request.get("sampling_options") or {}
        self._id = request_id
        self._worker = worker
        self._token_ids: list[int] = request["token_ids"]
        limit = stop.get("max_tokens")  # 0 of one that is moved with all its tokens, for the end alone
        self._max_tokens = DEFAULT_MAX_TOKENS if limit is None else int(limit)
        seed = sampling.get("seed")
        self._seed = default_seed if seed is None else int(seed)
        top = (request.get("output_options") or {}).get("logprobs")
        self._top_logprobs: int | None = None if top is None else int(top)
        # A prefill worker that is lost does not make a decode: then the frontend sends the request without its result.
        result = (request.get("prefill_result") or {}).get("disaggregated_params")
        self._kv = Whereabouts(**result) if result else None
        self._held = held
        choices = int(sampling.get("n") or 1)
        self.keys = self._kv.keys if self._kv else [f"{key}.{index}" for index in range(choices)]
        self._running = len(self.keys)
        self._said: asyncio.Queue[Message | Lost | None] = asyncio.Queue()

    def messages(self) -> Iterator[Message]:
        """What each part is asked, in the language of :mod:`parts`."""
        # Prompts are bytes; words come from an engine. So this one has been elsewhere, and was cut off there.
        resumed = any(token_id < WORDS for token_id in self._token_ids)
        whole = {"token_ids": self._token_ids, "max_tokens": self._max_tokens, "attempt": int(resumed)}
        if self._kv is not None:
            whole |= {"kv": self._kv.worker, "kv_port": self._kv.port}
        for index, key in enumerate(self.keys):
            name = f"{self._id}-{index}" if len(self.keys) > 1 else self._id
            yield whole | {"key": key, "id": name, "seed": choice_seed(self._seed, index)}

    async def next(self) -> Message | None:
        """What goes to the frontend next; None: that was all.

        Raises:
            Lost: A part cannot go on in this worker.
        """
        said = await self._said.get()
        if isinstance(said, Lost):
            raise said
        return said

    def send(self, **message: Any) -> None:
        """What a part says."""
        op = message["op"]
        if op == "tokens":
            for key, token_ids, reason in message["batch"]:
                self._on_tokens(key, token_ids, reason)
        elif op == "prefilled":
            self._on_prefilled()
        elif op in ("lost", "refused"):
            self._said.put_nowait(Lost(message["reason"]))

    def _on_tokens(self, key: str, token_ids: list[int], reason: str | None) -> None:
        if reason != "abort":
            self._said.put_nowait(self._chunk(self.keys.index(key), token_ids, reason))
        if reason is not None:
            self._ended()

    def _on_prefilled(self) -> None:
        assert self._held is not None, "it is for a prefill"
        if self._running == 1:
            held = self._held._replace(keys=self.keys)
            self._said.put_nowait({"token_ids": [], "disaggregated_params": held._asdict()})
        self._ended()

    def _ended(self) -> None:
        self._running -= 1
        if self._running == 0:
            self._said.put_nowait(None)

    def _chunk(self, index: int, token_ids: list[int], finish_reason: str | None) -> Message:
        """What Dynamo takes for one engine step of one choice."""
        # The frontend passes it on as it is. Its own word, worker_id, is that of the first worker, also after a migration.
        served_by = {"worker": self._worker}
        chunk: Message = {"token_ids": token_ids, "finish_reason": finish_reason, "engine_data": served_by}
        if len(self.keys) > 1:
            chunk["index"] = index
        if self._top_logprobs is not None:
            chunk["log_probs"] = [logprob(token_id) for token_id in token_ids]
            chunk["top_logprobs"] = [_alternatives(token_id, self._top_logprobs) for token_id in token_ids]
        return chunk


def _alternatives(token_id: int, count: int) -> list[Message]:
    """The chosen token, then its neighbours in the vocabulary, each a little less likely."""
    ids = [(token_id + place) % WORDS for place in range(max(1, count))]
    return [
        {
            "rank": place + 1,
            "token_id": other,
            "token": VOCABULARY[other],
            "logprob": logprob(token_id) - place,
            "bytes": list(VOCABULARY[other].encode()),
        }
        for place, other in enumerate(ids)
    ]
