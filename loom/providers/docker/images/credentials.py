"""Find the user's registry credentials in Docker's configuration (`docker login`) or a credential helper, by the SDK."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from typing import Any

from docker.auth import INDEX_NAME, INDEX_URL, AuthConfig
from docker.errors import DockerException

from loom.providers.docker.engine.endpoint import config_dir
from loom.util.within import within
from loom.values import Environ, Immutable

_HELPER_TIMEOUT_S = 30


class Credentials(Immutable):
    """`auth` is the value for the engine's API (empty: anonymous), `source` its origin for messages; `problem` is set
    when configured credentials are unavailable.
    """

    source: str = "none"
    auth: Mapping[str, Any] = {}
    problem: str | None = None

    def __repr__(self) -> str:
        return f"Credentials(source={self.source!r})"


def credentials_for(registry: str, environ: Environ) -> Credentials:
    """Find credentials. Never raises: a failure is a `problem`, and the pull continues anonymously."""
    path, helper = config_dir(environ) / "config.json", None
    try:
        config = json.loads(path.read_bytes())
        if not config:
            return Credentials()
        known = AuthConfig.load_config(None, config, credstore_env=dict(environ))
        helper = known.get_credential_store(registry)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the error says the same
            auth = within(_HELPER_TIMEOUT_S, lambda: known.resolve_authconfig(registry))
    except FileNotFoundError:
        return Credentials()
    except TimeoutError:
        return Credentials(problem=f"the credential helper {helper} did not answer within {_HELPER_TIMEOUT_S} s")
    except DockerException as error:
        return Credentials(problem=str(error.__cause__ or error))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return Credentials(problem=f"{path} can't be read: {error}")
    if not auth:
        return Credentials()
    if "ServerAddress" in auth:
        return Credentials(source=f"docker-credential-{helper}", auth=auth)
    return Credentials(
        source=str(path), auth={**auth, "serveraddress": INDEX_URL if registry == INDEX_NAME else registry}
    )
