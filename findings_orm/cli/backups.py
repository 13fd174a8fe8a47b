"""`findings backup`, `restore`, `verify` and `copy`: findings outlive their database."""

from __future__ import annotations

import os
import signal
import threading
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from findings_orm.cli.confirm import confirm
from findings_orm.cli.failures import CommandError, UsageError
from findings_orm.cli.options import (
    AsJson,
    Group,
    Limit,
    MaxDocument,
    Migrate,
    Yes,
    access_of,
    limits_of,
    split,
)
from findings_orm.cli.output import Output
from findings_orm.cli.progress import Tracker
from findings_orm.cli.root import app, command, session_of
from findings_orm.cli.session import Session
from findings_orm.cli.stopping import SIGNALS
from findings_orm.secrecy import shown_url

# -- `findings backup`, `restore`, `verify`: findings outlive their database ------------------------------


if TYPE_CHECKING:
    from findings_orm.backup import Key

KEY_VARIABLE = "FINDINGS_BACKUP_KEY"

KeyFile = Annotated[
    Path | None,
    typer.Option(
        "--key",
        metavar="FILE",
        help=f"A file with age keys; else the variable {KEY_VARIABLE} holds the keys themselves. "
        "Encrypting takes public keys, reading a secret one.",
    ),
]
Projects = Annotated[
    list[str] | None,
    typer.Option("--project", "-p", metavar="NAME", help="Only this project; may be repeated."),
]
Backup = Annotated[Path, typer.Argument(metavar="FILE", help="The backup.")]


class BackupGroup(TyperGroup):
    """`findings backup FILE` is short for `findings backup create FILE`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the name of the command in where it was left out."""
        if args and args[0] not in self.commands and args[0] not in ("-h", "--help"):
            args = ["create", *args]
        return super().parse_args(ctx, args)


backups = typer.Typer(
    name="backup",
    cls=BackupGroup,
    help="Back up a store: findings backup FILE. Also: remove old backups, make a key.",
    no_args_is_help=True,
    rich_markup_mode=None,
    epilog="\b\nExample:\n  findings backup nightly.jsonl.zst\n",
)
app.add_typer(backups)


@command(
    "create",
    "findings backup nightly.jsonl.zst",
    "findings backup monday.jsonl.zst --since sunday.jsonl.zst",
    "findings backup nightly.jsonl.zst.age --key public.txt --project acme-api",
    group=backups,
)
def create(
    ctx: typer.Context,
    path: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="Where to; replaced only once all is written and verified. In a folder it is named after the time.",
        ),
    ],
    projects: Projects = None,
    since: Annotated[
        Path | None,
        typer.Option(
            "--since", metavar="FILE", help="Only what changed since this backup; a folder means its newest."
        ),
    ] = None,
    key: KeyFile = None,
    level: Annotated[int, typer.Option("--level", metavar="1-19", help="How hard to compress.")] = 3,
    verify: Annotated[bool, typer.Option("--verify/--no-verify", help="Read it back and check it.")] = True,
    group: Group = None,
    max_document: MaxDocument = None,
    limit: Limit = None,
    form: AsJson = "text",
) -> None:
    """Write all findings, with everything that is known of them, to one file.

    The file holds the store as it was at one instant; others may go on working with it meanwhile.
    """
    access_of(group)
    backup = load_backup_library()
    session = session_of(ctx)
    keys = read_keys(key)
    path = _backup_path(path, encrypted=keys is not None)
    with session.store() as store, Tracker(session.out, f"backup {path.name}") as tracker:
        report = backup.write_backup(
            store,
            path,
            projects=split(projects) if projects else None,
            since=since,
            key=keys,
            level=level,
            verify=verify,
            group=group,
            progress=tracker,
            limits=limits_of(max_document, others=limit),
        )
    session.out.answer(form, report, lambda: say_backup(session.out, report))


