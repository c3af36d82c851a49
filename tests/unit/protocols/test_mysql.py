"""The rules of the MySQL parser: captured sessions, connections over several turns, and its reference."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from masdeepflow.columns import row_hash
from masdeepflow.protocols.base import CERTAIN, LIKELY, POSSIBLE
from masdeepflow.protocols.mysql import PROTOCOL, connection
from masdeepflow.schema import ATTRIBUTES, Flag, Kind, Role
from tests.fuzz.fuzz_mysql import FRAGMENTS, GREETING, OK, check, login, packet
from tests.support.slots import MILLISECOND, START, cut, make_slots, turn
from tests.unit.protocols.mysql_reference import check_equal, rows_of

if TYPE_CHECKING:
    from collections.abc import Sequence

Row = dict[str, Any]
Session = list[tuple[bytes, bytes, list[tuple[str | None, str | None]]]]
"""Turns of one connection: request, response, and the two lines of each transaction that ends with it."""

COMMANDS: Session = [
    (
        b"",
        (
            b"h\x00\x00\x00\n5.5.5-10.11.19-MariaDB-0+deb12u1-log\x004\x00\x00\x00!\\-iL~Y#\x00\xfe\xff"
            b"\x08\x02\x00\xff\x81\x15\x00\x00\x00\x00\x00\x00\x1d\x00\x00\x00>NN|I3d}j|OU\x00mysql_native"
            b"_password\x00"
        ),
        [],
    ),
    (
        (
            b"\xc0\x00\x00\x01\x8c\xa2\xbf\x00\x00\x00\x10\x00-\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
            b"\x00\x00\x00\x00\x00\x00\x00\x00\x00\x1d\x00\x00\x00bob\x00\x145\xf4\x9bE!\xc5<\x91\xd0\x01P"
            b"\xc7W]\xe9K\xf2\x98|\xa0shop\x00mysql_native_password\x00k\x03_os\x05Linux\x0c_client_name\n"
            b"libmariadb\x04_pid\x048233\x0f_client_version\x063.3.20\t_platform\x06x86_64\x0c_server_host"
            b"\t127.0.0.1"
        ),
        b"\x10\x00\x00\x02\x00\x00\x00\x02@\x00\x00\x00\x07\x01\x05\x04shop",
        [("MySQL Login: bob@shop", "MySQL Response: OK")],
    ),
    (
        b'"\x00\x00\x00\x16select name from users where id=?',
        (
            b"\x0c\x00\x00\x01\x00\x01\x00\x00\x00\x01\x00\x01\x00\x00\x00\x00\x18\x00\x00\x02\x03def\x00"
            b"\x00\x00\x01?\x00\x00\x0c?\x00\x00\x00\x00\x00\x06\x80\x00\x00\x00\x00\x05\x00\x00\x03\xfe"
            b"\x00\x00\x02\x00-\x00\x00\x04\x03def\x04shop\x05users\x05users\x04name\x04name\x00\x0c-\x00"
            b"\xc8\x00\x00\x00\xfd\x00\x00\x00\x00\x00\x05\x00\x00\x05\xfe\x00\x00\x02\x00"
        ),
        [("MySQL Prepare: select name from users where id=?", "MySQL Response: OK")],
    ),
    (
        b"\x12\x00\x00\x00\x17\x01\x00\x00\x00\x00\x01\x00\x00\x00\x00\x01\x03\x00\x01\x00\x00\x00",
        (
            b"\x02\x00\x00\x01\x01\x00\x05\x00\x00\x02\xfe\x00\x00\x02\x00\x06\x00\x00\x03\x00\x00\x03ann"
            b"\x05\x00\x00\x04\xfe\x00\x00\x02\x00"
        ),
        [("MySQL Execute: select name from users where id=?", "MySQL Response: Result set, 1 column")],
    ),
    (
        b"\x10\x00\x00\x00\x17\x01\x00\x00\x00\x01\x01\x00\x00\x00\x00\x00\x02\x00\x00\x00",
        b"\x02\x00\x00\x01\x01\x00\x05\x00\x00\x02\xfe\x00\x00B\x00",
        [("MySQL Execute: select name from users where id=?", "MySQL Response: Result set, 1 column")],
    ),
    (
        b"\t\x00\x00\x00\x1c\x01\x00\x00\x00\x01\x00\x00\x00",
        b"\x06\x00\x00\x01\x00\x00\x03ben\x05\x00\x00\x02\xfe\x00\x00B\x00",
        [("MySQL Fetch: select name from users where id=?", "MySQL Response: Rows")],
    ),
    (
        b"\t\x00\x00\x00\x1c\x01\x00\x00\x00\x01\x00\x00\x00",
        b"\x05\x00\x00\x01\xfe\x00\x00\x82\x00",
        [("MySQL Fetch: select name from users where id=?", "MySQL Response: EOF")],
    ),
    (
        b'\x05\x00\x00\x00\x19\x01\x00\x00\x00"\x00\x00\x00\x16insert into users(name) values(?)',
        (
            b"\x0c\x00\x00\x01\x00\x02\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x18\x00\x00\x02\x03def\x00"
            b"\x00\x00\x01?\x00\x00\x0c?\x00\x00\x00\x00\x00\x06\x80\x00\x00\x00\x00\x05\x00\x00\x03\xfe"
            b"\x00\x00\x02\x00"
        ),
        [
            ("MySQL Close Statement: 1", None),
            ("MySQL Prepare: insert into users(name) values(?)", "MySQL Response: OK"),
        ],
    ),
    (
        (
            b"\x12\x00\x00\x00\x18\x02\x00\x00\x00\x00\x00long data 1\x0b\x00\x00\x00\x18\x02\x00\x00\x00"
            b"\x00\x00tail\x0e\x00\x00\x00\x17\x02\x00\x00\x00\x00\x01\x00\x00\x00\x01\x01\xfe\x00"
        ),
        b"\x07\x00\x00\x01\x00\x01\x13\x02\x00\x00\x00",
        [
            ("MySQL Send Long Data: statement 2", None),
            ("MySQL Send Long Data: statement 2", None),
            ("MySQL Execute: insert into users(name) values(?)", "MySQL Response: OK"),
        ],
    ),
    (
        b"\x05\x00\x00\x00\x19\x02\x00\x00\x00\x08\x00\x00\x00\x16selec ?",
        (
            b"\xa4\x00\x00\x01\xff(\x04#42000You have an error in your SQL syntax; check the manual that c"
            b"orresponds to your MariaDB server version for the right syntax to use near 'selec ?' at line"
            b" 1"
        ),
        [
            ("MySQL Close Statement: 2", None),
            (
                "MySQL Prepare: selec ?",
                (
                    "MySQL Response: ERR 1064 (42000): You have an error in your SQL syntax; check the man"
                    "ual that corresponds to your MariaDB ser…"
                ),
            ),
        ],
    ),
    (
        b"'\x00\x00\x00\x16insert into users(id,name) values(1,?)",
        (
            b"\x0c\x00\x00\x01\x00\x04\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x18\x00\x00\x02\x03def\x00"
            b"\x00\x00\x01?\x00\x00\x0c?\x00\x00\x00\x00\x00\x06\x80\x00\x00\x00\x00\x05\x00\x00\x03\xfe"
            b"\x00\x00\x02\x00"
        ),
        [("MySQL Prepare: insert into users(id,name) values(1,?)", "MySQL Response: OK")],
    ),
    (
        b"\x12\x00\x00\x00\x17\x04\x00\x00\x00\x00\x01\x00\x00\x00\x00\x01\xfe\x00\x03dup",
        b".\x00\x00\x01\xff&\x04#23000Duplicate entry '1' for key 'PRIMARY'",
        [
            (
                "MySQL Execute: insert into users(id,name) values(1,?)",
                "MySQL Response: ERR 1062 (23000): Duplicate entry '1' for key 'PRIMARY'",
            ),
        ],
    ),
    (
        (
            b"\x05\x00\x00\x00\x19\x04\x00\x00\x00\x0e\x00\x00\x00\x16select 1, 'x'\n\x00\x00\x00\x17\xff"
            b"\xff\xff\xff\x00\x01\x00\x00\x00"
        ),
        (
            b"\x0c\x00\x00\x01\x00\x05\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x18\x00\x00\x02\x03def\x00"
            b"\x00\x00\x011\x00\x00\x0c?\x00\x01\x00\x00\x00\x03\x81\x00\x00\x00\x00\x18\x00\x00\x03\x03de"
            b"f\x00\x00\x00\x01x\x00\x00\x0c-\x00\x04\x00\x00\x00\xfd\x01\x00'\x00\x00\x05\x00\x00\x04\xfe"
            b"\x00\x00\x02\x00\x02\x00\x00\x01\x02\x00\x05\x00\x00\x02\xfe\x00\x00\x02\x00\x08\x00\x00\x03"
            b"\x00\x00\x01\x00\x00\x00\x01x\x05\x00\x00\x04\xfe\x00\x00\x02\x00"
        ),
        [
            ("MySQL Close Statement: 4", None),
            ("MySQL Prepare: select 1, 'x'", "MySQL Response: OK"),
            ("MySQL Execute: select 1, 'x'", "MySQL Response: Result set, 2 columns"),
        ],
    ),
    (
        (
            b"\x05\x00\x00\x00\x19\x05\x00\x00\x00\r\x00\x00\x00\x16selec 1, 'x'\n\x00\x00\x00\x17\xff\xff"
            b"\xff\xff\x00\x01\x00\x00\x00"
        ),
        (
            b"\xa9\x00\x00\x01\xff(\x04#42000You have an error in your SQL syntax; check the manual that c"
            b"orresponds to your MariaDB server version for the right syntax to use near 'selec 1, 'x'' at"
            b" line 1U\x00\x00\x01\xff\xdb\x04#HY000Unknown prepared statement handler (4294967295) given "
            b"to mysqld_stmt_execute"
        ),
        [
            ("MySQL Close Statement: 5", None),
            (
                "MySQL Prepare: selec 1, 'x'",
                (
                    "MySQL Response: ERR 1064 (42000): You have an error in your SQL syntax; check the man"
                    "ual that corresponds to your MariaDB ser…"
                ),
            ),
            ("MySQL Execute: selec 1, 'x'", None),
        ],
    ),
    (
        b"\x05\x00\x00\x00\x19\xff\xff\xff\xff\x08\x00\x00\x00\x04users\x00%",
        (
            b"+\x00\x00\x01\x03def\x04shop\x05users\x05users\x02id\x02id\x00\x0c?\x00\x0b\x00\x00\x00\x03"
            b"\x03B\x00\x00\x00\x010.\x00\x00\x02\x03def\x04shop\x05users\x05users\x04name\x04name\x00\x0c"
            b"-\x00\xc8\x00\x00\x00\xfd\x00\x00\x00\x00\x00\xfb\x05\x00\x00\x03\xfe\x00\x00\x02\x00"
        ),
        [("MySQL Close Statement: last", None), ("MySQL Field List: users", "MySQL Response: Columns")],
    ),
    (
        b"\x01\x00\x00\x00\t",
        (
            b"s\x00\x00\x01Uptime: 3279  Threads: 1  Questions: 200  Slow queries: 0  Opens: 28  Open tabl"
            b"es: 4  Queries per second avg: 0.060"
        ),
        [
            (
                "MySQL Statistics",
                (
                    "MySQL Response: Uptime: 3279  Threads: 1  Questions: 200  Slow queries: 0  Opens: 28 "
                    " Open tables: 4  Queries per se…"
                ),
            ),
        ],
    ),
    (
        b"\x1c\x00\x00\x00\x03use shop; select 1; selec 2",
        (
            b"\x10\x00\x00\x01\x00\x00\x00\n@\x00\x00\x00\x07\x01\x05\x04shop\x02\x00\x00\x02\x01\x01\x18"
            b"\x00\x00\x03\x03def\x00\x00\x00\x011\x00\x00\x0c?\x00\x01\x00\x00\x00\x03\x81\x00\x00\x00"
            b"\x00\x05\x00\x00\x04\xfe\x00\x00\n\x00\x02\x00\x00\x05\x011\x05\x00\x00\x06\xfe\x00\x00\n"
            b"\x00\xa4\x00\x00\x07\xff(\x04#42000You have an error in your SQL syntax; check the manual th"
            b"at corresponds to your MariaDB server version for the right syntax to use near 'selec 2' at "
            b"line 1"
        ),
        [("MySQL Query: use shop; select 1; selec 2", "MySQL Response: ERR 1064 (42000): You have an e…")],
    ),
    (
        (
            b"Q\x00\x00\x00\x03load data local infile '/tmp/rows.csv' into table users fields terminated b"
            b"y ','"
        ),
        b"\x0e\x00\x00\x01\xfb/tmp/rows.csv",
        [],
    ),
    (
        b"\x0e\x00\x00\x0227,zed\n28,yan\n\x00\x00\x00\x03",
        (
            b"\x19\x00\x00\x04\xff\xff\xff\x01\x02\x02\x00\x00\x00\x0fEnd bulk insert7\x00\x00\x05\x00\x02"
            b"\x00\x02\x00\x00\x00/Records: 2  Deleted: 0  Skipped: 0  Warnings: 0"
        ),
        [
            (
                (
                    "MySQL Query: load data local infile '/tmp/rows.csv' into table users fields terminate"
                    "d by ','"
                ),
                "MySQL Response: OK",
            ),
        ],
    ),
    (
        b")\x00\x00\x00\x03select (select id from users) from users",
        (
            b"\x02\x00\x00\x01\x01\x01-\x00\x00\x02\x03def\x00\x00\x00\x16(select id from users)\x00\x00"
            b'\x0c?\x00\x0b\x00\x00\x00\x03\x80\x00\x00\x00\x00\x05\x00\x00\x03\xfe\x00\x00"\x00)\x00\x00'
            b"\x04\xff\xda\x04#21000Subquery returns more than 1 row"
        ),
        [
            (
                "MySQL Query: select (select id from users) from users",
                "MySQL Response: ERR 1242 (21000): Subquery returns more than …",
            ),
        ],
    ),
    (
        b"\x01\x00\x00\x00\x1f",
        b"\x07\x00\x00\x01\x00\x00\x00\x02\x00\x00\x00",
        [("MySQL Reset Connection", "MySQL Response: OK")],
    ),
    (
        (
            b"\x9f\x00\x00\x00\x11bob\x00\x145\xf4\x9bE!\xc5<\x91\xd0\x01P\xc7W]\xe9K\xf2\x98|\xa0\x00-"
            b"\x00mysql_native_password\x00k\x03_os\x05Linux\x0c_client_name\nlibmariadb\x04_pid\x048233"
            b"\x0f_client_version\x063.3.20\t_platform\x06x86_64\x0c_server_host\t127.0.0.1"
        ),
        b",\x00\x00\x01\xfemysql_native_password\x00!\\-iL~Y#>NN|I3d}j|OU\x00",
        [],
    ),
    (
        b"\x14\x00\x00\x025\xf4\x9bE!\xc5<\x91\xd0\x01P\xc7W]\xe9K\xf2\x98|\xa0",
        b"\x07\x00\x00\x03\x00\x00\x00\x02\x00\x00\x00",
        [("MySQL Change User: bob", "MySQL Response: OK")],
    ),
    (
        b"\x01\x00\x00\x00\x01",
        b"",
        [("MySQL Quit", None)],
    ),
]
"""libmariadb 3.3 to MariaDB 10.11: the calls of its API, but for a few simple ones."""

PLAIN: Session = [
    (
        b"",
        (
            b"h\x00\x00\x00\n5.5.5-10.11.19-MariaDB-0+deb12u1-log\x00\x12\x00\x00\x00LWPjGd@R\x00\xfe\xff"
            b"\x08\x02\x00\xff\x81\x15\x00\x00\x00\x00\x00\x00\x1d\x00\x00\x00ZNYSsj9{#:8L\x00mysql_native"
            b"_password\x00"
        ),
        [],
    ),
    (
        (
            b"\x8a\x00\x00\x01\x8d\xa2;\x00\xff\xff\xff\x00-\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
            b"\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00bob\x00\x14u\x05\xb3\xad\x0b\xc92\x9c\xa5d"
            b"\xe8\x0bf\xdd\xd6\xe9\xef-\x17\xe1shop\x00mysql_native_password\x005\x0c_client_name\x07pymy"
            b"sql\x0f_client_version\x051.2.4\x04_pid\x044920"
        ),
        b"\x07\x00\x00\x02\x00\x00\x00\x02\x00\x00\x00",
        [("MySQL Login: bob@shop", "MySQL Response: OK")],
    ),
    (
        b"\x1c\x00\x00\x00\x03select * from users limit 2",
        (
            b"\x01\x00\x00\x01\x02(\x00\x00\x02\x03def\x04shop\x05users\x05users\x02id\x02id\x0c?\x00\x0b"
            b"\x00\x00\x00\x03\x03B\x00\x00\x00,\x00\x00\x03\x03def\x04shop\x05users\x05users\x04name\x04n"
            b"ame\x0c-\x00\xc8\x00\x00\x00\xfd\x00\x00\x00\x00\x00\x05\x00\x00\x04\xfe\x00\x00!\x00\x06"
            b"\x00\x00\x05\x011\x03ann\x06\x00\x00\x06\x012\x03ben\x05\x00\x00\x07\xfe\x00\x00!\x00"
        ),
        [("MySQL Query: select * from users limit 2", "MySQL Response: Result set, 2 columns")],
    ),
    (
        b"$\x00\x00\x00\x03insert into users(name) values('x')",
        b"\x07\x00\x00\x01\x00\x01\r\x01\x00\x00\x00",
        [("MySQL Query: insert into users(name) values('x')", "MySQL Response: OK")],
    ),
    (
        b"9\x00\x00\x00\x03update users set name='y' where id=3; select 1; select 2",
        (
            b"0\x00\x00\x01\x00\x00\x00\t\x00\x00\x00(Rows matched: 0  Changed: 0  Warnings: 0\x01\x00\x00"
            b"\x02\x01\x17\x00\x00\x03\x03def\x00\x00\x00\x011\x00\x0c?\x00\x01\x00\x00\x00\x03\x81\x00"
            b"\x00\x00\x00\x05\x00\x00\x04\xfe\x00\x00\t\x00\x02\x00\x00\x05\x011\x05\x00\x00\x06\xfe\x00"
            b"\x00\t\x00\x01\x00\x00\x07\x01\x17\x00\x00\x08\x03def\x00\x00\x00\x012\x00\x0c?\x00\x01\x00"
            b"\x00\x00\x03\x81\x00\x00\x00\x00\x05\x00\x00\t\xfe\x00\x00\x01\x00\x02\x00\x00\n\x012\x05"
            b"\x00\x00\x0b\xfe\x00\x00\x01\x00"
        ),
        [("MySQL Query: update users set name='y' where id=3; select 1; select 2", "MySQL Response: OK")],
    ),
    (
        b"\x01\x00\x00\x00\x01",
        b"",
        [("MySQL Quit", None)],
    ),
]
"""PyMySQL 1.2: result sets without MariaDB's extensions."""

