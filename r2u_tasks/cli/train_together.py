"""One process of a distributed training; started by ``torchrun``, not by hand.

    torchrun --nproc-per-node 2 -m r2u_tasks.cli.train_together -d people.yaml --run-id june
    r2u train -d people.yaml --run-id june

See ``docs/distributed.md``.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch
from torch import distributed

from r2u_tasks.cli.console import root_folder
from r2u_tasks.stages.train import train_together


def main() -> None:
    """Join the team that the environment describes and train."""
    parser = argparse.ArgumentParser(prog="train_together", description=__doc__)
    parser.add_argument("-d", "--dataset", required=True, help="dataset declaration")
    parser.add_argument("--root", type=Path, help="workspace that every process sees")
    parser.add_argument("--run-id", required=True, help="the same for `r2u train` afterwards")
    arguments = parser.parse_args()
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        train_together(
            run_id=arguments.run_id,
            dataset=arguments.dataset,
            root_uri=str(root_folder(arguments.dataset, arguments.root)),
        )
    finally:
        distributed.destroy_process_group()


if __name__ == "__main__":
    main()
