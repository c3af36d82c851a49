"""Keeps personal data out of telemetry: SQL literals, values of URL queries, quotations in error messages.

Lexical rules: MySQL Reference Manual, chapter "Language Structure" (literal values, identifiers, comments);
of standard SQL, PostgreSQL Documentation, chapter "Lexical Structure". Where settings decide that nobody
sees, the reading that hides more wins.
"""

from __future__ import annotations

import re

__all__ = ["redact_message", "redact_query", "redact_sql", "summarize_sql"]

_ELLIPSIS = "…"

# Possessive quantifiers are on single characters only: Python 3.11.0 to 3.11.4 get them wrong on groups
# (CPython issues 100061 and 106052). Groups need none here, as none has two ways to match.
_SINGLE_QUOTED = r"""'[^'\\]*+(?:(?:\\.|'')[^'\\]*+)*(?:'|\\?\Z)"""
_DOUBLE_QUOTED = r"""\"[^"\\]*+(?:(?:\\.|"")[^"\\]*+)*(?:"|\\?\Z)"""
# One branch for each first character, none of them a class: that lets the search leap over the others.
# Of what is no number any more, such as 192.0.2.1, nothing is to be left either.
_NUMBER_END = r"(?:\.\d*+|[eE][+-]?\d*+)*(?![\w$])"
_DIGITS = "|".join(rf"{digit}(?<![\w$@.]{digit})\d*+{_NUMBER_END}" for digit in "123456789")
_ZERO = rf"0(?<![\w$@.]0)(?:[xX][0-9a-fA-F]*+|[bB][01]*+|\d*+){_NUMBER_END}"
_FRACTION = rf"\.(?<![\w$]\.)\d++{_NUMBER_END}"
_PREFIXED = "|".join(
    rf"{prefix}(?<![\w$]{prefix})(?:{_SINGLE_QUOTED}|{_DOUBLE_QUOTED})" for prefix in "bBeEnNxX"
)
_LITERAL = rf"{_SINGLE_QUOTED}|{_DOUBLE_QUOTED}|{_DIGITS}|{_ZERO}|{_FRACTION}|{_PREFIXED}"
_ANY_LITERAL = re.compile(_LITERAL, re.DOTALL)

_SPECIAL = re.compile(r"[`/#$]|--")
"""Where a quoted identifier, a comment or a dollar quote may be: statements without are quick to redact."""

_SQL_TOKEN = re.compile(
    r"(?P<identifier>`[^`]*+(?:``[^`]*+)*`?)|(?P<hint>/\*[+!]\d*+)|(?P<comment>/\*(?:.*?\*/|.*+))"
    r"|(?P<line>--[^\n]*+|\#(?![>-])[^\n]*+)"
    r"|(?P<dollar>\$(?<![\w$]\$)(?:[^\W\d]\w*+)?\$)(?:.*?(?P=dollar)|.*+)"
    rf"|{_LITERAL}",
    re.DOTALL,
)

# In standard SQL a backslash escapes nothing, unless a setting says otherwise: with one before a quote it is
# open where the literal ends, so the rest goes. Comments nest: likewise behind the second start.
_STANDARD_QUOTED = r"""'[^'\\]*+(?:(?:\\(?!')|'')[^'\\]*+)*(?:'|\\'.*+|\\?\Z)"""
_STANDARD_PREFIXED = "|".join(rf"{prefix}(?<![\w$]{prefix}){_STANDARD_QUOTED}" for prefix in "bBnNxX")
_ESCAPED = "|".join(rf"{prefix}(?<![\w$]{prefix}){_SINGLE_QUOTED}" for prefix in "eE")
_STANDARD_TOKEN = re.compile(
    r"(?P<identifier>\"[^\"]*+\"?)|(?P<comment>/\*(?:(?!/\*).)*?\*/|/\*.*+)|(?P<line>--[^\n]*+)"
    r"|(?P<dollar>\$(?<![\w$]\$)(?:[^\W\d]\w*+)?\$)(?:.*?(?P=dollar)|.*+)"
    rf"|{_ESCAPED}|{_STANDARD_PREFIXED}|{_STANDARD_QUOTED}|{_DIGITS}|{_ZERO}|{_FRACTION}",
    re.DOTALL,
)


def redact_sql(text: str, *, standard: bool = False) -> str:
    """Return the statement with its literals replaced by `?`, those that are cut off at the end included.

    Identifiers and keywords stay; the text of comments goes, as clients put trace and user ids there.
    standard: its rules are standard SQL's, as PostgreSQL has them.
    """
    cut = text.endswith(_ELLIPSIS)
    whole = text.removesuffix(_ELLIPSIS) if cut else text
    if standard:
        return _STANDARD_TOKEN.sub(_replacement, whole) + _ELLIPSIS * cut
    special = _SPECIAL.search(whole)
    redacted = _SQL_TOKEN.sub(_replacement, whole) if special else _ANY_LITERAL.sub("?", whole)
    return redacted + _ELLIPSIS if cut else redacted


