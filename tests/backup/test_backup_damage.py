"""Damaged backups: each change of a single byte is found, restore refuses it, and the message says where it is."""

from __future__ import annotations

import json
import os
import pathlib
import random
import subprocess
import sys
from typing import Any

import pytest
from stores import FULL, Open

from findings_orm import (
    FindingStore,
    SchemaVersionError,
    StorageError,
    StorageIntegrityError,
    open_storage,
)
from findings_orm.backup import Key, restore_backup, verify_backup, write_backup
from findings_orm.backup.container import (
    FRAME_TEXT,
    HEAD,
    FrameWriter,
    is_intact,
    kind_of,
    line_of,
    pack_record,
)
from findings_orm.backup.sections import RECORD, Tally
from findings_orm.testing.samples import finding

CHANGES = 5_000 if FULL else 400
PROJECT = "acme-api"


def backup_of(count: int, store: FindingStore, target: pathlib.Path) -> bytes:
    texts = random.Random(3)
    store.save_findings(
        finding(number, evidence={"text": texts.randbytes(300).hex(), "n": number}) for number in range(count)
    )
    write_backup(store, target, verify=False)
    return target.read_bytes()


def is_refused(path: pathlib.Path, content: bytes, key: Key | None = None) -> str:
    path.write_bytes(content)
    with pytest.raises(StorageError) as caught:
        verify_backup(path, key=key)
    return str(caught.value)


@pytest.mark.no_cover
@pytest.mark.slow
def test_every_single_byte_change_is_found(new_store: Open, target: pathlib.Path) -> None:
    store, empty = new_store("memory"), new_store("memory")
    content = backup_of(300, store, target)
    chance = random.Random(7)
    edges = [*range(80), *range(len(content) - 200, len(content))]
    for offset in [*edges, *(chance.randrange(len(content)) for _ in range(CHANGES))]:
        changed = bytearray(content)
        changed[offset] ^= chance.randrange(1, 256)
        is_refused(target, bytes(changed))
        if offset % 20 == 0:
            with pytest.raises(StorageError):
                restore_backup(empty, target)
    assert empty.list_projects() == []


def test_every_bit_of_the_headers_is_found(new_store: Open, target: pathlib.Path) -> None:
    """Also those bits of a frame's header that zstd itself ignores."""
    content = backup_of(20, new_store("memory"), target)
    seal = content.rindex(b"\x28\xb5\x2f\xfd")
    for offset in [*range(12), *range(seal, seal + 14)]:
        for bit in range(8):
            changed = bytearray(content)
            changed[offset] ^= 1 << bit
            is_refused(target, bytes(changed))


