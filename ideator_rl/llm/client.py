"""The client of an LLM.

One client may be used from several event loops and threads: each loop has its own connections, all share the gate.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import threading
import time
import weakref
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ideator_rl.llm import faults, wire
from ideator_rl.llm.faults import ContextTooLong, Fault, LLMUnavailable, PromptRefused
from ideator_rl.llm.gate import gate
from ideator_rl.llm.prices import FREE, Price
from ideator_rl.llm.recording import Recording, Replay
from ideator_rl.llm.refusals import Refusals
from ideator_rl.llm.reply import Answer, Reply, prompt_tokens, read_answer, tokens_of
from ideator_rl.llm.request import Request, digest_of, make_request
from ideator_rl.llm.settings import LLMSettings, SettingsError
from ideator_rl.llm.stream import assemble, is_stream, once
from ideator_rl.llm.wire import WireForm
from ideator_rl.storage.ledger import BudgetSpent, Ledger, Spent
from ideator_rl.text.display import shorten
from ideator_rl.text.variables import variables

if TYPE_CHECKING:
    import openai
    from openai import AsyncOpenAI

BACKOFF, LONGEST = 1.0, 60.0
"""Seconds: the n-th wait is drawn from [0, BACKOFF · 2ⁿ], at most LONGEST (full jitter)."""
PROBE_TOKENS = 16
"""Tokens that a probe asks for; some servers refuse fewer."""
PROBE_SECONDS, PROBE_RETRIES = 120.0, 2


class ChatClient:
    """Calls an LLM; each attempt is reserved in the run's ledger before, and booked after.

    Raises:
        SettingsError: no key in the environment, or a cap in USD and a model without a known price.
        RecordingError: the recording cannot be read.
    """

    def __init__(self, settings: LLMSettings, ledger: Ledger):
        self.settings, self.ledger = settings, ledger
        self._recording = self._open_recording()
        self._prices = {} if settings.replay else {name: self._price(name) for name in settings.models}
        self._key = "" if settings.replay else self._api_key()
        self._headers = {} if settings.replay else self._extra_headers()
        self._query = {} if settings.replay else settings.filled(settings.extra_query)
        self._secrets = [] if settings.replay else self._find_secrets()
        self._gate = gate(settings.url)
        self._refusals = Refusals(settings.shown_url)
        self._clients: weakref.WeakKeyDictionary[Any, AsyncOpenAI] = weakref.WeakKeyDictionary()
        self._lock = threading.Lock()  # guards `_clients`, which every loop's thread reads and writes
        self._random = random.Random()

    @property
    def version(self) -> str:
        """A hash of the settings that an answer depends on."""
        return digest_of(self.settings.sampling)[:16]

    async def complete(
        self,
        messages: list[dict[str, str]],
        *,
        salt: str,
        temperature: float | None = None,
        max_tokens: int | None = None,
    ) -> Reply:
        """The model's answer.

        A call that is cancelled frees its slot at once.  While it waits, it costs nothing.  Once it is sent, its whole
        reservation is booked: the server may finish and bill it without a report.  The same holds for an attempt that
        timed out or whose connection broke.  A replayed answer costs nothing; its `usd` is the original cost.

        Args:
            messages: `role` and `content` each.
            salt: names the call; it selects the model, by weight, and the seed.

        Raises:
            LLMUnavailable: all attempts failed, or the server refuses.  After two permanent faults in a row every call
                raises it at once, and nothing is sent.
            ContextTooLong: prompt and completion do not fit the model's window.
            BudgetSpent: the call could break a cap.
        """
        request = make_request(self.settings, messages, salt, temperature, max_tokens)
        key = request.key(self.settings)
        # A recorded answer is free, so neither the window nor the budget is checked for it.
        if self._recording is not None and (recorded := self._recording.get(key)) is not None:
            return recorded
        if self.settings.replay:
            raise LLMUnavailable(
                f"The recording {self.settings.replay} has no answer for the call {salt!r} as it is made now: the "
                "prompt, the models or their settings differ from those of the recorded run, or that call was "
                "cancelled. Give the same ones, or write `record` instead of `replay`, which makes the missing calls."
            )
        self._refuse_if_too_long(request)
        reply = await self._call_with_retries(request, self.settings.retries)
        if self._recording is not None:
            self._recording.add(key, vars(request), reply)
        return reply

    async def close(self) -> None:
        """Close the connections of all loops."""
        with self._lock:
            clients = list(self._clients.items())
            self._clients.clear()
        for loop, client in clients:
            if loop is asyncio.get_running_loop():
                await client.close()
            elif loop.is_running():
                asyncio.run_coroutine_threadsafe(client.close(), loop)

    async def probe(self, messages: list[dict[str, str]]) -> None:
        """Ask each model for a few tokens, before a run pays for more: this shows a wrong key, address or parameter.

        The calls are reserved and booked as any other.  They are neither read from a recording nor added to it.

        Raises:
            LLMUnavailable: a model refused, or gave no answer.
        """
        if self.settings.replay:
            return
        tokens = min(PROBE_TOKENS, self.settings.max_tokens)
        try:
            for model in (name for name, weight in self.settings.models.items() if weight > 0):
                request = replace(make_request(self.settings, messages, "probe", max_tokens=tokens), model=model)
                # A refused prompt has shown that key, model and address are right.
                async with asyncio.timeout(PROBE_SECONDS):
                    with suppress(PromptRefused):
                        await self._call_with_retries(request, min(PROBE_RETRIES, self.settings.retries))
        except TimeoutError:
            raise LLMUnavailable(
                f"The LLM at {self.settings.shown_url} gave no answer within {PROBE_SECONDS:g} s. Check that it runs."
            ) from None
        except BudgetSpent:
            pass  # the run itself ends at its cap
        finally:
            # The loop of a probe ends with it, and its connections cannot be used in another one.
            with self._lock:
                connections = self._clients.pop(asyncio.get_running_loop(), None)
            if connections is not None:
                await connections.close()

    async def _call_with_retries(self, request: Request, retries: int) -> Reply:
        for attempt in range(retries + 1):
            try:
                reply = await self._call_once(request)
            except Fault as fault:
                self._refusals.count(request, fault)
                self._refusals.check()
                if not fault.temporary or attempt == retries:
                    raise fault.final_error(self.settings.shown_url, attempt + 1) from fault
                wait = self._random.uniform(0, min(LONGEST, BACKOFF * 2**attempt))
                if fault.retry_after is not None:
                    # The hint is for the server as a whole, so it stops the other calls of this process too.
                    self._gate.pause(fault.retry_after)
                    wait = fault.retry_after + min(wait, BACKOFF)
            else:
                self._refusals.answered(request)
                return reply
            # The slot is free during the wait: other calls may need it.
            await asyncio.sleep(wait)
        raise AssertionError("the last attempt returns or raises")

    async def _call_once(self, request: Request) -> Reply:
        settings, price = self.settings, self._prices[request.model]
        # Created before the slot is taken: creation takes longer than the spacing of starts allows.
        connections = self._client()
        slot = self._gate.slot(settings.concurrency, settings.requests_per_minute)
        async with slot, self.ledger.reserve_when_free(request.max_cost(price)) as reservation:
            started = time.monotonic()
            try:
                # Asked here, after the wait for a slot: calls that waited meanwhile must not be sent either.
                self._refusals.check()
                answer = read_answer(await self._send(connections, request), request.max_tokens)
            except Fault as fault:
                # It may quote an answer with status 200, or an event of a stream, which repeats the key.
                fault.description = shorten(self._without_secrets(fault.description), faults.MAX_DESCRIPTION)
                # Without an actual cost, the whole reservation is booked.
                reservation.actual = None if fault.maybe_billed else Spent()
                raise
            except LLMUnavailable:
                reservation.actual = Spent()
                raise
            reply = self._reply(request, answer, price, time.monotonic() - started)
            reservation.actual = Spent(usd=reply.usd, tokens=reply.prompt_tokens + reply.completion_tokens)
        return reply

    async def _send(self, connections: AsyncOpenAI, request: Request) -> bytes:
        """The body of the answer.  A server that refuses a form of the request gets the other one at once.

        Raises:
            Fault: any status but 2xx, no answer in time, or no connection.
        """
        import openai

        settings = self.settings
        form = wire.form_for(settings, request.model)
        tried = {form}
        while True:
            try:
                async with asyncio.timeout(settings.timeout):
                    body = await self._post(connections, request, form)
            except openai.APIStatusError as error:
                # A refusal is not billed, so the reservation of this attempt covers the next form too.
                other = wire.other_form(form, settings, error.status_code, error.response.text, request.has_system)
                if other is None or other in tried:
                    # `from None`: the openai client's error holds the request, and with it the key.
                    raise self._refusal(error, request, form) from None
                form = other
                tried.add(form)
            except (openai.APIConnectionError, TimeoutError) as error:
                raise faults.of_connection(error, settings.timeout) from None
            else:
                wire.remember(settings, request.model, form)
                return body

    async def _post(self, connections: AsyncOpenAI, request: Request, form: WireForm) -> bytes:
        parameters = request.parameters(self.settings, form)
        parameters |= {"extra_headers": self._headers, "extra_query": self._query, "timeout": self.settings.timeout}
        completions: Any = connections.chat.completions
        if not self.settings.stream:
            raw = await completions.with_raw_response.create(**parameters)
            body = bytes(raw.http_response.content)
            return await assemble(once(body)) if is_stream(raw.http_response.headers) else body
        try:
            async with completions.with_streaming_response.create(**parameters) as response:
                whole = not is_stream(response.headers)
                return bytes(await response.read()) if whole else await assemble(response.iter_bytes())
        except Exception as error:
            # While a body is read (a stream, an answer in one piece or a refusal), the openai client passes on the
            # errors of its HTTP library, httpx or httpx2, as they are.
            if not type(error).__module__.startswith("httpx"):
                raise
            raise Fault(f"the answer broke off ({faults.quoted(error)})", maybe_billed=True) from None

    def _refusal(self, error: openai.APIStatusError, request: Request, form: WireForm) -> Fault:
        text = self._without_secrets(error.response.text)
        body = json.loads(self._without_secrets(json.dumps(error.body)))
        fault = faults.of_status(error.status_code, body, text, error.response.headers, self.settings.api_key_env)
        if not fault.temporary and not fault.too_long and error.status_code in wire.REFUSALS:
            fault.advice = wire.advice(form, text, request.has_system) or fault.advice
        return fault

    def _reply(self, request: Request, answer: Answer, price: Price, seconds: float) -> Reply:
        prompt, completion = answer.tokens or (None, 0)
        if estimated := prompt is None:
            prompt = prompt_tokens(request.messages)
            completion = max(completion, tokens_of(answer.text) + tokens_of(answer.reasoning))
        tokens = (prompt, completion)
        usd = price.usd(*tokens)
        return Reply(
            answer.text, answer.finish, request.model, *tokens, usd, seconds, estimated,
            answer.finish_reason, answer.reasoning, answer.reasoning_field,
        )  # fmt: skip

    def _refuse_if_too_long(self, request: Request) -> None:
        window, prompt_size = self.settings.context_tokens, prompt_tokens(request.messages)
        if window is not None and prompt_size + request.max_tokens > window:
            raise ContextTooLong(
                f"The prompt has about {prompt_size} tokens and the completion may have {request.max_tokens}; the "
                f"window (context_tokens) has {window}. Show less of the codebase, or lower max_tokens."
            )

    def _client(self) -> AsyncOpenAI:
        import openai

        loop = asyncio.get_running_loop()
        with self._lock:
            if loop not in self._clients:
                self._clients[loop] = openai.AsyncOpenAI(
                    api_key=self._key or "none",
                    base_url=self.settings.url,
                    max_retries=0,
                    # A proxy of the environment does not serve addresses of this machine.
                    http_client=openai.DefaultAsyncHttpxClient(trust_env=not self.settings.loopback),
                )
            return self._clients[loop]

    def _open_recording(self) -> Recording | None:
        if self.settings.replay:
            return Replay(Path(self.settings.replay))
        return Recording(Path(self.settings.record)) if self.settings.record else None

    def _price(self, model: str) -> Price:
        price = self.settings.price(model)
        if price is not None:
            return price
        example = f"`prices: {{{model}: {{prompt: 1.25, completion: 10.0}}}}` (USD per 1 million tokens)"
        if self.ledger.caps.usd is not None:
            raise SettingsError(f"No price is known for {model}, and the run has a cap in USD. Give it: {example}.")
        logging.getLogger(__name__).warning(
            "No price is known for %s: its calls count as 0 USD. Give it: %s.", model, example
        )
        return FREE

    def _api_key(self) -> str:
        name = self.settings.api_key_env
        key = os.environ.get(name, "").strip() if name else ""
        if not key and name and not self.settings.loopback:
            raise SettingsError(
                f"The environment variable {name} with the key of {self.settings.shown_url} is not set. Set it, name "
                "another with `api_key_env`, or write `api_key_env: null` if the server needs no key."
            )
        _check_header(f"The environment variable {name}", key)
        return key

    def _extra_headers(self) -> dict[str, Any]:
        import openai

        headers: dict[str, Any] = {**self.settings.filled(self.settings.extra_headers)}
        for name, value in headers.items():
            _check_header(f"The header {name}", value)
        # Without a key no placeholder is sent: some gateways refuse it although another header names the caller.
        if not self._key and "authorization" not in map(str.lower, headers):
            headers["Authorization"] = openai.Omit()
        return headers

    def _find_secrets(self) -> list[str]:
        """The key, the values of headers and address, and those of the variables in them, which are parts of these."""
        names = [name for texts in (self.settings.extra_headers, self.settings.extra_query)
                 for text in texts.values() for name in variables(text)]  # fmt: skip
        values = {self._key, *self._headers.values(), *self._query.values(), *(os.environ[name] for name in names)}
        # Longest first: one secret may be a part of another.
        return sorted((text for text in values if isinstance(text, str) and len(text) >= 8), key=len, reverse=True)

    def _without_secrets(self, text: str) -> str:
        """A server's text without the secrets that it may repeat."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text


def _check_header(lead: str, value: str) -> None:
    """Refuse what HTTP cannot send, since its library would quote the whole header, with the key.

    Raises:
        SettingsError: a character that is not printable ASCII.
    """
    wrong = [place for place, mark in enumerate(value, 1) if not (mark.isascii() and mark.isprintable())]
    if wrong:
        raise SettingsError(f"{lead} has a character that HTTP cannot send, at place {wrong[0]}. Copy the value again.")