OTHER_METHOD: Session = [
    (
        b"",
        (
            b"h\x00\x00\x00\n5.5.5-10.11.19-MariaDB-0+deb12u1-log\x00\x16\x00\x00\x00X)c7'[wg\x00\xfe\xff"
            b"\x08\x02\x00\xff\x81\x15\x00\x00\x00\x00\x00\x00\x1d\x00\x00\x00{X&RJ\\o:sT-~\x00mysql_nativ"
            b"e_password\x00"
        ),
        [],
    ),
    (
        (
            b"\xce\x00\x00\x01\x84\xa2\xbf\x00\x00\x00\x10\x00!\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
            b"\x00\x00\x00\x00\x00\x00\x00\x00\x00\x1d\x00\x00\x00eve\x00\x14\x9e|\xf7\x07/\x13i`\xc2\n0"
            b"\x80<0h:\x08<\x90\xc4mysql_native_password\x00~\x03_os\x05Linux\x0c_client_name\nlibmariadb"
            b"\x04_pid\x044932\x0f_client_version\x063.3.20\t_platform\x06x86_64\x0cprogram_name\x05mysql"
            b"\x0c_server_host\t127.0.0.1"
        ),
        (
            b"0\x00\x00\x02\xfeclient_ed25519\x00\x91x\x02,\x08\x8e)\xb0\xf7\t\x8a\x80\xc8\x1a\xd1W\xf8"
            b"\xfe\xad\x82uu\xb3\xaa\x11\x8b\x13z\xbb\x92\x8b\x18"
        ),
        [],
    ),
    (
        (
            b"@\x00\x00\x03\x93\x01B\x06\xb32XCT\x94\x1c$\xa0\x92\x1e\x0c/EV\xa3}\xc4s\x19\xe6V 2\x8e\xbe"
            b"\xea\x06\x96\x08: \n\xf9\x8b\xb7\xb6\x84lm\xb5\xd8&U2\xb5\xb7\xa4k=\xfd\x02067o\x8d\x912\x00"
        ),
        b"\x07\x00\x00\x04\x00\x00\x00\x02\x00\x00\x00",
        [("MySQL Login: eve", "MySQL Response: OK")],
    ),
    (
        b"\t\x00\x00\x00\x03select 1",
        (
            b"\x02\x00\x00\x01\x01\x01\x18\x00\x00\x02\x03def\x00\x00\x00\x011\x00\x00\x0c?\x00\x01\x00"
            b"\x00\x00\x03\x81\x00\x00\x00\x00\x05\x00\x00\x03\xfe\x00\x00\x02\x00\x02\x00\x00\x04\x011"
            b"\x05\x00\x00\x05\xfe\x00\x00\x02\x00"
        ),
        [("MySQL Query: select 1", "MySQL Response: Result set, 1 column")],
    ),
    (
        b"\x01\x00\x00\x00\x01",
        b"",
        [("MySQL Quit", None)],
    ),
]
"""A user of ed25519: the server switches the method."""

