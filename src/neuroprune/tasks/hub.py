"""Data sets of the Hugging Face hub, and whether the hub can be reached at all."""

from __future__ import annotations

import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

from neuroprune.tasks.errors import DataError, require
from neuroprune.tasks.presets import split_hub_name

SECONDS = 3.0
_GATEWAY_REFUSES = (403, 407)
_REFUSED = "scripts are no longer supported"  # what datasets says of a set that is a program
_CONVERTED = "refs/convert/parquet"  # where the hub keeps its own conversion of such a set


def offline_mode() -> bool:
    """Whether the Hugging Face libraries were told not to use the network."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def unreachable(seconds: float = SECONDS) -> str | None:
    """Why the hub does not answer; None where it does.

    Args:
        seconds: longest wait, name resolution included. Proxy settings are honoured.
    """
    from huggingface_hub import constants

    endpoint = constants.ENDPOINT
    found: list[str | None] = []
    # Name resolution has no time-out of its own, so the wait is for the thread.
    probe = threading.Thread(target=lambda: found.append(_probe(endpoint, seconds)), daemon=True)
    probe.start()
    probe.join(seconds)
    return found[0] if found else f"no answer from {endpoint} within {seconds:g} s"


def _probe(endpoint: str, seconds: float) -> str | None:
    request = urllib.request.Request(endpoint, method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=seconds).close()
    except urllib.error.HTTPError as error:
        error.close()
        if error.code in _GATEWAY_REFUSES or error.code >= 500:
            return f"{endpoint} answers {error.code}"
    except (OSError, ValueError) as error:
        return f"{endpoint}: {getattr(error, 'reason', error)}"
    return None


def load_hub_dataset(name: str) -> Any:
    """A hub data set: from the cache in offline mode, else from the hub.

    A set that is a program (XSum, SciTLDR, IWSLT14), which `datasets` no longer runs, is read from
    the hub's conversion to Parquet.

    Args:
        name: see `neuroprune.tasks.presets.split_hub_name`.

    Returns:
        A `datasets.DatasetDict`.

    Raises:
        DataError: the hub cannot be reached (said within seconds), or has no such data set.
        MissingExtraError: `datasets` is not installed.
    """
    datasets = require("datasets", f"the hub data set {name!r}")
    repository, configuration = split_hub_name(name)
    offline = offline_mode() or bool(datasets.config.HF_HUB_OFFLINE)
    reason = "offline mode is set, and it is not in the cache" if offline else unreachable()
    if reason is not None and not offline:
        raise DataError(_unreachable(name, reason))
    try:
        return _load(datasets.load_dataset, repository, configuration, offline)
    except (OSError, ValueError, RuntimeError) as error:
        if offline or isinstance(error, ConnectionError):
            raise DataError(_unreachable(name, reason or str(error))) from error
        raise DataError(
            f"the hub data set {repository!r} (configuration {configuration!r}) cannot be loaded: "
            f"{error} Check its name on the hub, or give local files."
        ) from error


def _load(
    load: Callable[..., Any], repository: str, configuration: str | None, offline: bool
) -> Any:
    try:
        return load(repository, configuration)
    except (OSError, ValueError, RuntimeError) as error:
        if not offline and _REFUSED not in str(error):
            raise
        try:
            return load(repository, data_dir=configuration or "default", revision=_CONVERTED)
        except (OSError, ValueError, RuntimeError):
            if offline:  # the cache holds neither; the first attempt says it better
                raise error from None
            raise


def _unreachable(name: str, reason: str) -> str:
    return (
        f"the hub data set {name!r} cannot be reached ({reason}). Give local files instead "
        "(files = {train = ..., validation = ...}, relative to --data-dir), or connect; one that "
        "was downloaded before is read from the cache with HF_HUB_OFFLINE=1."
    )