def _replacement(token: re.Match[str]) -> str:
    kind = token.lastgroup
    if kind in {"identifier", "hint"}:
        return token[0]
    if kind == "comment":
        return "/* ? */"
    if kind == "line":
        return "# ?" if token[0].startswith("#") else "-- ?"
    return "?"


_QUERY_VALUE = re.compile(r"=[^&]*")


def redact_query(url_query: str) -> str:
    """Return the query of a URL with each value replaced by `REDACTED`; keys stay."""
    redacted = _QUERY_VALUE.sub("=REDACTED", url_query)
    cut = url_query.endswith(_ELLIPSIS) and not redacted.endswith(_ELLIPSIS)
    return redacted + _ELLIPSIS if cut else redacted


# Values may hold the quote that surrounds them, unescaped: only the last quote is known to be outside.
_QUOTED = re.compile(r"""(?<!\w)['"`].*['"`](?!\w)""", re.DOTALL)
_QUOTED_CUT = re.compile(r"""(?<!\w)['"`].*(?=…\Z)""", re.DOTALL)
_KEY_VALUE = re.compile(r"=\(.*\)", re.DOTALL)


def redact_message(message: str) -> str:
    """Return a database's error message with what it quotes, from first to last quote, replaced by `?`."""
    quoted = _QUOTED_CUT if message.endswith(_ELLIPSIS) else _QUOTED
    return _KEY_VALUE.sub("=(?)", quoted.sub("?", message))


_VERB_LIST = """
ABORT ALTER ANALYZE BACKUP BEGIN BINLOG CACHE CALL CHANGE CHECK CHECKPOINT CHECKSUM CLONE CLOSE CLUSTER
COMMENT COMMIT COPY CREATE DEALLOCATE DECLARE DELETE DESC DESCRIBE DISCARD DO DROP END EXECUTE EXPLAIN FETCH
FLUSH GET GRANT HANDLER HELP IMPORT INSERT INSTALL KILL LISTEN LOAD LOCK MERGE MOVE NOTIFY OPTIMIZE PREPARE
PURGE REASSIGN REFRESH REINDEX RELEASE RENAME REPAIR REPLACE RESET RESIGNAL RESTART REVOKE ROLLBACK SAVEPOINT
SECURITY SELECT SET SHOW SHUTDOWN SIGNAL START STOP TABLE TRUNCATE UNINSTALL UNLISTEN UNLOCK UPDATE USE VACUUM
VALUES WITH XA
"""
_VERBS = frozenset(_VERB_LIST.split())
"""First keywords of statements of MySQL, MariaDB and PostgreSQL; nothing else becomes an operation's name."""

_COMMENT = r"/\*(?!!)[^*]*+(?:\*(?!/)[^*]*+)*(?:\*/|\Z)"
_SPACE = rf"(?:\s|{_COMMENT})"
_PART = r"""(?:`[^`]+`|"[^"]+"|(?!\d++(?![\w$]))[\w$]++)"""
_NAME = rf"({_PART}(?:\s*\.\s*{_PART})*)"

# A hint of MySQL's, /*!40101 ... */, is code: its first keyword counts.
_LEAD = re.compile(
    rf"(?:[\s(;]|/\*!\d*+|\*/|{_COMMENT}|--[^\n]*+|\#[^\n]*+)*([A-Za-z]++)(?![\w$])", re.DOTALL
)


def _pattern(words: str) -> re.Pattern[str]:
    """Compile what follows a verb; a space is white space and comments, NAME a name."""
    return re.compile(words.replace(" ", _SPACE + "+").replace("NAME", _NAME), re.IGNORECASE | re.DOTALL)


def _after(words: str) -> re.Pattern[str]:
    """Compile a name behind any number of `words`, alternatives none of which is the name."""
    return _pattern(rf"(?: (?:{words})\b)* (?!(?:{words})\b)NAME")


_TARGETS = {
    "CALL": _pattern(r" NAME"),
    "COPY": _pattern(r" NAME"),
    "DESC": _pattern(r" NAME"),
    "DESCRIBE": _pattern(r" NAME"),
    "INSERT": _after("LOW_PRIORITY|DELAYED|HIGH_PRIORITY|IGNORE|OVERWRITE|INTO"),
    "LOAD": _pattern(r".*? INTO TABLE NAME"),
    "LOCK": _pattern(r" TABLES? NAME"),
    "MERGE": _after("INTO"),
    "REPLACE": _after("LOW_PRIORITY|DELAYED|INTO"),
    "TRUNCATE": _after("TABLE|ONLY"),
    "UPDATE": _after("LOW_PRIORITY|IGNORE|ONLY"),
    "USE": _pattern(r"(?: )?NAME"),
}
"""Verb -> what follows it up to the name of the table, procedure or database."""

