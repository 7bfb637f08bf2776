"""The model server's process: settings in, two sockets out.

    python -m workers.inference.server

The public API listens on `LETHE_HOST`:`LETHE_MODEL_PORT`, the admin API on loopback only. The process
answers at once; it is *ready* when what it served before the restart is verified and loaded again, or
when the first version is published to it.
"""

import asyncio
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch
import uvicorn
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fastapi import FastAPI

from app import telemetry
from app.config import Settings
from app.signing.keys import FileSigner, PublicKey
from app.storage.keyring import KeyMissing, Keyring
from app.storage.objects import ObjectStore
from workers.inference import admin, public
from workers.inference.replica import Replica

LOOPBACK = "127.0.0.1"
STOP_SECONDS = 20
"""How long answers under way may take to finish after SIGTERM; then their streams are cut."""

_log = telemetry.logger("serving")


class Server(uvicorn.Server):
    """A listener whose signals the process handles, because there are two of them."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone."""
        yield


def listener(app: FastAPI, *, host: str, port: int) -> Server:
    """Return a server for one application, quiet and without names of our parts in its answers."""
    return Server(
        uvicorn.Config(
            app,
            host=host,
            port=port,
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=STOP_SECONDS,
        )
    )


def build(settings: Settings, *, places: int) -> tuple[Replica, ThreadPoolExecutor, list[Server]]:
    """Return the replica, the threads it computes in, and its two listeners."""
    token = Keyring.open(settings.keys).admin_token
    key = Ed25519PrivateKey.generate()
    replica = Replica(
        directory=settings.home / "serving",
        objects=ObjectStore.open(settings.storage),
        signer=FileSigner(public=PublicKey.of(key.public_key()), private=key),
    )
    threads = ThreadPoolExecutor(places, thread_name_prefix="answer")
    door = public.create_app(replica, threads=threads, places=places, body_bytes_max=settings.body_bytes_max)
    return (
        replica,
        threads,
        [
            listener(door, host=settings.host, port=settings.model_port),
            listener(admin.create_app(replica, token=token), host=LOOPBACK, port=settings.model_admin_port),
        ],
    )


async def serve(servers: list[Server]) -> None:
    """Serve until a signal; if one listener cannot start or ends, so does the other."""
    loop = asyncio.get_running_loop()

    def stop() -> None:
        for server in servers:
            server.should_exit = True

    for each in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(each, stop)
    running = [asyncio.create_task(server.serve()) for server in servers]
    await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
    stop()
    await asyncio.gather(*running)


def main() -> int:
    """Run the model server until it is told to stop."""
    telemetry.configure()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    # One thread a request: two requests that share the cores collapse when each spins a thread per core.
    torch.set_num_threads(1)
    settings = Settings()
    try:
        replica, threads, servers = build(settings, places=os.cpu_count() or 1)
    except KeyMissing as missing:
        sys.stderr.write(f"the model server cannot start: {missing}; `lethe up` makes the keys\n")
        return 1
    threading.Thread(target=replica.restore, name="restore", daemon=True).start()
    _log.info("listening", port=settings.model_port)
    try:
        asyncio.run(serve(servers))
    finally:
        threads.shutdown(wait=False, cancel_futures=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
