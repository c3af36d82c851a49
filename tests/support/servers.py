"""Real servers, each on ports and directories of its own."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import signal
import socket
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support import mongodb_server
from tests.support.ports import LOOPBACK, free_port, wait_listening
from tests.support.programs import Program, run, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tests.support.programs import Finished

    Serve = Callable[[socket.socket], object]

__all__ = [
    "MariaDb",
    "Nginx",
    "PostgreSql",
    "distant_dns",
    "dnsmasq",
    "jdbc",
    "knot",
    "kresd",
    "mariadb",
    "mariadb_jdbc",
    "mariadb_php",
    "memcached",
    "mongodb",
    "nats",
    "nginx",
    "nx_27017",
    "postgresql",
    "prometheus",
    "redis",
    "resolving_at",
    "scripted",
    "tls_files",
    "unbound",
]

_NGINX = """
user root;
worker_processes 1;
daemon off;
pid {directory}/nginx.pid;
error_log {directory}/error.log;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    keepalive_requests 100000000;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    large_client_header_buffers 4 64k;
    server {{
        listen {listen} default_server;
        {more}
        listen unix:{directory}/nginx.sock;
        location / {{ return 200 "hello\\n"; }}
        location /moved {{ return 301 /; }}
        location /missing {{ return 404; }}
        location /broken {{ return 502; }}
        location /busy {{ return 503; }}
        location /gone {{ return 444; }}
        location = /stub {{ stub_status; }}
        location /files/ {{
            alias {directory}/files/;
            sendfile on;
            sendfile_max_chunk 0;
            dav_methods PUT;
            ssi on;
            client_max_body_size 100m;
        }}
        location /upload/ {{
            client_max_body_size 100m;
            sendfile on;
            proxy_pass http://127.0.0.1:$arg_port;
        }}
    }}
}}
"""


@dataclasses.dataclass(frozen=True, slots=True)
class Nginx:
    """One worker. `files` is served with sendfile below /files/, what ends in .html there in chunks.

    What is sent to /upload/?port=PORT is taken whole, and then sent on to that port.
    """

    port: int
    directory: Path
    address: str = LOOPBACK

    @property
    def files(self) -> Path:
        """What is below /files/."""
        return self.directory / "files"

    @property
    def unix_path(self) -> Path:
        """The Unix socket it listens on too."""
        return self.directory / "nginx.sock"

    @property
    def url(self) -> str:
        """Where it is, without a path."""
        return f"http://{self.address}:{self.port}"

    @property
    def worker(self) -> int:
        """PID of the process that serves."""
        master = (self.directory / "nginx.pid").read_text().strip()
        return int(Path(f"/proc/{master}/task/{master}/children").read_text())

    def requests(self) -> int:
        """Return how many requests nginx itself has counted, this one included."""
        # Over the Unix socket, so that a count by port leaves it out.
        status = run("curl", "--silent", "--unix-socket", self.unix_path, "http://nginx/stub").stdout
        return int(status.splitlines()[2].split()[2])


@contextlib.contextmanager
def nginx(directory: Path, address: tuple[str, int] | None = None, *, tls: bool = False) -> Iterator[Nginx]:
    """Run nginx with one worker.

    address: where it listens; else on a free port of 127.0.0.1 and ::1. tls: speak TLS there.
    """
    host, port = address or (LOOPBACK, free_port())
    server = Nginx(port, directory, host)
    server.files.mkdir()
    more = "" if address else f"listen [::1]:{port};"
    if tls:
        certificate, key = tls_files(directory)
        more += f"ssl_certificate {certificate}; ssl_certificate_key {key};"
    config = directory / "nginx.conf"
    listen = f"{host}:{port}" + " ssl" * tls
    config.write_text(_NGINX.format(directory=directory, listen=listen, more=more))
    with Program(directory, "nginx", "-c", config) as program, _terminated(program):
        wait_listening(port, host)
        yield server


@contextlib.contextmanager
def _terminated(program: Program) -> Iterator[None]:
    """End a server in its own way, so that its workers end too."""
    try:
        yield
    finally:
        program.process.terminate()
        program.process.wait(30)


@dataclasses.dataclass(frozen=True, slots=True)
class MariaDb:
    """User `root` has no password. Offers TLS."""

    port: int
    socket: Path
    address: str = LOOPBACK

    @property
    def client(self) -> tuple[str, ...]:
        """The command line of MariaDB's own client, over TCP."""
        where = (f"--host={self.address}", f"--port={self.port}", "--user=root", "--protocol=tcp")
        return ("mariadb", "--no-defaults", *where, "--skip-ssl", "--batch")


