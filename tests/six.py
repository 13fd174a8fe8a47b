"""Adapters with the six methods of `StoragePort` and nothing else."""

from __future__ import annotations

import json
import pathlib
from typing import Any

from findings_orm import SCHEMA_VERSION, validate_finding
from findings_orm.imports.intake import current_document
from findings_orm.layout import atomic_write, check_store_layout
from findings_orm.query import time_key


class DictAdapter:
    """Findings in a dictionary."""

    def __init__(self) -> None:
        self.projects: dict[str, dict[str, str]] = {}

    def atomic_write(self, path: pathlib.Path, data: dict[str, Any]) -> None:
        atomic_write(path, data)

    def validate_store_layout(self, path: pathlib.Path) -> bool:
        return not check_store_layout(path)

    def get_schema_version(self) -> str:
        return SCHEMA_VERSION

    def save_finding(self, finding: dict[str, Any]) -> None:
        document = validate_finding(current_document(finding))
        self.projects.setdefault(document["project_id"], {})[document["id"]] = json.dumps(document)

    def list_findings(self, project_id: str) -> list[dict[str, Any]]:
        found = map(json.loads, self.projects.get(project_id, {}).values())
        return sorted(found, key=lambda each: (time_key(each["created_at"]), each["id"]))

    def delete_project(self, project_id: str) -> None:
        self.projects.pop(project_id, None)
