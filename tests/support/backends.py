"""A backend that answers by a function, for tests of what happens around a model."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from lmms_eval_grpc.engine.models.protocol import (
    Answer,
    Capabilities,
    GenerationRequest,
    GenerationResponse,
    LoglikelihoodRequest,
    Request,
)


def prompt(request: Request) -> str:
    """The text of the request's last message."""
    return "".join(item["text"] for item in request.messages[-1]["content"] if item["type"] == "text")


class ScriptedBackend:
    """Answers ``reply(prompt)`` in batches of ``batch_size``; a reply that is an exception is that request's error."""

    def __init__(
        self, reply: Callable[[str], str | Exception], batch_size: int = 2, identity: str = "scripted"
    ) -> None:
        self.reply = reply
        self.batch_size = batch_size
        self.prompts: list[list[str]] = []
        """What was asked, by batch."""
        self._identity = identity

    @property
    def asked(self) -> list[str]:
        """Every prompt, in the order in which it was asked."""
        return [text for batch in self.prompts for text in batch]

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities()

    @property
    def identity(self) -> Mapping[str, Any]:
        return {"backend": self._identity}

    def generate(self, requests: Sequence[GenerationRequest]) -> Iterator[list[Answer]]:
        for start in range(0, len(requests), self.batch_size):
            asked, answers = [], []
            for index in range(start, min(start + self.batch_size, len(requests))):
                try:
                    text = prompt(requests[index])
                except Exception as error:
                    answers.append(Answer(index, GenerationResponse(error=str(error))))
                else:
                    asked.append(text)
                    answers.append(Answer(index, self._respond(text)))
            self.prompts += [asked] if asked else []
            yield answers

    def loglikelihood(self, requests: Sequence[LoglikelihoodRequest]) -> Iterator[list[Answer]]:
        raise NotImplementedError("this backend only generates")

    def _respond(self, text: str) -> GenerationResponse:
        reply = self.reply(text)
        if isinstance(reply, Exception):
            return GenerationResponse(error=str(reply))
        return GenerationResponse(reply, input_tokens=len(text), output_tokens=len(reply))

    def close(self) -> None:
        pass


class LikelihoodBackend(ScriptedBackend):
    """Finds each continuation as likely as ``weigh(prompt, continuation)`` says; greedy where that is above -1.

    With ``loss`` it returns the negative, as many backends of lmms-eval do.
    """

    def __init__(self, weigh: Callable[[str, str], float], *, loss: bool = False, batch_size: int = 3) -> None:
        super().__init__(lambda text: text, batch_size)
        self.weigh = weigh
        self.loss = loss

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(loglikelihood=True, loglikelihood_is_loss=self.loss)

    def loglikelihood(self, requests: Sequence[LoglikelihoodRequest]) -> Iterator[list[Answer]]:
        for start in range(0, len(requests), self.batch_size):
            batch = []
            for index in range(start, min(start + self.batch_size, len(requests))):
                try:
                    request = requests[index]
                except Exception as error:
                    batch.append(Answer(index, GenerationResponse(error=str(error))))
                    continue
                value = self.weigh(prompt(request), request.continuation)
                self.prompts.append([f"{prompt(request)} -> {request.continuation}"])
                batch.append(
                    Answer(
                        index,
                        GenerationResponse(
                            input_tokens=1, log_probability=-value if self.loss else value, is_greedy=value > -1
                        ),
                    )
                )
            yield batch


class HashingBackend(LikelihoodBackend):
    """Answers and likelihoods that depend on the request alone; a request's place and its batch are drawn by ``seed``.

    Answers are one of ``A`` to ``D``. ``on_call`` is told the number of requests of each batch before it is answered.
    """

    def __init__(
        self, *, batch_size: int = 4, seed: int = 0, on_call: Callable[[int], None] = lambda requests: None
    ) -> None:
        super().__init__(lambda prompt, continuation: -_fraction(prompt, continuation), batch_size=batch_size)
        self.reply = lambda text: "ABCD"[int(4 * _fraction(text))]
        self.seed = seed
        self.on_call = on_call

    def generate(self, requests: Sequence[GenerationRequest]) -> Iterator[list[Answer]]:
        return self._in_any_order(requests, super().generate)

    def loglikelihood(self, requests: Sequence[LoglikelihoodRequest]) -> Iterator[list[Answer]]:
        return self._in_any_order(requests, super().loglikelihood)

    def _in_any_order(
        self, requests: Sequence[Any], answer: Callable[[Sequence[Any]], Iterator[list[Answer]]]
    ) -> Iterator[list[Answer]]:
        order = random.Random(self.seed).sample(range(len(requests)), len(requests))
        for start in range(0, len(order), self.batch_size):
            places = order[start : start + self.batch_size]
            self.on_call(len(places))
            for batch in answer([requests[place] for place in places]):
                yield [Answer(places[item.index], item.response) for item in batch]


def _fraction(*texts: str) -> float:
    """A number in [0, 1) that looks random and is equal in every process."""
    digest = hashlib.sha256("\0".join(texts).encode()).digest()
    return int.from_bytes(digest[:6]) / 2**48