WRONG_PASSWORD: Session = [
    (
        b"",
        (
            b"h\x00\x00\x00\n5.5.5-10.11.19-MariaDB-0+deb12u1-log\x00\x15\x00\x00\x000]d])SE@\x00\xfe\xff"
            b"\x08\x02\x00\xff\x81\x15\x00\x00\x00\x00\x00\x00\x1d\x00\x00\x00OMv+prmKomT@\x00mysql_native"
            b"_password\x00"
        ),
        [],
    ),
    (
        (
            b"\xce\x00\x00\x01\x84\xa2\xbf\x00\x00\x00\x10\x00!\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
            b"\x00\x00\x00\x00\x00\x00\x00\x00\x00\x1d\x00\x00\x00bob\x00\x14\xf29\xa4\xa5M35\x07EvTp3\x89"
            b"m\x87\xed\x9fBUmysql_native_password\x00~\x03_os\x05Linux\x0c_client_name\nlibmariadb\x04_pi"
            b"d\x044930\x0f_client_version\x063.3.20\t_platform\x06x86_64\x0cprogram_name\x05mysql\x0c_ser"
            b"ver_host\t127.0.0.1"
        ),
        b"G\x00\x00\x02\xff\x15\x04#28000Access denied for user 'bob'@'localhost' (using password: YES)",
        [
            (
                "MySQL Login: bob",
                (
                    "MySQL Response: ERR 1045 (28000): Access denied for user 'bob'@'localhost' (using pas"
                    "sword: YES)"
                ),
            ),
        ],
    ),
]
"""The server ends the connection."""

FULL: Session = [
    (
        b"",
        b"\x17\x00\x00\x00\xff\x10\x04Too many connections",
        [(None, "MySQL Response: ERR 1040: Too many connections")],
    ),
]
"""A server that has no connection left."""

COMPRESSED: Session = [
    (
        b"",
        (
            b"h\x00\x00\x00\n5.5.5-10.11.19-MariaDB-0+deb12u1-log\x00\x13\x00\x00\x004@'@L<(R\x00\xfe\xff"
            b"\x08\x02\x00\xff\x81\x15\x00\x00\x00\x00\x00\x00\x1d\x00\x00\x00FGr)p}Cs:gxF\x00mysql_native"
            b"_password\x00"
        ),
        [],
    ),
    (
        (
            b"\xce\x00\x00\x01\xa4\xa2\xbf\x00\x00\x00\x10\x00!\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
            b"\x00\x00\x00\x00\x00\x00\x00\x00\x00\x1d\x00\x00\x00bob\x00\x14\xb2\x0c\xec\xc6d\xb2L\xea"
            b"\xbd\x026\x93\xab\xdc\xf2\xcc\xaf\xf9]Kmysql_native_password\x00~\x03_os\x05Linux\x0c_client"
            b"_name\nlibmariadb\x04_pid\x044926\x0f_client_version\x063.3.20\t_platform\x06x86_64\x0cprogr"
            b"am_name\x05mysql\x0c_server_host\t127.0.0.1"
        ),
        b"\x07\x00\x00\x02\x00\x00\x00\x02\x00\x00\x00",
        [("MySQL Login: bob", "MySQL Response: OK")],
    ),
    (
        b"\r\x00\x00\x00\x00\x00\x00\t\x00\x00\x00\x03select 1",
        (
            b"6\x00\x00\x01:\x00\x00x\x9ccb``dd\x94```bNIMc\x00\xf2\x0c\x19\x18x\xec\x19\x18\x81L\xe6F "
            b"\xc1\xc0\nd\xfc\x03\xca\x03!\x03\x0b\xa3!\x90\xcb\n\xe6\x02\x00{M\x04\x9e"
        ),
        [],
    ),
    (
        b"\x05\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x01",
        b"",
        [],
    ),
]
"""`mariadb --compress`: opaque once the login is over."""

ENCRYPTED: Session = [
    (
        b"",
        (
            b"h\x00\x00\x00\n5.5.5-10.11.19-MariaDB-0+deb12u1-log\x00\x08\x00\x00\x00Aga1o[[7\x00\xfe\xff"
            b"\x08\x02\x00\xff\x81\x15\x00\x00\x00\x00\x00\x00\x1d\x00\x00\x00@|rFGnv(_*N-\x00mysql_native"
            b"_password\x00"
        ),
        [],
    ),
    (
        (
            b" \x00\x00\x01\x8d\xaa;\x00\xff\xff\xff\x00-\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
            b"\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03^"
            b"\x95\x19\x14M\xb3.\xba\xe2\xea\xb8\xf8\xe7\xc1T!\x1d[\x1cr\xd7t\xc2w~\x99\xce\x17.S\x7f\xa1 "
            b">\x15\x14S\xfdy\xf2\xf4K\xd5\x13\xcap\n7W\xd0P-\xea"
        ),
        (
            b"\x16\x03\x03\x00z\x02\x00\x00v\x03\x03\x15\xa8\x8e\xa0\x8bUJD\xba\xc24\x90[\x96\x06\x19\xb4'"
            b".2\x96os\xbb\xfa\xdf\xd6f\x7f\xfc$t >\x15\x14S\xfdy\xf2\xf4K\xd5\x13\xcap\n7W\xd0P-\xea\x13"
            b"\x97\xe7\xbb\xba\xb9\x84\xcea\xd2\x06\xb9\x13\x02\x00\x00.\x00+\x00\x02\x03\x04\x003\x00$"
            b"\x00\x1d\x00 em\xc7\xf2\x1f"
        ),
        [],
    ),
    (
        (
            b"\x14\x03\x03\x00\x01\x01\x17\x03\x03\x00\x19d\xfcy\xbe\xa9az\xd8\x9a\xa08[\xa9h\xf5\xf8\x87"
            b"\xead\xc1\x8d\xa3mH\xab\x17\x03\x03\x00E(\xd0\xcc\xe3]\x9d\xd3\xef7\x8d\x08+&\xf9p_\x17\xbe9"
            b"\xbd522\x1a\xf6\xf1\x1a\x0b\xcf\x065}\xdaZ\t5\x18vs"
        ),
        (
            b"\x17\x03\x03\x00\xfa\x8eb\\n8M\xc50\xbb2\xe8\xbfn\xb3\xc6E\x0f\xda\x85\x1cc\xf7\x84\x95=W"
            b"\x07F\t\xb9\xb4JC\xe2\xd8\xa9t\x81\xde\xf7\xd3\xbf\x0eV\xb1\x83`\xf7_Z\x98\xa4\xec(+24DM\xeb"
            b"\xebs\x8f\xf2h9\x9a\xa7\xa5\x13\xdf\xean\xfe\xe3"
        ),
        [],
    ),
]
"""PyMySQL with TLS: opaque from the client's first packet on."""

ROOM = make_slots(turn())["request"].shape[1]
RESPONSE_ROOM = make_slots(turn())["response"].shape[1]
ERROR = packet(b"\xff\x28\4#42000You have an error", 1)
EOF = packet(b"\xfe\0\0\2\0", 1)
ROWS = (
    packet(b"\2", 1)
    + packet(b"\3def\0\0\0\x011\0\x0c\x3f\0\1\0\0\0\3\x81\0\0\0\0", 2)
    + packet(b"\3def\0\0\0\x012\0\x0c\x3f\0\1\0\0\0\3\x81\0\0\0\0", 3)
    + packet(b"\xfe\0\0\2\0", 4)
    + packet(b"\x011\x012", 5)
    + packet(b"\xfe\0\0\2\0", 6)
)
SWITCH = packet(b"\xfecaching_sha2_password\0" + b"s" * 20 + b"\0", 2)
QUIT = packet(b"\1")
PING = packet(b"\x0e")
WAIT = {"kind": Kind.OPEN}
CLOSED = {"flags": Flag.CLOSED}


LONG_DATA = packet(b"\x18\1\0\0\0\0\0" + b"x" * 30)


def query(sql: str | bytes, sequence: int = 0) -> bytes:
    """Return a COM_QUERY."""
    return packet(b"\3" + (sql.encode() if isinstance(sql, str) else sql), sequence)


def prepare(sql: str) -> bytes:
    """Return a COM_STMT_PREPARE."""
    return packet(b"\x16" + sql.encode())


def prepared(statement: int) -> bytes:
    """Return the reply to a prepare of a statement without parameters and columns."""
    return packet(b"\0" + statement.to_bytes(4, "little") + bytes(7), 1)


def execute(statement: int, command: int = 0x17) -> bytes:
    """Return a COM_STMT_EXECUTE, or another command on a statement."""
    return packet(bytes([command]) + statement.to_bytes(4, "little") + b"\0\1\0\0\0")


def close(statement: int) -> bytes:
    """Return a COM_STMT_CLOSE."""
    return packet(b"\x19" + statement.to_bytes(4, "little"))


def parse(*turns: dict[str, object], parser: PROTOCOL | None = None) -> list[Row]:
    """Parse turns as one batch; return each transaction's columns by name, absent ones left out."""
    slots = make_slots(*turns)
    parsed = (parser or PROTOCOL()).parse(slots)
    names = ["row", "request", "response", "error", "truncated", *parsed.attributes, "request_first_ns"]
    names += ["queue_ns", "request_bytes", "response_bytes", "response_first_ns", "response_last_ns"]
    rows = [dict(zip(names, row, strict=True)) for row in rows_of(slots, parsed)]
    return [{name: value for name, value in row.items() if value is not None} for row in rows]


def one(request: bytes, response: bytes, **fields: object) -> Row:
    """Parse one turn that must give one transaction."""
    (row,) = parse(turn(request, response, **fields))
    return row


def lines(rows: Sequence[Row]) -> list[tuple[str | None, str | None]]:
    """Return the two lines of each transaction, without what they all start with."""
    return [
        (
            row.get("request", "").removeprefix("MySQL ") or None,
            row.get("response", "").removeprefix("MySQL Response: ") or None,
        )
        for row in rows
    ]


def score(request: bytes, response: bytes = b"", **fields: object) -> int:
    """Return the score of one turn."""
    (result,) = PROTOCOL().recognise(make_slots(turn(request, response, **fields))).tolist()
    return int(result)


