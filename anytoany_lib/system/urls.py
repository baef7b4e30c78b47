"""The gate of URLs: which kinds are read at all, which of them a page may name, and how to write them down without passwords.

fsspec has drivers that read a URL within a URL (`zip::...`, `reference://...`), and through them any file of the machine:
only plain stores are let through.
"""

import re
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

STORES = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "hdfs", "https")
OWN = ("file", "memory")  # of this machine, for whoever sits at it
_SECRET = re.compile(r"sig|token|key|secret|passw|credential|auth", re.IGNORECASE)
_FULL: dict[str, str] = {}  # URLs with a password, by the URL without it


def check_url(url: str, from_page: bool = False) -> str:
    """The URL, if it is one of a store. ValueError if it is a chain or of another kind; `from_page` those of this machine too."""
    scheme = url.partition("://")[0]
    allowed = STORES if from_page else STORES + OWN
    if "::" in url or scheme not in allowed or re.search(r"[\x00-\x20\\]", url):
        raise ValueError(
            f"{without_secrets(url)[:200]}: expected a URL that begins with one of {', '.join(allowed)} and :// and names one "
            "place, without :: in it"
        )
    return url


def check_page(path: str) -> str:
    """The name by which a page calls a folder: a path, or a URL of a store (see `check_url`)."""
    return check_url(path, from_page=True) if "://" in path or "::" in path else path


def without_secrets(url: str) -> str:
    """A URL as it may be written down: without a password, and without the values of parameters that sign it."""
    head, mark, _ = url.partition("://")
    if not mark:
        return url
    try:
        parts = urlsplit(url)
    except ValueError:
        return f"{head}://…"
    user, at, place = parts.netloc.rpartition("@")
    # In abfs://container@account what stands before the @ is no secret.
    if at and (":" in user or head in ("http", "https")):
        parts = parts._replace(netloc=place)
    given = parse_qsl(parts.query, keep_blank_values=True)
    plain = [(name, value) for name, value in given if not _SECRET.search(name)]
    if plain != given:
        parts = parts._replace(query=urlencode(plain))
    return url if parts == urlsplit(url) else urlunsplit(parts)


def remembered(url: str) -> str:
    """The name of a URL to write down; its password is kept for `opened_by` as long as the process lasts."""
    name = without_secrets(url)
    if name != url:
        _FULL[name] = url
    return name


def opened_by(name: str) -> str:
    """The URL to open: with the password that came with it, if one did."""
    return _FULL.get(name, name)
