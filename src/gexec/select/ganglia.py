"""What gmond says about its hosts, and which of them run gexec. Pure: bytes in, hosts out.

gmond sends one XML document with its DTD in front: GANGLIA_XML, in it CLUSTER (of a gmetad also
GRID), HOST and METRIC. Loaded only when a gmond is asked, and its parser when one has answered.
"""

from __future__ import annotations

import math

from gexec import limits
from gexec.errors import GexecError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

#: A host that gmond has not heard of for so long is down.
UP_WITHIN_S = 60
_NAME_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_:%")


class AnswerError(GexecError):
    """What a gmond sent cannot be used; the sentence says why."""


class Host:
    """One host as gmond sees it. ``load`` is load_one - cpu_num, infinite if gmond does not know it."""

    __slots__ = ("address", "age_s", "gexec", "load", "name", "up")

    def __init__(self, name: str, address: str, age_s: int, gexec: bool, load: float) -> None:
        self.name = name
        self.address = address
        self.age_s = age_s
        self.up = age_s < UP_WITHIN_S
        self.gexec = gexec
        self.load = load


class Hosts(list[Host]):
    """The hosts of an answer. ``malformed`` counts those left out: no usable name, address or time."""

    malformed = 0


def usable(hosts: Iterable[Host]) -> list[Host]:
    """Return the hosts that are up and run gexec, the least loaded first, equal ones as they came.

    Of a host named more than once (case and a trailing dot do not matter) the freshest entry counts.
    """
    freshest: dict[str, Host] = {}
    for host in hosts:
        key = host.name.lower().rstrip(".")
        known = freshest.get(key)
        if known is None or host.age_s < known.age_s:
            freshest[key] = host
    return sorted([host for host in freshest.values() if host.up and host.gexec], key=lambda host: host.load)


def down(hosts: Iterable[Host]) -> set[str]:
    """Return the names, in lower case, and the addresses of hosts that are not up.

    The first label of a full name counts too, so that node1 finds node1.cluster; but none that a
    host which is up has as well.
    """
    known: dict[bool, set[str]] = {True: set(), False: set()}
    for host in hosts:
        name = host.name.lower()
        known[host.up] |= {name, host.address.lower()}
        label = name.partition(".")[0]
        if not label.isdigit():
            known[host.up].add(label)
    return known[False] - known[True]


def parse(chunks: Iterable[bytes]) -> Hosts:
    """Return the hosts of a gmond's answer, in its order.

    Args:
        chunks: the document in pieces of any size.

    Raises:
        AnswerError: not XML, not gmond's, cut off, with entities, too deep, or too
            large. A malformed host is only counted. What ``chunks`` raises comes through.
    """
    from xml.etree.ElementTree import ParseError

    from defusedxml.common import DefusedXmlException
    from defusedxml.ElementTree import DefusedXMLParser

    document = _Document()
    parser = DefusedXMLParser(target=document)  # refuses entities and what stands elsewhere
    silent_bytes = 0
    try:
        for chunk in _bounded(chunks):
            tags = document.tags
            parser.feed(chunk)
            # A tag is kept until it ends: one with millions of attributes takes 30 times its length.
            silent_bytes = 0 if document.tags > tags else silent_bytes + len(chunk)
            if silent_bytes > limits.GMOND_TAG_MAX_BYTES:
                raise AnswerError(f"a tag of its XML is over {limits.GMOND_TAG_MAX_BYTES} bytes long")
        parser.close()
    except DefusedXmlException as error:
        raise AnswerError("its XML declares entities, which gmond's never does") from error
    except ParseError as error:
        raise AnswerError(f"its answer is no XML, or is cut off ({error})") from error
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
    """The parser's target: keeps the hosts, forgets everything else at once."""

    def __init__(self) -> None:
        self.hosts = Hosts()
        self.tags = 0
        self._depth = 0
        self._local_time_s: int | None = None
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
            if len(self.hosts) + self.hosts.malformed >= limits.RANKS_MAX:
                raise AnswerError(f"it names more than {limits.RANKS_MAX} hosts")
            self._host = attributes
            self._metrics = {}
        elif tag == "CLUSTER":
            self._local_time_s = _whole(attributes.get("LOCALTIME"))
        elif self._depth == 1 and tag != "GANGLIA_XML":
            raise AnswerError(f"its answer is {tag[:40]!r}, not GANGLIA_XML: is it a gmond?")

    def end(self, tag: str) -> None:
        self.tags += 1
        self._depth -= 1
        if tag == "HOST" and self._host is not None:
            host = self._finished(self._host)
            if host is None:
                self.hosts.malformed += 1
            else:
                self.hosts.append(host)
            self._host = None
        elif tag == "CLUSTER":
            self._local_time_s = None

    def close(self) -> None:
        pass

    def _finished(self, host: dict[str, str]) -> Host | None:
        """Return the host; None if its name, address or times cannot be used."""
        name, address = host.get("NAME", ""), host.get("IP", "")
        for text in (name, address):
            if not (text and len(text) <= limits.NAME_MAX_BYTES and _NAME_CHARACTERS.issuperset(text)):
                return None
        # TN goes on growing when a cluster's source is dead and its LOCALTIME stands still.
        tn, reported = _whole(host.get("TN")), _whole(host.get("REPORTED"))
        ages = [] if tn is None else [tn]
        if self._local_time_s is not None and reported is not None:
            ages.append(abs(self._local_time_s - reported))
        if not ages:
            return None
        metrics = self._metrics
        # One node's nonsense must not hide a cluster: whose load is not known comes last.
        load = _number(metrics.get("load_one", "")) - _number(metrics.get("cpu_num", "1"))
        load = load if math.isfinite(load) else math.inf
        return Host(name, address, max(ages), metrics.get("gexec") == "ON", load)


def _whole(text: str | None) -> int | None:
    """Return a whole number of seconds; None if the text is none."""
    if text is not None and text.isascii() and text.isdigit() and len(text) <= 18:
        return int(text)
    return None


def _number(text: str) -> float:
    """Return a metric's number, not finite if it is none."""
    try:
        return float(text) if len(text) <= 40 else math.nan
    except ValueError:
        return math.nan
