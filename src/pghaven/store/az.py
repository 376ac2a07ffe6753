"""Azure Blob Storage: how a client is made, with which keys.

The one idea: what is said in the configuration wins over the environment. There Azure's own tools know a connection
string, and an account's name with a key or a shared access signature; a service principal, a workload identity, the
login of ``az`` and the identity of a host are the client's own affair.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pghaven.errors import UsageError
from pghaven.store.clients import read_setting_file
from pghaven.store.settings import StoreSettings

if TYPE_CHECKING:
    from obstore.store import AzureStore

_HINT = "A connection string is what the portal shows under Access keys, or beside a shared access signature."

# What stands in an environment beside the names that the client knows itself.
_ACCOUNT = ("AZURE_STORAGE_ACCOUNT", "AZURE_STORAGE_ACCOUNT_NAME")
_KEY = ("AZURE_STORAGE_KEY", "AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_ACCESS_KEY")
_SIGNATURE = ("AZURE_STORAGE_SAS_TOKEN", "AZURE_STORAGE_SAS_KEY")
_CONNECTION = "AZURE_STORAGE_CONNECTION_STRING"


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """An account and what opens it. Printed without it."""

    account: str | None = None
    endpoint: str | None = None
    key: str | None = field(default=None, repr=False)
    signature: str | None = field(default=None, repr=False)


def connect(settings: StoreSettings, container: str, options: dict[str, Any]) -> tuple[AzureStore, object]:
    """Raises UsageError, NotPermitted for keys that cannot be used."""
    from obstore.store import AzureStore

    keys = find_keys(settings, os.environ)
    account = settings.account or keys.account
    if account is None:
        raise UsageError(
            f"{settings.url} does not say in which storage account it is",
            hint="Set the option account of the repository, or $AZURE_STORAGE_ACCOUNT.",
        )
    config: dict[str, Any] = {"account_name": account}
    if endpoint := settings.endpoint or keys.endpoint:
        config["endpoint"] = endpoint
        options["client_options"]["allow_http"] = endpoint.startswith("http://")
    if keys.key is not None:
        config |= {"account_key": keys.key, "credential_type": "access_key"}
    elif keys.signature is not None:
        config |= {"sas_key": keys.signature, "credential_type": "sas_token"}
    return AzureStore(container, **config, **options), keys


def find_keys(settings: StoreSettings, environment: Mapping[str, str]) -> Keys:
    """What the file that was named says, or the environment; an empty value for what the client is to find itself.

    Raises UsageError, NotPermitted.
    """
    if settings.credentials_file is not None:
        text = read_setting_file(settings.credentials_file, "credentials_file").decode(errors="replace")
        return parse_connection_string(text, settings.credentials_file)
    if string := environment.get(_CONNECTION):
        return parse_connection_string(string, f"${_CONNECTION}")
    return Keys(
        account=_first(environment, _ACCOUNT),
        key=_first(environment, _KEY),
        signature=_first(environment, _SIGNATURE),
    )


def parse_connection_string(text: str, source: str) -> Keys:
    """``AccountName=…;AccountKey=…``, with ``BlobEndpoint``, ``EndpointSuffix`` or ``SharedAccessSignature``.

    ``source`` names it in errors, which never repeat it. Raises UsageError.
    """
    parts = [part.strip() for part in text.replace("\n", ";").split(";") if part.strip()]
    values = {name.strip().lower(): value.strip() for name, _, value in (part.partition("=") for part in parts)}
    key, signature = values.get("accountkey"), values.get("sharedaccesssignature")
    account = values.get("accountname")
    endpoint = values.get("blobendpoint", "").rstrip("/") or None
    if key is None and signature is None:
        raise UsageError(
            f"{source} holds no connection string with an AccountKey or a SharedAccessSignature", hint=_HINT
        )
    if endpoint is None and account is not None and (suffix := values.get("endpointsuffix")):
        endpoint = f"{values.get('defaultendpointsprotocol', 'https')}://{account}.blob.{suffix}"
    if account is None and endpoint is not None:
        account = _account_of(endpoint)
    return Keys(account=account, endpoint=endpoint, key=key, signature=signature)


def _account_of(endpoint: str) -> str | None:
    """The account is the first part of the host, which is all that stands in an endpoint with a signature."""
    host = endpoint.partition("://")[2].partition("/")[0]
    name, _, rest = host.partition(".")
    return name if rest.startswith("blob.") else None


def _first(environment: Mapping[str, str], names: tuple[str, ...]) -> str | None:
    return next((value for name in names if (value := environment.get(name))), None)
