"""All scenarios of faults of real daemons, and what they need of the machine."""

from __future__ import annotations

from laboratory.network import groups, namespaces
from laboratory.network.cuts import cuts
from laboratory.network.harms import harms
from laboratory.network.scenarios import FaultScenario
from laboratory.network.shortages import clock_missing, shortages

SCENARIOS = {scenario.name: scenario for scenario in (*harms(), *cuts(), *shortages())}
#: Those of the test suite: about four minutes.
QUICK = {
    "kill relay of leaf",
    "kill relay of inner",
    "kill relay of root",
    "kill spawner of deep",
    "kill starter of inner",
    "kill two adjacent inner nodes",
    "kill authd",
    "kill client",
    "stop relay of inner for a while",
    "stop relay of root for a while",
    "stop spawner of leaf for a while",
    "stop starter of deep for a while",
    "stop relay of inner",
    "stop client for a while",
    "stop authd for a while",
    "freeze inner",
    "freeze deep for a while",
    "terminate two daemons after a job",
    "restart inner, before connect",
    "restart inner, starting",
    "restart inner, streaming",
    "restart inner, stdin",
    "restart inner, ending",
    "restart root, streaming",
    "cut both inner",
    "cut to inner",
    "cut from deep",
    "cut both inner for a while",
    "cut into two parts",
    "5 % loss and 50 ms",
    "full disk",
    "no descriptors for relay",
    "no processes",
    "a clock -20 s off",
    "a clock -3600 s off",
}


def missing(scenario: FaultScenario) -> str:
    """Return why a scenario cannot run here, or ""."""
    texts = [namespaces.missing()]
    for need in scenario.needs:
        texts.append(clock_missing() if need == "faketime" else groups.missing(need))
    return next(filter(None, texts), "")
