"""What comes from outside cannot run anything, take the memory, or bring secrets to where people look."""

from __future__ import annotations

import io
import json
import sys
import tempfile
from pathlib import Path

import pytest
import structlog
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from cdcloader import logs
from cdcloader.cli import app, main
from cdcloader.config import load_config
from cdcloader.errors import ConfigError, TableError, TransientError, as_ours
from cdcloader.objects import Objects
from cdcloader.redaction import redacted_text


def call(*words: str) -> int:
    """The command as the console script runs it; its exit code."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sys, "argv", ["cdcloader", *words])
        patched.setattr(sys, "excepthook", sys.excepthook)
        with pytest.raises(SystemExit) as ended:
            main()
    return int(ended.value.code or 0)


SECRET = "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY"
PLACES = "raw: ./raw\nlake: ./lake\nstate: {kind: memory}\n"
TABLES = "tables: [{source: s/t, primary_key: id}]\n"


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(text):
        file = tmp_path / "cdcloader.yaml"
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        return file

    return write


def bomb(levels: int, width: int, form: str) -> str:
    """A text of a few lines that stands for `width ** levels` values."""
    lines = [f"a0: &a0 {form.format('x')}"]
    for level in range(1, levels):
        lines.append(f"a{level}: &a{level} {form.format(', '.join([f'*a{level - 1}'] * width))}")
    return "\n".join(lines)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("x: !!python/object/apply:os.system ['touch owned']\n", id="python object"),
        pytest.param("x: !!python/name:os.system\n", id="python name"),
        pytest.param("x: !!python/object/new:subprocess.Popen [['touch', 'owned']]\n", id="python new"),
        pytest.param("x: !custom y\n", id="unknown tag"),
        pytest.param(bomb(12, 10, "[{}]") + "\n", id="billion laughs in lists"),
        pytest.param("a0: &a0 {x: y}\n" + "\n".join(
            f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}], z{n}: 1}}" for n in range(1, 12)
        ) + "\n", id="billion laughs in merges"),
        pytest.param("x: &x [*x]\n", id="an alias inside itself"),
        pytest.param("[" * 100_000, id="nested without end"),
        pytest.param("a: " + "b" * (5 << 20), id="too large"),
        pytest.param(b"\xff\xfe\x00", id="no text"),
        pytest.param("- 1\n", id="a list"),
    ],
)  # fmt: skip
def test_a_hostile_config_is_refused(config, capsys, text):
    """Objects, bombs and files that are no config end with exit code 2 and words, at once, and run nothing."""
    file = config(text if isinstance(text, bytes) else PLACES + TABLES + text)
    code = call("validate", "--config", str(file))
    assert code == 2
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    assert len(said.err) < 5_000
    assert not (file.parent / "owned").exists()


def test_a_device_is_no_config(capsys):
    """No more is read than a config may hold, even where a file has no end."""
    code = call("validate", "--config", "/dev/zero")
    assert code == 2
    assert "larger than 4 MiB" in capsys.readouterr().err


def test_a_bomb_in_a_variable_is_refused(config):
    """A CDCLOADER_ variable is YAML too, and bounded as the file is."""
    text = "[&a [x], " + ", ".join(f"&a{n} [{', '.join([f'*a{n - 1}' if n else '*a'] * 10)}]" for n in range(12)) + "]"
    with pytest.raises(ConfigError) as caught:
        load_config(config(PLACES + TABLES), {"CDCLOADER_BATCH": text})
    assert "CDCLOADER_BATCH" in str(caught.value)


def test_many_tables_are_no_bomb(config):
    """A config of thousands of tables, with aliases as people use them, is read."""
    tables = [
        {"source": f"s/t{n}", "primary_key": ["id"], "columns": {"id": "long", "v": "string"}} for n in range(300)
    ]
    text = yaml.safe_dump({"tables": tables}) + "defaults: {csv: &csv {header: true}}\n"
    assert len(load_config(config(PLACES + text), {}).tables) == 300


@given(st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), min_size=1, max_size=60))
def test_a_variable_is_text_and_never_structure(value):
    """${NAME} puts a text in the place of a text: quotes, colons and line breaks in it make no keys and no lists."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "c.yaml")
        file.write_text(PLACES + 'tables: [{source: s/t, primary_key: ["${COLUMN}"], timestamp_column: "${COLUMN}"}]\n')
        table = load_config(file, {"COLUMN": value}).tables[0]
    assert table.primary_key == (value,)
    assert table.timestamp_column == value


