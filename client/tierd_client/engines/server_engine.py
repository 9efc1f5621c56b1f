"""An engine for `AgentSession` behind HTTP: a server of vLLM, with `TierdConnector` or without.

The server fetches and publishes by itself. Hints do not go through it: the keys of its blocks
follow from hashes that only it has. So a session of this engine sends none, and its history is
kept by how recently it was used.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from time import monotonic
from typing import Any, Final
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from tierd_client.agents import EngineFailed, Generated, Sampling

_DATA: Final = b"data:"
_DONE: Final = b"[DONE]"
_SAID_CHARACTERS: Final = 500


@dataclass(slots=True)
class _Answer:
    tokens: list[int]
    reused: int
    ttft_s: float


class ServerEngine:
    """Continues histories by `/v1/completions` of the server at `url`, in tokens both ways.

    `url` is such as "http://localhost:8000"; `model` is the name that it serves; `key` what it
    wants to be let in. The server has to return token ids (`return_token_ids`, vLLM 0.10.2 and
    later), and says how much it reused only if started with `--enable-prompt-tokens-details`.
    Of that it does not tell its own prefix cache from tierd: all of it counts as "engine".

    Concurrency: any thread, and as many steps at once as the server takes.
    """

    namespace: Final = None

    def __init__(self, url: str, model: str, *, key: str = "", timeout_s: float = 600.0) -> None:
        self._url: Final = url.rstrip("/") + "/v1/completions"
        self._model: Final = model
        self._timeout_s: Final = timeout_s
        self._headers: Final = {"Content-Type": "application/json"}
        if key:
            self._headers["Authorization"] = f"Bearer {key}"

    def generate(self, tokens: Sequence[int], sampling: Sampling) -> Generated:
        """Return what follows `tokens`.

        Raises:
            EngineFailed: the server cannot be reached, refuses, or returns no token ids.
        """
        started_s = monotonic()
        answer = self._walk(tokens, sampling) if sampling.options else self._ask(tokens, sampling)
        by_tier = {"engine": answer.reused} if answer.reused else {}
        seconds = monotonic() - started_s
        return Generated(answer.tokens, answer.reused, by_tier, answer.ttft_s, seconds)

    def _walk(self, tokens: Sequence[int], sampling: Sampling) -> _Answer:
        """Ask for one token wherever the options part."""
        walked = _Answer([], 0, 0.0)
        asked = False
        while allowed := sampling.allowed(walked.tokens):
            if len(allowed) > 1:
                answer = self._ask([*tokens, *walked.tokens], sampling, allowed)
                if not asked:
                    walked.reused, walked.ttft_s, asked = answer.reused, answer.ttft_s, True
                allowed = answer.tokens
            walked.tokens.append(allowed[0])
        return walked

    def _ask(
        self, tokens: Sequence[int], sampling: Sampling, allowed: Sequence[int] = ()
    ) -> _Answer:
        body: dict[str, Any] = {
            "model": self._model,
            "prompt": list(tokens),
            "max_tokens": 1 if allowed else sampling.tokens_max,
            "temperature": sampling.temperature,
            "seed": sampling.seed,
            "stop_token_ids": list(sampling.stops),
            "stream": True,
            "stream_options": {"include_usage": True},
            "return_token_ids": True,
        }
        if allowed:
            body["allowed_token_ids"] = list(allowed)
        started_s = monotonic()
        answer = _Answer([], 0, 0.0)
        try:
            for chunk in self._chunks(body):
                new = [token for each in chunk["choices"] for token in each["token_ids"] or ()]
                if new and not answer.tokens:
                    answer.ttft_s = monotonic() - started_s
                answer.tokens += new
                details = (chunk.get("usage") or {}).get("prompt_tokens_details") or {}
                answer.reused = details.get("cached_tokens") or answer.reused
        except HTTPError as error:
            told = error.read().decode(errors="replace")[:_SAID_CHARACTERS]
            raise self._failed(f"status {error.code}: {told}", "correct what it says") from error
        except (OSError, HTTPException) as error:
            raise self._failed(str(error), "start the server, or correct the url") from error
        except (KeyError, TypeError, ValueError) as error:
            raise self._failed("no token ids came", "use vLLM 0.10.2 or later") from error
        if not answer.tokens:
            raise self._failed("no token came", "look into the server's log")
        if allowed and answer.tokens[0] not in allowed:
            raise self._failed("it ignores allowed_token_ids", "use vLLM 0.10.2 or later")
        return answer

    def _chunks(self, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        request = Request(self._url, json.dumps(body).encode(), self._headers)
        with urlopen(request, timeout=self._timeout_s) as reply:
            for line in reply:
                data = line.removeprefix(_DATA).strip() if line.startswith(_DATA) else b""
                if data == _DONE:
                    return
                if data:
                    chunk = json.loads(data)
                    if "error" in chunk:
                        raise self._failed(str(chunk["error"]), "look into the server's log")
                    yield chunk
        # http.client takes a connection that breaks for the end of the answer.
        raise self._failed("the answer broke off", "look into the server's log")

    def _failed(self, cause: str, remedy: str) -> EngineFailed:
        return EngineFailed(self._url, cause, remedy)