@contextlib.contextmanager
def mariadb(directory: Path, address: tuple[str, int] | None = None) -> Iterator[MariaDb]:
    """Run a MariaDB server with a new data directory that has the database `shop`.

    address: where it listens; else on a free port of 127.0.0.1.
    """
    host, port = address or (LOOPBACK, free_port())
    server = MariaDb(port, directory / "mariadb.sock", host)
    data = directory / "data"
    install = ("--auth-root-authentication-method=normal", "--skip-test-db", "--skip-name-resolve")
    made = run("mariadb-install-db", "--no-defaults", f"--datadir={data}", "--user=root", *install)
    assert made.code == 0, made.stdout + made.stderr
    command = _mariadbd(server, data, *tls_files(directory))
    with Program(directory, *command) as program, _terminated(program):
        wait_listening(port, host)
        run(*server.client, "--execute=CREATE DATABASE shop; CREATE TABLE shop.item (id INT, name TEXT)")
        yield server


def mariadb_jdbc(server: MariaDb, rows: int) -> Finished:
    """Use a server through MariaDB's driver for Java: `mariadb_client.java` tells what it does."""
    client = Path(__file__).with_name("mariadb_client.java")
    where = f"jdbc:mariadb://{server.address}:{server.port}/shop?user=root"
    return run("java", "-cp", "/usr/share/java/mariadb-java-client.jar", client, where, rows)


def mariadb_php(server: MariaDb) -> Finished:
    """Use a server through PHP's mysqlnd: `mariadb_client.php` tells what it does."""
    return run("php", Path(__file__).with_name("mariadb_client.php"), server.address, server.port)


def _mariadbd(server: MariaDb, data: Path, certificate: Path, key: Path) -> list[str]:
    return [
        "mariadbd",
        "--no-defaults",
        "--user=root",
        f"--datadir={data}",
        f"--socket={server.socket}",
        f"--pid-file={data}/pid",
        f"--port={server.port}",
        f"--bind-address={server.address}",
        f"--ssl-cert={certificate}",
        f"--ssl-key={key}",
        "--skip-name-resolve",
        "--innodb-flush-log-at-trx-commit=0",
        "--innodb-buffer-pool-size=16M",
        "--innodb-log-file-size=8M",
    ]


@dataclasses.dataclass(frozen=True, slots=True)
class PostgreSql:
    """User `postgres` needs no password, user `scram` has the password `scram`. Offers TLS.

    directory: of the Unix socket.
    """

    port: int
    directory: Path
    address: str = LOOPBACK

    @property
    def socket(self) -> Path:
        """The Unix socket."""
        return self.directory / f".s.PGSQL.{self.port}"

    def uri(self, user: str = "postgres", database: str = "shop", **parameters: str) -> str:
        """Return the address of a database over TCP, without TLS unless the parameters say otherwise."""
        more = "&".join(f"{key}={value}" for key, value in ({"sslmode": "disable"} | parameters).items())
        return f"postgresql://{user}@{self.address}:{self.port}/{database}?{more}"

    def psql(self, *more: object, **parameters: str) -> tuple[object, ...]:
        """Return the command line of psql, over TCP."""
        return ("psql", "--no-psqlrc", *more, self.uri(**parameters))

    def pgbench(self, *more: object) -> tuple[object, ...]:
        """Return the command line of pgbench, over TCP."""
        return ("pgbench", "--no-vacuum", *more, self.uri())


_POSTGRESQL = """
listen_addresses = '{address}'
port = {port}
unix_socket_directories = '{directory}'
ssl = on
ssl_cert_file = '{certificate}'
ssl_key_file = '{key}'
fsync = off
shared_buffers = 16MB
max_connections = 40
autovacuum = off
"""
_ACCESS = """
host all scram all scram-sha-256
local all all trust
host all all all trust
"""
_ROLES = "CREATE ROLE scram LOGIN PASSWORD 'scram'"
_ITEMS = "CREATE TABLE item (id int PRIMARY KEY, name text)"