_DEFINITIONS = frozenset({"CREATE", "ALTER", "DROP"})
_OBJECT = _pattern(
    r"(?: [\w=]++){0,6}? (TABLE|INDEX|VIEW|DATABASE|SCHEMA|PROCEDURE|FUNCTION|TRIGGER|EVENT|SEQUENCE|USER"
    r"|ROLE|SERVER|EXTENSION|TYPE)\b(?: IF(?: NOT)? EXISTS\b| CONCURRENTLY\b)*(?: NAME)?"
)

_PLAIN_FROM = re.compile(rf"[^'\"()#/\-]*?\sFROM\s++{_NAME}", re.IGNORECASE)
_SKIPPED = rf"{_SINGLE_QUOTED}|{_DOUBLE_QUOTED}|`[^`]*+`?|{_COMMENT}|--[^\n]*+|\#[^\n]*+|\(|\)"
# Every branch starts with a literal: that lets the search leap over the other characters.
_FROM_TOKEN = re.compile(
    _SKIPPED
    + rf"|F(?<![\w$]F)[Rr][Oo][Mm]{_SPACE}+{_NAME}|f(?<![\w$]f)[Rr][Oo][Mm]{_SPACE}+{_NAME}"
    + r"|S(?<![\w$]S)[Ee][Ll][Ee][Cc][Tt](?![\w$])|s(?<![\w$]s)[Ee][Ll][Ee][Cc][Tt](?![\w$])",
    re.DOTALL,
)
_VERB_TOKEN = re.compile(
    _SKIPPED + r"|\b(?:SELECT|INSERT|UPDATE|DELETE|REPLACE|MERGE)(?![\w$])", re.DOTALL | re.IGNORECASE
)


def summarize_sql(text: str) -> tuple[str, str]:
    """Return the statement's operation and summary, as in `("SELECT", "SELECT users")`; `""` for none.

    The operation is the first keyword in upper case, of a WITH the one behind its common table expressions.
    The summary adds the name of the first target, unquoted; neither holds literals.
    Source: OpenTelemetry semantic conventions, "Generating a summary of the query".
    """
    lead = _LEAD.match(text)
    verb = lead[1].upper() if lead else ""
    if lead is None or verb not in _VERBS:
        return "", ""
    at = lead.end()
    if verb == "WITH":
        verb, at = _main_verb(text, at)
    return verb, _summary(verb, text, at)


def _summary(verb: str, text: str, at: int) -> str:
    if verb in _DEFINITIONS:
        return _definition(verb, text, at)
    if verb in {"SELECT", "DELETE"}:
        target = _from_target(text, at)
    else:
        pattern = _TARGETS.get(verb)
        target = _name(pattern.match(text, at)) if pattern else ""
    return f"{verb} {target}" if target else verb


def _definition(verb: str, text: str, at: int) -> str:
    found = _OBJECT.match(text, at)
    if not found:
        return verb
    name = _name(found) if found[2] else ""
    return f"{verb} {found[1].upper()} {name}".rstrip()


def _main_verb(text: str, at: int) -> tuple[str, int]:
    """Return the first verb outside parentheses, and where it ends."""
    depth = 0
    for token in _VERB_TOKEN.finditer(text, at):
        word = token[0]
        if word in "()":
            depth += 1 if word == "(" else -1
        elif depth == 0 and word[0].isalpha():
            return word.upper(), token.end()
    return "WITH", len(text)


def _from_target(text: str, at: int) -> str:
    plain = _PLAIN_FROM.match(text, at)
    return _name(plain) if plain else _searched_target(text, at)


def _searched_target(text: str, at: int) -> str:
    """Return the table of the outermost FROM; a FROM within a function, EXTRACT(YEAR FROM x), names none."""
    in_select = [True]
    nested = ""
    for token in _FROM_TOKEN.finditer(text, at):
        first = token[0][0]
        if first == "(":
            in_select.append(False)
        elif first == ")":
            in_select[1:] = in_select[1:-1]
        elif first in "sS":
            in_select[-1] = True
        elif first in "fF" and in_select[-1]:
            nested = nested or _name(token)
            if len(in_select) == 1:
                return _name(token)
    return nested


def _name(found: re.Match[str] | None) -> str:
    """Return the name that was found last, unquoted; nothing if it is cut off, as half a name misleads."""
    if not found or not found.lastindex or found.string.startswith(_ELLIPSIS, found.end()):
        return ""
    return found[found.lastindex].replace("`", "").replace('"', "")