@command(
    "prune",
    "findings backup prune /srv/backups --keep-daily 7 --keep-weekly 4 --keep-monthly 12 --dry-run",
    "findings backup prune /srv/backups --keep-last 10 --yes",
    group=backups,
)
def prune(
    ctx: typer.Context,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where the backups are.")],
    keep_last: Annotated[int, typer.Option("--keep-last", metavar="N", help="The newest N.")] = 0,
    keep_daily: Annotated[
        int, typer.Option("--keep-daily", metavar="N", help="The newest one of each of the last N days.")
    ] = 0,
    keep_weekly: Annotated[int, typer.Option("--keep-weekly", metavar="N", help="As well of weeks.")] = 0,
    keep_monthly: Annotated[int, typer.Option("--keep-monthly", metavar="N", help="Of months.")] = 0,
    keep_yearly: Annotated[int, typer.Option("--keep-yearly", metavar="N", help="Of years.")] = 0,
    key: KeyFile = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    yes: Yes = False,
) -> None:
    """Remove old backups of a folder. Days, weeks and months without a backup don't count.

    What a kept incremental backup continues is kept too; files that are no backups are left alone.
    """
    if not any((keep_last, keep_daily, keep_weekly, keep_monthly, keep_yearly)):
        raise UsageError(
            "say what to keep: --keep-last, --keep-daily, --keep-weekly, --keep-monthly, --keep-yearly"
        )
    backup = load_backup_library()
    keep = backup.Keep(keep_last, keep_daily, keep_weekly, keep_monthly, keep_yearly)
    keys = read_keys(key)
    out = session_of(ctx).out
    report = backup.prune_backups(folder, keep, key=keys, dry_run=True)
    for path, reasons in report.kept.items():
        out.line(f"keep    {path.name} ({', '.join(reasons)})")
    for path in report.removed:
        out.line(f"remove  {path.name}")
    if dry_run or not report.removed:
        return
    confirm(f"this removes {len(report.removed):,} backups", yes=yes)
    removed = backup.prune_backups(folder, keep, key=keys).removed
    with out.report():
        out.line(f"removed {len(removed):,} backups")


@command("key", "findings backup key backup-key.txt", group=backups)
def make_key(
    ctx: typer.Context,
    path: Annotated[Path, typer.Argument(metavar="FILE", help="A new file; only its owner may read it.")],
) -> None:
    """Make a secret key for encrypted backups, and show the public one that belongs to it.

    Who backs up needs the public key only. Whoever loses the secret one loses the backups.
    """
    key = load_backup_library().Key.generate()
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise UsageError(f"{path}: exists; a key is never written over") from None
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(f"# public key: {key.public[0]}\n{key.secret[0]}\n")
    session_of(ctx).out.line(key.public[0])


@command(
    "restore",
    "findings --url sqlite:///new.db restore nightly.jsonl.zst",
    "findings restore nightly.jsonl.zst --replace --project acme-api --yes",
    "findings restore nightly.jsonl.zst --merge --dry-run",
    "findings --url postgresql://user@host/new restore nightly.jsonl.zst --migrate",
)
def restore(
    ctx: typer.Context,
    path: Backup,
    replace: Annotated[
        bool, typer.Option("--replace", help="Take the place of the projects of the same names.")
    ] = False,
    merge: Annotated[
        bool, typer.Option("--merge", help="Unite them with those of the store; the newer version wins.")
    ] = False,
    migrate: Migrate = False,
    projects: Projects = None,
    key: KeyFile = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Verify and count, write nothing.")] = False,
    yes: Yes = False,
    max_document: MaxDocument = None,
    limit: Limit = None,
    form: AsJson = "text",
) -> None:
    """Restore a backup into an empty store of any kind: all of it, or nothing.

    It is verified first. A backup of an older release is brought to the current schema. A SQLite file or folder that does
    not exist is made; a PostgreSQL database gets its tables with --migrate.
    """
    backup = load_backup_library()
    session = session_of(ctx)
    chosen = split(projects) if projects else None
    if replace and merge:
        raise UsageError("--replace and --merge: only one of them")
    if replace and not dry_run:
        what = ", ".join(chosen) if chosen else "all projects of the backup"
        confirm(f"this replaces {what} in the store", yes=yes)
    if dry_run and (session.missing_file() or (migrate and session.is_empty_database())):
        target = Session("memory:", quiet=session.quiet)  # nothing is made
    else:
        target = session
    migrate = migrate and not dry_run
    with (
        target.store(create=True, migrate=migrate) as store,
        Tracker(session.out, f"restore {path.name}") as tracker,
    ):
        report = backup.restore_backup(
            store,
            path,
            mode="replace" if replace else "merge" if merge else "empty",
            projects=chosen,
            key=read_keys(key),
            dry_run=dry_run,
            progress=tracker,
            limits=limits_of(max_document, others=limit),
        )
    session.out.answer(form, report, lambda: say_restored(session.out, report))


