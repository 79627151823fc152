"""Profile bundles in any browser: this machine serves a page, whoever opens it runs the models and sends the times."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import socket
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args
from urllib.parse import urlsplit

import numpy as np
import segno
import uvicorn

from devices import sessions
from devices.bench import DeviceLost
from devices.browser import assets
from devices.browser.facts import Facts, describe
from devices.browser.server import Site
from devices.browser.visit import DTYPES, Refused, Visit
from devices.listed import Listed
from devices.parities import sample
from devices.records import Profile, Provider
from devices.requests import Request
from devices.sessions import Failed, Source, Stopped
from toolkit.bundle import artifact_path, open_bundle
from toolkit.errors import DeviceError, UserError, unknown_name
from toolkit.files import sha256
from toolkit.progress import console

PROVIDERS: tuple[Provider, ...] = get_args(Provider)
#: As many threads as ONNX Runtime Web takes of its own accord, at most.
MOST_THREADS = 4
TICK_S = 0.2
LOOPBACK = "127.0.0.1"
CERTIFICATE, CERTIFICATE_KEY = "HANDHELD_TLS_CERTIFICATE", "HANDHELD_TLS_KEY"


@dataclass(frozen=True)
class Patience:
    """Seconds of silence after which a page counts as gone: one in front, and one that said that it was closed."""

    silent_s: float = 30.0
    closed_s: float = 8.0


def announce(address: str) -> None:
    """Print the page's address, what it takes to open it on a phone, and on a terminal its QR code."""
    console.print("open this page in the browser to measure:", highlight=False)
    console.print(address, highlight=False, soft_wrap=True, markup=False)
    url = urlsplit(address)
    if url.hostname == LOOPBACK:
        hint = f"on an Android phone on a cable, after `adb reverse tcp:{url.port} tcp:{url.port}`; else see --lan"
    elif url.scheme == "http":
        hint = f"without a certificate ({CERTIFICATE}) browsers have one thread and no WebGPU or WebNN there"
    else:
        hint = ""
    if hint:
        console.print(hint, highlight=False, soft_wrap=True, markup=False)
    if console.is_terminal:
        drawn = io.StringIO()
        segno.make(address, error="l").terminal(drawn, compact=True)
        console.file.write(drawn.getvalue())


def profile_browser(
    bundles: Sequence[Path],
    request: Request,
    announce: Callable[[str], None] = announce,
    patience: Patience = Patience(),
) -> Profile:
    """Time the ONNX artifacts of `bundles` in the browsers that open the page, each in a session of its own.

    It ends when one visitor has finished and no other is under way; the records of all are given. Raises `CheckFailed`
    on a changed bundle, `UserError` on an unknown provider or where ONNX Runtime Web is not to be had, `DeviceError`
    where nobody came within `request.wait_s` or nothing could be run, `DeviceLost` where the page went away.
    """
    asked, tls = _asked(request.which), _tls()
    sources = _sources(bundles)
    web = assets.assets()
    files, inputs = _files(sources)

    def begin(visit: Visit, facts: Facts) -> None:
        _begin(visit, facts, site, request, sources, asked, web.version)

    runtime = {name: web.folder / name for name in assets.FILES}
    site = Site(files, runtime, inputs, begin, request.wait_s, patience.closed_s)
    asyncio.run(_serve(site, request, announce, patience, tls))
    return _result(site, request)


def list_browser() -> list[Listed]:
    """Any browser; it is always there, though what it runs may still be to fetch."""
    state = problem()
    system = "any phone's or computer's" if state is None else f"any; {state}"
    return [Listed("browser", "browser", "a browser that opens the page", system, "ready")]


def problem() -> str | None:
    """What is still to be done before a browser can be used, in words; None where nothing is."""
    own = assets.named()
    if own is not None:
        return None if own.exists() else f"{assets.VARIABLE}={own} is not there"
    if assets.cached() is None:
        return f"onnxruntime-web {assets.VERSION} is fetched from the npm registry at first use (33 MB)"
    return None


