"""Google Cloud Storage: how a client is made, with which keys.

The one idea: keys are found where Google's own tools find them (application default credentials), unless the
configuration names a file; an address of one's own is for stores that speak Google's protocol.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pghaven.store.clients import read_setting_file
from pghaven.store.settings import StoreSettings

if TYPE_CHECKING:
    from obstore.store import GCSStore


def connect(settings: StoreSettings, bucket: str, options: dict[str, Any]) -> tuple[GCSStore, object]:
    """Raises UsageError, NotPermitted for a file of keys that cannot be used."""
    from obstore.store import GCSStore

    config: dict[str, Any] = {}
    keys: object = None
    if settings.credentials_file is not None:
        keys = hash(read_setting_file(settings.credentials_file, "credentials_file"))
        config["application_credentials" if _is_user_file(settings.credentials_file) else "service_account"] = (
            settings.credentials_file
        )
    if settings.endpoint is not None:
        config["base_url"] = settings.endpoint
        options["client_options"]["allow_http"] = settings.endpoint.startswith("http://")
    return GCSStore(bucket, **config, **options), keys


def _is_user_file(path: str) -> bool:
    import json

    try:
        content = json.loads(read_setting_file(path, "credentials_file"))
    except ValueError:
        return False
    return isinstance(content, dict) and content.get("type") == "authorized_user"
