"""What numbers in messages are called (IANA, Domain Name System Parameters), and the lines of the log."""

from __future__ import annotations

from masdeepflow.table import ABSENT

__all__ = [
    "NO_ERROR",
    "NO_SUCH_NAME",
    "TYPES",
    "code_name",
    "extended_error",
    "query_line",
    "response_line",
    "type_name",
]

TYPES = {
    1: "A",
    2: "NS",
    5: "CNAME",
    6: "SOA",
    10: "NULL",
    12: "PTR",
    13: "HINFO",
    15: "MX",
    16: "TXT",
    17: "RP",
    18: "AFSDB",
    24: "SIG",
    25: "KEY",
    28: "AAAA",
    29: "LOC",
    33: "SRV",
    35: "NAPTR",
    36: "KX",
    37: "CERT",
    39: "DNAME",
    41: "OPT",
    42: "APL",
    43: "DS",
    44: "SSHFP",
    45: "IPSECKEY",
    46: "RRSIG",
    47: "NSEC",
    48: "DNSKEY",
    49: "DHCID",
    50: "NSEC3",
    51: "NSEC3PARAM",
    52: "TLSA",
    53: "SMIMEA",
    55: "HIP",
    59: "CDS",
    60: "CDNSKEY",
    61: "OPENPGPKEY",
    62: "CSYNC",
    63: "ZONEMD",
    64: "SVCB",
    65: "HTTPS",
    99: "SPF",
    108: "EUI48",
    109: "EUI64",
    249: "TKEY",
    250: "TSIG",
    251: "IXFR",
    252: "AXFR",
    255: "ANY",
    256: "URI",
    257: "CAA",
    32768: "TA",
    32769: "DLV",
}
CODES = {
    0: "NOERROR",
    1: "FORMERR",
    2: "SERVFAIL",
    3: "NXDOMAIN",
    4: "NOTIMP",
    5: "REFUSED",
    6: "YXDOMAIN",
    7: "YXRRSET",
    8: "NXRRSET",
    9: "NOTAUTH",
    10: "NOTZONE",
    16: "BADVERS",
    22: "BADTRUNC",
    23: "BADCOOKIE",
}
NO_ERROR, NO_SUCH_NAME = 0, 3
"""Codes of what is an answer, that a name does not exist included."""
_EXTENDED = (
    "Other Error",
    "Unsupported DNSKEY Algorithm",
    "Unsupported DS Digest Type",
    "Stale Answer",
    "Forged Answer",
    "DNSSEC Indeterminate",
    "DNSSEC Bogus",
    "Signature Expired",
    "Signature Not Yet Valid",
    "DNSKEY Missing",
    "RRSIGs Missing",
    "No Zone Key Bit Set",
    "NSEC Missing",
    "Cached Error",
    "Not Ready",
    "Blocked",
    "Censored",
    "Filtered",
    "Prohibited",
    "Stale NXDOMAIN Answer",
    "Not Authoritative",
    "Not Supported",
    "No Reachable Authority",
    "Network Error",
    "Invalid Data",
    "Signature Expired before Valid",
    "Too Early",
    "Unsupported NSEC3 Iterations Value",
    "Unable to conform to policy",
    "Synthesized",
    "Invalid Query Type",
)
"""Names of codes of RFC 8914, from 0."""
_OPCODES = {0: "Query", 4: "Notify", 5: "Update"}


def type_name(kind: int) -> str:
    """Return what a type of records is called."""
    return TYPES.get(kind, f"TYPE{kind}")


def code_name(code: int) -> str:
    """Return what a response code is called, the upper bits that EDNS gives it included."""
    return CODES.get(code, f"RCODE{code}")


def query_line(opcode: int, kind: int, name: str | None) -> str:
    """Return a query's line. kind: `ABSENT`, and name None, where no question is visible."""
    return f"DNS {_OPCODES.get(opcode, f'Opcode {opcode}')}: {_asked(kind)} {'?' if name is None else name}"


def _asked(kind: int) -> str:
    return "?" if kind == ABSENT else type_name(kind)


def extended_error(extended: int, remark: str) -> str:
    """Return what RFC 8914 calls an error, and its text. extended: one more than the code, 0 for none."""
    if not extended:
        return ""
    code = extended - 1
    name = _EXTENDED[code] if code < len(_EXTENDED) else f"EDE {code}"
    return f"{name}: {remark}" if remark else name


def response_line(
    code: int, answers: int, extended: str = "", *, truncated: bool, unread: bool = False
) -> str:
    """Return a response's line. code: `ABSENT` of one of which no byte was captured."""
    if code == ABSENT:
        return "DNS Response: …"
    text = f"DNS Response: {code_name(code)}"
    if answers or code == NO_ERROR:
        text += f" {answers} answer{'' if answers == 1 else 's'}"
    return text + f" ({extended})" * bool(extended) + ", truncated" * truncated + ", not read" * unread