def _asked(which: str | None) -> list[Provider] | None:
    """The providers that the user named; None for all that a browser has."""
    if which is None:
        return None
    known = {str(provider): provider for provider in PROVIDERS}
    found = []
    for name in which.split(","):
        if name not in known:
            raise unknown_name("provider of browser:PROVIDER", name, known)
        found.append(known[name])
    return list(dict.fromkeys(found))


def _sources(bundles: Sequence[Path]) -> list[Source]:
    """Every artifact of ONNX Runtime; raises `UserError` for a bundle without one."""
    found = []
    for place, bundle in enumerate(bundles):
        manifest = open_bundle(bundle)
        mine = [
            Source(place, bundle, manifest, artifact.target, artifact_path(bundle, artifact))
            for artifact in manifest.artifacts
            if artifact.target.split("-")[0] in ("onnx", "ort")
        ]
        if not mine:
            raise UserError(
                f"{bundle}: has no ONNX artifact, and browsers run no other; export with --target onnx-fp32"
            )
        found += mine
    return found


def _files(sources: Sequence[Source]) -> tuple[dict[str, Path | bytes], dict[str, Any]]:
    """All files that the page may ask for, by hash; and of each bundle, its inputs as the page is told of them."""
    files: dict[str, Path | bytes] = {sha256(source.path): source.path for source in sources}
    inputs: dict[str, Any] = {}
    for source in sources:
        if str(source.bundle) in inputs:
            continue
        told = inputs[str(source.bundle)] = []
        found = sample(source.bundle, source.manifest)
        for name, array in (*found.inputs.items(), *found.expected.items()):
            if str(array.dtype) not in DTYPES:
                raise UserError(f"{source.bundle}: '{name}' is {array.dtype}, which pages do not hold; export another")
        for name, array in found.inputs.items():
            content = np.ascontiguousarray(array, DTYPES[str(array.dtype)]).tobytes()
            digest = hashlib.sha256(content).hexdigest()
            files[digest] = content
            told.append({"name": name, "dtype": str(array.dtype), "shape": list(array.shape), "file": digest})
    return files, inputs


def _begin(
    visit: Visit,
    facts: Facts,
    site: Site,
    request: Request,
    sources: Sequence[Source],
    asked: Sequence[Provider] | None,
    version: str,
) -> None:
    """Plan a visitor's session: every artifact by every provider that was asked for, or that the browser has.

    One that was asked for and is not there is a failure of the session.
    """
    offers = {offer.provider: offer for offer in facts.offers}
    providers = asked or [provider for provider in PROVIDERS if provider in offers]
    if not providers:
        raise Refused(422, "this browser has no WebAssembly, so nothing can be run in it")
    pairs = [(provider, source) for provider in providers for source in sources]
    plan = sessions.plan(describe(facts), [s for _, s in pairs], _threads(facts, request), request.schedule)
    candidates = [
        planned.model_copy(
            update={"unit": p, "obtained": offers[p].obtained if p in offers else None},
        )
        for planned, (p, _) in zip(plan.candidates, pairs, strict=True)
    ]
    versions = {**plan.versions, "onnxruntime-web": version}
    plan = plan.model_copy(update={"candidates": candidates, "versions": versions})
    # a second phone of the same kind goes on with a session of its own
    taken = [other.session.plan.session for other in site.visits.values() if other.is_under_way]
    visit.start(plan, [s for _, s in pairs], facts, version, request.journal, request.resume, taken)
    for number, planned in enumerate(visit.session.plan.candidates):
        if planned.unit not in offers and visit.session.of(Failed, number) is None:
            reason = f"{planned.target}: this browser offers no {planned.unit} on this page"
            visit.session.add(Failed(candidate=number, reason=reason))


