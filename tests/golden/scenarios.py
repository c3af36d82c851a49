"""What is captured: one function a capture.

A scenario yields twice: where its server listens once it does, and after the traffic. It ends its servers
when it is resumed once more.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import io
import random
import socket
import ssl
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg
import MySQLdb
import nats
import nats.errors
import pg8000.native  # type: ignore[import-untyped]  # it ships no types
import psycopg
import pymemcache  # type: ignore[import-untyped]  # it ships no types
import pymongo
import pymysql
import redis
from pymongo.errors import OperationFailure, PyMongoError

from masdeepflow.traffic_gen.mysql_wire import Command
from tests.support import libnats_client, servers
from tests.support.mysql_session import MySqlSession
from tests.support.ports import wait_listening
from tests.support.programs import TRAFFIC_GEN, Program, run, until
from tests.support.wire import answer, exchange, pieces, read_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from nats.aio.msg import Msg

    Address = tuple[str, int]
    Where = Address | frozenset[str]
    Scenario = Callable[[Path], Iterator[Where]]

__all__ = ["SCENARIOS", "Where"]

_HTTP: Address = ("127.0.80.80", 80)
_MYSQL: Address = ("127.0.33.6", 3306)
_POSTGRESQL: Address = ("127.0.54.32", 5432)
_REDIS: Address = ("127.0.63.79", 6379)
_MEMCACHED: Address = ("127.0.112.11", 11211)
_MONGODB: Address = ("127.0.27.17", 27017)
_NATS: Address = ("127.0.42.22", 4222)
_HEAD_END = b"\r\n\r\n"
_CLOSE = b"Host: golden\r\nConnection: close\r\n\r\n"

SCENARIOS: dict[str, Scenario] = {}
"""Name -> scenario; the name is the capture's path below this directory, without its ending."""


def _scenario(name: str) -> Callable[[Scenario], Scenario]:
    def add(scenario: Scenario) -> Scenario:
        SCENARIOS[name] = scenario
        return scenario

    return add


def _url(address: Address = _HTTP) -> str:
    return f"http://{address[0]}:{address[1]}"


@_scenario("http/nginx-curl")
def _nginx_curl(directory: Path) -> Iterator[Where]:
    with servers.nginx(directory, _HTTP) as nginx:
        (nginx.files / "page.html").write_text('<!--#echo var="uri" -->')
        yield _HTTP
        urls = [_url() + path for path in ("/missing?id=7&q=%C3%A4", "/files/page.html")]
        run("curl", "--silent", *urls)
        run("curl", "--silent", "--head", "--user-agent", "golden", f"{_url()}/moved")
        run("curl", "--silent", "--http1.0", "--data", "a=b", f"{_url()}/broken")
        yield _HTTP


@_scenario("http/nginx-python")
def _nginx_python(directory: Path) -> Iterator[Where]:
    with servers.nginx(directory, _HTTP):
        yield _HTTP
        client = http.client.HTTPConnection(*_HTTP)
        for method, path in (("GET", "/kept"), ("HEAD", "/kept"), ("DELETE", "/missing")):
            client.request(method, path)
            client.getresponse().read()
        client.close()
        with socket.create_connection(_HTTP) as upload:
            head = (
                b"PUT /files/new HTTP/1.1",
                b"Host: golden",
                b"Content-Length: 5",
                b"Expect: 100-continue",
            )
            upload.sendall(b"\r\n".join((*head, b"", b"")))
            read_until(upload, _HEAD_END)
            upload.sendall(b"hello")
            read_until(upload, _HEAD_END)
        yield _HTTP


@_scenario("http/nginx-unix")
def _nginx_unix(directory: Path) -> Iterator[Where]:
    where = frozenset({"nginx", "curl"})
    with servers.nginx(directory, _HTTP) as nginx:
        yield where
        run("curl", "--silent", "--unix-socket", "nginx.sock", "http://golden/over/unix", cwd=nginx.directory)
        yield where


@_scenario("http/python-curl")
def _python_curl(directory: Path) -> Iterator[Where]:
    host, port = _HTTP
    command = (TRAFFIC_GEN, "http-server", "--host", host, "--port", port, "--delay-ms", 20)
    with Program(directory, *command):
        wait_listening(port, host)
        yield _HTTP
        run("curl", "--silent", f"{_url()}/one?a=b")
        run(TRAFFIC_GEN, "--host", host, "--port", port)
        yield _HTTP


