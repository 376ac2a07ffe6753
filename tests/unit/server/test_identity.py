"""Acting as another user."""

from __future__ import annotations

import os
import pwd
import subprocess
import threading

import pytest

from pghaven.errors import NotFound, NotPermitted
from pghaven.server.identity import OsUser, acting_as, child_identity, find_owner, get_os_user, must_switch
from tests.support.waiting import PATIENCE_SECONDS

root_only = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can take another user's identity"),
]
plain_only = pytest.mark.skipif(os.geteuid() == 0, reason="root may do everything")


def nobody() -> OsUser:
    return get_os_user("nobody")


def thread_users() -> list[str]:
    with open("/proc/thread-self/status", encoding="ascii") as file:
        return next(line.split()[1:] for line in file if line.startswith("Uid:"))


def test_users_are_found_by_name_and_by_what_they_own() -> None:
    me = pwd.getpwuid(os.geteuid()).pw_name
    assert get_os_user(me).uid == os.geteuid()
    assert not must_switch(get_os_user(me))
    assert not must_switch(None)
    owner = find_owner("/")
    assert owner is not None
    assert owner.name == "root"
    with pytest.raises(NotFound, match='"nosuchuser"'):
        get_os_user("nosuchuser")


class TestRoot:
    pytestmark = root_only

    def test_identity_is_taken_and_given_back(self) -> None:
        user = nobody()
        with acting_as(user):
            assert (os.geteuid(), os.getegid()) == (user.uid, user.gid)
        assert (os.geteuid(), os.getegid()) == (0, 0)

    def test_identity_is_given_back_after_an_error(self) -> None:
        with pytest.raises(RuntimeError, match="inside"), acting_as(nobody()):
            raise RuntimeError("inside")
        assert os.geteuid() == 0

    def test_other_threads_stay_who_they_are(self) -> None:
        seen: list[list[str]] = []
        entered, looked = threading.Event(), threading.Event()

        def look() -> None:
            assert entered.wait(PATIENCE_SECONDS)
            seen.append(thread_users())
            looked.set()

        thread = threading.Thread(target=look)
        thread.start()
        with acting_as(nobody()):
            entered.set()
            assert looked.wait(PATIENCE_SECONDS)
            mine = thread_users()
        thread.join()
        assert seen == [["0", "0", "0", "0"]]
        assert mine == ["0", str(nobody().uid), "0", str(nobody().uid)]

    def test_children_are_the_other_user_for_good(self) -> None:
        done = subprocess.run(
            ["id", "-u", "-n"], capture_output=True, text=True, check=True, **child_identity(nobody())
        )
        assert done.stdout.strip() == "nobody"


@plain_only
def test_only_root_becomes_somebody_else() -> None:
    with pytest.raises(NotPermitted, match="only root can"), acting_as(get_os_user("root")):
        pass
    with pytest.raises(NotPermitted, match="only root can"):
        child_identity(get_os_user("root"))
