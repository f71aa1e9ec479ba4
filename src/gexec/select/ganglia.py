"""Parses gmond's XML and selects the hosts that run gexec. Pure: bytes in, hosts out.

gmond sends one XML document that begins with its DTD: GANGLIA_XML, which contains CLUSTER (a gmetad's also
GRID), HOST and METRIC. This module is imported only when a gmond is queried, and the XML parser only when it
has answered.
"""

from __future__ import annotations

import math

from gexec import limits
from gexec.errors import GexecError
from gexec.select.nodes import folded

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

#: A host without a report for this long is down.
UP_WITHIN_S = 60
_NAME_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_")
#: Why hosts are not used; preceded by their number: "3 with an invalid name".
BROKEN_NAME = "with an invalid name"
BROKEN_ADDRESS = "with an invalid address, or none"
AGAIN = "listed again"
NO_AGE = "without the time of its last report"
SILENT = f"without a report for {UP_WITHIN_S} s"
SOURCE_SILENT = f"in a cluster whose source is silent for {UP_WITHIN_S} s"
UNTOLD = "without the metric gexec"
OFF = "with gexec = no in its gmond.conf"
_NEVER = math.inf


class AnswerError(GexecError):
    """A gmond's answer is unusable; the text is the reason."""


class GangliaHost:
    """One host in gmond's answer.

    Attributes:
        age_s: time since its last report, infinite if gmond does not give it.
        load: load_one - cpu_num, infinite if unknown.
        lack: why it is unusable (down, or does not run gexec); "" if it is usable.
    """

    __slots__ = ("address", "age_s", "lack", "load", "name")

    def __init__(self, name: str, address: str, age_s: float, load: float, lack: str) -> None:
        self.name = name
        self.address = address
        self.age_s = age_s
        self.load = load
        self.lack = lack

    @property
    def up(self) -> bool:
        """True if it reported recently. A host without a report time is down."""
        return self.age_s < UP_WITHIN_S


class Hosts:
    """The hosts of one answer, each name once (as DNS compares names), in the order of the answer.

    Attributes:
        hosts: hosts with a name and an address; of duplicates, the one that reported last.
        entries: how many there were in the answer.
        left_out: reason -> how many entries are not among ``hosts``.
    """

    __slots__ = ("_found", "entries", "left_out")

    def __init__(self) -> None:
        self._found: dict[str, GangliaHost] = {}
        self.entries = 0
        self.left_out: dict[str, int] = {}

    @property
    def hosts(self) -> list[GangliaHost]:
        """The hosts."""
        return list(self._found.values())

    def add(self, host: GangliaHost) -> None:
        """Add a host; of duplicates keep the one that reported last, then the usable one."""
        key = folded(host.name)
        other = self._found.get(key)
        if other is not None:
            self.leave_out(AGAIN)
            if (other.age_s, other.lack != "") <= (host.age_s, host.lack != ""):
                return
        self._found[key] = host

    def leave_out(self, reason: str) -> None:
        """Count an unused entry."""
        self.left_out[reason] = self.left_out.get(reason, 0) + 1

    def usable(self) -> list[GangliaHost]:
        """Return the hosts that are up and run gexec, the least loaded first, else in the answer's order."""
        return sorted([host for host in self.hosts if not host.lack], key=lambda host: host.load)

    def reasons(self) -> str:
        """Return how many entries are unusable, by reason: ``2 without a report for 60 s``; "" if none is."""
        counts = dict(self.left_out)
        for host in self.hosts:
            if host.lack:
                counts[host.lack] = counts.get(host.lack, 0) + 1
        return ", ".join([f"{count} {reason}" for reason, count in sorted(counts.items(), key=_most_first)])

    def lack(self) -> str:
        """Describe an answer without a usable host: how many it has, and why none is usable."""
        if not self.entries:
            return "lists no host: is it a deaf gmond, or a gmetad that sends summaries?"
        count = f"{self.entries} hosts" if self.entries > 1 else "1 host"
        return f"lists {count}, but none is up and runs gexec: {self.reasons()}"


def _most_first(counted: tuple[str, int]) -> tuple[int, str]:
    return -counted[1], counted[0]


def down(hosts: Iterable[GangliaHost]) -> set[str]:
    """Return the names (folded) and the addresses of hosts that are not up.

    The first label of a full name is included, so that node1 matches node1.cluster; but no name that a host
    which is up also has.
    """
    known: dict[bool, set[str]] = {True: set(), False: set()}
    for host in hosts:
        name = folded(host.name)
        known[host.up] |= {name, host.address.lower()}
        label = name.partition(".")[0]
        if not label.isdigit():
            known[host.up].add(label)
    return known[False] - known[True]


def parse(chunks: Iterable[bytes]) -> Hosts:
    """Return the hosts of a gmond's or gmetad's answer.

    Malformed entries are skipped and counted: devices report arbitrary names and numbers.

    Args:
        chunks: the document in pieces of any size.

    Raises:
        AnswerError: not XML, not gmond's, cut off, with entities, too deep, or too large. Exceptions of
            ``chunks`` pass through.
    """
    from xml.etree.ElementTree import ParseError

    from defusedxml.common import DefusedXmlException
    from defusedxml.ElementTree import DefusedXMLParser

    document = _Document()
    parser = DefusedXMLParser(target=document)  # refuses entities and external content
    silent_bytes = 0
    try:
        for chunk in _bounded(chunks):
            tags = document.tags
            parser.feed(chunk)
            # The parser keeps a tag until its end: a tag with millions of attributes takes 30 times its
            # length.
            silent_bytes = 0 if document.tags > tags else silent_bytes + len(chunk)
            if silent_bytes > limits.GMOND_TAG_MAX_BYTES:
                raise AnswerError(f"a tag of its XML is over {limits.GMOND_TAG_MAX_BYTES} bytes long")
        parser.close()
    except DefusedXmlException as error:
        raise AnswerError("its XML declares entities, which gmond's never does") from error
    except ParseError as error:
        raise AnswerError(f"its answer is not XML, or is cut off ({error})") from error
    except (LookupError, UnicodeError, ValueError) as error:
        raise AnswerError(f"its XML cannot be read ({error})") from error
    return document.hosts


