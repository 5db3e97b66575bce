"""The Hugging Face hub: whether it can be reached, and its cache written. Nothing here keeps a server from running."""

from __future__ import annotations

import email.utils
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

from lmms_eval_grpc.cli.doctor.finding import Finding, ok, warning
from lmms_eval_grpc.cli.doctor.setup import Setup

DEFAULT_ENDPOINT = "https://huggingface.co"
_OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")
_TIMEOUT = 3.0
_SKEW = 60.0


def check_hub(setup: Setup) -> Iterator[Finding]:
    """One HEAD request to the endpoint that is configured."""
    offline = [name for name in _OFFLINE if _is_true(setup.environ.get(name, ""))]
    if offline:
        yield ok("hub", f"offline ({', '.join(offline)}): models and data come from the cache and from local folders")
    else:
        yield from _check_endpoint(setup.environ.get("HF_ENDPOINT") or DEFAULT_ENDPOINT)
    yield from _check_cache(setup.environ)


def _check_endpoint(endpoint: str) -> Iterator[Finding]:
    shown = _without_password(endpoint)
    remedy = (
        "mend the network, a proxy (HTTPS_PROXY) or HF_ENDPOINT; or set HF_HUB_OFFLINE=1 and use local folders and what"
        " is in the cache"
    )
    if urllib.parse.urlsplit(endpoint).scheme not in ("http", "https"):
        yield warning("hub", f"HF_ENDPOINT {shown!r} is no http or https address", remedy)
        return
    answers: list[str | Exception] = []
    # A thread, because looking the name up heeds no timeout.
    asking = threading.Thread(target=lambda: answers.append(_ask(shown)), daemon=True)
    asking.start()
    asking.join(_TIMEOUT + 0.5)
    if not answers:
        yield warning("hub", f"{shown} did not answer within {_TIMEOUT:g} s", remedy)
    elif isinstance(answers[0], Exception):
        yield warning("hub", f"{shown} cannot be reached: {answers[0]}", remedy)
    else:
        yield ok("hub", f"{shown} can be reached")
        yield from _compare_clocks(answers[0])


def _ask(endpoint: str) -> str | Exception:
    """The ``Date`` of the answer, or why there is none."""
    try:
        with urllib.request.urlopen(urllib.request.Request(endpoint, method="HEAD"), timeout=_TIMEOUT) as answer:
            return str(answer.headers.get("Date", ""))
    except urllib.error.HTTPError as error:
        return str(error.headers.get("Date", ""))  # It is there, whatever it thinks of HEAD.
    except Exception as error:
        return error


def _compare_clocks(date: str) -> Iterator[Finding]:
    try:
        skew = time.time() - email.utils.parsedate_to_datetime(date).timestamp()
    except ValueError:
        return
    if abs(skew) > _SKEW:
        yield warning(
            "clock",
            f"this machine's clock is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} the hub's",
            "keep it set by NTP (timedatectl set-ntp true)",
        )


def _check_cache(environ: Mapping[str, str]) -> Iterator[Finding]:
    home = environ.get("HF_HOME") or str(Path(environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface")
    folder = Path(environ.get("HF_HUB_CACHE") or Path(home) / "hub").expanduser()
    place = next(place for place in (folder, *folder.parents) if place.exists())
    try:
        with tempfile.TemporaryFile(dir=place):
            yield ok("hub cache", f"{folder} can be written")
    except OSError as error:
        yield warning(
            "hub cache",
            f"{folder} cannot be written ({error.strerror}): nothing can be downloaded",
            "set HF_HOME to a folder that the server's user can write",
        )


def _is_true(text: str) -> bool:
    return text.strip().upper() in ("1", "ON", "YES", "TRUE")


def _without_password(endpoint: str) -> str:
    parts = urllib.parse.urlsplit(endpoint)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
