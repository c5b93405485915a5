"""Takes secrets out of text: passwords in addresses, tokens of the environment, Authorization values.

`redacted` is applied to every PanbenchError, to all that the console prints, and to what run.json keeps of a command
line and an error. A secret is recognised by its form, or because it is the value of an environment variable whose name
says that it holds one.
"""

import base64
import functools
import os
import re
import urllib.parse
from collections.abc import Callable, Iterator

__all__ = ["HIDDEN", "redacted", "redactor", "without_secrets"]

HIDDEN = "***"

_SECRET_NAME = re.compile(
    r"(TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS?|AUTHORIZATION|APIKEY|(^|_)(AUTH|PASS|PAT|KEY))(_ID)?$",
    re.IGNORECASE,
)
# Replacing a shorter value, or one of digits only, would change words and numbers that have nothing to do with it.
_SHORTEST = 6
# A user name alone may be a token: those are long, and a name such as "panbench" must not vanish from every sentence.
_SHORTEST_USER_NAME = 20

_SCHEME = r"[A-Za-z][A-Za-z0-9+.-]*://"
# In a variable's value, the last @ ends user name and password, whatever characters these have.
_ADDRESS = re.compile(rf"({_SCHEME})?(.*)@(.*)", re.DOTALL)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")

_KEYS = r"(?:token|secret|passw(?:or)?d|(?:api|access|private|secret)[_-]?key|signature|credential)"

# Words of which a text must contain one (in lower case), and the pattern, whose first group stays: looking for a word
# is a hundred times as fast as a pattern, and most texts have none of them.
_FORMS = (
    (("@",), re.compile(rf"({_SCHEME})[^\s/?#\"<>]+(?=@)")),
    (
        ("authorization",),
        re.compile(
            r"((?:proxy-)?\bauthorization\b[\"']?\s*[:=]\s*[\"']?)(?:(?:Bearer|Basic|Token|Digest)\s+)?[^\s\"',;]+",
            re.IGNORECASE,
        ),
    ),
    (("bearer",), re.compile(r"(\bBearer\s+)[\w.~+/=-]{6,}", re.IGNORECASE)),
    (("basic",), re.compile(r"(\bBasic\s+)(?=\S*[0-9=])[A-Za-z0-9+/]{8,}={0,2}")),
    (("=",), re.compile(rf"((?:{_KEYS}|[?&]sig)=)[^\s\"'&,;<>)\\]+", re.IGNORECASE)),
    (('"',), re.compile(rf"({_KEYS}\"\s*:\s*\")(?:[^\"\\]|\\.)+(?=\")", re.IGNORECASE)),
    (("hf_",), re.compile(r"(\bhf_)[A-Za-z0-9]{20,}")),
)
_KEY_WORDS = ("token", "secret", "passw", "key", "signature", "credential", "sig=")


def redacted(text: str) -> str:
    """`text` with `***` in place of each secret that is recognised."""
    return redactor()(text)


def redactor() -> Callable[[str], str]:
    """`redacted` for many texts: reads the environment once."""
    replacements = dict(_secrets_of_environment())
    # The longest first: of a token, nothing must be left because a part of it was replaced before.
    values = _any_of(tuple(sorted(replacements, key=len, reverse=True))) if replacements else None

    def redact(text: str) -> str:
        if values is not None:
            text = values.sub(lambda found: replacements[found[0]], text)
        lowered = text.lower()
        has_key = any(word in lowered for word in _KEY_WORDS)
        for words, form in _FORMS:
            if any(word in lowered for word in words) and (has_key or words[0] not in '="'):
                text = form.sub(rf"\g<1>{HIDDEN}", text)
        return text

    return redact


def without_secrets(url: str) -> str:
    """`url` without user name and password, and with the secrets of its query hidden: for messages and records."""
    return redacted(re.sub(rf"^({_SCHEME})[^/?#]*@", r"\1", url))


@functools.lru_cache(maxsize=8)
def _any_of(values: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, values)))


def _secrets_of_environment() -> Iterator[tuple[str, str]]:
    """What to replace, and by what."""
    for name, value in os.environ.items():
        address = _ADDRESS.fullmatch(value) if "@" in value else None
        if address is not None and (address[1] or name.upper().endswith("_PROXY")):
            yield from _in_address(value, *address.groups(default=""))
        elif _is_secret(name) and not (os.path.isabs(value) and os.path.exists(value)):
            yield from ((form, HIDDEN) for form in _spellings(value))


@functools.cache
def _is_secret(name: str) -> bool:
    return _SECRET_NAME.search(name) is not None


def _in_address(value: str, scheme: str, login: str, place: str) -> Iterator[tuple[str, str]]:
    """The address of a variable as a whole, and the password in it."""
    if "/" in login and ":" not in login:
        return  # an @ in a path: https://host/package@1.0
    yield value, f"{scheme}{HIDDEN}@{place}"
    yield value.rstrip("/"), f"{scheme}{HIDDEN}@{place.rstrip('/')}"
    _, separator, password = login.partition(":")
    if separator:
        encoded = base64.b64encode(urllib.parse.unquote(login).encode(errors="replace")).decode()
        # A library that cannot read an address quotes what it takes for its port.
        found = set().union(*map(_spellings, (password, encoded, *re.split(r"[/?#@:\[\]]", password))))
    else:
        found = _spellings(login) if len(login) >= _SHORTEST_USER_NAME else set()
    yield from ((form, HIDDEN) for form in found)


def _spellings(secret: str) -> set[str]:
    """How messages may write a secret: as it is, line by line, quoted, decoded, with control characters spelled out."""
    lines = {secret, secret.strip(), " ".join(secret.split()), *_CONTROL.split(secret)}
    found = {
        spelling
        for line in lines
        for spelling in (
            line,
            urllib.parse.quote(line, safe="", errors="replace"),
            urllib.parse.quote(line, errors="replace"),
            urllib.parse.unquote(line),
            repr(line)[1:-1],
            repr(line.encode(errors="replace"))[2:-1],
        )
    }
    return {spelling for spelling in found if len(spelling) >= _SHORTEST and not spelling.isdigit()}
