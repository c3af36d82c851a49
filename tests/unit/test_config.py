"""The configuration file: what it may hold, and one sentence for all else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from masdeepflow import config

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Load = Callable[[str | bytes], dict[str, str | list[str]]]

OPTIONS = ("log", "listen", "store", "duration", "ring_mib", "redact", "include", "exclude")
LISTS = ("include", "exclude")


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Give a function that writes a file and loads it."""
    path = tmp_path / "agent.yaml"

    def write_and_load(content: str | bytes) -> dict[str, str | list[str]]:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return config.load(path, OPTIONS, LISTS)

    return write_and_load


def _refused(load: Load, content: str | bytes) -> str:
    with pytest.raises(config.ConfigError) as caught:
        load(content)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert "agent.yaml" in sentence
    return sentence


def test_options_are_keys_under_their_own_names(load: Load) -> None:
    """Hyphens are as on the command line, underscores as in the environment."""
    content = "log: json\nring-mib: 4\nlisten: 127.0.0.1:9419\nredact: yes\n"
    assert load(content) == {"log": "json", "ring_mib": "4", "listen": "127.0.0.1:9419", "redact": "yes"}
    assert load("ring_mib: 4") == {"ring_mib": "4"}


@pytest.mark.parametrize("content", ["", "# nothing but a comment\n", "---\n", "{}\n", "''\n"])
def test_file_without_options_is_fine(load: Load, content: str) -> None:
    """A file whose every line is commented out changes nothing."""
    assert load(content) == {}


@pytest.mark.parametrize("word", ["off", "no", "1:20", "0123", "2001-01-01", "1.50", "0x10", "1_000", "null"])
def test_values_are_the_text_that_was_written(load: Load, word: str) -> None:
    """YAML's guesses would make false, 80, 83, a date and others of these: options mean what they say."""
    assert load(f"listen: {word}\n") == load(f"listen: '{word}'") == {"listen": word}


def test_key_without_a_value_is_left_out(load: Load) -> None:
    """As if its line were not there: the default holds."""
    assert load("log:\nring-mib: 2\ninclude:\nlisten: ''\n") == {"ring_mib": "2"}


def test_filters_are_lists(load: Load) -> None:
    """One item or several, in either of YAML's forms."""
    assert load("include: [pid=1]\nexclude:\n  - comm=a\n  - port=80\n") == {
        "include": ["pid=1"],
        "exclude": ["comm=a", "port=80"],
    }


@pytest.mark.parametrize("value", ["pid=1", "{pid: 1}", "[[pid=1]]", "[{pid: 1}]", "5"])
def test_filters_in_another_form_are_refused(load: Load, value: str) -> None:
    """A plain string would be taken letter by letter: the sentence shows the form that is meant."""
    assert "`include: [KEY=VALUE]`" in _refused(load, f"include: {value}")


@pytest.mark.parametrize("value", ["[1]", "{a: 1}", "[]", "!!set {a}"])
def test_nested_values_are_refused(load: Load, value: str) -> None:
    """An option has one value; the sentence names the option as the user knows it."""
    assert _refused(load, f"ring-mib: {value}").startswith("ring-mib ")


@pytest.mark.parametrize("content", ["- log", "text", "5", "[]", "false"])
def test_file_that_is_no_mapping_is_refused(load: Load, content: str) -> None:
    """The sentence shows what a line looks like."""
    assert "`log: json`" in _refused(load, content)


@pytest.mark.parametrize("key", ["logs", "config", "1", "LOG", "2001-01-01"])
def test_unknown_option_is_refused_with_those_there_are(load: Load, key: str) -> None:
    """A misspelt key never goes unnoticed, nor does one that only the command line has."""
    assert "duration, exclude, include, listen, log, redact, ring-mib, store" in _refused(load, f"{key}: 1")


@pytest.mark.parametrize(
    ("content", "where"),
    [
        ("log: [", "line 1"),
        ("log: json\n\tring-mib: 1", "line 2, column 1"),
        ("a: b: c", "line 1, column 5"),
        ("log: \x00", ""),
        ("{[a]: b}: 1", "line 1"),
        ("[" * 5000, ""),
    ],
)
def test_what_is_no_yaml_is_refused_with_its_place(load: Load, content: str, where: str) -> None:
    """Line and column where they are known, and never the parser's own exception."""
    assert where in _refused(load, content)


def test_tags_make_no_objects(load: Load, tmp_path: Path) -> None:
    """Whatever Python object a value claims to be, it is the text behind the claim."""
    made = tmp_path / "made"
    content = f"log: !!python/object/apply:os.mkdir ['{made}']\n"
    assert "log" in _refused(load, content)
    assert load("log: !!python/name:os.system json") == {"log": "json"}
    assert not made.exists()


def test_bytes_that_are_no_text_are_refused(load: Load) -> None:
    """The file is UTF-8."""
    assert "not UTF-8 text" in _refused(load, b"log: \xff")


def test_file_that_can_not_be_read_is_refused(tmp_path: Path) -> None:
    """The operating system's reason is told."""
    with pytest.raises(config.ConfigError, match="can't be read: No such file"):
        config.load(tmp_path / "gone", OPTIONS)
    with pytest.raises(config.ConfigError, match="can't be read: Is a directory"):
        config.load(tmp_path, OPTIONS)


KEYS = st.sampled_from([*OPTIONS, "ring-mib", "other"])
WORDS = st.sampled_from(
    ["off", "1", "'", '"', "[a]", "[", "{", "- b", "!!int", "&a", "*a", "2001-01-01", ".nan", "~"]
)


@given(
    st.binary(max_size=60)
    | st.lists(st.tuples(KEYS, WORDS), max_size=4).map(
        lambda lines: "\n".join(f"{key}: {word}" for key, word in lines).encode()
    )
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_file_gives_options_or_a_config_error(load: Load, content: bytes) -> None:
    """What comes back holds known names with text, or lists of it, whatever the file holds."""
    try:
        values = load(content)
    except config.ConfigError:
        return
    assert set(values) <= set(OPTIONS)
    for name, value in values.items():
        assert isinstance(value, list) if name in LISTS else isinstance(value, str)