@contextlib.contextmanager
def postgresql(address: tuple[str, int] | None = None) -> Iterator[PostgreSql]:
    """Run PostgreSQL with a new cluster that has the database `shop` with the table `item`.

    It refuses to run as root, and runs as the user `postgres` in a directory of its own.
    address: where it listens; else on a free port of 127.0.0.1.
    """
    host, port = address or (LOOPBACK, free_port())
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        data = directory / "data"
        server = PostgreSql(port, directory, host)
        certificate, key = tls_files(directory)
        for path in directory, certificate, key:
            shutil.chown(path, "postgres", "postgres")
        # All of its databases are copies of template0, whose text is ASCII unless the locale says otherwise.
        form = ("--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync", f"--pgdata={data}")
        made = run("initdb", *form, user="postgres", cwd=directory)
        assert made.code == 0, made.stdout + made.stderr
        (data / "postgresql.conf").write_text(
            _POSTGRESQL.format(address=host, port=port, directory=directory, certificate=certificate, key=key)
        )
        (data / "pg_hba.conf").write_text(_ACCESS)
        command = ("postgres", "-D", data)
        with Program(directory, *command, user="postgres", cwd=directory) as program, _interrupted(program):
            wait_listening(port, host)
            until(lambda: run(*server.psql(database="postgres"), "--command=SELECT 1").code == 0)
            run(*server.psql(database="postgres"), "--command=CREATE DATABASE shop", f"--command={_ROLES}")
            run(*server.psql(), f"--command={_ITEMS}")
            yield server


def postgresql_php(server: PostgreSql) -> Finished:
    """Use a server through PHP's PDO: `postgresql_client.php` tells what it does."""
    return run("php", Path(__file__).with_name("postgresql_client.php"), server.address, server.port)


def jdbc(server: PostgreSql, executions: int, rows: int) -> Finished:
    """Use a server through PostgreSQL's driver for Java: `postgresql_client.java` tells what it does."""
    client = Path(__file__).with_name("postgresql_client.java")
    where = f"jdbc:postgresql://{server.address}:{server.port}/shop?user=postgres&sslmode=disable"
    return run("java", "-cp", "/usr/share/java/postgresql.jar", client, where, executions, rows)


@contextlib.contextmanager
def _interrupted(program: Program) -> Iterator[None]:
    """End PostgreSQL without waiting for its clients (fast shutdown)."""
    try:
        yield
    finally:
        program.process.send_signal(signal.SIGINT)
        program.process.wait(30)


def tls_files(directory: Path) -> tuple[Path, Path]:
    """Make a self-signed certificate for localhost; return it and its key."""
    certificate, key = directory / "certificate.pem", directory / "key.pem"
    form = ("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost")
    made = run("openssl", *form, "-keyout", key, "-out", certificate)
    assert made.code == 0, made.stderr
    return certificate, key


_PROMETHEUS = """
global:
  scrape_interval: 500ms
  scrape_timeout: 500ms
scrape_configs:
  - job_name: masdeepflow
    static_configs: [{{targets: ["{target}"]}}]
"""


@contextlib.contextmanager
def prometheus(directory: Path, target: str) -> Iterator[str]:
    """Run Prometheus, which scrapes `target` twice a second; give its address."""
    config = directory / "prometheus.yml"
    config.write_text(_PROMETHEUS.format(target=target))
    port = free_port()
    files = (f"--config.file={config}", f"--storage.tsdb.path={directory}/prometheus")
    with Program(directory, "prometheus", *files, f"--web.listen-address={LOOPBACK}:{port}") as program:
        wait_listening(port)
        with _terminated(program):
            yield f"http://{LOOPBACK}:{port}"


@contextlib.contextmanager
def redis(directory: Path, address: tuple[str, int] | None = None, *options: str) -> Iterator[int]:
    """Run Redis without persistence; give its port.

    address: where it listens; else on a free port of 127.0.0.1. options: more of its command line.
    """
    host, port = address or (LOOPBACK, free_port())
    where = ("--port", port, "--bind", host, "--save", "", "--dir", directory)
    with Program(directory, "redis-server", *where, *options) as program, _terminated(program):
        wait_listening(port, host)
        yield port


@contextlib.contextmanager
def memcached(directory: Path, address: tuple[str, int] | None = None, *options: str) -> Iterator[int]:
    """Run Memcached with one thread and 16 MB; give its port.

    address: where it listens; else on a free port of 127.0.0.1. options: more of its command line.
    """
    host, port = address or (LOOPBACK, free_port())
    command = ("memcached", "-u", "root", "-l", host, "-p", port, "-U", 0, "-t", 1, "-m", 16)
    with Program(directory, *command, *options) as program, _terminated(program):
        wait_listening(port, host)
        yield port


