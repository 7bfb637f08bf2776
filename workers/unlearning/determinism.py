"""One run, one result: threads, algorithms and seeds, pinned before a tensor exists.

    setup(seed)        one thread, strict deterministic algorithms, one attention backend
    seed_for(*parts)   a seed of its own for each named purpose
    environment()      the tuple inside which a digest can be repeated
    code()             the digest of this library's source

Bit identity holds inside one `environment()` only; elsewhere equal recipes give equal models up to
rounding. Nothing here knows what is computed.
"""

import hashlib
import os
import platform
from functools import cache
from pathlib import Path
from typing import Any

# Read when torch is loaded: waiting threads sleep, they do not spin on cores that others need.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Read when CUDA starts: without it deterministic cuBLAS refuses to run.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import torch

_SEED_BYTES = 8


def setup(seed: int) -> None:
    """Pin all that could differ between two runs of one spec in one environment."""
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(mode=True, warn_only=False)
    # Filling what is about to be overwritten guards against reads of empty tensors, at 7 % of a run here.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    # The other backends are chosen by shape and card, and some of their backward passes are not ordered.
    torch.backends.cuda.enable_flash_sdp(enabled=False)
    torch.backends.cuda.enable_mem_efficient_sdp(enabled=False)
    torch.backends.cuda.enable_cudnn_sdp(enabled=False)
    torch.backends.cuda.enable_math_sdp(enabled=True)


def device() -> torch.device:
    """Return where tensors go: the first CUDA device where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def seed_for(*parts: str | int) -> int:
    """Return a 63-bit seed from the names of a purpose; parts are length-prefixed, so none run together."""
    hashed = hashlib.sha256()
    for part in parts:
        field = str(part).encode()
        hashed.update(len(field).to_bytes(4, "big") + field)
    return int.from_bytes(hashed.digest()[:_SEED_BYTES], "big") >> 1


def environment() -> dict[str, Any]:
    """Return what a repetition would need to be equal, as far as this process can see it."""
    import safetensors
    import tokenizers
    import transformers

    found: dict[str, Any] = {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "transformers": transformers.__version__,
        "tokenizers": tokenizers.__version__,
        "safetensors": safetensors.__version__,
        "platform": f"{platform.system()}-{platform.machine()}",
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "processes": 1,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "attention": "sdpa/math" if torch.cuda.is_available() else "sdpa/cpu",
    }
    if torch.cuda.is_available():
        found |= {
            "cuda": torch.version.cuda,
            "gpu": torch.cuda.get_device_name(),
            "capability": "{}.{}".format(*torch.cuda.get_device_capability()),
            "cublas_workspace": os.environ["CUBLAS_WORKSPACE_CONFIG"],
        }
    return found


@cache
def code() -> str:
    """Return the SHA-256 of this package's source: names and bytes of every module, sorted by name."""
    root = Path(__file__).parent
    hashed = hashlib.sha256()
    for path in sorted(root.rglob("*.py"), key=lambda each: each.relative_to(root).as_posix()):
        name, source = path.relative_to(root).as_posix().encode(), path.read_bytes()
        for field in (name, source):
            hashed.update(len(field).to_bytes(8, "big") + field)
    return hashed.hexdigest()