def session_turns(session: Session) -> list[dict[str, object]]:
    """Return the turns of a session, the last one ended by its close."""
    turns = [turn(request, response) for request, response, _ in session]
    turns[-1] |= CLOSED
    return turns


SESSIONS = {
    "commands": COMMANDS,
    "plain": PLAIN,
    "other-method": OTHER_METHOD,
    "wrong-password": WRONG_PASSWORD,
    "full": FULL,
    "compressed": COMPRESSED,
    "encrypted": ENCRYPTED,
}
sessions = pytest.mark.parametrize("session", SESSIONS.values(), ids=SESSIONS)


@sessions
def test_captured_session(session: Session) -> None:
    """A session of a real client with a real server shows its commands with their replies."""
    shown: list[list[tuple[str | None, str | None]]] = [[] for _ in session]
    for row in parse(*session_turns(session)):
        shown[row["row"]].append((row.get("request"), row.get("response")))
    assert shown == [expected for _, _, expected in session]


@sessions
def test_a_session_reads_the_same_in_any_batches(session: Session) -> None:
    """Batches of one turn, of all turns, and the reference give the same."""
    slots = make_slots(*session_turns(session))
    check_equal([slots])
    check_equal([slots[row : row + 1] for row in range(len(slots))])
    whole, parser = PROTOCOL().parse(slots), PROTOCOL()
    parts = [parser.parse(slots[row : row + 1]) for row in range(len(slots))]
    assert [text for part in parts for text in part.request_text.to_list()] == whole.request_text.to_list()


@sessions
def test_a_session_is_recognised_by_its_first_turn(session: Session) -> None:
    """The server's greeting, or what it sends in its place, is no other protocol's."""
    request, response, _ = session[0]
    assert score(request, response) == CERTAIN


def test_attributes_follow_the_conventions() -> None:
    """Each attribute is one of the schema's, in its order, and has distinct values."""
    parsed = PROTOCOL().parse(
        make_slots(turn(query("SELECT a FROM t"), ROWS), turn(query("SELECT 1"), ERROR))
    )
    names = list(parsed.attributes)
    assert names == [name for name in ATTRIBUTES if name in names]
    assert parsed.attributes["db.operation.name"].to_list() == ["SELECT", "SELECT"]  # type: ignore[union-attr]
    assert parsed.attributes["db.operation.name"].values == ["SELECT"]  # type: ignore[union-attr]


def test_a_query_and_its_result() -> None:
    """A statement gives text, operation and summary; a result set its number of columns."""
    row = one(query("SELECT name FROM users WHERE id = 7"), ROWS)
    assert row["request"] == "MySQL Query: SELECT name FROM users WHERE id = 7"
    assert row["response"] == "MySQL Response: Result set, 2 columns"
    assert row["db.query.text"] == "SELECT name FROM users WHERE id = 7"
    assert row["db.query.summary"] == "SELECT users"
    assert (row["db.operation.name"], row["db.system.name"]) == ("SELECT", "mysql")
    assert not row["error"]
    assert not row["truncated"]


def test_an_error() -> None:
    """An ERR packet gives code, SQLSTATE and message."""
    row = one(query("SELEC 1"), ERROR)
    assert row["response"] == "MySQL Response: ERR 1064 (42000): You have an error"
    assert row["error"]
    assert (row["db.response.status_code"], row["db.response.message"]) == ("1064", "You have an error")
    assert row["db.operation.name"] == "QUERY"
    assert "db.query.summary" not in row


def test_an_error_in_place_of_the_greeting() -> None:
    """A server that refuses a connection sends no SQLSTATE, and there is no request."""
    (row,) = parse(turn(b"", packet(b"\xff\x10\4Too many connections")))
    assert lines([row]) == [(None, "ERR 1040: Too many connections")]
    assert row["error"]
    assert (row["request_first_ns"], row["response_first_ns"]) == (0, START + MILLISECOND)


def test_an_error_behind_the_columns() -> None:
    """An error that a query runs into after its first row is its reply."""
    error = packet(b"\xff\xda\4#21000Subquery", 3)
    response = packet(b"\1\1", 1) + packet(b"\3def\0", 2) + error
    assert lines([one(query("SELECT (SELECT 1)"), response)])[0][1] == "ERR 1242 (21000): Subquery"
    rows = packet(b"\1", 1) + packet(b"\3def\0", 2) + EOF[:3] + b"\3" + EOF[4:] + packet(b"\1a", 4)
    assert lines([one(query("SELECT 1"), rows + packet(error[4:], 5))])[0][1] == "ERR 1242 (21000): Subquery"


def test_a_late_notice_is_not_the_reply() -> None:
    """What a server says when it ends an idle connection starts a sequence of its own."""
    notice = packet(b"\xff\xbf\x0f#HY000The client was disconnected", 0)
    assert lines([one(query("SELECT 1"), ROWS + notice)])[0][1] == "Result set, 2 columns"
    assert lines([one(query("SET a = 1"), OK + notice)])[0][1] == "OK"


@pytest.mark.parametrize(
    ("count", "columns"),
    [
        (b"\1", "1 column"),
        (b"\x0c", "12 columns"),
        (b"\xfc\x2c\1", "300 columns"),
        (b"\3\1", "3 columns"),
        (b"\3\0", "3 columns"),
        (b"\xfc\x2c\1\1", "300 columns"),
        (b"\1\3", "3 columns"),
        (b"\0\3", "3 columns"),
        (b"\1\1", "1 column"),
        (b"\0\1", "1 column"),
    ],
)
def test_column_counts(count: bytes, columns: str) -> None:
    """The flag for cached definitions stands behind the count with MariaDB, in front of it with MySQL."""
    response = packet(count, 1) + packet(b"\3def\0", 2)
    assert lines([one(query("SELECT 1"), response)])[0][1] == f"Result set, {columns}"


def test_several_results() -> None:
    """Of several results the first is shown, unless one is an error."""
    ok, more = packet(b"\0\1\0\2\0\0\0", 2), packet(b"\0\1\0\x0a\0\0\0", 1)
    error = packet(b"\xff\x28\4#42000Near", 2)
    assert lines([one(query("SET a=1; SET b=1"), more + ok)])[0][1] == "OK"
    assert lines([one(query("SET a=1; SEL"), more + error)])[0][1] == "ERR 1064 (42000): Near"
    assert lines([one(query("SET a=1; SEL"), OK + error)])[0][1] == "OK"


def test_progress_is_no_reply() -> None:
    """MariaDB's reports on progress come before the reply, and look like errors."""
    progress = packet(b"\xff\xff\xff\1\2\2\0\0\0\x05stage", 1)
    done = packet(b"\0\0\0\2\0\0\0", 2)
    assert lines([one(query("ALTER TABLE t FORCE"), progress + done)])[0][1] == "OK"
    row = one(query("ALTER TABLE t FORCE"), progress * 20)
    assert ("response" not in row, row["error"], row["truncated"]) == (True, False, True)


@pytest.mark.parametrize(
    ("body", "request_line", "operation"),
    [
        (b"\2shop", "Init DB: shop", "INIT_DB"),
        (b"\4users\0%", "Field List: users", "FIELD_LIST"),
        (b"\5new", "Create DB: new", "CREATE_DB"),
        (b"\6old", "Drop DB: old", "DROP_DB"),
        (b"\7\4", "Refresh", "REFRESH"),
        (b"\x08", "Shutdown", "SHUTDOWN"),
        (b"\x0c\7\0\0\0", "Process Kill: 7", "PROCESS_KILL"),
        (b"\x0d", "Debug", "DEBUG"),
        (b"\x0e", "Ping", "PING"),
        (b"\x15\1\0\0\0", "Register Replica", "REGISTER_SLAVE"),
        (b"\x1a\3\0\0\0", "Reset Statement: 3", "STMT_RESET"),
        (b"\x1b\0\0", "Set Option: multi statements on", "SET_OPTION"),
        (b"\x1f", "Reset Connection", "RESET_CONNECTION"),
    ],
)
def test_other_commands(body: bytes, request_line: str, operation: str) -> None:
    """Commands without a statement are shown by name, with what they are about."""
    row = one(packet(body), OK)
    assert lines([row])[0][0] == request_line
    assert row["db.operation.name"] == operation
    assert "db.query.text" not in row


def test_a_command_that_nobody_knows_is_no_transaction() -> None:
    """Bytes that are framed like a command but name none are not guessed at."""
    assert not parse(turn(packet(b"\x55abc"), OK))
    assert not parse(turn(b"\0\0\0\0", OK))
    assert not parse(turn(b"\x16\3\1\2\0\1\0", b"\x16\3\3"))


def test_an_eof_packet() -> None:
    """Old servers and old commands answer with EOF."""
    assert lines([one(packet(b"\x1b\1\0"), EOF)]) == [("Set Option: multi statements off", "EOF")]


def test_statistics_are_text() -> None:
    """COM_STATISTICS is answered with a string."""
    response = packet(b"Uptime: 5", 1)
    assert lines([one(packet(b"\x09"), response)]) == [("Statistics", "Uptime: 5")]


def test_a_replica_gets_events() -> None:
    """COM_BINLOG_DUMP shows where it starts; its answer has no end."""
    request = packet(b"\x12\4\0\0\0\0\0\1\0\0\0binlog.1")
    assert lines([one(request, packet(b"\0" + bytes(30), 1))]) == [("Binlog Dump: binlog.1:4", "Events")]


# Text


def test_a_cut_statement_is_marked() -> None:
    """A statement longer than the prefix ends with an ellipsis, and the row says so."""
    row = one(query("SELECT '" + "x" * 1000 + "'"), OK)
    assert row["db.query.text"] == "SELECT '" + "x" * (ROOM - 5 - 8) + "…"
    assert row["request"].endswith("x…")
    assert row["truncated"]


def test_a_cut_character_is_dropped() -> None:
    """The bytes of a character that the payload limit cuts in two are not shown."""
    for pad in range(4):
        text = one(query("x" * pad + "€" * 200), OK)["db.query.text"]
        assert set(text[pad:-1]) == {"€"}
        assert text[-1] == "…"


def test_text_is_kept_as_sent() -> None:
    """Control characters stay, for sinks to escape; bytes that are no UTF-8 become visible."""
    assert one(query(b"SELECT\n'\t\x00\x1b' -- \xff"), OK)["db.query.text"] == "SELECT\n'\t\x00\x1b' -- \\xff"


def test_a_cut_error_is_marked() -> None:
    """A message longer than the prefix ends with an ellipsis."""
    row = one(query("SELECT 1"), packet(b"\xff\x28\4#42000" + b"m" * 300, 1))
    assert row["db.response.message"] == "m" * (RESPONSE_ROOM - 13) + "…"
    assert row["truncated"]