@contextlib.contextmanager
def mongodb(directory: Path, address: tuple[str, int] | None = None) -> Iterator[int]:
    """Run the double of MongoDB's server; give its port."""
    host, port = address or (LOOPBACK, free_port())
    command = (sys.executable, Path(mongodb_server.__file__), "--host", host, "--port", port)
    with Program(directory, *command):
        wait_listening(port, host)
        yield port


@contextlib.contextmanager
def nats(directory: Path, address: tuple[str, int] | None = None, *options: str) -> Iterator[int]:
    """Run a NATS server; give its port.

    address: where it listens; else on a free port of 127.0.0.1. options: more of its command line.
    """
    host, port = address or (LOOPBACK, free_port())
    with Program(directory, "nats-server", "-a", host, "-p", port, *options) as program, _terminated(program):
        wait_listening(port, host)
        yield port


@contextlib.contextmanager
def nx_27017(directory: Path, address: tuple[str, int] | None = None) -> Iterator[int]:
    """Run NX-27017, which speaks MongoDB's protocol over SQLite; give its port."""
    host, port = address or (LOOPBACK, free_port())
    files = ("--log-file", directory / "nx.log", "--pid-file", directory / "nx.pid")
    server = Path(sys.executable).with_name("nx-27017")
    with Program(directory, server, "--db", "memory", "--host", host, "--port", port, *files, cwd=directory):
        wait_listening(port, host)
        yield port


@contextlib.contextmanager
def scripted(serve: Serve, address: tuple[str, int] | None = None) -> Iterator[int]:
    """Give the port of a server in this process that calls `serve` with one connection after the other."""
    with socket.create_server(address or (LOOPBACK, free_port())) as listener:
        # Without a time limit a connection that a test forgot would keep the thread for good.
        listener.settimeout(60)
        thread = threading.Thread(target=_accept, args=(listener, serve), daemon=True)
        thread.start()
        yield int(listener.getsockname()[1])
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        thread.join(10)


def _accept(listener: socket.socket, serve: Serve) -> None:
    with contextlib.suppress(OSError):
        while True:
            client, _ = listener.accept()
            with client, contextlib.suppress(ConnectionError):
                client.settimeout(10)
                serve(client)


_ZONE = "golden.test"
_UNBOUND = """
server:
    interface: {host}@{port}
    port: {port}
    username: ""
    chroot: ""
    directory: "{directory}"
    pidfile: "{directory}/unbound.pid"
    use-syslog: no
    do-daemonize: no
    access-control: 127.0.0.0/8 allow
    module-config: "iterator"
    local-zone: "{zone}." static
    local-data: "www.{zone}. 60 IN A 192.0.2.1"
    local-data: "www.{zone}. 60 IN A 192.0.2.2"
    local-data: "www.{zone}. 60 IN AAAA 2001:db8::1"
    local-data: "txt.{zone}. IN TXT 'hello'"
    do-not-query-localhost: no
remote-control:
    control-enable: no
"""
_FORWARD = """
forward-zone:
    name: "."
    forward-addr: {host}@{port}
"""


@contextlib.contextmanager
def unbound(
    directory: Path, address: tuple[str, int], upstream: tuple[str, int] | None = None
) -> Iterator[None]:
    """Run unbound, which knows www and txt of golden.test.

    upstream: whom it asks for what it neither knows nor has cached; else it asks nobody.
    """
    host, port = address
    config = directory / "unbound.conf"
    text = _UNBOUND.format(host=host, port=port, directory=directory, zone=_ZONE)
    if upstream:
        text += _FORWARD.format(host=upstream[0], port=upstream[1])
    config.write_text(text)
    with Program(directory, "unbound", "-d", "-c", config):
        wait_listening(port, host)
        yield


