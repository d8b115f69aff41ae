"""Mount options decode as the OCI specification says, and later ones win."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.kernel import mount as mnt
from sampan.runtime import mountoptions


def test_flags_data_and_propagation_are_told_apart() -> None:
    decoded = mountoptions.decode(["nosuid", "noexec", "mode=755", "size=65536k", "rslave"])
    assert decoded.flags == mnt.MS_NOSUID | mnt.MS_NOEXEC
    assert decoded.data == "mode=755,size=65536k"
    assert decoded.spread == mnt.MS_SLAVE | mnt.MS_REC


def test_a_later_option_undoes_an_earlier_one() -> None:
    decoded = mountoptions.decode(["ro", "noatime", "rw", "atime"])
    assert decoded.flags == 0
    assert decoded.add == 0
    assert decoded.clear & mnt.MOUNT_ATTR_RDONLY


def test_recursive_attributes_are_kept_apart_from_plain_ones() -> None:
    decoded = mountoptions.decode(["rbind", "ro", "rnosuid"])
    assert decoded.bind
    assert decoded.add == mnt.MOUNT_ATTR_RDONLY
    assert decoded.deep_add == mnt.MOUNT_ATTR_NOSUID


@pytest.mark.parametrize("option", ["rro", "rnoexec", "rnodev", "rrw"])
def test_r_forms_never_reach_the_file_system(option: str) -> None:
    assert mountoptions.decode([option]).data == ""


@given(st.lists(st.sampled_from([*mountoptions.FLAGS, *mountoptions.PROPAGATION, "rro", "uid=3"])))
def test_an_attribute_is_never_both_set_and_cleared(options: list[str]) -> None:
    decoded = mountoptions.decode(options)
    assert not decoded.add & decoded.clear & ~mnt.MOUNT_ATTR__ATIME
    assert not decoded.deep_add & decoded.deep_clear & ~mnt.MOUNT_ATTR__ATIME