def test_a_variable_cannot_add_keys(config):
    """A value that is YAML by itself stays one text."""
    text = 'raw: "${RAW}"\nlake: ./lake\nstate: {kind: memory}\n' + TABLES
    evil = "./raw\nhttp: {host: 0.0.0.0}\nlake: /etc"
    loaded = load_config(config(text), {"RAW": evil})
    assert loaded.raw.endswith(evil.removeprefix("./"))
    assert loaded.lake.endswith("/lake")


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "a/../../x",
        "a/./b",
        "/",
        "a//b",
        "a\\..\\b",
        "a/\x00",
        "a\n/b",
        "%2e%2e/x",
        "a%2Fb",
        ".hidden/x",
        "_x/y",
        "",
    ],
)
def test_a_target_is_a_folder_of_the_lake(config, name):
    """Names that lead elsewhere, that readers would decode, or that listings hide are faults of the config."""
    table = {"source": "s/t", "target": name, "primary_key": ["id"]}
    with pytest.raises(ConfigError) as caught:
        load_config(config(PLACES + json.dumps({"tables": [table]})[1:-1]), {})
    assert "tables[0].target" in str(caught.value)


@pytest.mark.parametrize("name", ["../x", "a/../../x", "a//b", "a\\..\\b", "a/\x00", ".", "..", ""])
def test_a_source_is_a_folder_of_raw(config, name):
    """The same for sources, which are read and never written."""
    table = {"source": name, "target": "s/t", "primary_key": ["id"]}
    with pytest.raises(ConfigError) as caught:
        load_config(config(PLACES + json.dumps({"tables": [table]})[1:-1]), {})
    assert "tables[0].source" in str(caught.value)


def test_credentials_in_a_place_are_refused_and_not_repeated(config, capsys):
    """s3://key:secret@bucket is no place, and the message does not say the secret again."""
    file = config(
        f"raw: s3://AKIAIOSFODNN7EXAMPLE:{SECRET}@bucket/raw\nlake: ./lake\nstate: {{kind: memory}}\n{TABLES}"
    )
    code = call("validate", "--config", str(file))
    said = capsys.readouterr()
    assert code == 2
    assert "holds credentials" in said.err
    assert SECRET not in said.err + said.out


SECRETS = [
    "GET https://b.s3.amazonaws.com/k?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={0}%2F2026&X-Amz-Signature={0}",
    "https://b.s3.amazonaws.com/k?AWSAccessKeyId={0}&Expires=1&Signature={0}",
    "https://b.s3.amazonaws.com/k?X-Amz-Security-Token={0}&x=1",
    "redirect https%3A%2F%2Fb%2Fk%3FX-Amz-Signature%3D{0}",
    "Authorization: AWS4-HMAC-SHA256 Credential={0}/20260301/eu/s3/aws4_request, SignedHeaders=host, Signature={0}",
    "{{'Authorization': 'AWS4-HMAC-SHA256 Credential={0}/x, Signature={0}', 'Host': 'x'}}",
    "{{'Authorization': b'Bearer {0}'}}",
    "authorization: Basic {0}",
    "Authorization: AWS minio:{0}=",
    "Proxy-Authorization: {0}",
    "Cookie: {0}",
    "<Error><Code>SignatureDoesNotMatch</Code><AWSAccessKeyId>{0}</AWSAccessKeyId><StringToSign>{0}</StringToSign></Error>",
    "<SignatureProvided>{0}</SignatureProvided>",
    "aws_session_token = {0}",
    '{{"SecretAccessKey":"{0}","Token":"{0}"}}',
    "Credentials(access_key='{0}', secret_key='{0}', token='{0}')",
    "proxy http://user:{0}@proxy:3128 refused",
    "could not connect to user:{0}@db.example.com:5432",
    "postgresql://admin:{0}@db/x?password={0}",
    "x-amz-security-token: {0}",
    "password={0} host=x",
    "api_key={0}",
]  # fmt: skip


