"""What the results of one SARIF run refer to: rules, messages, levels, taxa and tables.

Sections (§) are those of the SARIF 2.1.0 specification (OASIS). Whatever has a wrong type counts as absent here:
the result itself is kept whole by the caller.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cached_property

from findings_orm.finding import MAX_NUMBER
from findings_orm.formats.paths import absolute_roots, canonical_path
from findings_orm.formats.sarif_values import (
    LEVELS,
    Tags,
    as_object,
    component_texts,
    detector_id,
    element_at,
    fill_placeholders,
    id_text,
    index_in,
    items,
    property_cwes,
    rule_id,
    text_of,
)
from findings_orm.formats.texts import (
    canonical_json,
    clone_json,
    limit_depth,
    replace_nul,
    unique_items,
    utc_time,
)
from findings_orm.formats.volatile import Splitter
from findings_orm.imports.scopes import category_of_id
from findings_orm.limits import DEFAULT, Limits, json_size

TABLES = (
    "addresses",
    "artifacts",
    "logicalLocations",
    "threadFlowLocations",
    "webRequests",
    "webResponses",
)
"""The arrays of a run whose elements a result refers to by index."""

RUN_PROPERTIES = (
    "columnKind",
    "defaultEncoding",
    "defaultSourceLanguage",
    "language",
    "newlineSequences",
    "originalUriBaseIds",
    "redactionTokens",
)
"""The properties of a run that say how to read its results, and that do not change from scan to scan."""

_REMEMBERED = 10_000

HELP_LIMIT = 2000
"""How long a rule's `help` may be (as JSON) to be kept with each of its results."""

_VOLATILE = (
    "baselineState",
    "guid",
    "hostedViewerUri",
    "provenance",
    "ruleIndex",
    "webRequest",
    "webResponse",
)
"""What of a result is of one scan: the comparison with an earlier one, GUIDs and times (§3.27.3, §3.48), where it is shown,
and what went over the wire. The rule is known by its id."""

_VOLATILE_ANYWHERE = ("executionTimeUtc", "index", "parentIndex", "threadId")
"""Times, and indexes into what the report lists: another file or rule in it makes them others."""

_CWE_GUID = "FFC64C90-42B6-44CE-8BEB-F6B7DAE649E5"
_CWE_IN_ID = re.compile(r"cwe[-_ ]?0*(\d+)", re.ASCII | re.IGNORECASE)


class Rule:
    """A reportingDescriptor (§3.49), with what its results need worked out once.

    Attributes:
        descriptor: the descriptor as it is in the report.
        extension: the index of the tool extension that defines it, or None for the driver.
        title: the short description, else the name, else "".
        tags: the tags of its property bag.
        cwes: the CWE numbers of its tags, its relationships and its `cwe` property.
        level: the level of its default configuration, or None.
    """

    def __init__(self, run: Run, descriptor: dict[str, object], extension: int | None) -> None:
        self.descriptor = descriptor
        self.extension = extension
        self.id = id_text(descriptor.get("id"))
        self.properties = as_object(descriptor.get("properties"))
        self.title = self._title_of_rule()
        self.tags = Tags(self.properties)
        targets = [as_object(relation.get("target")) for relation in items(descriptor.get("relationships"))]
        related = [number for target in targets for number in run.cwes_of(target)]
        self.cwes = [*self.tags.cwes, *related, *property_cwes(self.properties)]
        level = as_object(descriptor.get("defaultConfiguration")).get("level")
        self.level = level if level in LEVELS else None
        self.strings = as_object(descriptor.get("messageStrings"))
        self._run = run

    def _title_of_rule(self) -> str:
        short = text_of(self.descriptor.get("shortDescription"))
        name = self.descriptor.get("name")
        return short or (name if isinstance(name, str) and name.strip() else "")

    @cached_property
    def stored_size(self) -> int:
        """The size of what is kept with each result."""
        most = self._run.limits.max_document_bytes
        owner = {} if self.extension is None else component_texts(self._run.component(self.extension))
        return json_size(self.stored, most) + json_size(owner, most)

    @cached_property
    def stored(self) -> dict[str, object]:
        """What of the descriptor is kept with each result: all, except a `help` longer than `HELP_LIMIT`."""
        kept = clone_json(limit_depth(self.descriptor))
        if not isinstance(kept, dict):
            return {"id": self.id}
        if len(canonical_json(kept.get("help"))) > HELP_LIMIT:
            del kept["help"]
        for relation in items(kept.get("relationships")):
            if isinstance(relation.get("target"), dict):
                relation["target"] = self._run.name_taxon(relation["target"])
        return kept


