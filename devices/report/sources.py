"""What a report is about: run directories, bundles, and profiles from files and from a store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from devices import store
from devices.journal import Journal
from devices.records import Failure, ProfileRecord
from toolkit.bundle import MANIFEST, Manifest, open_bundle
from toolkit.errors import UserError
from toolkit.evaluation import AnyEvaluation, read_evaluation
from toolkit.limits import parse_json
from toolkit.schema import StrictModel, read_yaml, validate

STORE_ENDINGS = {".db", ".sqlite"}


class Header(BaseModel):
    """What the page shows of a recipe."""

    name: str
    description: str = ""


class Run(StrictModel):
    """What the page shows of a run directory."""

    path: Path
    recipe: Header
    evaluation: AnyEvaluation
    rows: list[dict[str, float]]

    @property
    def name(self) -> str:
        return self.recipe.name


@dataclass
class Sources:
    """Everything that was given, sorted by kind.

    `stored` are the sessions that came from a store, which may be many. `errors` are of devices that gave nothing.
    """

    runs: list[Run] = field(default_factory=list)
    bundles: list[Manifest] = field(default_factory=list)
    records: list[ProfileRecord] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    stored: set[str] = field(default_factory=set)


def collect(paths: Sequence[Path], store_url: str | None = None) -> Sources:
    """Sort the given paths by what they are, and read the store.

    Of a store it takes the sessions that measured one of the bundles among `paths`; all, where there is none. Raises
    `UserError` where a path is nothing of the kind, and where the store holds no such session.
    """
    found = Sources()
    stores = [] if store_url is None else [store_url]
    for path in paths:
        if (path / MANIFEST).is_file():
            found.bundles.append(open_bundle(path))
        elif (path / "recipe.yaml").is_file():
            found.runs.append(read_run(path))
        elif path.suffix == ".json" and path.is_file():
            profile = store.read_json(path)
            found.records += profile.records
            found.failures += profile.failures
            found.errors += profile.errors
        elif path.suffix in STORE_ENDINGS and path.is_file():
            stores.append(f"sqlite:///{path}")
        else:
            raise UserError(f"{path}: no run directory, bundle, profile store (.db) or .json file of profile records")
    for url in stores:
        _add_store(found, url)
    return found


def both(records: Sequence[ProfileRecord], failures: Sequence[Failure]) -> list[ProfileRecord | Failure]:
    """Records, then failures: what is asked of both has the same name."""
    return [*records, *failures]


def read_run(path: Path) -> Run:
    """A finished run; raises `UserError` where it was not finished."""
    try:
        rows = [parse_json(line) for line in (path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: the run is not finished; go on with `handheld distill ... --resume`") from error
    content = {"recipe": read_yaml(path / "recipe.yaml"), "evaluation": read_evaluation(path), "rows": rows}
    return validate(Run, {"path": path, **content}, str(path))


def _add_store(found: Sources, url: str) -> None:
    """Add a store's records and failures, but for the sessions that a file gave already."""
    if _is_missing(url):
        raise UserError(f"profile store {store.shown(url)}: no such file; name one with --store or HANDHELD_STORE")
    names = {bundle.name for bundle in found.bundles}
    known = {each.session for each in both(found.records, found.failures)}
    records, failures = store.load(url), Journal(url).failures()
    about = {each.session for each in both(records, failures) if not names or each.bundle in names} - known
    if not about and not known:
        which = f"nothing about {', '.join(sorted(names))}" if names else "no records"
        raise UserError(f"profile store {store.shown(url)}: holds {which}; measure with `handheld profile BUNDLE`")
    found.records += [record for record in records if record.session in about]
    found.failures += [failure for failure in failures if failure.session in about]
    found.stored |= about


def _is_missing(url: str) -> bool:
    """Whether the URL is of an SQLite file that is not there: to open it would make it."""
    try:
        parsed = make_url(url)
    except ArgumentError:
        return False
    return parsed.drivername.startswith("sqlite") and not Path(parsed.database or ".").is_file()