def test_a_statement_of_16_mib() -> None:
    """A packet of the greatest length is continued by the next: all of it is one command."""
    request = b"\xff\xff\xff\0\3INSERT INTO t VALUES ('" + b"x" * 400
    row = one(request, OK, request_bytes=20_000_000)
    assert (row["db.query.summary"], row["request_bytes"], row["truncated"]) == ("INSERT t", 20_000_000, True)
    assert row["response"] == "MySQL Response: OK"


def test_query_attributes_are_skipped() -> None:
    """MySQL 8 puts attributes in front of the statement: often none, sometimes a trace's id."""
    assert one(query(b"\0\1SELECT 1"), OK)["db.query.text"] == "SELECT 1"
    named = b"\2\1\2\1\xfe\0\x0btraceparent\3\0\1n\x0500-ab"
    assert one(query(named + b"SELECT 2"), OK)["db.query.text"] == "SELECT 2"
    numbers = b"\3\1\0\1\x08\0\0\3\0\0\xfd\0\0" + bytes(8) + bytes(4) + b"\xfc\2\0ab"
    assert one(query(numbers + b"SELECT 3"), OK)["db.query.text"] == "SELECT 3"
    assert one(query(named[:8] + bytes(400)), OK)["truncated"]


def test_payloads_of_any_size() -> None:
    """Builds with other payload prefixes are read the same, as far as they show."""
    slots = make_slots(*session_turns(COMMANDS))
    for sizes in ((8, 8), (16, 8), (64, 32), (128, 96)):
        check_equal([cut(slots, *sizes)])


# Logins


def follow_login(*turns: tuple[bytes, bytes], **last: object) -> list[Row]:
    """Parse a login behind a greeting, and a query behind it."""
    asked = [turn(*sides) for sides in turns]
    asked[-1] |= last
    return parse(turn(b"", GREETING), *asked, turn(query("SELECT 1"), OK))


def test_a_login_of_several_turns_is_one_transaction() -> None:
    """It ends with OK or ERR, starts with its first turn, and has the bytes of all."""
    more = packet(b"\1\4", 4), packet(b"\2", 5), packet(b"\1-----BEGIN", 6), packet(b"rsa", 7)
    turns = [
        (login(), SWITCH),
        (packet(b"scramble", 3), more[0]),
        (more[1], more[2]),
        (more[3], packet(OK[4:], 8)),
    ]
    row, then = follow_login(*turns)
    assert lines([row]) == [("Login: root@db", "OK")]
    assert row["row"] == 4
    assert row["request_first_ns"] == START + 10 * MILLISECOND
    assert row["request_bytes"] == sum(len(request) for request, _ in turns)
    assert row["response_bytes"] == sum(len(response) for _, response in turns)
    assert (row["db.namespace"], then["db.namespace"]) == ("db", "db")
    assert (row["db.system.name"], row["db.operation.name"]) == ("mariadb", "LOGIN")


def test_a_fast_login() -> None:
    """The method's last word and the server's OK may come together."""
    rows = follow_login((login(), SWITCH), (packet(b"scramble", 3), packet(b"\1\3", 4) + packet(OK[4:], 5)))
    assert lines(rows) == [("Login: root@db", "OK"), ("Query: SELECT 1", "OK")]


def test_a_refused_login() -> None:
    """An ERR ends a login, and names the database that was asked for."""
    row = follow_login((login(), packet(b"\xff\x15\4#28000Access denied", 2)))[0]
    assert lines([row]) == [("Login: root@db", "ERR 1045 (28000): Access denied")]
    assert (row["error"], row["db.namespace"], row["db.response.status_code"]) == (True, "db", "1045")


def test_a_login_without_a_database() -> None:
    """Only the user is shown."""
    row = follow_login((login(0x3BA285, b"root\0\0mysql_native_password\0"), packet(OK[4:], 2)))[0]
    assert lines([row]) == [("Login: root", "OK")]
    assert "db.namespace" not in row


@pytest.mark.parametrize(
    ("capabilities", "user"),
    [
        (0x8208, b"bob\0\4authshop\0"),
        (0x0208, b"bob\0auth\0shop\0"),
        (0x208208, b"bob\0\xfc\4\0authshop\0"),
    ],
)
def test_login_forms(capabilities: int, user: bytes) -> None:
    """The length of the authentication data has a form by the client's capabilities."""
    assert lines(follow_login((login(capabilities, user), packet(OK[4:], 2))))[0] == ("Login: bob@shop", "OK")


def test_a_login_of_before_4_1() -> None:
    """The oldest clients send short fields."""
    request = packet(b"\x8d\x24\0\0\0bob\0scramble\0shop", 1)
    assert lines(follow_login((request, packet(OK[4:], 2))))[0] == ("Login: bob@shop", "OK")


def test_a_cut_login_is_marked() -> None:
    """Names beyond the prefix are not made up."""
    request = login(0x208208, b"bob\0\xfc\x2c\1" + b"a" * 300 + b"shop\0")
    row = follow_login((request, packet(OK[4:], 2)))[0]
    assert (row["request"], row["truncated"]) == ("MySQL Login: bob…", True)


def test_a_login_that_is_given_up() -> None:
    """A connection that closes before the login ended is an error."""
    rows = follow_login((login(), SWITCH), **CLOSED)
    assert rows[0]["error"]
    assert lines(rows)[0] == ("Login: root@db", None)
    assert rows[0]["response_first_ns"] == 0


def test_a_command_ends_a_login_whose_end_was_lost() -> None:
    """A command proves that the login was let in; there is no transaction without its turn."""
    rows = follow_login((login(), SWITCH))
    assert lines(rows) == [("Query: SELECT 1", "OK")]
    assert rows[0]["db.namespace"] == "db"


def test_a_login_may_end_late() -> None:
    """Response bytes that come in a slot of their own are no transaction, but may end a login."""
    late = turn(b"", packet(OK[4:], 2), flags=Flag.CONTINUED)
    rows = parse(turn(b"", GREETING), turn(login(), b""), late, turn(packet(b"x", 3), OK), turn(PING, OK))
    assert lines(rows) == [("Ping", "OK")]
    assert rows[0]["db.namespace"] == "db"


def test_change_user() -> None:
    """COM_CHANGE_USER is a login: several turns, another database, no prepared statement left."""
    change = packet(b"\x11bob\0\4authother\0\x2d\0mysql_native_password\0")
    rows = parse(
        turn(prepare("SELECT 5"), prepared(1)),
        turn(close(9) + change, SWITCH[:3] + b"\1" + SWITCH[4:]),
        turn(packet(b"scramble", 2), packet(OK[4:], 3)),
        turn(execute(1), OK),
    )
    assert lines(rows)[1:] == [
        ("Close Statement: 9", None),
        ("Change User: bob@other", "OK"),
        ("Execute: statement 1", "OK"),
    ]
    assert [row.get("db.namespace") for row in rows] == [None, None, "other", "other"]
    assert rows[2]["request_bytes"] == len(change) + 12


@pytest.mark.parametrize(
    ("version", "system"),
    [(b"8.0.36", "mysql"), (b"5.5.5-10.11.6-MariaDB-log", "mariadb"), (b"11.4.2-mariadb", "mariadb")],
)
def test_the_system_is_in_the_greeting(version: bytes, system: str) -> None:
    """The version tells MariaDB from MySQL."""
    greeting = packet(b"\x0a" + version + b"\0\1\0\0\0saltsalt\0\xff\xff\x2d\2\0\xff\xff\x15" + bytes(10))
    rows = parse(turn(b"", greeting), turn(login(), packet(OK[4:], 2)), turn(PING, OK))
    assert [row["db.system.name"] for row in rows] == [system, system]


def test_a_proxy_header_comes_before_the_greeting() -> None:
    """What a load balancer says about its client is no request of MySQL's."""
    header = b"PROXY TCP4 10.0.0.1 10.0.0.2 5000 3306\r\n"
    rows = parse(turn(header, GREETING), turn(login(), packet(OK[4:], 2)))
    assert [row["db.system.name"] for row in rows] == ["mariadb"]
    assert score(header, GREETING) == CERTAIN


# Opaque connections


def opaque(*turns: dict[str, object], parser: PROTOCOL | None = None) -> tuple[list[Any], list[int]]:
    """Return the lines and the opaque cookies of a batch."""
    parsed = (parser or PROTOCOL()).parse(make_slots(*turns))
    return parsed.request_text.to_list(), parsed.opaque


def test_tls_makes_a_connection_opaque() -> None:
    """A request for TLS is the last thing that is read; what follows is not shown as garbage."""
    request = login(0x3BAA8D, b"") + b"\x16\3\1\2\0\1\0\1\xfc\3\3"
    later = turn(query("SELECT 1"), OK, cookie=7)
    parser = PROTOCOL()
    asked = [turn(b"", GREETING, cookie=7), turn(request, b"\x16\3\3\0\x7a", cookie=7), later]
    assert opaque(*asked, parser=parser) == ([], [7])
    assert opaque(later, later | WAIT, parser=parser) == ([], [])


@pytest.mark.parametrize(("flag", "agreed"), [(1 << 5, True), (1 << 26, True), (1 << 6, False)])
def test_compression_makes_a_connection_opaque(flag: int, *, agreed: bool) -> None:
    """Compression that both sides have agreed on starts behind the login's OK."""
    asked = [turn(b"", GREETING, cookie=7), turn(login(0x3BA28D | flag), packet(OK[4:], 2), cookie=7)]
    assert opaque(*asked) == (["MySQL Login: root@db"], [7] if agreed else [])
    greeting = GREETING.replace(b"\0\xff\xff\x2d\2\0\xff\xff", b"\0\xdf\xff\x2d\2\0\xff\xfb")
    assert opaque(turn(b"", greeting, cookie=7), asked[1])[1] == []
    assert opaque(asked[1])[1] == ([7] if agreed else [])


def test_a_compressed_stream_is_not_read_when_the_login_was_lost() -> None:
    """That the login was let in means that what follows is compressed."""
    compressed = b"\x0d\0\0\0\0\0\0" + query("SELECT 1")
    asked = [turn(b"", GREETING), turn(login(0x3BA2AD), SWITCH), turn(compressed, compressed)]
    assert opaque(*asked) == ([], [1])


# Databases


def test_the_database_in_use() -> None:
    """USE and COM_INIT_DB change it if the server agrees; a failure names the database that was asked for."""
    rows = parse(
        turn(b"", GREETING),
        turn(login(), packet(OK[4:], 2)),
        turn(query("SELECT 1"), OK),
        turn(packet(b"\2shop"), OK),
        turn(query("SELECT 1"), OK),
        turn(query("use `other one`;"), ERROR),
        turn(query("SELECT 1"), OK),
        turn(query("/* app */ USE last"), OK),
        turn(query("SELECT 1"), OK),
        turn(query("SELECT 1"), OK, cookie=2),
    )
    names = ["db", "db", "shop", "shop", "other one", "shop", "last", "last", None]
    assert [row.get("db.namespace") for row in rows] == names


