"""What a browser tells of itself, checked, and the device that it makes. What it does not tell stays unknown."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import Field, StringConstraints

from devices.records import Device, Obtained, Provider
from toolkit.schema import StrictModel

#: One line of printable text: what comes from a page is shown in a terminal.
Text = Annotated[str, StringConstraints(max_length=300, pattern=r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]*$")]
#: One that becomes part of a device's name, for which stores have a column.
Short = Annotated[Text, StringConstraints(max_length=80)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]

#: What graphics processors call themselves that are played by the processor.
SOFTWARE = ("swiftshader", "llvmpipe", "lavapipe", "softpipe", "software", "basic render")
#: What Android's emulator calls itself.
EMULATORS = ("sdk_gphone", "google_sdk", "android sdk built for")
#: The browsers' own names in user agents; the first that fits is the one, since many also name Chrome or Safari.
BROWSERS = (
    ("Edge", r"Edg(?:A|iOS)?/([\d.]+)"),
    ("Opera", r"OPR/([\d.]+)"),
    ("Samsung Internet", r"SamsungBrowser/([\d.]+)"),
    ("Firefox", r"(?:Firefox|FxiOS)/([\d.]+)"),
    ("Chrome", r"(?:HeadlessChrome|Chrome|CriOS)/([\d.]+)"),
    ("Safari", r"Version/([\d.]+).*Safari/"),
)
SYSTEMS = (
    ("iOS", r"\((?:iPhone|iPod)[^)]*? OS ([\d_]+)"),
    ("iPadOS", r"\(iPad[^)]*? OS ([\d_]+)"),
    ("Android", r"Android ([\d.]+)"),
    ("Windows", r"Windows NT ([\d.]+)"),
    ("macOS", r"Mac OS X ([\d_.]+)"),
    ("ChromeOS", r"CrOS \S+ ([\d.]+)"),
    ("Linux", r"Linux()"),
)


class Adapter(StrictModel):
    """A graphics processor as WebGPU describes it; browsers leave much of it empty."""

    vendor: Text = ""
    architecture: Text = ""
    device: Text = ""
    description: Text = ""
    fallback: bool = False

    @property
    def is_software(self) -> bool:
        """Whether the processor plays it."""
        return self.fallback or any(word in str(self).lower() for word in SOFTWARE)

    def __str__(self) -> str:
        return " ".join(filter(None, (self.vendor, self.architecture, self.device, self.description)))


class Offer(StrictModel):
    """One provider that the browser has. `unit` is the kind of unit that WebNN gave a context for."""

    provider: Provider
    adapter: Adapter | None = None
    unit: Text | None = None

    @property
    def obtained(self) -> Obtained | None:
        return "emulated" if self.adapter is not None and self.adapter.is_software else None


class Facts(StrictModel):
    """What the page found. `clock_ms` is the smallest step of its clock, `model` as user-agent client hints have it."""

    user_agent: Text
    platform: Short | None = None
    platform_version: Short | None = None
    model: Short | None = None
    cores: Annotated[int, Field(ge=1, le=4096)] | None = None
    device_memory_gib: Positive | None = None
    charging: bool | None = None
    battery: Annotated[float, Field(ge=0, le=1)] | None = None
    isolated: bool
    clock_ms: Positive
    offers: Annotated[list[Offer], Field(max_length=3)]

    def offer(self, provider: Provider) -> Offer | None:
        return next((offer for offer in self.offers if offer.provider == provider), None)


def describe(facts: Facts) -> Device:
    """The device behind a page. Browsers tell a model on Android only; elsewhere it is named by what they do tell."""
    browser, version = _first(BROWSERS, facts.user_agent) or ("unknown browser", "")
    told = _first(SYSTEMS, facts.user_agent) or ("unknown system", "")
    system = (facts.platform, facts.platform_version or "") if facts.platform else told
    phone = re.search(r"\((iPhone|iPad|iPod)", facts.user_agent)
    model = facts.model or (phone.group(1) if phone else f"{browser} on {system[0]}")
    return Device(
        kind="browser",
        name=f"{browser} on {system[0]}",
        model=model,
        system=" ".join(filter(None, system)),
        cores=facts.cores,
        memory_bytes=None,  # what browsers tell is rounded: it is among the details
        clock_mhz=None,
        temperature_c=None,
        others_share=None,
        charging=facts.charging,
        emulated=model.lower().startswith(EMULATORS),
        details=_details(facts, f"{browser} {version}".strip()),
    )


def _details(facts: Facts, browser: str) -> dict[str, str]:
    found = {
        "browser": browser,
        "user agent": facts.user_agent,
        "cross-origin isolated": "yes" if facts.isolated else "no",
        "clock resolution ms": f"{facts.clock_ms:g}",
    }
    if facts.device_memory_gib is not None:
        found["memory GiB, rounded by the browser"] = f"{facts.device_memory_gib:g}"
    if facts.battery is not None:
        found["battery"] = f"{facts.battery:.0%}"
    for offer in facts.offers:
        if offer.adapter is not None:
            found["GPU adapter"] = str(offer.adapter) or "not told"
        if offer.unit is not None:
            found["WebNN context"] = offer.unit
    return found


def _first(patterns: tuple[tuple[str, str], ...], text: str) -> tuple[str, str] | None:
    for name, pattern in patterns:
        found = re.search(pattern, text)
        if found:
            return name, found.group(1).replace("_", ".")
    return None