@contextlib.contextmanager
def dnsmasq(directory: Path, address: tuple[str, int]) -> Iterator[None]:
    """Run dnsmasq, which knows www, an alias of it, and a text of golden.test, and asks nobody."""
    host, port = address
    words = [f"--listen-address={host}", f"--port={port}", "--bind-interfaces", "--no-resolv", "--no-hosts"]
    words += ["--keep-in-foreground", "--user=root", "--conf-file=/dev/null", f"--local=/{_ZONE}/"]
    words += [f"--host-record=www.{_ZONE},192.0.2.1,2001:db8::1", f"--cname=alias.{_ZONE},www.{_ZONE}"]
    words += [f"--txt-record=txt.{_ZONE},hello", f"--pid-file={directory}/dnsmasq.pid"]
    with Program(directory, "dnsmasq", *words):
        wait_listening(port, host)
        yield


_DNSDIST = """
setLocal("{host}:{port}")
setACL("127.0.0.0/8")
setSecurityPollSuffix("")
addAction(AllRule(), LuaAction(function(query)
    local number = tonumber(string.match(query.qname:toString(), "%d+")) or 0
    -- The golden ratio's multiples spread evenly.
    local share = number * 0.6180339887498949 % 1
    return DNSAction.Delay, tostring(math.floor({least} + ({most} - {least}) * share ^ 3 + 0.5))
end))
addAction(AllRule(), SpoofAction("192.0.2.7", {{ttl=600}}))
"""


@contextlib.contextmanager
def distant_dns(directory: Path, address: tuple[str, int], delays_ms: tuple[int, int]) -> Iterator[None]:
    """Run dnsdist, which knows an address of any name and answers over UDP as late as if it were far away.

    delays_ms: the shortest and the longest. The number in a name decides; half are in the lowest eighth.
    """
    host, port = address
    least, most = delays_ms
    config = directory / "dnsdist.conf"
    config.write_text(_DNSDIST.format(host=host, port=port, least=least, most=most))
    with Program(directory, "dnsdist", "--supervised", "--disable-syslog", "-C", config):
        wait_listening(port, host)
        yield


_KNOT = """
server:
    rundir: {directory}
    listen: {host}@{port}
database:
    storage: {directory}
acl:
  - id: anybody
    address: 127.0.0.0/8
    action: [transfer, update]
zone:
  - domain: {zone}
    file: {directory}/zone
    acl: anybody
"""
_KNOT_ZONE = """
$ORIGIN {zone}.
$TTL 60
@ SOA ns root 1 3600 600 86400 60
@ NS ns
@ HTTPS 1 . alpn=h2
@ TYPE65280 \\# 2 abcd
ns A 192.0.2.3
www A 192.0.2.1
www AAAA 2001:db8::1
my\\032printer._ipp._tcp SRV 0 0 631 www
"""


@contextlib.contextmanager
def knot(directory: Path, address: tuple[str, int]) -> Iterator[None]:
    """Run Knot, which knows www, many (60 addresses) and a printer of golden.test; anybody may change it."""
    host, port = address
    config, zone = directory / "knot.conf", directory / "zone"
    config.write_text(_KNOT.format(directory=directory, host=host, port=port, zone=_ZONE))
    many = "".join(f"many A 192.0.2.{last}\n" for last in range(1, 61))
    zone.write_text(_KNOT_ZONE.format(zone=_ZONE) + many)
    with Program(directory, "knotd", "-c", config):
        wait_listening(port, host)
        yield


_KRESD = """
net.listen('{host}', {port}, {{ kind = 'dns' }})
modules.unload('ta_update')
trust_anchors.remove('.')
policy.add(policy.suffix(policy.DENY, {{todname('denied.test.')}}))
policy.add(policy.all(policy.REFUSE))
"""


@contextlib.contextmanager
def kresd(directory: Path, address: tuple[str, int]) -> Iterator[None]:
    """Run Knot Resolver, which denies names of denied.test, with its reason, and refuses all others."""
    host, port = address
    config = directory / "kresd.conf"
    config.write_text(_KRESD.format(host=host, port=port))
    with Program(directory, "kresd", "-c", config, "-n", directory):
        wait_listening(port, host)
        yield


def resolving_at(directory: Path, host: str, *command: object, others: Sequence[str] = ()) -> list[str]:
    """Return a command line under which the C library asks the servers at `host` and `others`, port 53."""
    configuration = directory / "resolv.conf"
    named = "".join(f"nameserver {one}\n" for one in (host, *others))
    configuration.write_text(f"{named}options timeout:1 attempts:2\n")
    script = f'mount --bind {configuration} /etc/resolv.conf && exec "$@"'
    return ["unshare", "--mount", "sh", "-c", script, "sh", *map(str, command)]