# Prepared statements


def test_an_execute_shows_its_statement() -> None:
    """Statements belong to their connection, until they are closed."""
    parser = PROTOCOL()
    parse(turn(prepare("SELECT a FROM t WHERE b = ?"), prepared(1)), parser=parser)
    parse(turn(prepare("UPDATE t SET a = ?"), prepared(1), cookie=2), parser=parser)
    rows = parse(*(turn(execute(1), OK, cookie=cookie) for cookie in (1, 2, 3)), parser=parser)
    assert lines(rows) == [
        ("Execute: SELECT a FROM t WHERE b = ?", "OK"),
        ("Execute: UPDATE t SET a = ?", "OK"),
        ("Execute: statement 1", "OK"),
    ]
    assert [row["db.operation.name"] for row in rows] == ["SELECT", "UPDATE", "STMT_EXECUTE"]
    assert rows[0]["db.query.text"] == "SELECT a FROM t WHERE b = ?"
    assert (rows[0]["db.query.summary"], rows[2].get("db.query.text")) == ("SELECT t", None)
    closing = [turn(close(1) + PING, OK), turn(execute(1), OK), turn(execute(1), OK, cookie=2)]
    assert lines(parse(*closing, parser=parser))[2:] == [
        ("Execute: statement 1", "OK"),
        ("Execute: UPDATE t SET a = ?", "OK"),
    ]


def test_a_prepare_that_fails_is_not_remembered() -> None:
    """An ERR has no statement id, whatever its bytes are."""
    rows = parse(turn(prepare("SELEC"), ERROR), turn(execute(0x23042804), OK), turn(execute(1), OK))
    assert {line for line, _ in lines(rows[1:])} == {"Execute: statement 587474948", "Execute: statement 1"}


def test_the_statement_prepared_last() -> None:
    """MariaDB's connectors send a prepare and its execute together, before they know the id."""
    request = prepare("SELECT 5") + execute(0xFFFFFFFF) + execute(0xFFFFFFFF, 0xFA)
    rows = parse(turn(request, prepared(3) + ROWS), turn(execute(3), OK), turn(execute(0xFFFFFFFF), OK))
    assert lines(rows) == [
        ("Prepare: SELECT 5", "OK"),
        ("Execute: SELECT 5", "Result set, 2 columns"),
        ("Bulk Execute: SELECT 5", None),
        ("Execute: SELECT 5", "OK"),
        ("Execute: SELECT 5", "OK"),
    ]
    assert lines(parse(turn(execute(0xFFFFFFFF), OK))) == [("Execute: statement last", "OK")]


def test_reset_connection_closes_statements() -> None:
    """COM_RESET_CONNECTION keeps the database, not the statements."""
    rows = parse(
        turn(packet(b"\2shop"), OK),
        turn(prepare("SELECT 5"), prepared(3)),
        turn(packet(b"\x1f"), OK),
        turn(execute(3), OK),
    )
    assert lines(rows)[-1] == ("Execute: statement 3", "OK")
    assert rows[-1]["db.namespace"] == "shop"


def test_a_cut_statement_stays_marked() -> None:
    """An execute of a statement that was cut when it was prepared is cut too."""
    rows = parse(turn(prepare("SELECT " + "x" * 400), prepared(1)), turn(execute(1), OK))
    assert [row["truncated"] for row in rows] == [True, True]
    assert rows[1]["request"].endswith("x…")


# Several commands in one turn


def test_commands_without_a_reply() -> None:
    """They stand in front of the next command, and have their own bytes and no reply's time."""
    request = close(1) + packet(b"\x18\2\0\0\0\0\0long") + execute(2)
    rows = parse(turn(request, OK))
    assert lines(rows) == [
        ("Close Statement: 1", None),
        ("Send Long Data: statement 2", None),
        ("Execute: statement 2", "OK"),
    ]
    assert [row["request_bytes"] for row in rows] == [9, 15, 14]
    assert [row["response_bytes"] for row in rows] == [0, 0, len(OK)]
    assert [row["response_last_ns"] for row in rows] == [0, 0, START + MILLISECOND]
    assert [row["request_first_ns"] for row in rows] == [START] * 3


def test_replies_come_in_the_order_of_the_commands() -> None:
    """A client may send commands before it has the replies to earlier ones."""
    request = query("SELECT 1") + PING + query("SELEC") + QUIT
    cached = packet(b"\1\0", 1) + packet(EOF[4:], 2) + packet(b"\x011", 3) + packet(EOF[4:], 4)
    rows = parse(turn(request, cached + OK + ERROR))
    assert lines(rows) == [
        ("Query: SELECT 1", "Result set, 1 column"),
        ("Ping", "OK"),
        ("Query: SELEC", "ERR 1064 (42000): You have an error"),
        ("Quit", None),
    ]
    assert [row["response_bytes"] for row in rows] == [len(cached), len(OK), len(ERROR), 0]
    assert [row["error"] for row in rows] == [False, False, True, False]


def test_a_pipeline_that_is_cut_off() -> None:
    """Of several commands, those without a reply are errors when the connection closes."""
    rows = parse(turn(PING + query("SELECT 1") + PING + QUIT, OK, flags=Flag.CLOSED))
    assert [row["error"] for row in rows] == [False, True, True, False]
    assert [row["response_bytes"] for row in rows] == [len(OK), 0, 0, 0]


def test_a_reply_behind_the_prefix() -> None:
    """It is there, but nobody knows what it says: no text, no error, cut."""
    rows = parse(turn(query("SELECT 1") + query("SELECT 2"), ROWS[:-9] + packet(b"x" * 300, 6) + ROWS))
    assert lines(rows) == [("Query: SELECT 1", "Result set, 2 columns"), ("Query: SELECT 2", None)]
    assert [(row["error"], row["truncated"]) for row in rows] == [(False, False), (False, True)]
    assert [row["response_bytes"] > 0 for row in rows] == [True, False]


def test_a_response_that_begins_within_a_packet() -> None:
    """A client that does not wait may ask on between a packet's header and its body: that is no reply."""
    row = one(query("INSERT INTO t VALUES (1)"), OK[4:] + OK)
    assert lines([row]) == [("Query: INSERT INTO t VALUES (1)", None)]
    assert (row["truncated"], row["error"], row["response_bytes"]) == (True, False, 2 * len(OK) - 4)


def test_an_error_that_answers_nothing() -> None:
    """A server that shuts down, or has waited too long, says so before it reads the next command."""
    row = one(query("SELECT 1"), packet(b"\xff\x87\x07#70100Connection was killed", 0))
    assert lines([row]) == [("Query: SELECT 1", "ERR 1927 (70100): Connection was killed")]


def test_a_command_behind_the_prefix() -> None:
    """The reply shows that there is one."""
    rows = parse(turn(close(1) * 30 + query("SELECT 1"), OK))
    assert lines(rows)[-2:] == [("Close Statement: 1", None), (None, "OK")]
    assert rows[-1]["truncated"]
    assert sum(row["request_bytes"] for row in rows) == 30 * 9 + 13
    assert len(parse(turn(close(1) * 30 + QUIT, b"", flags=Flag.CLOSED))) == len(rows) - 1


INSERTS = [query(b"INSERT INTO t VALUES (%d, '%s')" % (number, b"x" * number)) for number in range(40)]


def test_a_client_hands_over_each_command_by_a_call_of_its_own() -> None:
    """So the calls tell how many there are, and those that are visible what they are."""
    rows = parse(turn(b"".join(INSERTS), OK * 40, request_segments=40))
    assert len(rows) == 40
    assert {row["db.query.summary"] for row in rows} == {"INSERT t"}
    assert lines(rows)[:2] == [
        ("Query: INSERT INTO t VALUES (0, '')", "OK"),
        ("Query: INSERT INTO t VALUES (1, 'x')", "OK"),
    ]
    assert lines(rows)[20] == ("Query: …", None)
    assert [row["truncated"] for row in rows[:3] + rows[-3:]] == [False] * 3 + [True] * 3
    assert sum(row["request_bytes"] for row in rows) == sum(map(len, INSERTS))
    assert sum(row["response_bytes"] for row in rows) == 40 * len(OK)


def test_a_statement_id_that_is_cut_is_none() -> None:
    """Of what is executed last, the prefix may hold the command without the id."""
    one_execution = packet(b"\x17\1\0\0\0\0\1\0\0\0" + bytes(15))
    rows = parse(turn(one_execution * 9, OK * 9, request_segments=9))
    assert {row["request"].removesuffix("…") for row in rows} == {"MySQL Execute: statement 1"}
    assert len(rows) == 9


def test_a_server_may_read_a_command_by_several_calls() -> None:
    """At its end only sizes tell how many there are: here they grow."""
    rows = parse(turn(b"".join(INSERTS), OK * 40, request_segments=80, role=Role.SERVER))
    assert 40 < len(rows) < 70


def test_commands_of_one_size_are_counted_by_it() -> None:
    """Executions of one statement that the prefix hides show its text."""
    request = prepare("DELETE FROM t WHERE id = ?"), prepared(7)
    rows = parse(turn(*request), turn(execute(7) * 100, OK * 100))
    assert len(rows) == 101
    assert lines(rows)[1] == ("Execute: DELETE FROM t WHERE id = ?", "OK")
    assert lines(rows)[-1] == ("Execute: DELETE FROM t WHERE id = ?…", None)
    assert {row["db.query.text"] for row in rows} == {"DELETE FROM t WHERE id = ?"}


@pytest.mark.parametrize(
    "request_bytes",
    [
        query("SELECT 1") + query("SELECT '" + "x" * 300 + "'") + query("SELECT 2"),
        close(1) + prepare("INSERT INTO t VALUES (?)") + execute(1) + packet(b"\3" + bytes(200_000)) * 2,
    ],
)
def test_calls_that_are_no_commands_are_not_counted(request_bytes: bytes) -> None:
    """Large commands take several calls; what is behind unlike ones is one, as far as anybody knows."""
    rows = parse(turn(request_bytes, OK, request_segments=90))
    assert len(rows) <= 5


def test_a_turn_stands_for_so_many_commands_at_most() -> None:
    """Sizes are the peer's."""
    slots = turn(execute(1) * 20, OK * 20, request_bytes=10**9)
    assert len(parse(slots)) == 16384 + 15


