"""A search that kills its own process in its third transaction, before the commit.

Python's path must have this folder and the root of the project.
"""

import os
import signal
import sys

import conftest

from results.store import Store
from search.controllers import make_controller
from search.loop import search
from search.networks import NetworkProposals, Networks
from search.runner import local_runner
from space.budget import Budget
from space.cost_table import CostTable
from space.files import make_space


def main(path: str) -> None:
    space = make_space(conftest.WIDE)
    proposals = NetworkProposals(space, CostTable(space), Budget.parse("2GFLOPs"))
    store = Store(path)
    commits = []

    def before(statement: str) -> None:
        if statement == "COMMIT":
            commits.append(statement)
            if len(commits) == 3:
                os.kill(os.getpid(), signal.SIGKILL)

    store._database.set_trace_callback(before)
    search(
        make_controller("evolution", proposals, 1, population=10, tournament=4),
        local_runner(conftest.Target(proposals)),
        store,
        Networks(proposals),
        evaluations=40,
        batch=8,
        origin="evolution",
    )


if __name__ == "__main__":
    main(sys.argv[1])
