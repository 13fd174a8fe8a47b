"""What changed since an earlier backup: the store and that backup, both sorted by key, read side by side."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from findings_orm.backup.chains import Chain, Cursor, Survey
from findings_orm.backup.lines import pack
from findings_orm.backup.manifest import State
from findings_orm.backup.progress import Progress
from findings_orm.backup.sections import BATCH, SECTIONS, Key, Tally, project_head, section_lines
from findings_orm.backup.writer import Writer
from findings_orm.records import Records, batches


def write_changes(writer: Writer, unit: Records, chain: Chain, newest: Survey, progress: Progress) -> None:
    """Write what the projects of the manifest have that the chain does not have, and what they no longer have.

    A project with the revision that the newest backup has is the same and is not read.
    """
    known = {one for one, revision in newest.revisions.items() if revision and revision == unit.revision(one)}
    before = Cursor(chain.rows(skip=known))
    for project_id in writer.manifest.projects:
        writer.begin(project_head(unit, project_id))
        for number, section in enumerate(SECTIONS):
            if project_id in known:
                writer.end_section(newest.states[project_id][section], known=False)
            else:
                state = _write_section(writer, unit, before.section(project_id, number), progress)
                writer.end_section(state)
    before.finish()


def _write_section(
    writer: Writer, unit: Records, before: Iterator[tuple[Key, bytes]], progress: Progress
) -> State:
    """Write the changes of the section that is open; return what the section has now."""
    project, section = writer.open_section
    old = next(before, None)
    tally = Tally()
    for lines in section_lines(unit, project, section):
        changes = []
        for key, line in lines:
            while old is not None and old[0] < key:
                changes.append(pack({"removed": old[0]}))
                old = next(before, None)
            if old is not None and old[0] == key:
                if old[1] != line[:-1]:
                    changes.append(line)
                old = next(before, None)
            else:
                changes.append(line)
        tally.add([line for _, line in lines])
        writer.add(changes)
        if section == "findings":
            progress.add(len(lines))
    if old is not None:
        for rest in batches(itertools.chain([old], before), BATCH):
            writer.add([pack({"removed": key}) for key, _ in rest])
    return tally.state