def test_a_batch_stands_for_so_many_commands_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many turns of such sizes come at once; the next batch has room again."""
    monkeypatch.setattr(connection, "BATCH_MOST", 1000)
    slots = turn(execute(1) * 20, OK * 20, request_bytes=10**6)
    parser = PROTOCOL()
    for _ in range(2):
        assert len(parse(slots, slots, slots, parser=parser)) == 1000 + 3 * 15 + 2


def test_pipelines_equal_the_reference() -> None:
    """Of any commands, in any number of calls, at either end."""
    random = np.random.default_rng(3)
    kinds = [INSERTS[1], INSERTS[30], execute(1), execute(2), close(1), PING, prepare("SELECT ?"), LONG_DATA]
    turns = []
    for number in range(300):
        some = random.choice(len(kinds), random.integers(1, 4))
        request = b"".join(kinds[random.choice(some)] for _ in range(random.integers(2, 60)))
        fields = {
            "request_segments": int(random.integers(1, 70)),
            "role": 1 + number % 2,
            "cookie": number % 7,
        }
        kind = Kind.OPEN if number % 11 == 0 else Kind.TURN
        turns.append(turn(request, prepared(1) + OK * random.integers(60), kind=kind, **fields))
    check_equal([make_slots(*turns[:100]), make_slots(*turns[100:])])


def test_long_data_hides_its_execute() -> None:
    """What follows long data beyond the prefix executes the statement that the data is for."""
    request = packet(b"\x18\2\0\0\0\0\0" + b"x" * 1000) + execute(2)
    rows = parse(turn(prepare("INSERT INTO t VALUES (?)"), prepared(2)), turn(request, OK))
    assert lines(rows)[1:] == [
        ("Send Long Data: statement 2", None),
        ("Execute: INSERT INTO t VALUES (?)", "OK"),
    ]
    assert rows[2]["truncated"]
    assert rows[2]["request_bytes"] == 14


def test_a_request_without_payload() -> None:
    """A request whose bytes could not be read is a transaction by its reply."""
    row = one(b"", ERROR, request_bytes=50, flags=Flag.NO_PAYLOAD)
    assert lines([row]) == [(None, "ERR 1064 (42000): You have an error")]
    assert (row["truncated"], row["error"]) == (True, True)


# Files


INFILE = query("LOAD DATA LOCAL INFILE 'f' INTO TABLE t")
FILE = packet(b"7,zed\n", 2) + packet(b"", 3)


def test_a_local_file_continues_its_statement() -> None:
    """The server asks for the file, the client sends it as the next request: one transaction."""
    rows = parse(turn(INFILE, packet(b"\xfbf", 1)), turn(FILE, packet(OK[4:], 4)), turn(PING, OK))
    assert lines(rows) == [("Query: LOAD DATA LOCAL INFILE 'f' INTO TABLE t", "OK"), ("Ping", "OK")]
    assert (rows[0]["row"], rows[0]["request_first_ns"]) == (1, START)
    assert rows[0]["request_bytes"] == len(INFILE) + len(FILE)
    assert rows[0]["response_bytes"] == 6 + len(OK)


def test_a_file_that_never_comes() -> None:
    """A client that closes instead of sending the file leaves its statement unanswered."""
    (row,) = parse(turn(INFILE, packet(b"\xfbf", 1), flags=Flag.CLOSED))
    assert (row["error"], "response" in row) == (True, False)
    assert lines(parse(turn(INFILE, packet(b"\xfbf", 1)), turn(PING, OK))) == [("Ping", "OK")]


# Turns


def test_an_unanswered_command() -> None:
    """It is an error if the connection is closed; commands that get no reply are not."""
    assert one(query("SELECT 1"), b"", flags=Flag.CLOSED)["error"]
    assert not one(query("SELECT 1"), b"")["error"]
    for request in (QUIT, close(1), packet(b"\x18\1\0\0\0\0\0x")):
        assert not one(request, b"", flags=Flag.CLOSED)["error"]


def test_turns_in_flight_change_nothing() -> None:
    """They come again: their request is shown, and nothing is remembered of them."""
    parser = PROTOCOL()
    rows = parse(
        turn(prepare("SELECT 5"), prepared(3), **WAIT),
        turn(execute(3), b"", **WAIT),
        turn(packet(b"\2shop"), OK, **WAIT),
        turn(query("USE shop"), OK, **WAIT),
        turn(INFILE, packet(b"\xfbf", 1), **WAIT),
        turn(login(), SWITCH, **WAIT),
        turn(query("SELECT 1"), OK, **WAIT),
        turn(query("SELECT 1"), OK),
        parser=parser,
    )
    assert lines(rows)[1] == ("Execute: statement 3", None)
    assert lines(rows)[4:6] == [
        ("Query: LOAD DATA LOCAL INFILE 'f' INTO TABLE t", None),
        ("Login: root@db", None),
    ]
    assert "db.namespace" not in rows[7]
    assert len(rows) == 8


def test_a_login_in_flight_shows_when_it_began() -> None:
    """Its later turns are shown with the first one's stamps too."""
    rows = parse(turn(b"", GREETING), turn(login(), SWITCH), turn(packet(b"x", 3), b"", **WAIT))
    assert lines(rows) == [("Login: root@db", None)]
    assert rows[0]["request_first_ns"] == START + 10 * MILLISECOND


def test_continued_turns_are_no_transactions() -> None:
    """They carry more response bytes of a turn that was shown."""
    assert not parse(turn(b"", ROWS, flags=Flag.CONTINUED), turn(query("SELECT 1"), OK, flags=Flag.CONTINUED))


def test_a_reply_to_a_request_that_was_not_seen() -> None:
    """The agent may start between the two; that is no transaction."""
    assert not parse(turn(b"", ROWS), turn(b"", OK))


def test_an_empty_batch() -> None:
    """No turns give no transactions."""
    parsed = PROTOCOL().parse(make_slots())
    assert (len(parsed.rows), len(parsed.request_text), parsed.opaque) == (0, 0, [])


# State


def test_forgotten_connections() -> None:
    """Nothing is kept of a connection that is closed."""
    parser = PROTOCOL()
    parse(
        turn(b"", GREETING),
        turn(login(), packet(OK[4:], 2)),
        turn(prepare("SELECT 5"), prepared(3)),
        parser=parser,
    )
    parser.forget([1, 99])
    (row,) = parse(turn(execute(3), OK), parser=parser)
    assert lines([row]) == [("Execute: statement 3", "OK")]
    assert (row["db.system.name"], "db.namespace" in row) == ("mysql", False)
    assert not parser._connections._known
    assert parser._connections._statements == 0


