"""Removes secrets from text: passwords in URLs, tokens of the environment, Authorization values.

`redacted` is applied to every PanbenchError, to all that the console prints, and to the command line and the error in
run.json. A secret is recognised by its form, or because it is the value of an environment variable whose name
says that it holds one.
"""

import base64
import functools
import os
import re
import urllib.parse
from collections.abc import Callable, Iterator

HIDDEN = "***"

_SECRET_NAME = re.compile(
    r"(TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS?|AUTHORIZATION|APIKEY|(^|_)(AUTH|PASS|PAT|KEY))(_ID)?$",
    re.IGNORECASE,
)
# Replacing a shorter value, or one of digits only, would change unrelated words and numbers.
_SHORTEST = 6
# A user name alone may be a token: those are long, and a name such as "panbench" must not vanish from every sentence.
_SHORTEST_USER_NAME = 20

_SCHEME = r"[A-Za-z][A-Za-z0-9+.-]*://"
# In a variable's value, the last @ ends user name and password, whatever characters these have.
_URL_WITH_LOGIN = re.compile(rf"({_SCHEME})?(.*)@(.*)", re.DOTALL)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")

_KEYS = r"(?:token|secret|passw(?:or)?d|(?:api|access|private|secret)[_-]?key|signature|credential)"

# Words of which a text must contain one (in lower case), and the pattern, whose first group stays: searching for a
# word is a hundred times faster than the pattern, and most texts have none of them.
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
    """Replaces each secret that is recognised in `text` by `***`."""
    return redactor()(text)


def redactor() -> Callable[[str], str]:
    """Returns a function that replaces the secrets in a text, such as passwords, by `***`.

    It reads the environment once, for any number of texts.
    """
    replacements = dict(_secrets_of_environment())
    # Longest first: otherwise replacing a shorter secret inside a longer one would leave the rest of it visible.
    values = _pattern_of_secrets(tuple(sorted(replacements, key=len, reverse=True))) if replacements else None

    def redact(text: str) -> str:
        """Replaces the secrets in a text: known values, and whatever follows words such as `token=`."""
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
    """Removes user name and password from a URL and hides secrets in its query, for messages and records."""
    return redacted(re.sub(rf"^({_SCHEME})[^/?#]*@", r"\1", url))


@functools.lru_cache(maxsize=8)
def _pattern_of_secrets(values: tuple[str, ...]) -> re.Pattern[str]:
    """Compiles a pattern that matches each of the values literally."""
    return re.compile("|".join(map(re.escape, values)))


def _secrets_of_environment() -> Iterator[tuple[str, str]]:
    """Yields each secret in the environment's variables, with the text that replaces it."""
    for name, value in os.environ.items():
        url = _URL_WITH_LOGIN.fullmatch(value) if "@" in value else None
        if url is not None and (url[1] or name.upper().endswith("_PROXY")):
            yield from _secrets_of_url(value, *url.groups(default=""))
        elif _is_secret_variable(name) and not (os.path.isabs(value) and os.path.exists(value)):
            yield from ((form, HIDDEN) for form in _spellings_of_secret(value))


@functools.cache
def _is_secret_variable(name: str) -> bool:
    """True if the name of an environment variable suggests that its value is secret."""
    return _SECRET_NAME.search(name) is not None


def _secrets_of_url(value: str, scheme: str, login: str, rest: str) -> Iterator[tuple[str, str]]:
    """Yields the secrets of a URL in an environment variable (all of it, its password), each with its replacement."""
    if "/" in login and ":" not in login:
        return  # an @ in a path: https://host/package@1.0
    yield value, f"{scheme}{HIDDEN}@{rest}"
    yield value.rstrip("/"), f"{scheme}{HIDDEN}@{rest.rstrip('/')}"
    _, separator, password = login.partition(":")
    if separator:
        encoded = base64.b64encode(urllib.parse.unquote(login).encode(errors="replace")).decode()
        # A library that cannot parse a URL quotes what it believes to be the port.
        found = set().union(*map(_spellings_of_secret, (password, encoded, *re.split(r"[/?#@:\[\]]", password))))
    else:
        found = _spellings_of_secret(login) if len(login) >= _SHORTEST_USER_NAME else set()
    yield from ((form, HIDDEN) for form in found)


def _spellings_of_secret(secret: str) -> set[str]:
    """Returns the ways a message may write a secret: verbatim, line by line, quoted, decoded, or escaped."""
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