class Run:
    """One run of a SARIF log (§3.14) without its results.

    Attributes:
        detector_id: the driver's name as a slug.
        category: what part of the project it is about (`automationDetails`), ``""`` where it does not say.
        stored: what of the run is kept with each result: the texts that describe the driver, and
            `RUN_PROPERTIES`.
        limits: how large a document may be.
        added: how much the last document has beside its result (`count_added`).
        tables: the tables of `TABLES`, as arrays or as objects whose names are indexes.
        roots: the absolute folders that paths are relative to (§3.14.14).
    """

    def __init__(self, properties: Mapping[str, object], limits: Limits = DEFAULT) -> None:
        self.limits = limits
        self.added = 0
        tool = as_object(properties.get("tool"))
        self.driver = as_object(tool.get("driver"))
        extensions = tool.get("extensions")
        self.extensions = [as_object(one) for one in extensions] if isinstance(extensions, list) else []
        taxonomies = properties.get("taxonomies")
        self.taxonomies = [as_object(one) for one in taxonomies] if isinstance(taxonomies, list) else []
        self.invocations = properties.get("invocations")
        self.tables = {name: properties[name] for name in TABLES if name in properties}
        name = self.driver.get("name")
        self.name = replace_nul(name) if isinstance(name, str) else ""
        self.detector_id = detector_id(self.driver)
        self.stored: dict[str, object] = {"tool": {"driver": component_texts(self.driver)}}
        kept = {
            key: limit_depth(properties[key], 90) for key in RUN_PROPERTIES if properties.get(key) is not None
        }
        self.stored.update(kept)
        self.category = category_of_id(as_object(properties.get("automationDetails")).get("id"))
        if self.category:
            self.stored["automationDetails"] = {"id": f"{self.category}/"}
        self._rules: dict[int | None, list[Rule]] = {}
        self._by_id: dict[int | None, dict[str, Rule]] = {}
        self._by_guid: dict[int | None, dict[str, Rule]] = {}
        self._found: dict[tuple[object, ...], Rule | None] = {}
        self.roots = absolute_roots(
            as_object(base).get("uri") for base in as_object(properties.get("originalUriBaseIds")).values()
        )
        self._root = _pattern_of_roots(self.roots)
        self.volatile = Splitter(_VOLATILE, _VOLATILE_ANYWHERE, ("properties",), self._lasting_text)
        self._size = json_size(self.stored, limits.max_document_bytes)
        self._sizes: dict[tuple[str, int], int] = {}

    def cut_roots(self, text: str) -> str:
        """Return a text without the absolute folders that paths are relative to."""
        return self._root.sub("", text) if self._root else text

    def _lasting_text(self, name: str, text: str) -> str:
        return canonical_path(text, self.roots) if name == "uri" else self.cut_roots(text)

    @property
    def tool_info(self) -> dict[str, object]:
        """The tool, as JSON: name, detector_id, version, information_uri, and whether the run succeeded.

        `successful` is False where an invocation says that it was not (§3.20.14), or tells of an error while it ran (§3.20.21);
        None where none says anything.
        """
        invocations = items(self.invocations)
        said = [one.get("executionSuccessful") for one in invocations]
        told = [note for one in invocations for note in items(one.get("toolExecutionNotifications"))]
        said += [False for note in told if note.get("level") == "error"]
        version = self.driver.get("semanticVersion") or self.driver.get("version")
        uri = self.driver.get("informationUri")
        return {
            "name": self.name,
            "detector_id": self.detector_id,
            "version": replace_nul(version) if isinstance(version, str) else None,
            "information_uri": replace_nul(uri) if isinstance(uri, str) else None,
            "successful": False if False in said else True if True in said else None,
        }

    @property
    def started_at(self) -> str:
        """When the scan began (§3.20.7), else when it ended; ``""`` where the report does not say."""
        invocations = items(self.invocations)
        for name in ("startTimeUtc", "endTimeUtc"):
            times = [time for one in invocations if (time := utc_time(one.get(name)))]
            if times:
                return min(times)
        return ""

    def size_of_element(self, table: str, index: int, entry: Mapping[str, object]) -> int:
        """Return the size of an element of a table."""
        if (table, index) not in self._sizes:
            self._sizes[table, index] = json_size(entry, self.limits.max_document_bytes)
        return self._sizes[table, index]

    def count_added(self, rule: Rule | None, *parts: object) -> None:
        """Count what a document has beside its result: the rule, the run, and other parts.

        Raises:
            StorageValidationError: it is more than a document may have.
        """
        most = self.limits.max_document_bytes
        self.added = (
            self._size + (rule.stored_size if rule else 0) + sum(json_size(part, most) for part in parts)
        )
        self.limits.check(
            "max_document_bytes", self.added, "the size of what a document has of its rule and run, in bytes"
        )

    def component(self, extension: int | None) -> dict[str, object]:
        """Return the driver, or an extension."""
        return self.driver if extension is None else self.extensions[extension]

    def rule_of(self, result: Mapping[str, object]) -> Rule | None:
        """Return the rule that a result is about (§3.27.5 to §3.27.7)."""
        reference = as_object(result.get("rule"))
        index = index_in(result.get("ruleIndex"))
        return self.find_rule(
            {**reference, "id": rule_id(result), "index": reference.get("index") if index is None else index}
        )

    def find_rule(self, reference: Mapping[str, object]) -> Rule | None:
        """Look up a rule (§3.52.3).

        An index counts where the id agrees with it (equal, or the first parts of a hierarchical id), then a
        guid, then the id, whole or without its last parts.
        """
        component = as_object(reference.get("toolComponent"))
        key = (
            id_text(reference.get("id")),
            index_in(reference.get("index")),
            id_text(reference.get("guid")),
            index_in(component.get("index")),
            id_text(component.get("guid")),
            id_text(component.get("name")),
        )
        if key not in self._found:
            if len(self._found) >= _REMEMBERED:
                self._found.clear()
            self._found[key] = self._search_rule(*key)
        return self._found[key]

    def _search_rule(
        self, name: str, index: int | None, guid: str, extension: int | None, owner: str, owner_name: str
    ) -> Rule | None:
        place = self._find_extension(extension, owner, owner_name)
        rules = self.rules(place)
        if index is not None and index < len(rules) and _ids_agree(name, rules[index].id):
            return rules[index]
        if guid:
            same = self._rules_by_guid(place).get(guid.lower())
            if same:
                return same
        others = [other for other in (None, *range(len(self.extensions))) if other != place]
        parts = name.split("/", 50) if name else []
        for length in range(len(parts), 0, -1):
            for owner_index in (place, *others):
                found = self._rules_by_id(owner_index).get("/".join(parts[:length]))
                if found:
                    return found
        return None

    def _rules_by_id(self, extension: int | None) -> dict[str, Rule]:
        if extension not in self._by_id:
            self._by_id[extension] = {rule.id: rule for rule in reversed(self.rules(extension))}
        return self._by_id[extension]

    def _rules_by_guid(self, extension: int | None) -> dict[str, Rule]:
        if extension not in self._by_guid:
            rules = reversed(self.rules(extension))
            self._by_guid[extension] = {id_text(rule.descriptor.get("guid")).lower(): rule for rule in rules}
        return self._by_guid[extension]

    def rules(self, extension: int | None) -> list[Rule]:
        """Return the rules of a component."""
        if extension not in self._rules:
            array = self.component(extension).get("rules")
            descriptors = array if isinstance(array, list) else []
            self._rules[extension] = [Rule(self, as_object(one), extension) for one in descriptors]
        return self._rules[extension]

    def _find_extension(self, index: int | None, guid: str, name: str) -> int | None:
        """Look up a tool component (§3.54.2); a name alone, which the standard only shows, counts too."""
        if index is not None and index < len(self.extensions):
            return index
        for wanted, key in ((guid, "guid"), (name, "name")):
            for position, extension in enumerate(self.extensions):
                if wanted and id_text(extension.get(key)).lower() == wanted.lower():
                    return position
        return None

    def level(self, result: Mapping[str, object], rule: Rule | None) -> str:
        """Return the level that applies to a result (§3.27.10); an unknown level counts as absent.

        A run with one invocation needs no `invocationIndex` to say which one it was.
        """
        if result.get("kind", "fail") not in ("fail", None):
            return "none"
        if result.get("level") in LEVELS:
            return str(result["level"])
        return self._overriding_level(result, rule) or (rule.level if rule else None) or "warning"

    def _overriding_level(self, result: Mapping[str, object], rule: Rule | None) -> str | None:
        for override in items(self.invocation(result).get("ruleConfigurationOverrides")):
            descriptor = as_object(override.get("descriptor"))
            level = as_object(override.get("configuration")).get("level")
            same = self.find_rule(descriptor) is rule if rule else descriptor.get("id") == rule_id(result)
            if same and level in LEVELS:
                return str(level)
        return None

    def invocation(self, result: Mapping[str, object]) -> dict[str, object]:
        """Return the invocation that produced a result (§3.48.6), or an empty one."""
        index = index_in(as_object(result.get("provenance")).get("invocationIndex"))
        only = isinstance(self.invocations, list) and len(self.invocations) == 1
        return element_at(self.invocations, 0 if index is None and only else index)

    def message(self, message: object, rule: Rule | None) -> str:
        """Return the text of a message (§3.11.7), with its arguments.

        Braces are only unescaped in a text that has arguments or is looked up by its id: without them, tools
        write braces as they are.
        """
        text = text_of(message)
        given = as_object(message)
        arguments = given.get("arguments")
        name = given.get("id")
        if text:
            return fill_placeholders(text, arguments, self.limits) if isinstance(arguments, list) else text
        if not isinstance(name, str):
            return ""
        component = self.component(rule.extension if rule else None)
        for known in (
            rule.strings if rule else {},
            component.get("globalMessageStrings"),
            self.global_strings,
        ):
            found = text_of(as_object(known).get(name))
            if found:
                return fill_placeholders(found, arguments, self.limits)
        return ""

    @property
    def global_strings(self) -> dict[str, object]:
        """The driver's messages that are no rule's (§3.19.22)."""
        return as_object(self.driver.get("globalMessageStrings"))

    def _find_taxonomy(self, reference: Mapping[str, object]) -> dict[str, object]:
        """Return the taxonomy that a reference to a taxon names, as far as the report has it (§3.19.3)."""
        owner = as_object(reference.get("toolComponent"))
        found = element_at(self.taxonomies, owner.get("index"))
        wanted = id_text(owner.get("guid")).lower()
        same = [one for one in self.taxonomies if wanted and id_text(one.get("guid")).lower() == wanted]
        return found or (same[0] if same else {})

    def name_taxon(self, reference: Mapping[str, object]) -> dict[str, object]:
        """Return a reference to a taxon by id and name instead of indexes, which only this report explains."""
        taxonomy = self._find_taxonomy(reference)
        taxon = element_at(taxonomy.get("taxa"), reference.get("index"))
        owner = {
            key: value for key, value in as_object(reference.get("toolComponent")).items() if key != "index"
        }
        result = {key: value for key, value in reference.items() if key not in ("index", "toolComponent")}
        for key in ("id", "guid"):
            if key in taxon:
                result.setdefault(key, taxon[key])
        for key in ("name", "guid"):
            if key in taxonomy:
                owner.setdefault(key, taxonomy[key])
        return {**result, "toolComponent": owner} if owner else result

    def cwes_of(self, reference: Mapping[str, object]) -> list[int]:
        """Return the CWE numbers that a reference to a taxon stands for (§3.27.8, §3.49.15)."""
        taxon = self.name_taxon(reference)
        owner = as_object(taxon.get("toolComponent"))
        name = id_text(taxon.get("id"))
        numbers = _CWE_IN_ID.findall(name)
        of_cwe = id_text(owner.get("guid")).upper() == _CWE_GUID or _is_cwe(id_text(owner.get("name")))
        if not numbers and of_cwe and name.isascii() and name.isdigit():
            numbers = [name]
        if owner and not of_cwe:
            return []
        return unique_items(int(one) for one in numbers if len(one) <= 10 and 1 <= int(one) <= MAX_NUMBER)


def _pattern_of_roots(roots: list[str]) -> re.Pattern[str] | None:
    """Return what finds absolute folders in texts, as URIs and as paths of either kind of system."""
    folders = [root.removeprefix("file://") for root in roots if root.startswith("file:///")]
    plain = [folder[1:] if re.match(r"/[A-Z]:", folder) else folder for folder in folders]
    found = {*roots, *plain, *(path.replace("/", "\\") for path in plain if path[1] == ":")}
    if not found:
        return None
    longest_first = sorted(found, key=lambda path: (-len(path), path))
    return re.compile(rf"(?<![\w./\\~%-])(?:{'|'.join(map(re.escape, longest_first))})")


def _ids_agree(name: str, known: str) -> bool:
    return not name or not known or name == known or name.startswith(f"{known}/")


def _is_cwe(name: str) -> bool:
    return re.match(r"cwe\b", name, re.IGNORECASE) is not None