def _threads(facts: Facts, request: Request) -> int:
    """Threads of the processor's runtime; raises `Refused` for more than the page can have."""
    cores = facts.cores or 1
    most = cores if facts.isolated else 1
    if request.threads is None:
        return min(MOST_THREADS, -(-cores // 2), most)
    if request.threads > most:
        why = f"this device has {cores} cores" if facts.isolated else "a page that is not isolated has one thread"
        raise Refused(422, f"--threads {request.threads}: {why}")
    return request.threads


def lan_address() -> str:
    """This machine's address in the local network; no packet is sent. Raises `UserError` where it has none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # an address for documentation: only the route to it is looked up
            return str(probe.getsockname()[0])
        except OSError as error:
            raise UserError("--lan: this machine is in no network; leave it out") from error


def _tls() -> dict[str, str]:
    """The user's own certificate and key, as uvicorn names them; empty where none are named."""
    certificate, key = os.environ.get(CERTIFICATE), os.environ.get(CERTIFICATE_KEY)
    if not certificate and not key:
        return {}
    if not certificate or not key:
        raise UserError(f"{CERTIFICATE} and {CERTIFICATE_KEY}: name both files, or neither")
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(certificate, key, password="")
    except OSError as error:
        reason = str(error.strerror or error)
        raise UserError(
            f"{certificate}, {key}: no PEM certificate and its key without a password ({reason})"
        ) from error
    return {"ssl_certfile": certificate, "ssl_keyfile": key}


async def _serve(
    site: Site, request: Request, announce: Callable[[str], None], patience: Patience, tls: dict[str, str]
) -> None:
    """Serve until the visits are over; what is unfinished then stays in the store."""
    host = lan_address() if request.lan else LOOPBACK
    with socket.create_server((host, 0)) as listening:
        config = uvicorn.Config(
            site.app(),
            log_level="critical",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=3,
            limit_concurrency=256,
            **tls,  # type: ignore[arg-type]
        )
        server = uvicorn.Server(config)
        port = listening.getsockname()[1]
        announce(f"{'https' if tls else 'http'}://{host}:{port}/open/{site.token}")
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        try:
            await _wait(site, request, patience, serving)
        finally:
            for visit in site.visits.values():
                visit.stop()
            server.should_exit = True
            await serving


async def _wait(site: Site, request: Request, patience: Patience, serving: asyncio.Task[None]) -> None:
    """Until one visitor is done, or all are lost, and none is under way; or nobody came in time."""
    loop = asyncio.get_running_loop()
    opened = loop.time()
    while not serving.done():
        slept = loop.time()
        await asyncio.sleep(TICK_S)
        late = loop.time() - slept - TICK_S
        if site.stopped or site.error is not None or request.journal.stopped:
            return
        visits = list(site.visits.values())
        for visit in visits:
            visit.bear_with(late)
            allowed = patience.silent_s if visit.patience is None else visit.patience
            if visit.is_under_way and loop.time() - visit.heard > allowed:
                visit.lose("browser: the page was closed or is silent")
        if any(visit.is_under_way for visit in visits):
            continue
        if any(visit.state != "new" for visit in visits) or loop.time() - opened > request.wait_s:
            return


def _result(site: Site, request: Request) -> Profile:
    """What all visitors found together."""
    if site.error is not None:
        raise site.error
    if site.stopped or request.journal.stopped:
        raise Stopped
    over = [visit for visit in site.visits.values() if visit.state in ("done", "lost")]
    if not over:
        why = f"the last visitor was refused: {site.refused}" if site.refused else "nobody opened the page"
        raise DeviceError(f"browser: {why} within {request.wait_s:g} s; start again, or wait longer with --wait")
    profiles = [visit.profile for visit in over if visit.profile is not None]
    errors = [visit.error for visit in over if visit.error is not None]
    failures = [failure for error in errors if isinstance(error, DeviceLost) for failure in error.failures]
    if not profiles:
        message = "; ".join(map(str, errors))
        raise DeviceLost(message, failures) if failures else DeviceError(message)
    return Profile(
        records=[record for profile in profiles for record in profile.records],
        failures=[failure for profile in profiles for failure in profile.failures] + failures,
        errors=[f"browser: {error}" for error in errors if not isinstance(error, DeviceLost)],
    )
