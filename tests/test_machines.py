"""A run of several machines: two starts of torchrun that know each other's address."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import Command, assert_same_run
from services import free_port

SMALL = ("data=digits", "model.hidden_dims=[8]", "trainer.max_epochs=2", "seed=0")


@pytest.mark.slow
def test_two_machines_make_the_run_of_two_processes(train: Command, tmp_path: Path) -> None:
    words = (*SMALL, "accelerator=multi_node", "accelerator.accelerator=cpu", "trainer.threads=1")
    start = ("torch.distributed.run", "--nnodes=2", "--nproc-per-node=1")
    address = ("--master-addr=127.0.0.1", f"--master-port={free_port()}")
    processes = [
        subprocess.Popen(
            [
                *(sys.executable, "-m", *start, *address, f"--node-rank={machine}"),
                *("-m", "vae_lightning.train", *words, "hydra.run.dir=machines"),
            ],
            cwd=tmp_path,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for machine in range(2)
    ]
    shown = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "".join(shown)
    words = (*SMALL, "accelerator=ddp_cpu", "trainer.threads=1", "hydra.run.dir=processes")
    done = train(*words, cwd=tmp_path, anew=True)
    assert done.returncode == 0, done.stderr
    assert_same_run(tmp_path / "machines", tmp_path / "processes")
