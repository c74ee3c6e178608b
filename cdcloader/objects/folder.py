"""Opens a root that is a local folder."""

from __future__ import annotations

import os
from pathlib import Path

from obstore.exceptions import BaseError
from obstore.store import LocalStore

from cdcloader.errors import ConfigError
from cdcloader.objects.failures import text_of


def open_folder(location: str, *, create: bool) -> tuple[str, LocalStore]:
    """(absolute path, store); ConfigError when the folder is missing, unless `create`, or cannot be used."""
    folder = Path(os.path.abspath(Path(location).expanduser()))  # noqa: PTH100 - resolve() would follow links
    if not create and not folder.is_dir():
        raise ConfigError(f"folder {folder} does not exist", hint="create it, or correct its path in the config")
    try:
        store = LocalStore(folder, mkdir=create)
    except (BaseError, OSError) as error:
        raise ConfigError(f"folder {folder} cannot be used: {text_of(error)}") from error
    return str(folder), store