def _bounded(chunks: Iterable[bytes]) -> Iterator[bytes]:
    size = 0
    for chunk in chunks:
        if not size and chunk.startswith(b"\x1f\x8b"):
            raise AnswerError("its answer is compressed: set gzip_output = no in its gmond.conf")
        size += len(chunk)
        if size > limits.GMOND_XML_MAX_BYTES:
            raise AnswerError(f"its answer is over {limits.GMOND_XML_MAX_BYTES} bytes")
        yield chunk


class _Document:
    """The parser's target: keeps the hosts and discards everything else."""

    def __init__(self) -> None:
        self.hosts = Hosts()
        self.tags = 0
        self._depth = 0
        self._local_time_s = _NEVER
        self._host: dict[str, str] | None = None
        self._metrics: dict[str, str] = {}

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        self.tags += 1
        self._depth += 1
        if self._depth > limits.GMOND_DEPTH_MAX:
            raise AnswerError(f"its XML is nested more than {limits.GMOND_DEPTH_MAX} deep")
        if tag == "METRIC":
            name = attributes.get("NAME", "")
            if name in ("gexec", "load_one", "cpu_num"):
                self._metrics[name] = attributes.get("VAL", "")
        elif tag == "HOST":
            if self.hosts.entries >= limits.RANKS_MAX:
                raise AnswerError(f"it names more than {limits.RANKS_MAX} hosts")
            self.hosts.entries += 1
            self._host = attributes
            self._metrics = {}
        elif tag == "CLUSTER":
            self._local_time_s = _seconds(attributes.get("LOCALTIME"))
        elif self._depth == 1 and tag != "GANGLIA_XML":
            raise AnswerError(f"its answer is {tag[:40]!r}, not GANGLIA_XML: is it a gmond?")

    def end(self, tag: str) -> None:
        self.tags += 1
        self._depth -= 1
        if tag == "HOST" and self._host is not None:
            self._finish(self._host)
            self._host = None
        elif tag == "CLUSTER":
            self._local_time_s = _NEVER

    def close(self) -> None:
        pass

    def _finish(self, host: dict[str, str]) -> None:
        name, address = host.get("NAME", ""), host.get("IP", "")
        if not is_name(name):
            self.hosts.leave_out(BROKEN_NAME)
            return
        if not is_address(address):
            self.hosts.leave_out(BROKEN_ADDRESS)
            return
        # gmetad repeats a silent source's last report: LOCALTIME does not change, and only TN grows. A gmond
        # whose clock was set back gives a time in the future, which is not an age.
        silent_s = _seconds(host.get("TN", "").removeprefix("-"))  # below 0: a clock was set back
        reported_s = abs(self._local_time_s - _seconds(host.get("REPORTED")))
        known = [age_s for age_s in (silent_s, reported_s) if math.isfinite(age_s)]
        age_s = max(known) if known else _NEVER
        metrics = self._metrics
        if not known:
            lack = NO_AGE
        elif age_s >= UP_WITHIN_S:
            lack = SOURCE_SILENT if reported_s < UP_WITHIN_S else SILENT
        elif metrics.get("gexec") != "ON":
            lack = OFF if "gexec" in metrics else UNTOLD
        else:
            lack = ""
        # One malformed node must not hide a cluster: nodes without a load come last.
        load = _number(metrics.get("load_one", "")) - _number(metrics.get("cpu_num", "1"))
        name = name.removesuffix(".")  # certificates are for names without it
        self.hosts.add(GangliaHost(name, address, age_s, load if math.isfinite(load) else math.inf, lack))


def is_name(text: str) -> bool:
    """True if the text can be a host's name: a name in DNS, or an IP address."""
    if not 0 < len(text) <= limits.NAME_MAX_BYTES:
        return False
    if ":" in text:
        return is_address(text)
    # Not "-rf", "..", "a..b": no resolver accepts them, and an option is not a name.
    labels = text.removesuffix(".").split(".")
    return _NAME_CHARACTERS.issuperset(text) and all(label and label[0] != "-" for label in labels)


def is_address(text: str) -> bool:
    """True if the text is an IP address; IPv6 with or without a zone."""
    from ipaddress import ip_address

    try:
        return len(text) <= limits.NAME_MAX_BYTES and text.isascii() and bool(ip_address(text))
    except ValueError:
        return False


def _seconds(text: str | None) -> float:
    """Return whole seconds, infinite if it is not a number."""
    if text and text.isascii() and text.isdigit() and len(text) <= 18:
        return int(text)
    return _NEVER


def _number(text: str) -> float:
    """Return a metric's number, NaN or infinite if it is not a number."""
    try:
        return float(text) if len(text) <= 40 else math.nan
    except ValueError:
        return math.nan
