"""What an interpreter was told to run."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from masdeepflow.enrich.script import called, script_of


@pytest.mark.parametrize(
    ("executable", "arguments", "script"),
    [
        ("python3.11", "python3 /srv/shop/app.py --port 80", "app.py"),
        ("python3.11", "python -u -X dev -m gunicorn.app", "gunicorn.app"),
        ("python3.11", "/venv/bin/python /venv/bin/gunicorn app:app", "gunicorn"),
        ("python3.11", "python -c print(1) app.py", None),
        ("python3.11", "python", None),
        ("node", "node --inspect server.js", "server.js"),
        ("node", "node -r ./tracing.js /srv/server.js", "server.js"),
        ("node", "node -e 1", None),
        ("java", "java -Xmx1g -cp a.jar:b.jar org.shop.Main arg", "org.shop.Main"),
        ("java", "java -jar /opt/shop.jar", "shop.jar"),
        ("bash", "bash /usr/local/bin/loop", "loop"),
        ("dash", "sh -c curl", None),
        ("ruby", "ruby /app/", "app"),
        ("nginx", "nginx -g daemon", None),
        ("busybox", "wget -q -O /dev/null http://10.0.0.2/", "wget"),
        ("busybox", "/bin/nc -l 80", "nc"),
        ("busybox", "busybox httpd -f -p 80", "httpd"),
        ("busybox", "sh /srv/loop", "loop"),
        ("busybox", "-sh", None),
        ("busybox", "busybox sh -c true", None),
        ("busybox", "/bin/busybox", None),
        ("busybox", "", None),
        ("deno", "deno run -A main.ts", "main.ts"),
        ("bun", "bun run server.ts", "server.ts"),
        ("bun", "bun server.ts", "server.ts"),
        ("pythonista", "pythonista app.py", None),
        (None, "python app.py", None),
    ],
)
def test_an_interpreter_is_what_it_runs(executable: str | None, arguments: str, script: str | None) -> None:
    """Script, module, archive or main class, past options and their values."""
    assert script_of(executable, arguments.split()) == script


@pytest.mark.parametrize(
    ("comm", "arguments", "name"),
    [
        ("redis-server", ["/usr/bin/redis-server", "/etc/redis.conf"], "redis-server"),
        ("redis-server", ["/usr/bin/redis-server 127.0.0.1:6379"], "redis-server"),
        ("nginx", ["nginx: worker process"], "nginx"),
        ("postgres", ["postgres: checkpointer "], "postgres"),
        ("a-name-of-fifte", ["/bin/a-name-of-fifteen-and-more"], "a-name-of-fifteen-and-more"),
        ("worker", ["/usr/sbin/nginx"], None),
        ("sh", [], None),
        ("", ["/bin/sh"], None),
        ("sh", ["/"], None),
    ],
)
def test_a_program_is_called_what_it_was_started_by(
    comm: str, arguments: list[str], name: str | None
) -> None:
    """Where its short name and its title agree: a link's name says more than that of what it leads to."""
    assert called(comm, arguments) == name


@given(st.text(), st.lists(st.text()))
def test_any_names_give_a_name_or_none(comm: str, arguments: list[str]) -> None:
    """A program can set both."""
    name = called(comm, arguments)
    assert name is None or (name and "/" not in name)


@given(st.lists(st.text()))
def test_any_arguments_give_a_base_name_or_none(arguments: list[str]) -> None:
    """Whoever starts a process chooses them."""
    script = script_of("python3", arguments)
    assert script is None or (script and "/" not in script)
