"""S3, and what speaks its protocol: how a client is made, with which keys.

The one idea: what is said in the configuration wins over the environment, and the environment over AWS's files, as in
AWS's own tools; where none of them has keys, the services that hand them out to a host or container are asked.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from pghaven.store import aws
from pghaven.store.settings import StoreSettings

if TYPE_CHECKING:
    from obstore.store import S3Store

_DEFAULT_REGION = "us-east-1"


def connect(settings: StoreSettings, bucket: str, options: dict[str, Any]) -> tuple[S3Store, object]:
    """Raises UsageError, NotPermitted for files of keys that cannot be used."""
    from obstore.store import S3Store

    environment = os.environ
    profile = aws.read_profile(settings, environment)
    keys = profile.keys
    endpoint = find_endpoint(settings, profile)
    config: dict[str, Any] = {
        "region": settings.region
        or environment.get("AWS_REGION")
        or environment.get("AWS_DEFAULT_REGION")
        or profile.region
        or _DEFAULT_REGION,
        "virtual_hosted_style_request": not (
            endpoint is not None if settings.path_style is None else settings.path_style
        ),
        "copy_if_not_exists": "multipart",
        "disable_bulk_delete": True,  # one object at a time is deleted here, and not every store knows the other way
    }
    if endpoint:
        # Both, since the second, if it stands in the environment, would win over the first.
        address = _host_style(endpoint, bucket) if config["virtual_hosted_style_request"] else endpoint
        config |= {"endpoint": address, "aws_endpoint_url_s3": address}
        options["client_options"]["allow_http"] = endpoint.startswith("http://")
    if keys is not None:
        # A function, so that a token in the environment does not get mixed with a key from a file.
        found = {
            "access_key_id": keys.access_key_id,
            "secret_access_key": keys.secret_access_key,
            "token": keys.session_token,
            "expires_at": None,
        }
        options = {**options, "credential_provider": lambda: found}
    return S3Store(bucket, **config, **options), keys


def find_endpoint(settings: StoreSettings, profile: aws.Profile | None = None) -> str | None:
    """The address of a store of one's own; None for AWS itself. Raises as ``connect``."""
    profile = profile or aws.read_profile(settings, os.environ)
    said = (settings.endpoint, os.environ.get("AWS_ENDPOINT_URL_S3"), os.environ.get("AWS_ENDPOINT_URL"))
    return next((one for one in (*said, profile.endpoint) if one), None)


def _host_style(endpoint: str, bucket: str) -> str:
    scheme, _, host = endpoint.partition("://")
    return f"{scheme}://{bucket}.{host}"
