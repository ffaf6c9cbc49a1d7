"""Sends requests and notes what becomes of each: latency from the time it was due, status, whether every bit is right."""
import asyncio
import itertools
import json
import random
import time
from dataclasses import dataclass

import aiohttp


@dataclass
class Outcome:
    """What became of one request. Times are of the monotonic clock."""

    kind: str
    tokens: int
    due: float
    sent: float
    ended: float = 0.0
    status: int = 0  # 0: no answer
    right: bool = False
    request_id: str = ""
    words: str = ""

    @property
    def latency_s(self):
        return self.ended - self.due


class Client:
    """Any number of connections to one server."""

    def __init__(self, url, key):
        self.url = f"{url}/v1/embeddings"
        self.headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}

    async def __aenter__(self):
        timeout = aiohttp.ClientTimeout(total=600)
        connector = aiohttp.TCPConnector(limit=0)
        self.session = aiohttp.ClientSession(connector=connector, timeout=timeout, headers=self.headers)
        return self

    async def __aexit__(self, *_):
        await self.session.close()

    async def send(self, request, due=None, tier=None):
        sent = time.monotonic()
        outcome = Outcome(request.kind, request.tokens, sent if due is None else due, sent)
        try:
            headers = {"x-tier": tier} if tier else None
            async with self.session.post(self.url, data=request.body, headers=headers) as answer:
                body = await answer.read()
                outcome.status = answer.status
                outcome.request_id = answer.headers.get("x-request-id", "")
        except (aiohttp.ClientError, TimeoutError) as error:
            outcome.words = f"{type(error).__name__}: {error}"
        outcome.ended = time.monotonic()
        if outcome.status == 200:
            vectors = [row["embedding"] for row in json.loads(body)["data"]]
            outcome.right = vectors == request.expected
        elif outcome.status:
            outcome.words = body.decode(errors="replace")[:200]
        return outcome

    async def open_loop(self, requests, rate, seconds, seed=1):
        """Poisson arrivals at `rate` a second, whatever the answers do; waits for all of them."""
        dice, tasks = random.Random(seed), []
        start = due = time.monotonic()
        while (due := due + dice.expovariate(rate)) < start + seconds:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            tasks.append(asyncio.create_task(self.send(dice.choice(requests), due)))
        return list(await asyncio.gather(*tasks))

    async def closed_loop(self, requests, workers, seconds, tier=None, seed=2):
        """`workers` that each send the next request when they have their answer."""
        end = time.monotonic() + seconds
        shuffled = random.Random(seed).sample(requests, len(requests))
        outcomes, following = [], itertools.cycle(shuffled)

        async def work():
            while time.monotonic() < end:
                outcomes.append(await self.send(next(following), tier=tier))
                if outcomes[-1].status != 200:
                    await asyncio.sleep(0.1)

        await asyncio.gather(*(work() for _ in range(workers)))
        return outcomes

    async def all_of(self, requests, workers, seed=3):
        """Each request once, `workers` of them in flight."""
        waiting = iter(random.Random(seed).sample(requests, len(requests)))
        outcomes = []

        async def work():
            for request in waiting:
                outcomes.append(await self.send(request))

        await asyncio.gather(*(work() for _ in range(workers)))
        return outcomes