def test_statements_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest statement of a connection goes first, and is counted."""
    monkeypatch.setattr(connection, "_STATEMENTS", 2)
    parser = PROTOCOL()
    parse(*(turn(prepare(f"SELECT {number}"), prepared(number)) for number in (1, 2, 3)), parser=parser)
    rows = parse(*(turn(execute(number), OK) for number in (1, 2, 3)), parser=parser)
    assert [line for line, _ in lines(rows)] == [
        "Execute: statement 1",
        "Execute: SELECT 2",
        "Execute: SELECT 3",
    ]
    assert parser.evicted == 1


@pytest.mark.parametrize("limit", ["_CONNECTIONS", "_ALL_STATEMENTS"])
def test_connections_are_bounded(monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    """The connection that was idle longest goes first, and is counted."""
    monkeypatch.setattr(connection, limit, 2)
    parser = PROTOCOL()
    for cookie in (1, 2, 1, 3):
        statement = prepare(f"SELECT {cookie}") if cookie != 1 else prepare("SELECT 1")
        parse(turn(statement, prepared(1), cookie=cookie), parser=parser)
    rows = parse(*(turn(execute(1), OK, cookie=cookie) for cookie in (1, 2, 3)), parser=parser)
    assert [line for line, _ in lines(rows)] == [
        "Execute: SELECT 1",
        "Execute: statement 1",
        "Execute: SELECT 3",
    ]
    assert parser.evicted == 1


def test_plain_queries_keep_no_state() -> None:
    """A connection is remembered only for what its later turns need."""
    parser = PROTOCOL()
    parse(*(turn(query("SELECT 1"), b"", cookie=cookie) for cookie in range(100)), parser=parser)
    assert not parser._connections._known


# Recognition


@sessions
def test_old_connections_are_recognised(session: Session) -> None:
    """A turn of commands with replies is enough for a connection that is older than the agent."""
    scores = PROTOCOL().recognise(make_slots(*session_turns(session))).tolist()
    for (request, response, shown), result in zip(session, scores, strict=True):
        if not shown or shown == [(None, "MySQL Response: ERR 1040: Too many connections")]:
            continue
        whole = request[3:4] == b"\0" and b"selec" not in request[:40] and request[4:5] != b"\7"
        if whole and response:
            assert result == LIKELY, request
        assert result != CERTAIN


@pytest.mark.parametrize(
    ("request_bytes", "response", "expected"),
    [
        (query("SELECT 1"), ROWS, LIKELY),
        (query("/* " + "x" * 400 + " */ SELECT 1"), OK, LIKELY),
        (query(b"\0\1SELECT 1"), OK, LIKELY),
        (query("SELECT '" + "x" * 4000), ROWS[:-9] + packet(b"x" * 4000, 6), LIKELY),
        (query("SELECT 1") + PING, OK + OK, LIKELY),
        (execute(3), OK, LIKELY),
        (execute(3), packet(b"\2\0", 1) + EOF[:3] + b"\2" + EOF[4:], LIKELY),
        (close(3) + prepare("SELECT 1"), prepared(4), LIKELY),
        (PING, OK, LIKELY),
        (packet(b"\2shop"), ERROR, LIKELY),
        (login(), packet(OK[4:], 2), LIKELY),
        (login(), SWITCH, LIKELY),
        (login(0x3BAA8D, b"") + b"\x16\3\1\2\0\1\0", b"\x16\3\3\0\x7a", LIKELY),
        (query("SELECT 1"), b"", POSSIBLE),
        (login(), b"", POSSIBLE),
        (QUIT, b"", POSSIBLE),
        (query("SELECT 1"), OK[:-1], 0),
        (query("SELECT 1") + b"x", OK, 0),
        (query("SELECT 1"), OK + b"x", 0),
        (query("SELECT 1"), packet(OK[4:], 0), 0),
        (query("SELECT 1", 1), OK, 0),
        (query("\1\2\3\4"), OK, 0),
        (query("lorem ipsum"), OK, 0),
        (packet(b"\x17\1\0\0\0\0\2\0\0\0"), OK, 0),
        (QUIT, OK, 0),
        (packet(b"\0"), OK, 0),
    ],
)
def test_recognition(request_bytes: bytes, response: bytes, expected: int) -> None:
    """Every visible length, sequence number and body has to fit; a request alone is never sure."""
    assert score(request_bytes, response) == expected


OTHERS = {
    "http": (b"GET /index.html HTTP/1.1\r\nHost: a\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
    "http2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\x12\4\0\0\0\0\0", b"\0\0\0\4\1\0\0\0\0"),
    "redis": (b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n", b"$1\r\nb\r\n"),
    "postgresql startup": (
        b"\0\0\0\x29\0\3\0\0user\0postgres\0database\0shop\0\0",
        b"R\0\0\0\x0c\0\0\0\5salt",
    ),
    "postgresql query": (b"Q\0\0\0\x0eSELECT 1;\0", b"C\0\0\0\x0dSELECT 1\0Z\0\0\0\5I"),
    "postgresql parse": (b"P\0\0\0\x11\0SELECT $1\0\0\0S\0\0\0\4", b"1\0\0\0\4Z\0\0\0\5I"),
    "tls": (b"\x16\3\1\2\0\1\0\1\xfc\3\3" + bytes(range(256)) * 2, b"\x16\3\3\0\x7a\2\0\0\x76\3\3"),
    "ssh": (b"SSH-2.0-OpenSSH_9.2\r\n", b"SSH-2.0-OpenSSH_9.2\r\n"),
    "dns": (
        b"\0\x1d\x12\x34\1\0\0\1\0\0\0\0\0\0\7example\3com\0\0\1\0\1",
        b"\0\x1d\x12\x34\x81\x83\0\1\0\0\0\0\0\0",
    ),
    "mongodb": (
        b"\x3c\0\0\0\3\0\0\0\0\0\0\0\xdd\7\0\0\0\0\0\0\0\x27\0\0\0\x02find\0\2\0\0\0c\0\2$db\0\2\0\0\0d\0\0",
        b"\x26\0\0\0\2\0\0\0\1\0\0\0\xdd\7\0\0\0\0\0\0\0\x11\0\0\0\1ok\0\0\0\0\0\0\0\xf0?\0",
    ),
    "kafka": (b"\0\0\0\x1a\0\x12\0\3\0\0\0\1\0\x0aconsumer-1\0", b"\0\0\0\x10\0\0\0\1\0\0\0\0\0\1\0\0"),
    "cassandra": (b"\4\0\0\0\7\0\0\0\x10\0\0\0\x09SELECT 1;\0\1\0", b"\x84\0\0\0\x08\0\0\0\4\0\0\0\1"),
    "amqp": (b"AMQP\0\0\x09\1", b"\1\0\0\0\0\1\xc1\0\x0a\0\x0a\0\x09"),
    "memcached": (b"get key\r\n", b"END\r\n"),
    "smtp": (b"", b"220 mail.example.com ESMTP\r\n"),
    "zookeeper": (b"\0\0\0\x2c\0\0\0\0" + bytes(40), b"\0\0\0\x24\0\0\0\0" + bytes(32)),
}


@pytest.mark.parametrize("sides", OTHERS.values(), ids=OTHERS)
def test_other_protocols_are_not_mistaken(sides: tuple[bytes, bytes]) -> None:
    """Other protocols on MySQL's port are not recognised, cut anywhere or whole."""
    request, response = sides
    assert score(request, response) == 0
    assert score(request) == 0
    assert not any(score(request[:end], response[: end // 2]) for end in range(len(request)))


def test_random_bytes_are_not_mistaken() -> None:
    """Neither are random bytes behind headers that fit, in ten thousand turns."""
    random = np.random.default_rng(1)
    slots = np.tile(make_slots(turn(bytes(ROOM), bytes(RESPONSE_ROOM))), 20_000)
    for side, room in (("request", ROOM), ("response", RESPONSE_ROOM)):
        slots[side] = random.integers(0, 256, (len(slots), room), np.uint8)
    framed = slots[::2]
    framed["request"][:, :4] = (ROOM - 4, 0, 0, 0)
    framed["response"][:, :4] = (RESPONSE_ROOM - 4, 0, 0, 1)
    assert not PROTOCOL().recognise(slots).any()


# Columns


def mixed(number: int) -> np.ndarray:
    """Return turns of many connections: common ones, and some of each other kind."""
    random = np.random.default_rng(number)
    kinds = [
        (query("SELECT a FROM t WHERE id = 7"), ROWS),
        (query("INSERT INTO t VALUES (1)"), OK),
        (query("SELEC"), ERROR),
        (execute(1), ROWS),
        (execute(2), OK),
        (PING, OK),
        (prepare("SELECT a FROM t WHERE id = ?"), prepared(1)),
        (close(1) + prepare("DELETE FROM t"), prepared(2)),
        (query("USE shop"), OK),
        (INFILE, packet(b"\xfbf", 1)),
        (FILE, packet(OK[4:], 4)),
        (query("SELECT 1") + PING, OK + OK),
        (b"", GREETING),
        (login(), packet(OK[4:], 2)),
    ]
    weights = [30, 20, 5, 20, 10, 5] + [1] * (len(kinds) - 6)
    chosen = random.choice(len(kinds), 400, p=np.array(weights) / sum(weights))
    return make_slots(
        *(
            turn(
                *kinds[kind],
                cookie=int(random.integers(8 if kind > 5 else 40)),
                kind=1 + int(random.random() < 0.1),
            )
            for kind in chosen
        )
    )


@pytest.mark.parametrize("number", range(5))
def test_columns_equal_the_reference(number: int) -> None:
    """Common turns, read as columns, and others between them give what one turn after the other gives."""
    slots = mixed(number)
    check_equal([slots[:150], slots[150:]])


LAST = execute(0xFFFFFFFF)
MORE = packet(b"\0\1\0\x0a\0\0\0", 1)
LIFE_OF_A_STATEMENT = [
    *[(prepare(f"SELECT {number}, a"), prepared(number)) for number in (1, 2, 3)],
    (prepare("SELECT a FROM t4"), prepared(1) + packet(b"\3def" + bytes(40), 2)),
    (prepare("SELEC"), ERROR),
    *[(execute(number), ROWS) for number in (1, 2, 3)],
    (LAST, ROWS),
    (execute(1), ERROR),
    (execute(1, 0x1A), OK),
    (execute(2, 0x1A), ERROR),
    (close(2) + prepare("SELECT b FROM t5"), prepared(2)),
    (close(1) + close(2) + close(3) + query("SELECT 1"), ROWS),
    (close(1) + close(2) + close(3) + close(4) + PING, OK),
    (close(3) + LAST, OK),
    (close(1) + QUIT, b""),
    (QUIT, b""),
    (query("UPDATE t SET a = 1; SELECT 2"), MORE + ROWS),
    (query("UPDATE t SET a = 1; SELEC"), MORE + ERROR[:3] + b"\2" + ERROR[4:]),
    (query("USE shop"), OK),
    (packet(b"\x1f"), OK),
]


@pytest.mark.parametrize("number", range(6))
def test_statements_on_columns_equal_the_reference(number: int) -> None:
    """Prepared, executed, reset and closed in any order, with and without what has to be followed."""
    random = np.random.default_rng(number)
    kinds = LIFE_OF_A_STATEMENT[: len(LIFE_OF_A_STATEMENT) - 4 * (number % 2)]
    turns = []
    for kind in random.choice(len(kinds), 500):
        request, response = kinds[kind]
        in_flight, closed = random.random() < 0.05, request[-5:] == QUIT
        fields = {"cookie": int(random.integers(1, 9)), "flags": Flag.CLOSED if closed else 0}
        turns.append(turn(request, response, kind=Kind.OPEN if in_flight else Kind.TURN, **fields))
    slots = make_slots(*turns)
    check_equal([slots[:7], slots[7:200], slots[200:]])
    check_equal([cut(slots, 16, 8)])
    check_equal([cut(slots, 24, 16)])


def test_what_a_statement_shows_does_not_depend_on_the_batch() -> None:
    """Drivers that prepare, execute and close each statement reuse no id; if one does, the order decides."""
    turns = [
        turn(prepare("SELECT 1"), prepared(1)),
        turn(execute(1), ROWS),
        turn(close(1) + prepare("SELECT 2"), prepared(1)),
        turn(execute(1), ROWS),
        turn(close(1) + QUIT, flags=Flag.CLOSED),
    ]
    rows = parse(*turns)
    assert [row.get("request", "")[6:] for row in rows] == [
        "Prepare: SELECT 1",
        "Execute: SELECT 1",
        "Close Statement: 1",
        "Prepare: SELECT 2",
        "Execute: SELECT 2",
        "Close Statement: 1",
        "Quit",
    ]
    parser = PROTOCOL()
    apart = [row for one in turns for row in parse(one, parser=parser)]
    names = ("request", "response", "request_bytes", "response_bytes", "db.query.text")
    assert [[row.get(name) for name in names] for row in apart] == [
        [row.get(name) for name in names] for row in rows
    ]


STATEMENTS = [
    b"SELECT c FROM sbtest%d WHERE id=%d",
    b"SELECT `id` FROM `users` WHERE `name` = '%d' LIMIT %d",
    b"INSERT INTO t (a, b) VALUES (%d, '" + b"x" * 200 + b"%d')",
    b"SELECT (SELECT %d) FROM t WHERE a = 'FROM u%d'",
    b"UPDATE t SET a = '\0%d' WHERE id = %d",
    b"\0\1SELECT %d FROM t%d",
    b"USE shop%d -- %d",
]


def test_statements_that_differ_in_literals_equal_the_reference() -> None:
    """One of them stands for the others in what they do, and none of them in what is shown of it."""
    rng = np.random.default_rng(7)
    slots = make_slots(
        *(
            turn(query(STATEMENTS[kind] % (first, second)), OK, cookie=10 * number + kind)
            for number, (kind, first, second) in enumerate(rng.integers(0, (7, 3, 1000), (300, 3)).tolist())
        )
    )
    check_equal([slots, slots[::-3], cut(slots, 64, 40)[::2]])


def test_known_hashes_change_nothing() -> None:
    """Commands that are known by the kernel's hash are shown as those that are read."""
    slots = mixed(0)
    hashed = slots.copy()
    hashed["request_hash"] = row_hash(hashed["request"], hashed["request_length"]) | np.uint64(1)
    parser = PROTOCOL()
    parser.parse(hashed)
    parser.forget(np.unique(slots["cookie"]).tolist())
    again = parser.parse(hashed)
    assert rows_of(hashed, again) == rows_of(slots, PROTOCOL().parse(slots))


pieces = st.lists(st.sampled_from(range(1, len(FRAGMENTS) + 1)), max_size=4).map(bytes)
one_turn = st.tuples(st.sampled_from([0, 0, 0, 1, 2, 4, 8, 16]), pieces, pieces)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=2), st.lists(one_turn, max_size=12))
def test_any_turns_equal_the_reference(start: bytes, turns: list[tuple[int, bytes, bytes]]) -> None:
    """Whatever packets come in whatever order, columns and reference agree."""
    data = b"".join(bytes([what]) + request + b"\0" + response + b"\0" for what, request, response in turns)
    check(start.ljust(2, b"\0") + data)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_equal_the_reference(data: bytes) -> None:
    """Whatever the bytes, nothing raises, and columns and reference agree."""
    check(data)