def test_every_single_byte_change_of_an_encrypted_one_is_found(
    new_store: Open, tmp_path: pathlib.Path
) -> None:
    key, path = Key.generate(), tmp_path / "backup.age"
    store = new_store("memory")
    store.save_findings(finding(number) for number in range(50))
    write_backup(store, path, key=key)
    content = path.read_bytes()
    chance = random.Random(8)
    for offset in [*range(250), *(chance.randrange(len(content)) for _ in range(CHANGES // 4))]:
        changed = bytearray(content)
        changed[offset] ^= chance.randrange(1, 256)
        is_refused(path, bytes(changed), key)
    is_refused(path, content[:-1], key)
    is_refused(path, content + b"x", key)


def test_cut_off_or_continued(new_store: Open, target: pathlib.Path) -> None:
    content = backup_of(30, new_store("memory"), target)
    for length in range(0, len(content), 1 if FULL else 37):
        is_refused(target, content[:length])
    skippable = b"\x50\x2a\x4d\x18\x04\x00\x00\x00skip"
    seal = content.rindex(b"\x28\xb5\x2f\xfd")
    for more in (b"\0", b"\n", content, skippable, content[seal:]):
        assert "something follows the closing record" in is_refused(target, content + more)
    assert "no frame of a backup" in is_refused(target, content[:seal] + skippable + content[seal:])
    assert "no frame of a backup" in is_refused(target, skippable + content)


def test_first_damaged_record_is_named(new_store: Open, target: pathlib.Path) -> None:
    """A backup whose container is whole, written by somebody whose records are not."""
    backup_of(30, new_store("memory"), target)
    lines = text_of(target).splitlines(keepends=True)
    number = next(n for n, line in enumerate(lines) if b"Finding 17" in line)
    broken = lines[number][:HEAD] + lines[number][HEAD:].replace(b'"medium"', b'"terrible"')
    message = rewritten(target, [*lines[:number], broken, *lines[number + 1 :]])
    assert f"line {number + 1} " in message
    assert f"finding 18 of project {PROJECT!r}: the checksum" in message
    message = rewritten(target, [*lines[:number], line_of(b"{" + broken[HEAD:-1]), *lines[number + 1 :]])
    assert "says SectionEnd" in message, "the digest of the section differs"
    message = rewritten(target, [*lines[:number], *lines[number + 1 :]])
    assert "there were 29" in message


def test_every_document_is_validated(new_store: Open, target: pathlib.Path) -> None:
    """Sums that fit don't make a document valid."""
    store = new_store("memory")
    store.save_findings(finding(number) for number in range(5))
    with store.snapshot() as unit:  # type: ignore[attr-defined]
        unit.state[PROJECT].findings[finding(3)["id"]].document["severity"] = "terrible"
    write_backup(store, target, verify=False)
    assert "finding 4 of project 'acme-api': severity: must be" in is_refused(target, target.read_bytes())
    with pytest.raises(StorageIntegrityError, match="severity"):
        write_backup(store, target)


def test_a_backup_that_fails_leaves_the_old_one(new_store: Open, target: pathlib.Path) -> None:
    store = new_store("memory")
    before = backup_of(5, store, target)
    with store.snapshot() as unit:  # type: ignore[attr-defined]
        unit.state[PROJECT].findings[finding(3)["id"]].document["severity"] = "terrible"
    with pytest.raises(StorageIntegrityError):
        write_backup(store, target)
    assert target.read_bytes() == before
    assert [path.name for path in target.parent.iterdir() if path.name.startswith(".backup")] == []


@pytest.mark.no_cover
@pytest.mark.parametrize("encrypted", [False, True])
@pytest.mark.parametrize("count", [1, 300])
def test_a_full_disk(count: int, encrypted: bool, new_store: Open, tmp_path: pathlib.Path) -> None:
    """Wherever writing fails, also at the last bytes, the backup before is as it was and nothing else is left."""
    store, path = new_store("memory"), tmp_path / "backup"
    store.save_findings(
        finding(number, evidence={"t": random.randbytes(300).hex()}) for number in range(count)
    )
    key = Key.generate() if encrypted else None
    size = write_backup(store, path, key=key).bytes
    before = path.read_bytes()
    script = (
        "import resource, signal, sys; from findings_orm.backup import *; from findings_orm import *; "
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); store = open_storage(sys.argv[1]); "
        "limit = int(sys.argv[3]); resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)); "
        "key = Key.of_text(sys.argv[4]) if sys.argv[4] else None\n"
        "try: write_backup(store, sys.argv[2], key=key, verify=False)\n"
        "except StorageUnavailableError as error: sys.exit(3)"
    )
    url = (tmp_path / "store").as_uri()
    with open_storage(url) as files:
        restore_backup(files, path, key=key)
    limit = size - 300 if count == 1 else size // 2
    unmeasured = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    done = subprocess.run(
        [sys.executable, "-c", script, url, path, str(limit), key.public[0] if key else ""],
        env=unmeasured,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (3, "")
    assert path.read_bytes() == before
    assert sorted(each.name for each in tmp_path.iterdir()) == ["backup", "store"]


def test_newer_versions_are_refused(new_store: Open, target: pathlib.Path) -> None:
    backup_of(5, new_store("memory"), target)
    lines = text_of(target).splitlines(keepends=True)
    manifest = json.loads(lines[0])["manifest"]
    for change in ({"format": 2}, {"schema_version": "99.0.0"}):
        with pytest.raises(SchemaVersionError, match="update findings-orm"):
            verify_backup(rewrite(target, [pack_record({"manifest": {**manifest, **change}}), *lines[1:]]))


def test_records_of_other_writers_are_checked(new_store: Open, target: pathlib.Path) -> None:
    """Sums that fit, but values that no store could hold."""
    backup_of(3, new_store("memory"), target)
    lines = text_of(target).splitlines(keepends=True)
    manifest, project, found = (json.loads(lines[n]) for n in (0, 1, 3))
    for each in (manifest, project, found):
        del each["crc"]
    names: list[list[str]] = [["b", "a"], ["a", "a"], []]
    changed: list[tuple[int, dict[str, Any]]] = [
        (0, {"manifest": {**manifest["manifest"], "projects": some}}) for some in names
    ]
    heads = ({"id": "a\0"}, {"revision": 2**63}, {"revision": 0}, {"created_at": "now"}, {"more": 1})
    changed += [(1, {"project": {**project["project"], **head}}) for head in heads]
    parts = ({"ordinal": 2**31}, {"line": -1}, {"last_seen": "2024-01-01T00:00:00.0Z"}, {"closed_as": "gone"})
    changed += [(3, {**found, "identity": {**found["identity"], **part}}) for part in parts]
    changed.append((3, {**found, "streaks": [[1]]}))
    for number, record in changed:
        written = [*lines[:number], pack_record(record), *lines[number + 1 :]]
        message = rewritten(target, resummed(written))
        assert "SHA-256" not in message, message


def resummed(lines: list[bytes]) -> list[bytes]:
    """Return lines with the sums that fit them."""
    found: list[bytes] = []
    tally = Tally()
    for line in lines:
        if kind_of(line) in RECORD.values():
            tally.add([line])
        if kind_of(line) == "section":
            state = tally.state.model_dump()
            line = pack_record({"section": {**json.loads(line)["section"], **state, "state": state}})  # noqa: PLW2901
            tally = Tally()
        found.append(line)
    return found


def test_standard_tools_read_it(lived: FindingStore, target: pathlib.Path) -> None:
    """What `zstd -dc` gives is lines of JSON, each with a checksum that fits; frames are of a bounded size."""
    report = write_backup(lived, target)
    text = text_of(target)
    assert len(text) == report.text_bytes + len(text.splitlines()[-1]) + 1
    names = set()
    for line in text.split(b"\n")[:-1]:
        assert is_intact(line)
        names.add(list(json.loads(line))[1])
    assert names == {"manifest", "project", "run", "finding", "event", "rejected", "section", "end"}


@pytest.mark.no_cover
def test_frames_say_where_they_are(new_store: Open, target: pathlib.Path) -> None:
    backup_of(2 * FRAME_TEXT // 1_000, new_store("memory"), target)
    lines = [json.loads(line) for line in text_of(target).splitlines()]
    places = [(n, line["frame"]) for n, line in enumerate(lines, 1) if "frame" in line]
    assert len(places) >= 2
    for number, place in places:
        assert place["line"] == number
        assert lines[number]["finding"]["title"] == f"Finding {place['count']}"


def text_of(path: pathlib.Path) -> bytes:
    """Return what the program zstd makes of a file, or the library where there is no such program."""
    try:
        return subprocess.run(["zstd", "-dc", path], check=True, capture_output=True).stdout
    except FileNotFoundError:
        from findings_orm.backup import container

        library: Any = vars(container)[
            "zstd"
        ]  # which the package takes from the standard library or from its backport
        text: bytes = library.decompress(path.read_bytes())
        return text


def rewrite(path: pathlib.Path, lines: list[bytes], level: int = 3) -> pathlib.Path:
    """Write lines, the last of which is the seal, as a backup whose container is whole."""
    with path.open("wb") as stream:
        frames = FrameWriter(stream, level)
        frames.write(b"".join(lines[:-1]))
        end = json.loads(lines[-1])["end"]
        frames.seal(
            lambda size, sha256: pack_record(
                {"end": {"id": end["id"], "lines": len(lines) - 1, "bytes": size, "sha256": sha256}}
            )
        )
    return path


def rewritten(path: pathlib.Path, lines: list[bytes]) -> str:
    """Return why a backup of these lines is refused."""
    return is_refused(path, rewrite(path, lines).read_bytes())
