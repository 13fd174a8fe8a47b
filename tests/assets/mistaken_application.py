"""A small application with sixteen mistakes. The line above each says what mypy and pyright call it."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from findings_orm import ApplicationStore, FindingDocument, FindingInput, FindingQuery, open_storage
from findings_orm.orm import Finding

URL = "sqlite:///findings.db"


def open_stores() -> list[ApplicationStore]:
    # expected: mypy call-arg, pyright reportCallIssue
    first = open_storage(URL, migrat=True)
    # expected: mypy arg-type, pyright reportArgumentType
    second = open_storage(URL, synchronous="OF")
    return [first, second]


def show_finding(finding: FindingDocument) -> None:
    # expected: mypy typeddict-item, pyright reportGeneralTypeIssues
    print(finding["title"], finding["severty"])
    # expected: mypy operator, pyright reportOptionalOperand
    print(finding["cvss"] + 1)


def scan_config() -> FindingInput:
    # expected: mypy typeddict-item, pyright reportReturnType
    return {"detector_id": "scan.house", "title": "Debug mode", "severity": "urgent"}


def import_scan(store: ApplicationStore) -> None:
    # expected: mypy dict-item, pyright reportArgumentType
    store.ingest("acme-api", [{"title": 1}])
    # expected: mypy arg-type, pyright reportArgumentType
    store.ingest("acme-api", [scan_config()], on_invalid="quarantene")


def open_again(store: ApplicationStore) -> None:
    # expected: mypy arg-type, pyright reportArgumentType
    worst = store.find(FindingQuery(project_id="acme-api", sort="-sevrity"))
    for finding in worst.items:
        # expected: mypy arg-type, pyright reportArgumentType
        store.set_status("acme-api", finding["id"], "opn", actor="ana")
    # expected: mypy arg-type, pyright reportArgumentType
    with store.joined("a session"):
        store.save_findings(worst.items)


def query_models(session: Session) -> str:
    # expected: mypy operator, pyright reportOperatorIssue
    worst = select(Finding).where(Finding.severity >= 3)
    # expected: mypy operator, pyright reportOperatorIssue
    worst = worst.where(Finding.severity < "urgent")
    # expected: mypy arg-type, pyright reportArgumentType
    worst = worst.where(Finding.tags.has(79))
    # expected: mypy list-item, pyright reportArgumentType
    worst = worst.where(Finding.cwe_ids.has_any(["CWE-79"]))
    finding = session.scalars(worst).one()
    # expected: mypy attr-defined, pyright reportAttributeAccessIssue
    finding.tags.append("seen")
    # expected: mypy return-value, pyright reportReturnType
    return finding.id