def _serve_shapes(client: socket.socket) -> None:
    head = read_until(client, _HEAD_END)
    if head.startswith(b"CONNECT"):
        client.sendall(b"HTTP/1.1 200 Connection established" + _HEAD_END)
    elif b"Upgrade" in head:
        client.sendall(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket" + _HEAD_END)
    else:
        pieces(client, [b"HT", b"TP/1.1 4", b"18 I'm a tea", b"pot\r\nContent-Length: 0" + _HEAD_END])
    while client.recv(1000):
        client.sendall(answer())


@_scenario("http/shapes")
def _shapes(directory: Path) -> Iterator[Where]:
    del directory
    with servers.scripted(_serve_shapes, _HTTP):
        yield _HTTP
        for head in (
            b"CONNECT db.example:443 HTTP/1.1\r\nHost: db.example:443" + _HEAD_END,
            b"GET /chat HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket" + _HEAD_END,
            b"GET /tea HTTP/1.1\r\nHost: golden" + _HEAD_END,
        ):
            with socket.create_connection(_HTTP) as client:
                client.sendall(head)
                read_until(client, _HEAD_END)
                if b"tea" not in head:
                    client.sendall(b"GET /behind HTTP/1.1" + _HEAD_END)
                    read_until(client, b"ok")
        yield _HTTP


@_scenario("http/pipelined")
def _pipelined(directory: Path) -> Iterator[Where]:
    with servers.nginx(directory, _HTTP):
        yield _HTTP
        first = b"GET /first HTTP/1.1\r\nHost: golden" + _HEAD_END
        exchange(_HTTP[1], first + b"GET /last HTTP/1.1\r\n" + _CLOSE, _HTTP[0])
        yield _HTTP


@_scenario("http/tls-on-80")
def _tls(directory: Path) -> Iterator[Where]:
    with servers.nginx(directory, _HTTP, tls=True):
        yield _HTTP
        run("curl", "--silent", "--insecure", f"https://{_HTTP[0]}:{_HTTP[1]}/secret")
        yield _HTTP


@_scenario("http/redis-on-80")
def _redis(directory: Path) -> Iterator[Where]:
    host, port = _HTTP
    with servers.redis(directory, _HTTP):
        yield _HTTP
        cli = ("redis-cli", "-h", host, "-p", port)
        run(*cli, "SET", "key", "GET / HTTP/1.1")
        run(*cli, "GET", "key")
        yield _HTTP


@_scenario("http/mysql-on-80")
def _mysql_on_80(directory: Path) -> Iterator[Where]:
    with servers.mariadb(directory, _HTTP) as server:
        yield _HTTP
        run(*server.client, "--execute=SELECT 'GET / HTTP/1.1'")
        yield _HTTP


def _noise(seed: int, address: Address) -> Iterator[Where]:
    """Exchange the same random bytes in every run."""
    noise = random.Random(seed)  # noqa: S311  # not for secrets

    def serve(client: socket.socket) -> None:
        while client.recv(4096):
            client.sendall(noise.randbytes(noise.randrange(1, 120)))

    with servers.scripted(serve, address):
        yield address
        for _ in range(2):
            with socket.create_connection(address) as client:
                client.sendall(noise.randbytes(noise.randrange(1, 120)))
                client.recv(4096)
        yield address


@_scenario("http/random-on-80")
def _random_on_80(directory: Path) -> Iterator[Where]:
    del directory
    yield from _noise(80, _HTTP)


@_scenario("mysql/random-on-3306")
def _random_on_3306(directory: Path) -> Iterator[Where]:
    del directory
    yield from _noise(3306, _MYSQL)


@_scenario("mysql/http-on-3306")
def _http_on_3306(directory: Path) -> Iterator[Where]:
    with servers.nginx(directory, _MYSQL):
        yield _MYSQL
        run("curl", "--silent", f"{_url(_MYSQL)}/SELECT")
        yield _MYSQL


_STATEMENTS = [
    "INSERT INTO shop.item VALUES (1, 'it''s')",
    "SELECT * FROM shop.nowhere",
]


@_scenario("mysql/mariadb-client")
def _mariadb_client(directory: Path) -> Iterator[Where]:
    with servers.mariadb(directory, _MYSQL) as server:
        yield _MYSQL
        run(*server.client, "--force", "shop", input=";\n".join(_STATEMENTS).encode())
        run(*server.client, "--user=nobody", "--execute=SELECT 1")
        yield _MYSQL


@_scenario("mysql/mariadb-unix")
def _mariadb_unix(directory: Path) -> Iterator[Where]:
    where = frozenset({"mariadb", "mariadbd"})
    with servers.mariadb(directory, _MYSQL) as server:
        yield where
        client = ("mariadb", "--no-defaults", "--socket=mariadb.sock", "--user=root", "--skip-ssl")
        run(*client, "--execute=SELECT 'over unix'", cwd=server.socket.parent)
        yield where


@_scenario("mysql/pymysql")
def _pymysql(directory: Path) -> Iterator[Where]:
    host, port = _MYSQL
    with servers.mariadb(directory, _MYSQL):
        yield _MYSQL
        connection = pymysql.connect(host=host, port=port, user="root", database="shop", ssl_disabled=True)
        with connection, connection.cursor() as cursor:
            for statement in _STATEMENTS:
                with contextlib.suppress(pymysql.MySQLError):
                    cursor.execute(statement)
        yield _MYSQL


@_scenario("mysql/mysqlclient")
def _mysqlclient(directory: Path) -> Iterator[Where]:
    host, port = _MYSQL
    with servers.mariadb(directory, _MYSQL):
        yield _MYSQL
        connection = MySQLdb.connect(host=host, port=port, user="root", database="shop")
        with contextlib.closing(connection), connection.cursor() as cursor:
            for statement in _STATEMENTS:
                with contextlib.suppress(MySQLdb.MySQLError):
                    cursor.execute(statement)
            connection.change_user("root", "", "mysql")  # type: ignore[no-untyped-call]
        yield _MYSQL


@_scenario("mysql/connector-j")
def _connector_j(directory: Path) -> Iterator[Where]:
    with servers.mariadb(directory, _MYSQL) as server:
        yield _MYSQL
        assert servers.mariadb_jdbc(server, rows=14).lines == ["1146", "1146"]
        yield _MYSQL


@_scenario("mysql/php")
def _mysql_php(directory: Path) -> Iterator[Where]:
    with servers.mariadb(directory, _MYSQL) as server:
        yield _MYSQL
        assert servers.mariadb_php(server).lines == ["1"] * 3 + ["42S02"]
        yield _MYSQL


@_scenario("mysql/commands")
def _commands(directory: Path) -> Iterator[Where]:
    with servers.mariadb(directory, _MYSQL):
        yield _MYSQL
        with MySqlSession(_MYSQL[1], _MYSQL[0]) as session:
            number = session.prepare("SELECT ? + ?")
            session.execute(number, 1, 2)
            session.reset_statement(number)
            session.close_statement(number)
            session.prepare("SELEC ?")
            session.query("SELECT 1; SELECT 2")
            session.command(Command.INIT_DB, b"shop")
            session.field_list("item")
            session.command(Command.PING)
            yield _MYSQL


@_scenario("mysql/tls")
def _mysql_tls(directory: Path) -> Iterator[Where]:
    with servers.mariadb(directory, _MYSQL) as server:
        yield _MYSQL
        client = [word for word in server.client if word != "--skip-ssl"]
        run(*client, "--ssl", "--execute=SELECT 'secret'")
        yield _MYSQL


@_scenario("mysql/compressed")
def _mysql_compressed(directory: Path) -> Iterator[Where]:
    with servers.mariadb(directory, _MYSQL) as server:
        yield _MYSQL
        run(*server.client, "--compress", "--execute=SELECT REPEAT('secret', 100)")
        yield _MYSQL


@_scenario("mysql/mock-server")
def _mock(directory: Path) -> Iterator[Where]:
    host, port = _MYSQL
    with Program(directory, TRAFFIC_GEN, "mysql-server", "--host", host, "--port", port):
        wait_listening(port, host)
        yield _MYSQL
        run(TRAFFIC_GEN, "mysql-client", "--host", host, "--port", port)
        yield _MYSQL


_QUERIES = [
    "INSERT INTO item VALUES (1, 'it''s')",
    "SELECT name FROM item WHERE id = 1; UPDATE item SET name = 'one'; SELECT 2",
    "SELECT * FROM nowhere",
    "DROP TABLE IF EXISTS nowhere",
    "",
]


@_scenario("postgresql/psql")
def _psql(directory: Path) -> Iterator[Where]:
    del directory
    with servers.postgresql(_POSTGRESQL) as server:
        yield _POSTGRESQL
        commands = [f"--command={text}" for text in _QUERIES]
        run(*server.psql(*commands))
        run(*server.psql("--file=-"), input=b"\\copy item from stdin\n7\tseven\n8\teight\n\\.\n")
        run(*server.psql("--command=COPY item TO STDOUT", "--command=\\lo_import /etc/hostname"))
        run(*server.psql("--command=SELECT 1", user="nobody"))
        run(*server.psql("--command=SELECT 'after a password'", user="scram", password="scram"))  # noqa: S106  # the role's name
        yield _POSTGRESQL


@_scenario("postgresql/psql-unix")
def _psql_unix(directory: Path) -> Iterator[Where]:
    del directory
    where = frozenset({"psql", "postgres"})
    with servers.postgresql(_POSTGRESQL) as server:
        yield where
        where_to = (f"--host={server.directory}", f"--port={server.port}", "--username=postgres", "shop")
        run("psql", "--no-psqlrc", "--command=SELECT 'over unix'", "--command=SELEC 1", *where_to)
        yield where


@_scenario("postgresql/psycopg")
def _psycopg(directory: Path) -> Iterator[Where]:
    del directory
    with servers.postgresql(_POSTGRESQL) as server:
        yield _POSTGRESQL
        # The fourth execution of a statement is prepared, those behind it use that.
        options = {"autocommit": True, "prepare_threshold": 3}
        with psycopg.connect(server.uri(application_name="golden"), **options) as session:  # type: ignore[arg-type]
            for number in range(6):
                session.execute("SELECT name FROM item WHERE id = %s", (number,))
            with contextlib.suppress(psycopg.Error):
                session.execute("SELECT * FROM nowhere WHERE id = %s", (1,))
            with session.pipeline():
                for number in range(2):
                    session.execute("INSERT INTO item VALUES (%s, %s)", (number, "x"))
            with contextlib.suppress(psycopg.Error), session.pipeline():
                session.execute("SELECT 1")
                session.execute("SELEC 2")
                session.execute("SELECT 3")
            with session.cursor().copy("COPY item FROM STDIN") as copy:
                copy.write_row((300, "z"))
            with session.transaction(), session.cursor("fetched") as cursor:
                cursor.execute("SELECT * FROM item")
                cursor.fetchmany(2)
        yield _POSTGRESQL


async def _use_asyncpg() -> None:
    host, port = _POSTGRESQL
    session = await asyncpg.connect(host=host, port=port, user="postgres", database="shop", ssl=False)
    for number in range(3):
        await session.fetch("SELECT name FROM item WHERE id = $1", number)
    await session.executemany("INSERT INTO item VALUES ($1, $2)", [(number, "x") for number in range(2)])
    with contextlib.suppress(asyncpg.PostgresError):
        await session.fetch("SELECT * FROM nowhere")
    async with session.transaction():
        async for _ in session.cursor("SELECT generate_series(1, 5)", prefetch=2):
            pass
    await session.add_listener("news", lambda *_: None)
    await session.execute("NOTIFY news, 'hello'")
    await session.copy_records_to_table("item", records=[(100, "a"), (101, "b")])
    await session.copy_from_query("SELECT * FROM item", output=io.BytesIO())
    await session.close()


@_scenario("postgresql/asyncpg")
def _asyncpg(directory: Path) -> Iterator[Where]:
    del directory
    with servers.postgresql(_POSTGRESQL):
        yield _POSTGRESQL
        asyncio.run(_use_asyncpg())
        yield _POSTGRESQL


@_scenario("postgresql/jdbc")
def _jdbc(directory: Path) -> Iterator[Where]:
    del directory
    with servers.postgresql(_POSTGRESQL) as server:
        yield _POSTGRESQL
        assert servers.jdbc(server, executions=8, rows=12).code == 0
        yield _POSTGRESQL


@_scenario("postgresql/php")
def _postgresql_php(directory: Path) -> Iterator[Where]:
    del directory
    with servers.postgresql(_POSTGRESQL) as server:
        yield _POSTGRESQL
        assert servers.postgresql_php(server).lines == ["1"] * 3 + ["00000", "22012", "42P01", "26000"]
        yield _POSTGRESQL


@_scenario("postgresql/pg8000")
def _pg8000(directory: Path) -> Iterator[Where]:
    del directory
    host, port = _POSTGRESQL
    with servers.postgresql(_POSTGRESQL):
        yield _POSTGRESQL
        session = pg8000.native.Connection("postgres", host, database="shop", port=port, ssl_context=False)
        session.run("SELECT 1 AS simple")
        for number in range(2):
            session.run("SELECT :number::int AS unnamed", number=number)
        prepared = session.prepare("INSERT INTO item VALUES (:id, :name)")
        for number in (1, 2, 1):
            with contextlib.suppress(pg8000.native.DatabaseError):
                prepared.run(id=number, name="x")
        prepared.close()
        with contextlib.suppress(pg8000.native.DatabaseError):
            session.run("SELECT :id FROM nowhere", id=1)
        session.run("COPY item FROM STDIN", stream=io.BytesIO(b"7\tseven\n"))
        session.run("COPY item TO STDOUT", stream=io.BytesIO())
        session.close()
        session = pg8000.native.Connection("scram", host, "shop", port, "scram", ssl_context=False)
        session.close()
        yield _POSTGRESQL


@_scenario("postgresql/batches")
def _batches(directory: Path) -> Iterator[Where]:
    """The server answers the second while it still reads it."""
    del directory
    with servers.postgresql(_POSTGRESQL) as server:
        yield _POSTGRESQL
        asyncio.run(_insert_with_asyncpg(20))
        with psycopg.connect(server.uri(), autocommit=True) as session:
            session.cursor().executemany("SELECT %s::text", [("x" * 90,)] * 75)
        yield _POSTGRESQL


async def _insert_with_asyncpg(rows: int) -> None:
    host, port = _POSTGRESQL
    session = await asyncpg.connect(host=host, port=port, user="postgres", database="shop", ssl=False)
    await session.executemany("INSERT INTO item VALUES ($1, $2)", [(one, "x") for one in range(rows)])
    await session.close()


def _pgbench(mode: str) -> Iterator[Where]:
    with servers.postgresql(_POSTGRESQL) as server:
        run(*server.pgbench("--initialize", "--init-steps=dtg", "--quiet"))
        yield _POSTGRESQL
        run(*server.pgbench(f"--protocol={mode}", "--transactions=1", "--random-seed=1"))
        run(*server.pgbench(f"--protocol={mode}", "--transactions=2", "--random-seed=1", "--select-only"))
        yield _POSTGRESQL


@_scenario("postgresql/pgbench-simple")
def _pgbench_simple(directory: Path) -> Iterator[Where]:
    del directory
    yield from _pgbench("simple")


@_scenario("postgresql/pgbench-extended")
def _pgbench_extended(directory: Path) -> Iterator[Where]:
    del directory
    yield from _pgbench("extended")


@_scenario("postgresql/pgbench-prepared")
def _pgbench_prepared(directory: Path) -> Iterator[Where]:
    del directory
    yield from _pgbench("prepared")


@_scenario("postgresql/tls")
def _postgresql_tls(directory: Path) -> Iterator[Where]:
    del directory
    with servers.postgresql(_POSTGRESQL) as server:
        yield _POSTGRESQL
        run(*server.psql("--command=SELECT 'secret'", sslmode="require"))
        yield _POSTGRESQL


@_scenario("postgresql/http-on-5432")
def _http_on_5432(directory: Path) -> Iterator[Where]:
    with servers.nginx(directory, _POSTGRESQL):
        yield _POSTGRESQL
        run("curl", "--silent", f"{_url(_POSTGRESQL)}/SELECT")
        yield _POSTGRESQL


@_scenario("postgresql/mysql-on-5432")
def _mysql_on_5432(directory: Path) -> Iterator[Where]:
    with servers.mariadb(directory, _POSTGRESQL) as server:
        yield _POSTGRESQL
        run(*server.client, "--execute=SELECT 1")
        yield _POSTGRESQL


@_scenario("postgresql/redis-on-5432")
def _redis_on_5432(directory: Path) -> Iterator[Where]:
    host, port = _POSTGRESQL
    with servers.redis(directory, _POSTGRESQL):
        yield _POSTGRESQL
        run("redis-cli", "-h", host, "-p", port, "SET", "key", "SELECT 1")
        yield _POSTGRESQL


@_scenario("postgresql/tls-on-5432")
def _tls_on_5432(directory: Path) -> Iterator[Where]:
    with servers.nginx(directory, _POSTGRESQL, tls=True):
        yield _POSTGRESQL
        run("curl", "--silent", "--insecure", f"https://{_POSTGRESQL[0]}:{_POSTGRESQL[1]}/secret")
        yield _POSTGRESQL


@_scenario("postgresql/random-on-5432")
def _random_on_5432(directory: Path) -> Iterator[Where]:
    del directory
    yield from _noise(5432, _POSTGRESQL)


_REDIS_CLI = ("redis-cli", "-h", _REDIS[0], "-p", _REDIS[1])


@_scenario("redis/redis-cli")
def _redis_cli(directory: Path) -> Iterator[Where]:
    with servers.redis(directory, _REDIS):
        yield _REDIS
        words = [
            "SET user:1 secret",
            "GET user:1",
            "GET user:2",
            "LPUSH user:1 x",
            "NOSUCH secret",
            "SELECT 3",
        ]
        run(*_REDIS_CLI, input="\n".join([*words, "INCR count:7", "MULTI", "GET a", "EXEC"]).encode())
        run(*_REDIS_CLI, "-3", "HSET", "h", "field", "secret")
        run(*_REDIS_CLI, "-3", "HGETALL", "h")
        run(*_REDIS_CLI, "--user", "nobody", "--pass", "secret", "PING")
        yield _REDIS


@_scenario("redis/redis-py")
def _redis_py(directory: Path) -> Iterator[Where]:
    with servers.redis(directory, _REDIS):
        yield _REDIS
        for version in (2, 3):
            with redis.Redis(*_REDIS, protocol=version) as client:
                _use_redis(client)
        yield _REDIS


def _use_redis(client: Any) -> None:  # noqa: ANN401  # its types do not tell clients from coroutines
    """Do what applications do: values, pipelines, errors, streams, scripts, locks and messages."""
    client.set("session:550e8400-e29b-41d4-a716-446655440000", "secret", ex=60)
    with client.pipeline(transaction=True) as pipeline:
        pipeline.incr("visits:2024-01-31").zadd("board:7", {"secret": 1}).execute()
    with client.pipeline(transaction=False) as pipeline:
        for number in range(20):
            pipeline.get(f"user:{number}")
        pipeline.execute()
    with contextlib.suppress(redis.ResponseError):
        client.lpop("board:7")
    client.blpop("queue:1", timeout=0.1)
    client.xadd("stream:1", {"secret": "secret"})
    client.xread({"stream:1": "$"}, block=50)
    client.eval("return redis.call('get', KEYS[1])", 1, "user:1")
    with client.pubsub() as channel:
        channel.subscribe("news:1")
        client.publish("news:1", "secret")
        for _ in range(2):
            channel.get_message(timeout=1)


@_scenario("redis/php")
def _redis_php(directory: Path) -> Iterator[Where]:
    with servers.redis(directory, _REDIS):
        yield _REDIS
        run("php", Path(servers.__file__).with_name("redis_client.php"), *_REDIS)
        yield _REDIS


def _redis_benchmark(pipeline: int) -> None:
    tests = "ping,set,get,incr,lpush,lrange_100,mset"
    load = ("-c", 2, "-n", 32, "-P", pipeline, "-t", tests, "-q")
    run("redis-benchmark", "-h", _REDIS[0], "-p", _REDIS[1], *load)


@_scenario("redis/benchmark")
def _benchmark(directory: Path) -> Iterator[Where]:
    with servers.redis(directory, _REDIS):
        yield _REDIS
        _redis_benchmark(1)
        yield _REDIS


@_scenario("redis/benchmark-pipelined")
def _benchmark_pipelined(directory: Path) -> Iterator[Where]:
    with servers.redis(directory, _REDIS):
        yield _REDIS
        _redis_benchmark(16)
        yield _REDIS


def _ask_redis(address: Address, *words: str) -> str:
    return run("redis-cli", "-h", address[0], "-p", address[1], *words).stdout.strip()


@_scenario("redis/cluster")
def _cluster(directory: Path) -> Iterator[Where]:
    other, second = ("127.0.63.80", 6379), directory / "second"
    second.mkdir()
    options = ("--cluster-enabled", "yes", "--cluster-port", "16379")
    with servers.redis(directory, _REDIS, *options), servers.redis(second, other, *options):
        _ask_redis(_REDIS, "CLUSTER", "ADDSLOTSRANGE", "0", "8191")
        _ask_redis(other, "CLUSTER", "ADDSLOTSRANGE", "8192", "16383")
        _ask_redis(_REDIS, "CLUSTER", "MEET", other[0], str(other[1]))
        until(lambda: "cluster_state:ok" in _ask_redis(_REDIS, "CLUSTER", "INFO"))
        slot, node = _ask_redis(_REDIS, "CLUSTER", "KEYSLOT", "user:2"), _ask_redis(other, "CLUSTER", "MYID")
        _ask_redis(_REDIS, "CLUSTER", "SETSLOT", slot, "MIGRATING", node)
        yield _REDIS
        run(*_REDIS_CLI, "GET", "user:1")
        run(*_REDIS_CLI, "GET", "user:2")
        yield _REDIS


@_scenario("redis/http-on-6379")
def _http_on_6379(directory: Path) -> Iterator[Where]:
    with servers.nginx(directory, _REDIS):
        yield _REDIS
        run("curl", "--silent", f"{_url(_REDIS)}/GET")
        yield _REDIS


@_scenario("redis/mysql-on-6379")
def _mysql_on_6379(directory: Path) -> Iterator[Where]:
    with servers.mariadb(directory, _REDIS) as server:
        yield _REDIS
        run(*server.client, "--execute=SELECT '*1\r\n$4\r\nPING\r\n'")
        yield _REDIS


@_scenario("redis/tls-on-6379")
def _tls_on_6379(directory: Path) -> Iterator[Where]:
    certificate, key = servers.tls_files(directory)
    files = ("--tls-cert-file", str(certificate), "--tls-key-file", str(key), "--tls-auth-clients", "no")
    with servers.redis(directory, _REDIS, "--port", "0", "--tls-port", str(_REDIS[1]), *files):
        yield _REDIS
        run(*_REDIS_CLI, "--tls", "--insecure", "SET", "key", "secret")
        yield _REDIS


@_scenario("redis/random-on-6379")
def _random_on_6379(directory: Path) -> Iterator[Where]:
    del directory
    yield from _noise(6379, _REDIS)


@_scenario("memcached/pymemcache")
def _pymemcache(directory: Path) -> Iterator[Where]:
    with servers.memcached(directory, _MEMCACHED):
        yield _MEMCACHED
        client = pymemcache.Client(_MEMCACHED)
        client.set("user:1", "secret")  # noreply, as is this client's default
        client.get("user:1")
        client.set("user:1", "secret" * 100, expire=60, noreply=False)
        client.get_many([f"user:{number}" for number in range(20)])
        client.set_many({f"session:{number}": "secret" for number in range(10)})
        client.gets("session:1")
        client.cas("session:1", "secret", "1", noreply=False)
        client.set("count", "1", noreply=False)
        client.incr("count", 41)
        with contextlib.suppress(pymemcache.MemcacheClientError):
            client.incr("user:1", 1)
        client.delete("user:9f86d081884c7d65", noreply=False)
        client.touch("user:1", 10, noreply=False)
        client.version()
        client.stats()
        client.quit()
        yield _MEMCACHED


@_scenario("memcached/libmemcached")
def _libmemcached(directory: Path) -> Iterator[Where]:
    (directory / "user1").write_text("secret")
    server = f"--servers={_MEMCACHED[0]}:{_MEMCACHED[1]}"
    with servers.memcached(directory, _MEMCACHED):
        yield _MEMCACHED
        for protocol in ([], ["--binary"]):
            run("memccp", server, *protocol, directory / "user1")
            run("memccat", server, *protocol, "user1", "user2")
            run("memcexist", server, *protocol, "user1")
            run("memctouch", server, *protocol, "--expire=60", "user1")
            run("memcrm", server, *protocol, "user1")
            run("memcping", server, *protocol)
            run("memcflush", server, *protocol)
        yield _MEMCACHED


@_scenario("memcached/php")
def _memcached_php(directory: Path) -> Iterator[Where]:
    with servers.memcached(directory, _MEMCACHED):
        yield _MEMCACHED
        run("php", Path(servers.__file__).with_name("memcached_client.php"), *_MEMCACHED)
        yield _MEMCACHED


@_scenario("memcached/meta")
def _meta(directory: Path) -> Iterator[Where]:
    with servers.memcached(directory, _MEMCACHED):
        yield _MEMCACHED
        lines = ["ms user:1 6 T60", "secret", "mg user:1 v t", "mg user:2 v", "ma count:1 N0", "md user:1"]
        for line in ["\r\n".join(lines[:2]), *lines[2:], "mg a v q\r\nmg b v q\r\nmn", "nosuch", "quit"]:
            exchange(_MEMCACHED[1], line.encode() + b"\r\nquit\r\n", _MEMCACHED[0])
        yield _MEMCACHED


@_scenario("memcached/http-on-11211")
def _http_on_11211(directory: Path) -> Iterator[Where]:
    with servers.nginx(directory, _MEMCACHED):
        yield _MEMCACHED
        run("curl", "--silent", f"{_url(_MEMCACHED)}/get")
        yield _MEMCACHED


@_scenario("memcached/redis-on-11211")
def _redis_on_11211(directory: Path) -> Iterator[Where]:
    with servers.redis(directory, _MEMCACHED):
        yield _MEMCACHED
        exchange(_MEMCACHED[1], b"get user:1\r\nquit\r\n", _MEMCACHED[0])
        yield _MEMCACHED


@_scenario("redis/memcached-on-6379")
def _memcached_on_6379(directory: Path) -> Iterator[Where]:
    with servers.memcached(directory, _REDIS):
        yield _REDIS
        exchange(_REDIS[1], b"get user:1\r\nquit\r\n", _REDIS[0])
        yield _REDIS


@_scenario("memcached/random-on-11211")
def _random_on_11211(directory: Path) -> Iterator[Where]:
    del directory
    yield from _noise(11211, _MEMCACHED)


_DNS: Address = ("127.0.53.53", 53)


def _dig(*words: object) -> None:
    run("dig", f"@{_DNS[0]}", "-p", _DNS[1], *words)


@_scenario("dns/dnsmasq-dig")
def _dnsmasq_dig(directory: Path) -> Iterator[Where]:
    with servers.dnsmasq(directory, _DNS):
        yield _DNS
        _dig("www.golden.test", "A", "alias.golden.test", "AAAA", "txt.golden.test", "TXT")
        _dig("missing.golden.test", "+noedns")
        _dig("www.golden.test", "+tcp")
        _dig("elsewhere.example", "HTTPS")
        yield _DNS


@_scenario("dns/unbound-glibc")
def _unbound_glibc(directory: Path) -> Iterator[Where]:
    with servers.unbound(directory, _DNS):
        yield _DNS
        for name in ("www.golden.test", "missing.golden.test"):
            run(*servers.resolving_at(directory, _DNS[0], "getent", "ahosts", name))
        _dig("+keepopen", "+tcp", "www.golden.test", "A", "txt.golden.test", "TXT")
        yield _DNS


@_scenario("dns/knot-kdig")
def _knot_kdig(directory: Path) -> Iterator[Where]:
    with servers.knot(directory, _DNS):
        yield _DNS
        host, port = _DNS
        kdig = ("kdig", f"@{host}", "-p", port)
        for words in (
            ("golden.test", "HTTPS", "golden.test", "TYPE65280"),
            ("my\\032printer._ipp._tcp.golden.test", "SRV", "WWW.golden.TEST", "AAAA"),
            ("golden.test", "AXFR"),
            ("+tcp", "+keepopen", "www.golden.test", "many.golden.test", "missing.golden.test"),
            ("elsewhere.example", "version.bind", "CH", "TXT"),
        ):
            run(*kdig, *words)
        update = "zone golden.test\nupdate add new.golden.test 60 A 192.0.2.99\nsend\n"
        for transport in ([], ["-v"]):
            run("knsupdate", *transport, input=f"server {host} {port}\n{update}".encode())
        yield _DNS


@_scenario("dns/knot-glibc")
def _knot_glibc(directory: Path) -> Iterator[Where]:
    with servers.knot(directory, _DNS):
        yield _DNS
        # Does not fit in a datagram without EDNS: A and AAAA are asked again over TCP, at once.
        run(*servers.resolving_at(directory, _DNS[0], "getent", "ahosts", "many.golden.test"))
        time.sleep(6)
        yield _DNS


@_scenario("dns/unanswered")
def _unanswered(directory: Path) -> Iterator[Where]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as deaf:
        deaf.bind(_DNS)
        yield _DNS
        # Two tries for each of A and AAAA, a second apart, and nobody answers.
        run(*servers.resolving_at(directory, _DNS[0], "getent", "ahosts", "www.golden.test"))
        _dig("+tries=1", "+time=1", "www.golden.test")
        time.sleep(6)
        yield _DNS


@_scenario("dns/refused")
def _refused(directory: Path) -> Iterator[Where]:
    yield _DNS
    # Of A and AAAA at once the second one's send meets the first one's refusal; of one nobody reads it.
    for database in ("ahosts", "ahostsv4"):
        run(*servers.resolving_at(directory, _DNS[0], "getent", database, "www.golden.test"))
    _dig("+tries=2", "+time=1", "www.golden.test")
    yield _DNS


@_scenario("dns/kresd-denied")
def _kresd_denied(directory: Path) -> Iterator[Where]:
    with servers.kresd(directory, _DNS):
        yield _DNS
        _dig("www.denied.test", "www.example.org", "AAAA")
        _dig("+tcp", "www.denied.test")
        _dig("+noedns", "www.denied.test")
        yield _DNS


@_scenario("dns/random-on-53")
def _random_on_53(directory: Path) -> Iterator[Where]:
    del directory
    noise = random.Random(53)  # noqa: S311  # not for secrets
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(_DNS)
        yield _DNS
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.connect(_DNS)
            for _ in range(3):
                client.send(noise.randbytes(noise.randrange(1, 120)))
                server.sendto(noise.randbytes(noise.randrange(1, 120)), server.recvfrom(4096)[1])
                client.recv(4096)
        yield _DNS


@_scenario("dns/http-on-53")
def _http_on_53(directory: Path) -> Iterator[Where]:
    with servers.nginx(directory, _DNS):
        yield _DNS
        run("curl", "--silent", f"{_url(_DNS)}/A")
        yield _DNS


def _mongo(**options: Any) -> pymongo.MongoClient[dict[str, Any]]:  # noqa: ANN401  # handed on to the driver
    # Polling monitors and no waiting in the background: the same turns in every capture.
    polling: dict[str, Any] = {"serverMonitoringMode": "poll", "heartbeatFrequencyMS": 60_000} | options
    return pymongo.MongoClient(*_MONGODB, **polling)


def _mongo_commands(client: pymongo.MongoClient[dict[str, Any]]) -> None:
    users = client.app.users
    users.create_index("email", unique=True)
    users.insert_one({"_id": 1, "email": "a secret"})
    users.insert_many([{"_id": number, "email": f"secret {number}"} for number in range(2, 300)])
    for work in (
        lambda: users.insert_one({"email": "a secret"}),
        lambda: list(users.aggregate([{"$nosuch": "a secret"}])),
        lambda: users.drop_index("a secret"),
        lambda: users.update_one({"email": "a secret"}, {"$set": {"name": "another secret"}}),
        lambda: users.find_one({"email": "a secret", "filler": "x" * 300}),
        lambda: list(users.find({}, batch_size=200)),
        lambda: users.delete_one({"_id": 2}),
        client.app.list_collection_names,
        lambda: client.app.command("nosuch", "a secret"),
    ):
        with contextlib.suppress(PyMongoError):
            work()


@_scenario("mongodb/pymongo")
def _pymongo(directory: Path) -> Iterator[Where]:
    with servers.mongodb(directory, _MONGODB):
        yield _MONGODB
        with _mongo() as client:
            _mongo_commands(client)
            quiet = client.app.get_collection("log", write_concern=pymongo.WriteConcern(w=0))
            quiet.insert_one({"_id": 1, "text": "a secret"})
            client.app.log.find_one({"_id": 1})
            exhaust = client.app.users.find({}, batch_size=100, cursor_type=pymongo.CursorType.EXHAUST)
            assert len(list(exhaust)) > 200
        yield _MONGODB


@_scenario("mongodb/waiting")
def _waiting(directory: Path) -> Iterator[Where]:
    with servers.mongodb(directory, _MONGODB):
        yield _MONGODB
        with _mongo(serverMonitoringMode="stream", heartbeatFrequencyMS=500) as client:
            client.app.log.insert_one({"_id": 1, "text": "a secret"})
            cursor = client.app.log.find({}, cursor_type=pymongo.CursorType.TAILABLE_AWAIT)
            next(cursor.max_await_time_ms(700))
            assert next(cursor, None) is None
            cursor.close()
        yield _MONGODB


@_scenario("mongodb/compressed")
def _mongo_compressed(directory: Path) -> Iterator[Where]:
    with servers.mongodb(directory, _MONGODB):
        yield _MONGODB
        with _mongo(compressors="zlib") as client:
            _mongo_commands(client)
        yield _MONGODB


@_scenario("mongodb/login")
def _mongo_login(directory: Path) -> Iterator[Where]:
    with servers.mongodb(directory, _MONGODB):
        yield _MONGODB
        with _mongo(username="alice", password="a secret") as client, contextlib.suppress(OperationFailure):  # noqa: S106  # nobody's
            client.app.users.find_one({})
        yield _MONGODB


@_scenario("mongodb/php")
def _php(directory: Path) -> Iterator[Where]:
    with servers.mongodb(directory, _MONGODB):
        yield _MONGODB
        host, port = _MONGODB
        done = run("php", Path(servers.__file__).with_name("mongodb_client.php"), f"{host}:{port}", 5)
        assert done.code == 0, done.stderr
        yield _MONGODB


@_scenario("mongodb/nx-27017")
def _nx_27017(directory: Path) -> Iterator[Where]:
    with servers.nx_27017(directory, _MONGODB):
        yield _MONGODB
        with _mongo() as client:
            _mongo_commands(client)
        yield _MONGODB


@_scenario("mongodb/http-on-27017")
def _http_on_27017(directory: Path) -> Iterator[Where]:
    with servers.nginx(directory, _MONGODB):
        yield _MONGODB
        run("curl", "--silent", f"{_url(_MONGODB)}/find")
        yield _MONGODB


@_scenario("mongodb/redis-on-27017")
def _redis_on_27017(directory: Path) -> Iterator[Where]:
    with servers.redis(directory, _MONGODB):
        yield _MONGODB
        host, port = _MONGODB
        run("redis-cli", "-h", host, "-p", port, "GET", "find")
        yield _MONGODB


@_scenario("mongodb/mysql-on-27017")
def _mysql_on_27017(directory: Path) -> Iterator[Where]:
    with servers.mariadb(directory, _MONGODB) as server:
        yield _MONGODB
        run(*server.client, "--execute=SELECT 'find'")
        yield _MONGODB


@_scenario("mongodb/tls-on-27017")
def _tls_on_27017(directory: Path) -> Iterator[Where]:
    with servers.nginx(directory, _MONGODB, tls=True):
        yield _MONGODB
        run("curl", "--silent", "--insecure", f"https://{_MONGODB[0]}:{_MONGODB[1]}/secret")
        yield _MONGODB


@_scenario("mongodb/random-on-27017")
def _random_on_27017(directory: Path) -> Iterator[Where]:
    del directory
    yield from _noise(27017, _MONGODB)


def _nats_url(address: Address = _NATS) -> str:
    return f"nats://{address[0]}:{address[1]}"


async def _use_nats() -> None:
    service, client = await nats.connect(_nats_url()), await nats.connect(_nats_url())

    async def answer(message: Msg) -> None:
        await message.respond(b"a secret answer")

    await service.subscribe("billing.*", cb=answer)
    news = await service.subscribe("news.>", queue="readers")
    # Its PING overtakes what is to be flushed: only the second tells that the subscription is there.
    await service.flush()
    await service.flush()
    for number in range(3):
        await client.request(f"billing.{number}", b"a secret")
    await asyncio.gather(*(client.request(f"billing.{number}", b"a secret") for number in range(10)))
    with contextlib.suppress(nats.errors.NoRespondersError):
        await client.request("nobody.9", b"a secret")
    for number in range(4):
        await client.publish(f"news.{number}", b"a secret" * 100)
        await client.flush()
        await news.next_msg()
    await client.publish("news.headers", b"a secret", headers={"secret": "secret"})
    await client.flush()
    await news.unsubscribe()
    await client.close()
    await service.close()


@_scenario("nats/nats-py")
def _nats_py(directory: Path) -> Iterator[Where]:
    with servers.nats(directory, _NATS):
        yield _NATS
        asyncio.run(_use_nats())
        yield _NATS


@_scenario("nats/libnats")
def _libnats(directory: Path) -> Iterator[Where]:
    with servers.nats(directory, _NATS):
        yield _NATS
        run(sys.executable, Path(libnats_client.__file__), _nats_url(), 3)
        yield _NATS


@_scenario("nats/verbose")
def _nats_verbose(directory: Path) -> Iterator[Where]:
    """A client that has every line acknowledged, as people do with netcat; and one that may not come in."""
    with servers.nats(directory, _NATS):
        yield _NATS
        with socket.create_connection(_NATS) as client:
            read_until(client, b"\r\n")
            for line in (b"SUB own.> 1", b"PUB orders.7 8\r\na secret", b"PUB orders.8 3\r\nyes", b"nosuch"):
                client.sendall(line + b"\r\n")
                read_until(client, b"\r\n")
        yield _NATS


@_scenario("nats/refused")
def _nats_refused(directory: Path) -> Iterator[Where]:
    with servers.nats(directory, _NATS, "--user", "alice", "--pass", "secret"):
        yield _NATS
        with socket.create_connection(_NATS) as client:
            read_until(client, b"\r\n")
            client.sendall(b'CONNECT {"verbose":false,"user":"alice","pass":"guess"}\r\nPING\r\n')
            read_until(client, b"\r\n")
        yield _NATS


async def _ask_nats_by_tls() -> None:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    client = await nats.connect(_nats_url(), tls=context)
    await client.publish("orders.secret", b"a secret")
    await client.flush()
    await client.close()


@_scenario("nats/tls")
def _nats_tls(directory: Path) -> Iterator[Where]:
    certificate, key = servers.tls_files(directory)
    with servers.nats(directory, _NATS, "--tls", "--tlscert", str(certificate), "--tlskey", str(key)):
        yield _NATS
        asyncio.run(_ask_nats_by_tls())
        yield _NATS


@_scenario("nats/http-on-4222")
def _http_on_4222(directory: Path) -> Iterator[Where]:
    with servers.nginx(directory, _NATS):
        yield _NATS
        run("curl", "--silent", f"{_url(_NATS)}/PUB")
        yield _NATS


@_scenario("nats/redis-on-4222")
def _redis_on_4222(directory: Path) -> Iterator[Where]:
    with servers.redis(directory, _NATS):
        yield _NATS
        exchange(_NATS[1], b"PING\r\nINFO server\r\nquit\r\n", _NATS[0])
        yield _NATS


@_scenario("nats/memcached-on-4222")
def _memcached_on_4222(directory: Path) -> Iterator[Where]:
    with servers.memcached(directory, _NATS):
        yield _NATS
        exchange(_NATS[1], b"get PUB\r\nquit\r\n", _NATS[0])
        yield _NATS


@_scenario("nats/mysql-on-4222")
def _mysql_on_4222(directory: Path) -> Iterator[Where]:
    with servers.mariadb(directory, _NATS) as server:
        yield _NATS
        run(*server.client, "--execute=SELECT 'PUB x 1'")
        yield _NATS


@_scenario("nats/tls-on-4222")
def _tls_on_4222(directory: Path) -> Iterator[Where]:
    with servers.nginx(directory, _NATS, tls=True):
        yield _NATS
        run("curl", "--silent", "--insecure", f"https://{_NATS[0]}:{_NATS[1]}/secret")
        yield _NATS


@_scenario("nats/random-on-4222")
def _random_on_4222(directory: Path) -> Iterator[Where]:
    del directory
    yield from _noise(4222, _NATS)


def _nats_on(address: Address) -> Scenario:
    def scenario(directory: Path) -> Iterator[Where]:
        with servers.nats(directory, address):
            yield address
            run(sys.executable, Path(libnats_client.__file__), _nats_url(address), 1)
            yield address

    return scenario


def _mongodb_on(address: Address) -> Scenario:
    def scenario(directory: Path) -> Iterator[Where]:
        with servers.mongodb(directory, address):
            yield address
            # The handshake is an OP_QUERY, the commands are OP_MSG.
            script = Path(servers.__file__).with_name("mongodb_client.php")
            run("php", script, f"{address[0]}:{address[1]}", 1)
            yield address

    return scenario


for _name, _address in (
    ("http/mongodb-on-80", _HTTP),
    ("memcached/mongodb-on-11211", _MEMCACHED),
    ("mysql/mongodb-on-3306", _MYSQL),
    ("postgresql/mongodb-on-5432", _POSTGRESQL),
    ("redis/mongodb-on-6379", _REDIS),
):
    SCENARIOS[_name] = _mongodb_on(_address)

for _name, _address in (
    ("http/nats-on-80", _HTTP),
    ("memcached/nats-on-11211", _MEMCACHED),
    ("mongodb/nats-on-27017", _MONGODB),
    ("mysql/nats-on-3306", _MYSQL),
    ("postgresql/nats-on-5432", _POSTGRESQL),
    ("redis/nats-on-6379", _REDIS),
):
    SCENARIOS[_name] = _nats_on(_address)
