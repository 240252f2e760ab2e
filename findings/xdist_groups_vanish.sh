#!/usr/bin/env bash
# Guess: tests with the same @pytest.mark.xdist_group run in one worker under `--dist loadgroup`, whatever the version of
#        pytest; where a plugin does not work with it, it says so.
# Found: pytest-xdist 3.8.0 writes a group's name into an item's `_nodeid`, and pytest 9.2.0 has its node ids elsewhere: the tests
#        of a group are spread over the workers, and nothing says so. With pytest 9.1.1 they are not.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cat >"$work/test_group.py" <<'PYTHON'
import time

import pytest


@pytest.mark.parametrize("nth", range(6))
@pytest.mark.xdist_group("together")
def test_in_the_group(nth):
    time.sleep(0.2)
PYTHON

workers() {
    python3 -m venv "$work/$1"
    "$work/$1/bin/pip" install --quiet --disable-pip-version-check "pytest==$1" pytest-xdist==3.8.0
    (cd "$work" && "$work/$1/bin/python" -m pytest -p no:cacheprovider -n 2 --dist loadgroup -v test_group.py) |
        grep PASSED | grep -o 'gw[0-9]' | sort -u | wc -l
}

before=$(workers 9.1.1)
after=$(workers 9.2.0)
echo "six tests of one group ran on $before worker with pytest 9.1.1, on $after with pytest 9.2.0"
[ "$before" = 1 ] && [ "$after" = 2 ] || {
    echo "this is no longer so"
    exit 1
}
