"""Each patch of a defect fits the code; in tests/simulation/test_defects.py the simulator finds them."""

from __future__ import annotations

import pytest

from gexec import native
from laboratory import defects
from laboratory.defects import PutBack

pytestmark = pytest.mark.skipif(native.in_use(), reason="a patch needs the source of what it changes")


@pytest.mark.parametrize("defect", defects.ALL, ids=lambda defect: defect.name)
def test_patch_fits(defect: PutBack) -> None:
    right = getattr(defect.owner, defect.method)
    with defects.put_in(defect):
        assert getattr(defect.owner, defect.method) is not right
    assert getattr(defect.owner, defect.method) is right