@command(
    "verify",
    "findings verify nightly.jsonl.zst",
    "findings verify nightly.jsonl.zst.age --key key.txt",
    "findings verify damaged.jsonl.zst --salvage intact.jsonl.zst",
)
def verify_file(
    ctx: typer.Context,
    path: Backup,
    salvage: Annotated[
        Path | None,
        typer.Option("--salvage", metavar="FILE", help="Write what is intact to this new backup."),
    ] = None,
    key: KeyFile = None,
    max_document: MaxDocument = None,
    limit: Limit = None,
    form: AsJson = "text",
) -> None:
    """Check every byte, count, digest and document of a backup. The exit code is 1 when it is damaged.

    With --salvage what is intact becomes a new backup, which can be restored.
    """
    backup = load_backup_library()
    session = session_of(ctx)
    limits = limits_of(max_document, others=limit)
    if salvage is not None:
        with Tracker(session.out, f"salvage {path.name}") as tracker:
            saved = backup.salvage_backup(path, salvage, key=read_keys(key), progress=tracker, limits=limits)
        with session.out.report():
            say_salvaged(session.out, saved)
        if saved.damages:
            raise CommandError(f"{path} is damaged", hint=f"What is intact is in {salvage}.")
        return
    with Tracker(session.out, f"verify {path.name}") as tracker:
        report = backup.verify_backup(path, key=read_keys(key), progress=tracker, limits=limits)
    session.out.answer(form, report, lambda: say_verified(session.out, path, report))


def _backup_path(path: Path, *, encrypted: bool) -> Path:
    """Return the file to write: in a folder, one with the time in its name."""
    if not path.is_dir():
        return path
    return path / f"findings-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.jsonl.zst{'.age' if encrypted else ''}"


def load_backup_library() -> Any:
    """Return `findings_orm.backup`. Raises CommandError where its extra is not installed."""
    try:
        from findings_orm import backup
    except ImportError as error:
        raise CommandError(str(error)) from error
    return backup


def read_keys(path: Path | None) -> Key | None:
    """Return the keys of a file, else those of the environment, else None."""
    if path is not None:
        return load_backup_library().Key.of_file(path)  # type: ignore[no-any-return]  # of the module that loads late
    text = os.environ.get(KEY_VARIABLE, "")
    return load_backup_library().Key.of_text(text, KEY_VARIABLE) if text.strip() else None


# -- what was backed up, restored, verified and saved, in words -------------------------------------------


if TYPE_CHECKING:
    from findings_orm.backup import BackupReport, RestoreReport, SalvageReport, VerifyReport


def describe_counts(records: dict[str, int]) -> str:
    """Return how many records of each section there are, in words."""
    return ", ".join(f"{count:,} {name}" for name, count in records.items())


def say_backup(out: Output, report: BackupReport) -> None:
    """Say what was backed up."""
    with out.report():
        speed = report.text_bytes / 1e6 / report.seconds
        out.line(f"{report.path}: {report.projects:,} projects, {describe_counts(report.records)}")
        out.line(
            f"{report.bytes / 1e6:,.1f} MB ({report.text_bytes / 1e6:,.1f} MB of text) in {report.seconds:,.1f} s, "
            f"{speed:,.0f} MB/s, {'verified' if report.verified else 'not verified: that takes the secret key, or --verify'}"
        )


def say_restored(out: Output, report: RestoreReport) -> None:
    """Say what was restored."""
    with out.report():
        done = "would be restored" if report.dry_run else "restored"
        out.line(f"{len(report.projects):,} projects {done}: {describe_counts(report.records)}")
        for one in report.conflicts:
            out.line(f"{one.project_id} {one.finding_id}: {one.reason}; kept that of the {one.kept}")
        if report.migrated_from:
            out.line(f"documents were brought here from schema {report.migrated_from}")


