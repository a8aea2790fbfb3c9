"""The planted data set of ``benchmarks.planted``, as the tests of the stages start from it."""

import sys

import pytest

from benchmarks.planted import RECORDS_EACH, write_data_set
from r2u_tasks.stages.classify import classify_data
from r2u_tasks.stages.train import train_ready_model


@pytest.fixture(scope="module")
def plant(tmp_path_factory):
    """Make it in a folder of its own, classified and with a model; return dataset and root."""
    homes = []

    def make(*, model=True, records_each=RECORDS_EACH):
        home = tmp_path_factory.mktemp("planted")
        sys.path.insert(0, str(home))
        sys.modules.pop("planted_net", None)
        homes.append(str(home))
        declaration = write_data_set(home, records_each=records_each)
        place = {"dataset": str(declaration), "root_uri": str(home / "root")}
        classify_data(run_id="c", **place)
        if model:
            train_ready_model(run_id="t", **place)
        return place

    yield make
    for home in homes:
        sys.path.remove(home)
