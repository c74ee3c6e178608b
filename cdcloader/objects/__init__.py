"""List, read and write objects under one root, on S3 or in a local folder, with our own errors.

The one place that knows obstore: its exceptions end here. A key is relative to the root, its parts are
separated by "/", and none of them is empty, "." or "..".

    store.py        the objects under a root, whatever it is
    s3.py           opens a root in S3
    folder.py       opens a root that is a local folder
    reader.py       one version of an S3 object as a stream
    conditional.py  the proof that a server creates an object only once
    failures.py     what goes wrong, as our errors
    keys.py         what a key may be
"""

from __future__ import annotations

from cdcloader.objects.failures import ObjectExists, ObjectMissing
from cdcloader.objects.store import ObjectInfo, Objects

__all__ = ["ObjectExists", "ObjectInfo", "ObjectMissing", "Objects"]
