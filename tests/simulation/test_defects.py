"""Classic defects, put back into the code: each is found within the number of seeds that it states."""

from __future__ import annotations

import pytest

from laboratory import defects
from laboratory.defects import PutBack


@pytest.mark.timeout(600)
@pytest.mark.parametrize("defect", defects.ALL, ids=lambda defect: defect.name)
def test_defect_is_found(defect: PutBack) -> None:
    number, wrong = defects.first_found(defect, defect.within)
    assert 0 < number <= defect.within, f"{defect.name} is not found in {defect.within} seeds"
    assert wrong


def test_defect_is_gone_after_the_test() -> None:
    [defect] = [each for each in defects.ALL if each.name == "forgotten epoch"]
    before = getattr(defect.owner, defect.method)
    with defects.put_in(defect):
        assert getattr(defect.owner, defect.method) is not before
    assert getattr(defect.owner, defect.method) is before


def test_a_patch_that_fits_nothing_is_refused() -> None:
    defect = defects.ALL[0]._replace(right="not in this method")
    with pytest.raises(ValueError, match="does not have"), defects.put_in(defect):
        pass