def say_salvaged(out: Output, report: SalvageReport) -> None:
    """Say what was saved."""
    for damage in report.damages:
        out.line(damage)
    for project_id, sections in report.lost.items():
        out.line(f"lost of {project_id}: {describe_counts(sections)}")
    out.line(f"{report.path}: {describe_counts(report.records)} saved")


def say_verified(out: Output, path: Path, report: VerifyReport) -> None:
    """Say what an intact backup holds."""
    with out.report():
        manifest = report.manifest
        out.line(f"{path} is intact: {len(manifest.projects):,} projects, {describe_counts(report.records)}")
        out.line(
            f"made {manifest.created_at} of a {manifest.source} store, schema {manifest.schema_version}, id {manifest.id}"
        )


# -- `findings copy`: a whole installation moved into another store ---------------------------------------


if TYPE_CHECKING:
    from findings_orm.backup import CopyReport

_SIGNALS = (signal.SIGINT, *SIGNALS)


@command(
    "copy",
    "findings copy sqlite:///findings.db postgresql://user@host/findings --migrate",
    "findings copy sqlite:///findings.db postgresql://user@host/findings --follow",
)
def copy(
    ctx: typer.Context,
    source: Annotated[str, typer.Argument(metavar="SOURCE-URL", help="The store to copy.")],
    target: Annotated[
        str, typer.Argument(metavar="TARGET-URL", help="Where to; its tables have to exist, or --migrate.")
    ],
    projects: Projects = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Write over projects of the target that differ.")
    ] = False,
    migrate: Migrate = False,
    follow: Annotated[
        bool,
        typer.Option(
            "--follow", help="Catch up with what changes, until Ctrl-C or SIGTERM; then a last time, and end."
        ),
    ] = False,
    every: Annotated[float, typer.Option("--every", metavar="SECONDS", help="How often to catch up.")] = 5.0,
    yes: Yes = False,
    form: AsJson = "text",
) -> None:
    """Copy all projects into another store of any kind, and compare both sides.

    Each project is written in one transaction and compared by the digests of all its records before it is committed. Run it
    again to go on where a copy was cut short.

    To switch over with little downtime: copy with --follow, wait until it is in step, stop what writes to the source, press
    Ctrl-C, and let the applications use the target when the command has ended.
    """
    backup = load_backup_library()
    if source == target:
        raise UsageError("SOURCE-URL and TARGET-URL are the same")
    if replace:
        confirm(f"this replaces projects of {shown_url(target)} that differ", yes=yes)
    out = session_of(ctx).out
    quiet = session_of(ctx).quiet
    with (
        Session(source, quiet=quiet).store() as here,
        Session(target, quiet=quiet).store(create=True, migrate=migrate) as there,
        Tracker(out, "copy") as tracker,
    ):
        report = backup.copy_store(
            here,
            there,
            projects=split(projects) if projects else None,
            replace=replace,
            follow=_Following(out, every) if follow else None,
            progress=tracker,
        )
    out.answer(form, report, lambda: _say_copied(out, report, follow=follow))


class _Following:
    """Says how far a copy is, waits, and ends with the first Ctrl-C (or SIGTERM); a second one interrupts."""

    def __init__(self, out: Output, every: float) -> None:
        self._out = out
        self._every = every
        self._ending = threading.Event()
        self._before: dict[int, Any] = {}

    def __call__(self, report: CopyReport) -> bool:
        if not self._before:
            self._before = {number: signal.signal(number, self._end_following) for number in _SIGNALS}
        self._out.note(
            f"in step: pass {report.passes} took {report.last_pass_seconds:.1f} s; Ctrl-C makes a last one and ends"
        )
        return not self._ending.wait(self._every)

    def _end_following(self, number: int, frame: FrameType | None) -> None:
        self._ending.set()
        for each, handler in self._before.items():
            signal.signal(each, handler)


def _say_copied(out: Output, report: CopyReport, *, follow: bool) -> None:
    with out.report():
        out.line(
            f"{len(report.states):,} projects are the same on both sides: {describe_counts(report.records)}"
        )
        removed = f", {len(report.removed):,} removed" if report.removed else ""
        out.line(
            f"{len(report.copied):,} copied, {len(report.same):,} were there{removed}, in {report.seconds:,.1f} s"
        )
        if follow:
            out.line(f"the last of {report.passes:,} passes took {report.last_pass_seconds:,.1f} s")