@pytest.mark.parametrize("template", SECRETS)
@settings(max_examples=15)
@given(secret=st.from_regex(r"[A-Za-z0-9/+]{16,40}", fullmatch=True), around=st.text(" \n;,abc:", max_size=5))
def test_no_secret_leaves_an_error(template, secret, around):
    """In whatever a library says a secret may stand: what, hint and text of our error, and the log, do not have it."""
    text = f"{around}{template.format(secret)}{around}"
    errors = [
        TableError(text, hint=text),
        TransientError("x", where=text),
        ConfigError(text, faults=(text,)),
        as_ours(OSError(text), where="s/t"),
        as_ours(RuntimeError(text), where="s/t"),
    ]
    for error in errors:
        assert secret not in f"{error} {error.what} {error.hint} {error.args} {getattr(error, 'faults', '')}"
        assert secret not in repr(error)
    assert secret not in redacted_text(text)


@given(st.text(max_size=2_000))
def test_redaction_ends_and_is_settled(text):
    """Any text is gone through without trouble, and what was redacted once does not change again."""
    once = redacted_text(text)
    assert redacted_text(once) == once


@pytest.mark.parametrize("filler", ["a", "token", "a:", "secret=", "<Token>", "'", "AWS ", "-", "_", "x@", "://"])
def test_redaction_is_fast_on_hostile_text(filler):
    """A long text made to be slow to search is not: no error message can stop the loader."""
    redacted_text(filler * (100_000 // len(filler)))


def test_ordinary_errors_keep_their_words():
    """Names, places, numbers and remedies come out as they were written."""
    for text in (
        "s3://data/raw/s/t/20260301-120000000.parquet: column 'token' is missing; the columns are id, secret_code",
        "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or run with a role",
        "AccessDenied: User: arn:aws:iam::123456789012:user/jo is not authorized to perform: s3:GetObject",
        "SignatureDoesNotMatch: The request signature we calculated does not match the signature you provided.",
        "2026-03-01 12:00:00 primary_key is [id], the target was built with id,name",
    ):
        assert str(TableError(text)) == text


def test_status_and_json_show_no_secret(tmp_path, monkeypatch, capsys):
    """What a library says of a failed call reaches `--json`, the record and `status` without its secrets."""
    (tmp_path / "raw" / "s" / "t").mkdir(parents=True)
    file = tmp_path / "c.yaml"
    file.write_text(
        f"raw: {tmp_path}/raw\nlake: {tmp_path}/lake\nstate: {{kind: sqlite, path: {tmp_path}/x.db}}\n{TABLES}"
    )

    def fail(*_args, **_options):
        raise RuntimeError(f"GET https://b/k?X-Amz-Signature={SECRET} failed, Authorization: Bearer {SECRET}")

    with monkeypatch.context() as patched:
        patched.setattr(Objects, "list", fail)
        done = CliRunner().invoke(app, ["run", "--once", "--json", "--config", str(file)])
    assert done.exit_code == 1
    assert "X-Amz-Signature=<redacted>" in done.stdout
    later = CliRunner().invoke(app, ["status", "--json", "--config", str(file)])
    state = b"".join(path.read_bytes() for path in tmp_path.glob("x.db*"))
    assert b"redacted" in state
    assert SECRET not in done.output + later.output
    assert SECRET.encode() not in state
    assert json.loads(later.stdout)["tables"][0]["source"] == "s/t"
    capsys.readouterr()


def test_a_bug_shows_its_trace_and_no_secret(config, monkeypatch, capsys):
    """What nobody foresaw ends with 1 and the trace that a report needs, without what a library put in its message."""

    def fail(*_args):
        _fail(SECRET)

    monkeypatch.setattr("cdcloader.cli.look.read_config", fail)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(sys, "argv", ["cdcloader", "validate", "--config", str(config(PLACES + TABLES))])
    with pytest.raises(RuntimeError) as caught:
        main()
    sys.excepthook(caught.type, caught.value, caught.tb)
    said = capsys.readouterr().err
    assert "in _fail" in said
    assert SECRET not in said


def test_a_log_line_of_an_error_has_no_secret():
    """The log has the error's words and not its secrets, in the traceback neither."""
    stream = io.StringIO()
    logs.configure(json=True, stream=stream)
    with pytest.raises(RuntimeError) as caught:
        _fail(SECRET)
    error = caught.value
    structlog.get_logger().error("unexpected error", exc_info=error, error=str(as_ours(error, where="s/t")))
    assert SECRET not in stream.getvalue()
    assert "X-Amz-Signature" in stream.getvalue()


def _fail(secret: str) -> None:
    raise RuntimeError(f"https://b/k?X-Amz-Signature={secret}")
